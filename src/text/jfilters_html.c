/* jfilters_html: filters about HTML and addresses. */
#include "text/jfilters_priv.h"

static Status jfilters_html_escape(JRun *run, const JVal *arg, JVal *out) {
    return jhtml_escape(run, arg[0], out);
}

static Status jfilters_html_forceescape(JRun *run, const JVal *arg, JVal *out) {
    JVal plain;
    TRY(jtext_str(run, arg[0], &plain));
    return jhtml_escape(run, plain, out);
}

static Status jfilters_html_safe(JRun *run, const JVal *arg, JVal *out) {
    return jhtml_markup(run, arg[0], out);
}

static Status jfilters_html_striptags(JRun *run, const JVal *arg, JVal *out) {
    JVal v, kept, words, blank;
    TRY(jtext_str(run, arg[0], &v));
    const JStr *s = v.s;
    JOut text = {.run = run};
    size_t from = 0;
    TRY(jrun_step(run, (int64_t)(s->len / 16)));
    for (;;) {
        size_t start = str_find(jstr_bytes(s), STR_LIT("<"), from), end;
        if (start == SIZE_MAX) break;
        if (str_starts_with(str_slice(jstr_bytes(s), start, s->len), "<!--")) {
            end = str_find(jstr_bytes(s), STR_LIT("-->"), start + 4);
            if (end == SIZE_MAX) break;
            end += 3;
        } else {
            end = str_find(jstr_bytes(s), STR_LIT(">"), start);
            if (end == SIZE_MAX) break;
            end += 1;
        }
        jout_sub(&text, s, from, start);
        from = end;
    }
    jout_sub(&text, s, from, s->len);
    TRY(jout_finish(&text, &kept));
    TRY(jmethods_str_do_split_words(run, kept.s, -1, &words));
    TRY(jstr_new(run, " ", 1, false, &blank));
    TRY(jmethods_str_do_join(run, blank.s, words, &kept));
    return jhtml_unescape(run, kept.s, out);
}

static void jfilters_html_quote(JOut *out, const JStr *s, bool query) {
    for (size_t i = 0; i < s->len && !out->failed; i++) {
        unsigned char c = (unsigned char)s->ptr[i];
        bool plain = c < 0x80 && (jstr_is_word(c) || c == '-' || c == '.' || c == '~');
        if (plain || (c == '/' && !query)) {
            jout_sub(out, s, i, i + 1);
        } else if (c == ' ' && query) {
            jout_byte(out, '+', jstr_marked(s, i));
        } else {
            static const char hex[] = "0123456789ABCDEF";
            char text[3] = {'%', hex[c >> 4], hex[c & 15]};
            jout_put(out, text, 3, jstr_marked(s, i));
        }
    }
}

static Status jfilters_html_quote_value(JRun *run, JVal v, bool query, JOut *out) {
    TRY(jtext_str(run, v, &v));
    TRY(jrun_step(run, (int64_t)(v.s->len / 8)));
    jfilters_html_quote(out, v.s, query);
    return OK;
}

static Status jfilters_html_urlencode(JRun *run, const JVal *arg, JVal *out) {
    JVal v = arg[0];
    JOut text = {.run = run};
    if (v.tag == J_STR || !jval_is_iterable(v)) {
        TRY(jfilters_html_quote_value(run, v, false, &text));
        return jout_finish(&text, out);
    }
    if (v.tag == J_DICT) {
        JVal list;
        TRY(jval_list_new(run, v.dict->n, &list));
        for (size_t i = 0; i < v.dict->n; i++) {
            JVal pair;
            TRY(jval_tuple2(run, v.dict->item[i].key, v.dict->item[i].value, &pair));
            TRY(jval_list_push(run, list.list, pair));
        }
        v = list;
    }
    JIter iter;
    TRY(jiter_open(run, v, &iter));
    for (bool first = true;; first = false) {
        JVal pair, list;
        bool more;
        TRY(jiter_next(run, &iter, &pair, &more));
        if (!more) break;
        if (!jval_is_iterable(pair))
            return jrun_raise(run, "TypeError", "cannot unpack non-iterable %s object",
                              jval_type_name(pair));
        TRY(jval_to_list(run, pair, &list));
        if (list.list->n != 2)
            return jrun_raise(run, "ValueError", "%s values to unpack (expected 2%s",
                              list.list->n < 2 ? "not enough" : "too many",
                              list.list->n < 2 ? ", got 1)" : ")");
        if (!first) jout_text(&text, "&");
        TRY(jfilters_html_quote_value(run, list.list->v[0], true, &text));
        jout_text(&text, "=");
        TRY(jfilters_html_quote_value(run, list.list->v[1], true, &text));
    }
    return jout_finish(&text, out);
}

static Status jfilters_html_xmlattr(JRun *run, const JVal *arg, JVal *out) {
    bool space;
    TRY(jfilters_flag(run, arg[1], true, &space));
    if (arg[0].tag == J_UNDEFINED) return jval_undefined_fail(run, arg[0]);
    if (arg[0].tag != J_DICT)
        return jrun_raise(run, "AttributeError", "'%s' object has no attribute 'items'",
                          jval_type_name(arg[0]));
    JOut text = {.run = run};
    for (size_t i = 0; i < arg[0].dict->n; i++) {
        JVal key = arg[0].dict->item[i].key, value = arg[0].dict->item[i].value;
        if (value.tag == J_NONE || value.tag == J_UNDEFINED) continue;
        if (key.tag != J_STR)
            return jrun_raise(run, "TypeError", "expected string or bytes-like object, got '%s'",
                              jval_type_name(key));
        for (size_t k = 0; k < key.s->len; k++)
            if (strchr(" \t\n\r\f\v/>=", key.s->ptr[k]) != NULL && key.s->ptr[k] != 0)
                return jrun_raise(run, "ValueError", "Invalid character in attribute name: '%.*s'",
                                  STR_ARG(jstr_bytes(key.s)));
        if (text.len > 0 || space) jout_text(&text, " ");
        TRY(jhtml_escape(run, key, &key));
        TRY(jhtml_escape(run, value, &value));
        jout_str(&text, key.s);
        jout_text(&text, "=\"");
        jout_str(&text, value.s);
        jout_text(&text, "\"");
    }
    TRY(jout_finish(&text, out));
    out->s->markup = run->autoescape;
    return OK;
}

const JSig jfilters_html[] = {
    {"escape", jfilters_html_escape, NULL, 0, 0, NULL},
    {"e", jfilters_html_escape, NULL, 0, 0, NULL},
    {"forceescape", jfilters_html_forceescape, NULL, 0, 0, NULL},
    {"safe", jfilters_html_safe, NULL, 0, 0, NULL},
    {"striptags", jfilters_html_striptags, NULL, 0, 0, NULL},
    {"urlencode", jfilters_html_urlencode, NULL, 0, 0, NULL},
    {"xmlattr", jfilters_html_xmlattr, NULL, 0, 1, "autospace"},
    {"urlize", NULL, NULL, 0, 0, NULL}, /* of use for web pages only */
};
const size_t jfilters_n_html = ARRAY_LEN(jfilters_html);
