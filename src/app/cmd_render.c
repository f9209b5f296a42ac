/* render: a conversation through a chat template. */
#include <stdio.h>
#include <time.h>

#include "app/cmd.h"
#include "base/file.h"
#include "base/mem.h"
#include "text/chat.h"

enum { RENDER_INPUT_BYTES_MAX = 64 << 20, RENDER_TEMPLATE_BYTES_MAX = 4 << 20 };

static Status render_read_stdin(Buf *buf, Err *err) {
    char piece[65536];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0) buf_append(buf, piece, n);
    if (ferror(stdin) || buf->failed) FAIL(err, ERR_IO, "cannot read standard input");
    return OK;
}

static Status render_messages(const char *path, json_t **out, Err *err) {
    if (path == NULL || path[0] == '\0')
        FAIL(err, ERR_ARG, "--messages FILE.json is needed: an object with messages");
    bool is_stdin = strcmp(path, "-") == 0;
    Buf text = {.bytes_max = RENDER_INPUT_BYTES_MAX};
    Status status = is_stdin ? render_read_stdin(&text, err)
                             : file_read(&text, path, RENDER_INPUT_BYTES_MAX, err);
    if (status == OK)
        status = json_parse(out, buf_str(&text), &JSON_LIMITS_FILE,
                            is_stdin ? "standard input" : path, err);
    buf_free(&text);
    TRY(status);
    if (json_is_object(*out)) return OK;
    json_decref(*out);
    FAIL(err, ERR_FORMAT, "%s holds no JSON object", path);
}

/* "now" of the file fixes the clock: seconds since 1970, or a time as ISO 8601 writes it. */
static Status render_now(json_t *request, int64_t *out, Err *err) {
    const json_t *now = json_object_get(request, "now");
    *out = (int64_t)time(NULL);
    if (now == NULL) return OK;
    if (json_is_number(now)) {
        *out = (int64_t)json_number_value(now);
        return OK;
    }
    struct tm tm = {0};
    const char *text = json_string_value(now);
    const char *end = text != NULL ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    if (text != NULL && end == NULL) end = strptime(text, "%Y-%m-%d %H:%M:%S", &tm);
    if (text != NULL && end == NULL) end = strptime(text, "%Y-%m-%d", &tm);
    if (end == NULL)
        FAIL(err, ERR_FORMAT, "\"now\" is neither seconds nor a time like 2026-01-15T12:30:00");
    *out = (int64_t)timegm(&tm);
    return OK;
}

static Status render_template(const char *path, json_t *request, int64_t now, Buf *out, Err *err) {
    Buf source = {0};
    Jinja *jinja = NULL;
    Status status = file_read(&source, path, RENDER_TEMPLATE_BYTES_MAX, err);
    if (status == OK) status = jinja_open(&jinja, buf_str(&source), err);
    if (status == OK && json_object_get(request, "add_generation_prompt") == NULL)
        json_object_set_new(request, "add_generation_prompt", json_true());
    if (status == OK) status = jinja_render(jinja, request, now, NULL, out, err);
    jinja_close(jinja);
    buf_free(&source);
    return status;
}

static Status render_model(const char *path, const json_t *request, int64_t now, Buf *out,
                           Err *err) {
    ModelFile *file = NULL;
    Tokenizer *tokenizer = NULL;
    Chat *chat = NULL;
    Err ignored = {0};
    TRY(model_file_open_metadata(&file, path, err));
    /* only bos_token and eos_token come from it; a model without one still has a template */
    if (tokenizer_open_model(&tokenizer, file, &ignored) != OK) tokenizer = NULL;
    Status status = chat_open(&chat, file, tokenizer, err);
    if (status == OK) status = chat_render(chat, request, now, out, err);
    chat_close(chat);
    tokenizer_close(tokenizer);
    model_file_close(file);
    return status;
}

static bool render_is_template(const char *path) {
    Str s = str_from(path);
    return str_ends_with(s, ".jinja") || str_ends_with(s, ".jinja2") || str_ends_with(s, ".j2") ||
           str_ends_with(s, ".txt");
}

Status cmd_render(const Config *config, Err *err) {
    char *path = NULL;
    json_t *request = NULL;
    Buf out = {0};
    int64_t now;
    TRY(cmd_model_path(config, &path, err));
    Status status = render_messages(config->messages, &request, err);
    if (status == OK) status = render_now(request, &now, err);
    if (status == OK)
        status = render_is_template(path) ? render_template(path, request, now, &out, err)
                                          : render_model(path, request, now, &out, err);
    if (status == OK) fwrite(out.data != NULL ? out.data : "", 1, out.len, stdout);
    buf_free(&out);
    if (request != NULL) json_decref(request);
    mem_free(path);
    return status;
}
