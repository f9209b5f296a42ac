/* jhtml: what markupsafe does: escaping, Markup strings, and back. */
#include "text/jinja_priv.h"

void jhtml_put(JOut *out, const JStr *s) {
    size_t from = 0;
    for (size_t i = 0; i < s->len && !out->failed; i++) {
        const char *entity = NULL;
        switch (s->ptr[i]) {
            case '&': entity = "&amp;"; break;
            case '<': entity = "&lt;"; break;
            case '>': entity = "&gt;"; break;
            case '\'': entity = "&#39;"; break;
            case '"': entity = "&#34;"; break;
            default: continue;
        }
        jout_sub(out, s, from, i);
        jout_put(out, entity, strlen(entity), jstr_marked(s, i));
        from = i + 1;
    }
    jout_sub(out, s, from, s->len);
}

Status jhtml_markup(JRun *run, JVal v, JVal *out) {
    TRY(jtext_str(run, v, out));
    JStr *s = jrun_alloc(run, 1, sizeof(*s));
    if (s == NULL) return jrun_no_memory(run);
    *s = *out->s;
    s->markup = true;
    s->tail = NULL;
    *out = jval_of_str(s);
    return OK;
}

Status jhtml_escape(JRun *run, JVal v, JVal *out) {
    if (v.tag == J_STR && v.s->markup) {
        *out = v;
        return OK;
    }
    JOut text = {.run = run};
    JVal plain;
    TRY(jtext_str(run, v, &plain));
    jhtml_put(&text, plain.s);
    TRY(jout_finish(&text, out));
    out->s->markup = true;
    return OK;
}

/* The character references that are in use; the reference knows some 2,000 more. */
static const struct {
    const char *name;
    uint32_t cp;
} jhtml_entities[] = {
    {"amp;", '&'},       {"lt;", '<'},       {"gt;", '>'},       {"quot;", '"'},
    {"apos;", '\''},     {"nbsp;", 0xa0},    {"copy;", 0xa9},    {"reg;", 0xae},
    {"hellip;", 0x2026}, {"mdash;", 0x2014}, {"ndash;", 0x2013}, {"lsquo;", 0x2018},
    {"rsquo;", 0x2019},  {"ldquo;", 0x201c}, {"rdquo;", 0x201d}, {"bull;", 0x2022},
    {"euro;", 0x20ac},   {"trade;", 0x2122}, {"times;", 0xd7},   {"middot;", 0xb7},
    {"laquo;", 0xab},    {"raquo;", 0xbb},   {"amp", '&'},       {"lt", '<'},
    {"gt", '>'},         {"quot", '"'},      {"nbsp", 0xa0},     {"copy", 0xa9},
    {"reg", 0xae},
};

/* Length of a reference at i (0: none) and what it stands for. */
static size_t jhtml_reference(const JStr *s, size_t i, uint32_t *cp) {
    Str rest = str_slice(jstr_bytes(s), i + 1, s->len);
    if (rest.len > 1 && rest.ptr[0] == '#') {
        int base = (rest.ptr[1] | 32) == 'x' ? 16 : 10;
        size_t k = base == 16 ? 2 : 1, first = k;
        uint64_t value = 0;
        for (; k < rest.len; k++) {
            char c = rest.ptr[k], low = (char)(c | 32);
            int digit = c >= '0' && c <= '9'       ? c - '0'
                        : low >= 'a' && low <= 'f' ? low - 'a' + 10
                                                   : 99;
            if (digit >= base) break;
            value = MIN(value * (uint64_t)base + (uint64_t)digit, (uint64_t)0x7fffffff);
        }
        if (k == first) return 0;
        bool bad = value == 0 || value > 0x10ffff || (value >= 0xd800 && value < 0xe000);
        *cp = bad ? 0xfffd : (uint32_t)value;
        return 1 + k + (k < rest.len && rest.ptr[k] == ';');
    }
    for (size_t e = 0; e < ARRAY_LEN(jhtml_entities); e++) {
        if (!str_starts_with(rest, jhtml_entities[e].name)) continue;
        *cp = jhtml_entities[e].cp;
        return 1 + strlen(jhtml_entities[e].name);
    }
    return 0;
}

Status jhtml_unescape(JRun *run, const JStr *s, JVal *out) {
    JOut text = {.run = run};
    size_t from = 0;
    for (size_t i = 0; i < s->len;) {
        uint32_t cp;
        size_t len = s->ptr[i] == '&' ? jhtml_reference(s, i, &cp) : 0;
        if (len == 0) {
            i++;
            continue;
        }
        jout_sub(&text, s, from, i);
        jout_cp(&text, cp, jstr_marked(s, i));
        i += len;
        from = i;
    }
    jout_sub(&text, s, from, s->len);
    return jout_finish(&text, out);
}
