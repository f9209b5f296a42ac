/* jcall: calls: binding of arguments, and the global functions. */
#include <time.h>

#include "text/jinja_priv.h"

static Status jcall_bad_count(JRun *run, const JSig *sig, size_t given) {
    if (sig->n_min == sig->n_max)
        return jrun_raise(run, "TypeError", "%s() takes exactly %d arguments (%zu given)",
                          sig->name, sig->n_min, given);
    return jrun_raise(run, "TypeError", "%s() takes from %d to %d arguments (%zu given)", sig->name,
                      sig->n_min, sig->n_max, given);
}

/* The number of the parameter of that name, or -1. */
static int jcall_param(const JSig *sig, const JStr *name) {
    int i = 0;
    for (const char *p = sig->params; p != NULL && *p != 0; i++) {
        size_t len = strcspn(p, " ");
        if (len == name->len && memcmp(p, name->ptr, len) == 0) return i;
        p += len + (p[len] == ' ');
    }
    return -1;
}

Status jcall_sig(JRun *run, const JSig *sig, JVal self, const JArgs *args, JVal *out) {
    TRY(jrun_step(run, 1));
    if (sig->var != NULL) return sig->var(run, self, args, out);
    if (sig->fixed == NULL) return jrun_unsupported(run, sig->name);
    JVal arg[JSIG_ARGS_MAX + 1] = {self};
    if (args->n > sig->n_max) return jcall_bad_count(run, sig, args->n);
    for (size_t i = 0; i < args->n; i++) arg[i + 1] = args->pos[i];
    for (size_t i = 0; i < args->n_kw; i++) {
        const JStr *name = args->kw_name[i].s;
        if (sig->params == NULL)
            return jrun_raise(run, "TypeError", "%s() takes no keyword arguments", sig->name);
        int param = jcall_param(sig, name);
        if (param < 0)
            return jrun_raise(run, "TypeError", "%s() got an unexpected keyword argument '%.*s'",
                              sig->name, STR_ARG(jstr_bytes(name)));
        if (arg[param + 1].tag != J_MISSING)
            return jrun_raise(run, "TypeError", "%s() got multiple values for argument '%.*s'",
                              sig->name, STR_ARG(jstr_bytes(name)));
        arg[param + 1] = args->kw[i];
    }
    for (int i = 0; i < sig->n_min; i++)
        if (arg[i + 1].tag == J_MISSING) return jcall_bad_count(run, sig, args->n);
    return sig->fixed(run, arg, out);
}

Status jcall(JRun *run, JVal callee, const JArgs *args, JVal *out) {
    switch (callee.tag) {
        case J_MACRO: return jinja_exec_macro(run, callee.macro, args, out);
        case J_METHOD:
            return jcall_sig(run, &callee.method->def->sig, callee.method->self, args, out);
        case J_FUNC: return jcall_sig(run, &callee.func->sig, jval_none(), args, out);
        case J_UNDEFINED: return jval_undefined_fail(run, callee);
        case J_LOOP:
            if (args->n != 1 || args->n_kw != 0)
                return jrun_raise(run, "TypeError", "loop() takes exactly one argument (%zu given)",
                                  args->n);
            return jinja_exec_loop_call(run, callee.loop, args->pos[0], out);
        case J_BLOCK_REF: return jinja_exec_block_text(run, callee.block, out);
        case J_JOINER:
            *out = callee.joiner->sep;
            if (!callee.joiner->used) TRY(jstr_new(run, "", 0, false, out));
            callee.joiner->used = true;
            return OK;
        default:
            return jrun_raise(run, "TypeError", "'%s' object is not callable",
                              jval_type_name(callee));
    }
}

static Status jcall_attribute_part(JRun *run, JVal *item, const JStr *path, size_t from, size_t to,
                                   JVal fallback) {
    JVal part;
    bool digits = to > from;
    for (size_t i = from; i < to; i++) digits &= path->ptr[i] >= '0' && path->ptr[i] <= '9';
    TRY(jstr_sub(run, path, from, to, &part));
    int64_t index;
    bool overflow;
    if (digits && jnum_parse_int(part.s, 10, &index, &overflow)) part = jval_int(index);
    TRY(jattr_item(run, *item, part, item));
    if (fallback.tag != J_MISSING && fallback.tag != J_NONE && item->tag == J_UNDEFINED)
        *item = fallback;
    return OK;
}

Status jcall_attribute(JRun *run, JVal item, JVal attribute, JVal fallback, JVal *out) {
    *out = item;
    if (attribute.tag == J_MISSING || attribute.tag == J_NONE) return OK;
    if (attribute.tag != J_STR) {
        TRY(jattr_item(run, item, attribute, out));
        if (fallback.tag != J_MISSING && fallback.tag != J_NONE && out->tag == J_UNDEFINED)
            *out = fallback;
        return OK;
    }
    const JStr *path = attribute.s;
    for (size_t from = 0;;) {
        size_t to = MIN(str_find(jstr_bytes(path), STR_LIT("."), from), path->len);
        TRY(jcall_attribute_part(run, out, path, from, to, fallback));
        if (to == path->len) return OK;
        from = to + 1;
    }
}

/* ---- global functions
 * -------------------------------------------------------------------------- */

static Status jcall_range(JRun *run, const JVal *arg, JVal *out) {
    int64_t v[3] = {0, 0, 1};
    for (int i = 0; i < 3; i++)
        if (arg[i + 1].tag == J_UNDEFINED) return jval_undefined_fail(run, arg[i + 1]);
    if (arg[2].tag == J_MISSING) {
        TRY(jnum_index(run, arg[1], &v[1]));
    } else {
        for (int i = 0; i < 3 && arg[i + 1].tag != J_MISSING; i++)
            TRY(jnum_index(run, arg[i + 1], &v[i]));
    }
    if (v[2] == 0) return jrun_raise(run, "ValueError", "range() arg 3 must not be zero");
    uint64_t n = 0;
    if (v[2] > 0 && v[0] < v[1]) n = ((uint64_t)v[1] - (uint64_t)v[0] - 1) / (uint64_t)v[2] + 1;
    if (v[2] < 0 && v[0] > v[1])
        n = ((uint64_t)v[0] - (uint64_t)v[1] - 1) / (0 - (uint64_t)v[2]) + 1;
    if (n > 100000)
        return jrun_raise(
            run, "OverflowError",
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    JRange *range = jrun_alloc(run, 1, sizeof(*range));
    if (range == NULL) return jrun_no_memory(run);
    *range = (JRange){.start = v[0], .stop = v[1], .step = v[2], .n = (int64_t)n};
    *out = (JVal){.tag = J_RANGE, .range = range};
    return OK;
}

static Status jcall_dict_from(JRun *run, JDict *dict, JVal source) {
    if (source.tag == J_DICT) {
        for (size_t i = 0; i < source.dict->n; i++)
            TRY(jdict_put(run, dict, source.dict->item[i].key, source.dict->item[i].value));
        return OK;
    }
    JIter iter;
    TRY(jiter_open(run, source, &iter));
    for (size_t i = 0;; i++) {
        JVal pair, list;
        bool more;
        TRY(jiter_next(run, &iter, &pair, &more));
        if (!more) return OK;
        if (!jval_is_iterable(pair))
            return jrun_raise(
                run, "TypeError",
                "cannot convert dictionary update sequence element #%zu to a sequence", i);
        TRY(jval_to_list(run, pair, &list));
        if (list.list->n != 2)
            return jrun_raise(
                run, "ValueError",
                "dictionary update sequence element #%zu has length %zu; 2 is required", i,
                list.list->n);
        TRY(jdict_put(run, dict, list.list->v[0], list.list->v[1]));
    }
}

static Status jcall_dict(JRun *run, JVal self, const JArgs *args, JVal *out) {
    (void)self;
    JDict *dict;
    if (args->n > 1)
        return jrun_raise(run, "TypeError", "dict expected at most 1 argument, got %zu", args->n);
    TRY(jdict_new(run, args->n_kw, &dict));
    if (args->n == 1) TRY(jcall_dict_from(run, dict, args->pos[0]));
    for (size_t i = 0; i < args->n_kw; i++)
        TRY(jdict_put(run, dict, args->kw_name[i], args->kw[i]));
    *out = (JVal){.tag = J_DICT, .dict = dict};
    return OK;
}

static Status jcall_namespace(JRun *run, JVal self, const JArgs *args, JVal *out) {
    TRY(jcall_dict(run, self, args, out));
    for (size_t i = 0; i < out->dict->n; i++) {
        JVal key = out->dict->item[i].key;
        if (key.tag == J_STR && key.s->len > 0 && key.s->ptr[0] == '_')
            return jrun_raise(run, "SecurityError",
                              "Chat templates cannot store underscore-prefixed attributes on a "
                              "namespace, but got '%.*s'. Please rename the attribute.",
                              STR_ARG(jstr_bytes(key.s)));
    }
    out->tag = J_NAMESPACE;
    return OK;
}

static Status jcall_cycler(JRun *run, JVal self, const JArgs *args, JVal *out) {
    (void)self;
    if (args->n_kw > 0) return jrun_raise(run, "TypeError", "Cycler() takes no keyword arguments");
    if (args->n == 0)
        return jrun_raise(run, "RuntimeError", "at least one item has to be provided");
    JCycler *cycler = jrun_alloc(run, 1, sizeof(*cycler));
    JVal items;
    if (cycler == NULL) return jrun_no_memory(run);
    TRY(jval_list_new(run, args->n, &items));
    for (size_t i = 0; i < args->n; i++) TRY(jval_list_push(run, items.list, args->pos[i]));
    cycler->items = items.list;
    *out = (JVal){.tag = J_CYCLER, .cycler = cycler};
    return OK;
}

static Status jcall_joiner(JRun *run, const JVal *arg, JVal *out) {
    JJoiner *joiner = jrun_alloc(run, 1, sizeof(*joiner));
    if (joiner == NULL) return jrun_no_memory(run);
    joiner->sep = arg[1];
    if (arg[1].tag == J_MISSING) TRY(jstr_new(run, ", ", 2, false, &joiner->sep));
    *out = (JVal){.tag = J_JOINER, .joiner = joiner};
    return OK;
}

static Status jcall_raise_exception(JRun *run, const JVal *arg, JVal *out) {
    JVal text;
    TRY(jtext_str(run, arg[1], &text));
    (void)out;
    return jrun_raise(run, "TemplateError", "%.*s", STR_ARG(jstr_bytes(text.s)));
}

static Status jcall_strftime(JRun *run, const JVal *arg, JVal *out) {
    enum { TEXT_BYTES = 4096 };
    if (arg[1].tag != J_STR)
        return jrun_raise(run, "TypeError", "strftime() argument 1 must be str, not %s",
                          jval_type_name(arg[1]));
    time_t now = (time_t)run->now;
    struct tm tm;
    if (gmtime_r(&now, &tm) == NULL)
        return jrun_raise(run, "ValueError", "the time is out of range");
    /* a naive datetime has no zone, and here no microseconds */
    char format[1024], text[TEXT_BYTES];
    size_t n = 0;
    const JStr *s = arg[1].s;
    for (size_t i = 0; i < s->len; i++) {
        if (n + 8 > sizeof(format))
            return jrun_raise(run, "ValueError", "strftime format of more than 1000 bytes");
        char c = s->ptr[i], next = i + 1 < s->len ? s->ptr[i + 1] : 0;
        if (c == '%' && (next == 'z' || next == 'Z' || next == 'f')) {
            if (next == 'f') memcpy(format + n, "000000", 6);
            n += next == 'f' ? 6 : 0;
            i++;
        } else {
            format[n++] = c;
            if (c == '%' && next != 0) format[n++] = s->ptr[++i];
        }
    }
    format[n] = 0;
    size_t len = n == 0 ? 0 : strftime(text, sizeof(text), format, &tm);
    return jstr_copy(run, text, len, out);
}

static const JFuncDef jcall_functions[] = {
    {{"range", jcall_range, NULL, 1, 3, NULL}},
    {{"dict", NULL, jcall_dict, 0, 0, NULL}},
    {{"lipsum", NULL, NULL, 0, 0, NULL}},
    {{"cycler", NULL, jcall_cycler, 0, 0, NULL}},
    {{"joiner", jcall_joiner, NULL, 0, 1, "sep"}},
    {{"namespace", NULL, jcall_namespace, 0, 0, NULL}},
    {{"raise_exception", jcall_raise_exception, NULL, 1, 1, "message"}},
    {{"strftime_now", jcall_strftime, NULL, 1, 1, "format"}},
};

const JFuncDef *jcall_function(const JStr *name) {
    for (size_t i = 0; i < ARRAY_LEN(jcall_functions); i++)
        if (jstr_is(name, jcall_functions[i].sig.name)) return &jcall_functions[i];
    return NULL;
}
