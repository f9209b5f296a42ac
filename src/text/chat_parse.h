/* chat_parse: what a model wrote -> answer, reasoning and tool calls, byte by byte.
 *
 * The answer may come cut at any byte: the parts are the same, as far as neighbours of one kind are
 * joined. What is not quite a call stays text, and no byte of it is lost: only the marks around
 * calls and reasoning, and white space beside them, disappear. A call is announced when its name is
 * certain; from then on its arguments pass as they come, so that an answer that breaks off leaves
 * arguments that are not whole.
 *
 * Memory: at most CHAT_HELD_MAX bytes are held back, beside the parts that nobody has taken.
 * source: the model cards and templates of Llama 3.1 to 3.3, Hermes 2 Pro, Qwen 2.5 and 3, Mistral
 * (tokenizer versions 3 to 13), DeepSeek R1. */
#pragma once

#include "base/buf.h"

enum {
    CHAT_HELD_MAX = 64 << 10, /* a call whose fields come in another order is held back whole */
    CHAT_NAME_MAX = 128,
    CHAT_CALLS_MAX = 128,
    CHAT_DEPTH_MAX = 64 /* of a call's JSON */
};

/* How a model writes a call. */
typedef enum ChatStyle {
    CHAT_PLAIN,       /* not at all, or in a way not known here */
    CHAT_LLAMA,       /* {"name": N, "parameters": A}, perhaps behind <|python_tag|> */
    CHAT_HERMES,      /* <tool_call>{"name": N, "arguments": A}</tool_call> */
    CHAT_MISTRAL,     /* [TOOL_CALLS][{"name": N, "arguments": A}, ...] */
    CHAT_MISTRAL_ARGS /* [TOOL_CALLS]N[ARGS]A */
} ChatStyle;

/* The style that a chat template asks for, by its source; and whether it knows <think>. */
ChatStyle chat_parse_style(Str source);
bool chat_parse_thinks(Str source);
/* What an answer begins with that must call the function: appended to out. */
void chat_parse_force(ChatStyle style, Str name, Buf *out);

typedef enum ChatPartKind {
    CHAT_TEXT,
    CHAT_REASONING,
    CHAT_CALL,     /* a call begins; the text is its function's name */
    CHAT_ARGUMENTS /* more of the last call's arguments (JSON) */
} ChatPartKind;

typedef struct ChatPart {
    ChatPartKind kind;
    size_t from, len; /* of the text in `out` */
} ChatPart;

/* The place inside a JSON value. */
typedef struct ChatJson {
    int32_t depth;
    uint64_t is_list; /* a bit for each level */
    bool in_string, escaped, broken;
} ChatJson;

typedef struct ChatParse {
    ChatStyle style;
    bool thinks;     /* <think> at the beginning opens reasoning */
    bool skip_space; /* white space at the beginning of the answer disappears */
    int32_t state, n_calls;
    bool in_list, whole;
    size_t object_at; /* in held */
    ChatJson json;
    Buf held;       /* not known yet what it is */
    Buf out;        /* texts of the parts */
    ChatPart *part; /* that came since chat_parse_clear */
    size_t n_parts, parts_max;
} ChatParse;

/* thinks: reasoning is looked for. thinking: the prompt has opened it already. */
void chat_parse_init(ChatParse *parse, ChatStyle style, bool thinks, bool thinking);
void chat_parse_feed(ChatParse *parse, Str text);
/* No more text comes: what was held back becomes parts. */
void chat_parse_end(ChatParse *parse);
/* Forgets the parts, which were taken. */
void chat_parse_clear(ChatParse *parse);
void chat_parse_free(ChatParse *parse);
/* A part's text, valid until the next call. */
Str chat_parse_text(const ChatParse *parse, const ChatPart *part);
