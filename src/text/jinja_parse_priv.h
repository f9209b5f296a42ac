/* jinja_parse_priv: the parser's state, shared by its expression and statement halves. */
#pragma once

#include "text/jinja_priv.h"

typedef struct Parser {
    Jinja *jinja;
    Err *err;
    const Token *token; /* the current one */
    int32_t nest;
    const char *tag[JINJA_NEST_MAX + 4]; /* open statements, for messages */
    int32_t n_tags;
    const char *end_tags[JINJA_NEST_MAX + 4]; /* what each of them waits for, apart by blanks */
    int32_t n_ends;
} Parser;

/* A growing list of nodes. */
typedef struct NodeList {
    JNode **item;
    size_t n, cap;
} NodeList;

/* NULL when memory is short (the error is set). */
JNode *jinja_parse_node(Parser *parser, NodeKind kind, int32_t line);
MUST_USE Status jinja_parse_no_memory(Parser *parser);
MUST_USE Status jinja_parse_push(Parser *parser, NodeList *list, JNode *node);
/* Raises the node's depth above its child's; fails when the tree gets too deep. */
MUST_USE Status jinja_parse_child(Parser *parser, JNode *node, const JNode *child);
MUST_USE Status jinja_parse_enter(Parser *parser);
bool jinja_parse_is_name(const Token *token, const char *name);
bool jinja_parse_skip_name(Parser *parser, const char *name);
bool jinja_parse_skip(Parser *parser, TokenType type);
MUST_USE Status jinja_parse_expect(Parser *parser, TokenType type);
MUST_USE Status jinja_parse_expect_name(Parser *parser, const char *name);
MUST_USE Status jinja_parse_name(Parser *parser, const JStr **out);
const char *jinja_parse_describe(const Token *token, char *text, size_t size);

/* An expression; with_cond: "a if b else c" is one. */
MUST_USE Status jinja_parse_expression(Parser *parser, bool with_cond, JNode **out);
typedef struct TupleOptions {
    bool simplified, no_cond, parentheses, with_namespace;
    const char *end_name; /* a name that ends it as well, or NULL */
} TupleOptions;
MUST_USE Status jinja_parse_tuple(Parser *parser, TupleOptions options, JNode **out);
/* "|" filters; node NULL: those of a filter block; inline_first: without the first "|". */
MUST_USE Status jinja_parse_filter(Parser *parser, JNode *node, bool inline_first, JNode **out);
MUST_USE Status jinja_parse_target(Parser *parser, bool with_namespace, const char *end_name,
                                   JNode **out);
