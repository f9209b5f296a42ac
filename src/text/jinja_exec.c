/* Statements: frames, loops, macros, blocks. */
#include "text/jinja_priv.h"

static Status jinja_exec_node(JRun *run, const JNode *node);

static JVal jinja_exec_resolve(JRun *run, const JStr *name) {
    JVal v = jdict_get(run->exported, name);
    if (v.tag == J_MISSING) v = jdict_get(run->variables, name);
    if (v.tag == J_MISSING) {
        const JFuncDef *func = jcall_function(name);
        if (func != NULL) v = (JVal){.tag = J_FUNC, .func = func};
    }
    return v;
}

void jinja_exec_enter(JRun *run, const Frame *frame) {
    for (size_t i = 0; i < frame->n; i++) {
        const Load *load = &frame->load[i];
        JVal v = {0};
        if (load->action == LOAD_PARAM) continue;
        if (load->action == LOAD_RESOLVE) v = jinja_exec_resolve(run, load->name);
        if (load->action == LOAD_ALIAS) {
            const JAct *act = run->act;
            for (uint32_t k = 0; k < load->from_hops; k++) act = act->outer;
            v = act->slot[load->from_slot];
        }
        run->act->slot[load->slot] = v;
    }
}

static void jinja_exec_leave(JRun *run, const Frame *frame) {
    for (size_t i = 0; i < frame->n; i++) run->act->slot[frame->load[i].slot] = (JVal){0};
}

static Status jinja_exec_act(JRun *run, JAct *outer, const Func *func, JAct **out) {
    JAct *act = jrun_alloc(run, 1, sizeof(*act));
    if (act == NULL) return jrun_no_memory(run);
    act->slot = jrun_alloc(run, func->n_slots, sizeof(JVal));
    if (act->slot == NULL) return jrun_no_memory(run);
    act->outer = outer;
    *out = act;
    return OK;
}

/* Runs a body with its output going to a string. */
static Status jinja_exec_capture(JRun *run, const JNode *body, JVal *out) {
    JOut text = {.run = run}, *outer = run->out;
    run->out = &text;
    Status status = jinja_exec(run, body);
    run->out = outer;
    return status != OK ? status : jout_finish(&text, out);
}

static Status jinja_exec_unpack(JRun *run, const JNode *target, JVal value) {
    JIter iter;
    if (!jval_is_iterable(value))
        return jrun_raise(run, "TypeError", "cannot unpack non-iterable %s object",
                          jval_type_name(value));
    TRY(jiter_open(run, value, &iter));
    bool more;
    JVal v;
    /* as Python: every item is there before the first is stored */
    JVal items;
    TRY(jval_list_new(run, target->n, &items));
    for (size_t i = 0; i < target->n; i++) {
        TRY(jiter_next(run, &iter, &v, &more));
        if (!more)
            return jrun_raise(run, "ValueError",
                              "not enough values to unpack (expected %zu, got %zu)", target->n, i);
        TRY(jval_list_push(run, items.list, v));
    }
    TRY(jiter_next(run, &iter, &v, &more));
    if (more)
        return jrun_raise(run, "ValueError", "too many values to unpack (expected %zu)", target->n);
    for (size_t i = 0; i < target->n; i++)
        TRY(jinja_assign(run, target->item[i], items.list->v[i]));
    return OK;
}

Status jinja_assign(JRun *run, const JNode *target, JVal value) {
    if (target->kind == N_TUPLE) return jinja_exec_unpack(run, target, value);
    JAct *act = run->act;
    for (uint32_t k = 0; k < target->hops; k++) act = act->outer;
    if (target->kind == N_NAME) {
        act->slot[target->slot] = value;
        return OK;
    }
    JVal ns = act->slot[target->slot];
    if (ns.tag != J_NAMESPACE)
        return jrun_raise(run, "TemplateRuntimeError",
                          "cannot assign attribute on non-namespace object");
    if (target->name2->len > 0 && target->name2->ptr[0] == '_')
        return jrun_raise(run, "SecurityError",
                          "Chat templates cannot store underscore-prefixed attributes on a "
                          "namespace, but got '%.*s'. Please rename the attribute.",
                          STR_ARG(jstr_bytes(target->name2)));
    return jdict_put(run, ns.dict, jval_of_str(target->name2), value);
}

/* Namespaces are checked before the value is computed. */
static Status jinja_exec_check_namespaces(JRun *run, const JNode *target) {
    if (target->kind == N_TUPLE)
        for (size_t i = 0; i < target->n; i++)
            TRY(jinja_exec_check_namespaces(run, target->item[i]));
    if (target->kind != N_NSREF) return OK;
    const JAct *act = run->act;
    for (uint32_t k = 0; k < target->hops; k++) act = act->outer;
    if (act->slot[target->slot].tag == J_NAMESPACE) return OK;
    return jrun_raise(run, "TemplateRuntimeError",
                      "cannot assign attribute on non-namespace object");
}

/* Top-level names are what blocks can see. */
static Status jinja_exec_export(JRun *run, const JNode *target) {
    if (run->jinja->n_blocks == 0) return OK;
    for (size_t i = 0; target->kind == N_TUPLE && i < target->n; i++)
        TRY(jinja_exec_export(run, target->item[i]));
    if (target->kind != N_NAME && target->kind != N_MACRO) return OK;
    return jdict_put(run, run->exported, jval_of_str(target->name), run->act->slot[target->slot]);
}

static Status jinja_exec_set(JRun *run, const JNode *node) {
    JVal v;
    TRY(jinja_exec_check_namespaces(run, node->a));
    TRY(jinja_eval(run, node->b, &v));
    TRY(jinja_assign(run, node->a, v));
    return node->flag2 ? jinja_exec_export(run, node->a) : OK;
}

/* Applies the filters of a set or filter block to its text. */
static Status jinja_exec_filters(JRun *run, const JNode *filter, JVal text, JVal *out) {
    if (filter == NULL) {
        *out = text;
        return OK;
    }
    run->block_text = text;
    return jinja_eval(run, filter, out);
}

static Status jinja_exec_set_block(JRun *run, const JNode *node) {
    JVal v;
    jinja_exec_enter(run, node->frame);
    TRY(jinja_exec_capture(run, node->c, &v));
    if (run->jump != 0) return OK;
    if (run->autoescape) TRY(jhtml_markup(run, v, &v));
    TRY(jinja_exec_filters(run, node->b, v, &v));
    if (run->autoescape) TRY(jhtml_markup(run, v, &v));
    TRY(jinja_assign(run, node->a, v));
    jinja_exec_leave(run, node->frame);
    return node->flag2 ? jinja_exec_export(run, node->a) : OK;
}

/* Output that is not made a string first must be one. */
static Status jinja_exec_write(JRun *run, JVal v) {
    if (v.tag != J_STR)
        return jrun_raise(run, "TypeError", "sequence item 0: expected str instance, %s found",
                          jval_type_name(v));
    jtext_put(run->out, v);
    return OK;
}

static Status jinja_exec_filter_block(JRun *run, const JNode *node) {
    JVal v;
    jinja_exec_enter(run, node->frame);
    TRY(jinja_exec_capture(run, node->c, &v));
    if (run->jump != 0) return OK;
    if (run->autoescape) TRY(jhtml_markup(run, v, &v));
    TRY(jinja_exec_filters(run, node->a, v, &v));
    TRY(jinja_exec_write(run, v));
    jinja_exec_leave(run, node->frame);
    return OK;
}

/* The value moves to the loop's current item. */
static Status jinja_exec_loop_next(JRun *run, JLoop *loop, JVal *out, bool *more) {
    if (loop->after.tag != J_MISSING) {
        *out = loop->after;
        *more = true;
        loop->after = (JVal){0};
    } else {
        TRY(jiter_next(run, &loop->iter, out, more));
    }
    if (!*more) return OK;
    loop->index0++;
    loop->before = loop->current;
    loop->current = *out;
    return OK;
}

static Status jinja_exec_loop_items(JRun *run, const JNode *node, JLoop *loop, bool *otherwise) {
    for (;;) {
        JVal item;
        bool more;
        TRY(jinja_exec_loop_next(run, loop, &item, &more));
        if (!more) return OK;
        TRY(jinja_assign(run, node->a, item));
        if (node->flag2) run->act->slot[node->slot] = (JVal){.tag = J_LOOP, .loop = loop};
        jinja_exec_enter(run, node->frame);
        TRY(jinja_exec(run, node->item[0]));
        NodeKind jump = run->jump;
        run->jump = 0;
        if (jump == N_BREAK) return OK;
        /* a body that ended with continue does not count: else still runs, as in Jinja2 */
        if (jump == 0) *otherwise = false;
    }
}

static Status jinja_exec_loop(JRun *run, const JNode *node, JLoop *loop) {
    bool otherwise = true;
    TRY(jinja_exec_loop_items(run, node, loop, &otherwise));
    jinja_exec_leave(run, node->frame);
    if (!otherwise || node->n < 2) return OK;
    jinja_exec_enter(run, node->frame2);
    TRY(jinja_exec(run, node->item[1]));
    jinja_exec_leave(run, node->frame2);
    return OK;
}

static Status jinja_exec_loop_new(JRun *run, const JNode *node, JVal iterable, JLoop **out) {
    JLoop *loop = jrun_alloc(run, 1, sizeof(*loop));
    if (loop == NULL) return jrun_no_memory(run);
    if (node->c != NULL) {
        JGen *gen = jrun_alloc(run, 1, sizeof(*gen));
        if (gen == NULL) return jrun_no_memory(run);
        *gen =
            (JGen){.kind = JGEN_LOOP_TEST, .type_name = "generator", .loop = node, .act = run->act};
        TRY(jiter_open(run, iterable, &gen->iter));
        iterable = (JVal){.tag = J_GEN, .gen = gen};
    }
    *loop = (JLoop){.iterable = iterable, .index0 = -1, .length = -1};
    TRY(jiter_open(run, iterable, &loop->iter));
    *out = loop;
    return OK;
}

Status jinja_exec_loop_test(JRun *run, const JGen *gen, JVal item, bool *keep) {
    const JNode *node = gen->loop;
    JAct *act = run->act;
    JVal v;
    run->act = gen->act;
    TRY(jinja_assign(run, node->item2[0], item));
    jinja_exec_enter(run, node->frame3);
    TRY(jinja_eval(run, node->c, &v));
    TRY(jval_truth(run, v, keep));
    run->act = act;
    return OK;
}

/* One level of a recursive loop, to a string. */
static Status jinja_exec_recursion(JRun *run, const JNode *node, JAct *outer, JVal iterable,
                                   int32_t depth0, JVal *out) {
    JAct *act = run->act, *inner;
    JLoop *loop;
    JOut text = {.run = run}, *outer_text = run->out;
    TRY(jrun_enter(run));
    run->act = outer;
    TRY(jinja_exec_loop_new(run, node, iterable, &loop));
    TRY(jinja_exec_act(run, outer, node->func, &inner));
    loop->recurse = node;
    loop->act = outer;
    loop->depth0 = depth0;
    run->act = inner;
    run->out = &text;
    TRY(jinja_exec_loop(run, node, loop));
    run->act = act;
    run->out = outer_text;
    jrun_leave(run);
    TRY(jout_finish(&text, out));
    return run->autoescape ? jhtml_markup(run, *out, out) : OK;
}

Status jinja_exec_loop_call(JRun *run, JLoop *loop, JVal iterable, JVal *out) {
    if (loop->recurse == NULL)
        return jrun_raise(run, "TypeError",
                          "The loop must have the 'recursive' marker to be called recursively.");
    return jinja_exec_recursion(run, loop->recurse, loop->act, iterable, loop->depth0 + 1, out);
}

static Status jinja_exec_for(JRun *run, const JNode *node) {
    JVal iterable;
    TRY(jinja_eval(run, node->b, &iterable));
    if (node->flag) {
        JVal text;
        TRY(jinja_exec_recursion(run, node, run->act, iterable, 0, &text));
        jtext_put(run->out, text);
        return OK;
    }
    JLoop *loop;
    TRY(jinja_exec_loop_new(run, node, iterable, &loop));
    return jinja_exec_loop(run, node, loop);
}

/* Arguments to parameters; what is left over goes to kwargs and varargs or is an error. */
static Status jinja_exec_bind_rest(JRun *run, const JMacro *macro, const JArgs *args,
                                   const bool *used, bool found_caller) {
    const JNode *node = macro->node;
    const Func *func = macro->func;
    JVal *slot = run->act->slot;
    const char *name = macro->name != NULL ? macro->name->ptr : "None";
    int name_len = macro->name != NULL ? (int)macro->name->len : 4;
    const char *quote = macro->name != NULL ? "'" : "";
    JDict *rest = NULL;
    if (func->special & MACRO_KWARGS) TRY(jdict_new(run, args->n_kw, &rest));
    bool take_caller = (func->special & MACRO_CALLER) && !found_caller;
    if (take_caller) TRY(jval_undefined_hint(run, "No caller defined", &slot[func->caller_slot]));
    for (size_t i = 0; i < args->n_kw; i++) {
        if (used[i]) continue;
        if (take_caller && jstr_is(args->kw_name[i].s, "caller")) {
            if (args->kw[i].tag != J_NONE) slot[func->caller_slot] = args->kw[i];
        } else if (rest != NULL) {
            TRY(jdict_put(run, rest, args->kw_name[i], args->kw[i]));
        } else if (jstr_is(args->kw_name[i].s, "caller")) {
            return jrun_raise(run, "TypeError",
                              "macro %s%.*s%s was invoked with two values for the special caller "
                              "argument. This is most likely a bug.",
                              quote, name_len, name, quote);
        } else {
            return jrun_raise(run, "TypeError", "macro %s%.*s%s takes no keyword argument '%.*s'",
                              quote, name_len, name, quote,
                              STR_ARG(jstr_bytes(args->kw_name[i].s)));
        }
    }
    if (rest != NULL) slot[func->kwargs_slot] = (JVal){.tag = J_DICT, .dict = rest};
    if (func->special & MACRO_VARARGS) {
        JVal list;
        TRY(jval_list_new(run, 0, &list));
        for (size_t i = node->n; i < args->n; i++)
            TRY(jval_list_push(run, list.list, args->pos[i]));
        list.tag = J_TUPLE;
        slot[func->varargs_slot] = list;
    } else if (args->n > node->n) {
        return jrun_raise(run, "TypeError", "macro %s%.*s%s takes not more than %zu argument(s)",
                          quote, name_len, name, quote, node->n);
    }
    return OK;
}

static Status jinja_exec_bind(JRun *run, const JMacro *macro, const JArgs *args) {
    const JNode *node = macro->node;
    JVal *slot = run->act->slot;
    bool *used = jrun_alloc(run, args->n_kw, sizeof(bool));
    if (used == NULL) return jrun_no_memory(run);
    bool found_caller = args->n >= node->n && macro->func->explicit_caller;
    for (size_t i = 0; i < node->n; i++) {
        const JNode *param = node->item[i];
        JVal v = {0};
        if (i < args->n) {
            v = args->pos[i];
        } else {
            found_caller |= jstr_is(param->name, "caller");
            for (size_t k = 0; k < args->n_kw; k++) {
                if (!jstr_same(args->kw_name[k].s, param->name)) continue;
                v = args->kw[k];
                used[k] = true;
            }
        }
        slot[param->slot] = v;
    }
    return jinja_exec_bind_rest(run, macro, args, used, found_caller);
}

static Status jinja_exec_defaults(JRun *run, const JNode *node) {
    JVal *slot = run->act->slot;
    for (size_t i = 0; i < node->n; i++) {
        const JNode *param = node->item[i];
        if (slot[param->slot].tag != J_MISSING) continue;
        size_t no_default = node->n - node->n2;
        if (i >= no_default) {
            JVal v;
            TRY(jinja_eval(run, node->item2[i - no_default], &v));
            slot[param->slot] = v;
            continue;
        }
        JOut hint = {.run = run};
        JVal text;
        jout_text(&hint, "parameter '");
        jout_str(&hint, param->name);
        jout_text(&hint, "' was not provided");
        TRY(jout_finish(&hint, &text));
        TRY(jval_undefined_new(run, (JVal){0}, jval_of_str(param->name), &slot[param->slot]));
        slot[param->slot].undef->hint = text.s;
    }
    return OK;
}

Status jinja_exec_macro(JRun *run, const JMacro *macro, const JArgs *args, JVal *out) {
    JAct *caller = run->act;
    int32_t line = run->line;
    TRY(jrun_enter(run));
    JAct *act;
    TRY(jinja_exec_act(run, macro->act, macro->func, &act));
    run->act = act;
    TRY(jinja_exec_bind(run, macro, args));
    jinja_exec_enter(run, macro->node->frame);
    TRY(jinja_exec_defaults(run, macro->node));
    TRY(jinja_exec_capture(run, macro->node->c, out));
    run->act = caller;
    run->line = line;
    jrun_leave(run);
    return run->autoescape ? jhtml_markup(run, *out, out) : OK;
}

static Status jinja_exec_macro_new(JRun *run, const JNode *node, JVal *out) {
    JMacro *macro = jrun_alloc(run, 1, sizeof(*macro));
    if (macro == NULL) return jrun_no_memory(run);
    *macro = (JMacro){.node = node, .func = node->func, .act = run->act};
    macro->name = node->kind == N_MACRO ? node->name : NULL;
    *out = (JVal){.tag = J_MACRO, .macro = macro};
    return OK;
}

static Status jinja_exec_macro_def(JRun *run, const JNode *node) {
    TRY(jinja_exec_macro_new(run, node, &run->act->slot[node->slot]));
    return node->flag2 ? jinja_exec_export(run, node) : OK;
}

static Status jinja_exec_call_block(JRun *run, const JNode *node) {
    JVal caller, result;
    TRY(jinja_exec_macro_new(run, node, &caller));
    if (node->a == NULL) { /* generation */
        TRY(jinja_exec_macro(run, caller.macro, &(JArgs){0}, &result));
    } else {
        run->caller = caller;
        TRY(jinja_eval(run, node->a, &result));
    }
    return jinja_exec_write(run, result);
}

static Status jinja_exec_if(JRun *run, const JNode *node) {
    for (size_t i = 0; i < node->n; i++) {
        const JNode *clause = node->item[i];
        bool taken = true;
        if (clause->a != NULL) {
            JVal v;
            TRY(jinja_eval(run, clause->a, &v));
            TRY(jval_truth(run, v, &taken));
        }
        if (taken) return jinja_exec(run, clause->b);
    }
    return OK;
}

static Status jinja_exec_output(JRun *run, const JNode *node) {
    for (size_t i = 0; i < node->n; i++) {
        const JNode *item = node->item[i];
        if (item->kind == N_CONST && item->flag) {
            jout_str(run->out, item->value.s);
            continue;
        }
        JVal v;
        run->output = item;
        TRY(jinja_eval(run, item, &v));
        if (run->autoescape) TRY(jhtml_escape(run, v, &v));
        jtext_put(run->out, v);
    }
    /* a failed write ends the render at once, with the bound that it broke */
    JVal unused;
    return run->out->failed ? jout_finish(run->out, &unused) : OK;
}

static Status jinja_exec_with(JRun *run, const JNode *node) {
    jinja_exec_enter(run, node->frame);
    for (size_t i = 0; i < node->n; i++) {
        JVal v;
        TRY(jinja_eval(run, node->item2[i], &v));
        TRY(jinja_assign(run, node->item[i], v));
    }
    TRY(jinja_exec(run, node->c));
    jinja_exec_leave(run, node->frame);
    return OK;
}

static Status jinja_exec_autoescape(JRun *run, const JNode *node) {
    bool outer = run->autoescape;
    JVal v;
    jinja_exec_enter(run, node->frame);
    TRY(jinja_eval(run, node->a, &v));
    TRY(jval_truth(run, v, &run->autoescape));
    TRY(jinja_exec(run, node->c));
    run->autoescape = outer;
    jinja_exec_leave(run, node->frame);
    return OK;
}

Status jinja_exec_block(JRun *run, const JNode *block) {
    JAct *outer = run->act, *act;
    TRY(jinja_exec_act(run, NULL, block->func, &act));
    run->act = act;
    if (block->func->has_self) act->slot[block->func->self_slot] = (JVal){.tag = J_SELF};
    jinja_exec_enter(run, block->frame);
    TRY(jinja_exec(run, block->c));
    run->act = outer;
    return OK;
}

Status jinja_exec_block_text(JRun *run, const JNode *block, JVal *out) {
    JOut text = {.run = run}, *outer = run->out;
    run->out = &text;
    TRY(jinja_exec_block(run, block));
    run->out = outer;
    TRY(jout_finish(&text, out));
    return run->autoescape ? jhtml_markup(run, *out, out) : OK;
}

static Status jinja_exec_loader(JRun *run, const JNode *node) {
    JVal v;
    TRY(jinja_eval(run, node->a, &v));
    return jrun_raise(run, "TypeError", "no loader for this environment specified");
}

static Status jinja_exec_node(JRun *run, const JNode *node) {
    run->line = node->line;
    run->output = NULL;
    TRY(jrun_step(run, 1));
    switch (node->kind) {
        case N_OUTPUT: return jinja_exec_output(run, node);
        case N_SET: return jinja_exec_set(run, node);
        case N_SET_BLOCK: return jinja_exec_set_block(run, node);
        case N_FOR: return jinja_exec_for(run, node);
        case N_IF: return jinja_exec_if(run, node);
        case N_WITH: return jinja_exec_with(run, node);
        case N_MACRO: return jinja_exec_macro_def(run, node);
        case N_CALL_BLOCK: return jinja_exec_call_block(run, node);
        case N_FILTER_BLOCK: return jinja_exec_filter_block(run, node);
        case N_AUTOESCAPE: return jinja_exec_autoescape(run, node);
        case N_BLOCK: return jinja_exec_block(run, node);
        case N_BREAK:
        case N_CONTINUE: run->jump = node->kind; return OK;
        case N_LOADER: return jinja_exec_loader(run, node);
        default: break;
    }
    CHECK(!"a statement");
    return OK;
}

Status jinja_exec(JRun *run, const JNode *seq) {
    TRY(jrun_enter(run));
    for (size_t i = 0; i < seq->n && run->jump == 0; i++) TRY(jinja_exec_node(run, seq->item[i]));
    jrun_leave(run);
    return OK;
}
