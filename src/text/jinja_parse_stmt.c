/* The statement half of the parser. */
#include <stdio.h>

#include "text/jinja_parse_priv.h"

#define NEW_NODE(var, kind, line)                          \
    JNode *var = jinja_parse_node(parser, (kind), (line)); \
    if (var == NULL) return ERR_LIMIT

static Status jinja_parse_stmt_body(Parser *parser, JNode **out);

static bool jinja_parse_stmt_in_list(const char *list, const Token *token) {
    if (token->type != TOK_NAME) return false;
    Str rest = str_from(list);
    while (rest.len > 0) {
        size_t blank = MIN(str_find(rest, STR_LIT(" "), 0), rest.len);
        if (str_eq(str_slice(rest, 0, blank), jstr_bytes(token->value.s))) return true;
        rest = str_slice(rest, blank + 1, rest.len);
    }
    return false;
}

/* "Encountered unknown tag ..." and the like; name NULL: the template ended. */
static Status jinja_parse_stmt_unexpected(Parser *parser, const Token *name) {
    char text[400], tags[120] = "";
    const char *wanted = parser->n_ends > 0 ? parser->end_tags[parser->n_ends - 1] : NULL;
    size_t n = 0;
    for (const char *p = wanted; p != NULL && *p != 0 && n < sizeof(tags) - 40;) {
        size_t len = strcspn(p, " ");
        n += (size_t)snprintf(tags + n, sizeof(tags) - n, "%s'%.*s'", n > 0 ? " or " : "", (int)len,
                              p);
        p += len + (p[len] == ' ');
    }
    bool nested = false;
    for (int32_t i = 0; name != NULL && i < parser->n_ends; i++)
        nested |= jinja_parse_stmt_in_list(parser->end_tags[i], name);
    n = 0;
    if (name == NULL) {
        n += (size_t)snprintf(text, sizeof(text), "Unexpected end of template.");
    } else {
        n += (size_t)snprintf(text, sizeof(text), "Encountered unknown tag '%.*s'.",
                              (int)MIN(name->value.s->len, (size_t)60), name->value.s->ptr);
    }
    if (wanted != NULL)
        n += (size_t)snprintf(text + n, sizeof(text) - n,
                              nested
                                  ? " You probably made a nesting mistake. Jinja is expecting this "
                                    "tag, but currently looking for %s."
                                  : " Jinja was looking for the following tags: %s.",
                              tags);
    if (parser->n_tags > 0)
        snprintf(text + n, sizeof(text) - n,
                 " The innermost block that needs to be closed is '%s'.",
                 parser->tag[parser->n_tags - 1]);
    return jinja_syntax(parser->err, name != NULL ? name->line : parser->token->line, "%s", text);
}

/* From behind a tag's arguments to one of end_tags, which stays the current token. */
static Status jinja_parse_stmt_until(Parser *parser, const char *end_tags, JNode **out) {
    jinja_parse_skip(parser, TOK_COLON);
    TRY(jinja_parse_expect(parser, TOK_BLOCK_END));
    parser->end_tags[parser->n_ends++] = end_tags;
    TRY(jinja_parse_stmt_body(parser, out));
    if (parser->token->type == TOK_EOF) return jinja_parse_stmt_unexpected(parser, NULL);
    parser->n_ends--;
    return OK;
}

static Status jinja_parse_stmt_for(Parser *parser, JNode **out) {
    NEW_NODE(node, N_FOR, parser->token->line);
    parser->token++;
    TRY(jinja_parse_target(parser, false, "in", &node->a));
    TRY(jinja_parse_expect_name(parser, "in"));
    TRY(jinja_parse_tuple(parser, (TupleOptions){.no_cond = true, .end_name = "recursive"},
                          &node->b));
    if (jinja_parse_skip_name(parser, "if")) {
        JNode *test;
        TRY(jinja_parse_expression(parser, true, &test));
        node->args = NULL;
        node->c = test;
    }
    node->flag = jinja_parse_skip_name(parser, "recursive");
    JNode *body, *otherwise = NULL;
    TRY(jinja_parse_stmt_until(parser, "endfor else", &body));
    if (jinja_parse_is_name(parser->token++, "else")) {
        TRY(jinja_parse_stmt_until(parser, "endfor", &otherwise));
        parser->token++;
    }
    NodeList list = {0};
    TRY(jinja_parse_push(parser, &list, body));
    if (otherwise != NULL) TRY(jinja_parse_push(parser, &list, otherwise));
    node->item = list.item;
    node->n = list.n;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_if(Parser *parser, JNode **out) {
    NEW_NODE(node, N_IF, parser->token->line);
    NodeList list = {0};
    for (bool last = false; !last;) {
        NEW_NODE(clause, N_CLAUSE, parser->token->line);
        const Token *tag = parser->token++;
        if (jinja_parse_is_name(tag, "else")) {
            TRY(jinja_parse_stmt_until(parser, "endif", &clause->b));
        } else {
            TRY(jinja_parse_tuple(parser, (TupleOptions){.no_cond = true}, &clause->a));
            TRY(jinja_parse_stmt_until(parser, "elif else endif", &clause->b));
        }
        TRY(jinja_parse_push(parser, &list, clause));
        last = jinja_parse_is_name(parser->token, "endif");
    }
    parser->token++;
    node->item = list.item;
    node->n = list.n;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_set(Parser *parser, JNode **out) {
    NEW_NODE(node, N_SET, parser->token->line);
    parser->token++;
    TRY(jinja_parse_target(parser, true, NULL, &node->a));
    *out = node;
    if (jinja_parse_skip(parser, TOK_ASSIGN))
        return jinja_parse_tuple(parser, (TupleOptions){0}, &node->b);
    node->kind = N_SET_BLOCK;
    TRY(jinja_parse_filter(parser, NULL, false, &node->b));
    TRY(jinja_parse_stmt_until(parser, "endset", &node->c));
    parser->token++;
    return OK;
}

static Status jinja_parse_stmt_with(Parser *parser, JNode **out) {
    NEW_NODE(node, N_WITH, parser->token->line);
    parser->token++;
    NodeList targets = {0}, values = {0};
    while (parser->token->type != TOK_BLOCK_END) {
        JNode *target, *value;
        if (targets.n > 0) TRY(jinja_parse_expect(parser, TOK_COMMA));
        TRY(jinja_parse_target(parser, false, NULL, &target));
        TRY(jinja_parse_expect(parser, TOK_ASSIGN));
        TRY(jinja_parse_expression(parser, true, &value));
        TRY(jinja_parse_push(parser, &targets, target));
        TRY(jinja_parse_push(parser, &values, value));
    }
    TRY(jinja_parse_stmt_until(parser, "endwith", &node->c));
    parser->token++;
    node->item = targets.item;
    node->n = targets.n;
    node->item2 = values.item;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_signature(Parser *parser, JNode *node) {
    NodeList params = {0}, defaults = {0};
    TRY(jinja_parse_expect(parser, TOK_LPAREN));
    while (parser->token->type != TOK_RPAREN) {
        if (params.n > 0) TRY(jinja_parse_expect(parser, TOK_COMMA));
        NEW_NODE(param, N_NAME, parser->token->line);
        param->flag = true;
        TRY(jinja_parse_name(parser, &param->name));
        for (size_t i = 0; i < params.n; i++)
            if (jstr_same(params.item[i]->name, param->name))
                return jinja_syntax(parser->err, param->line, "duplicate argument '%.*s'",
                                    STR_ARG(jstr_bytes(param->name)));
        if (params.n >= 255) return jinja_syntax(parser->err, param->line, "too many arguments");
        if (jinja_parse_skip(parser, TOK_ASSIGN)) {
            JNode *value;
            TRY(jinja_parse_expression(parser, true, &value));
            TRY(jinja_parse_push(parser, &defaults, value));
        } else if (defaults.n > 0) {
            return jinja_syntax(parser->err, parser->token->line,
                                "non-default argument follows default argument");
        }
        TRY(jinja_parse_push(parser, &params, param));
    }
    parser->token++;
    node->item = params.item;
    node->n = params.n;
    node->item2 = defaults.item;
    node->n2 = defaults.n;
    return OK;
}

static Status jinja_parse_stmt_macro(Parser *parser, JNode **out) {
    NEW_NODE(node, N_MACRO, parser->token->line);
    parser->token++;
    TRY(jinja_parse_name(parser, &node->name));
    TRY(jinja_parse_stmt_signature(parser, node));
    TRY(jinja_parse_stmt_until(parser, "endmacro", &node->c));
    parser->token++;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_call(Parser *parser, JNode **out) {
    NEW_NODE(node, N_CALL_BLOCK, parser->token->line);
    parser->token++;
    if (parser->token->type == TOK_LPAREN) TRY(jinja_parse_stmt_signature(parser, node));
    TRY(jinja_parse_expression(parser, true, &node->a));
    if (node->a->kind != N_CALL) return jinja_syntax(parser->err, node->line, "expected call");
    TRY(jinja_parse_stmt_until(parser, "endcall", &node->c));
    parser->token++;
    *out = node;
    return OK;
}

/* The text between the tags, as its own scope: Hugging Face's mark for what an assistant wrote. */
static Status jinja_parse_stmt_generation(Parser *parser, JNode **out) {
    NEW_NODE(node, N_CALL_BLOCK, parser->token->line);
    parser->token++;
    TRY(jinja_parse_stmt_until(parser, "endgeneration", &node->c));
    parser->token++;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_filter(Parser *parser, JNode **out) {
    NEW_NODE(node, N_FILTER_BLOCK, parser->token->line);
    parser->token++;
    TRY(jinja_parse_filter(parser, NULL, true, &node->a));
    TRY(jinja_parse_stmt_until(parser, "endfilter", &node->c));
    parser->token++;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_autoescape(Parser *parser, JNode **out) {
    NEW_NODE(node, N_AUTOESCAPE, parser->token->line);
    parser->token++;
    TRY(jinja_parse_expression(parser, true, &node->a));
    TRY(jinja_parse_stmt_until(parser, "endautoescape", &node->c));
    parser->token++;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_block(Parser *parser, JNode **out) {
    NEW_NODE(node, N_BLOCK, parser->token->line);
    parser->token++;
    TRY(jinja_parse_name(parser, &node->name));
    node->flag = jinja_parse_skip_name(parser, "scoped");
    bool required = jinja_parse_skip_name(parser, "required");
    if (parser->token->type == TOK_SUB)
        return jinja_syntax(parser->err, parser->token->line,
                            "Block names in Jinja have to be valid Python identifiers and may not "
                            "contain hyphens, use an underscore instead.");
    TRY(jinja_parse_stmt_until(parser, "endblock", &node->c));
    parser->token++;
    node->flag2 = required;
    if (parser->token->type == TOK_NAME && jstr_same(parser->token->value.s, node->name))
        parser->token++;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_print(Parser *parser, JNode **out) {
    NEW_NODE(node, N_OUTPUT, parser->token->line);
    parser->token++;
    NodeList list = {0};
    while (parser->token->type != TOK_BLOCK_END) {
        JNode *item;
        if (list.n > 0) TRY(jinja_parse_expect(parser, TOK_COMMA));
        TRY(jinja_parse_expression(parser, true, &item));
        TRY(jinja_parse_push(parser, &list, item));
    }
    node->item = list.item;
    node->n = list.n;
    *out = node;
    return OK;
}

/* import, from, include, extends: fail when they are reached, for there is nothing to load from. */
static Status jinja_parse_stmt_loader(Parser *parser, JNode **out) {
    NEW_NODE(node, N_LOADER, parser->token->line);
    parser->token++;
    TRY(jinja_parse_expression(parser, true, &node->a));
    while (parser->token->type != TOK_BLOCK_END && parser->token->type != TOK_EOF) parser->token++;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt_jump(Parser *parser, JNode **out) {
    bool is_break = jinja_parse_is_name(parser->token, "break");
    NEW_NODE(node, is_break ? N_BREAK : N_CONTINUE, parser->token->line);
    parser->token++;
    *out = node;
    return OK;
}

static Status jinja_parse_stmt(Parser *parser, JNode **out) {
    static const struct {
        const char *tag;
        Status (*parse)(Parser *parser, JNode **out);
    } tags[] = {
        {"for", jinja_parse_stmt_for},
        {"if", jinja_parse_stmt_if},
        {"set", jinja_parse_stmt_set},
        {"macro", jinja_parse_stmt_macro},
        {"call", jinja_parse_stmt_call},
        {"filter", jinja_parse_stmt_filter},
        {"with", jinja_parse_stmt_with},
        {"autoescape", jinja_parse_stmt_autoescape},
        {"block", jinja_parse_stmt_block},
        {"print", jinja_parse_stmt_print},
        {"break", jinja_parse_stmt_jump},
        {"continue", jinja_parse_stmt_jump},
        {"include", jinja_parse_stmt_loader},
        {"import", jinja_parse_stmt_loader},
        {"from", jinja_parse_stmt_loader},
        {"extends", jinja_parse_stmt_loader},
        {"generation", jinja_parse_stmt_generation},
    };
    const Token *token = parser->token;
    if (token->type != TOK_NAME) return jinja_syntax(parser->err, token->line, "tag name expected");
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        if (!jstr_is(token->value.s, tags[i].tag)) continue;
        TRY(jinja_parse_enter(parser));
        parser->tag[parser->n_tags++] = tags[i].tag;
        TRY(tags[i].parse(parser, out));
        parser->n_tags--;
        parser->nest--;
        return OK;
    }
    return jinja_parse_stmt_unexpected(parser, token);
}

/* Text and tags up to one of the current end tags (or the template's end). */
static Status jinja_parse_stmt_body(Parser *parser, JNode **out) {
    NEW_NODE(seq, N_SEQ, parser->token->line);
    NodeList list = {0};
    JNode *node;
    *out = seq;
    TRY(jinja_parse_enter(parser));
    for (; parser->token->type != TOK_EOF;) {
        const Token *token = parser->token++;
        if (token->type == TOK_DATA) {
            node = jinja_parse_node(parser, N_CONST, token->line);
            if (node == NULL) return ERR_LIMIT;
            node->value = token->value;
            node->flag = true; /* text of the template: never escaped */
        } else if (token->type == TOK_VAR_BEGIN) {
            TRY(jinja_parse_tuple(parser, (TupleOptions){0}, &node));
            TRY(jinja_parse_expect(parser, TOK_VAR_END));
        } else {
            CHECK(token->type == TOK_BLOCK_BEGIN);
            if (parser->n_ends > 0 &&
                jinja_parse_stmt_in_list(parser->end_tags[parser->n_ends - 1], parser->token))
                break;
            TRY(jinja_parse_stmt(parser, &node));
            TRY(jinja_parse_expect(parser, TOK_BLOCK_END));
            TRY(jinja_parse_push(parser, &list, node));
            continue;
        }
        NEW_NODE(output, N_OUTPUT, token->line);
        NodeList one = {0};
        TRY(jinja_parse_push(parser, &one, node));
        output->item = one.item;
        output->n = 1;
        TRY(jinja_parse_push(parser, &list, output));
    }
    parser->nest--;
    seq->item = list.item;
    seq->n = list.n;
    return OK;
}

Status jinja_parse(Jinja *jinja, Err *err) {
    Parser parser = {.jinja = jinja, .err = err, .token = jinja->token};
    return jinja_parse_stmt_body(&parser, &jinja->root);
}
