/* Expressions. */
#include "text/jinja_priv.h"

static Status jinja_eval_name(JRun *run, const JNode *node, JVal *out) {
    const JAct *act = run->act;
    for (uint32_t k = 0; k < node->hops; k++) act = act->outer;
    *out = act->slot[node->slot];
    if (out->tag != J_MISSING) return OK;
    return jval_undefined_new(run, (JVal){0}, jval_of_str(node->name), out);
}

static Status jinja_eval_list(JRun *run, const JNode *node, JVal *out) {
    TRY(jval_list_new(run, node->n, out));
    for (size_t i = 0; i < node->n; i++) {
        JVal v;
        TRY(jinja_eval(run, node->item[i], &v));
        TRY(jval_list_push(run, out->list, v));
    }
    if (node->kind == N_TUPLE) out->tag = J_TUPLE;
    return OK;
}

static Status jinja_eval_dict(JRun *run, const JNode *node, JVal *out) {
    JDict *dict;
    TRY(jdict_new(run, node->n, &dict));
    for (size_t i = 0; i < node->n; i++) {
        JVal key, value;
        TRY(jinja_eval(run, node->item[i], &key));
        TRY(jinja_eval(run, node->item2[i], &value));
        TRY(jdict_put(run, dict, key, value));
    }
    *out = (JVal){.tag = J_DICT, .dict = dict};
    return OK;
}

static Status jinja_eval_cond(JRun *run, const JNode *node, JVal *out) {
    bool taken;
    TRY(jinja_eval(run, node->a, out));
    TRY(jval_truth(run, *out, &taken));
    if (taken) return jinja_eval(run, node->b, out);
    if (node->c != NULL) return jinja_eval(run, node->c, out);
    JOut hint = {.run = run};
    JVal text;
    jout_format(
        &hint,
        "the inline if-expression on line %d evaluated to false and no else section was defined.",
        node->line);
    TRY(jout_finish(&hint, &text));
    TRY(jval_undefined_new(run, (JVal){0}, (JVal){0}, out));
    out->undef->hint = text.s;
    return OK;
}

static Status jinja_eval_and_or(JRun *run, const JNode *node, JVal *out) {
    bool truth;
    TRY(jinja_eval(run, node->a, out));
    TRY(jval_truth(run, *out, &truth));
    if (truth == (node->kind == N_OR)) return OK;
    return jinja_eval(run, node->b, out);
}

static Status jinja_eval_unary(JRun *run, const JNode *node, JVal *out) {
    TRY(jinja_eval(run, node->a, out));
    if (node->kind == N_NOT) {
        bool truth;
        TRY(jval_truth(run, *out, &truth));
        *out = jval_bool(!truth);
        return OK;
    }
    if (node->kind == N_NEG) return jnum_negate(run, *out, out);
    if (out->tag == J_UNDEFINED) return jval_undefined_fail(run, *out);
    if (!jval_is_number(*out))
        return jrun_raise(run, "TypeError", "bad operand type for unary +: '%s'",
                          jval_type_name(*out));
    if (out->tag == J_BOOL) *out = jval_int(out->b);
    return OK;
}

static Status jinja_eval_binary(JRun *run, const JNode *node, JVal *out) {
    JVal a, b;
    TRY(jinja_eval(run, node->a, &a));
    TRY(jinja_eval(run, node->b, &b));
    run->line = node->line;
    return jnum_binary(run, node->op, a, b, out);
}

/* a ~ b ~ c: with autoescape, the first safe string makes all of them safe. */
static Status jinja_eval_concat(JRun *run, const JNode *node, JVal *out) {
    JVal list;
    bool markup = false;
    TRY(jinja_eval_list(run, node, &list));
    for (size_t i = 0; run->autoescape && i < list.list->n; i++)
        markup |= list.list->v[i].tag == J_STR && list.list->v[i].s->markup;
    JVal first = list.list->v[0];
    if (!markup && first.tag == J_STR && !first.s->markup) {
        *out = first;
        for (size_t i = 1; i < list.list->n; i++) {
            JVal text;
            TRY(jtext_str(run, list.list->v[i], &text));
            TRY(jstr_concat(run, out->s, text.s, out));
        }
        return OK;
    }
    JOut text = {.run = run};
    for (size_t i = 0; i < list.list->n; i++) {
        JVal v = list.list->v[i];
        if (markup) TRY(jhtml_escape(run, v, &v));
        jtext_put(&text, v);
    }
    TRY(jout_finish(&text, out));
    out->s->markup = markup;
    return OK;
}

static Status jinja_eval_link(JRun *run, const JNode *operand, JVal a, JVal b, bool *out) {
    switch (operand->op) {
        case TOK_EQ: return jval_equal(run, a, b, out);
        case TOK_NE:
            TRY(jval_equal(run, a, b, out));
            *out = !*out;
            return OK;
        case TOK_LT: return jval_compare(run, a, b, "<", out);
        case TOK_LE: return jval_compare(run, a, b, "<=", out);
        case TOK_GT: return jval_compare(run, a, b, ">", out);
        case TOK_GE: return jval_compare(run, a, b, ">=", out);
        default: break;
    }
    TRY(jval_contains(run, b, a, out));
    *out ^= operand->flag2;
    return OK;
}

static Status jinja_eval_compare(JRun *run, const JNode *node, JVal *out) {
    JVal a;
    TRY(jinja_eval(run, node->a, &a));
    bool holds = true;
    for (size_t i = 0; i < node->n && holds; i++) {
        JVal b;
        TRY(jinja_eval(run, node->item[i]->a, &b));
        run->line = node->line;
        TRY(jinja_eval_link(run, node->item[i], a, b, &holds));
        a = b;
    }
    *out = jval_bool(holds);
    return OK;
}

static bool jinja_eval_is_const(const JNode *node);

static bool jinja_eval_const_list(JNode *const *node, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!jinja_eval_is_const(node[i])) return false;
    return true;
}

/* Whether Jinja2 computes the expression while it compiles. */
static bool jinja_eval_is_const(const JNode *node) {
    if (node == NULL) return true;
    if (node->kind == N_NAME || node->kind == N_CALL) return false;
    if (node->kind == N_FILTER || node->kind == N_TEST) {
        const JSig *sig = node->callee;
        if (sig == NULL || (sig->var != NULL && strcmp(sig->name, "format") != 0)) return false;
    }
    const ArgsNode *args = node->args;
    if (args != NULL &&
        !(jinja_eval_const_list(args->arg, args->n) &&
          jinja_eval_const_list(args->kw, args->n_kw) && jinja_eval_is_const(args->dyn_args) &&
          jinja_eval_is_const(args->dyn_kwargs)))
        return false;
    return jinja_eval_is_const(node->a) && jinja_eval_is_const(node->b) &&
           jinja_eval_is_const(node->c) && jinja_eval_const_list(node->item, node->n) &&
           (node->kind != N_DICT || jinja_eval_const_list(node->item2, node->n));
}

/* What has no slices: an error, but undefined where the whole printed expression is constant, which
 * Jinja2 computes on another road. */
static bool jinja_eval_slice_fails(JVal object, const JSlice *slice) {
    bool seq = object.tag == J_STR || object.tag == J_LIST || object.tag == J_TUPLE ||
               object.tag == J_RANGE;
    const JVal part[] = {slice->start, slice->stop, slice->step};
    for (size_t i = 0; i < ARRAY_LEN(part); i++)
        if (seq && part[i].tag != J_NONE && !jval_is_int(part[i])) return true;
    return !seq && object.tag != J_UNDEFINED;
}

static Status jinja_eval_slice(JRun *run, const JNode *node, JVal object, JVal *out) {
    JSlice slice = {jval_none(), jval_none(), jval_none()};
    if (node->a != NULL) TRY(jinja_eval(run, node->a, &slice.start));
    if (node->b != NULL) TRY(jinja_eval(run, node->b, &slice.stop));
    if (node->c != NULL) TRY(jinja_eval(run, node->c, &slice.step));
    if (run->output != NULL && jinja_eval_slice_fails(object, &slice) &&
        jinja_eval_is_const(run->output)) {
        JSlice *name = jrun_alloc(run, 1, sizeof(*name));
        if (name == NULL) return jrun_no_memory(run);
        *name = slice;
        return jval_undefined_new(run, object, (JVal){.tag = J_SLICE, .slice = name}, out);
    }
    return jattr_slice(run, object, &slice, out);
}

static Status jinja_eval_item(JRun *run, const JNode *node, JVal *out) {
    JVal object, key;
    TRY(jinja_eval(run, node->a, &object));
    run->line = node->line;
    if (node->kind == N_GETATTR) return jattr_get(run, object, node->name, out);
    if (node->b->kind == N_SLICE) return jinja_eval_slice(run, node->b, object, out);
    TRY(jinja_eval(run, node->b, &key));
    run->line = node->line;
    return jattr_item(run, object, key, out);
}

/* Arguments while they are collected. */
typedef struct Collect {
    JVal *pos, *kw_name, *kw;
    size_t n, n_kw, cap, cap_kw;
} Collect;

static Status jinja_eval_args_star(JRun *run, const JNode *node, Collect *to) {
    JVal v, list;
    TRY(jinja_eval(run, node, &v));
    if (!jval_is_iterable(v))
        return jrun_raise(run, "TypeError", "Value after * must be an iterable, not %s",
                          jval_type_name(v));
    TRY(jval_to_list(run, v, &list));
    JVal *pos = jrun_alloc(run, to->n + list.list->n, sizeof(JVal));
    if (pos == NULL) return jrun_no_memory(run);
    if (to->n > 0) memcpy(pos, to->pos, to->n * sizeof(JVal));
    if (list.list->n > 0) memcpy(pos + to->n, list.list->v, list.list->n * sizeof(JVal));
    to->pos = pos;
    to->n += list.list->n;
    return OK;
}

static Status jinja_eval_args_star_star(JRun *run, const JNode *node, Collect *to) {
    JVal v;
    TRY(jinja_eval(run, node, &v));
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    if (v.tag != J_DICT)
        return jrun_raise(run, "TypeError", "argument after ** must be a mapping, not %s",
                          jval_type_name(v));
    size_t n = to->n_kw + v.dict->n;
    JVal *name = jrun_alloc(run, n, sizeof(JVal)), *kw = jrun_alloc(run, n, sizeof(JVal));
    if (name == NULL || kw == NULL) return jrun_no_memory(run);
    if (to->n_kw > 0) {
        memcpy(name, to->kw_name, to->n_kw * sizeof(JVal));
        memcpy(kw, to->kw, to->n_kw * sizeof(JVal));
    }
    for (size_t i = 0; i < v.dict->n; i++) {
        JVal key = v.dict->item[i].key;
        if (key.tag != J_STR) return jrun_raise(run, "TypeError", "keywords must be strings");
        for (size_t k = 0; k < to->n_kw; k++)
            if (jstr_same(to->kw_name[k].s, key.s))
                return jrun_raise(run, "TypeError",
                                  "got multiple values for keyword argument '%.*s'",
                                  STR_ARG(jstr_bytes(key.s)));
        name[to->n_kw + i] = key;
        kw[to->n_kw + i] = v.dict->item[i].value;
    }
    to->kw_name = name;
    to->kw = kw;
    to->n_kw = n;
    return OK;
}

/* caller: J_MISSING, or what a call block passes on. */
static Status jinja_eval_args(JRun *run, const ArgsNode *node, JVal caller, JArgs *out) {
    *out = (JArgs){0};
    if (node == NULL) return OK;
    Collect to = {0};
    size_t n_kw = node->n_kw + (caller.tag != J_MISSING);
    JVal *values = jrun_alloc(run, node->n + 2 * n_kw, sizeof(JVal));
    if (values == NULL) return jrun_no_memory(run);
    to.pos = values;
    to.kw_name = values + node->n;
    to.kw = to.kw_name + n_kw;
    for (; to.n < node->n; to.n++) TRY(jinja_eval(run, node->arg[to.n], &to.pos[to.n]));
    for (; to.n_kw < node->n_kw; to.n_kw++) {
        to.kw_name[to.n_kw] = jval_of_str(node->kw_name[to.n_kw]);
        TRY(jinja_eval(run, node->kw[to.n_kw], &to.kw[to.n_kw]));
    }
    if (caller.tag != J_MISSING) {
        TRY(jstr_new(run, "caller", 6, false, &to.kw_name[to.n_kw]));
        to.kw[to.n_kw++] = caller;
    }
    if (node->dyn_args != NULL) TRY(jinja_eval_args_star(run, node->dyn_args, &to));
    if (node->dyn_kwargs != NULL) TRY(jinja_eval_args_star_star(run, node->dyn_kwargs, &to));
    *out = (JArgs){.pos = to.pos, .n = to.n, .kw_name = to.kw_name, .kw = to.kw, .n_kw = to.n_kw};
    return OK;
}

static Status jinja_eval_call(JRun *run, const JNode *node, JVal *out) {
    JVal caller = run->caller, callee;
    JArgs args;
    run->caller = (JVal){0};
    TRY(jinja_eval(run, node->a, &callee));
    TRY(jinja_eval_args(run, node->args, caller, &args));
    run->line = node->line;
    return jcall(run, callee, &args, out);
}

static Status jinja_eval_filter(JRun *run, const JNode *node, JVal *out) {
    JVal value = run->block_text;
    JArgs args;
    if (node->a != NULL) TRY(jinja_eval(run, node->a, &value));
    if (node->callee == NULL)
        return jrun_raise(run, "TemplateRuntimeError", "No %s named '%.*s' found.",
                          node->kind == N_FILTER ? "filter" : "test",
                          STR_ARG(jstr_bytes(node->name)));
    TRY(jinja_eval_args(run, node->args, (JVal){0}, &args));
    run->line = node->line;
    return jcall_sig(run, node->callee, value, &args, out);
}

static Status jinja_eval_inner(JRun *run, const JNode *node, JVal *out) {
    switch (node->kind) {
        case N_TUPLE:
        case N_LIST: return jinja_eval_list(run, node, out);
        case N_DICT: return jinja_eval_dict(run, node, out);
        case N_COND: return jinja_eval_cond(run, node, out);
        case N_OR:
        case N_AND: return jinja_eval_and_or(run, node, out);
        case N_NOT:
        case N_NEG:
        case N_POS: return jinja_eval_unary(run, node, out);
        case N_BINARY: return jinja_eval_binary(run, node, out);
        case N_CONCAT: return jinja_eval_concat(run, node, out);
        case N_COMPARE: return jinja_eval_compare(run, node, out);
        case N_GETATTR:
        case N_GETITEM: return jinja_eval_item(run, node, out);
        case N_CALL: return jinja_eval_call(run, node, out);
        case N_FILTER:
        case N_TEST: return jinja_eval_filter(run, node, out);
        default: break;
    }
    CHECK(!"an expression");
    return OK;
}

Status jinja_eval(JRun *run, const JNode *node, JVal *out) {
    if (node->kind == N_CONST) {
        *out = node->value;
        return OK;
    }
    TRY(jrun_step(run, 1));
    if (node->kind == N_NAME) return jinja_eval_name(run, node, out);
    TRY(jrun_enter(run));
    TRY(jinja_eval_inner(run, node, out));
    jrun_leave(run);
    return OK;
}
