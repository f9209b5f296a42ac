/* Decides which variable every name means, as Jinja2's compiler does.
 *
 * A frame (template, loop body, macro, with, ...) is first read as a whole: names that it stores
 * to get a variable of their own, which starts as a copy of the outer one, as the context's
 * value or as undefined; names that it only reads are the outer frame's or the context's. Then
 * the frames inside it are treated. The order of the two passes shows in what templates print,
 * so it is kept. */
#include "base/map.h"
#include "text/jinja_priv.h"

typedef struct ScopeFunc {
    struct ScopeFunc *outer;
    Func *func;
} ScopeFunc;

typedef struct Scope {
    struct Scope *parent;
    ScopeFunc *func;
    Map names; /* name -> load */
    Load *load;
    size_t n, cap;
    int32_t n_cond; /* inside so many branches of if */
} Scope;

typedef struct Scoper {
    Jinja *jinja;
    Err *err;
    int32_t for_depth;
    bool in_block;
    int32_t loop_depth;
    size_t cap_blocks;
} Scoper;

static Status jinja_scope_no_memory(Scoper *scoper) {
    return err_set(scoper->err, ERR_LIMIT, "template: no memory to compile it");
}

static Status jinja_scope_nodes(Scoper *scoper, Scope *scope, const JNode *node, bool soft);
static Status jinja_scope_collect(Scoper *scoper, Scope *scope, const JNode *node);

static Load *jinja_scope_own(const Scope *scope, const JStr *name) {
    uint32_t i;
    return map_find(&scope->names, jstr_bytes(name), &i) ? &scope->load[i] : NULL;
}

static const Load *jinja_scope_find(const Scope *scope, const JStr *name, const Scope **owner) {
    for (; scope != NULL; scope = scope->parent) {
        const Load *load = jinja_scope_own(scope, name);
        if (load != NULL) {
            *owner = scope;
            return load;
        }
    }
    return NULL;
}

static uint32_t jinja_scope_hops(const ScopeFunc *from, const ScopeFunc *to) {
    uint32_t hops = 0;
    for (; from != to; from = from->outer) hops++;
    return hops;
}

/* Declares a variable of the frame; one that is there gets the new action. */
static Status jinja_scope_define(Scoper *scoper, Scope *scope, Load load, uint32_t *slot) {
    Load *own = jinja_scope_own(scope, load.name);
    if (own == NULL) {
        if (scope->n == scope->cap) {
            size_t cap = MAX(scope->cap * 2, (size_t)8);
            Load *grown = arena_alloc(&scoper->jinja->arena, cap * sizeof(*grown));
            if (grown == NULL) return jinja_scope_no_memory(scoper);
            if (scope->n > 0) memcpy(grown, scope->load, scope->n * sizeof(*grown));
            scope->load = grown;
            scope->cap = cap;
        }
        if (!map_put(&scope->names, jstr_bytes(load.name), (uint32_t)scope->n))
            return jinja_scope_no_memory(scoper);
        own = &scope->load[scope->n++];
        load.slot = scope->func->func->n_slots++;
    } else {
        load.slot = own->slot;
    }
    *own = load;
    if (slot != NULL) *slot = load.slot;
    return OK;
}

static Status jinja_scope_param(Scoper *scoper, Scope *scope, const char *name, uint32_t *slot) {
    const JStr *s = jinja_const(scoper->jinja, name, strlen(name));
    if (s == NULL) return jinja_scope_no_memory(scoper);
    return jinja_scope_define(scoper, scope, (Load){.action = LOAD_PARAM, .name = s}, slot);
}

static Status jinja_scope_store(Scoper *scoper, Scope *scope, const JStr *name) {
    if (jinja_scope_own(scope, name) != NULL) return OK;
    Load load = {.name = name, .action = scope->n_cond > 0 ? LOAD_RESOLVE : LOAD_UNDEFINED};
    const Scope *owner;
    const Load *outer = jinja_scope_find(scope->parent, name, &owner);
    if (outer != NULL) {
        load.action = LOAD_ALIAS;
        load.from_slot = outer->slot;
        load.from_hops = jinja_scope_hops(scope->func, owner->func);
    }
    return jinja_scope_define(scoper, scope, load, NULL);
}

static Status jinja_scope_load(Scoper *scoper, Scope *scope, const JStr *name) {
    const Scope *owner;
    if (jinja_scope_find(scope, name, &owner) != NULL) return OK;
    return jinja_scope_define(scoper, scope, (Load){.action = LOAD_RESOLVE, .name = name}, NULL);
}

/* A target whose names are parameters of the frame. */
static Status jinja_scope_target(Scoper *scoper, Scope *scope, const JNode *target) {
    if (target->kind == N_NAME)
        return jinja_scope_define(scoper, scope, (Load){.action = LOAD_PARAM, .name = target->name},
                                  NULL);
    if (target->kind == N_NSREF) return jinja_scope_load(scoper, scope, target->name);
    for (size_t i = 0; i < target->n; i++) TRY(jinja_scope_target(scoper, scope, target->item[i]));
    return OK;
}

/* ---- first pass: the names of one frame ------------------------------------------------------ */

static Status jinja_scope_collect_list(Scoper *scoper, Scope *scope, JNode *const *node, size_t n) {
    for (size_t i = 0; i < n; i++) TRY(jinja_scope_collect(scoper, scope, node[i]));
    return OK;
}

static Status jinja_scope_collect_args(Scoper *scoper, Scope *scope, const ArgsNode *args) {
    if (args == NULL) return OK;
    TRY(jinja_scope_collect_list(scoper, scope, args->arg, args->n));
    TRY(jinja_scope_collect_list(scoper, scope, args->kw, args->n_kw));
    TRY(jinja_scope_collect(scoper, scope, args->dyn_args));
    return jinja_scope_collect(scoper, scope, args->dyn_kwargs);
}

/* What the frame itself reads and stores; frames inside it are not entered. */
static Status jinja_scope_collect(Scoper *scoper, Scope *scope, const JNode *node) {
    if (node == NULL) return OK;
    switch (node->kind) {
        case N_NAME:
            return node->flag ? jinja_scope_store(scoper, scope, node->name)
                              : jinja_scope_load(scoper, scope, node->name);
        case N_NSREF: return jinja_scope_load(scoper, scope, node->name);
        case N_IF:
            /* the first test is always evaluated, but Jinja2 makes no difference for loads */
            for (size_t i = 0; i < node->n; i++) {
                scope->n_cond += i > 0;
                TRY(jinja_scope_collect(scoper, scope, node->item[i]->a));
                scope->n_cond -= i > 0;
                scope->n_cond++;
                TRY(jinja_scope_collect(scoper, scope, node->item[i]->b));
                scope->n_cond--;
            }
            return OK;
        case N_MACRO: return jinja_scope_store(scoper, scope, node->name);
        case N_SET:
            TRY(jinja_scope_collect(scoper, scope, node->b));
            return jinja_scope_collect(scoper, scope, node->a);
        case N_SET_BLOCK: return jinja_scope_collect(scoper, scope, node->a);
        case N_FOR: return jinja_scope_collect(scoper, scope, node->b);
        case N_CALL_BLOCK:
        case N_FILTER_BLOCK: return jinja_scope_collect(scoper, scope, node->a);
        case N_WITH: return jinja_scope_collect_list(scoper, scope, node->item2, node->n);
        case N_AUTOESCAPE:
        case N_BLOCK: return OK;
        default: break;
    }
    TRY(jinja_scope_collect(scoper, scope, node->a));
    TRY(jinja_scope_collect(scoper, scope, node->b));
    TRY(jinja_scope_collect(scoper, scope, node->c));
    TRY(jinja_scope_collect_list(scoper, scope, node->item, node->n));
    if (node->kind == N_DICT) TRY(jinja_scope_collect_list(scoper, scope, node->item2, node->n));
    return jinja_scope_collect_args(scoper, scope, node->args);
}

/* ---- does a body read a special name before it stores to it? --------------------------------- */

typedef enum Use { USE_NONE, USE_READ, USE_STORED } Use;

static Use jinja_scope_use(const JNode *node, const char *name);

static Use jinja_scope_use_list(JNode *const *node, size_t n, const char *name) {
    Use use = USE_NONE;
    for (size_t i = 0; i < n && use == USE_NONE; i++) use = jinja_scope_use(node[i], name);
    return use;
}

static Use jinja_scope_use_args(const ArgsNode *args, const char *name) {
    if (args == NULL) return USE_NONE;
    Use use = jinja_scope_use_list(args->arg, args->n, name);
    if (use == USE_NONE) use = jinja_scope_use_list(args->kw, args->n_kw, name);
    if (use == USE_NONE) use = jinja_scope_use(args->dyn_args, name);
    return use == USE_NONE ? jinja_scope_use(args->dyn_kwargs, name) : use;
}

static Use jinja_scope_use(const JNode *node, const char *name) {
    if (node == NULL || node->kind == N_BLOCK) return USE_NONE;
    if (node->kind == N_NAME) {
        if (!jstr_is(node->name, name)) return USE_NONE;
        return node->flag ? USE_STORED : USE_READ;
    }
    if (node->kind == N_FILTER_BLOCK) {
        Use use = jinja_scope_use(node->c, name);
        return use == USE_NONE ? jinja_scope_use(node->a, name) : use;
    }
    bool test_last = node->kind == N_FOR, list_first = node->kind == N_WITH;
    Use use = USE_NONE;
    if (list_first) use = jinja_scope_use_list(node->item, node->n, name);
    if (list_first && use == USE_NONE) use = jinja_scope_use_list(node->item2, node->n, name);
    if (use == USE_NONE) use = jinja_scope_use(node->a, name);
    if (use == USE_NONE && !(node->kind == N_CALL_BLOCK || node->kind == N_MACRO))
        use = jinja_scope_use(node->b, name);
    if (use == USE_NONE && !test_last && node->kind != N_CALL_BLOCK && node->kind != N_MACRO)
        use = jinja_scope_use(node->c, name);
    if (use == USE_NONE && !list_first) use = jinja_scope_use_list(node->item, node->n, name);
    if (use == USE_NONE && node->kind == N_DICT)
        use = jinja_scope_use_list(node->item2, node->n, name);
    if (node->kind == N_CALL_BLOCK || node->kind == N_MACRO) {
        if (use == USE_NONE) use = jinja_scope_use_list(node->item2, node->n2, name);
        if (use == USE_NONE) use = jinja_scope_use(node->c, name);
    }
    if (use == USE_NONE && test_last) use = jinja_scope_use(node->c, name);
    return use == USE_NONE ? jinja_scope_use_args(node->args, name) : use;
}

static bool jinja_scope_reads(const JNode *node, const char *name) {
    return jinja_scope_use(node, name) == USE_READ;
}

/* ---- second pass: names to slots, frames inside frames
 * ---------------------------------------- */

static Status jinja_scope_finish(Scoper *scoper, Scope *scope, Frame **out) {
    Frame *frame = arena_alloc(&scoper->jinja->arena, sizeof(*frame));
    map_free(&scope->names);
    if (frame == NULL) return jinja_scope_no_memory(scoper);
    frame->load = scope->load;
    frame->n = scope->n;
    *out = frame;
    return OK;
}

static Func *jinja_scope_func(Scoper *scoper) {
    return arena_alloc(&scoper->jinja->arena, sizeof(Func));
}

static Status jinja_scope_name(Scoper *scoper, const Scope *scope, JNode *node) {
    const Scope *owner;
    const Load *load = jinja_scope_find(scope, node->name, &owner);
    if (load == NULL)
        return err_set(scoper->err, ERR_TEMPLATE,
                       "template line %d: AssertionError: Tried to resolve a name to a reference "
                       "that was unknown to the frame ('%.*s')",
                       node->line, STR_ARG(jstr_bytes(node->name)));
    if (node->flag && scoper->for_depth > 0 && node->kind == N_NAME && jstr_is(node->name, "loop"))
        return jinja_syntax(scoper->err, node->line,
                            "Can't assign to special loop variable in for-loop target");
    node->slot = load->slot;
    node->hops = jinja_scope_hops(scope->func, owner->func);
    return OK;
}

static Status jinja_scope_list(Scoper *scoper, Scope *scope, JNode *const *node, size_t n,
                               bool soft) {
    for (size_t i = 0; i < n; i++) TRY(jinja_scope_nodes(scoper, scope, node[i], soft));
    return OK;
}

static Status jinja_scope_args(Scoper *scoper, Scope *scope, const ArgsNode *args, bool soft) {
    if (args == NULL) return OK;
    TRY(jinja_scope_list(scoper, scope, args->arg, args->n, soft));
    TRY(jinja_scope_list(scoper, scope, args->kw, args->n_kw, soft));
    TRY(jinja_scope_nodes(scoper, scope, args->dyn_args, soft));
    return jinja_scope_nodes(scoper, scope, args->dyn_kwargs, soft);
}

static Status jinja_scope_copy_target(Scoper *scoper, const JNode *target, JNode **out) {
    JNode *copy = arena_alloc(&scoper->jinja->arena, sizeof(*copy));
    if (copy == NULL) return jinja_scope_no_memory(scoper);
    *copy = *target;
    *out = copy;
    if (target->kind != N_TUPLE) return OK;
    copy->item = arena_alloc(&scoper->jinja->arena, (target->n + 1) * sizeof(JNode *));
    if (copy->item == NULL) return jinja_scope_no_memory(scoper);
    for (size_t i = 0; i < target->n; i++)
        TRY(jinja_scope_copy_target(scoper, target->item[i], &copy->item[i]));
    return OK;
}

/* The test of a loop has variables of its own: it may run ahead of the body. */
static Status jinja_scope_for_test(Scoper *scoper, Scope *scope, JNode *node) {
    Scope test = {.parent = scope, .func = scope->func};
    node->item2 = arena_alloc(&scoper->jinja->arena, sizeof(JNode *));
    if (node->item2 == NULL) return jinja_scope_no_memory(scoper);
    TRY(jinja_scope_copy_target(scoper, node->a, &node->item2[0]));
    Status status = jinja_scope_target(scoper, &test, node->item2[0]);
    if (status == OK) status = jinja_scope_collect(scoper, &test, node->c);
    if (status == OK) status = jinja_scope_nodes(scoper, &test, node->item2[0], false);
    if (status == OK) status = jinja_scope_nodes(scoper, &test, node->c, false);
    Status finished = jinja_scope_finish(scoper, &test, &node->frame3);
    return status != OK ? status : finished;
}

static Status jinja_scope_for_body(Scoper *scoper, Scope *scope, ScopeFunc *func, JNode *node) {
    Scope body = {.parent = scope, .func = func}, otherwise = {.parent = scope, .func = func};
    node->flag2 = node->flag || jinja_scope_reads(node->item[0], "loop");
    Status status = OK;
    if (node->flag2) status = jinja_scope_param(scoper, &body, "loop", &node->slot);
    if (status == OK) status = jinja_scope_target(scoper, &body, node->a);
    if (status == OK) status = jinja_scope_collect(scoper, &body, node->item[0]);
    if (status == OK && node->n > 1)
        status = jinja_scope_collect(scoper, &otherwise, node->item[1]);
    if (status == OK) status = jinja_scope_nodes(scoper, &body, node->a, false);
    scoper->loop_depth++;
    if (status == OK) status = jinja_scope_nodes(scoper, &body, node->item[0], false);
    scoper->loop_depth--;
    if (status == OK && node->n > 1)
        status = jinja_scope_nodes(scoper, &otherwise, node->item[1], false);
    Status one = jinja_scope_finish(scoper, &body, &node->frame);
    Status two = jinja_scope_finish(scoper, &otherwise, &node->frame2);
    return status != OK ? status : one != OK ? one : two;
}

static Status jinja_scope_for(Scoper *scoper, Scope *scope, JNode *node, bool soft) {
    ScopeFunc inner = {.outer = scope->func, .func = scope->func->func};
    TRY(jinja_scope_nodes(scoper, scope, node->b, soft));
    scoper->for_depth++;
    if (node->c != NULL) TRY(jinja_scope_for_test(scoper, scope, node));
    if (node->flag) {
        inner.func = node->func = jinja_scope_func(scoper);
        if (inner.func == NULL) return jinja_scope_no_memory(scoper);
    }
    TRY(jinja_scope_for_body(scoper, scope, node->flag ? &inner : scope->func, node));
    scoper->for_depth--;
    return OK;
}

static Status jinja_scope_macro_special(Scoper *scoper, Scope *body, JNode *node) {
    Func *func = node->func;
    bool has_kwargs = false, has_varargs = false;
    for (size_t i = 0; i < node->n; i++) {
        const JStr *name = node->item[i]->name;
        if (jstr_is(name, "caller")) {
            func->explicit_caller = true;
            if (jinja_scope_reads(node->c, "caller") && i + node->n2 < node->n)
                return jinja_syntax(scoper->err, node->line,
                                    "When defining macros or call blocks the special \"caller\" "
                                    "argument must be omitted or be given a default.");
        }
        has_kwargs |= jstr_is(name, "kwargs");
        has_varargs |= jstr_is(name, "varargs");
    }
    if (jinja_scope_reads(node->c, "caller")) {
        func->special |= MACRO_CALLER;
        if (!func->explicit_caller)
            TRY(jinja_scope_param(scoper, body, "caller", &func->caller_slot));
    }
    if (!has_kwargs && jinja_scope_reads(node->c, "kwargs")) {
        func->special |= MACRO_KWARGS;
        TRY(jinja_scope_param(scoper, body, "kwargs", &func->kwargs_slot));
    }
    if (!has_varargs && jinja_scope_reads(node->c, "varargs")) {
        func->special |= MACRO_VARARGS;
        TRY(jinja_scope_param(scoper, body, "varargs", &func->varargs_slot));
    }
    return OK;
}

static Status jinja_scope_macro_body(Scoper *scoper, Scope *body, JNode *node) {
    for (size_t i = 0; i < node->n; i++) TRY(jinja_scope_target(scoper, body, node->item[i]));
    TRY(jinja_scope_macro_special(scoper, body, node));
    TRY(jinja_scope_collect_list(scoper, body, node->item2, node->n2));
    TRY(jinja_scope_collect(scoper, body, node->c));
    TRY(jinja_scope_list(scoper, body, node->item, node->n, false));
    TRY(jinja_scope_list(scoper, body, node->item2, node->n2, false));
    int32_t loops = scoper->loop_depth;
    scoper->loop_depth = 0;
    TRY(jinja_scope_nodes(scoper, body, node->c, false));
    scoper->loop_depth = loops;
    return OK;
}

static Status jinja_scope_macro(Scoper *scoper, Scope *scope, JNode *node) {
    node->func = jinja_scope_func(scoper);
    if (node->func == NULL) return jinja_scope_no_memory(scoper);
    ScopeFunc inner = {.outer = scope->func, .func = node->func};
    Scope body = {.parent = scope, .func = &inner};
    Status status = jinja_scope_macro_body(scoper, &body, node);
    Status finished = jinja_scope_finish(scoper, &body, &node->frame);
    return status != OK ? status : finished;
}

/* with, filter blocks, set blocks and autoescape: a frame in the same function. */
static Status jinja_scope_inner(Scoper *scoper, Scope *scope, JNode *node) {
    Scope body = {.parent = scope, .func = scope->func};
    Status status = OK;
    if (node->kind == N_WITH)
        for (size_t i = 0; i < node->n && status == OK; i++)
            status = jinja_scope_target(scoper, &body, node->item[i]);
    if (status == OK && node->kind == N_AUTOESCAPE)
        status = jinja_scope_collect(scoper, &body, node->a);
    if (status == OK) status = jinja_scope_collect(scoper, &body, node->c);
    if (status == OK && node->kind == N_FILTER_BLOCK)
        status = jinja_scope_collect(scoper, &body, node->a);
    if (status == OK && node->kind == N_WITH)
        status = jinja_scope_list(scoper, &body, node->item, node->n, false);
    if (status == OK && (node->kind == N_FILTER_BLOCK || node->kind == N_AUTOESCAPE))
        status = jinja_scope_nodes(scoper, &body, node->a, false);
    if (status == OK && node->kind == N_SET_BLOCK)
        status = jinja_scope_nodes(scoper, &body, node->b, false);
    if (status == OK) status = jinja_scope_nodes(scoper, &body, node->c, false);
    Status finished = jinja_scope_finish(scoper, &body, &node->frame);
    return status != OK ? status : finished;
}

static Status jinja_scope_add_block(Scoper *scoper, JNode *node) {
    Jinja *jinja = scoper->jinja;
    if (node->flag) return jinja_syntax(scoper->err, node->line, "scoped blocks are not supported");
    if (node->flag2)
        return jinja_syntax(scoper->err, node->line, "required blocks are not supported");
    for (size_t i = 0; i < jinja->n_blocks; i++)
        if (jstr_same(jinja->block[i]->name, node->name))
            return jinja_syntax(scoper->err, node->line, "block '%.*s' defined twice",
                                STR_ARG(jstr_bytes(node->name)));
    if (jinja->n_blocks == scoper->cap_blocks) {
        size_t cap = MAX(scoper->cap_blocks * 2, (size_t)8);
        if (cap > 1024) return jinja_syntax(scoper->err, node->line, "more than 1024 blocks");
        JNode **block = arena_alloc(&jinja->arena, cap * sizeof(*block));
        if (block == NULL) return jinja_scope_no_memory(scoper);
        if (jinja->n_blocks > 0) memcpy(block, jinja->block, jinja->n_blocks * sizeof(*block));
        jinja->block = block;
        scoper->cap_blocks = cap;
    }
    jinja->block[jinja->n_blocks++] = node;
    return OK;
}

static Status jinja_scope_callee(Scoper *scoper, const JNode *node, bool soft) {
    if (node->callee != NULL || soft) return OK;
    return err_set(scoper->err, ERR_TEMPLATE,
                   "template line %d: TemplateAssertionError: No %s named '%.*s'.", node->line,
                   node->kind == N_FILTER ? "filter" : "test", STR_ARG(jstr_bytes(node->name)));
}

/* soft: inside an if, where an unknown filter is an error only when it is reached. */
static Status jinja_scope_nodes(Scoper *scoper, Scope *scope, const JNode *const_node, bool soft) {
    JNode *node = (JNode *)const_node;
    if (node == NULL) return OK;
    if (node->kind == N_SET || node->kind == N_SET_BLOCK || node->kind == N_MACRO)
        node->flag2 = scope->parent == NULL && !scoper->in_block;
    switch (node->kind) {
        case N_NAME:
        case N_NSREF: return jinja_scope_name(scoper, scope, node);
        case N_FOR: return jinja_scope_for(scoper, scope, node, soft);
        case N_MACRO: {
            JNode name = {.kind = N_NSREF, .name = node->name, .line = node->line};
            TRY(jinja_scope_name(scoper, scope, &name));
            node->slot = name.slot; /* always of the frame at hand */
            return jinja_scope_macro(scoper, scope, node);
        }
        case N_CALL_BLOCK:
            TRY(jinja_scope_nodes(scoper, scope, node->a, soft));
            return jinja_scope_macro(scoper, scope, node);
        case N_WITH: TRY(jinja_scope_list(scoper, scope, node->item2, node->n, soft)); break;
        case N_SET_BLOCK: TRY(jinja_scope_nodes(scoper, scope, node->a, soft)); break;
        case N_BLOCK: return jinja_scope_add_block(scoper, node);
        case N_BREAK:
        case N_CONTINUE:
            if (scoper->loop_depth > 0) return OK;
            return err_set(scoper->err, ERR_TEMPLATE, "template line %d: SyntaxError: '%s' %s",
                           node->line, node->kind == N_BREAK ? "break" : "continue",
                           node->kind == N_BREAK ? "outside loop" : "not properly in loop");
        case N_FILTER:
        case N_TEST: TRY(jinja_scope_callee(scoper, node, soft)); break;
        case N_COND:
        case N_IF: soft = true; break;
        default: break;
    }
    if (node->kind == N_WITH || node->kind == N_FILTER_BLOCK || node->kind == N_SET_BLOCK ||
        node->kind == N_AUTOESCAPE)
        return jinja_scope_inner(scoper, scope, node);
    TRY(jinja_scope_nodes(scoper, scope, node->a, soft));
    TRY(jinja_scope_nodes(scoper, scope, node->b, soft));
    TRY(jinja_scope_nodes(scoper, scope, node->c, soft));
    TRY(jinja_scope_list(scoper, scope, node->item, node->n, soft));
    if (node->kind == N_DICT) TRY(jinja_scope_list(scoper, scope, node->item2, node->n, soft));
    return jinja_scope_args(scoper, scope, node->args, soft);
}

/* The template, or a block: a function that no other surrounds. */
static Status jinja_scope_outermost(Scoper *scoper, JNode *node, JNode *body) {
    node->func = jinja_scope_func(scoper);
    if (node->func == NULL) return jinja_scope_no_memory(scoper);
    ScopeFunc func = {.func = node->func};
    Scope scope = {.func = &func};
    Status status = OK;
    if (jinja_scope_reads(body, "self")) {
        node->func->has_self = true;
        status = jinja_scope_param(scoper, &scope, "self", &node->func->self_slot);
    }
    if (status == OK) status = jinja_scope_collect(scoper, &scope, body);
    if (status == OK) status = jinja_scope_nodes(scoper, &scope, body, false);
    Status finished = jinja_scope_finish(scoper, &scope, &node->frame);
    return status != OK ? status : finished;
}

Status jinja_scope(Jinja *jinja, Err *err) {
    Scoper scoper = {.jinja = jinja, .err = err};
    TRY(jinja_scope_outermost(&scoper, jinja->root, jinja->root));
    for (size_t i = 0; i < jinja->n_blocks; i++) {
        scoper.for_depth = scoper.loop_depth = 0;
        scoper.in_block = true;
        TRY(jinja_scope_outermost(&scoper, jinja->block[i], jinja->block[i]->c));
    }
    return OK;
}
