#include "text/chat.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"

enum { CHAT_TEMPLATE_BYTES_MAX = 4 << 20 };

struct Chat {
    Jinja *main, *tool_use; /* tool_use: for requests with tools, or NULL */
    Buf main_source, tool_source;
    const Tokenizer *tokenizer; /* borrowed; NULL: only chat_render */
    json_t *tokens;             /* bos_token and its kin, by name */
    Str *special;               /* texts of special tokens, borrowed, longest first */
    size_t n_special;
    bool starts_special[256]; /* by first byte */
};

static const char *const CHAT_TOKEN_NAMES[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                               "pad_token", "cls_token", "mask_token"};

/* A token of tokenizer_config.json: its text, or an object that holds it. */
static void chat_add_config_tokens(Chat *chat, const json_t *config) {
    for (size_t i = 0; i < ARRAY_LEN(CHAT_TOKEN_NAMES); i++) {
        json_t *value = json_object_get(config, CHAT_TOKEN_NAMES[i]);
        if (json_is_object(value)) value = json_object_get(value, "content");
        if (json_is_string(value)) json_object_set(chat->tokens, CHAT_TOKEN_NAMES[i], value);
    }
}

static void chat_add_token(Chat *chat, const char *name, int64_t id) {
    if (id < 0 || id >= tokenizer_vocab(chat->tokenizer) ||
        json_object_get(chat->tokens, name) != NULL)
        return;
    Str text = tokenizer_text(chat->tokenizer, (int32_t)id);
    json_t *value = json_stringn(text.ptr, text.len);
    if (value != NULL) json_object_set_new(chat->tokens, name, value);
}

/* The templates of tokenizer_config.json: one, or a list of named ones. */
static void chat_find_in_config(Chat *chat, const json_t *config) {
    json_t *value = json_object_get(config, "chat_template"), *entry;
    if (json_is_string(value)) buf_append_text(&chat->main_source, json_string_value(value));
    size_t i;
    json_array_foreach(value, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        const char *text = json_string_value(json_object_get(entry, "template"));
        if (name == NULL || text == NULL) continue;
        Buf *to = strcmp(name, "default") == 0    ? &chat->main_source
                  : strcmp(name, "tool_use") == 0 ? &chat->tool_source
                                                  : NULL;
        if (to != NULL && to->len == 0) buf_append_text(to, text);
    }
}

static Status chat_find_in_dir(Chat *chat, const ModelFile *file, Err *err) {
    static const char *const names[] = {"chat_template.jinja",
                                        "additional_chat_templates/tool_use.jinja"};
    Buf *const to[] = {&chat->main_source, &chat->tool_source};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = file_join(model_file_dir(file), names[i]);
        Status status = OK;
        if (file_exists(path)) status = file_read(to[i], path, CHAT_TEMPLATE_BYTES_MAX, err);
        mem_free(path);
        TRY(status);
    }
    return OK;
}

static Status chat_find(Chat *chat, const ModelFile *file, Err *err) {
    Str text = {0};
    if (model_file_dir(file) != NULL) TRY(chat_find_in_dir(chat, file, err));
    const json_t *config = model_file_tokenizer_config(file);
    if (config != NULL) {
        chat_add_config_tokens(chat, config);
        if (chat->main_source.len == 0) chat_find_in_config(chat, config);
    }
    if (model_file_format(file) == MODEL_GGUF) {
        TRY(model_file_get_str(file, "tokenizer.chat_template", &text, err));
        buf_append_str(&chat->main_source, text);
        text = (Str){0};
        TRY(model_file_get_str(file, "tokenizer.chat_template.tool_use", &text, err));
        buf_append_str(&chat->tool_source, text);
    }
    if (chat->main_source.failed || chat->tool_source.failed)
        FAIL(err, ERR_NOMEM, "no memory for the chat template of %s", model_file_path(file));
    if (chat->main_source.len == 0)
        FAIL(err, ERR_NOT_FOUND, "the model '%s' has no chat template", model_file_path(file));
    return OK;
}

static int chat_longer_first(const void *a, const void *b) {
    size_t m = ((const Str *)a)->len, n = ((const Str *)b)->len;
    return (m < n) - (m > n);
}

/* The texts that parse_special would turn into special tokens. */
static Status chat_collect_special(Chat *chat, Err *err) {
    int32_t vocab = tokenizer_vocab(chat->tokenizer);
    chat->special = mem_try_alloc((size_t)vocab + 1, sizeof(Str));
    if (chat->special == NULL) FAIL(err, ERR_NOMEM, "no memory for the special tokens");
    for (int32_t id = 0; id < vocab; id++) {
        Str text = tokenizer_text(chat->tokenizer, id);
        if (text.len == 0 || !tokenizer_is_special(chat->tokenizer, id)) continue;
        chat->special[chat->n_special++] = text;
        chat->starts_special[(unsigned char)text.ptr[0]] = true;
    }
    qsort(chat->special, chat->n_special, sizeof(Str), chat_longer_first);
    return OK;
}

static Status chat_add_file_tokens(Chat *chat, const ModelFile *file, Err *err) {
    static const char *const names[][2] = {
        {"unk_token", "tokenizer.ggml.unknown_token_id"},
        {"pad_token", "tokenizer.ggml.padding_token_id"},
        {"sep_token", "tokenizer.ggml.seperator_token_id"}, /* spelled like that in the format */
    };
    for (size_t i = 0; model_file_format(file) == MODEL_GGUF && i < ARRAY_LEN(names); i++) {
        int64_t id = -1;
        TRY(model_file_get_int(file, names[i][1], 0, UINT32_MAX, &id, err));
        chat_add_token(chat, names[i][0], id);
    }
    chat_add_token(chat, "bos_token", tokenizer_bos(chat->tokenizer));
    chat_add_token(chat, "eos_token", tokenizer_eos(chat->tokenizer));
    return OK;
}

Status chat_open(Chat **out, const ModelFile *file, const Tokenizer *tokenizer, Err *err) {
    Chat *chat = mem_alloc(sizeof(*chat));
    chat->tokenizer = tokenizer;
    chat->tokens = json_object();
    CHECK(chat->tokens != NULL);
    Status status = chat_find(chat, file, err);
    if (status == OK) status = jinja_open(&chat->main, buf_str(&chat->main_source), err);
    if (status == OK && chat->tool_source.len > 0)
        status = jinja_open(&chat->tool_use, buf_str(&chat->tool_source), err);
    if (status == OK && tokenizer != NULL) status = chat_collect_special(chat, err);
    if (status == OK && tokenizer != NULL) status = chat_add_file_tokens(chat, file, err);
    if (status != OK) {
        chat_close(chat);
        return status;
    }
    *out = chat;
    return OK;
}

void chat_close(Chat *chat) {
    if (chat == NULL) return;
    jinja_close(chat->main);
    jinja_close(chat->tool_use);
    buf_free(&chat->main_source);
    buf_free(&chat->tool_source);
    json_decref(chat->tokens);
    mem_free(chat->special);
    mem_free(chat);
}

Str chat_source(const Chat *chat, bool with_tools) {
    return buf_str(with_tools && chat->tool_use != NULL ? &chat->tool_source : &chat->main_source);
}

/* What the template gets besides the request: the tokens, and defaults for what the request does
 * not say. Hugging Face passes tools and documents as none where there are none. */
static json_t *chat_trusted(const Chat *chat, const json_t *request) {
    json_t *trusted = json_object(), *value;
    if (trusted == NULL) return NULL;
    const char *name;
    json_object_foreach(chat->tokens, name, value) {
        if (json_object_get(request, name) == NULL) json_object_set(trusted, name, value);
    }
    if (json_object_get(request, "add_generation_prompt") == NULL)
        json_object_set_new(trusted, "add_generation_prompt", json_true());
    if (json_object_get(request, "tools") == NULL)
        json_object_set_new(trusted, "tools", json_null());
    if (json_object_get(request, "documents") == NULL)
        json_object_set_new(trusted, "documents", json_null());
    return trusted;
}

static Status chat_render_marked(const Chat *chat, const json_t *request, int64_t now, Buf *out,
                                 Buf *marks, Err *err) {
    if (!json_is_array(json_object_get(request, "messages")))
        FAIL(err, ERR_ARG, "the chat has no list of messages");
    bool with_tools =
        json_array_size(json_object_get(request, "tools")) > 0 && chat->tool_use != NULL;
    json_t *trusted = chat_trusted(chat, request);
    if (trusted == NULL) FAIL(err, ERR_NOMEM, "no memory for a chat request");
    Status status = jinja_render_marked(with_tools ? chat->tool_use : chat->main, request, trusted,
                                        now, NULL, out, marks, err);
    json_decref(trusted);
    return status;
}

Status chat_render(const Chat *chat, const json_t *request, int64_t now, Buf *out, Err *err) {
    return chat_render_marked(chat, request, now, out, NULL, err);
}

/* The longest special token's text at the beginning of rest; 0: none. */
static size_t chat_special_at(const Chat *chat, Str rest) {
    if (!chat->starts_special[(unsigned char)rest.ptr[0]]) return 0;
    for (size_t i = 0; i < chat->n_special; i++) {
        Str s = chat->special[i];
        if (s.len <= rest.len && memcmp(s.ptr, rest.ptr, s.len) == 0) return s.len;
    }
    return 0;
}

/* A part of a chat. SentencePiece puts a blank before a text's beginning: a part in the middle is
 * encoded behind a newline, whose tokens are taken off again. */
static Status chat_encode_part(const Chat *chat, Str part, bool special, bool first, Ints *out,
                               Err *err) {
    EncodeOptions options = {.parse_special = special};
    if (part.len == 0) return OK;
    if (first || strcmp(tokenizer_kind(chat->tokenizer), "bpe") == 0)
        return tokenizer_encode(chat->tokenizer, part, options, out, err);
    Ints line = {0}, both = {0};
    Buf text = {0};
    buf_append_byte(&text, '\n');
    buf_append_str(&text, part);
    Status status = text.failed ? err_set(err, ERR_NOMEM, "no memory to encode a chat") : OK;
    if (status == OK)
        status = tokenizer_encode(chat->tokenizer, STR_LIT("\n"), options, &line, err);
    if (status == OK)
        status = tokenizer_encode(chat->tokenizer, buf_str(&text), options, &both, err);
    if (status == OK) {
        bool behind = both.len >= line.len &&
                      memcmp(both.data, line.data, line.len * sizeof(*line.data)) == 0;
        if (behind) {
            ints_append(out, both.data + line.len, both.len - line.len);
        } else {
            status = tokenizer_encode(chat->tokenizer, part, options, out, err);
        }
    }
    buf_free(&text);
    ints_free(&line);
    ints_free(&both);
    return status;
}

/* A template may put a role between the marks of a special token: "<|" + role + "|>". No other text
 * of a request may become a part of one. */
static bool chat_is_role(Str s) {
    static const char *const roles[] = {"system",      "user",          "assistant",
                                        "developer",   "tool",          "model",
                                        "observation", "tool_response", "function"};
    for (size_t i = 0; i < ARRAY_LEN(roles); i++)
        if (str_is(s, roles[i])) return true;
    return false;
}

/* Whether the special token's text at [from, to) is the template's own. */
static bool chat_is_own(Str text, const char *mark, size_t from, size_t to) {
    if (mark[from] != 0 || mark[to - 1] != 0) return false;
    while (mark[from] == 0 && from < to) from++;
    while (to > from && mark[to - 1] == 0) to--;
    return from == to || chat_is_role(str_slice(text, from, to));
}

/* The end of what has to be text, from a special token's text at [from, to) that is not the
 * template's own: a token of the template's own may begin inside. */
static size_t chat_text_end(const Chat *chat, Str text, const char *mark, size_t from, size_t to) {
    for (size_t i = from + 1; i < to; i++) {
        size_t len = chat_special_at(chat, str_slice(text, i, text.len));
        if (len > 0 && chat_is_own(text, mark, i, i + len)) return i;
    }
    return to;
}

static size_t chat_count_special(const Chat *chat, const Ints *ids) {
    size_t n = 0;
    for (size_t i = 0; i < ids->len; i++) n += tokenizer_is_special(chat->tokenizer, ids->data[i]);
    return n;
}

/* A part whose own special tokens are known by their places, n (from, to) in own: all between them
 * is text, whatever a normalizer would make of it. */
static Status chat_encode_strict(const Chat *chat, Str part, const Ints *own, bool first, Ints *out,
                                 Err *err) {
    size_t from = 0;
    for (size_t i = 0; i < own->len; i += 2) {
        size_t at = (size_t)own->data[i], to = (size_t)own->data[i + 1];
        TRY(chat_encode_part(chat, str_slice(part, from, at), false, first && from == 0, out, err));
        TRY(chat_encode_part(chat, str_slice(part, at, to), true, first && at == 0, out, err));
        from = to;
    }
    return chat_encode_part(chat, str_slice(part, from, part.len), false, first && from == 0, out,
                            err);
}

/* A part without special tokens' texts but the template's own, whose places are in own. Some
 * tokenizers find special tokens in normalized text, where full-width letters have become plain
 * ones: when more of them come out than the template wrote, the part is cut. */
static Status chat_encode_own(const Chat *chat, Str part, const Ints *own, bool first, Ints *out,
                              Err *err) {
    Ints ids = {0}, plain = {0};
    Status status = chat_encode_part(chat, part, true, first, &ids, err);
    bool found = chat_count_special(chat, &ids) > own->len / 2;
    if (status == OK && found) {
        /* Unknown characters may be special tokens as well. */
        status = chat_encode_part(chat, part, false, first, &plain, err);
        found = chat_count_special(chat, &ids) > own->len / 2 + chat_count_special(chat, &plain);
    }
    if (status == OK && found)
        status = chat_encode_strict(chat, part, own, first, out, err);
    else if (status == OK)
        ints_append(out, ids.data, ids.len);
    ints_free(&ids);
    ints_free(&plain);
    return status;
}

/* The chat is only cut around special tokens' texts that are not the template's own, because a cut
 * changes how the text around it merges into tokens. */
static Status chat_encode_text(const Chat *chat, Str text, const char *mark, Ints *out, Err *err) {
    size_t from = 0, i = 0;
    Ints own = {0}; /* places relative to from */
    Status status = OK;
    while (i < text.len && status == OK) {
        size_t len = chat_special_at(chat, str_slice(text, i, text.len)), to = i + len;
        if (len > 0 && chat_is_own(text, mark, i, to)) {
            ints_push(&own, (int32_t)(i - from));
            ints_push(&own, (int32_t)(to - from));
            i = to;
        } else if (len > 0) {
            to = chat_text_end(chat, text, mark, i, to);
            status = chat_encode_own(chat, str_slice(text, from, i), &own, from == 0, out, err);
            if (status == OK)
                status = chat_encode_part(chat, str_slice(text, i, to), false, i == 0, out, err);
            ints_clear(&own);
            from = i = to;
        } else {
            i++;
        }
    }
    if (status == OK)
        status = chat_encode_own(chat, str_slice(text, from, text.len), &own, from == 0, out, err);
    if (status == OK && own.failed) status = err_set(err, ERR_NOMEM, "no memory to encode a chat");
    ints_free(&own);
    return status;
}

Status chat_encode(const Chat *chat, const json_t *request, int64_t now, Ints *out, Err *err) {
    CHECK(chat->tokenizer != NULL);
    Buf text = {0}, marks = {0};
    Status status = chat_render_marked(chat, request, now, &text, &marks, err);
    if (status == OK) status = chat_encode_text(chat, buf_str(&text), marks.data, out, err);
    if (status == OK && out->failed) status = err_set(err, ERR_NOMEM, "no memory to encode a chat");
    buf_free(&text);
    buf_free(&marks);
    return status;
}
