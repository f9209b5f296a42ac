#include "text/chat.h"

#include "base/file.h"
#include "base/mem.h"

enum { CHAT_TEMPLATE_BYTES_MAX = 1 << 20, CHAT_NAMES = 5 };

/* Variables that templates expect, with the fields of tokenizer_config.json and of GGUF. */
static const char *const CHAT_TOKENS[CHAT_NAMES][2] = {
    {"bos_token", "tokenizer.ggml.bos_token_id"},
    {"eos_token", "tokenizer.ggml.eos_token_id"},
    {"unk_token", "tokenizer.ggml.unknown_token_id"},
    {"pad_token", "tokenizer.ggml.padding_token_id"},
    {"sep_token", "tokenizer.ggml.seperator_token_id"}, /* spelled like that in the format */
};

struct Chat {
    const Tokenizer *tokenizer;
    Buf source;      /* of the default template */
    Jinja *jinja;    /* the default template */
    Jinja *tool_use; /* for requests with tools, or NULL: the default */
    json_t *trusted; /* bos_token and the like */
    Ints special;    /* ids whose text must not come out of a request */
};

/* ---- opening ---- */

/* A token in tokenizer_config.json: its text, or an object that holds it. */
static json_t *chat_config_token(const json_t *config, const char *key) {
    json_t *token = json_object_get(config, key);
    return json_is_object(token) ? json_object_get(token, "content") : token;
}

static Status chat_add_tokens(Chat *chat, const ModelFile *file, Err *err) {
    const json_t *config = model_file_tokenizer_config(file);
    for (int i = 0; i < CHAT_NAMES; i++) {
        const char *name = CHAT_TOKENS[i][0];
        json_t *text = chat_config_token(config, name);
        if (json_is_string(text)) {
            json_object_set(chat->trusted, name, text);
            continue;
        }
        if (model_file_format(file) != MODEL_GGUF) continue;
        int64_t id = -1;
        TRY(model_file_get_int(file, CHAT_TOKENS[i][1], 0, UINT32_MAX, &id, err));
        if (id < 0 || id >= tokenizer_vocab(chat->tokenizer)) continue;
        Str token = tokenizer_text(chat->tokenizer, (int32_t)id);
        json_object_set_new(chat->trusted, name, json_stringn(token.ptr, token.len));
    }
    return OK;
}

static Status chat_add_template(Chat *chat, Str name, Str source, Err *err) {
    if (str_is(name, "tool_use")) return jinja_open(&chat->tool_use, source, err);
    if (!str_is(name, "default")) return OK;
    buf_append_str(&chat->source, source);
    return jinja_open(&chat->jinja, source, err);
}

/* tokenizer_config.json: one template, or a list of named ones. */
static Status chat_open_config(Chat *chat, const json_t *config, Err *err) {
    const json_t *found = json_object_get(config, "chat_template");
    if (json_is_string(found)) {
        Str source = {json_string_value(found), json_string_length(found)};
        return chat_add_template(chat, STR_LIT("default"), source, err);
    }
    for (size_t i = 0; i < json_array_size(found); i++) {
        const json_t *entry = json_array_get(found, i);
        Str name = {0}, source = {0};
        TRY(json_get_str(entry, "name", &name, err));
        TRY(json_get_str(entry, "template", &source, err));
        bool again = (str_is(name, "default") && chat->jinja != NULL) ||
                     (str_is(name, "tool_use") && chat->tool_use != NULL);
        if (again) FAIL(err, ERR_FORMAT, "two chat templates are named '%.*s'", STR_ARG(name));
        TRY(chat_add_template(chat, name, source, err));
    }
    return OK;
}

static Status chat_open_gguf(Chat *chat, const ModelFile *file, Err *err) {
    Str source = {0}, tools = {0};
    TRY(model_file_get_str(file, "tokenizer.chat_template", &source, err));
    TRY(model_file_get_str(file, "tokenizer.chat_template.tool_use", &tools, err));
    if (source.len > 0) TRY(chat_add_template(chat, STR_LIT("default"), source, err));
    if (tools.len > 0) TRY(chat_add_template(chat, STR_LIT("tool_use"), tools, err));
    return OK;
}

static Status chat_find(Chat *chat, const ModelFile *file, Err *err) {
    if (model_file_format(file) == MODEL_GGUF) return chat_open_gguf(chat, file, err);
    const char *dir = model_file_dir(file);
    char *path = dir == NULL ? NULL : file_join(dir, "chat_template.jinja");
    Status status;
    if (path != NULL && file_exists(path)) {
        Buf source = {0};
        status = file_read(&source, path, CHAT_TEMPLATE_BYTES_MAX, err);
        if (status == OK)
            status = chat_add_template(chat, STR_LIT("default"), buf_str(&source), err);
        buf_free(&source);
    } else {
        status = chat_open_config(chat, model_file_tokenizer_config(file), err);
    }
    mem_free(path);
    return status;
}

Status chat_open(Chat **out, const ModelFile *file, const Tokenizer *tokenizer, Err *err) {
    Chat *chat = mem_alloc(sizeof *chat);
    chat->tokenizer = tokenizer;
    chat->trusted = json_object();
    for (int32_t id = 0; id < tokenizer_vocab(tokenizer); id++)
        if (tokenizer_is_special(tokenizer, id)) ints_push(&chat->special, id);
    Status status = chat_find(chat, file, err);
    if (status == OK) status = chat_add_tokens(chat, file, err);
    if (status == OK && chat->jinja == NULL)
        status = err_set(err, ERR_NOT_FOUND, "the model '%s' has no chat template",
                         model_file_path(file));
    if (status != OK) {
        chat_close(chat);
        return status;
    }
    *out = chat;
    return OK;
}

void chat_close(Chat *chat) {
    if (chat == NULL) return;
    if (chat->jinja != NULL) jinja_close(chat->jinja);
    if (chat->tool_use != NULL) jinja_close(chat->tool_use);
    json_decref(chat->trusted);
    buf_free(&chat->source);
    ints_free(&chat->special);
    mem_free(chat);
}

Str chat_source(const Chat *chat) {
    return buf_str(&chat->source);
}

/* ---- rendering ---- */

/* The trusted variables that the request does not set itself. */
static json_t *chat_trusted(const Chat *chat, const json_t *request) {
    json_t *trusted = json_copy(chat->trusted);
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(trusted, next, key, value) {
        if (json_object_get(request, key) != NULL) json_object_del(trusted, key);
    }
    if (json_object_get(request, "add_generation_prompt") == NULL)
        json_object_set_new(trusted, "add_generation_prompt", json_true());
    return trusted;
}

static Status chat_render_marked(const Chat *chat, const json_t *request, int64_t now, Buf *out,
                                 Buf *marks, Err *err) {
    if (!json_is_array(json_object_get(request, "messages")))
        FAIL(err, ERR_ARG, "the chat has no list of messages");
    bool tools = json_array_size(json_object_get(request, "tools")) > 0;
    const Jinja *jinja = tools && chat->tool_use != NULL ? chat->tool_use : chat->jinja;
    json_t *trusted = chat_trusted(chat, request);
    Status status =
        jinja_render_marked(jinja, request, trusted, now, &JINJA_LIMITS_DEFAULT, out, marks, err);
    json_decref(trusted);
    return status;
}

Status chat_render(const Chat *chat, const json_t *request, int64_t now, Buf *out, Err *err) {
    return chat_render_marked(chat, request, now, out, NULL, err);
}

/* ---- to tokens ---- */

/* Marks with 2 the second character of each special token's text that is not all the template's own:
 * cut there, neither part is that token. */
static void chat_mark_cuts(const Chat *chat, Str text, Buf *marks) {
    if (marks->len == 0 || memchr(marks->data, 1, marks->len) == NULL) return;
    for (size_t i = 0; i < chat->special.len; i++) {
        Str special = tokenizer_text(chat->tokenizer, chat->special.data[i]);
        size_t cut = 1; /* bytes of the first character */
        while (cut < special.len && ((uint8_t)special.ptr[cut] & 0xc0) == 0x80) cut++;
        if (cut >= special.len) continue;
        size_t at = str_find(text, special, 0);
        for (; at != SIZE_MAX; at = str_find(text, special, at + 1)) {
            bool foreign = false;
            for (size_t k = at; k < at + special.len; k++) foreign |= marks->data[k] != 0;
            if (foreign) marks->data[at + cut] = 2;
        }
    }
}

Status chat_encode(const Chat *chat, const json_t *request, int64_t now, Ints *out, Err *err) {
    Buf rendered = {0}, marks = {0};
    Status status = chat_render_marked(chat, request, now, &rendered, &marks, err);
    Str text = buf_str(&rendered);
    if (status == OK) chat_mark_cuts(chat, text, &marks);
    EncodeOptions options = {.parse_special = true};
    for (size_t from = 0; status == OK && from < text.len;) {
        const char *cut =
            from + 1 < text.len ? memchr(marks.data + from + 1, 2, text.len - from - 1) : NULL;
        size_t to = cut != NULL ? (size_t)(cut - marks.data) : text.len;
        status = tokenizer_encode(chat->tokenizer, str_slice(text, from, to), options, out, err);
        from = to;
    }
    buf_free(&rendered);
    buf_free(&marks);
    return status;
}
