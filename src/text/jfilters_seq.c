/* jfilters_seq: filters over sequences. What Jinja2 gives as a generator is one here, too: it
 * can be walked once, has no length and raises only when it is walked. */
#include "text/jfilters_priv.h"

static Status jfilters_seq_fold(JRun *run, JVal v, bool case_sensitive, JVal *out) {
    *out = v;
    return case_sensitive || v.tag != J_STR ? OK : jcase_map(run, v.s, JCASE_LOWER, out);
}

static Status jfilters_seq_length(JRun *run, const JVal *arg, JVal *out) {
    int64_t n;
    TRY(jval_len(run, arg[0], &n));
    *out = jval_int(n);
    return OK;
}

static Status jfilters_seq_first(JRun *run, const JVal *arg, JVal *out) {
    JIter iter;
    bool more;
    TRY(jiter_open(run, arg[0], &iter));
    TRY(jiter_next(run, &iter, out, &more));
    return more ? OK : jval_undefined_hint(run, "No first item, sequence was empty.", out);
}

static bool jfilters_seq_reversible(JVal v) {
    return v.tag == J_LIST || v.tag == J_TUPLE || v.tag == J_STR || v.tag == J_DICT ||
           v.tag == J_RANGE || v.tag == J_VIEW;
}

static Status jfilters_seq_last(JRun *run, const JVal *arg, JVal *out) {
    int64_t n;
    if (arg[0].tag != J_UNDEFINED && !jfilters_seq_reversible(arg[0]))
        return jrun_raise(run, "TypeError", "'%s' object is not reversible",
                          jval_type_name(arg[0]));
    TRY(jval_len(run, arg[0], &n));
    if (n == 0) return jval_undefined_hint(run, "No last item, sequence was empty.", out);
    if (arg[0].tag != J_DICT && arg[0].tag != J_VIEW)
        return jattr_item(run, arg[0], jval_int(n - 1), out);
    JVal list;
    TRY(jval_to_list(run, arg[0], &list));
    *out = list.list->v[n - 1];
    return OK;
}

static Status jfilters_seq_reverse(JRun *run, const JVal *arg, JVal *out) {
    static const char *const names[] = {[J_LIST] = "list_reverseiterator",
                                        [J_TUPLE] = "reversed",
                                        [J_RANGE] = "range_iterator",
                                        [J_DICT] = "dict_reversekeyiterator",
                                        [J_VIEW] = "dict_reverseitemiterator"};
    JVal v = arg[0];
    if (v.tag == J_STR) {
        JSlice slice = {jval_none(), jval_none(), jval_int(-1)};
        return jattr_slice(run, v, &slice, out);
    }
    if (!jval_is_iterable(v))
        return jrun_raise(run, "FilterArgumentError", "argument must be iterable");
    JVal list;
    TRY(jval_to_list(run, v, &list));
    for (size_t i = 0; i < list.list->n / 2; i++) {
        JVal swap = list.list->v[i];
        list.list->v[i] = list.list->v[list.list->n - 1 - i];
        list.list->v[list.list->n - 1 - i] = swap;
    }
    *out = list;
    if (!jfilters_seq_reversible(v)) return OK; /* a generator becomes a list */
    return jiter_over(run, list, names[v.tag], out);
}

static Status jfilters_seq_list(JRun *run, const JVal *arg, JVal *out) {
    return jval_to_list(run, arg[0], out);
}

static Status jfilters_seq_items(JRun *run, const JVal *arg, JVal *out) {
    JVal list;
    if (arg[0].tag != J_DICT && arg[0].tag != J_UNDEFINED)
        return jrun_raise(run, "TypeError", "Can only get item pairs from a mapping.");
    TRY(jval_list_new(run, 0, &list));
    for (size_t i = 0; arg[0].tag == J_DICT && i < arg[0].dict->n; i++) {
        JVal pair;
        TRY(jval_tuple2(run, arg[0].dict->item[i].key, arg[0].dict->item[i].value, &pair));
        TRY(jval_list_push(run, list.list, pair));
    }
    return jiter_over(run, list, "generator", out);
}

/* sort's attribute may name several, apart by commas. */
static Status jfilters_seq_sort_key(JRun *run, JVal item, JVal attribute, bool case_sensitive,
                                    JVal *out) {
    TRY(jval_list_new(run, 1, out));
    if (attribute.tag != J_STR) {
        TRY(jcall_attribute(run, item, attribute, (JVal){0}, &item));
        TRY(jfilters_seq_fold(run, item, case_sensitive, &item));
        return jval_list_push(run, out->list, item);
    }
    for (size_t from = 0;;) {
        size_t to = MIN(str_find(jstr_bytes(attribute.s), STR_LIT(","), from), attribute.s->len);
        JVal one, part;
        TRY(jstr_sub(run, attribute.s, from, to, &part));
        TRY(jcall_attribute(run, item, part, (JVal){0}, &one));
        TRY(jfilters_seq_fold(run, one, case_sensitive, &one));
        TRY(jval_list_push(run, out->list, one));
        if (to == attribute.s->len) return OK;
        from = to + 1;
    }
}

static Status jfilters_seq_sort(JRun *run, const JVal *arg, JVal *out) {
    bool reverse, case_sensitive;
    TRY(jfilters_flag(run, arg[1], false, &reverse));
    TRY(jfilters_flag(run, arg[2], false, &case_sensitive));
    TRY(jval_to_list(run, arg[0], out));
    size_t n = out->list->n;
    JVal *key = jrun_alloc(run, n, sizeof(JVal));
    if (key == NULL) return jrun_no_memory(run);
    for (size_t i = 0; i < n; i++)
        TRY(jfilters_seq_sort_key(run, out->list->v[i], arg[3], case_sensitive, &key[i]));
    return jsort(run, out->list->v, key, n, reverse);
}

static Status jfilters_seq_dictsort(JRun *run, const JVal *arg, JVal *out) {
    bool reverse, case_sensitive;
    const JStr *by;
    TRY(jfilters_flag(run, arg[1], false, &case_sensitive));
    TRY(jfilters_str(run, arg[2], "key", &by));
    TRY(jfilters_flag(run, arg[3], false, &reverse));
    bool by_value = jstr_is(by, "value");
    if (!by_value && !jstr_is(by, "key"))
        return jrun_raise(run, "FilterArgumentError",
                          "You can only sort by either \"key\" or \"value\"");
    if (arg[0].tag == J_UNDEFINED) return jval_undefined_fail(run, arg[0]);
    if (arg[0].tag != J_DICT)
        return jrun_raise(run, "AttributeError", "'%s' object has no attribute 'items'",
                          jval_type_name(arg[0]));
    const JDict *dict = arg[0].dict;
    JVal *key = jrun_alloc(run, dict->n, sizeof(JVal));
    if (key == NULL) return jrun_no_memory(run);
    TRY(jval_list_new(run, dict->n, out));
    for (size_t i = 0; i < dict->n; i++) {
        JVal pair;
        TRY(jval_tuple2(run, dict->item[i].key, dict->item[i].value, &pair));
        TRY(jval_list_push(run, out->list, pair));
        TRY(jfilters_seq_fold(run, pair.list->v[by_value], case_sensitive, &key[i]));
    }
    return jsort(run, out->list->v, key, dict->n, reverse);
}

static Status jfilters_seq_unique(JRun *run, const JVal *arg, JVal *out) {
    bool case_sensitive;
    TRY(jfilters_flag(run, arg[1], false, &case_sensitive));
    JGen *gen = jrun_alloc(run, 1, sizeof(*gen));
    if (gen == NULL) return jrun_no_memory(run);
    *gen = (JGen){.kind = JGEN_UNIQUE,
                  .type_name = "generator",
                  .attribute = arg[2],
                  .fold_case = !case_sensitive};
    TRY(jdict_new(run, 4, &gen->seen));
    TRY(jiter_open(run, arg[0], &gen->iter));
    *out = (JVal){.tag = J_GEN, .gen = gen};
    return OK;
}

static Status jfilters_seq_extreme(JRun *run, const JVal *arg, const char *op, JVal *out) {
    bool case_sensitive, more;
    JIter iter;
    JVal best_key = {0}, item, key;
    TRY(jfilters_flag(run, arg[1], false, &case_sensitive));
    TRY(jiter_open(run, arg[0], &iter));
    for (;;) {
        TRY(jiter_next(run, &iter, &item, &more));
        if (!more) break;
        TRY(jcall_attribute(run, item, arg[2], (JVal){0}, &key));
        TRY(jfilters_seq_fold(run, key, case_sensitive, &key));
        bool better = best_key.tag == J_MISSING;
        if (!better) TRY(jval_compare(run, key, best_key, op, &better));
        if (better) {
            best_key = key;
            *out = item;
        }
    }
    if (best_key.tag != J_MISSING) return OK;
    return jval_undefined_hint(run, "No aggregated item, sequence was empty.", out);
}

static Status jfilters_seq_min(JRun *run, const JVal *arg, JVal *out) {
    return jfilters_seq_extreme(run, arg, "<", out);
}

static Status jfilters_seq_max(JRun *run, const JVal *arg, JVal *out) {
    return jfilters_seq_extreme(run, arg, ">", out);
}

static Status jfilters_seq_sum(JRun *run, const JVal *arg, JVal *out) {
    JIter iter;
    JVal total = arg[2].tag == J_MISSING ? jval_int(0) : arg[2];
    TRY(jiter_open(run, arg[0], &iter));
    if (total.tag == J_STR)
        return jrun_raise(run, "TypeError", "sum() can't sum strings [use ''.join(seq) instead]");
    for (;;) {
        JVal item;
        bool more;
        TRY(jiter_next(run, &iter, &item, &more));
        if (!more) break;
        TRY(jcall_attribute(run, item, arg[1], (JVal){0}, &item));
        TRY(jnum_binary(run, TOK_ADD, total, item, &total));
    }
    *out = total;
    return OK;
}

static Status jfilters_seq_join(JRun *run, const JVal *arg, JVal *out) {
    JIter iter;
    JVal list, sep = arg[1];
    bool markup = false;
    if (sep.tag == J_MISSING) TRY(jstr_new(run, "", 0, false, &sep));
    TRY(jiter_open(run, arg[0], &iter));
    TRY(jval_list_new(run, 4, &list));
    for (;;) {
        JVal item;
        bool more;
        TRY(jiter_next(run, &iter, &item, &more));
        if (!more) break;
        if (arg[2].tag != J_NONE) TRY(jcall_attribute(run, item, arg[2], (JVal){0}, &item));
        markup |= item.tag == J_STR && item.s->markup;
        TRY(jfilters_soft(run, item, &item));
        TRY(jval_list_push(run, list.list, item));
    }
    markup &= run->autoescape;
    TRY(jfilters_soft(run, sep, &sep));
    bool sep_markup = run->autoescape && sep.s->markup;
    if (markup) TRY(jhtml_escape(run, sep, &sep));
    JStr plain = *sep.s;
    plain.markup = markup || sep_markup;
    return jmethods_str_do_join(run, &plain, list, out);
}

static Status jfilters_seq_batch(JRun *run, const JVal *arg, JVal *out) {
    JIter iter;
    JVal lists, now = {0};
    bool is_count = jval_is_int(arg[1]);
    int64_t count = is_count ? jval_as_int(arg[1]) : -1;
    TRY(jiter_open(run, arg[0], &iter));
    TRY(jval_list_new(run, 4, &lists));
    TRY(jval_list_new(run, 4, &now));
    for (;;) {
        JVal item;
        bool more;
        TRY(jiter_next(run, &iter, &item, &more));
        if (!more) break;
        if ((int64_t)now.list->n == count) {
            TRY(jval_list_push(run, lists.list, now));
            TRY(jval_list_new(run, 4, &now));
        }
        TRY(jval_list_push(run, now.list, item));
    }
    if (now.list->n > 0) {
        bool fill = arg[2].tag != J_MISSING && arg[2].tag != J_NONE;
        if (fill && !is_count) return jnum_index(run, arg[1], &count);
        while (fill && (int64_t)now.list->n < count) {
            TRY(jrun_step(run, 1));
            TRY(jval_list_push(run, now.list, arg[2]));
        }
        TRY(jval_list_push(run, lists.list, now));
    }
    return jiter_over(run, lists, "generator", out);
}

static Status jfilters_seq_slice(JRun *run, const JVal *arg, JVal *out) {
    int64_t slices, offset = 0;
    JVal seq, lists;
    TRY(jval_to_list(run, arg[0], &seq));
    TRY(jfilters_int(run, arg[1], 0, &slices));
    int64_t n = (int64_t)seq.list->n;
    if (slices == 0)
        return jrun_raise(run, "ZeroDivisionError", "integer division or modulo by zero");
    TRY(jval_list_new(run, 4, &lists));
    for (int64_t k = 0; k < slices; k++) {
        int64_t each = n / slices, extra = n % slices;
        int64_t start = offset + k * each;
        if (k < extra) offset++;
        int64_t end = offset + (k + 1) * each;
        JVal one;
        TRY(jrun_step(run, 1));
        TRY(jval_list_new(run, (size_t)(end - start), &one));
        for (int64_t i = start; i < end; i++) TRY(jval_list_push(run, one.list, seq.list->v[i]));
        if (arg[2].tag != J_MISSING && arg[2].tag != J_NONE && k >= extra)
            TRY(jval_list_push(run, one.list, arg[2]));
        TRY(jval_list_push(run, lists.list, one));
    }
    return jiter_over(run, lists, "generator", out);
}

static Status jfilters_seq_group_add(JRun *run, JVal groups, JVal real_key, JVal item, bool fresh) {
    if (fresh) {
        JVal list, group;
        TRY(jval_list_new(run, 4, &list));
        TRY(jval_tuple2(run, real_key, list, &group));
        group.list->group = true;
        TRY(jval_list_push(run, groups.list, group));
    }
    JVal last = groups.list->v[groups.list->n - 1];
    return jval_list_push(run, last.list->v[1].list, item);
}

static Status jfilters_seq_groupby(JRun *run, const JVal *arg, JVal *out) {
    bool case_sensitive;
    JVal items;
    TRY(jfilters_flag(run, arg[3], false, &case_sensitive));
    TRY(jval_to_list(run, arg[0], &items));
    size_t n = items.list->n;
    JVal *key = jrun_alloc(run, n, sizeof(JVal));
    if (key == NULL) return jrun_no_memory(run);
    for (size_t i = 0; i < n; i++) {
        TRY(jcall_attribute(run, items.list->v[i], arg[1], arg[2], &key[i]));
        TRY(jfilters_seq_fold(run, key[i], case_sensitive, &key[i]));
    }
    TRY(jsort(run, items.list->v, key, n, false));
    TRY(jval_list_new(run, 4, out));
    for (size_t i = 0; i < n; i++) {
        bool same = false;
        JVal real_key;
        if (i > 0) TRY(jval_equal(run, key[i - 1], key[i], &same));
        TRY(jcall_attribute(run, items.list->v[i], arg[1], arg[2], &real_key));
        TRY(jfilters_seq_group_add(run, *out, case_sensitive ? key[i] : real_key, items.list->v[i],
                                   !same));
    }
    return OK;
}

/* The rest of the arguments, for the filter or test that they are meant for. */
static Status jfilters_seq_rest(JRun *run, const JArgs *args, size_t skip, const JArgs **out) {
    JArgs *rest = jrun_alloc(run, 1, sizeof(*rest));
    if (rest == NULL) return jrun_no_memory(run);
    *rest = *args;
    rest->pos += skip;
    rest->n -= skip;
    *out = rest;
    return OK;
}

static Status jfilters_seq_callee(JRun *run, JVal name, bool is_filter, const void **out) {
    *out = name.tag != J_STR ? NULL
           : is_filter       ? (const void *)jfilters_find(name.s)
                             : (const void *)jtests_find(name.s);
    if (*out != NULL) return OK;
    JVal text;
    JOut repr = {.run = run};
    jtext_repr(&repr, name);
    TRY(jout_finish(&repr, &text));
    return jrun_raise(run, "TemplateRuntimeError", "No %s named %.*s.",
                      is_filter ? "filter" : "test", STR_ARG(jstr_bytes(text.s)));
}

/* A generator that walks v, or over nothing when v is false. */
static Status jfilters_seq_gen(JRun *run, JVal v, JGen gen, JVal *out) {
    bool truth;
    JGen *copy = jrun_alloc(run, 1, sizeof(*copy));
    if (copy == NULL) return jrun_no_memory(run);
    *copy = gen;
    copy->type_name = "generator";
    TRY(jval_truth(run, v, &truth));
    if (truth) {
        copy->iter.source = v; /* what cannot be walked is an error when it is walked */
    } else {
        copy->done = true;
    }
    *out = (JVal){.tag = J_GEN, .gen = copy};
    return OK;
}

static Status jfilters_seq_map(JRun *run, JVal self, const JArgs *args, JVal *out) {
    JGen gen = {.kind = JGEN_MAP};
    bool truth;
    TRY(jval_truth(run, self, &truth));
    if (!truth) return jfilters_seq_gen(run, self, gen, out);
    for (size_t i = 0; args->n == 0 && i < args->n_kw; i++) {
        if (jstr_is(args->kw_name[i].s, "attribute")) gen.attribute = args->kw[i];
        if (jstr_is(args->kw_name[i].s, "default")) gen.fallback = args->kw[i];
    }
    if (gen.attribute.tag != J_MISSING) {
        for (size_t i = 0; i < args->n_kw; i++)
            if (!jstr_is(args->kw_name[i].s, "attribute") &&
                !jstr_is(args->kw_name[i].s, "default"))
                return jrun_raise(run, "FilterArgumentError", "Unexpected keyword argument '%.*s'",
                                  STR_ARG(jstr_bytes(args->kw_name[i].s)));
    } else {
        if (args->n == 0)
            return jrun_raise(run, "FilterArgumentError", "map requires a filter argument");
        TRY(jfilters_seq_callee(run, args->pos[0], true, &gen.callee));
        TRY(jfilters_seq_rest(run, args, 1, &gen.args));
    }
    return jfilters_seq_gen(run, self, gen, out);
}

static Status jfilters_seq_pick(JRun *run, JVal self, const JArgs *args, JGen gen,
                                bool by_attribute, JVal *out) {
    size_t skip = by_attribute;
    bool truth;
    TRY(jval_truth(run, self, &truth));
    gen.kind = JGEN_SELECT;
    if (!truth) return jfilters_seq_gen(run, self, gen, out);
    if (by_attribute) {
        if (args->n == 0)
            return jrun_raise(run, "FilterArgumentError", "Missing parameter for attribute name");
        gen.attribute = args->pos[0];
    }
    if (args->n > skip) {
        TRY(jfilters_seq_callee(run, args->pos[skip], false, &gen.callee));
        TRY(jfilters_seq_rest(run, args, skip + 1, &gen.args));
    }
    return jfilters_seq_gen(run, self, gen, out);
}

static Status jfilters_seq_select(JRun *run, JVal self, const JArgs *args, JVal *out) {
    return jfilters_seq_pick(run, self, args, (JGen){0}, false, out);
}

static Status jfilters_seq_reject(JRun *run, JVal self, const JArgs *args, JVal *out) {
    return jfilters_seq_pick(run, self, args, (JGen){.invert = true}, false, out);
}

static Status jfilters_seq_selectattr(JRun *run, JVal self, const JArgs *args, JVal *out) {
    return jfilters_seq_pick(run, self, args, (JGen){0}, true, out);
}

static Status jfilters_seq_rejectattr(JRun *run, JVal self, const JArgs *args, JVal *out) {
    return jfilters_seq_pick(run, self, args, (JGen){.invert = true}, true, out);
}

const JSig jfilters_seq[] = {
    {"length", jfilters_seq_length, NULL, 0, 0, NULL},
    {"count", jfilters_seq_length, NULL, 0, 0, NULL},
    {"first", jfilters_seq_first, NULL, 0, 0, NULL},
    {"last", jfilters_seq_last, NULL, 0, 0, NULL},
    {"reverse", jfilters_seq_reverse, NULL, 0, 0, NULL},
    {"list", jfilters_seq_list, NULL, 0, 0, NULL},
    {"items", jfilters_seq_items, NULL, 0, 0, NULL},
    {"sort", jfilters_seq_sort, NULL, 0, 3, "reverse case_sensitive attribute"},
    {"dictsort", jfilters_seq_dictsort, NULL, 0, 3, "case_sensitive by reverse"},
    {"unique", jfilters_seq_unique, NULL, 0, 2, "case_sensitive attribute"},
    {"min", jfilters_seq_min, NULL, 0, 2, "case_sensitive attribute"},
    {"max", jfilters_seq_max, NULL, 0, 2, "case_sensitive attribute"},
    {"sum", jfilters_seq_sum, NULL, 0, 2, "attribute start"},
    {"join", jfilters_seq_join, NULL, 0, 2, "d attribute"},
    {"batch", jfilters_seq_batch, NULL, 1, 2, "linecount fill_with"},
    {"slice", jfilters_seq_slice, NULL, 1, 2, "slices fill_with"},
    {"groupby", jfilters_seq_groupby, NULL, 1, 3, "attribute default case_sensitive"},
    {"map", NULL, jfilters_seq_map, 0, 0, NULL},
    {"select", NULL, jfilters_seq_select, 0, 0, NULL},
    {"reject", NULL, jfilters_seq_reject, 0, 0, NULL},
    {"selectattr", NULL, jfilters_seq_selectattr, 0, 0, NULL},
    {"rejectattr", NULL, jfilters_seq_rejectattr, 0, 0, NULL},
};
const size_t jfilters_n_seq = ARRAY_LEN(jfilters_seq);
