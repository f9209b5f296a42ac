/* jattr: object.name, object[key] and slices, as the sandbox resolves them. */
#include "text/jinja_priv.h"

static Status jattr_loop_peek(JRun *run, JLoop *loop, bool *more) {
    *more = loop->after.tag != J_MISSING;
    if (*more) return OK;
    JVal v;
    TRY(jiter_next(run, &loop->iter, &v, more));
    if (*more) loop->after = v;
    return OK;
}

static Status jattr_loop(JRun *run, JLoop *loop, const JStr *name, JVal *out) {
    bool more;
    int64_t n;
    if (jstr_is(name, "index0")) *out = jval_int(loop->index0);
    if (jstr_is(name, "index")) *out = jval_int(loop->index0 + 1);
    if (jstr_is(name, "first")) *out = jval_bool(loop->index0 == 0);
    if (jstr_is(name, "depth")) *out = jval_int(loop->depth0 + 1);
    if (jstr_is(name, "depth0")) *out = jval_int(loop->depth0);
    if (jstr_is(name, "last")) {
        TRY(jattr_loop_peek(run, loop, &more));
        *out = jval_bool(!more);
    } else if (jstr_is(name, "length") || jstr_is(name, "revindex") || jstr_is(name, "revindex0")) {
        TRY(jval_len(run, (JVal){.tag = J_LOOP, .loop = loop}, &n));
        bool is_length = jstr_is(name, "length");
        *out = jval_int(is_length ? n : n - loop->index0 - jstr_is(name, "revindex0"));
    } else if (jstr_is(name, "previtem")) {
        if (loop->index0 == 0) return jval_undefined_hint(run, "there is no previous item", out);
        *out = loop->before;
    } else if (jstr_is(name, "nextitem")) {
        TRY(jattr_loop_peek(run, loop, &more));
        if (!more) return jval_undefined_hint(run, "there is no next item", out);
        *out = loop->after;
    }
    return OK;
}

static Status jattr_macro(JRun *run, const JMacro *macro, const JStr *name, JVal *out) {
    if (jstr_is(name, "name")) *out = macro->name != NULL ? jval_of_str(macro->name) : jval_none();
    if (jstr_is(name, "catch_kwargs")) *out = jval_bool(macro->func->special & MACRO_KWARGS);
    if (jstr_is(name, "catch_varargs")) *out = jval_bool(macro->func->special & MACRO_VARARGS);
    if (jstr_is(name, "caller")) *out = jval_bool(macro->func->special & MACRO_CALLER);
    if (jstr_is(name, "explicit_caller")) *out = jval_bool(macro->func->explicit_caller);
    if (!jstr_is(name, "arguments")) return OK;
    TRY(jval_list_new(run, macro->node->n, out));
    for (size_t i = 0; i < macro->node->n; i++)
        TRY(jval_list_push(run, out->list, jval_of_str(macro->node->item[i]->name)));
    out->tag = J_TUPLE;
    return OK;
}

static void jattr_number(JVal v, const JStr *name, JVal *out) {
    bool is_int = jval_is_int(v);
    if (jstr_is(name, "real")) *out = is_int ? jval_int(jval_as_int(v)) : v;
    if (jstr_is(name, "imag")) *out = is_int ? jval_int(0) : jval_float(0);
    if (is_int && jstr_is(name, "numerator")) *out = jval_int(jval_as_int(v));
    if (is_int && jstr_is(name, "denominator")) *out = jval_int(1);
}

static Status jattr_property(JRun *run, JVal object, const JStr *name, JVal *out) {
    switch (object.tag) {
        case J_LOOP: return jattr_loop(run, object.loop, name, out);
        case J_MACRO: return jattr_macro(run, object.macro, name, out);
        case J_NAMESPACE: *out = jdict_get(object.dict, name); return OK;
        case J_BOOL:
        case J_INT:
        case J_FLOAT: jattr_number(object, name, out); return OK;
        case J_TUPLE:
            if (object.list->group && jstr_is(name, "grouper")) *out = object.list->v[0];
            if (object.list->group && jstr_is(name, "list")) *out = object.list->v[1];
            return OK;
        case J_RANGE:
            if (jstr_is(name, "start")) *out = jval_int(object.range->start);
            if (jstr_is(name, "stop")) *out = jval_int(object.range->stop);
            if (jstr_is(name, "step")) *out = jval_int(object.range->step);
            return OK;
        case J_CYCLER:
            if (jstr_is(name, "current")) *out = object.cycler->items->v[object.cycler->pos];
            if (jstr_is(name, "pos")) *out = jval_int((int64_t)object.cycler->pos);
            if (jstr_is(name, "items")) *out = (JVal){.tag = J_TUPLE, .list = object.cycler->items};
            return OK;
        case J_JOINER:
            if (jstr_is(name, "sep")) *out = object.joiner->sep;
            if (jstr_is(name, "used")) *out = jval_bool(object.joiner->used);
            return OK;
        case J_BLOCK_REF:
            if (jstr_is(name, "name")) *out = jval_of_str(object.block->name);
            return OK;
        default: return OK;
    }
}

/* Attributes that every Python object has; the sandbox gives none of them out. */
static bool jattr_is_dunder(const JStr *name) {
    static const char *const names[] = {
        "__class__",    "__init__",      "__doc__",     "__dict__",         "__module__",
        "__eq__",       "__ne__",        "__hash__",    "__str__",          "__repr__",
        "__len__",      "__getitem__",   "__iter__",    "__contains__",     "__new__",
        "__reduce__",   "__reduce_ex__", "__setattr__", "__getattribute__", "__delattr__",
        "__dir__",      "__format__",    "__sizeof__",  "__subclasshook__", "__init_subclass__",
        "__lt__",       "__le__",        "__gt__",      "__ge__",           "__add__",
        "__mul__",      "__call__",      "__globals__", "__self__",         "__name__",
        "__qualname__", "__getstate__"};
    if (!str_starts_with(jstr_bytes(name), "__")) return false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (jstr_is(name, names[i])) return true;
    return false;
}

Status jattr_raw(JRun *run, JVal object, const JStr *name, JVal *out, bool *unsafe) {
    *out = (JVal){0};
    *unsafe = false;
    if (jattr_is_dunder(name) && object.tag != J_NAMESPACE) {
        *unsafe = true;
        *out = jval_none();
        return OK;
    }
    TRY(jattr_property(run, object, name, out));
    if (out->tag != J_MISSING || object.tag == J_NAMESPACE) return OK;
    const JMethodDef *def = jmethods_find(object.tag, name, unsafe);
    if (def == NULL || (object.tag == J_FUNC && !str_is(str_from(object.func->sig.name), "dict")))
        return OK;
    JMethod *method = jrun_alloc(run, 1, sizeof(*method));
    if (method == NULL) return jrun_no_memory(run);
    *method = (JMethod){.self = object, .def = def};
    *out = (JVal){.tag = J_METHOD, .method = method};
    return OK;
}

static Status jattr_unsafe(JRun *run, JVal object, const JStr *name, JVal *out) {
    JOut hint = {.run = run};
    JVal text;
    jout_text(&hint, "access to attribute ");
    jtext_repr_str(&hint, name, false);
    jout_format(&hint, " of '%s' object is unsafe.", jval_type_name(object));
    TRY(jout_finish(&hint, &text));
    TRY(jval_undefined_new(run, object, jval_of_str(name), out));
    out->undef->hint = text.s;
    out->undef->unsafe = true;
    return OK;
}

static bool jattr_hashable(JVal v) {
    if (v.tag == J_LIST || v.tag == J_DICT || v.tag == J_SLICE) return false;
    if (v.tag == J_VIEW) return v.view->kind == JVIEW_VALUES;
    for (size_t i = 0; v.tag == J_TUPLE && i < v.list->n; i++)
        if (v.list->v[i].tag == J_TUPLE || !jattr_hashable(v.list->v[i])) return false;
    return true;
}

/* object[key] of Python where it does not raise; J_MISSING where it does. */
static Status jattr_subscript(JRun *run, JVal object, JVal key, JVal *out) {
    *out = (JVal){0};
    if (object.tag == J_DICT)
        return jattr_hashable(key) ? jdict_find(run, object.dict, key, out) : OK;
    if (object.tag == J_SELF && key.tag == J_STR) {
        for (size_t i = 0; i < run->jinja->n_blocks; i++)
            if (jstr_same(run->jinja->block[i]->name, key.s))
                *out = (JVal){.tag = J_BLOCK_REF, .block = run->jinja->block[i]};
        return OK;
    }
    bool indexable = object.tag == J_STR || object.tag == J_LIST || object.tag == J_TUPLE ||
                     object.tag == J_RANGE;
    if (!indexable || !jval_is_int(key)) return OK;
    int64_t n, i = jval_as_int(key);
    TRY(jval_len(run, object, &n));
    if (i < 0) i += n;
    if (i < 0 || i >= n) return OK;
    if (object.tag == J_RANGE) {
        *out = jval_int(object.range->start + i * object.range->step);
    } else if (object.tag == J_STR) {
        size_t from = jstr_offset(object.s, (size_t)i), to = from;
        TRY(jrun_step(run, object.s->n_chars == object.s->len ? 0 : (int64_t)(from / 48)));
        jstr_next(object.s, &to);
        return jstr_sub(run, object.s, from, to, out);
    } else {
        *out = object.list->v[i];
    }
    return OK;
}

Status jattr_get(JRun *run, JVal object, const JStr *name, JVal *out) {
    if (object.tag == J_UNDEFINED) return jval_undefined_fail(run, object);
    bool unsafe;
    TRY(jattr_raw(run, object, name, out, &unsafe));
    if (unsafe) return jattr_unsafe(run, object, name, out);
    if (out->tag != J_MISSING) return OK;
    TRY(jattr_subscript(run, object, jval_of_str(name), out));
    if (out->tag != J_MISSING) return OK;
    return jval_undefined_new(run, object, jval_of_str(name), out);
}

Status jattr_item(JRun *run, JVal object, JVal key, JVal *out) {
    if (object.tag == J_UNDEFINED) return jval_undefined_fail(run, object);
    TRY(jattr_subscript(run, object, key, out));
    if (out->tag != J_MISSING) return OK;
    if (key.tag == J_STR) {
        bool unsafe;
        TRY(jattr_raw(run, object, key.s, out, &unsafe));
        if (unsafe) return jattr_unsafe(run, object, key.s, out);
        if (out->tag != J_MISSING) return OK;
    }
    return jval_undefined_new(run, object, key, out);
}

/* A bound of a slice, clamped as Python clamps it. */
static Status jattr_slice_bound(JRun *run, JVal v, int64_t n, int64_t step, int64_t absent,
                                int64_t *out) {
    *out = absent;
    if (v.tag == J_NONE) return OK;
    if (!jval_is_int(v))
        return jrun_raise(run, "TypeError",
                          "slice indices must be integers or None or have an __index__ method");
    int64_t i = jval_as_int(v);
    if (i < 0) {
        i += n;
        if (i < 0) i = step < 0 ? -1 : 0;
    } else if (i >= n) {
        i = step < 0 ? n - 1 : n;
    }
    *out = i;
    return OK;
}

static Status jattr_slice_str(JRun *run, const JStr *s, int64_t start, int64_t step, int64_t count,
                              JVal *out) {
    TRY(jrun_step(run, (int64_t)(s->len / 256) + count / 16));
    if (step == 1 || count == 0) {
        size_t from = jstr_offset(s, (size_t)start), to = from;
        if (s->n_chars == s->len) {
            to = from + (size_t)count;
        } else {
            for (int64_t i = 0; i < count; i++) jstr_next(s, &to);
        }
        return jstr_sub(run, s, from, to, out);
    }
    size_t *offset = NULL;
    if (s->n_chars != s->len) {
        offset = jrun_alloc(run, s->n_chars + 1, sizeof(size_t));
        if (offset == NULL) return jrun_no_memory(run);
        size_t k = 0;
        for (size_t i = 0; i < s->len; k++) {
            offset[k] = i;
            jstr_next(s, &i);
        }
        offset[k] = s->len;
    }
    JOut text = {.run = run};
    for (int64_t i = 0; i < count; i++) {
        size_t at = (size_t)(start + i * step);
        jout_sub(&text, s, offset != NULL ? offset[at] : at,
                 offset != NULL ? offset[at + 1] : at + 1);
    }
    TRY(jout_finish(&text, out));
    out->s->markup = s->markup;
    return OK;
}

Status jattr_slice(JRun *run, JVal object, const JSlice *slice, JVal *out) {
    if (object.tag == J_UNDEFINED) return jval_undefined_fail(run, object);
    if (object.tag == J_DICT) return jrun_raise(run, "TypeError", "unhashable type: 'slice'");
    if (object.tag != J_STR && object.tag != J_LIST && object.tag != J_TUPLE &&
        object.tag != J_RANGE)
        return jrun_raise(run, "TypeError", "'%s' object is not subscriptable",
                          jval_type_name(object));
    int64_t n, start, stop, step;
    TRY(jval_len(run, object, &n));
    if (slice->step.tag != J_NONE && !jval_is_int(slice->step))
        return jrun_raise(run, "TypeError",
                          "slice indices must be integers or None or have an __index__ method");
    step = slice->step.tag == J_NONE ? 1 : MAX(jval_as_int(slice->step), -INT64_MAX);
    if (step == 0) return jrun_raise(run, "ValueError", "slice step cannot be zero");
    TRY(jattr_slice_bound(run, slice->start, n, step, step < 0 ? n - 1 : 0, &start));
    TRY(jattr_slice_bound(run, slice->stop, n, step, step < 0 ? -1 : n, &stop));
    int64_t count = 0;
    if (step < 0 && stop < start) count = (start - stop - 1) / -step + 1;
    if (step > 0 && start < stop) count = (stop - start - 1) / step + 1;
    if (object.tag == J_STR) return jattr_slice_str(run, object.s, start, step, count, out);
    if (object.tag == J_RANGE) {
        JRange *range = jrun_alloc(run, 1, sizeof(*range));
        if (range == NULL) return jrun_no_memory(run);
        const JRange *r = object.range;
        *range = (JRange){.start = r->start + start * r->step,
                          .stop = r->start + stop * r->step,
                          .step = r->step * step,
                          .n = count};
        *out = (JVal){.tag = J_RANGE, .range = range};
        return OK;
    }
    TRY(jrun_step(run, count / 16));
    TRY(jval_list_new(run, (size_t)count, out));
    for (int64_t i = 0; i < count; i++)
        TRY(jval_list_push(run, out->list, object.list->v[start + i * step]));
    out->tag = object.tag;
    return OK;
}
