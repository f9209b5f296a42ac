/* jwrap: the wordwrap filter: Python's textwrap.wrap over each line. */
#include "text/jfilters_priv.h"

typedef struct Wrap {
    JRun *run;
    int64_t width;
    bool break_long, break_hyphens;
    const JStr *separator;
    JOut out;
    bool any; /* whether a line was written */
} Wrap;

/* White space of textwrap: ASCII only. */
static bool jwrap_blank(char c) {
    return c == ' ' || (c >= 9 && c <= 13);
}

static uint32_t jwrap_cp(const JStr *s, size_t i) {
    return i < s->len ? jstr_next(s, &i) : 0;
}

static size_t jwrap_before(const JStr *s, size_t i) {
    do i--;
    while (i > 0 && ((unsigned char)s->ptr[i] & 0xc0) == 0x80);
    return i;
}

/* Letters of a word for hyphens: \w without digits. */
static bool jwrap_letter(uint32_t cp) {
    return jstr_is_word(cp) && !(cp >= '0' && cp <= '9');
}

static bool jwrap_word_punct(uint32_t cp) {
    return jstr_is_word(cp) || cp == '!' || cp == '"' || cp == '\'' || cp == '&' || cp == '.' ||
           cp == ',' || cp == '?';
}

/* Whether a hyphenated word may be broken behind the hyphen at i: two letters (or a letter, a
 * hyphen and a letter) before, and a letter, maybe a hyphen, and a letter behind. */
static bool jwrap_hyphen(const JStr *s, size_t from, size_t i) {
    if (i == from) return false;
    size_t a = jwrap_before(s, i);
    if (a == from || !jwrap_letter(jwrap_cp(s, a))) return false;
    size_t b = jwrap_before(s, a);
    bool before = jwrap_letter(jwrap_cp(s, b));
    if (!before && jwrap_cp(s, b) == '-' && b > from)
        before = jwrap_letter(jwrap_cp(s, jwrap_before(s, b)));
    size_t c = i + 1, next = c;
    if (!before || c >= s->len || !jwrap_letter(jstr_next(s, &next))) return false;
    if (jwrap_cp(s, next) == '-') next++;
    return next < s->len && jwrap_letter(jwrap_cp(s, next));
}

/* An em-dash: two or more hyphens between a word and a word character. */
static size_t jwrap_dashes(const JStr *s, size_t from, size_t i) {
    size_t end = i;
    while (end < s->len && s->ptr[end] == '-') end++;
    if (end - i < 2 || i == from || !jwrap_word_punct(jwrap_cp(s, jwrap_before(s, i)))) return 0;
    return end < s->len && jstr_is_word(jwrap_cp(s, end)) ? end : 0;
}

/* The end of the chunk (a word, a part of one, or white space) that begins at from. */
static size_t jwrap_chunk(const Wrap *wrap, const JStr *s, size_t from) {
    size_t i = from;
    if (jwrap_blank(s->ptr[i])) {
        while (i < s->len && jwrap_blank(s->ptr[i])) i++;
        return i;
    }
    if (!wrap->break_hyphens) {
        while (i < s->len && !jwrap_blank(s->ptr[i])) i++;
        return i;
    }
    size_t dashes = from > 0 ? jwrap_dashes(s, 0, from) : 0;
    if (dashes > 0) return dashes;
    for (; i < s->len && !jwrap_blank(s->ptr[i]); i++) {
        if (s->ptr[i] != '-') continue;
        if (jwrap_hyphen(s, from, i)) return i + 1;
        if (i > from && jwrap_dashes(s, from, i) > 0) return i;
    }
    return i;
}

static int64_t jwrap_len(const JStr *s, size_t from, size_t to) {
    return (int64_t)jstr_count(s->ptr + from, to - from);
}

/* Writes the chunks from chunk[a] to chunk[b] as one line, without white space at its end. */
static void jwrap_line(Wrap *wrap, const JStr *s, size_t from, size_t to) {
    while (to > from && jwrap_blank(s->ptr[to - 1])) to--;
    if (to == from) return;
    if (wrap->any) jout_str(&wrap->out, wrap->separator);
    wrap->any = true;
    jout_sub(&wrap->out, s, from, to);
}

/* Where a chunk that is longer than a line is cut. */
static size_t jwrap_cut(const Wrap *wrap, const JStr *s, size_t from, size_t end, int64_t room) {
    if (room < 1) room = 1;
    if (!wrap->break_long) return from;
    size_t cut = from;
    for (int64_t k = 0; k < room && cut < end; k++) jstr_next(s, &cut);
    if (!wrap->break_hyphens || jwrap_len(s, from, end) <= room) return cut;
    for (size_t i = cut; i > from; i--) {
        if (s->ptr[i - 1] != '-' || i - 1 == from) continue;
        bool other = false;
        for (size_t k = from; k < i - 1; k++) other |= s->ptr[k] != '-';
        if (other) return i;
        break;
    }
    return cut;
}

static Status jwrap_paragraph(Wrap *wrap, const JStr *s) {
    size_t i = 0;
    bool any_line = false;
    while (i < s->len) {
        TRY(jrun_step(wrap->run, 1));
        /* a line does not begin with white space, unless it is the first */
        size_t end = jwrap_chunk(wrap, s, i);
        if (any_line && jwrap_blank(s->ptr[i])) i = end;
        size_t start = i;
        int64_t used = 0;
        while (i < s->len) {
            end = jwrap_chunk(wrap, s, i);
            int64_t len = jwrap_len(s, i, end);
            if (used + len > wrap->width) {
                if (len > wrap->width) {
                    size_t cut = jwrap_cut(wrap, s, i, end, wrap->width - used);
                    if (cut == i && i == start) cut = end;
                    i = cut;
                }
                break;
            }
            used += len;
            i = end;
        }
        bool before = wrap->any;
        wrap->any = before;
        size_t to = i;
        while (to > start && jwrap_blank(s->ptr[to - 1])) to--;
        if (to > start) {
            jwrap_line(wrap, s, start, to);
            any_line = true;
        }
    }
    return OK;
}

Status jwrap_filter(JRun *run, const JVal *arg, JVal *out) {
    Wrap wrap = {.run = run, .out = {.run = run}};
    JVal lines;
    TRY(jfilters_int(run, arg[1], 79, &wrap.width));
    TRY(jfilters_flag(run, arg[2], true, &wrap.break_long));
    TRY(jfilters_str(run, arg[3].tag == J_NONE ? (JVal){0} : arg[3], "\n", &wrap.separator));
    TRY(jfilters_flag(run, arg[4], true, &wrap.break_hyphens));
    if (arg[0].tag == J_UNDEFINED) return jval_undefined_fail(run, arg[0]);
    if (arg[0].tag != J_STR)
        return jrun_raise(run, "AttributeError", "'%s' object has no attribute 'splitlines'",
                          jval_type_name(arg[0]));
    TRY(jmethods_str_do_splitlines(run, arg[0].s, false, &lines));
    for (size_t i = 0; i < lines.list->n; i++) {
        if (wrap.width <= 0)
            return jrun_raise(run, "ValueError", "invalid width %lld (must be > 0)",
                              (long long)wrap.width);
        if (i > 0) jout_str(&wrap.out, wrap.separator);
        wrap.any = false;
        TRY(jwrap_paragraph(&wrap, lines.list->v[i].s));
    }
    return jout_finish(&wrap.out, out);
}
