/* The lexer: text, tags and the tokens inside them, with Jinja2's rules for white space
 * (trim_blocks and lstrip_blocks are on). */
#include <stdio.h>

#include "base/str.h"
#include "text/jinja_priv.h"

typedef struct Lexer {
    Jinja *jinja;
    Err *err;
    const char *p; /* the source with \n newlines */
    size_t n, pos;
    int32_t line;
    Token *token;
    size_t n_tokens, cap;
    bool line_starting;
    char *nest; /* closing brackets that are waited for */
    size_t n_nest, cap_nest;
} Lexer;

static Status jinja_lex_no_memory(Lexer *lexer) {
    return err_set(lexer->err, ERR_LIMIT, "template: no memory to compile it");
}

static Status jinja_lex_push(Lexer *lexer, TokenType type, JVal value) {
    if (lexer->n_tokens == lexer->cap) {
        size_t cap = MAX(lexer->cap * 2, (size_t)256);
        Token *token = arena_alloc(&lexer->jinja->arena, cap * sizeof(*token));
        if (token == NULL) return jinja_lex_no_memory(lexer);
        if (lexer->n_tokens > 0) memcpy(token, lexer->token, lexer->n_tokens * sizeof(*token));
        lexer->token = token;
        lexer->cap = cap;
    }
    lexer->token[lexer->n_tokens++] = (Token){.type = type, .line = lexer->line, .value = value};
    return OK;
}

static Status jinja_lex_push_str(Lexer *lexer, TokenType type, const char *ptr, size_t len) {
    JStr *s = jinja_const(lexer->jinja, ptr, len);
    if (s == NULL) return jinja_lex_no_memory(lexer);
    return jinja_lex_push(lexer, type, jval_of_str(s));
}

static int32_t jinja_lex_count_lines(const char *p, size_t n) {
    int32_t lines = 0;
    for (size_t i = 0; i < n; i++) lines += p[i] == '\n';
    return lines;
}

static void jinja_lex_advance(Lexer *lexer, size_t to) {
    lexer->line += jinja_lex_count_lines(lexer->p + lexer->pos, to - lexer->pos);
    lexer->pos = to;
}

static bool jinja_lex_space_at(const Lexer *lexer, size_t i, size_t *next) {
    JStr s = {.ptr = lexer->p, .len = lexer->n};
    if (i >= lexer->n) return false;
    *next = i;
    return jstr_is_space(jstr_next(&s, next));
}

static size_t jinja_lex_skip_space(const Lexer *lexer, size_t i) {
    size_t next;
    while (jinja_lex_space_at(lexer, i, &next)) i = next;
    return i;
}

/* The end of [from, to) without white space at its end. */
static size_t jinja_lex_rtrim(const Lexer *lexer, size_t from, size_t to) {
    while (to > from) {
        size_t i = to - 1, next;
        while (i > from && ((unsigned char)lexer->p[i] & 0xc0) == 0x80) i--;
        if (!jinja_lex_space_at(lexer, i, &next)) break;
        to = i;
    }
    return to;
}

static bool jinja_lex_is(const Lexer *lexer, size_t i, const char *text) {
    size_t len = strlen(text);
    return i <= lexer->n && lexer->n - i >= len && memcmp(lexer->p + i, text, len) == 0;
}

/* If a tag that holds only `word` ends here ("raw %}"), where its end mark begins; else
 * SIZE_MAX. */
static size_t jinja_lex_word_tag(const Lexer *lexer, size_t i, const char *word) {
    i = jinja_lex_skip_space(lexer, i);
    if (!jinja_lex_is(lexer, i, word)) return SIZE_MAX;
    return jinja_lex_skip_space(lexer, i + strlen(word));
}

/* Behind "%}", "-%}" or "+%}" (or those of a comment) at i, with what they take away; SIZE_MAX:
 * there is no end mark here. */
static size_t jinja_lex_tag_end(const Lexer *lexer, size_t i, const char *mark) {
    if (jinja_lex_is(lexer, i, mark)) {
        i += 2;
        return i < lexer->n && lexer->p[i] == '\n' ? i + 1 : i;
    }
    if (i < lexer->n && jinja_lex_is(lexer, i + 1, mark)) {
        if (lexer->p[i] == '+') return i + 3;
        if (lexer->p[i] == '-') return jinja_lex_skip_space(lexer, i + 3);
    }
    return SIZE_MAX;
}

/* Pushes the text before a tag, without what the tag's sign or lstrip_blocks takes from its end. */
static Status jinja_lex_data(Lexer *lexer, size_t to, char sign, bool is_variable) {
    size_t from = lexer->pos, end = to;
    if (sign == '-') {
        end = jinja_lex_rtrim(lexer, from, to);
    } else if (sign != '+' && !is_variable) {
        size_t line = to;
        while (line > from && lexer->p[line - 1] != '\n') line--;
        if ((line > from || lexer->line_starting) && jinja_lex_rtrim(lexer, line, to) == line)
            end = line;
    }
    if (end > from) TRY(jinja_lex_push_str(lexer, TOK_DATA, lexer->p + from, end - from));
    jinja_lex_advance(lexer, to);
    return OK;
}

static Status jinja_lex_raw(Lexer *lexer, size_t body) {
    jinja_lex_advance(lexer, body);
    lexer->line_starting = body > 0 && lexer->p[body - 1] == '\n';
    for (size_t i = body;; i++) {
        const char *p = i < lexer->n ? memmem(lexer->p + i, lexer->n - i, "{%", 2) : NULL;
        if (p == NULL) return jinja_syntax(lexer->err, lexer->line, "Missing end of raw directive");
        i = (size_t)(p - lexer->p);
        char sign = i + 2 < lexer->n ? lexer->p[i + 2] : 0;
        bool has_sign = sign == '-' || sign == '+';
        size_t mark = jinja_lex_word_tag(lexer, i + 2 + has_sign, "endraw");
        size_t end = mark == SIZE_MAX ? mark : jinja_lex_tag_end(lexer, mark, "%}");
        if (end == SIZE_MAX) continue;
        TRY(jinja_lex_data(lexer, i, has_sign ? sign : 0, false));
        jinja_lex_advance(lexer, end);
        return OK;
    }
}

static Status jinja_lex_comment(Lexer *lexer, size_t body) {
    for (size_t i = body; i < lexer->n; i++) {
        size_t end = jinja_lex_tag_end(lexer, i, "#}");
        if (end == SIZE_MAX) continue;
        jinja_lex_advance(lexer, end);
        return OK;
    }
    return jinja_syntax(lexer->err, lexer->line, "Missing end of comment tag");
}

/* "\n" and friends as Python's unicode-escape reads them. *i stands behind the backslash. */
static Status jinja_lex_escape(Lexer *lexer, const char *p, size_t n, size_t *i, char **to) {
    static const char plain[] = "\\'\"abfnrtv";
    static const char meaning[] = "\\'\"\a\b\f\n\r\t\v";
    char c = p[*i];
    const char *known = memchr(plain, c, sizeof(plain) - 1);
    if (c == '\n') {
        *i += 1;
        return OK;
    }
    if (known != NULL) {
        *(*to)++ = meaning[known - plain];
        *i += 1;
        return OK;
    }
    uint32_t cp = 0;
    if (c >= '0' && c <= '7') {
        for (int k = 0; k < 3 && *i < n && p[*i] >= '0' && p[*i] <= '7'; k++)
            cp = cp * 8 + (uint32_t)(p[(*i)++] - '0');
    } else if (c == 'x' || c == 'u' || c == 'U') {
        size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        *i += 1;
        for (size_t k = 0; k < digits; k++, *i += 1) {
            char d = *i < n ? p[*i] : 0;
            int v = d >= '0' && d <= '9'                 ? d - '0'
                    : (d | 32) >= 'a' && (d | 32) <= 'f' ? (d | 32) - 'a' + 10
                                                         : -1;
            if (v < 0)
                return jinja_syntax(lexer->err, lexer->line, "truncated \\%c%s escape", c,
                                    c == 'x'   ? "XX"
                                    : c == 'u' ? "XXXX"
                                               : "XXXXXXXX");
            cp = cp * 16 + (uint32_t)v;
        }
    } else if (c == 'N') {
        return jinja_syntax(lexer->err, lexer->line, "\\N{...} in a string is not supported");
    } else if ((unsigned char)c >= 0x80) {
        /* The reference turns other letters into escapes first, so this backslash eats the
         * backslash of one and leaves its digits. */
        JStr rest = {.ptr = p, .len = n};
        cp = jstr_next(&rest, i);
        char text[16];
        int len = snprintf(text, sizeof(text),
                           cp < 0x100     ? "\\x%02x"
                           : cp < 0x10000 ? "\\u%04x"
                                          : "\\U%08x",
                           cp);
        memcpy(*to, text, (size_t)len);
        *to += len;
        return OK;
    } else {
        *(*to)++ = '\\';
        *(*to)++ = c;
        *i += 1;
        return OK;
    }
    if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        return jinja_syntax(lexer->err, lexer->line, "escape of a string that is no character");
    *to += jstr_utf8(cp, *to);
    return OK;
}

static Status jinja_lex_string(Lexer *lexer, size_t end) {
    const char *p = lexer->p + lexer->pos + 1;
    size_t n = end - lexer->pos - 2;
    char *text = arena_alloc(&lexer->jinja->arena, n * 3 + 16), *to = text;
    if (text == NULL) return jinja_lex_no_memory(lexer);
    for (size_t i = 0; i < n;) {
        if (p[i] != '\\') {
            *to++ = p[i++];
            continue;
        }
        i++;
        TRY(jinja_lex_escape(lexer, p, n, &i, &to));
    }
    TRY(jinja_lex_push_str(lexer, TOK_STRING, text, (size_t)(to - text)));
    jinja_lex_advance(lexer, end);
    return OK;
}

/* Behind the closing quote, or SIZE_MAX. */
static size_t jinja_lex_string_end(const Lexer *lexer) {
    char quote = lexer->p[lexer->pos];
    for (size_t i = lexer->pos + 1; i < lexer->n; i++) {
        if (lexer->p[i] == '\\') {
            i++;
        } else if (lexer->p[i] == quote) {
            return i + 1;
        }
    }
    return SIZE_MAX;
}

static bool jinja_lex_digit(char c, int base) {
    int v = c >= '0' && c <= '9'                 ? c - '0'
            : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                 : 99;
    return v < base;
}

/* Behind digits with single underscores between them, from i on; i when there are none. */
static size_t jinja_lex_digits(const Lexer *lexer, size_t i, int base, bool lead_underscore) {
    size_t at = i;
    for (;;) {
        size_t k = at;
        if (k < lexer->n && lexer->p[k] == '_' && (at > i || lead_underscore)) k++;
        if (k >= lexer->n || !jinja_lex_digit(lexer->p[k], base)) return at;
        at = k + 1;
    }
}

/* Behind a float at the current place, or 0. */
static size_t jinja_lex_float_end(const Lexer *lexer) {
    if (lexer->pos > 0 && lexer->p[lexer->pos - 1] == '.') return 0;
    size_t whole = jinja_lex_digits(lexer, lexer->pos, 10, false);
    size_t end = whole, fraction = 0;
    if (end < lexer->n && lexer->p[end] == '.') {
        size_t k = jinja_lex_digits(lexer, end + 1, 10, false);
        if (k > end + 1) fraction = end = k;
    }
    if (end < lexer->n && (lexer->p[end] | 32) == 'e') {
        size_t k = end + 1;
        if (k < lexer->n && (lexer->p[k] == '+' || lexer->p[k] == '-')) k++;
        size_t e = jinja_lex_digits(lexer, k, 10, false);
        if (e > k) return e;
    }
    return fraction;
}

static Status jinja_lex_number(Lexer *lexer) {
    size_t end = jinja_lex_float_end(lexer), from = lexer->pos;
    bool is_float = end != 0;
    int base = 10;
    if (!is_float) {
        char kind =
            from + 1 < lexer->n && lexer->p[from] == '0' ? (char)(lexer->p[from + 1] | 32) : 0;
        base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
        end = base != 10 ? jinja_lex_digits(lexer, from + 2, base, true) : 0;
        if (base == 10 || end == from + 2) {
            base = 10;
            /* a leading zero stands alone: 012 is 0 and 12 */
            end = jinja_lex_digits(lexer, from, lexer->p[from] == '0' ? 1 : 10, false);
        }
    }
    char text[512];
    size_t len = 0;
    for (size_t i = base != 10 ? from + 2 : from; i < end; i++) {
        if (lexer->p[i] == '_') continue;
        if (len + 1 >= sizeof(text))
            return jinja_syntax(lexer->err, lexer->line, "a number of more than 500 digits");
        text[len++] = lexer->p[i];
    }
    JVal value;
    JStr s = {.ptr = text, .len = len, .n_chars = len};
    if (is_float) {
        double f;
        if (!jnum_parse_float(&s, &f)) return jinja_syntax(lexer->err, lexer->line, "bad number");
        value = jval_float(f);
    } else {
        int64_t i;
        bool overflow;
        if (!jnum_parse_int(&s, base, &i, &overflow))
            return jinja_syntax(lexer->err, lexer->line,
                                "integer %.40s beyond 64 bits is not supported", text);
        value = jval_int(i);
    }
    TRY(jinja_lex_push(lexer, is_float ? TOK_FLOAT : TOK_INT, value));
    jinja_lex_advance(lexer, end);
    return OK;
}

static Status jinja_lex_operator(Lexer *lexer) {
    static const struct {
        const char *text;
        TokenType type;
    } ops[] = {{"//", TOK_FLOORDIV}, {"**", TOK_POW},     {"==", TOK_EQ},    {"!=", TOK_NE},
               {">=", TOK_GE},       {"<=", TOK_LE},      {"+", TOK_ADD},    {"-", TOK_SUB},
               {"/", TOK_DIV},       {"*", TOK_MUL},      {"%", TOK_MOD},    {"~", TOK_TILDE},
               {"[", TOK_LBRACKET},  {"]", TOK_RBRACKET}, {"(", TOK_LPAREN}, {")", TOK_RPAREN},
               {"{", TOK_LBRACE},    {"}", TOK_RBRACE},   {">", TOK_GT},     {"<", TOK_LT},
               {"=", TOK_ASSIGN},    {".", TOK_DOT},      {":", TOK_COLON},  {"|", TOK_PIPE},
               {",", TOK_COMMA},     {";", TOK_SEMICOLON}};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (!jinja_lex_is(lexer, lexer->pos, ops[i].text)) continue;
        char c = ops[i].text[0];
        if (c == '(' || c == '[' || c == '{') {
            if (lexer->n_nest == lexer->cap_nest)
                return jinja_syntax(lexer->err, lexer->line, "brackets nested too deeply");
            lexer->nest[lexer->n_nest++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (lexer->n_nest == 0)
                return jinja_syntax(lexer->err, lexer->line, "unexpected '%c'", c);
            char want = lexer->nest[--lexer->n_nest];
            if (want != c)
                return jinja_syntax(lexer->err, lexer->line, "unexpected '%c', expected '%c'", c,
                                    want);
        }
        TRY(jinja_lex_push(lexer, ops[i].type, jval_none()));
        lexer->pos += strlen(ops[i].text);
        return OK;
    }
    JStr s = {.ptr = lexer->p, .len = lexer->n};
    size_t next = lexer->pos;
    jstr_next(&s, &next);
    return jinja_syntax(lexer->err, lexer->line, "unexpected char '%.*s' at %zu",
                        (int)(next - lexer->pos), lexer->p + lexer->pos,
                        jstr_count(lexer->p, lexer->pos));
}

static size_t jinja_lex_name_end(const Lexer *lexer) {
    JStr s = {.ptr = lexer->p, .len = lexer->n};
    size_t i = lexer->pos;
    while (i < lexer->n) {
        size_t next = i;
        if (!jstr_is_word(jstr_next(&s, &next))) break;
        i = next;
    }
    return i;
}

/* Inside a tag, up to its end. */
static Status jinja_lex_tag(Lexer *lexer, bool is_variable) {
    for (;;) {
        size_t i = lexer->pos;
        if (i >= lexer->n) return OK; /* the parser complains */
        if (lexer->n_nest == 0 && is_variable) {
            size_t end = jinja_lex_is(lexer, i, "}}")    ? i + 2
                         : jinja_lex_is(lexer, i, "-}}") ? jinja_lex_skip_space(lexer, i + 3)
                                                         : SIZE_MAX;
            if (end != SIZE_MAX) {
                TRY(jinja_lex_push(lexer, TOK_VAR_END, jval_none()));
                jinja_lex_advance(lexer, end);
                return OK;
            }
        } else if (lexer->n_nest == 0) {
            size_t end = jinja_lex_tag_end(lexer, i, "%}");
            if (end != SIZE_MAX) {
                TRY(jinja_lex_push(lexer, TOK_BLOCK_END, jval_none()));
                jinja_lex_advance(lexer, end);
                return OK;
            }
        }
        size_t next;
        char c = lexer->p[i];
        if (jinja_lex_space_at(lexer, i, &next)) {
            jinja_lex_advance(lexer, jinja_lex_skip_space(lexer, i));
        } else if (c >= '0' && c <= '9') {
            TRY(jinja_lex_number(lexer));
        } else if ((next = jinja_lex_name_end(lexer)) > i) {
            TRY(jinja_lex_push_str(lexer, TOK_NAME, lexer->p + i, next - i));
            lexer->pos = next;
        } else if ((c == '\'' || c == '"') && (next = jinja_lex_string_end(lexer)) != SIZE_MAX) {
            TRY(jinja_lex_string(lexer, next));
        } else {
            TRY(jinja_lex_operator(lexer));
        }
    }
}

/* One piece of text and the tag behind it. */
static Status jinja_lex_root(Lexer *lexer) {
    size_t i = lexer->pos;
    for (; i + 1 < lexer->n; i++)
        if (lexer->p[i] == '{' &&
            (lexer->p[i + 1] == '{' || lexer->p[i + 1] == '%' || lexer->p[i + 1] == '#'))
            break;
    if (i + 1 >= lexer->n) {
        TRY(jinja_lex_push_str(lexer, TOK_DATA, lexer->p + lexer->pos, lexer->n - lexer->pos));
        jinja_lex_advance(lexer, lexer->n);
        return OK;
    }
    char kind = lexer->p[i + 1], sign = i + 2 < lexer->n ? lexer->p[i + 2] : 0;
    bool has_sign = sign == '-' || sign == '+';
    size_t body = i + 2 + has_sign;
    TRY(jinja_lex_data(lexer, i, has_sign ? sign : 0, kind == '{'));
    if (kind == '%') {
        size_t mark = jinja_lex_word_tag(lexer, body, "raw");
        if (mark != SIZE_MAX && jinja_lex_is(lexer, mark, "%}"))
            return jinja_lex_raw(lexer, mark + 2);
        if (mark != SIZE_MAX && jinja_lex_is(lexer, mark, "-%}"))
            return jinja_lex_raw(lexer, jinja_lex_skip_space(lexer, mark + 3));
    }
    if (kind == '#') return jinja_lex_comment(lexer, body);
    TRY(jinja_lex_push(lexer, kind == '{' ? TOK_VAR_BEGIN : TOK_BLOCK_BEGIN, jval_none()));
    lexer->pos = body;
    return jinja_lex_tag(lexer, kind == '{');
}

/* A copy with \n for every kind of line end, without one at the end of all. */
static Status jinja_lex_normalize(Lexer *lexer) {
    Str source = lexer->jinja->source;
    char *p = arena_alloc(&lexer->jinja->arena, source.len + 1);
    if (p == NULL) return jinja_lex_no_memory(lexer);
    size_t n = 0;
    for (size_t i = 0; i < source.len; i++) {
        char c = source.ptr[i];
        if (c == '\r') {
            if (i + 1 < source.len && source.ptr[i + 1] == '\n') i++;
            c = '\n';
        }
        p[n++] = c;
    }
    if (n > 0 && p[n - 1] == '\n') n--;
    lexer->p = p;
    lexer->n = n;
    lexer->jinja->source = (Str){p, n};
    return OK;
}

Status jinja_lex(Jinja *jinja, Err *err) {
    char nest[JINJA_NEST_MAX * 4];
    Lexer lexer = {.jinja = jinja,
                   .err = err,
                   .line = 1,
                   .line_starting = true,
                   .nest = nest,
                   .cap_nest = sizeof(nest)};
    TRY(jinja_lex_normalize(&lexer));
    while (lexer.pos < lexer.n) {
        TRY(jinja_lex_root(&lexer));
        lexer.line_starting = lexer.pos > 0 && lexer.p[lexer.pos - 1] == '\n';
    }
    TRY(jinja_lex_push(&lexer, TOK_EOF, jval_none()));
    jinja->token = lexer.token;
    jinja->n_tokens = lexer.n_tokens;
    return OK;
}
