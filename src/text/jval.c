#include "text/jval.h"

#include <math.h>

#include "base/hash.h"
#include "text/jinja_priv.h"

const char *jval_type_name(JVal v) {
    switch (v.tag) {
        case J_MISSING: return "missing";
        case J_UNDEFINED: return "Undefined";
        case J_NONE: return "NoneType";
        case J_BOOL: return "bool";
        case J_INT: return "int";
        case J_FLOAT: return "float";
        case J_STR: return v.s->markup ? "Markup" : "str";
        case J_LIST: return "list";
        case J_TUPLE: return v.list->group ? "_GroupTuple" : "tuple";
        case J_DICT: return "dict";
        case J_RANGE: return "range";
        case J_VIEW:
            return v.view->kind == JVIEW_KEYS     ? "dict_keys"
                   : v.view->kind == JVIEW_VALUES ? "dict_values"
                                                  : "dict_items";
        case J_GEN: return v.gen->type_name;
        case J_NAMESPACE: return "TemplateNamespace";
        case J_LOOP: return "LoopContext";
        case J_MACRO: return "Macro";
        case J_METHOD: return "builtin_function_or_method";
        case J_FUNC:
            return jstr_is(&(JStr){.ptr = v.func->sig.name, .len = strlen(v.func->sig.name)},
                           "dict")
                       ? "TemplateDict"
                       : "function";
        case J_CYCLER: return "Cycler";
        case J_JOINER: return "Joiner";
        case J_SLICE: return "slice";
        case J_SELF: return "TemplateReference";
        case J_BLOCK_REF: return "BlockReference";
    }
    return "object";
}

static int64_t jval_loop_known_len(const JLoop *loop) {
    return jval_has_len(loop->iterable) ? 0 : -1;
}

bool jval_has_len(JVal v) {
    switch (v.tag) {
        case J_UNDEFINED:
        case J_STR:
        case J_LIST:
        case J_TUPLE:
        case J_DICT:
        case J_RANGE:
        case J_VIEW:
        case J_LOOP: return true;
        default: return false;
    }
}

bool jval_is_iterable(JVal v) {
    switch (v.tag) {
        case J_UNDEFINED:
        case J_STR:
        case J_LIST:
        case J_TUPLE:
        case J_DICT:
        case J_RANGE:
        case J_VIEW:
        case J_GEN:
        case J_LOOP: return true;
        default: return false;
    }
}

/* LoopContext.length: a loop over a generator takes the rest of it into a list. */
static Status jval_loop_len(JRun *run, JLoop *loop, int64_t *out) {
    if (loop->length < 0) {
        if (jval_loop_known_len(loop) >= 0) {
            TRY(jval_len(run, loop->iterable, &loop->length));
        } else {
            JVal rest;
            TRY(jval_list_new(run, 4, &rest));
            for (;;) {
                JVal v;
                bool more;
                TRY(jiter_next(run, &loop->iter, &v, &more));
                if (!more) break;
                TRY(jval_list_push(run, rest.list, v));
            }
            TRY(jiter_open(run, rest, &loop->iter));
            loop->length =
                (int64_t)rest.list->n + loop->index0 + 1 + (loop->after.tag != J_MISSING);
        }
    }
    *out = loop->length;
    return OK;
}

Status jval_len(JRun *run, JVal v, int64_t *out) {
    switch (v.tag) {
        case J_UNDEFINED: *out = 0; return OK;
        case J_STR: *out = (int64_t)v.s->n_chars; return OK;
        case J_LIST:
        case J_TUPLE: *out = (int64_t)v.list->n; return OK;
        case J_DICT: *out = (int64_t)v.dict->n; return OK;
        case J_RANGE: *out = v.range->n; return OK;
        case J_VIEW: *out = (int64_t)v.view->dict->n; return OK;
        case J_LOOP: return jval_loop_len(run, v.loop, out);
        default:
            return jrun_raise(run, "TypeError", "object of type '%s' has no len()",
                              jval_type_name(v));
    }
}

Status jval_truth(JRun *run, JVal v, bool *out) {
    switch (v.tag) {
        case J_MISSING:
        case J_UNDEFINED:
        case J_NONE: *out = false; return OK;
        case J_BOOL: *out = v.b; return OK;
        case J_INT: *out = v.i != 0; return OK;
        case J_FLOAT: *out = v.f != 0; return OK;
        case J_STR: *out = v.s->len > 0; return OK;
        default: break;
    }
    *out = true;
    if (!jval_has_len(v)) return OK;
    int64_t n;
    TRY(jval_len(run, v, &n));
    *out = n != 0;
    return OK;
}

static bool jval_number_equal(JVal a, JVal b) {
    if (jval_is_int(a) && jval_is_int(b)) return jval_as_int(a) == jval_as_int(b);
    if (a.tag == J_FLOAT && b.tag == J_FLOAT) return a.f == b.f;
    /* long double holds every int64 and every double */
    long double x = a.tag == J_FLOAT ? (long double)a.f : (long double)jval_as_int(a);
    long double y = b.tag == J_FLOAT ? (long double)b.f : (long double)jval_as_int(b);
    return x == y;
}

static Status jval_list_equal(JRun *run, const JList *a, const JList *b, bool *out) {
    *out = a == b;
    if (a == b || a->n != b->n) return OK;
    TRY(jrun_enter(run));
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++) TRY(jval_equal(run, a->v[i], b->v[i], out));
    jrun_leave(run);
    return OK;
}

static Status jval_dict_equal(JRun *run, const JDict *a, const JDict *b, bool *out) {
    *out = a == b;
    if (a == b || a->n != b->n) return OK;
    TRY(jrun_enter(run));
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++) {
        JVal other;
        TRY(jdict_find(run, b, a->item[i].key, &other));
        if (other.tag == J_MISSING) {
            *out = false;
        } else {
            TRY(jval_equal(run, a->item[i].value, other, out));
        }
    }
    jrun_leave(run);
    return OK;
}

Status jval_equal(JRun *run, JVal a, JVal b, bool *out) {
    TRY(jrun_step(run, 1));
    *out = false;
    if (jval_is_number(a) && jval_is_number(b)) {
        *out = jval_number_equal(a, b);
        return OK;
    }
    if (a.tag != b.tag) return OK;
    switch (a.tag) {
        case J_MISSING:
        case J_UNDEFINED:
        case J_NONE: *out = true; return OK;
        case J_STR: *out = jstr_same(a.s, b.s); return OK;
        case J_LIST:
        case J_TUPLE: return jval_list_equal(run, a.list, b.list, out);
        case J_DICT: return jval_dict_equal(run, a.dict, b.dict, out);
        case J_RANGE:
            *out = a.range->n == b.range->n &&
                   (a.range->n == 0 || (a.range->start == b.range->start &&
                                        (a.range->n == 1 || a.range->step == b.range->step)));
            return OK;
        case J_METHOD:
            *out = a.method->def == b.method->def && a.method->self.tag == b.method->self.tag &&
                   a.method->self.s == b.method->self.s;
            return OK;
        default: *out = a.s == b.s; return OK; /* the same object */
    }
}

/* Lists and tuples: by the first items that differ. */
static Status jval_list_compare(JRun *run, const JList *a, const JList *b, const char *op,
                                bool *out) {
    TRY(jrun_enter(run));
    size_t i = 0, n = MIN(a->n, b->n);
    for (; i < n; i++) {
        bool same;
        TRY(jval_equal(run, a->v[i], b->v[i], &same));
        if (!same) break;
    }
    if (i < n) {
        TRY(jval_compare(run, a->v[i], b->v[i], op, out));
    } else {
        bool less = a->n < b->n, same = a->n == b->n;
        *out = op[0] == '<' ? less || (same && op[1] == '=')
                            : (!less && !same) || (same && op[1] == '=');
    }
    jrun_leave(run);
    return OK;
}

static int jval_str_order(const JStr *a, const JStr *b) {
    int c = memcmp(a->ptr, b->ptr, MIN(a->len, b->len)); /* UTF-8 sorts as code points do */
    return c != 0 ? c : (a->len > b->len) - (a->len < b->len);
}

Status jval_compare(JRun *run, JVal a, JVal b, const char *op, bool *out) {
    TRY(jrun_step(run, 1));
    if (a.tag == J_UNDEFINED) return jval_undefined_fail(run, a);
    if (b.tag == J_UNDEFINED) return jval_undefined_fail(run, b);
    bool equal_too = op[1] == '=';
    if (jval_is_number(a) && jval_is_number(b)) {
        long double x = a.tag == J_FLOAT ? (long double)a.f : (long double)jval_as_int(a);
        long double y = b.tag == J_FLOAT ? (long double)b.f : (long double)jval_as_int(b);
        *out = (op[0] == '<' ? x < y : x > y) || (equal_too && x == y);
        return OK;
    }
    if (a.tag == J_STR && b.tag == J_STR) {
        int c = jval_str_order(a.s, b.s);
        *out = (op[0] == '<' ? c < 0 : c > 0) || (equal_too && c == 0);
        return OK;
    }
    if (a.tag == b.tag && (a.tag == J_LIST || a.tag == J_TUPLE))
        return jval_list_compare(run, a.list, b.list, op, out);
    return jrun_raise(run, "TypeError", "'%s' not supported between instances of '%s' and '%s'", op,
                      jval_type_name(a), jval_type_name(b));
}

Status jval_contains(JRun *run, JVal haystack, JVal needle, bool *out) {
    *out = false;
    if (haystack.tag == J_STR) {
        if (needle.tag != J_STR) {
            if (needle.tag == J_UNDEFINED)
                return jrun_raise(run, "TypeError",
                                  "'in <string>' requires string as left operand, not Undefined");
            return jrun_raise(run, "TypeError",
                              "'in <string>' requires string as left operand, not %s",
                              jval_type_name(needle));
        }
        TRY(jrun_step(run, (int64_t)(haystack.s->len / 256)));
        *out = jstr_find(haystack.s, needle.s, 0) != SIZE_MAX;
        return OK;
    }
    if (haystack.tag == J_DICT || (haystack.tag == J_VIEW && haystack.view->kind == JVIEW_KEYS)) {
        JVal found;
        TRY(jdict_find(run, haystack.tag == J_DICT ? haystack.dict : haystack.view->dict, needle,
                       &found));
        *out = found.tag != J_MISSING;
        return OK;
    }
    if (!jval_is_iterable(haystack))
        return jrun_raise(run, "TypeError", "argument of type '%s' is not iterable",
                          jval_type_name(haystack));
    JIter iter;
    TRY(jiter_open(run, haystack, &iter));
    for (;;) {
        JVal v;
        bool more;
        TRY(jiter_next(run, &iter, &v, &more));
        if (!more) return OK;
        TRY(jval_equal(run, v, needle, out));
        if (*out) return OK;
    }
}

Status jval_hash(JRun *run, JVal v, uint64_t *out) {
    switch (v.tag) {
        case J_STR: *out = jstr_hash(v.s); return OK;
        case J_BOOL:
        case J_INT: *out = hash_mix((uint64_t)jval_as_int(v)); return OK;
        case J_FLOAT:
            if (v.f == floor(v.f) && fabs(v.f) < 9e18) {
                *out = hash_mix((uint64_t)(int64_t)v.f); /* 1.0 is the same key as 1 */
            } else {
                *out = hash_bytes(&v.f, sizeof(v.f), 1);
            }
            return OK;
        case J_LIST:
        case J_DICT:
        case J_SLICE:
        case J_NAMESPACE: {
            if (v.tag == J_NAMESPACE) break;
            return jrun_raise(run, "TypeError", "unhashable type: '%s'", jval_type_name(v));
        }
        case J_VIEW:
            if (v.view->kind == JVIEW_VALUES) break;
            return jrun_raise(run, "TypeError", "unhashable type: '%s'", jval_type_name(v));
        case J_TUPLE: {
            TRY(jrun_enter(run));
            uint64_t h = 77;
            for (size_t i = 0; i < v.list->n; i++) {
                uint64_t one;
                TRY(jval_hash(run, v.list->v[i], &one));
                h = hash_mix(h ^ one);
            }
            jrun_leave(run);
            *out = h;
            return OK;
        }
        case J_RANGE: *out = hash_mix((uint64_t)v.range->n); return OK;
        case J_METHOD: *out = hash_mix((uintptr_t)v.method->def); return OK;
        case J_NONE:
        case J_UNDEFINED:
        case J_MISSING: *out = hash_mix(v.tag + 1000); return OK;
        default: break;
    }
    *out = hash_mix((uintptr_t)v.s);
    return OK;
}

Status jval_undefined_fail(JRun *run, JVal v) {
    const JUndef *u = v.undef;
    const char *exc = u->unsafe ? "SecurityError" : "UndefinedError";
    if (u->hint != NULL) return jrun_raise(run, exc, "%.*s", STR_ARG(jstr_bytes(u->hint)));
    JOut text = {.run = run};
    const char *type = u->object.tag == J_NONE ? "None" : jval_type_name(u->object);
    const char *module = u->object.tag == J_CYCLER || u->object.tag == J_JOINER ? "jinja2.utils."
                         : u->object.tag == J_MACRO || u->object.tag == J_LOOP  ? "jinja2.runtime."
                         : u->object.tag == J_STR && u->object.s->markup        ? "markupsafe."
                         : u->object.tag == J_TUPLE && u->object.list->group    ? "jinja2.filters."
                         : u->object.tag == J_NAMESPACE
                             ? "transformers.utils.chat_template_utils._cached_compile_jinja_"
                               "template.<locals>."
                             : "";
    const char *object = u->object.tag == J_NONE ? "" : " object";
    if (u->object.tag == J_MISSING) {
        jtext_repr(&text, u->name);
        jout_text(&text, " is undefined");
    } else if (u->name.tag != J_STR) {
        jout_format(&text, "%s%s%s has no element ", module, type, object);
        jtext_repr(&text, u->name);
    } else {
        jout_format(&text, "'%s%s%s' has no attribute ", module, type, object);
        jtext_repr(&text, u->name);
    }
    JVal message;
    TRY(jout_finish(&text, &message));
    return jrun_raise(run, exc, "%.*s", STR_ARG(jstr_bytes(message.s)));
}

Status jval_undefined_new(JRun *run, JVal object, JVal name, JVal *out) {
    JUndef *u = jrun_alloc(run, 1, sizeof(*u));
    if (u == NULL) return jrun_no_memory(run);
    u->object = object;
    u->name = name;
    *out = (JVal){.tag = J_UNDEFINED, .undef = u};
    return OK;
}

Status jval_undefined_hint(JRun *run, const char *hint, JVal *out) {
    JVal text;
    TRY(jstr_copy(run, hint, strlen(hint), &text));
    TRY(jval_undefined_new(run, (JVal){0}, (JVal){0}, out));
    out->undef->hint = text.s;
    return OK;
}

Status jval_list_new(JRun *run, size_t cap, JVal *out) {
    JList *list = jrun_alloc(run, 1, sizeof(*list));
    if (list == NULL) return jrun_no_memory(run);
    if (cap > 0) {
        list->v = jrun_alloc(run, cap, sizeof(JVal));
        list->tail = jrun_alloc(run, 1, sizeof(*list->tail));
        if (list->v == NULL || list->tail == NULL) return jrun_no_memory(run);
        list->tail->cap = cap;
    }
    *out = (JVal){.tag = J_LIST, .list = list};
    return OK;
}

/* A list that ends where its room is used up grows in place even if shorter lists share the
 * room. */
Status jval_list_push(JRun *run, JList *list, JVal v) {
    if (list->tail == NULL || list->tail->used != list->n || list->n == list->tail->cap) {
        size_t cap = MAX(list->n * 2, (size_t)4);
        JVal *grown = jrun_alloc(run, cap, sizeof(JVal));
        JTail *tail = jrun_alloc(run, 1, sizeof(*tail));
        if (grown == NULL || tail == NULL) return jrun_no_memory(run);
        if (list->n > 0) memcpy(grown, list->v, list->n * sizeof(JVal));
        *tail = (JTail){.used = list->n, .cap = cap};
        list->v = grown;
        list->tail = tail;
    }
    list->v[list->n++] = v;
    list->tail->used = list->n;
    return OK;
}

Status jval_tuple2(JRun *run, JVal a, JVal b, JVal *out) {
    TRY(jval_list_new(run, 2, out));
    out->tag = J_TUPLE;
    TRY(jval_list_push(run, out->list, a));
    return jval_list_push(run, out->list, b);
}

Status jval_to_list(JRun *run, JVal v, JVal *out) {
    JIter iter;
    TRY(jiter_open(run, v, &iter));
    int64_t n = 0;
    if (jval_has_len(v)) TRY(jval_len(run, v, &n));
    TRY(jval_list_new(run, (size_t)n, out));
    for (;;) {
        JVal item;
        bool more;
        TRY(jiter_next(run, &iter, &item, &more));
        if (!more) return OK;
        TRY(jval_list_push(run, out->list, item));
    }
}
