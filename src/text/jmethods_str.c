/* jmethods_str: Python's methods of str. Positions count code points; results keep the marks. */
#include <utf8proc.h>

#include "text/jmethods_priv.h"

static Status jmethods_str_want(JRun *run, JVal v, const char *what, const JStr **out) {
    *out = v.s;
    if (v.tag == J_STR) return OK;
    return jrun_raise(run, "TypeError", "%s must be str, not %s", what, jval_type_name(v));
}

/* A part of s, appended to a list. */
static Status jmethods_str_push(JRun *run, JVal list, const JStr *s, size_t from, size_t to) {
    JVal part;
    TRY(jstr_sub(run, s, from, to, &part));
    return jval_list_push(run, list.list, part);
}

static bool jmethods_str_space_at(const JStr *s, size_t i, size_t *next) {
    *next = i;
    return jstr_is_space(jstr_next(s, next));
}

static size_t jmethods_str_before(const JStr *s, size_t i) {
    do i--;
    while (i > 0 && ((unsigned char)s->ptr[i] & 0xc0) == 0x80);
    return i;
}

Status jmethods_str_do_split_words(JRun *run, const JStr *s, int64_t max, JVal *out) {
    TRY(jval_list_new(run, 4, out));
    size_t i = 0, next;
    for (int64_t n = 0;; n++) {
        while (i < s->len && jmethods_str_space_at(s, i, &next)) i = next;
        if (i >= s->len) return OK;
        size_t from = i;
        if (max >= 0 && n >= max) {
            return jmethods_str_push(run, *out, s, from, s->len);
        }
        while (i < s->len && !jmethods_str_space_at(s, i, &next)) i = next;
        TRY(jmethods_str_push(run, *out, s, from, i));
    }
}

static Status jmethods_str_rsplit_words(JRun *run, const JStr *s, int64_t max, JVal *out) {
    size_t to = s->len, next;
    TRY(jval_list_new(run, 4, out));
    for (int64_t n = 0;; n++) {
        while (to > 0 && jmethods_str_space_at(s, jmethods_str_before(s, to), &next))
            to = jmethods_str_before(s, to);
        if (to == 0) return OK;
        size_t from = to;
        if (max >= 0 && n >= max) {
            return jmethods_str_push(run, *out, s, 0, to);
        }
        while (from > 0 && !jmethods_str_space_at(s, jmethods_str_before(s, from), &next))
            from = jmethods_str_before(s, from);
        TRY(jmethods_str_push(run, *out, s, from, to));
        to = from;
    }
}

static void jmethods_str_flip(JList *list) {
    for (size_t i = 0; i < list->n / 2; i++) {
        JVal v = list->v[i];
        list->v[i] = list->v[list->n - 1 - i];
        list->v[list->n - 1 - i] = v;
    }
}

static Status jmethods_str_split_args(JRun *run, const JVal *arg, const JStr **sep, int64_t *max) {
    *sep = NULL;
    *max = -1;
    if (arg[1].tag != J_MISSING && arg[1].tag != J_NONE) {
        if (arg[1].tag != J_STR)
            return jrun_raise(run, "TypeError", "must be str or None, not %s",
                              jval_type_name(arg[1]));
        *sep = arg[1].s;
        if ((*sep)->len == 0) return jrun_raise(run, "ValueError", "empty separator");
    }
    if (arg[2].tag != J_MISSING) TRY(jnum_index(run, arg[2], max));
    return jrun_step(run, (int64_t)(arg[0].s->len / 64));
}

static Status jmethods_str_split(JRun *run, const JVal *arg, JVal *out) {
    const JStr *s = arg[0].s, *sep;
    int64_t max;
    TRY(jmethods_str_split_args(run, arg, &sep, &max));
    if (sep == NULL) return jmethods_str_do_split_words(run, s, max, out);
    TRY(jval_list_new(run, 4, out));
    size_t from = 0;
    for (int64_t n = 0; max < 0 || n < max; n++) {
        size_t at = jstr_find(s, sep, from);
        if (at == SIZE_MAX) break;
        TRY(jmethods_str_push(run, *out, s, from, at));
        from = at + sep->len;
    }
    return jmethods_str_push(run, *out, s, from, s->len);
}

static Status jmethods_str_rsplit(JRun *run, const JVal *arg, JVal *out) {
    const JStr *s = arg[0].s, *sep;
    int64_t max;
    TRY(jmethods_str_split_args(run, arg, &sep, &max));
    if (sep == NULL) {
        TRY(jmethods_str_rsplit_words(run, s, max, out));
    } else {
        TRY(jval_list_new(run, 4, out));
        size_t to = s->len;
        for (int64_t n = 0; max < 0 || n < max; n++) {
            size_t at;
            TRY(jstr_rfind(run, s, sep, to, &at));
            if (at == SIZE_MAX) break;
            TRY(jmethods_str_push(run, *out, s, at + sep->len, to));
            to = at;
        }
        TRY(jmethods_str_push(run, *out, s, 0, to));
    }
    jmethods_str_flip(out->list);
    return OK;
}

static bool jmethods_str_is_line_end(uint32_t cp) {
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

Status jmethods_str_do_splitlines(JRun *run, const JStr *s, bool keep_ends, JVal *out) {
    TRY(jval_list_new(run, 4, out));
    TRY(jrun_step(run, (int64_t)(s->len / 64)));
    for (size_t from = 0, i = 0; i < s->len;) {
        size_t at = i;
        uint32_t cp = jstr_next(s, &i);
        if (!jmethods_str_is_line_end(cp)) {
            if (i >= s->len) TRY(jmethods_str_push(run, *out, s, from, i));
            continue;
        }
        if (cp == '\r' && i < s->len && s->ptr[i] == '\n') i++;
        TRY(jmethods_str_push(run, *out, s, from, keep_ends ? i : at));
        from = i;
    }
    return OK;
}

static Status jmethods_str_splitlines(JRun *run, const JVal *arg, JVal *out) {
    bool keep = false;
    if (arg[1].tag != J_MISSING) TRY(jval_truth(run, arg[1], &keep));
    return jmethods_str_do_splitlines(run, arg[0].s, keep, out);
}

static Status jmethods_str_partition_at(JRun *run, const JVal *arg, bool last, JVal *out) {
    const JStr *s = arg[0].s, *sep;
    TRY(jmethods_str_want(run, arg[1], "argument", &sep));
    if (sep->len == 0) return jrun_raise(run, "ValueError", "empty separator");
    size_t at = SIZE_MAX;
    TRY(jrun_step(run, (int64_t)(s->len / 256)));
    if (last)
        TRY(jstr_rfind(run, s, sep, s->len, &at));
    else
        at = jstr_find(s, sep, 0);
    size_t a = at == SIZE_MAX ? (last ? 0 : s->len) : at;
    size_t b = at == SIZE_MAX ? a : at + sep->len;
    TRY(jval_list_new(run, 3, out));
    TRY(jmethods_str_push(run, *out, s, 0, a));
    TRY(jmethods_str_push(run, *out, s, a, b));
    TRY(jmethods_str_push(run, *out, s, b, s->len));
    out->tag = J_TUPLE;
    return OK;
}

static Status jmethods_str_partition(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_partition_at(run, arg, false, out);
}

static Status jmethods_str_rpartition(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_partition_at(run, arg, true, out);
}

Status jmethods_str_do_replace(JRun *run, const JStr *s, const JStr *from, const JStr *to,
                               int64_t count, JVal *out) {
    JOut text = {.run = run};
    size_t i = 0;
    TRY(jrun_step(run, (int64_t)(s->len / 64)));
    for (int64_t n = 0; (count < 0 || n < count) && !text.failed; n++) {
        if ((n & 15) == 15) TRY(jrun_step(run, 1));
        if (from->len == 0) {
            jout_str(&text, to);
            if (i >= s->len) {
                i = s->len + 1;
                break;
            }
            size_t at = i;
            jstr_next(s, &i);
            jout_sub(&text, s, at, i);
            continue;
        }
        size_t at = jstr_find(s, from, i);
        if (at == SIZE_MAX) break;
        jout_sub(&text, s, i, at);
        jout_str(&text, to);
        i = at + from->len;
    }
    if (i <= s->len) jout_sub(&text, s, i, s->len);
    TRY(jout_finish(&text, out));
    out->s->markup = s->markup;
    return OK;
}

static Status jmethods_str_replace(JRun *run, const JVal *arg, JVal *out) {
    const JStr *from, *to;
    int64_t count = -1;
    JVal escaped = arg[2];
    if (arg[1].tag == J_STR && arg[2].tag == J_STR && arg[0].s->markup)
        TRY(jhtml_escape(run, arg[2], &escaped));
    TRY(jmethods_str_want(run, arg[1], "replace() argument 1", &from));
    TRY(jmethods_str_want(run, escaped, "replace() argument 2", &to));
    if (arg[3].tag != J_MISSING) TRY(jnum_index(run, arg[3], &count));
    return jmethods_str_do_replace(run, arg[0].s, from, to, count, out);
}

/* sides: 1 left, 2 right, 3 both; chars NULL: white space. */
Status jmethods_str_do_strip(JRun *run, const JStr *s, const JStr *chars, int sides, JVal *out) {
    size_t from = 0, to = s->len;
    for (int side = 1; side <= 2; side++) {
        while ((sides & side) && from < to) {
            size_t at = side == 1 ? from : jmethods_str_before(s, to), next = at;
            uint32_t cp = jstr_next(s, &next);
            bool strip = chars == NULL && jstr_is_space(cp);
            for (size_t i = 0; chars != NULL && i < chars->len && !strip;)
                strip = jstr_next(chars, &i) == cp;
            if (!strip) break;
            if (side == 1) from = next;
            if (side == 2) to = at;
        }
    }
    return jstr_sub(run, s, from, to, out);
}

static Status jmethods_str_strip_sides(JRun *run, const JVal *arg, int sides, JVal *out) {
    const JStr *chars = NULL;
    if (arg[1].tag == J_STR) {
        chars = arg[1].s;
    } else if (arg[1].tag != J_MISSING && arg[1].tag != J_NONE) {
        return jrun_raise(run, "TypeError", "%s arg must be None or str",
                          sides == 1   ? "lstrip"
                          : sides == 2 ? "rstrip"
                                       : "strip");
    }
    return jmethods_str_do_strip(run, arg[0].s, chars, sides, out);
}

static Status jmethods_str_strip(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_strip_sides(run, arg, 3, out);
}

static Status jmethods_str_lstrip(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_strip_sides(run, arg, 1, out);
}

static Status jmethods_str_rstrip(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_strip_sides(run, arg, 2, out);
}

/* The bytes [from, to) that the optional arguments start and end (code points) select; false when
 * start lies behind the end. */
static Status jmethods_str_window(JRun *run, const JStr *s, const JVal *arg, size_t *from,
                                  size_t *to, bool *valid) {
    int64_t n = (int64_t)s->n_chars, start = 0, end = n;
    if (arg[0].tag != J_MISSING && arg[0].tag != J_NONE) TRY(jnum_index(run, arg[0], &start));
    if (arg[1].tag != J_MISSING && arg[1].tag != J_NONE) TRY(jnum_index(run, arg[1], &end));
    if (start < 0) start = MAX(start + n, (int64_t)0);
    if (end < 0) end = MAX(end + n, (int64_t)0);
    end = MIN(end, n);
    *valid = start <= end;
    *from = jstr_offset(s, (size_t)MIN(start, n));
    *to = jstr_offset(s, (size_t)end);
    return OK;
}

static bool jmethods_str_affix_is(const JStr *s, const JStr *affix, bool suffix, size_t from,
                                  size_t to) {
    if (affix->len > to - from) return false;
    return memcmp(s->ptr + (suffix ? to - affix->len : from), affix->ptr, affix->len) == 0;
}

static Status jmethods_str_affix(JRun *run, const JVal *arg, bool suffix, JVal *out) {
    const char *name = suffix ? "endswith" : "startswith";
    size_t from, to;
    bool valid, found = false;
    TRY(jmethods_str_window(run, arg[0].s, arg + 2, &from, &to, &valid));
    if (arg[1].tag == J_STR) {
        found = valid && jmethods_str_affix_is(arg[0].s, arg[1].s, suffix, from, to);
    } else if (arg[1].tag == J_TUPLE) {
        for (size_t i = 0; i < arg[1].list->n && !found; i++) {
            JVal v = arg[1].list->v[i];
            if (v.tag != J_STR)
                return jrun_raise(run, "TypeError", "tuple for %s must only contain str, not %s",
                                  name, jval_type_name(v));
            found = valid && jmethods_str_affix_is(arg[0].s, v.s, suffix, from, to);
        }
    } else {
        return jrun_raise(run, "TypeError", "%s first arg must be str or a tuple of str, not %s",
                          name, jval_type_name(arg[1]));
    }
    *out = jval_bool(found);
    return OK;
}

static Status jmethods_str_startswith(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_affix(run, arg, false, out);
}

static Status jmethods_str_endswith(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_affix(run, arg, true, out);
}

/* Where the argument occurs, as a code point index; -1: nowhere. */
static Status jmethods_str_search(JRun *run, const JVal *arg, bool last, bool must, JVal *out) {
    const JStr *s = arg[0].s, *what;
    size_t from, to;
    bool valid;
    TRY(jmethods_str_want(run, arg[1], "argument", &what));
    TRY(jmethods_str_window(run, s, arg + 2, &from, &to, &valid));
    TRY(jrun_step(run, (int64_t)(s->len / 64)));
    JStr window = {.ptr = s->ptr, .len = to};
    size_t at = SIZE_MAX;
    if (valid && last)
        TRY(jstr_rfind(run, &window, what, to, &at));
    else if (valid)
        at = jstr_find(&window, what, from);
    if (at != SIZE_MAX && at < from) at = SIZE_MAX;
    if (at == SIZE_MAX && must) return jrun_raise(run, "ValueError", "substring not found");
    *out = jval_int(at == SIZE_MAX ? -1 : (int64_t)jstr_index(s, at));
    return OK;
}

static Status jmethods_str_find(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_search(run, arg, false, false, out);
}

static Status jmethods_str_rfind(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_search(run, arg, true, false, out);
}

static Status jmethods_str_index(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_search(run, arg, false, true, out);
}

static Status jmethods_str_rindex(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_search(run, arg, true, true, out);
}

static Status jmethods_str_count(JRun *run, const JVal *arg, JVal *out) {
    const JStr *s = arg[0].s, *what;
    size_t from, to;
    bool valid;
    int64_t n = 0;
    TRY(jmethods_str_want(run, arg[1], "argument", &what));
    TRY(jmethods_str_window(run, s, arg + 2, &from, &to, &valid));
    TRY(jrun_step(run, (int64_t)(s->len / 16)));
    JStr window = {.ptr = s->ptr, .len = to};
    if (valid && what->len == 0) n = (int64_t)jstr_count(s->ptr + from, to - from) + 1;
    for (size_t at = from; valid && what->len > 0; n++) {
        at = jstr_find(&window, what, at);
        if (at == SIZE_MAX) break;
        at += what->len;
    }
    *out = jval_int(n);
    return OK;
}

#define CASE_METHOD(name, how)                                                 \
    static Status jmethods_str_##name(JRun *run, const JVal *arg, JVal *out) { \
        return jcase_map(run, arg[0].s, (how), out);                           \
    }
CASE_METHOD(upper, JCASE_UPPER)
CASE_METHOD(lower, JCASE_LOWER)
CASE_METHOD(title, JCASE_TITLE)
CASE_METHOD(capitalize, JCASE_CAPITALIZE)
CASE_METHOD(swapcase, JCASE_SWAP)
CASE_METHOD(casefold, JCASE_FOLD)

Status jmethods_str_do_join(JRun *run, const JStr *sep, JVal list, JVal *out) {
    JOut text = {.run = run};
    for (size_t i = 0; i < list.list->n && !text.failed; i++) {
        JVal v = list.list->v[i];
        if (v.tag != J_STR && !(sep->markup))
            return jrun_raise(run, "TypeError",
                              "sequence item %zu: expected str instance, %s found", i,
                              jval_type_name(v));
        if (i > 0) jout_str(&text, sep);
        if (sep->markup) TRY(jhtml_escape(run, v, &v));
        jout_str(&text, v.s);
    }
    TRY(jout_finish(&text, out));
    out->s->markup = sep->markup;
    return OK;
}

static Status jmethods_str_join(JRun *run, const JVal *arg, JVal *out) {
    JVal list;
    if (!jval_is_iterable(arg[1])) return jrun_raise(run, "TypeError", "can only join an iterable");
    TRY(jval_to_list(run, arg[1], &list));
    return jmethods_str_do_join(run, arg[0].s, list, out);
}

/* how: '<' text at the left, '>' at the right, '^' in the middle as str.center has it. */
Status jmethods_str_do_pad(JRun *run, const JStr *s, int64_t width, const JStr *fill, int how,
                           JVal *out) {
    int64_t pad = width - (int64_t)s->n_chars;
    if (pad <= 0) return jstr_sub(run, s, 0, s->len, out);
    int64_t left = how == '<' ? 0 : how == '>' ? pad : pad / 2 + (pad & width & 1);
    JOut text = {.run = run};
    jout_fill(&text, fill, left);
    jout_str(&text, s);
    jout_fill(&text, fill, pad - left);
    TRY(jout_finish(&text, out));
    out->s->markup = s->markup;
    return OK;
}

static Status jmethods_str_pad(JRun *run, const JVal *arg, int how, JVal *out) {
    int64_t width;
    JVal fill = arg[2];
    TRY(jnum_index(run, arg[1], &width));
    if (fill.tag == J_MISSING) TRY(jstr_new(run, " ", 1, false, &fill));
    if (fill.tag != J_STR)
        return jrun_raise(run, "TypeError",
                          "The fill character must be a unicode character, not %s",
                          jval_type_name(fill));
    if (fill.s->n_chars != 1)
        return jrun_raise(run, "TypeError",
                          "The fill character must be exactly one character long");
    return jmethods_str_do_pad(run, arg[0].s, width, fill.s, how, out);
}

static Status jmethods_str_center(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_pad(run, arg, '^', out);
}

static Status jmethods_str_ljust(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_pad(run, arg, '<', out);
}

static Status jmethods_str_rjust(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_str_pad(run, arg, '>', out);
}

static Status jmethods_str_zfill(JRun *run, const JVal *arg, JVal *out) {
    const JStr *s = arg[0].s;
    int64_t width;
    TRY(jnum_index(run, arg[1], &width));
    JOut text = {.run = run};
    size_t sign = s->len > 0 && (s->ptr[0] == '+' || s->ptr[0] == '-');
    jout_sub(&text, s, 0, sign);
    jout_fill(&text, &(JStr){.ptr = "0", .len = 1, .n_chars = 1}, width - (int64_t)s->n_chars);
    jout_sub(&text, s, sign, s->len);
    TRY(jout_finish(&text, out));
    out->s->markup = s->markup;
    return OK;
}

static Status jmethods_str_expandtabs(JRun *run, const JVal *arg, JVal *out) {
    const JStr *s = arg[0].s;
    int64_t size = 8, column = 0;
    if (arg[1].tag != J_MISSING) TRY(jnum_index(run, arg[1], &size));
    JOut text = {.run = run};
    for (size_t i = 0; i < s->len && !text.failed;) {
        size_t from = i;
        uint32_t cp = jstr_next(s, &i);
        if (cp == '\t') {
            int64_t pad = size > 0 ? size - column % size : 0;
            jout_fill(&text, &(JStr){.ptr = " ", .len = 1, .n_chars = 1}, pad);
            column += pad;
            continue;
        }
        column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        jout_sub(&text, s, from, i);
    }
    TRY(jout_finish(&text, out));
    out->s->markup = s->markup;
    return OK;
}

static Status jmethods_str_removeprefix(JRun *run, const JVal *arg, JVal *out) {
    const JStr *s = arg[0].s, *affix;
    TRY(jmethods_str_want(run, arg[1], "removeprefix() argument", &affix));
    bool has = jmethods_str_affix_is(s, affix, false, 0, s->len);
    return jstr_sub(run, s, has ? affix->len : 0, s->len, out);
}

static Status jmethods_str_removesuffix(JRun *run, const JVal *arg, JVal *out) {
    const JStr *s = arg[0].s, *affix;
    TRY(jmethods_str_want(run, arg[1], "removesuffix() argument", &affix));
    bool has = jmethods_str_affix_is(s, affix, true, 0, s->len);
    return jstr_sub(run, s, 0, has ? s->len - affix->len : s->len, out);
}

/* ---- questions
 * ---------------------------------------------------------------------------------- */

static bool jmethods_str_category(uint32_t cp, int from, int to) {
    int c = (int)utf8proc_category((utf8proc_int32_t)cp);
    return c >= from && c <= to;
}

static bool jmethods_cp_alpha(uint32_t cp) {
    return jmethods_str_category(cp, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO);
}

static bool jmethods_cp_decimal(uint32_t cp) {
    return jmethods_str_category(cp, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_ND);
}

static bool jmethods_cp_digit(uint32_t cp) {
    return jmethods_cp_decimal(cp) || cp == 0xb2 || cp == 0xb3 || cp == 0xb9 || cp == 0x2070 ||
           (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089) ||
           (cp >= 0x2460 && cp <= 0x2468) || (cp >= 0x2474 && cp <= 0x247c) ||
           (cp >= 0x2488 && cp <= 0x2490) || (cp >= 0x2776 && cp <= 0x277e) ||
           (cp >= 0x1369 && cp <= 0x1371);
}

static bool jmethods_cp_numeric(uint32_t cp) {
    static const uint32_t cjk[] = {0x3405, 0x3483, 0x382a, 0x3b4d, 0x4e00, 0x4e03, 0x4e07, 0x4e09,
                                   0x4e5d, 0x4e8c, 0x4e94, 0x4ebf, 0x5104, 0x5146, 0x516b, 0x516d,
                                   0x5341, 0x5343, 0x56db, 0x767e, 0x842c, 0x96f6, 0x4e24};
    if (jmethods_str_category(cp, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO)) return true;
    for (size_t i = 0; i < ARRAY_LEN(cjk); i++)
        if (cjk[i] == cp) return true;
    return false;
}

static bool jmethods_cp_alnum(uint32_t cp) {
    return jmethods_cp_alpha(cp) || jmethods_cp_numeric(cp);
}

static bool jmethods_cp_ascii(uint32_t cp) {
    return cp < 0x80;
}

/* Whether every code point is of a kind; the empty string: empty. */
static Status jmethods_str_all(const JVal *arg, bool (*is)(uint32_t cp), bool empty, JVal *out) {
    const JStr *s = arg[0].s;
    bool all = s->len > 0 || empty;
    for (size_t i = 0; i < s->len && all;) all = is(jstr_next(s, &i));
    *out = jval_bool(all);
    return OK;
}

#define IS_METHOD(name, is, empty)                                             \
    static Status jmethods_str_##name(JRun *run, const JVal *arg, JVal *out) { \
        TRY(jrun_step(run, (int64_t)(arg[0].s->len / 64)));                    \
        return jmethods_str_all(arg, (is), (empty), out);                      \
    }
IS_METHOD(isalpha, jmethods_cp_alpha, false)
IS_METHOD(isdecimal, jmethods_cp_decimal, false)
IS_METHOD(isdigit, jmethods_cp_digit, false)
IS_METHOD(isnumeric, jmethods_cp_numeric, false)
IS_METHOD(isalnum, jmethods_cp_alnum, false)
IS_METHOD(isascii, jmethods_cp_ascii, true)
IS_METHOD(isspace, jstr_is_space, false)
IS_METHOD(isprintable, jstr_is_printable, true)

static Status jmethods_str_isidentifier(JRun *run, const JVal *arg, JVal *out) {
    (void)run;
    const JStr *s = arg[0].s;
    bool ok = s->len > 0;
    for (size_t i = 0; i < s->len && ok;) {
        size_t at = i;
        uint32_t cp = jstr_next(s, &i);
        ok = cp == '_' || jmethods_cp_alpha(cp) || (at > 0 && jstr_is_word(cp));
    }
    *out = jval_bool(ok);
    return OK;
}

#define CASE_TEST(name, is)                                                    \
    static Status jmethods_str_##name(JRun *run, const JVal *arg, JVal *out) { \
        TRY(jrun_step(run, (int64_t)(arg[0].s->len / 64)));                    \
        *out = jval_bool(is(arg[0].s));                                        \
        return OK;                                                             \
    }
CASE_TEST(isupper, jcase_is_upper)
CASE_TEST(islower, jcase_is_lower)
CASE_TEST(istitle, jcase_is_title)

static Status jmethods_str_format(JRun *run, JVal self, const JArgs *args, JVal *out) {
    return jformat_brace(run, self.s, args, (JVal){0}, out);
}

static Status jmethods_str_format_map(JRun *run, JVal self, const JArgs *args, JVal *out) {
    if (args->n_kw > 0)
        return jrun_raise(run, "TypeError", "format_map() takes no keyword arguments");
    if (args->n != 1)
        return jrun_raise(run, "TypeError", "format_map() takes exactly one argument (%zu given)",
                          args->n);
    return jformat_brace(run, self.s, &(JArgs){0}, args->pos[0], out);
}

#define M(name, min, max, params)                                    \
    {                                                                \
        { #name, jmethods_str_##name, NULL, (min), (max), (params) } \
    }

const JMethodDef jmethods_str[] = {
    M(split, 0, 2, "sep maxsplit"),
    M(rsplit, 0, 2, "sep maxsplit"),
    M(strip, 0, 1, NULL),
    M(lstrip, 0, 1, NULL),
    M(rstrip, 0, 1, NULL),
    M(replace, 2, 3, "_ _ count"),
    M(startswith, 1, 3, NULL),
    M(endswith, 1, 3, NULL),
    M(upper, 0, 0, NULL),
    M(lower, 0, 0, NULL),
    M(title, 0, 0, NULL),
    M(capitalize, 0, 0, NULL),
    M(swapcase, 0, 0, NULL),
    M(casefold, 0, 0, NULL),
    M(join, 1, 1, NULL),
    M(find, 1, 3, NULL),
    M(rfind, 1, 3, NULL),
    M(index, 1, 3, NULL),
    M(rindex, 1, 3, NULL),
    M(count, 1, 3, NULL),
    M(splitlines, 0, 1, "keepends"),
    M(partition, 1, 1, NULL),
    M(rpartition, 1, 1, NULL),
    M(center, 1, 2, NULL),
    M(ljust, 1, 2, NULL),
    M(rjust, 1, 2, NULL),
    M(zfill, 1, 1, NULL),
    M(expandtabs, 0, 1, "tabsize"),
    M(removeprefix, 1, 1, NULL),
    M(removesuffix, 1, 1, NULL),
    M(isalpha, 0, 0, NULL),
    M(isdecimal, 0, 0, NULL),
    M(isdigit, 0, 0, NULL),
    M(isnumeric, 0, 0, NULL),
    M(isalnum, 0, 0, NULL),
    M(isascii, 0, 0, NULL),
    M(isspace, 0, 0, NULL),
    M(isprintable, 0, 0, NULL),
    M(isidentifier, 0, 0, NULL),
    M(isupper, 0, 0, NULL),
    M(islower, 0, 0, NULL),
    M(istitle, 0, 0, NULL),
    {{"format", NULL, jmethods_str_format, 0, 0, NULL}},
    {{"format_map", NULL, jmethods_str_format_map, 0, 0, NULL}},
    {{"encode", NULL, NULL, 0, 0, NULL}},
    {{"translate", NULL, NULL, 0, 0, NULL}},
    {{"maketrans", NULL, NULL, 0, 0, NULL}},
};
const size_t jmethods_n_str = ARRAY_LEN(jmethods_str);
