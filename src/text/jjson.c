/* jjson: json.dumps as Python writes it. */
#include <math.h>
#include <stdio.h>

#include "text/jinja_priv.h"

typedef struct Dumper {
    const JJsonOptions *options;
    JOut out;
    int64_t level;
} Dumper;

static Status jjson_value(Dumper *dumper, JVal v);

static void jjson_str(Dumper *dumper, const JStr *s) {
    JOut *out = &dumper->out;
    size_t from = 0;
    jout_byte(out, '"', false);
    for (size_t i = 0; i < s->len && !out->failed;) {
        size_t at = i;
        uint32_t cp = jstr_next(s, &i);
        static const char plain[] = "\"\\\n\r\t\f\b";
        static const char letter[] = "\"\\nrtfb";
        const char *known = cp != 0 && cp < 0x80 ? strchr(plain, (int)cp) : NULL;
        char text[16];
        if (known != NULL) {
            snprintf(text, sizeof(text), "\\%c", letter[known - plain]);
        } else if (cp < 0x20 || (dumper->options->ensure_ascii && cp >= 0x7f && cp < 0x10000)) {
            snprintf(text, sizeof(text), "\\u%04x", cp);
        } else if (dumper->options->ensure_ascii && cp >= 0x10000) {
            snprintf(text, sizeof(text), "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                     0xdc00 + ((cp - 0x10000) & 0x3ff));
        } else {
            continue;
        }
        jout_sub(out, s, from, at);
        jout_put(out, text, strlen(text), jstr_marked(s, at));
        from = i;
    }
    jout_sub(out, s, from, s->len);
    jout_byte(out, '"', false);
}

static void jjson_newline(Dumper *dumper) {
    if (dumper->options->indent == NULL) return;
    jout_text(&dumper->out, "\n");
    jout_fill(&dumper->out, dumper->options->indent, dumper->level);
}

static void jjson_float(Dumper *dumper, double f) {
    if (isnan(f) || isinf(f)) {
        jout_text(&dumper->out, isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity");
    } else {
        jtext_float(&dumper->out, f);
    }
}

static Status jjson_list(Dumper *dumper, const JList *list) {
    JOut *out = &dumper->out;
    if (list->n == 0) {
        jout_text(out, "[]");
        return OK;
    }
    jout_text(out, "[");
    dumper->level++;
    for (size_t i = 0; i < list->n && !out->failed; i++) {
        if (i > 0) jout_str(out, dumper->options->item_separator);
        jjson_newline(dumper);
        TRY(jjson_value(dumper, list->v[i]));
    }
    dumper->level--;
    jjson_newline(dumper);
    jout_text(out, "]");
    return OK;
}

static Status jjson_key(Dumper *dumper, JVal key) {
    JOut *out = &dumper->out;
    if (key.tag == J_STR) {
        jjson_str(dumper, key.s);
        return OK;
    }
    jout_text(out, "\"");
    if (key.tag == J_FLOAT) {
        jjson_float(dumper, key.f);
    } else if (key.tag == J_BOOL) {
        jout_text(out, key.b ? "true" : "false");
    } else if (key.tag == J_NONE) {
        jout_text(out, "null");
    } else if (key.tag == J_INT) {
        jout_format(out, "%lld", (long long)key.i);
    } else {
        return jrun_raise(out->run, "TypeError",
                          "keys must be str, int, float, bool or None, not %s",
                          jval_type_name(key));
    }
    jout_text(out, "\"");
    return OK;
}

static Status jjson_dict(Dumper *dumper, const JDict *dict) {
    JOut *out = &dumper->out;
    if (dict->n == 0) {
        jout_text(out, "{}");
        return OK;
    }
    JVal *key = jrun_alloc(out->run, dict->n, sizeof(JVal));
    JVal *order = jrun_alloc(out->run, dict->n, sizeof(JVal));
    if (key == NULL || order == NULL) return jrun_no_memory(out->run);
    for (size_t i = 0; i < dict->n; i++) {
        key[i] = dict->item[i].key;
        order[i] = jval_int((int64_t)i);
    }
    if (dumper->options->sort_keys) TRY(jsort(out->run, order, key, dict->n, false));
    jout_text(out, "{");
    dumper->level++;
    for (size_t i = 0; i < dict->n && !out->failed; i++) {
        const JDictItem *item = &dict->item[order[i].i];
        if (i > 0) jout_str(out, dumper->options->item_separator);
        jjson_newline(dumper);
        TRY(jjson_key(dumper, item->key));
        jout_str(out, dumper->options->key_separator);
        TRY(jjson_value(dumper, item->value));
    }
    dumper->level--;
    jjson_newline(dumper);
    jout_text(out, "}");
    return OK;
}

static Status jjson_value(Dumper *dumper, JVal v) {
    JRun *run = dumper->out.run;
    Status status;
    TRY(jrun_step(run, v.tag == J_STR ? 1 + (int64_t)(v.s->len / 8) : 1));
    switch (v.tag) {
        case J_NONE: jout_text(&dumper->out, "null"); return OK;
        case J_BOOL: jout_text(&dumper->out, v.b ? "true" : "false"); return OK;
        case J_INT: jout_format(&dumper->out, "%lld", (long long)v.i); return OK;
        case J_FLOAT: jjson_float(dumper, v.f); return OK;
        case J_STR: jjson_str(dumper, v.s); return OK;
        case J_LIST:
        case J_TUPLE:
        case J_DICT:
            TRY(jrun_enter(run));
            status = v.tag == J_DICT ? jjson_dict(dumper, v.dict) : jjson_list(dumper, v.list);
            jrun_leave(run);
            return status;
        default:
            return jrun_raise(run, "TypeError", "Object of type %s is not JSON serializable",
                              jval_type_name(v));
    }
}

Status jjson_dump(JRun *run, JVal v, const JJsonOptions *options, JVal *out) {
    Dumper dumper = {.options = options, .out = {.run = run}};
    TRY(jjson_value(&dumper, v));
    return jout_finish(&dumper.out, out);
}
