/* jinja_priv: what the files of the template interpreter share: tokens, the syntax tree, the run.
 *
 * Lexer -> tokens -> parser -> tree -> jinja_scope (which variable a name means, as Jinja2's
 * compiler decides it) -> jinja_exec and jinja_eval, which walk the tree. Every walk counts
 * steps and depth. */
#pragma once

#include "text/jdict.h"
#include "text/jinja.h"
#include "text/jstr.h"

typedef enum TokenType {
    TOK_EOF,
    TOK_DATA,
    TOK_VAR_BEGIN,
    TOK_VAR_END,
    TOK_BLOCK_BEGIN,
    TOK_BLOCK_END,
    TOK_NAME,
    TOK_STRING,
    TOK_INT,
    TOK_FLOAT,
    TOK_ADD,
    TOK_SUB,
    TOK_MUL,
    TOK_DIV,
    TOK_FLOORDIV,
    TOK_MOD,
    TOK_POW,
    TOK_TILDE,
    TOK_LBRACKET,
    TOK_RBRACKET,
    TOK_LPAREN,
    TOK_RPAREN,
    TOK_LBRACE,
    TOK_RBRACE,
    TOK_EQ,
    TOK_NE,
    TOK_LT,
    TOK_LE,
    TOK_GT,
    TOK_GE,
    TOK_ASSIGN,
    TOK_DOT,
    TOK_COLON,
    TOK_PIPE,
    TOK_COMMA,
    TOK_SEMICOLON,
    TOK_COUNT
} TokenType;

typedef struct Token {
    TokenType type;
    int32_t line;
    JVal value; /* DATA, NAME, STRING: a string; INT, FLOAT: the number */
} Token;

typedef enum NodeKind {
    /* expressions */
    N_CONST,
    N_NAME,
    N_TUPLE,
    N_LIST,
    N_DICT,
    N_COND,
    N_OR,
    N_AND,
    N_NOT,
    N_NEG,
    N_POS,
    N_BINARY,
    N_CONCAT,
    N_COMPARE,
    N_OPERAND,
    N_GETATTR,
    N_GETITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_NSREF,
    /* statements */
    N_SEQ,
    N_OUTPUT,
    N_SET,
    N_SET_BLOCK,
    N_FOR,
    N_IF,
    N_CLAUSE,
    N_WITH,
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_AUTOESCAPE,
    N_BLOCK,
    N_BREAK,
    N_CONTINUE,
    N_LOADER
} NodeKind;

/* How a variable gets its value when its frame is entered. */
typedef enum LoadAction { LOAD_PARAM, LOAD_RESOLVE, LOAD_ALIAS, LOAD_UNDEFINED } LoadAction;

typedef struct Load {
    LoadAction action;
    uint32_t slot;
    uint32_t from_hops, from_slot; /* ALIAS */
    const JStr *name;
} Load;

/* The variables that come to life with a frame. */
typedef struct Frame {
    Load *load;
    size_t n;
} Frame;

enum { MACRO_CALLER = 1, MACRO_KWARGS = 2, MACRO_VARARGS = 4 };

/* A code body with its own activation record: the template, a macro, a call block, a block or a
 * recursive loop. */
typedef struct Func {
    uint32_t n_slots;
    uint32_t special; /* MACRO_CALLER and so on: what the body reads */
    uint32_t caller_slot, kwargs_slot, varargs_slot, self_slot;
    bool explicit_caller, has_self;
} Func;

typedef struct ArgsNode {
    JNode **arg;
    size_t n;
    const JStr **kw_name;
    JNode **kw;
    size_t n_kw;
    JNode *dyn_args, *dyn_kwargs;
} ArgsNode;

struct JNode {
    NodeKind kind;
    TokenType op; /* BINARY, OPERAND; TOK_NAME with flag: in, not in */
    int32_t line;
    int32_t depth; /* 1 + that of the deepest child */
    bool flag;     /* FOR: recursive. OPERAND: in. NAME: is stored to. BLOCK: scoped */
    bool flag2;    /* FOR: has a loop variable. OPERAND: negated. SET: at top level */
    JNode *a, *b, *c;
    JNode **item, **item2;
    size_t n, n2;
    const JStr *name, *name2;
    ArgsNode *args;
    JVal value;
    uint32_t hops, slot; /* of a name: how many activations out, and where */
    const void *callee;  /* FILTER, TEST: the entry, NULL: unknown, an error when reached */
    Frame *frame, *frame2, *frame3; /* FOR: body, else, test */
    Func *func;
};

struct Jinja {
    Arena arena; /* everything below */
    Str source;
    Token *token;
    size_t n_tokens;
    JNode *root;
    JNode **block; /* in order of appearance */
    size_t n_blocks;
};

/* Limits of what is compiled. */
enum {
    JINJA_SOURCE_BYTES_MAX = 4 << 20,
    JINJA_COMPILE_BYTES_MAX = 512 << 20,
    JINJA_NEST_MAX =
        200, /* calls of the parser: 2 per bracket or statement; Jinja2 ends near 70 brackets */
    JINJA_TREE_MAX = 300 /* depth of an expression tree, e.g. of a + b + c + ... */
};

MUST_USE Status jinja_lex(Jinja *jinja, Err *err);
MUST_USE Status jinja_parse(Jinja *jinja, Err *err);
MUST_USE Status jinja_scope(Jinja *jinja, Err *err);
/* A syntax error, with its line. */
Status jinja_syntax(Err *err, int32_t line, const char *format, ...) PRINTF_LIKE(3, 4);
/* A string whose lifetime is the template's; NULL when memory is short. */
JStr *jinja_const(Jinja *jinja, const char *ptr, size_t len);

/* ---- the run ------------------------------------------------------------------------------ */

/* An activation record. Macros keep the one they were defined in. */
typedef struct JAct {
    struct JAct *outer;
    JVal *slot;
} JAct;

typedef struct JMacro {
    const JNode *node;
    const Func *func;
    JAct *act;
    const JStr *name; /* NULL: anonymous */
    bool autoescape;
} JMacro;

typedef struct JLoop {
    JIter iter;
    JVal iterable;
    JVal current, before, after; /* J_MISSING: none */
    JVal last_changed;
    int64_t index0;
    int64_t length; /* -1: not known */
    int32_t depth0;
    const JNode *recurse; /* the recursive loop, or NULL */
    JAct *act;            /* where it was defined */
} JLoop;

struct JRun {
    const Jinja *jinja;
    Arena arena;
    Err *err;
    JinjaLimits limits;
    int64_t steps_left;
    int32_t depth;
    int32_t line;
    int64_t now;
    bool autoescape;
    NodeKind jump;       /* N_BREAK or N_CONTINUE on its way to the loop; 0: none */
    JVal caller;         /* what the next call passes on as `caller` */
    const JNode *output; /* the printed expression that is evaluated, or NULL */
    JVal block_text;     /* what the innermost filter of a block works on */
    JAct *act;
    JOut *out;
    JDict *variables; /* the request's, then the trusted ones */
    JDict *exported;  /* what the top level set */
};

/* Memory of the run, zeroed; NULL when the bound is reached. */
void *jrun_alloc(JRun *run, size_t n, size_t bytes);
/* ERR_LIMIT for memory. */
Status jrun_no_memory(JRun *run);
/* An exception of the template: exc is Python's name of its type. */
Status jrun_raise(JRun *run, const char *exc, const char *format, ...) PRINTF_LIKE(3, 4);
/* As jrun_raise, of what Sluice does not offer although Jinja2 does. */
Status jrun_unsupported(JRun *run, const char *what);
/* Takes n steps; ERR_LIMIT when there are no more. */
MUST_USE Status jrun_step(JRun *run, int64_t n);
/* One level deeper, and back. */
MUST_USE Status jrun_enter(JRun *run);
void jrun_leave(JRun *run);

MUST_USE Status jinja_exec(JRun *run, const JNode *seq);
MUST_USE Status jinja_eval(JRun *run, const JNode *node, JVal *out);
/* Stores to a name, a tuple of names or a namespace's attribute. */
MUST_USE Status jinja_assign(JRun *run, const JNode *target, JVal value);
void jinja_exec_enter(JRun *run, const Frame *frame);
MUST_USE Status jinja_exec_macro(JRun *run, const JMacro *macro, const JArgs *args, JVal *out);
MUST_USE Status jinja_exec_loop_call(JRun *run, JLoop *loop, JVal iterable, JVal *out);
MUST_USE Status jinja_exec_block(JRun *run, const JNode *block);
MUST_USE Status jinja_exec_block_text(JRun *run, const JNode *block, JVal *out);
/* The test of "for ... if ...": *keep for an item. */
MUST_USE Status jinja_exec_loop_test(JRun *run, const JGen *gen, JVal item, bool *keep);

/* object.name and object[key] as the sandbox resolves them. */
MUST_USE Status jattr_get(JRun *run, JVal object, const JStr *name, JVal *out);
MUST_USE Status jattr_item(JRun *run, JVal object, JVal key, JVal *out);
MUST_USE Status jattr_slice(JRun *run, JVal object, const JSlice *slice, JVal *out);
/* Python's own getattr, safe or not; J_MISSING: there is no such attribute. */
MUST_USE Status jattr_raw(JRun *run, JVal object, const JStr *name, JVal *out, bool *unsafe);

MUST_USE Status jcall(JRun *run, JVal callee, const JArgs *args, JVal *out);
/* The value of `attribute` ("a.b.0", an int) of an item. */
MUST_USE Status jcall_attribute(JRun *run, JVal item, JVal attribute, JVal fallback, JVal *out);

/* ---- tables of filters, tests, methods, functions ------------------------------------------ */

/* arg: [n_max] values, absent ones J_MISSING; a[0] is the filtered value or self. */
typedef Status (*JFixedFn)(JRun *run, const JVal *arg, JVal *out);
typedef Status (*JVarFn)(JRun *run, JVal self, const JArgs *args, JVal *out);

typedef struct JSig {
    const char *name;
    JFixedFn fixed;       /* or */
    JVarFn var;           /* takes any arguments itself; neither: known but not supported */
    uint8_t n_min, n_max; /* without self */
    const char *params;   /* names of the arguments, apart by blanks; NULL: positional only */
} JSig;

typedef struct JFuncDef {
    JSig sig;
} JFuncDef;
typedef struct JMethodDef {
    JSig sig;
} JMethodDef;

enum { JSIG_ARGS_MAX = 8 };
/* Binds the arguments and calls. */
MUST_USE Status jcall_sig(JRun *run, const JSig *sig, JVal self, const JArgs *args, JVal *out);

const JSig *jfilters_find(const JStr *name);
const JSig *jtests_find(const JStr *name);
const JFuncDef *jcall_function(const JStr *name);
/* Method of a type; *mutates: the sandbox does not let it be used. NULL: no such method. */
const JMethodDef *jmethods_find(JTag tag, const JStr *name, bool *mutates);

/* ---- text of values, numbers ---------------------------------------------------------------- */

/* str(v); a string comes back as it is. */
MUST_USE Status jtext_str(JRun *run, JVal v, JVal *out);
void jtext_put(JOut *out, JVal v);  /* str(v) */
void jtext_repr(JOut *out, JVal v); /* repr(v) */
void jtext_repr_str(JOut *out, const JStr *s, bool ascii);
/* Python's repr of a double. */
void jtext_float(JOut *out, double f);
MUST_USE Status jpprint_format(JRun *run, JVal v, JVal *out);

enum { JNUM_DOUBLE_TEXT = 400 };
/* The shortest text that reads back as f, as Python's repr writes it. */
void jnum_repr(double f, char out[32]);
MUST_USE Status jnum_binary(JRun *run, TokenType op, JVal a, JVal b, JVal *out);
MUST_USE Status jnum_negate(JRun *run, JVal v, JVal *out);
/* int(text, base) and float(text) of Python; false: ValueError. *overflow: an int beyond 64
 * bits. */
bool jnum_parse_int(const JStr *s, int64_t base, int64_t *out, bool *overflow);
bool jnum_parse_float(const JStr *s, double *out);
/* round(x, digits) of a float. */
double jnum_round(double x, int64_t digits);
/* Value as an index argument: an int or a bool; TypeError otherwise. */
MUST_USE Status jnum_index(JRun *run, JVal v, int64_t *out);

/* value % args; str.format; format(v, spec). */
MUST_USE Status jformat_percent(JRun *run, const JStr *format, JVal args, JVal *out);
MUST_USE Status jformat_brace(JRun *run, const JStr *format, const JArgs *args, JVal mapping,
                              JVal *out);
MUST_USE Status jformat_spec(JRun *run, JVal v, const JStr *spec, JOut *out);

/* markupsafe.escape. */
MUST_USE Status jhtml_escape(JRun *run, JVal v, JVal *out);
MUST_USE Status jhtml_markup(JRun *run, JVal v, JVal *out); /* Markup(v) */
void jhtml_put(JOut *out, const JStr *s);                   /* escaped */
MUST_USE Status jhtml_unescape(JRun *run, const JStr *s, JVal *out);

typedef struct JJsonOptions {
    bool ensure_ascii, sort_keys;
    const JStr *indent; /* NULL: one line */
    const JStr *item_separator, *key_separator;
} JJsonOptions;
MUST_USE Status jjson_dump(JRun *run, JVal v, const JJsonOptions *options, JVal *out);

/* Case of whole strings, with Unicode's special cases. */
typedef enum JCase {
    JCASE_UPPER,
    JCASE_LOWER,
    JCASE_TITLE,
    JCASE_CAPITALIZE,
    JCASE_SWAP,
    JCASE_FOLD
} JCase;
MUST_USE Status jcase_map(JRun *run, const JStr *s, JCase how, JVal *out);
bool jcase_is_upper(const JStr *s);
bool jcase_is_lower(const JStr *s);
bool jcase_is_title(const JStr *s);

/* str methods that filters use as well. */
MUST_USE Status jmethods_str_do_replace(JRun *run, const JStr *s, const JStr *from, const JStr *to,
                                        int64_t count, JVal *out);
MUST_USE Status jmethods_str_do_strip(JRun *run, const JStr *s, const JStr *chars, int sides,
                                      JVal *out);
MUST_USE Status jmethods_str_do_splitlines(JRun *run, const JStr *s, bool keep_ends, JVal *out);
MUST_USE Status jmethods_str_do_join(JRun *run, const JStr *sep, JVal list, JVal *out);
MUST_USE Status jmethods_str_do_pad(JRun *run, const JStr *s, int64_t width, const JStr *fill,
                                    int how, JVal *out);
MUST_USE Status jmethods_str_do_split_words(JRun *run, const JStr *s, int64_t max, JVal *out);
MUST_USE Status jsort(JRun *run, JVal *v, JVal *key, size_t n, bool reverse);
