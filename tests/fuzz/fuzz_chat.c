/* fuzz_chat: whatever a model writes, its parts do not depend on where it was cut, nothing is held
 * back beyond the limit, and an answer without calls and reasoning is the text that it was. */
#include "text/chat_parse.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a reader of the parts sees: kinds as bytes that no answer has, and the texts. */
typedef struct Seen {
    Buf text;
    ChatPartKind last;
    size_t n_text;
    bool other;
} Seen;

static void take(ChatParse *parse, Seen *seen) {
    CHECK(parse->held.len <= CHAT_HELD_MAX);
    for (size_t i = 0; i < parse->n_parts; i++) {
        const ChatPart *part = &parse->part[i];
        Str text = chat_parse_text(parse, part);
        if (part->kind == CHAT_CALL || part->kind != seen->last || seen->text.len == 0)
            buf_append_format(&seen->text, "\xff%d", (int)part->kind);
        buf_append_str(&seen->text, text);
        seen->last = part->kind;
        seen->n_text += part->kind == CHAT_TEXT || part->kind == CHAT_REASONING ? text.len : 0;
        seen->other |= part->kind != CHAT_TEXT;
    }
    chat_parse_clear(parse);
}

static void run(const uint8_t *data, Str answer, size_t step, Seen *seen) {
    ChatParse parse;
    chat_parse_init(&parse, (ChatStyle)(data[0] % 5), (data[0] & 8) != 0, (data[0] & 16) != 0);
    for (size_t at = 0; at < answer.len; at += step) {
        chat_parse_feed(&parse, str_slice(answer, at, at + step));
        take(&parse, seen);
    }
    chat_parse_end(&parse);
    take(&parse, seen);
    CHECK(parse.n_calls <= CHAT_CALLS_MAX);
    chat_parse_free(&parse);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) return 0;
    Str answer = {(const char *)data + 2, size - 2};
    Seen whole = {0}, cut = {0};
    run(data, answer, answer.len, &whole);
    run(data, answer, (size_t)data[1] % 7 + 1, &cut);
    CHECK(str_eq(buf_str(&whole.text), buf_str(&cut.text)));
    CHECK(whole.n_text <= answer.len);
    /* The marks of reasoning disappear even where there is none between them. */
    CHECK(whole.other || (data[0] & 24) != 0 || whole.n_text == answer.len);
    buf_free(&whole.text);
    buf_free(&cut.text);
    return 0;
}
