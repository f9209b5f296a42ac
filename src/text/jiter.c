/* jiter: walking lists, strings, dicts, ranges and the lazy generators that filters return. */
#include "text/jinja_priv.h"

Status jiter_open(JRun *run, JVal v, JIter *out) {
    if (!jval_is_iterable(v))
        return jrun_raise(run, "TypeError", "'%s' object is not iterable", jval_type_name(v));
    *out = (JIter){.source = v};
    return OK;
}

/* One code point of a string as a string; single ASCII letters are the common case. */
static Status jiter_char(JRun *run, JIter *iter, JVal *out) {
    size_t from = iter->pos;
    jstr_next(iter->source.s, &iter->pos);
    TRY(jstr_sub(run, iter->source.s, from, iter->pos, out));
    out->s->markup = false; /* the characters of a Markup are plain strings */
    return OK;
}

static Status jiter_view(JRun *run, JIter *iter, JVal *out) {
    const JDictItem *item = &iter->source.view->dict->item[iter->pos++];
    if (iter->source.view->kind == JVIEW_ITEMS)
        return jval_tuple2(run, item->key, item->value, out);
    *out = iter->source.view->kind == JVIEW_KEYS ? item->key : item->value;
    return OK;
}

Status jiter_next(JRun *run, JIter *iter, JVal *out, bool *more) {
    TRY(jrun_step(run, 1));
    JVal source = iter->source;
    *more = false;
    switch (source.tag) {
        case J_LIST:
        case J_TUPLE:
            if (iter->pos >= source.list->n) return OK;
            *out = source.list->v[iter->pos++];
            break;
        case J_STR:
            if (iter->pos >= source.s->len) return OK;
            TRY(jiter_char(run, iter, out));
            break;
        case J_DICT:
            if (iter->pos >= source.dict->n) return OK;
            *out = source.dict->item[iter->pos++].key;
            break;
        case J_VIEW:
            if (iter->pos >= source.view->dict->n) return OK;
            TRY(jiter_view(run, iter, out));
            break;
        case J_RANGE:
            if ((int64_t)iter->pos >= source.range->n) return OK;
            *out = jval_int(source.range->start + source.range->step * (int64_t)iter->pos++);
            break;
        case J_GEN: return jiter_gen(run, source.gen, out, more);
        case J_UNDEFINED: return OK;
        case J_LOOP: return jrun_unsupported(run, "walking a loop from inside it");
        default:
            return jrun_raise(run, "TypeError", "'%s' object is not iterable",
                              jval_type_name(source));
    }
    *more = true;
    return OK;
}

static Status jiter_select(JRun *run, JGen *gen, JVal item, bool *keep) {
    JVal v = item, result;
    if (gen->attribute.tag != J_MISSING)
        TRY(jcall_attribute(run, item, gen->attribute, (JVal){0}, &v));
    if (gen->callee != NULL) {
        TRY(jcall_sig(run, gen->callee, v, gen->args, &result));
        v = result;
    }
    TRY(jval_truth(run, v, keep));
    *keep ^= gen->invert;
    return OK;
}

static Status jiter_map(JRun *run, JGen *gen, JVal item, JVal *out) {
    if (gen->callee == NULL) return jcall_attribute(run, item, gen->attribute, gen->fallback, out);
    return jcall_sig(run, gen->callee, item, gen->args, out);
}

static Status jiter_unique(JRun *run, JGen *gen, JVal item, bool *keep) {
    JVal key, seen;
    TRY(jcall_attribute(run, item, gen->attribute, (JVal){0}, &key));
    if (gen->fold_case && key.tag == J_STR) TRY(jcase_map(run, key.s, JCASE_LOWER, &key));
    TRY(jdict_find(run, gen->seen, key, &seen));
    *keep = seen.tag == J_MISSING;
    return *keep ? jdict_put(run, gen->seen, key, jval_none()) : OK;
}

Status jiter_gen(JRun *run, JGen *gen, JVal *out, bool *more) {
    *more = false;
    TRY(jrun_enter(run));
    while (!gen->done) {
        JVal item;
        bool keep = true;
        TRY(jiter_next(run, &gen->iter, &item, more));
        if (!*more) {
            gen->done = true;
            break;
        }
        *out = item;
        switch (gen->kind) {
            case JGEN_LIST: break;
            case JGEN_MAP: TRY(jiter_map(run, gen, item, out)); break;
            case JGEN_SELECT: TRY(jiter_select(run, gen, item, &keep)); break;
            case JGEN_LOOP_TEST: TRY(jinja_exec_loop_test(run, gen, item, &keep)); break;
            case JGEN_UNIQUE: TRY(jiter_unique(run, gen, item, &keep)); break;
        }
        if (keep) break;
        *more = false;
    }
    jrun_leave(run);
    return OK;
}

Status jiter_over(JRun *run, JVal list, const char *type_name, JVal *out) {
    JGen *gen = jrun_alloc(run, 1, sizeof(*gen));
    if (gen == NULL) return jrun_no_memory(run);
    gen->kind = JGEN_LIST;
    gen->type_name = type_name;
    gen->iter.source = list;
    *out = (JVal){.tag = J_GEN, .gen = gen};
    return OK;
}
