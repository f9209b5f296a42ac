/* jfilters_text: filters over strings. */
#include "text/jfilters_priv.h"

static Status jfilters_text_case(JRun *run, JVal v, JCase how, JVal *out) {
    TRY(jfilters_soft(run, v, &v));
    return jcase_map(run, v.s, how, out);
}

static Status jfilters_text_upper(JRun *run, const JVal *arg, JVal *out) {
    return jfilters_text_case(run, arg[0], JCASE_UPPER, out);
}

static Status jfilters_text_lower(JRun *run, const JVal *arg, JVal *out) {
    return jfilters_text_case(run, arg[0], JCASE_LOWER, out);
}

static Status jfilters_text_capitalize(JRun *run, const JVal *arg, JVal *out) {
    return jfilters_text_case(run, arg[0], JCASE_CAPITALIZE, out);
}

static bool jfilters_text_is_word_break(uint32_t cp) {
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || jstr_is_space(cp);
}

/* Words begin behind white space and - ( { [ <; unlike str.title, an apostrophe ends none. */
static Status jfilters_text_title(JRun *run, const JVal *arg, JVal *out) {
    JVal v, part;
    JOut text = {.run = run};
    TRY(jfilters_soft(run, arg[0], &v));
    for (size_t i = 0; i < v.s->len && !text.failed;) {
        size_t from = i, first = i;
        bool is_break = jfilters_text_is_word_break(jstr_next(v.s, &first));
        i = first;
        for (size_t next = i; i < v.s->len; i = next)
            if (jfilters_text_is_word_break(jstr_next(v.s, &next)) != is_break) break;
        TRY(jstr_sub(run, v.s, from, first, &part));
        TRY(jcase_map(run, part.s, JCASE_UPPER, &part));
        jout_str(&text, part.s);
        TRY(jstr_sub(run, v.s, first, i, &part));
        TRY(jcase_map(run, part.s, JCASE_LOWER, &part));
        jout_str(&text, part.s);
    }
    return jout_finish(&text, out);
}

static Status jfilters_text_trim(JRun *run, const JVal *arg, JVal *out) {
    JVal v;
    const JStr *chars = NULL;
    TRY(jfilters_soft(run, arg[0], &v));
    if (arg[1].tag != J_NONE && arg[1].tag != J_MISSING) TRY(jfilters_str(run, arg[1], "", &chars));
    return jmethods_str_do_strip(run, v.s, chars, 3, out);
}

static Status jfilters_text_center(JRun *run, const JVal *arg, JVal *out) {
    JVal v;
    int64_t width;
    TRY(jfilters_soft(run, arg[0], &v));
    TRY(jfilters_int(run, arg[1], 80, &width));
    return jmethods_str_do_pad(run, v.s, width, &(JStr){.ptr = " ", .len = 1, .n_chars = 1}, '^',
                               out);
}

static Status jfilters_text_replace(JRun *run, const JVal *arg, JVal *out) {
    JVal s = arg[0], from = arg[1], to = arg[2];
    int64_t count = -1;
    if (arg[3].tag != J_NONE) TRY(jfilters_int(run, arg[3], -1, &count));
    if (!run->autoescape) {
        TRY(jtext_str(run, s, &s));
        TRY(jtext_str(run, from, &from));
        TRY(jtext_str(run, to, &to));
        return jmethods_str_do_replace(run, s.s, from.s, to.s, count, out);
    }
    bool from_safe = from.tag == J_STR && from.s->markup, to_safe = to.tag == J_STR && to.s->markup;
    if (from_safe || (to_safe && !(s.tag == J_STR && s.s->markup))) {
        TRY(jhtml_escape(run, s, &s));
    } else {
        TRY(jfilters_soft(run, s, &s));
    }
    TRY(jfilters_soft(run, from, &from));
    TRY(jfilters_soft(run, to, &to));
    if (s.s->markup) TRY(jhtml_escape(run, to, &to));
    return jmethods_str_do_replace(run, s.s, from.s, to.s, count, out);
}

static Status jfilters_text_format(JRun *run, JVal self, const JArgs *args, JVal *out) {
    JVal v, values;
    TRY(jfilters_soft(run, self, &v));
    if (args->n > 0 && args->n_kw > 0)
        return jrun_raise(run, "FilterArgumentError",
                          "can't handle positional and keyword arguments at the same time");
    if (args->n_kw > 0) {
        JDict *dict;
        TRY(jdict_new(run, args->n_kw, &dict));
        for (size_t i = 0; i < args->n_kw; i++)
            TRY(jdict_put(run, dict, args->kw_name[i], args->kw[i]));
        values = (JVal){.tag = J_DICT, .dict = dict};
    } else {
        TRY(jval_list_new(run, args->n, &values));
        for (size_t i = 0; i < args->n; i++) TRY(jval_list_push(run, values.list, args->pos[i]));
        values.tag = J_TUPLE;
    }
    return jformat_percent(run, v.s, values, out);
}

static Status jfilters_text_indent(JRun *run, const JVal *arg, JVal *out) {
    JVal s = arg[0], indent = arg[1], lines;
    bool first, blank;
    TRY(jfilters_flag(run, arg[2], false, &first));
    TRY(jfilters_flag(run, arg[3], false, &blank));
    if (indent.tag != J_STR) {
        int64_t width;
        TRY(jfilters_int(run, indent, 4, &width));
        TRY(jstr_new(run, " ", 1, false, &indent));
        TRY(jnum_binary(run, TOK_MUL, indent, jval_int(width), &indent));
    }
    JVal newline, whole;
    TRY(jstr_new(run, "\n", 1, false, &newline));
    if (s.tag == J_UNDEFINED) return jval_undefined_fail(run, s);
    if (s.tag != J_STR) return jnum_binary(run, TOK_ADD, s, newline, &whole);
    TRY(jstr_concat(run, s.s, newline.s, &whole));
    TRY(jmethods_str_do_splitlines(run, whole.s, false, &lines));
    JOut text = {.run = run};
    if (first) jout_str(&text, indent.s);
    for (size_t i = 0; i < lines.list->n && !text.failed; i++) {
        const JStr *line = lines.list->v[i].s;
        if (i > 0) jout_text(&text, "\n");
        if (i > 0 && (blank || line->len > 0)) jout_str(&text, indent.s);
        jout_str(&text, line);
    }
    TRY(jout_finish(&text, out));
    out->s->markup = s.s->markup;
    return OK;
}

static Status jfilters_text_truncate(JRun *run, const JVal *arg, JVal *out) {
    int64_t length, leeway = 5;
    bool killwords;
    const JStr *end;
    JVal s = arg[0];
    TRY(jfilters_int(run, arg[1], 255, &length));
    TRY(jfilters_flag(run, arg[2], false, &killwords));
    TRY(jfilters_str(run, arg[3], "...", &end));
    if (arg[4].tag != J_NONE) TRY(jfilters_int(run, arg[4], 5, &leeway));
    if (length < (int64_t)end->n_chars)
        return jrun_raise(run, "AssertionError", "expected length >= %zu, got %lld", end->n_chars,
                          (long long)length);
    if (leeway < 0)
        return jrun_raise(run, "AssertionError", "expected leeway >= 0, got %lld",
                          (long long)leeway);
    int64_t n;
    *out = s;
    TRY(jval_len(run, s, &n));
    if (n <= length + leeway) return OK;
    if (s.tag != J_STR) return jrun_unsupported(run, "truncate of what is no string");
    size_t to = jstr_offset(s.s, (size_t)(length - (int64_t)end->n_chars));
    if (!killwords) {
        size_t blank;
        TRY(jstr_rfind(run, s.s, &(JStr){.ptr = " ", .len = 1, .n_chars = 1}, to, &blank));
        if (blank != SIZE_MAX) to = blank;
    }
    JOut text = {.run = run};
    jout_sub(&text, s.s, 0, to);
    jout_str(&text, end);
    TRY(jout_finish(&text, out));
    out->s->markup = s.s->markup;
    return OK;
}

static Status jfilters_text_wordcount(JRun *run, const JVal *arg, JVal *out) {
    JVal v;
    int64_t n = 0;
    bool in_word = false;
    TRY(jfilters_soft(run, arg[0], &v));
    for (size_t i = 0; i < v.s->len;) {
        bool word = jstr_is_word(jstr_next(v.s, &i));
        n += word && !in_word;
        in_word = word;
    }
    *out = jval_int(n);
    return OK;
}

const JSig jfilters_text[] = {
    {"upper", jfilters_text_upper, NULL, 0, 0, NULL},
    {"lower", jfilters_text_lower, NULL, 0, 0, NULL},
    {"capitalize", jfilters_text_capitalize, NULL, 0, 0, NULL},
    {"title", jfilters_text_title, NULL, 0, 0, NULL},
    {"trim", jfilters_text_trim, NULL, 0, 1, "chars"},
    {"center", jfilters_text_center, NULL, 0, 1, "width"},
    {"replace", jfilters_text_replace, NULL, 2, 3, "old new count"},
    {"format", NULL, jfilters_text_format, 0, 0, NULL},
    {"indent", jfilters_text_indent, NULL, 0, 3, "width first blank"},
    {"truncate", jfilters_text_truncate, NULL, 0, 4, "length killwords end leeway"},
    {"wordcount", jfilters_text_wordcount, NULL, 0, 0, NULL},
    {"wordwrap", jwrap_filter, NULL, 0, 4, "width break_long_words wrapstring break_on_hyphens"},
};
const size_t jfilters_n_text = ARRAY_LEN(jfilters_text);
