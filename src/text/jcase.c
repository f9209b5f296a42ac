/* jcase: upper, lower, title and their kin over whole strings, with Unicode's special cases. */
#include <utf8proc.h>

#include "text/jcase_table.h"
#include "text/jinja_priv.h"

/* What simple one-to-one mapping does not give; see jcase_table.h. */
static const uint32_t *jcase_special(uint32_t cp, int column) {
    size_t low = 0, high = ARRAY_LEN(jcase_table);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (jcase_table[mid].cp == cp) return jcase_table[mid].to[column];
        if (jcase_table[mid].cp < cp) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return NULL;
}

enum { COLUMN_UPPER, COLUMN_TITLE, COLUMN_LOWER, COLUMN_FOLD };

static void jcase_put(JOut *out, uint32_t cp, int column, bool marked) {
    if (cp < 0x80) {
        bool is_upper = cp >= 'A' && cp <= 'Z', is_lower = cp >= 'a' && cp <= 'z';
        if (column >= COLUMN_LOWER && is_upper) cp += 32;
        if (column <= COLUMN_TITLE && is_lower) cp -= 32;
        jout_byte(out, (char)cp, marked);
        return;
    }
    const uint32_t *special = jcase_special(cp, column);
    if (special != NULL && special[0] != 0) {
        for (int i = 0; i < 3 && special[i] != 0; i++) jout_cp(out, special[i], marked);
        return;
    }
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    c = column == COLUMN_UPPER   ? utf8proc_toupper(c)
        : column == COLUMN_TITLE ? utf8proc_totitle(c)
                                 : utf8proc_tolower(c);
    jout_cp(out, (uint32_t)c, marked);
}

typedef struct CaseKind {
    bool upper, lower, title;
} CaseKind;

static CaseKind jcase_kind(uint32_t cp) {
    if (cp < 0x80) return (CaseKind){cp >= 'A' && cp <= 'Z', cp >= 'a' && cp <= 'z', false};
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    if (c == UTF8PROC_CATEGORY_LT) return (CaseKind){.title = true};
    CaseKind kind = {c == UTF8PROC_CATEGORY_LU, c == UTF8PROC_CATEGORY_LL, false};
    /* Other_Lowercase and Other_Uppercase */
    kind.lower |= cp == 0xaa || cp == 0xba || (cp >= 0x2b0 && cp <= 0x2b8) || cp == 0x2c0 ||
                  cp == 0x2c1 || (cp >= 0x2e0 && cp <= 0x2e4) || cp == 0x345 || cp == 0x37a ||
                  (cp >= 0x1d2c && cp <= 0x1d6a) || cp == 0x1d78 ||
                  (cp >= 0x1d9b && cp <= 0x1dbf) || cp == 0x2071 || cp == 0x207f ||
                  (cp >= 0x2090 && cp <= 0x209c) || (cp >= 0x2170 && cp <= 0x217f) ||
                  (cp >= 0x24d0 && cp <= 0x24e9);
    kind.upper |= (cp >= 0x2160 && cp <= 0x216f) || (cp >= 0x24b6 && cp <= 0x24cf);
    return kind;
}

static bool jcase_is_cased(uint32_t cp) {
    CaseKind kind = jcase_kind(cp);
    return kind.upper || kind.lower || kind.title;
}

static bool jcase_is_ignorable(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK || cp == '\'' || cp == '.' ||
           cp == ':' || cp == 0xb7 || cp == 0x2018 || cp == 0x2019 || cp == 0x2024 || cp == 0x2027;
}

/* Capital sigma is written as final sigma behind a letter and before none. */
static bool jcase_final_sigma(const JStr *s, size_t from, size_t to) {
    bool before = false, after = false;
    for (size_t i = from; i > 0 && !before;) {
        do i--;
        while (i > 0 && ((unsigned char)s->ptr[i] & 0xc0) == 0x80);
        size_t at = i;
        uint32_t cp = jstr_next(s, &at);
        if (jcase_is_ignorable(cp)) continue;
        before = jcase_is_cased(cp);
        if (!before) return false;
    }
    for (size_t i = to; i < s->len;) {
        uint32_t cp = jstr_next(s, &i);
        if (jcase_is_ignorable(cp)) continue;
        after = jcase_is_cased(cp);
        break;
    }
    return before && !after;
}

static void jcase_put_lower(JOut *out, const JStr *s, size_t from, size_t to, uint32_t cp) {
    if (cp == 0x3a3) {
        jout_cp(out, jcase_final_sigma(s, from, to) ? 0x3c2 : 0x3c3, jstr_marked(s, from));
    } else {
        jcase_put(out, cp, COLUMN_LOWER, jstr_marked(s, from));
    }
}

Status jcase_map(JRun *run, const JStr *s, JCase how, JVal *out) {
    JOut text = {.run = run};
    bool in_word = false;
    TRY(jrun_step(run, (int64_t)(s->len / 4)));
    for (size_t i = 0; i < s->len && !text.failed;) {
        size_t from = i;
        uint32_t cp = jstr_next(s, &i);
        bool marked = jstr_marked(s, from);
        switch (how) {
            case JCASE_UPPER: jcase_put(&text, cp, COLUMN_UPPER, marked); break;
            case JCASE_LOWER: jcase_put_lower(&text, s, from, i, cp); break;
            case JCASE_FOLD: jcase_put(&text, cp, COLUMN_FOLD, marked); break;
            case JCASE_SWAP:
                if (jcase_kind(cp).upper) {
                    jcase_put_lower(&text, s, from, i, cp);
                } else if (jcase_kind(cp).lower) {
                    jcase_put(&text, cp, COLUMN_UPPER, marked);
                } else {
                    jout_sub(&text, s, from, i);
                }
                break;
            case JCASE_TITLE:
            case JCASE_CAPITALIZE:
                if (how == JCASE_CAPITALIZE ? from > 0 : in_word) {
                    jcase_put_lower(&text, s, from, i, cp);
                } else {
                    jcase_put(&text, cp, COLUMN_TITLE, marked);
                }
                in_word = jcase_is_cased(cp);
                break;
        }
    }
    TRY(jout_finish(&text, out));
    out->s->markup = s->markup;
    return OK;
}

bool jcase_is_upper(const JStr *s) {
    bool any = false;
    for (size_t i = 0; i < s->len;) {
        CaseKind kind = jcase_kind(jstr_next(s, &i));
        if (kind.lower || kind.title) return false;
        any |= kind.upper;
    }
    return any;
}

bool jcase_is_lower(const JStr *s) {
    bool any = false;
    for (size_t i = 0; i < s->len;) {
        CaseKind kind = jcase_kind(jstr_next(s, &i));
        if (kind.upper || kind.title) return false;
        any |= kind.lower;
    }
    return any;
}

bool jcase_is_title(const JStr *s) {
    bool any = false, in_word = false;
    for (size_t i = 0; i < s->len;) {
        CaseKind kind = jcase_kind(jstr_next(s, &i));
        if (kind.upper || kind.title) {
            if (in_word) return false;
            in_word = any = true;
        } else if (kind.lower) {
            if (!in_word) return false;
            any = true;
        } else {
            in_word = false;
        }
    }
    return any;
}
