#include "text/chat_parse.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/mem.h"

enum { CHAT_SPACE_MAX = 64, CHAT_HEAD_MAX = 512, CHAT_REST_MAX = 4096 };

typedef enum ChatState {
    CHAT_AT_BEGIN,  /* white space only, so far */
    CHAT_AT_THINK,  /* perhaps <think> */
    CHAT_IN_THINK,  /* until </think> */
    CHAT_IN_TEXT,   /* perhaps with the beginning of a mark held back */
    CHAT_AT_CALL,   /* behind a mark: a call must follow */
    CHAT_IN_NAME,   /* [TOOL_CALLS]N... until the arguments */
    CHAT_IN_OBJECT, /* a call's object, not announced yet */
    CHAT_IN_ARGS,
    CHAT_IN_REST,    /* of the call's object, behind the arguments */
    CHAT_AFTER,      /* behind a call: the mark of its end, or the next call */
    CHAT_AFTER_SPACE /* behind the last mark of a call */
} ChatState;

/* ---- templates ---- */

static bool chat_parse_has(Str source, const char *text) {
    return str_find(source, str_from(text), 0) != SIZE_MAX;
}

ChatStyle chat_parse_style(Str source) {
    /* Calls as XML (Qwen3-Coder, GLM, functionary) are none of these. */
    if (chat_parse_has(source, "<function=") || chat_parse_has(source, "<arg_key>"))
        return CHAT_PLAIN;
    if (chat_parse_has(source, "[TOOL_CALLS]"))
        return chat_parse_has(source, "[ARGS]") ? CHAT_MISTRAL_ARGS : CHAT_MISTRAL;
    if (chat_parse_has(source, "<tool_call>")) return CHAT_HERMES;
    if (chat_parse_has(source, "<|python_tag|>") ||
        chat_parse_has(source, "{\"name\": function name, \"parameters\":"))
        return CHAT_LLAMA;
    return CHAT_PLAIN;
}

bool chat_parse_thinks(Str source) {
    return chat_parse_has(source, "</think>");
}

void chat_parse_force(ChatStyle style, Str name, Buf *out) {
    static const char *const before[] = {"", "{\"name\": \"", "<tool_call>\n{\"name\": \"",
                                         "[TOOL_CALLS][{\"name\": \"", "[TOOL_CALLS]"};
    static const char *const behind[] = {"", "\", \"parameters\": {", "\", \"arguments\": {",
                                         "\", \"arguments\": {", "[ARGS]{"};
    buf_append_text(out, before[style]);
    buf_append_str(out, name);
    buf_append_text(out, behind[style]);
}

/* ---- parts ---- */

static void chat_parse_emit(ChatParse *p, ChatPartKind kind, Str text) {
    if (text.len == 0 && kind != CHAT_CALL) return;
    bool more = p->n_parts > 0 && kind != CHAT_CALL && p->part[p->n_parts - 1].kind == kind;
    if (!more && p->n_parts == p->parts_max) {
        size_t max = MAX(p->parts_max * 2, 8);
        ChatPart *part = realloc(p->part, max * sizeof *part);
        CHECK(part != NULL);
        p->part = part;
        p->parts_max = max;
    }
    if (!more) p->part[p->n_parts++] = (ChatPart){.kind = kind, .from = p->out.len};
    p->part[p->n_parts - 1].len += text.len;
    buf_append_str(&p->out, text);
}

/* What was held back is text after all. */
static void chat_parse_flush(ChatParse *p) {
    chat_parse_emit(p, CHAT_TEXT, buf_str(&p->held));
    buf_clear(&p->held);
    p->state = CHAT_IN_TEXT;
}

/* Announces a call; false: there are too many, and it is text. */
static bool chat_parse_announce(ChatParse *p, Str name) {
    if (p->n_calls == CHAT_CALLS_MAX) {
        p->style = CHAT_PLAIN;
        chat_parse_flush(p);
        return false;
    }
    p->n_calls++;
    chat_parse_emit(p, CHAT_CALL, name);
    return true;
}

/* ---- JSON ---- */

static bool chat_parse_is_space(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* One more byte of a value. */
static void chat_json_step(ChatJson *json, char c) {
    if (json->in_string) {
        json->in_string = json->escaped || c != '"';
        json->escaped = !json->escaped && c == '\\';
    } else if (c == '"') {
        json->in_string = true;
    } else if (c == '{' || c == '[') {
        json->broken |= json->depth == CHAT_DEPTH_MAX;
        json->is_list = json->is_list << 1 | (c == '[');
        json->depth++;
    } else if (c == '}' || c == ']') {
        json->broken |= json->depth == 0 || (json->is_list & 1) != (c == ']');
        json->is_list >>= 1;
        json->depth--;
    }
}

typedef enum ChatMatch { CHAT_NO, CHAT_MORE, CHAT_YES } ChatMatch;

/* A text being matched against literals. */
typedef struct ChatCursor {
    Str text;
    size_t at;
    ChatMatch state; /* CHAT_YES: so far */
} ChatCursor;

static void chat_parse_skip_space(ChatCursor *cursor) {
    while (cursor->at < cursor->text.len && chat_parse_is_space(cursor->text.ptr[cursor->at]))
        cursor->at++;
}

/* White space, then the literal. */
static void chat_parse_expect(ChatCursor *cursor, const char *literal) {
    if (cursor->state != CHAT_YES) return;
    chat_parse_skip_space(cursor);
    size_t len = strlen(literal), left = cursor->text.len - cursor->at;
    if (memcmp(cursor->text.ptr + cursor->at, literal, MIN(len, left)) != 0) {
        cursor->state = CHAT_NO;
    } else if (left < len) {
        cursor->state = CHAT_MORE;
    }
    cursor->at += MIN(len, left);
}

/* A name until its closing quote. */
static Str chat_parse_name(ChatCursor *cursor) {
    Str name = {cursor->text.ptr + cursor->at, 0};
    while (cursor->state == CHAT_YES) {
        if (cursor->at == cursor->text.len) {
            cursor->state = CHAT_MORE;
            break;
        }
        char c = cursor->text.ptr[cursor->at++];
        if (c == '"') break;
        name.len++;
        if (c == '\\' || (unsigned char)c < 0x20 || name.len > CHAT_NAME_MAX)
            cursor->state = CHAT_NO;
    }
    if (cursor->state == CHAT_YES && name.len == 0) cursor->state = CHAT_NO;
    return name;
}

/* {"name": "N", "arguments": { , the usual order. */
static ChatMatch chat_parse_head(Str object, Str *name) {
    ChatCursor cursor = {object, 0, CHAT_YES};
    chat_parse_expect(&cursor, "{");
    chat_parse_expect(&cursor, "\"name\"");
    chat_parse_expect(&cursor, ":");
    chat_parse_expect(&cursor, "\"");
    *name = chat_parse_name(&cursor);
    chat_parse_expect(&cursor, ",");
    ChatCursor other = cursor;
    chat_parse_expect(&cursor, "\"arguments\"");
    chat_parse_expect(&other, "\"parameters\"");
    if (cursor.state == CHAT_NO) cursor = other;
    chat_parse_expect(&cursor, ":");
    chat_parse_expect(&cursor, "{");
    return cursor.state;
}

/* ---- calls ---- */

/* A whole object was held back: a call, or text. */
static void chat_parse_whole(ChatParse *p) {
    json_t *object = NULL;
    Str text = str_slice(buf_str(&p->held), p->object_at, p->held.len);
    char *arguments = NULL;
    const char *name = NULL;
    if (json_parse(&object, text, &JSON_LIMITS_REQUEST, "a call", NULL) == OK) {
        name = json_string_value(json_object_get(object, "name"));
        json_t *value = json_object_get(object, "arguments");
        if (value == NULL) value = json_object_get(object, "parameters");
        json_t *inner = NULL; /* arguments that are written as a string */
        if (json_is_string(value) && json_parse(&inner, str_from(json_string_value(value)),
                                                &JSON_LIMITS_REQUEST, "a call", NULL) == OK)
            value = inner;
        if (json_is_object(value)) arguments = json_dumps(value, JSON_COMPACT);
        json_decref(inner);
    }
    if (name == NULL || name[0] == '\0' || strlen(name) > CHAT_NAME_MAX || arguments == NULL) {
        chat_parse_flush(p);
    } else if (chat_parse_announce(p, str_from(name))) {
        chat_parse_emit(p, CHAT_ARGUMENTS, str_from(arguments));
        buf_clear(&p->held);
        p->state = CHAT_AFTER;
    }
    free(arguments);
    json_decref(object);
}

static void chat_parse_object_begin(ChatParse *p) {
    p->object_at = p->held.len;
    p->json = (ChatJson){0};
    p->whole = false;
    p->state = CHAT_IN_OBJECT;
}

static void chat_parse_object(ChatParse *p, char c) {
    buf_append_byte(&p->held, c);
    chat_json_step(&p->json, c);
    size_t len = p->held.len - p->object_at;
    if (p->json.broken || p->held.len >= CHAT_HELD_MAX) {
        chat_parse_flush(p);
        return;
    }
    Str name, object = {p->held.data + p->object_at, len};
    ChatMatch match = p->whole ? CHAT_NO : chat_parse_head(object, &name);
    if (match == CHAT_YES) {
        if (!chat_parse_announce(p, name)) return;
        chat_parse_emit(p, CHAT_ARGUMENTS, STR_LIT("{"));
        buf_clear(&p->held);
        p->state = CHAT_IN_ARGS;
        return;
    }
    p->whole = match == CHAT_NO || len > CHAT_HEAD_MAX;
    if (p->json.depth == 0) chat_parse_whole(p);
}

/* N, [CALL_ID] and an id, [ARGS]: all but the name may be missing; a brace follows. */
static bool chat_parse_mistral_head(Str head, Str *name) {
    size_t n = 0;
    while (n < head.len && head.ptr[n] != '[' && !chat_parse_is_space(head.ptr[n])) n++;
    *name = str_slice(head, 0, n);
    Str rest = str_trim(str_slice(head, n, head.len));
    if (str_ends_with(rest, "[ARGS]")) rest.len -= strlen("[ARGS]");
    bool id = str_starts_with(rest, "[CALL_ID]") && memchr(rest.ptr + 1, '[', rest.len - 1) == NULL;
    return n > 0 && n <= CHAT_NAME_MAX && (rest.len == 0 || id);
}

static void chat_parse_step(ChatParse *p, char c);

static bool chat_parse_is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

static void chat_parse_in_name(ChatParse *p, char c) {
    Str name;
    Str head = str_slice(buf_str(&p->held), strlen("[TOOL_CALLS]"), p->held.len);
    if (c == '{' && chat_parse_mistral_head(str_trim(head), &name)) {
        if (chat_parse_announce(p, name)) {
            buf_clear(&p->held);
            p->json = (ChatJson){0};
            p->state = CHAT_IN_ARGS;
        }
        chat_parse_step(p, c);
    } else if ((chat_parse_is_name(c) || c == '[' || c == ']' || chat_parse_is_space(c)) &&
               p->held.len < CHAT_HEAD_MAX) {
        buf_append_byte(&p->held, c);
    } else {
        chat_parse_flush(p);
        chat_parse_step(p, c);
    }
}

/* Behind a mark that begins a call. */
static void chat_parse_at_call(ChatParse *p, char c) {
    bool mistral = (p->style == CHAT_MISTRAL || p->style == CHAT_MISTRAL_ARGS) && !p->in_list;
    if (chat_parse_is_space(c) && p->held.len < CHAT_SPACE_MAX) {
        buf_append_byte(&p->held, c);
    } else if (c == '{' && !mistral) {
        chat_parse_object_begin(p);
        chat_parse_object(p, c);
    } else if (c == '[' && mistral) {
        p->in_list = true;
        buf_append_byte(&p->held, c);
    } else if (chat_parse_is_name(c) && mistral) {
        p->state = CHAT_IN_NAME;
        chat_parse_in_name(p, c);
    } else {
        chat_parse_flush(p);
        chat_parse_step(p, c);
    }
}

/* The arguments end where their braces do: at depth 0 without an object around them (Mistral's
 * newer form), else at depth 1. Broken ones end where they break. */
static void chat_parse_args(ChatParse *p, char c) {
    bool bare = p->style >= CHAT_MISTRAL && !p->in_list;
    chat_json_step(&p->json, c);
    if (p->json.broken) {
        p->state = CHAT_IN_TEXT;
        chat_parse_step(p, c);
        return;
    }
    chat_parse_emit(p, CHAT_ARGUMENTS, (Str){&c, 1});
    if (p->json.depth == (bare ? 0 : 1)) p->state = bare ? CHAT_AFTER_SPACE : CHAT_IN_REST;
}

/* Other fields behind the arguments (an id) disappear with the closing brace. */
static void chat_parse_rest(ChatParse *p, char c) {
    bool first = str_trim(buf_str(&p->held)).len == 0;
    if (first && !chat_parse_is_space(c) && c != ',' && c != '}') {
        buf_clear(&p->held);
        p->state = CHAT_AFTER;
        chat_parse_step(p, c);
        return;
    }
    buf_append_byte(&p->held, c);
    chat_json_step(&p->json, c);
    if (p->json.broken || p->held.len > CHAT_REST_MAX) {
        chat_parse_flush(p);
    } else if (p->json.depth == 0) {
        buf_clear(&p->held);
        p->state = CHAT_AFTER;
    }
}

/* Behind a call's object. held: what was seen of a mark, or a separator. */
static void chat_parse_after(ChatParse *p, char c) {
    static const char mark[] = "</tool_call>";
    Str held = buf_str(&p->held);
    if (chat_parse_is_space(c) && (held.len == 0 || p->style != CHAT_HERMES) &&
        held.len < CHAT_SPACE_MAX) {
        if (held.len > 0) buf_append_byte(&p->held, c);
    } else if (p->style == CHAT_HERMES && c == mark[held.len]) {
        buf_append_byte(&p->held, c);
        if (p->held.len < sizeof mark - 1) return;
        buf_clear(&p->held);
        p->state = CHAT_AFTER_SPACE;
    } else if (p->style == CHAT_LLAMA && c == ';' && held.len == 0) {
        buf_append_byte(&p->held, c);
    } else if (p->style == CHAT_LLAMA && c == '{') {
        chat_parse_object_begin(p);
        chat_parse_object(p, c);
    } else if (p->style == CHAT_MISTRAL && c == ',' && held.len == 0) {
        buf_append_byte(&p->held, c);
        p->state = CHAT_AT_CALL;
    } else if (p->style >= CHAT_MISTRAL && c == ']' && held.len == 0) {
        p->state = CHAT_AFTER_SPACE;
    } else {
        chat_parse_flush(p);
        chat_parse_step(p, c);
    }
}

/* ---- text and reasoning ---- */

/* Text until a mark; true when the mark is whole, which held then is. */
static bool chat_parse_until(ChatParse *p, char c, Str mark, ChatPartKind kind) {
    buf_append_byte(&p->held, c);
    size_t from = 0;
    while (from < p->held.len) {
        size_t n = p->held.len - from;
        if (n <= mark.len && memcmp(p->held.data + from, mark.ptr, n) == 0) break;
        from++;
    }
    chat_parse_emit(p, kind, str_slice(buf_str(&p->held), 0, from));
    Str left = {mark.ptr, p->held.len - from}; /* what was kept is the mark's beginning */
    buf_clear(&p->held);
    buf_append_str(&p->held, left);
    return left.len == mark.len;
}

static void chat_parse_in_text(ChatParse *p, char c) {
    static const char *const marks[] = {NULL, "<|python_tag|>", "<tool_call>", "[TOOL_CALLS]",
                                        "[TOOL_CALLS]"};
    if (p->style == CHAT_PLAIN) {
        chat_parse_emit(p, CHAT_TEXT, (Str){&c, 1});
    } else if (chat_parse_until(p, c, str_from(marks[p->style]), CHAT_TEXT)) {
        p->in_list = false;
        p->state = CHAT_AT_CALL;
    }
}

/* What was held back at the beginning is no mark: it is read again as text. */
static void chat_parse_again(ChatParse *p, char c) {
    Buf again = p->held;
    p->held = (Buf){0};
    p->state = CHAT_IN_TEXT;
    for (size_t i = 0; i < again.len; i++) chat_parse_step(p, again.data[i]);
    chat_parse_step(p, c);
    buf_free(&again);
}

static void chat_parse_at_begin(ChatParse *p, char c) {
    if (chat_parse_is_space(c) && p->held.len < CHAT_SPACE_MAX) {
        if (!p->skip_space) buf_append_byte(&p->held, c);
    } else if (p->style == CHAT_LLAMA && c == '{') {
        chat_parse_object_begin(p);
        chat_parse_object(p, c);
    } else if (p->thinks && c == '<') {
        p->object_at = p->held.len;
        buf_append_byte(&p->held, c);
        p->state = CHAT_AT_THINK;
    } else {
        chat_parse_again(p, c);
    }
}

static void chat_parse_at_think(ChatParse *p, char c) {
    static const char mark[] = "<think>";
    if (c != mark[p->held.len - p->object_at]) {
        chat_parse_again(p, c);
        return;
    }
    buf_append_byte(&p->held, c);
    if (p->held.len - p->object_at < sizeof mark - 1) return;
    buf_clear(&p->held);
    p->state = CHAT_IN_THINK;
}

static void chat_parse_in_think(ChatParse *p, char c) {
    if (!chat_parse_until(p, c, STR_LIT("</think>"), CHAT_REASONING)) return;
    buf_clear(&p->held);
    p->thinks = false;
    p->skip_space = true;
    p->state = CHAT_AT_BEGIN;
}

/* ---- all of it ---- */

static void chat_parse_step(ChatParse *p, char c) {
    switch ((ChatState)p->state) {
        case CHAT_AT_BEGIN: chat_parse_at_begin(p, c); break;
        case CHAT_AT_THINK: chat_parse_at_think(p, c); break;
        case CHAT_IN_THINK: chat_parse_in_think(p, c); break;
        case CHAT_IN_TEXT: chat_parse_in_text(p, c); break;
        case CHAT_AT_CALL: chat_parse_at_call(p, c); break;
        case CHAT_IN_NAME: chat_parse_in_name(p, c); break;
        case CHAT_IN_OBJECT: chat_parse_object(p, c); break;
        case CHAT_IN_ARGS: chat_parse_args(p, c); break;
        case CHAT_IN_REST: chat_parse_rest(p, c); break;
        case CHAT_AFTER: chat_parse_after(p, c); break;
        case CHAT_AFTER_SPACE:
            if (chat_parse_is_space(c)) break;
            p->state = CHAT_IN_TEXT;
            chat_parse_in_text(p, c);
            break;
    }
}

void chat_parse_init(ChatParse *p, ChatStyle style, bool thinks, bool thinking) {
    *p = (ChatParse){.style = style, .thinks = thinks};
    p->state = thinking                        ? CHAT_IN_THINK
               : thinks || style == CHAT_LLAMA ? CHAT_AT_BEGIN
                                               : CHAT_IN_TEXT;
}

void chat_parse_feed(ChatParse *p, Str text) {
    for (size_t i = 0; i < text.len; i++) {
        if (p->style == CHAT_PLAIN && p->state == CHAT_IN_TEXT) {
            chat_parse_emit(p, CHAT_TEXT, str_slice(text, i, text.len));
            return;
        }
        chat_parse_step(p, text.ptr[i]);
    }
}

void chat_parse_end(ChatParse *p) {
    ChatPartKind kind = p->state == CHAT_IN_THINK ? CHAT_REASONING : CHAT_TEXT;
    /* Behind a call a piece of its closing mark and white space are no text. */
    bool mark = (p->state == CHAT_AFTER && p->style == CHAT_HERMES) ||
                (p->state == CHAT_IN_REST && str_trim(buf_str(&p->held)).len == 0);
    if (!mark) chat_parse_emit(p, kind, buf_str(&p->held));
    buf_clear(&p->held);
    p->state = CHAT_IN_TEXT;
}

void chat_parse_clear(ChatParse *p) {
    buf_clear(&p->out);
    p->n_parts = 0;
}

void chat_parse_free(ChatParse *p) {
    buf_free(&p->held);
    buf_free(&p->out);
    free(p->part);
    *p = (ChatParse){0};
}

Str chat_parse_text(const ChatParse *p, const ChatPart *part) {
    return (Str){p->out.data + part->from, part->len};
}
