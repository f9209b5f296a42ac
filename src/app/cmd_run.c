/* cmd_run: continues a text, or opens a chat. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/chat_repl.h"
#include "app/cmd.h"
#include "app/session.h"
#include "app/text_input.h"
#include "base/json.h"
#include "base/mem.h"

/* The one message of --chat, with --system before it, as the request of a chat template. */
static char *cmd_run_chat_request(const Config *config, Str text) {
    json_t *messages = json_array();
    if (config->system != NULL)
        json_array_append_new(messages,
                              json_pack("{s:s,s:s}", "role", "system", "content", config->system));
    json_t *content = json_stringn(text.ptr, text.len);
    if (content != NULL)
        json_array_append_new(messages, json_pack("{s:s,s:o}", "role", "user", "content", content));
    json_t *request = json_pack("{s:o}", "messages", messages);
    char *dump = content == NULL ? NULL : json_dumps(request, JSON_COMPACT);
    json_decref(request);
    return dump;
}

static Status cmd_run_encode(const Config *config, Session *session, Str text, Ints *ids,
                             Err *err) {
    sluice_error failure = {0};
    if (config->chat) {
        char *request = cmd_run_chat_request(config, text);
        if (request == NULL) FAIL(err, ERR_ARG, "the text is not valid UTF-8");
        int32_t *chat_ids = NULL;
        size_t n = 0;
        sluice_status status =
            sluice_chat_tokenize(session->model, request, &chat_ids, &n, &failure);
        free(request);
        if (status != SLUICE_OK) return session_error(&failure, err);
        ints_append(ids, chat_ids, n);
        sluice_free(chat_ids);
        return OK;
    }
    size_t n = 0;
    (void)sluice_tokenize(session->model, text.ptr, text.len, true, config->special, NULL, 0, &n,
                          NULL);
    int32_t *room = mem_try_alloc(n + 1, sizeof *room);
    if (room == NULL) FAIL(err, ERR_NOMEM, "no memory for %zu tokens", n);
    sluice_status status = sluice_tokenize(session->model, text.ptr, text.len, true,
                                           config->special, room, n, &n, &failure);
    if (status == SLUICE_OK) ints_append(ids, room, n);
    mem_free(room);
    return status == SLUICE_OK ? OK : session_error(&failure, err);
}

static Status cmd_run_once(const Config *config, Session *session, Str text, Err *err) {
    Ints ids = {0};
    bool interrupted;
    Status status = cmd_run_encode(config, session, text, &ids, err);
    if (status == OK) status = session_answer(session, ids.data, ids.len, NULL, &interrupted, err);
    if (status == OK && isatty(STDOUT_FILENO)) fputc('\n', stdout);
    ints_free(&ids);
    return status;
}

Status cmd_run(const Config *config, Err *err) {
    char *path;
    TRY(cmd_model_path(config, &path, err));
    if (config->dry_run) {
        sluice_model_options model_options;
        sluice_engine_options engine_options;
        session_options(config, &model_options, &engine_options);
        Status dry = session_dry_run(path, &model_options, &engine_options, err);
        mem_free(path);
        return dry;
    }
    bool chat = config->prompt == NULL && config->file == NULL && isatty(STDIN_FILENO);
    Buf text = {0};
    Session session = {.signal_fd = -1};
    Status status = OK;
    if (!chat) status = text_input_read(config->prompt, config->file, &text, err);
    if (status == OK) status = session_open(&session, config, path, err);
    if (status == OK)
        status = chat ? chat_repl(&session, config, err)
                      : cmd_run_once(config, &session, buf_str(&text), err);
    session_close(&session);
    buf_free(&text);
    mem_free(path);
    return status;
}
