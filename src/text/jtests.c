/* jtests: what may stand behind "is". */
#include "text/jinja_priv.h"

static Status jtests_modulo(JRun *run, JVal v, JVal by, JVal *out) {
    return jnum_binary(run, TOK_MOD, v, by, out);
}

static Status jtests_odd(JRun *run, const JVal *arg, JVal *out) {
    bool is;
    TRY(jtests_modulo(run, arg[0], jval_int(2), out));
    TRY(jval_equal(run, *out, jval_int(1), &is));
    *out = jval_bool(is);
    return OK;
}

static Status jtests_even(JRun *run, const JVal *arg, JVal *out) {
    bool is;
    TRY(jtests_modulo(run, arg[0], jval_int(2), out));
    TRY(jval_equal(run, *out, jval_int(0), &is));
    *out = jval_bool(is);
    return OK;
}

static Status jtests_divisibleby(JRun *run, const JVal *arg, JVal *out) {
    bool is;
    TRY(jtests_modulo(run, arg[0], arg[1], out));
    TRY(jval_equal(run, *out, jval_int(0), &is));
    *out = jval_bool(is);
    return OK;
}

#define TEST_IS(name, condition)                                         \
    static Status jtests_##name(JRun *run, const JVal *arg, JVal *out) { \
        (void)run;                                                       \
        JVal v = arg[0];                                                 \
        *out = jval_bool(condition);                                     \
        return OK;                                                       \
    }
TEST_IS(defined, v.tag != J_UNDEFINED)
TEST_IS(undefined, v.tag == J_UNDEFINED)
TEST_IS(none, v.tag == J_NONE)
TEST_IS(boolean, v.tag == J_BOOL)
TEST_IS(true, v.tag == J_BOOL && v.b)
TEST_IS(false, v.tag == J_BOOL && !v.b)
TEST_IS(integer, v.tag == J_INT)
TEST_IS(float, v.tag == J_FLOAT)
TEST_IS(number, jval_is_number(v))
TEST_IS(string, v.tag == J_STR)
TEST_IS(mapping, v.tag == J_DICT)
TEST_IS(iterable, jval_is_iterable(v))
TEST_IS(escaped, v.tag == J_STR && v.s->markup)
TEST_IS(callable, v.tag == J_MACRO || v.tag == J_METHOD || v.tag == J_FUNC || v.tag == J_LOOP ||
                      v.tag == J_JOINER || v.tag == J_BLOCK_REF || v.tag == J_UNDEFINED)

static Status jtests_sequence(JRun *run, const JVal *arg, JVal *out) {
    (void)run;
    JTag tag = arg[0].tag;
    /* what has both a length and items; for undefined, asking for the items raises an attribute
     * error */
    *out = jval_bool(tag == J_STR || tag == J_LIST || tag == J_TUPLE || tag == J_DICT ||
                     tag == J_RANGE || tag == J_UNDEFINED);
    return OK;
}

static Status jtests_lower(JRun *run, const JVal *arg, JVal *out) {
    JVal text;
    TRY(jtext_str(run, arg[0], &text));
    *out = jval_bool(jcase_is_lower(text.s));
    return OK;
}

static Status jtests_upper(JRun *run, const JVal *arg, JVal *out) {
    JVal text;
    TRY(jtext_str(run, arg[0], &text));
    *out = jval_bool(jcase_is_upper(text.s));
    return OK;
}

static Status jtests_sameas(JRun *run, const JVal *arg, JVal *out) {
    JVal a = arg[0], b = arg[1];
    bool same = a.tag == b.tag;
    if (same && a.tag == J_STR) { /* equal short strings are one object, others need not be */
        same = jstr_same(a.s, b.s);
    } else if (same && (jval_is_number(a))) {
        TRY(jval_equal(run, a, b, &same));
    } else if (same && a.tag != J_NONE) {
        same = a.s == b.s;
    }
    *out = jval_bool(same);
    return OK;
}

static Status jtests_in(JRun *run, const JVal *arg, JVal *out) {
    bool in;
    TRY(jval_contains(run, arg[1], arg[0], &in));
    *out = jval_bool(in);
    return OK;
}

static Status jtests_name_known(JRun *run, const JVal *arg, const JSig *(*find)(const JStr *),
                                JVal *out) {
    uint64_t hash;
    TRY(jval_hash(run, arg[0], &hash)); /* it is looked up in a dict */
    *out = jval_bool(arg[0].tag == J_STR && find(arg[0].s) != NULL);
    return OK;
}

static Status jtests_filter(JRun *run, const JVal *arg, JVal *out) {
    return jtests_name_known(run, arg, jfilters_find, out);
}

static Status jtests_test(JRun *run, const JVal *arg, JVal *out) {
    return jtests_name_known(run, arg, jtests_find, out);
}

static Status jtests_eq(JRun *run, const JVal *arg, JVal *out) {
    bool is;
    TRY(jval_equal(run, arg[0], arg[1], &is));
    *out = jval_bool(is);
    return OK;
}

static Status jtests_ne(JRun *run, const JVal *arg, JVal *out) {
    bool is;
    TRY(jval_equal(run, arg[0], arg[1], &is));
    *out = jval_bool(!is);
    return OK;
}

#define TEST_COMPARE(name, op)                                           \
    static Status jtests_##name(JRun *run, const JVal *arg, JVal *out) { \
        bool is;                                                         \
        TRY(jval_compare(run, arg[0], arg[1], (op), &is));               \
        *out = jval_bool(is);                                            \
        return OK;                                                       \
    }
TEST_COMPARE(lt, "<")
TEST_COMPARE(le, "<=")
TEST_COMPARE(gt, ">")
TEST_COMPARE(ge, ">=")

static const JSig jtests_table[] = {
    {"odd", jtests_odd, NULL, 0, 0, NULL},
    {"even", jtests_even, NULL, 0, 0, NULL},
    {"divisibleby", jtests_divisibleby, NULL, 1, 1, "num"},
    {"defined", jtests_defined, NULL, 0, 0, NULL},
    {"undefined", jtests_undefined, NULL, 0, 0, NULL},
    {"filter", jtests_filter, NULL, 0, 0, NULL},
    {"test", jtests_test, NULL, 0, 0, NULL},
    {"none", jtests_none, NULL, 0, 0, NULL},
    {"boolean", jtests_boolean, NULL, 0, 0, NULL},
    {"false", jtests_false, NULL, 0, 0, NULL},
    {"true", jtests_true, NULL, 0, 0, NULL},
    {"integer", jtests_integer, NULL, 0, 0, NULL},
    {"float", jtests_float, NULL, 0, 0, NULL},
    {"lower", jtests_lower, NULL, 0, 0, NULL},
    {"upper", jtests_upper, NULL, 0, 0, NULL},
    {"string", jtests_string, NULL, 0, 0, NULL},
    {"mapping", jtests_mapping, NULL, 0, 0, NULL},
    {"number", jtests_number, NULL, 0, 0, NULL},
    {"sequence", jtests_sequence, NULL, 0, 0, NULL},
    {"iterable", jtests_iterable, NULL, 0, 0, NULL},
    {"callable", jtests_callable, NULL, 0, 0, NULL},
    {"sameas", jtests_sameas, NULL, 1, 1, "other"},
    {"escaped", jtests_escaped, NULL, 0, 0, NULL},
    {"in", jtests_in, NULL, 1, 1, "seq"},
    {"==", jtests_eq, NULL, 1, 1, NULL},
    {"eq", jtests_eq, NULL, 1, 1, NULL},
    {"equalto", jtests_eq, NULL, 1, 1, NULL},
    {"!=", jtests_ne, NULL, 1, 1, NULL},
    {"ne", jtests_ne, NULL, 1, 1, NULL},
    {">", jtests_gt, NULL, 1, 1, NULL},
    {"gt", jtests_gt, NULL, 1, 1, NULL},
    {"greaterthan", jtests_gt, NULL, 1, 1, NULL},
    {">=", jtests_ge, NULL, 1, 1, NULL},
    {"ge", jtests_ge, NULL, 1, 1, NULL},
    {"<", jtests_lt, NULL, 1, 1, NULL},
    {"lt", jtests_lt, NULL, 1, 1, NULL},
    {"lessthan", jtests_lt, NULL, 1, 1, NULL},
    {"<=", jtests_le, NULL, 1, 1, NULL},
    {"le", jtests_le, NULL, 1, 1, NULL},
};

const JSig *jtests_find(const JStr *name) {
    for (size_t i = 0; i < ARRAY_LEN(jtests_table); i++)
        if (jstr_is(name, jtests_table[i].name)) return &jtests_table[i];
    return NULL;
}
