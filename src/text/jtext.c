/* jtext: str(), repr() and pprint of values, as Python writes them. */
#include <stdio.h>

#include "text/jinja_priv.h"

void jtext_float(JOut *out, double f) {
    char text[32];
    jnum_repr(f, text);
    jout_text(out, text);
}

void jtext_repr_str(JOut *out, const JStr *s, bool ascii) {
    bool has_single = memchr(s->ptr, '\'', s->len) != NULL;
    bool has_double = memchr(s->ptr, '"', s->len) != NULL;
    char quote = has_single && !has_double ? '"' : '\'';
    jout_byte(out, quote, false);
    for (size_t i = 0; i < s->len && !out->failed;) {
        size_t from = i;
        uint32_t cp = jstr_next(s, &i);
        bool marked = jstr_marked(s, from);
        char text[16] = "";
        if (cp == (uint32_t)quote || cp == '\\') {
            text[0] = '\\';
            text[1] = (char)cp;
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            text[0] = '\\';
            text[1] = cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't';
        } else if (!jstr_is_printable(cp) || (ascii && cp >= 0x80)) {
            snprintf(text, sizeof(text),
                     cp < 0x100     ? "\\x%02x"
                     : cp < 0x10000 ? "\\u%04x"
                                    : "\\U%08x",
                     cp);
        } else {
            jout_sub(out, s, from, i);
            continue;
        }
        jout_put(out, text, strlen(text), marked);
    }
    jout_byte(out, quote, false);
}

static void jtext_items(JOut *out, const JVal *v, size_t n) {
    for (size_t i = 0; i < n && !out->failed; i++) {
        if (i > 0) jout_text(out, ", ");
        jtext_repr(out, v[i]);
    }
}

static void jtext_dict(JOut *out, const JDict *dict) {
    jout_text(out, "{");
    for (size_t i = 0; i < dict->n && !out->failed; i++) {
        if (i > 0) jout_text(out, ", ");
        jtext_repr(out, dict->item[i].key);
        jout_text(out, ": ");
        jtext_repr(out, dict->item[i].value);
    }
    jout_text(out, "}");
}

static void jtext_view(JOut *out, const JView *view) {
    static const char *const names[] = {"dict_keys([", "dict_values([", "dict_items(["};
    jout_text(out, names[view->kind]);
    for (size_t i = 0; i < view->dict->n && !out->failed; i++) {
        const JDictItem *item = &view->dict->item[i];
        if (i > 0) jout_text(out, ", ");
        if (view->kind == JVIEW_ITEMS) {
            JVal pair[2] = {item->key, item->value};
            jout_text(out, "(");
            jtext_items(out, pair, 2);
            jout_text(out, ")");
        } else {
            jtext_repr(out, view->kind == JVIEW_KEYS ? item->key : item->value);
        }
    }
    jout_text(out, "])");
}

static void jtext_loop(JOut *out, JLoop *loop) {
    int64_t n = 0;
    if (jval_len(out->run, (JVal){.tag = J_LOOP, .loop = loop}, &n) != OK) {
        out->failed = true;
        return;
    }
    jout_format(out, "<LoopContext %lld/%lld>", (long long)(loop->index0 + 1), (long long)n);
}

/* Things that Python names by their address; a made-up one would differ from render to render. */
static void jtext_object(JOut *out, JVal v) {
    switch (v.tag) {
        case J_MACRO:
            jout_text(out, "<Macro ");
            if (v.macro->name != NULL) {
                jtext_repr_str(out, v.macro->name, false);
            } else {
                jout_text(out, "anonymous");
            }
            jout_text(out, ">");
            return;
        case J_NAMESPACE:
            jout_text(out, "<Namespace ");
            jtext_dict(out, v.dict);
            jout_text(out, ">");
            return;
        case J_LOOP: jtext_loop(out, v.loop); return;
        case J_SELF: jout_text(out, "<TemplateReference None>"); return;
        default:
            if (jrun_unsupported(out->run, "printing an object that Python names by its address") !=
                OK)
                out->failed = true;
    }
}

static void jtext_range(JOut *out, const JRange *r) {
    jout_format(out, r->step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)",
                (long long)r->start, (long long)r->stop, (long long)r->step);
}

void jtext_repr(JOut *out, JVal v) {
    if (out->failed) return;
    if (jrun_enter(out->run) != OK) {
        out->failed = true;
        return;
    }
    switch (v.tag) {
        case J_MISSING: jout_text(out, "missing"); break;
        case J_UNDEFINED: jout_text(out, "Undefined"); break;
        case J_NONE: jout_text(out, "None"); break;
        case J_BOOL: jout_text(out, v.b ? "True" : "False"); break;
        case J_INT: jout_format(out, "%lld", (long long)v.i); break;
        case J_FLOAT: jtext_float(out, v.f); break;
        case J_STR:
            if (v.s->markup) jout_text(out, "Markup(");
            jtext_repr_str(out, v.s, false);
            if (v.s->markup) jout_text(out, ")");
            break;
        case J_LIST:
            jout_text(out, "[");
            jtext_items(out, v.list->v, v.list->n);
            jout_text(out, "]");
            break;
        case J_TUPLE:
            jout_text(out, "(");
            jtext_items(out, v.list->v, v.list->n);
            jout_text(out, v.list->n == 1 ? ",)" : ")");
            break;
        case J_DICT: jtext_dict(out, v.dict); break;
        case J_RANGE: jtext_range(out, v.range); break;
        case J_VIEW: jtext_view(out, v.view); break;
        case J_SLICE: {
            JVal part[3] = {v.slice->start, v.slice->stop, v.slice->step};
            jout_text(out, "slice(");
            jtext_items(out, part, 3);
            jout_text(out, ")");
            break;
        }
        default: jtext_object(out, v);
    }
    jrun_leave(out->run);
}

void jtext_put(JOut *out, JVal v) {
    if (v.tag == J_STR) {
        jout_str(out, v.s);
    } else if (v.tag != J_UNDEFINED) {
        jtext_repr(out, v);
    }
}

Status jtext_str(JRun *run, JVal v, JVal *out) {
    if (v.tag == J_STR && !v.s->markup) {
        *out = v;
        return OK;
    }
    JOut text = {.run = run};
    jtext_put(&text, v);
    return jout_finish(&text, out);
}
