/* jmethods: which methods a type has; those of dicts, lists, tuples, ranges and helpers. The
 * methods of strings are in jmethods_str.c. */
#include "text/jinja_priv.h"
#include "text/jmethods_priv.h"

static Status jmethods_dict_view(JRun *run, JVal self, JViewKind kind, JVal *out) {
    JView *view = jrun_alloc(run, 1, sizeof(*view));
    if (view == NULL) return jrun_no_memory(run);
    *view = (JView){.kind = kind, .dict = self.dict};
    *out = (JVal){.tag = J_VIEW, .view = view};
    return OK;
}

static Status jmethods_keys(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_dict_view(run, arg[0], JVIEW_KEYS, out);
}

static Status jmethods_values(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_dict_view(run, arg[0], JVIEW_VALUES, out);
}

static Status jmethods_items(JRun *run, const JVal *arg, JVal *out) {
    return jmethods_dict_view(run, arg[0], JVIEW_ITEMS, out);
}

static Status jmethods_get(JRun *run, const JVal *arg, JVal *out) {
    TRY(jdict_find(run, arg[0].dict, arg[1], out));
    if (out->tag == J_MISSING) *out = arg[2].tag == J_MISSING ? jval_none() : arg[2];
    return OK;
}

static Status jmethods_dict_copy(JRun *run, const JVal *arg, JVal *out) {
    JDict *copy;
    TRY(jdict_new(run, arg[0].dict->n, &copy));
    for (size_t i = 0; i < arg[0].dict->n; i++)
        TRY(jdict_put(run, copy, arg[0].dict->item[i].key, arg[0].dict->item[i].value));
    *out = (JVal){.tag = J_DICT, .dict = copy};
    return OK;
}

static Status jmethods_fromkeys(JRun *run, const JVal *arg, JVal *out) {
    JDict *dict;
    JIter iter;
    TRY(jdict_new(run, 4, &dict));
    TRY(jiter_open(run, arg[1], &iter));
    for (;;) {
        JVal key;
        bool more;
        TRY(jiter_next(run, &iter, &key, &more));
        if (!more) break;
        TRY(jdict_put(run, dict, key, arg[2].tag == J_MISSING ? jval_none() : arg[2]));
    }
    *out = (JVal){.tag = J_DICT, .dict = dict};
    return OK;
}

static Status jmethods_seq_count(JRun *run, const JVal *arg, JVal *out) {
    JIter iter;
    int64_t n = 0;
    TRY(jiter_open(run, arg[0], &iter));
    for (;;) {
        JVal v;
        bool more, same;
        TRY(jiter_next(run, &iter, &v, &more));
        if (!more) break;
        TRY(jval_equal(run, v, arg[1], &same));
        n += same;
    }
    *out = jval_int(n);
    return OK;
}

static Status jmethods_seq_index(JRun *run, const JVal *arg, JVal *out) {
    int64_t n, from = 0, to;
    TRY(jval_len(run, arg[0], &n));
    to = n;
    if (arg[2].tag != J_MISSING) TRY(jnum_index(run, arg[2], &from));
    if (arg[3].tag != J_MISSING) TRY(jnum_index(run, arg[3], &to));
    if (from < 0) from = MAX(from + n, (int64_t)0);
    if (to < 0) to = MAX(to + n, (int64_t)0);
    for (int64_t i = from; i < MIN(to, n); i++) {
        JVal v;
        bool same;
        TRY(jattr_item(run, arg[0], jval_int(i), &v));
        TRY(jval_equal(run, v, arg[1], &same));
        if (same) {
            *out = jval_int(i);
            return OK;
        }
    }
    JOut text = {.run = run};
    JVal message;
    if (arg[0].tag == J_TUPLE) {
        jout_text(&text, "tuple.index(x): x not in tuple");
    } else {
        jtext_repr(&text, arg[1]);
        jout_format(&text, " is not in %s", jval_type_name(arg[0]));
    }
    TRY(jout_finish(&text, &message));
    return jrun_raise(run, "ValueError", "%.*s", STR_ARG(jstr_bytes(message.s)));
}

static Status jmethods_list_copy(JRun *run, const JVal *arg, JVal *out) {
    return jval_to_list(run, arg[0], out);
}

static Status jmethods_loop_cycle(JRun *run, JVal self, const JArgs *args, JVal *out) {
    if (args->n == 0) return jrun_raise(run, "TypeError", "no items for cycling given");
    *out = args->pos[(uint64_t)self.loop->index0 % args->n];
    return OK;
}

static Status jmethods_loop_changed(JRun *run, JVal self, const JArgs *args, JVal *out) {
    JVal now;
    bool same = false;
    TRY(jval_list_new(run, args->n, &now));
    now.tag = J_TUPLE;
    for (size_t i = 0; i < args->n; i++) TRY(jval_list_push(run, now.list, args->pos[i]));
    if (self.loop->last_changed.tag != J_MISSING)
        TRY(jval_equal(run, self.loop->last_changed, now, &same));
    if (!same) self.loop->last_changed = now;
    *out = jval_bool(!same);
    return OK;
}

static Status jmethods_cycler_next(JRun *run, const JVal *arg, JVal *out) {
    (void)run;
    JCycler *cycler = arg[0].cycler;
    *out = cycler->items->v[cycler->pos];
    cycler->pos = (cycler->pos + 1) % cycler->items->n;
    return OK;
}

static Status jmethods_cycler_reset(JRun *run, const JVal *arg, JVal *out) {
    (void)run;
    arg[0].cycler->pos = 0;
    *out = jval_none();
    return OK;
}

static Status jmethods_is_integer(JRun *run, const JVal *arg, JVal *out) {
    (void)run;
    *out = jval_bool(arg[0].f == (double)(int64_t)arg[0].f);
    return OK;
}

static Status jmethods_bit_length(JRun *run, const JVal *arg, JVal *out) {
    (void)run;
    int64_t v = jval_as_int(arg[0]);
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    *out = jval_int(u == 0 ? 0 : 64 - __builtin_clzll(u));
    return OK;
}

static Status jmethods_same(JRun *run, const JVal *arg, JVal *out) {
    (void)run;
    *out = arg[0].tag == J_BOOL ? jval_int(arg[0].b) : arg[0];
    return OK;
}

static const JMethodDef jmethods_dict[] = {
    {{"keys", jmethods_keys, NULL, 0, 0, NULL}},
    {{"values", jmethods_values, NULL, 0, 0, NULL}},
    {{"items", jmethods_items, NULL, 0, 0, NULL}},
    {{"get", jmethods_get, NULL, 1, 2, NULL}},
    {{"copy", jmethods_dict_copy, NULL, 0, 0, NULL}},
    {{"fromkeys", jmethods_fromkeys, NULL, 1, 2, NULL}},
};

static const JMethodDef jmethods_list[] = {
    {{"count", jmethods_seq_count, NULL, 1, 1, NULL}},
    {{"index", jmethods_seq_index, NULL, 1, 3, NULL}},
    {{"copy", jmethods_list_copy, NULL, 0, 0, NULL}},
};

static const JMethodDef jmethods_int[] = {
    {{"bit_length", jmethods_bit_length, NULL, 0, 0, NULL}},
    {{"conjugate", jmethods_same, NULL, 0, 0, NULL}},
    {{"as_integer_ratio", NULL, NULL, 0, 0, NULL}},
    {{"bit_count", NULL, NULL, 0, 0, NULL}},
    {{"to_bytes", NULL, NULL, 0, 0, NULL}},
    {{"from_bytes", NULL, NULL, 0, 0, NULL}},
};

static const JMethodDef jmethods_float[] = {
    {{"is_integer", jmethods_is_integer, NULL, 0, 0, NULL}},
    {{"conjugate", jmethods_same, NULL, 0, 0, NULL}},
    {{"as_integer_ratio", NULL, NULL, 0, 0, NULL}},
    {{"hex", NULL, NULL, 0, 0, NULL}},
    {{"fromhex", NULL, NULL, 0, 0, NULL}},
};

static const JMethodDef jmethods_loop[] = {
    {{"cycle", NULL, jmethods_loop_cycle, 0, 0, NULL}},
    {{"changed", NULL, jmethods_loop_changed, 0, 0, NULL}},
};

static const JMethodDef jmethods_cycler[] = {
    {{"next", jmethods_cycler_next, NULL, 0, 0, NULL}},
    {{"reset", jmethods_cycler_reset, NULL, 0, 0, NULL}},
};

static const JMethodDef jmethods_view[] = {
    {{"isdisjoint", NULL, NULL, 0, 0, NULL}},
    {{"mapping", NULL, NULL, 0, 0, NULL}},
};

static const JMethodDef jmethods_gen[] = {
    {{"send", NULL, NULL, 0, 0, NULL}},
    {{"throw", NULL, NULL, 0, 0, NULL}},
    {{"close", NULL, NULL, 0, 0, NULL}},
};

/* The sandbox gives out no method that changes its object. */
static const char *const jmethods_dict_mutators[] = {"clear", "pop", "popitem", "setdefault",
                                                     "update"};
static const char *const jmethods_list_mutators[] = {"append", "clear", "pop",    "reverse",
                                                     "insert", "sort",  "extend", "remove"};

static const JMethodDef *jmethods_search(const JMethodDef *def, size_t n, const JStr *name) {
    for (size_t i = 0; i < n; i++)
        if (jstr_is(name, def[i].sig.name)) return &def[i];
    return NULL;
}

#define SEARCH(table) jmethods_search((table), ARRAY_LEN(table), name)

const JMethodDef *jmethods_find(JTag tag, const JStr *name, bool *mutates) {
    const char *const *mutators = tag == J_DICT ? jmethods_dict_mutators : jmethods_list_mutators;
    size_t n = tag == J_DICT   ? ARRAY_LEN(jmethods_dict_mutators)
               : tag == J_LIST ? ARRAY_LEN(jmethods_list_mutators)
                               : 0;
    *mutates = false;
    for (size_t i = 0; i < n; i++) *mutates |= jstr_is(name, mutators[i]);
    switch (tag) {
        case J_STR: return jmethods_search(jmethods_str, jmethods_n_str, name);
        case J_DICT: return SEARCH(jmethods_dict);
        case J_LIST: return SEARCH(jmethods_list);
        case J_TUPLE:
        case J_RANGE: {
            const JMethodDef *def = SEARCH(jmethods_list);
            return def != NULL && jstr_is(name, "copy") ? NULL : def;
        }
        case J_BOOL:
        case J_INT: return SEARCH(jmethods_int);
        case J_FLOAT: return SEARCH(jmethods_float);
        case J_LOOP: return SEARCH(jmethods_loop);
        case J_CYCLER: return SEARCH(jmethods_cycler);
        case J_VIEW: return SEARCH(jmethods_view);
        case J_GEN: return SEARCH(jmethods_gen);
        case J_FUNC: return jstr_is(name, "fromkeys") ? SEARCH(jmethods_dict) : NULL;
        default: return NULL;
    }
}
