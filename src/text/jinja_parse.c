/* The expression half of the parser: Jinja2's grammar, by recursive descent with a bound on
 * nesting. */
#include <stdio.h>

#include "text/jinja_parse_priv.h"

Status jinja_parse_no_memory(Parser *parser) {
    return err_set(parser->err, ERR_LIMIT, "template line %d: no memory to compile it",
                   parser->token->line);
}

JNode *jinja_parse_node(Parser *parser, NodeKind kind, int32_t line) {
    JNode *node = arena_alloc(&parser->jinja->arena, sizeof(*node));
    if (node == NULL) {
        Status status = jinja_parse_no_memory(parser);
        (void)status;
        return NULL;
    }
    node->kind = kind;
    node->line = line;
    node->depth = 1;
    return node;
}

Status jinja_parse_push(Parser *parser, NodeList *list, JNode *node) {
    if (list->n == list->cap) {
        size_t cap = MAX(list->cap * 2, (size_t)4);
        JNode **item = arena_alloc(&parser->jinja->arena, cap * sizeof(*item));
        if (item == NULL) return jinja_parse_no_memory(parser);
        if (list->n > 0) memcpy(item, list->item, list->n * sizeof(*item));
        list->item = item;
        list->cap = cap;
    }
    list->item[list->n++] = node;
    return OK;
}

Status jinja_parse_child(Parser *parser, JNode *node, const JNode *child) {
    if (child != NULL && child->depth >= node->depth) node->depth = child->depth + 1;
    if (node->depth > JINJA_TREE_MAX)
        return jinja_syntax(parser->err, node->line, "expression nested too deeply");
    return OK;
}

Status jinja_parse_enter(Parser *parser) {
    if (++parser->nest > JINJA_NEST_MAX)
        return jinja_syntax(parser->err, parser->token->line, "nested too deeply");
    return OK;
}

bool jinja_parse_is_name(const Token *token, const char *name) {
    return token->type == TOK_NAME && jstr_is(token->value.s, name);
}

bool jinja_parse_skip_name(Parser *parser, const char *name) {
    if (!jinja_parse_is_name(parser->token, name)) return false;
    parser->token++;
    return true;
}

bool jinja_parse_skip(Parser *parser, TokenType type) {
    if (parser->token->type != type) return false;
    parser->token++;
    return true;
}

static const char *const jinja_parse_token_text[TOK_COUNT] = {
    [TOK_EOF] = "end of template",
    [TOK_DATA] = "template data / text",
    [TOK_VAR_BEGIN] = "begin of print statement",
    [TOK_VAR_END] = "end of print statement",
    [TOK_BLOCK_BEGIN] = "begin of statement block",
    [TOK_BLOCK_END] = "end of statement block",
    [TOK_NAME] = "name",
    [TOK_STRING] = "string",
    [TOK_INT] = "integer",
    [TOK_FLOAT] = "float",
    [TOK_ADD] = "+",
    [TOK_SUB] = "-",
    [TOK_MUL] = "*",
    [TOK_DIV] = "/",
    [TOK_FLOORDIV] = "//",
    [TOK_MOD] = "%",
    [TOK_POW] = "**",
    [TOK_TILDE] = "~",
    [TOK_LBRACKET] = "[",
    [TOK_RBRACKET] = "]",
    [TOK_LPAREN] = "(",
    [TOK_RPAREN] = ")",
    [TOK_LBRACE] = "{",
    [TOK_RBRACE] = "}",
    [TOK_EQ] = "==",
    [TOK_NE] = "!=",
    [TOK_LT] = "<",
    [TOK_LE] = "<=",
    [TOK_GT] = ">",
    [TOK_GE] = ">=",
    [TOK_ASSIGN] = "=",
    [TOK_DOT] = ".",
    [TOK_COLON] = ":",
    [TOK_PIPE] = "|",
    [TOK_COMMA] = ",",
    [TOK_SEMICOLON] = ";",
};

const char *jinja_parse_describe(const Token *token, char *text, size_t size) {
    if (token->type != TOK_NAME) return jinja_parse_token_text[token->type];
    snprintf(text, size, "%.*s", STR_ARG(jstr_bytes(token->value.s)));
    return text;
}

static Status jinja_parse_unexpected(Parser *parser, const char *wanted) {
    char got[80];
    if (parser->token->type == TOK_EOF)
        return jinja_syntax(parser->err, parser->token->line,
                            "unexpected end of template, expected '%s'.", wanted);
    return jinja_syntax(parser->err, parser->token->line, "expected token '%s', got '%s'", wanted,
                        jinja_parse_describe(parser->token, got, sizeof(got)));
}

Status jinja_parse_expect(Parser *parser, TokenType type) {
    if (jinja_parse_skip(parser, type)) return OK;
    return jinja_parse_unexpected(parser, jinja_parse_token_text[type]);
}

Status jinja_parse_expect_name(Parser *parser, const char *name) {
    if (jinja_parse_skip_name(parser, name)) return OK;
    return jinja_parse_unexpected(parser, name);
}

Status jinja_parse_name(Parser *parser, const JStr **out) {
    const Token *token = parser->token;
    TRY(jinja_parse_expect(parser, TOK_NAME));
    *out = token->value.s;
    return OK;
}

#define NEW_NODE(var, kind, line)                          \
    JNode *var = jinja_parse_node(parser, (kind), (line)); \
    if (var == NULL) return ERR_LIMIT

static Status jinja_parse_strings(Parser *parser, JNode **out) {
    const Token *first = parser->token;
    size_t len = 0;
    for (const Token *t = first; t->type == TOK_STRING; t++) len += t->value.s->len;
    NEW_NODE(node, N_CONST, first->line);
    node->value = first->value;
    parser->token++;
    if (parser->token->type == TOK_STRING) {
        char *text = arena_alloc(&parser->jinja->arena, len + 1);
        if (text == NULL) return jinja_parse_no_memory(parser);
        len = 0;
        for (parser->token = first; parser->token->type == TOK_STRING; parser->token++) {
            const JStr *s = parser->token->value.s;
            memcpy(text + len, s->ptr, s->len);
            len += s->len;
        }
        JStr *s = jinja_const(parser->jinja, text, len);
        if (s == NULL) return jinja_parse_no_memory(parser);
        node->value = jval_of_str(s);
    }
    *out = node;
    return OK;
}

static Status jinja_parse_list(Parser *parser, JNode **out) {
    NEW_NODE(node, N_LIST, parser->token->line);
    NodeList list = {0};
    parser->token++;
    while (parser->token->type != TOK_RBRACKET) {
        if (list.n > 0) TRY(jinja_parse_expect(parser, TOK_COMMA));
        if (parser->token->type == TOK_RBRACKET) break;
        JNode *item;
        TRY(jinja_parse_expression(parser, true, &item));
        TRY(jinja_parse_push(parser, &list, item));
        TRY(jinja_parse_child(parser, node, item));
    }
    parser->token++;
    node->item = list.item;
    node->n = list.n;
    *out = node;
    return OK;
}

static Status jinja_parse_dict(Parser *parser, JNode **out) {
    NEW_NODE(node, N_DICT, parser->token->line);
    NodeList keys = {0}, values = {0};
    parser->token++;
    while (parser->token->type != TOK_RBRACE) {
        if (keys.n > 0) TRY(jinja_parse_expect(parser, TOK_COMMA));
        if (parser->token->type == TOK_RBRACE) break;
        JNode *key, *value;
        TRY(jinja_parse_expression(parser, true, &key));
        TRY(jinja_parse_expect(parser, TOK_COLON));
        TRY(jinja_parse_expression(parser, true, &value));
        TRY(jinja_parse_push(parser, &keys, key));
        TRY(jinja_parse_push(parser, &values, value));
        TRY(jinja_parse_child(parser, node, key));
        TRY(jinja_parse_child(parser, node, value));
    }
    parser->token++;
    node->item = keys.item;
    node->n = keys.n;
    node->item2 = values.item;
    *out = node;
    return OK;
}

static Status jinja_parse_name_primary(Parser *parser, bool with_namespace, JNode **out) {
    const Token *token = parser->token++;
    const JStr *name = token->value.s;
    NEW_NODE(node, N_CONST, token->line);
    if (jstr_is(name, "true") || jstr_is(name, "True")) {
        node->value = jval_bool(true);
    } else if (jstr_is(name, "false") || jstr_is(name, "False")) {
        node->value = jval_bool(false);
    } else if (jstr_is(name, "none") || jstr_is(name, "None")) {
        node->value = jval_none();
    } else {
        node->kind = N_NAME;
        node->name = name;
        if (with_namespace && parser->token->type == TOK_DOT) {
            parser->token++;
            node->kind = N_NSREF;
            TRY(jinja_parse_name(parser, &node->name2));
        }
    }
    *out = node;
    return OK;
}

static Status jinja_parse_primary(Parser *parser, bool with_namespace, JNode **out) {
    const Token *token = parser->token;
    char got[80];
    switch (token->type) {
        case TOK_NAME: return jinja_parse_name_primary(parser, with_namespace, out);
        case TOK_STRING: return jinja_parse_strings(parser, out);
        case TOK_INT:
        case TOK_FLOAT: {
            NEW_NODE(node, N_CONST, token->line);
            node->value = token->value;
            parser->token++;
            *out = node;
            return OK;
        }
        case TOK_LPAREN:
            parser->token++;
            TRY(jinja_parse_tuple(parser, (TupleOptions){.parentheses = true}, out));
            return jinja_parse_expect(parser, TOK_RPAREN);
        case TOK_LBRACKET: return jinja_parse_list(parser, out);
        case TOK_LBRACE: return jinja_parse_dict(parser, out);
        default:
            return jinja_syntax(parser->err, token->line, "unexpected '%s'",
                                jinja_parse_describe(token, got, sizeof(got)));
    }
}

static bool jinja_parse_tuple_end(const Parser *parser, const char *end_name) {
    TokenType type = parser->token->type;
    return type == TOK_VAR_END || type == TOK_BLOCK_END || type == TOK_RPAREN ||
           (end_name != NULL && jinja_parse_is_name(parser->token, end_name));
}

Status jinja_parse_tuple(Parser *parser, TupleOptions options, JNode **out) {
    int32_t line = parser->token->line;
    NodeList list = {0};
    bool is_tuple = false;
    for (;;) {
        if (list.n > 0) TRY(jinja_parse_expect(parser, TOK_COMMA));
        if (jinja_parse_tuple_end(parser, options.end_name)) break;
        JNode *item;
        if (options.simplified) {
            TRY(jinja_parse_enter(parser));
            TRY(jinja_parse_primary(parser, options.with_namespace, &item));
            parser->nest--;
        } else {
            TRY(jinja_parse_expression(parser, !options.no_cond, &item));
        }
        TRY(jinja_parse_push(parser, &list, item));
        if (parser->token->type != TOK_COMMA) break;
        is_tuple = true;
    }
    if (!is_tuple && list.n > 0) {
        *out = list.item[0];
        return OK;
    }
    char got[80];
    if (!is_tuple && !options.parentheses)
        return jinja_syntax(parser->err, parser->token->line, "Expected an expression, got '%s'",
                            jinja_parse_describe(parser->token, got, sizeof(got)));
    NEW_NODE(node, N_TUPLE, line);
    for (size_t i = 0; i < list.n; i++) TRY(jinja_parse_child(parser, node, list.item[i]));
    node->item = list.item;
    node->n = list.n;
    *out = node;
    return OK;
}

/* "a", "a:b", ":b:c" between brackets. */
static Status jinja_parse_subscribed(Parser *parser, JNode **out) {
    NEW_NODE(node, N_SLICE, parser->token->line);
    if (parser->token->type != TOK_COLON) {
        TRY(jinja_parse_expression(parser, true, &node->a));
        if (parser->token->type != TOK_COLON) {
            *out = node->a;
            return OK;
        }
    }
    parser->token++;
    TokenType type = parser->token->type;
    if (type != TOK_COLON && type != TOK_RBRACKET && type != TOK_COMMA)
        TRY(jinja_parse_expression(parser, true, &node->b));
    if (jinja_parse_skip(parser, TOK_COLON)) {
        type = parser->token->type;
        if (type != TOK_RBRACKET && type != TOK_COMMA)
            TRY(jinja_parse_expression(parser, true, &node->c));
    }
    TRY(jinja_parse_child(parser, node, node->a));
    TRY(jinja_parse_child(parser, node, node->b));
    TRY(jinja_parse_child(parser, node, node->c));
    *out = node;
    return OK;
}

static Status jinja_parse_subscript(Parser *parser, JNode *base, JNode **out) {
    const Token *token = parser->token++;
    NEW_NODE(node, N_GETITEM, token->line);
    node->a = base;
    TRY(jinja_parse_child(parser, node, base));
    *out = node;
    if (token->type == TOK_DOT) {
        const Token *attr = parser->token++;
        if (attr->type == TOK_NAME) {
            node->kind = N_GETATTR;
            node->name = attr->value.s;
            return OK;
        }
        if (attr->type != TOK_INT) {
            parser->token--;
            return jinja_syntax(parser->err, attr->line, "expected name or number");
        }
        NEW_NODE(index, N_CONST, attr->line);
        index->value = attr->value;
        node->b = index;
        return OK;
    }
    NodeList list = {0};
    while (parser->token->type != TOK_RBRACKET) {
        if (list.n > 0) TRY(jinja_parse_expect(parser, TOK_COMMA));
        JNode *item;
        TRY(jinja_parse_subscribed(parser, &item));
        TRY(jinja_parse_push(parser, &list, item));
    }
    parser->token++;
    if (list.n == 1) {
        node->b = list.item[0];
        return jinja_parse_child(parser, node, node->b);
    }
    NEW_NODE(tuple, N_TUPLE, token->line);
    for (size_t i = 0; i < list.n; i++) {
        if (list.item[i]->kind == N_SLICE)
            return jinja_syntax(parser->err, token->line, "a slice in a tuple is not supported");
        TRY(jinja_parse_child(parser, tuple, list.item[i]));
    }
    tuple->item = list.item;
    tuple->n = list.n;
    node->b = tuple;
    return jinja_parse_child(parser, node, tuple);
}

/* Keyword arguments' names while a call is parsed. */
typedef struct KwNames {
    const JStr **name;
    size_t cap;
} KwNames;

static Status jinja_parse_push_kw(Parser *parser, KwNames *names, NodeList *kw, const JStr *name,
                                  JNode *value) {
    for (size_t i = 0; i < kw->n; i++)
        if (jstr_same(names->name[i], name))
            return jinja_syntax(parser->err, value->line, "keyword argument repeated: %.*s",
                                STR_ARG(jstr_bytes(name)));
    if (kw->n >= 255) return jinja_syntax(parser->err, value->line, "too many keyword arguments");
    if (kw->n == names->cap) {
        size_t cap = MAX(names->cap * 2, (size_t)4);
        const JStr **grown = arena_alloc(&parser->jinja->arena, cap * sizeof(*grown));
        if (grown == NULL) return jinja_parse_no_memory(parser);
        if (kw->n > 0) memcpy(grown, names->name, kw->n * sizeof(*grown));
        names->name = grown;
        names->cap = cap;
    }
    names->name[kw->n] = name;
    return jinja_parse_push(parser, kw, value);
}

static Status jinja_parse_one_arg(Parser *parser, ArgsNode *args, NodeList *pos, NodeList *kw,
                                  KwNames *names) {
    int32_t line = parser->token->line;
    bool ok = args->dyn_kwargs == NULL;
    JNode *value;
    if (jinja_parse_skip(parser, TOK_MUL)) {
        if (!ok || args->dyn_args != NULL) goto bad;
        return jinja_parse_expression(parser, true, &args->dyn_args);
    }
    if (jinja_parse_skip(parser, TOK_POW)) {
        if (!ok) goto bad;
        return jinja_parse_expression(parser, true, &args->dyn_kwargs);
    }
    if (parser->token->type == TOK_NAME && parser->token[1].type == TOK_ASSIGN) {
        if (!ok) goto bad;
        const JStr *name = parser->token->value.s;
        parser->token += 2;
        TRY(jinja_parse_expression(parser, true, &value));
        return jinja_parse_push_kw(parser, names, kw, name, value);
    }
    if (!ok || args->dyn_args != NULL || kw->n > 0) goto bad;
    TRY(jinja_parse_expression(parser, true, &value));
    return jinja_parse_push(parser, pos, value);
bad:
    return jinja_syntax(parser->err, line, "invalid syntax for function call expression");
}

static Status jinja_parse_args(Parser *parser, JNode *node) {
    ArgsNode *args = arena_alloc(&parser->jinja->arena, sizeof(*args));
    if (args == NULL) return jinja_parse_no_memory(parser);
    NodeList pos = {0}, kw = {0};
    KwNames names = {0};
    TRY(jinja_parse_expect(parser, TOK_LPAREN));
    for (bool first = true; parser->token->type != TOK_RPAREN; first = false) {
        if (!first) {
            TRY(jinja_parse_expect(parser, TOK_COMMA));
            if (parser->token->type == TOK_RPAREN) break;
        }
        TRY(jinja_parse_one_arg(parser, args, &pos, &kw, &names));
    }
    parser->token++;
    args->arg = pos.item;
    args->n = pos.n;
    args->kw = kw.item;
    args->n_kw = kw.n;
    args->kw_name = names.name;
    node->args = args;
    for (size_t i = 0; i < pos.n; i++) TRY(jinja_parse_child(parser, node, pos.item[i]));
    for (size_t i = 0; i < kw.n; i++) TRY(jinja_parse_child(parser, node, kw.item[i]));
    TRY(jinja_parse_child(parser, node, args->dyn_args));
    return jinja_parse_child(parser, node, args->dyn_kwargs);
}

static Status jinja_parse_call(Parser *parser, JNode *callee, JNode **out) {
    NEW_NODE(node, N_CALL, parser->token->line);
    node->a = callee;
    TRY(jinja_parse_child(parser, node, callee));
    *out = node;
    return jinja_parse_args(parser, node);
}

static Status jinja_parse_postfix(Parser *parser, JNode **node) {
    for (;;) {
        TokenType type = parser->token->type;
        if (type == TOK_DOT || type == TOK_LBRACKET) {
            TRY(jinja_parse_subscript(parser, *node, node));
        } else if (type == TOK_LPAREN) {
            TRY(jinja_parse_call(parser, *node, node));
        } else {
            return OK;
        }
    }
}

/* A name with dots, as filters and tests may have. */
static Status jinja_parse_dotted(Parser *parser, const JStr **out) {
    TRY(jinja_parse_name(parser, out));
    while (jinja_parse_skip(parser, TOK_DOT)) {
        const JStr *part;
        TRY(jinja_parse_name(parser, &part));
        char *text = arena_alloc(&parser->jinja->arena, (*out)->len + part->len + 2);
        if (text == NULL) return jinja_parse_no_memory(parser);
        memcpy(text, (*out)->ptr, (*out)->len);
        text[(*out)->len] = '.';
        memcpy(text + (*out)->len + 1, part->ptr, part->len);
        *out = jinja_const(parser->jinja, text, (*out)->len + part->len + 1);
        if (*out == NULL) return jinja_parse_no_memory(parser);
    }
    return OK;
}

Status jinja_parse_filter(Parser *parser, JNode *node, bool inline_first, JNode **out) {
    while (parser->token->type == TOK_PIPE || inline_first) {
        if (!inline_first) parser->token++;
        inline_first = false;
        NEW_NODE(filter, N_FILTER, parser->token->line);
        TRY(jinja_parse_dotted(parser, &filter->name));
        filter->callee = jfilters_find(filter->name);
        filter->a = node;
        TRY(jinja_parse_child(parser, filter, node));
        if (parser->token->type == TOK_LPAREN) TRY(jinja_parse_args(parser, filter));
        node = filter;
    }
    *out = node;
    return OK;
}

static bool jinja_parse_starts_test_arg(const Token *token) {
    switch (token->type) {
        case TOK_NAME:
            return !jinja_parse_is_name(token, "else") && !jinja_parse_is_name(token, "or") &&
                   !jinja_parse_is_name(token, "and");
        case TOK_STRING:
        case TOK_INT:
        case TOK_FLOAT:
        case TOK_LBRACKET:
        case TOK_LBRACE: return true;
        default: return false;
    }
}

static Status jinja_parse_test(Parser *parser, JNode *base, JNode **out) {
    int32_t line = (parser->token++)->line;
    bool negated = jinja_parse_skip_name(parser, "not");
    NEW_NODE(node, N_TEST, line);
    node->a = base;
    TRY(jinja_parse_child(parser, node, base));
    TRY(jinja_parse_dotted(parser, &node->name));
    node->callee = jtests_find(node->name);
    if (parser->token->type == TOK_LPAREN) {
        TRY(jinja_parse_args(parser, node));
    } else if (jinja_parse_starts_test_arg(parser->token)) {
        if (jinja_parse_is_name(parser->token, "is"))
            return jinja_syntax(parser->err, parser->token->line,
                                "You cannot chain multiple tests with is");
        ArgsNode *args = arena_alloc(&parser->jinja->arena, sizeof(*args));
        NodeList list = {0};
        JNode *arg;
        if (args == NULL) return jinja_parse_no_memory(parser);
        TRY(jinja_parse_enter(parser));
        TRY(jinja_parse_primary(parser, false, &arg));
        TRY(jinja_parse_postfix(parser, &arg));
        parser->nest--;
        TRY(jinja_parse_push(parser, &list, arg));
        TRY(jinja_parse_child(parser, node, arg));
        args->arg = list.item;
        args->n = 1;
        node->args = args;
    }
    *out = node;
    if (!negated) return OK;
    NEW_NODE(not, N_NOT, line);
    not ->a = node;
    *out = not ;
    return jinja_parse_child(parser, not, node);
}

static Status jinja_parse_filter_expr(Parser *parser, JNode **node) {
    for (;;) {
        if (parser->token->type == TOK_PIPE) {
            TRY(jinja_parse_filter(parser, *node, false, node));
        } else if (jinja_parse_is_name(parser->token, "is")) {
            TRY(jinja_parse_test(parser, *node, node));
        } else if (parser->token->type == TOK_LPAREN) {
            TRY(jinja_parse_call(parser, *node, node));
        } else {
            return OK;
        }
    }
}

static Status jinja_parse_unary(Parser *parser, bool with_filter, JNode **out) {
    TRY(jinja_parse_enter(parser));
    TokenType type = parser->token->type;
    if (type == TOK_SUB || type == TOK_ADD) {
        NEW_NODE(node, type == TOK_SUB ? N_NEG : N_POS, parser->token->line);
        parser->token++;
        TRY(jinja_parse_unary(parser, false, &node->a));
        TRY(jinja_parse_child(parser, node, node->a));
        *out = node;
    } else {
        TRY(jinja_parse_primary(parser, false, out));
    }
    TRY(jinja_parse_postfix(parser, out));
    if (with_filter) TRY(jinja_parse_filter_expr(parser, out));
    parser->nest--;
    return OK;
}

/* Binding strength of what may follow an operand; 0: nothing. From weak to strong: or, and, (not),
 * comparisons, + -, ~, * / // %, **. */
enum { BIND_OR = 1, BIND_AND, BIND_NOT, BIND_COMPARE, BIND_ADD, BIND_CONCAT, BIND_MUL, BIND_POW };

static int jinja_parse_strength(const Token *token) {
    switch (token->type) {
        case TOK_EQ:
        case TOK_NE:
        case TOK_LT:
        case TOK_LE:
        case TOK_GT:
        case TOK_GE: return BIND_COMPARE;
        case TOK_ADD:
        case TOK_SUB: return BIND_ADD;
        case TOK_TILDE: return BIND_CONCAT;
        case TOK_MUL:
        case TOK_DIV:
        case TOK_FLOORDIV:
        case TOK_MOD: return BIND_MUL;
        case TOK_POW: return BIND_POW;
        case TOK_NAME:
            if (jinja_parse_is_name(token, "or")) return BIND_OR;
            if (jinja_parse_is_name(token, "and")) return BIND_AND;
            if (jinja_parse_is_name(token, "in")) return BIND_COMPARE;
            if (jinja_parse_is_name(token, "not") && jinja_parse_is_name(token + 1, "in"))
                return BIND_COMPARE;
            return 0;
        default: return 0;
    }
}

static Status jinja_parse_binary(Parser *parser, int min, JNode **out);

/* a < b in c ...: all links of one chain. */
static Status jinja_parse_compare(Parser *parser, JNode **left) {
    NEW_NODE(node, N_COMPARE, parser->token->line);
    NodeList list = {0};
    node->a = *left;
    TRY(jinja_parse_child(parser, node, *left));
    while (jinja_parse_strength(parser->token) == BIND_COMPARE) {
        NEW_NODE(operand, N_OPERAND, parser->token->line);
        operand->op = parser->token->type;
        if (operand->op == TOK_NAME) {
            operand->flag = true;
            operand->flag2 = jinja_parse_skip_name(parser, "not");
        }
        parser->token++;
        TRY(jinja_parse_binary(parser, BIND_COMPARE + 1, &operand->a));
        TRY(jinja_parse_push(parser, &list, operand));
        TRY(jinja_parse_child(parser, node, operand->a));
    }
    node->item = list.item;
    node->n = list.n;
    *left = node;
    return OK;
}

static Status jinja_parse_concat(Parser *parser, JNode **left) {
    NEW_NODE(node, N_CONCAT, parser->token->line);
    NodeList list = {0};
    TRY(jinja_parse_push(parser, &list, *left));
    TRY(jinja_parse_child(parser, node, *left));
    while (jinja_parse_skip(parser, TOK_TILDE)) {
        JNode *item;
        TRY(jinja_parse_binary(parser, BIND_CONCAT + 1, &item));
        TRY(jinja_parse_push(parser, &list, item));
        TRY(jinja_parse_child(parser, node, item));
    }
    node->item = list.item;
    node->n = list.n;
    *left = node;
    return OK;
}

/* Operators at least as strong as min, all of them left-associative (** as well, as Jinja2 has
 * it). */
static Status jinja_parse_binary(Parser *parser, int min, JNode **out) {
    JNode *left;
    if (min <= BIND_NOT && jinja_parse_is_name(parser->token, "not")) {
        NEW_NODE(node, N_NOT, parser->token->line);
        parser->token++;
        TRY(jinja_parse_enter(parser));
        TRY(jinja_parse_binary(parser, BIND_NOT, &node->a));
        parser->nest--;
        TRY(jinja_parse_child(parser, node, node->a));
        left = node;
    } else {
        TRY(jinja_parse_unary(parser, true, &left));
    }
    for (;;) {
        int strength = jinja_parse_strength(parser->token);
        if (strength == 0 || strength < min) break;
        if (strength == BIND_COMPARE) {
            TRY(jinja_parse_compare(parser, &left));
            continue;
        }
        if (strength == BIND_CONCAT) {
            TRY(jinja_parse_concat(parser, &left));
            continue;
        }
        NodeKind kind = strength == BIND_OR ? N_OR : strength == BIND_AND ? N_AND : N_BINARY;
        NEW_NODE(node, kind, parser->token->line);
        node->op = parser->token->type;
        parser->token++;
        node->a = left;
        TRY(jinja_parse_binary(parser, strength + 1, &node->b));
        TRY(jinja_parse_child(parser, node, node->a));
        TRY(jinja_parse_child(parser, node, node->b));
        left = node;
    }
    *out = left;
    return OK;
}

Status jinja_parse_expression(Parser *parser, bool with_cond, JNode **out) {
    TRY(jinja_parse_enter(parser));
    TRY(jinja_parse_binary(parser, BIND_OR, out));
    while (with_cond && jinja_parse_is_name(parser->token, "if")) {
        NEW_NODE(node, N_COND, parser->token->line);
        parser->token++;
        node->b = *out;
        TRY(jinja_parse_binary(parser, BIND_OR, &node->a));
        if (jinja_parse_skip_name(parser, "else"))
            TRY(jinja_parse_expression(parser, true, &node->c));
        TRY(jinja_parse_child(parser, node, node->a));
        TRY(jinja_parse_child(parser, node, node->b));
        TRY(jinja_parse_child(parser, node, node->c));
        *out = node;
    }
    parser->nest--;
    return OK;
}

static bool jinja_parse_can_assign(const JNode *node) {
    if (node->kind == N_NAME || node->kind == N_NSREF) return true;
    if (node->kind != N_TUPLE) return false;
    for (size_t i = 0; i < node->n; i++)
        if (!jinja_parse_can_assign(node->item[i])) return false;
    return true;
}

static void jinja_parse_mark_stored(JNode *node) {
    node->flag = true;
    for (size_t i = 0; node->kind == N_TUPLE && i < node->n; i++)
        jinja_parse_mark_stored(node->item[i]);
}

Status jinja_parse_target(Parser *parser, bool with_namespace, const char *end_name, JNode **out) {
    static const char *const names[] = {
        [N_CONST] = "const", [N_LIST] = "list", [N_DICT] = "dict", [N_TUPLE] = "tuple"};
    TRY(jinja_parse_tuple(
        parser,
        (TupleOptions){.simplified = true, .with_namespace = with_namespace, .end_name = end_name},
        out));
    if (!jinja_parse_can_assign(*out)) {
        const char *name = (*out)->kind < ARRAY_LEN(names) ? names[(*out)->kind] : NULL;
        return jinja_syntax(parser->err, (*out)->line, "can't assign to '%s'",
                            name != NULL ? name : "expression");
    }
    jinja_parse_mark_stored(*out);
    return OK;
}
