/* jval: the values of a template at run time, as Python has them.
 *
 * Values live in the run's arena and are never freed singly. Lists, tuples, dicts and strings never
 * change once a template can see them (the sandbox forbids it); namespaces, loops, cyclers and
 * generators do. Strings carry marks that tell which bytes came out of the request. */
#pragma once

#include "base/buf.h"
#include "base/mem.h"
#include "base/status.h"

typedef struct JRun JRun;
typedef struct JNode JNode;

typedef enum JTag {
    J_MISSING, /* an argument or variable that has no value; never seen by a template */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_DICT,
    J_RANGE,
    J_VIEW, /* keys(), values() or items() of a dict */
    J_GEN,  /* generators and iterators: can be walked once */
    J_NAMESPACE,
    J_LOOP,
    J_MACRO,
    J_METHOD, /* a bound method */
    J_FUNC,   /* a global function */
    J_CYCLER,
    J_JOINER,
    J_SLICE,
    J_SELF,     /* the template's blocks */
    J_BLOCK_REF /* one of them */
} JTag;

typedef struct JStr {
    const char *ptr; /* UTF-8, borrowed from the arena, the template or the request */
    size_t len;
    size_t n_chars;
    const uint8_t *mark; /* per byte, 1: from the request; NULL: every byte as all_marked says */
    uint64_t hash;       /* 0: not computed yet */
    struct JTail *tail;  /* of a string that may be appended to in place, or NULL */
    bool all_marked;
    bool markup; /* a markupsafe.Markup */
} JStr;

typedef struct JVal {
    JTag tag;
    union {
        bool b;
        int64_t i;
        double f;
        JStr *s;
        struct JList *list; /* J_LIST, J_TUPLE */
        struct JDict *dict; /* J_DICT, J_NAMESPACE */
        struct JUndef *undef;
        struct JRange *range;
        struct JView *view;
        struct JGen *gen;
        struct JLoop *loop;
        struct JMacro *macro;
        struct JMethod *method;
        const struct JFuncDef *func;
        struct JCycler *cycler;
        struct JJoiner *joiner;
        struct JSlice *slice;
        const JNode *block; /* J_BLOCK_REF */
    };
} JVal;

typedef struct JList {
    JVal *v;
    size_t n;
    struct JTail *tail;
    bool group; /* the (grouper, list) of groupby: a tuple with these two names */
} JList;

/* Room behind a string or list that was built by appending. Whoever ends where the room is used up
 * may be appended to without a copy. */
typedef struct JTail {
    size_t used, cap; /* bytes or values */
} JTail;

typedef struct JUndef {
    const JStr *hint; /* the whole message, or NULL */
    JVal object;      /* J_MISSING: a variable */
    JVal name;
    bool unsafe; /* raises SecurityError */
} JUndef;

typedef struct JRange {
    int64_t start, stop, step, n;
} JRange;

typedef enum JViewKind { JVIEW_KEYS, JVIEW_VALUES, JVIEW_ITEMS } JViewKind;

typedef struct JView {
    JViewKind kind;
    struct JDict *dict;
} JView;

typedef struct JSlice {
    JVal start, stop, step; /* J_NONE: absent */
} JSlice;

typedef struct JMethod {
    JVal self;
    const struct JMethodDef *def;
} JMethod;

typedef struct JCycler {
    JList *items;
    size_t pos;
} JCycler;

typedef struct JJoiner {
    JVal sep;
    bool used;
} JJoiner;

/* Walks any iterable. */
typedef struct JIter {
    JVal source;
    size_t pos; /* index, or byte offset in a string */
} JIter;

typedef enum JGenKind {
    JGEN_LIST, /* walks `list`; what a filter computed whole */
    JGEN_MAP,
    JGEN_SELECT,
    JGEN_LOOP_TEST, /* for ... if ... */
    JGEN_UNIQUE
} JGenKind;

typedef struct JGen {
    JGenKind kind;
    const char *type_name; /* as Python says it */
    JIter iter;
    bool done;
    JVal attribute;     /* MAP, SELECT, UNIQUE: looked up first; J_MISSING: not */
    JVal fallback;      /* MAP: for an undefined attribute; J_MISSING: none */
    const void *callee; /* the filter or test; NULL: none */
    const struct JArgs *args;
    bool invert;        /* SELECT: reject */
    bool fold_case;     /* UNIQUE */
    struct JDict *seen; /* UNIQUE */
    const JNode *loop;  /* LOOP_TEST */
    struct JAct *act;
} JGen;

/* Arguments of a call. */
typedef struct JArgs {
    const JVal *pos;
    size_t n;
    const JVal *kw_name; /* strings */
    const JVal *kw;
    size_t n_kw;
} JArgs;

static inline JVal jval_none(void) {
    return (JVal){.tag = J_NONE};
}
static inline JVal jval_bool(bool b) {
    return (JVal){.tag = J_BOOL, .b = b};
}
static inline JVal jval_int(int64_t i) {
    return (JVal){.tag = J_INT, .i = i};
}
static inline JVal jval_float(double f) {
    return (JVal){.tag = J_FLOAT, .f = f};
}
static inline JVal jval_of_str(const JStr *s) {
    return (JVal){.tag = J_STR, .s = (JStr *)s};
}
/* bool and int, as Python's int. */
static inline bool jval_is_int(JVal v) {
    return v.tag == J_INT || v.tag == J_BOOL;
}
static inline int64_t jval_as_int(JVal v) {
    return v.tag == J_BOOL ? v.b : v.i;
}
static inline bool jval_is_number(JVal v) {
    return jval_is_int(v) || v.tag == J_FLOAT;
}
static inline double jval_as_float(JVal v) {
    return v.tag == J_FLOAT ? v.f : (double)jval_as_int(v);
}

/* Python's name of the value's type. */
const char *jval_type_name(JVal v);
/* Truth; a loop whose length must be found may raise. */
MUST_USE Status jval_truth(JRun *run, JVal v, bool *out);
/* a == b. */
MUST_USE Status jval_equal(JRun *run, JVal a, JVal b, bool *out);
/* a < b, and so on for op in "<", "<=", ">", ">=" (the first character and whether '=' follows). */
MUST_USE Status jval_compare(JRun *run, JVal a, JVal b, const char *op, bool *out);
/* needle in haystack. */
MUST_USE Status jval_contains(JRun *run, JVal haystack, JVal needle, bool *out);
/* TypeError for what cannot be hashed. */
MUST_USE Status jval_hash(JRun *run, JVal v, uint64_t *out);
/* len(): TypeError where there is none. */
MUST_USE Status jval_len(JRun *run, JVal v, int64_t *out);
bool jval_has_len(JVal v);
bool jval_is_iterable(JVal v);
/* Raises what using an undefined value raises. */
MUST_USE Status jval_undefined_fail(JRun *run, JVal v);
MUST_USE Status jval_undefined_new(JRun *run, JVal object, JVal name, JVal *out);
MUST_USE Status jval_undefined_hint(JRun *run, const char *hint, JVal *out);

MUST_USE Status jval_list_new(JRun *run, size_t cap, JVal *out); /* n = 0 */
/* Only for a list that no template has seen. */
MUST_USE Status jval_list_push(JRun *run, JList *list, JVal v);
MUST_USE Status jval_tuple2(JRun *run, JVal a, JVal b, JVal *out);
/* Every item of an iterable, as a new list. */
MUST_USE Status jval_to_list(JRun *run, JVal v, JVal *out);

/* TypeError for what is not iterable. */
MUST_USE Status jiter_open(JRun *run, JVal v, JIter *out);
/* *more: whether *out was set. */
MUST_USE Status jiter_next(JRun *run, JIter *iter, JVal *out, bool *more);
MUST_USE Status jiter_gen(JRun *run, JGen *gen, JVal *out, bool *more);
/* A generator over a list that is already there. */
MUST_USE Status jiter_over(JRun *run, JVal list, const char *type_name, JVal *out);
