#include "app/chat_repl.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/line_edit.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

typedef struct ChatRepl {
    Session *session;
    LineEdit *edit;
    json_t *messages;        /* the conversation: [{role, content}] */
    const char *dim, *plain; /* terminal codes, or empty */
    bool interactive;
} ChatRepl;

static void chat_repl_note(const ChatRepl *chat, const char *text) {
    printf("%s%s%s\n", chat->dim, text, chat->plain);
}

static void chat_repl_add(ChatRepl *chat, const char *role, Str content) {
    json_t *text = json_stringn(content.ptr, content.len);
    if (text == NULL) {
        chat_repl_note(chat, "(not valid UTF-8: left out)");
        return;
    }
    json_array_append_new(chat->messages, json_pack("{s:s,s:o}", "role", role, "content", text));
}

static bool chat_repl_is_role(const json_t *message, const char *role) {
    const char *text = json_string_value(json_object_get(message, "role"));
    return text != NULL && strcmp(text, role) == 0;
}

/* The system prompt, if there is one, stands first. */
static void chat_repl_set_system(ChatRepl *chat, const char *text) {
    if (chat_repl_is_role(json_array_get(chat->messages, 0), "system"))
        json_array_remove(chat->messages, 0);
    if (text != NULL && text[0] != '\0')
        json_array_insert_new(chat->messages, 0,
                              json_pack("{s:s,s:s}", "role", "system", "content", text));
}

/* ---- answering ---- */

static Status chat_repl_encode(const ChatRepl *chat, const json_t *messages, int32_t **ids,
                               size_t *n, Err *err) {
    json_t *request = json_pack("{s:O}", "messages", messages);
    char *text = request == NULL ? NULL : json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (text == NULL) FAIL(err, ERR_NOMEM, "no memory for the conversation");
    sluice_error failure = {0};
    sluice_status status = sluice_chat_tokenize(chat->session->model, text, ids, n, &failure);
    free(text);
    return status == SLUICE_OK ? OK : session_error(&failure, err);
}

/* Leaves out the oldest message after the system prompt, and the answer that follows it; false
 * when only the newest is left. */
static bool chat_repl_drop_oldest(json_t *messages) {
    size_t first = chat_repl_is_role(json_array_get(messages, 0), "system") ? 1 : 0;
    if (json_array_size(messages) <= first + 1) return false;
    json_array_remove(messages, first);
    if (chat_repl_is_role(json_array_get(messages, first), "assistant"))
        json_array_remove(messages, first);
    return true;
}

/* The prompt's ids. A conversation that outgrows the context loses its oldest exchanges, with a
 * quarter of the context (256 tokens at most) kept for the answer. */
static Status chat_repl_prompt(ChatRepl *chat, int32_t **ids, size_t *n, Err *err) {
    int32_t context = chat->session->info.context;
    size_t room = (size_t)(context - MIN(context / 4, 256));
    json_t *messages = json_copy(chat->messages);
    bool dropped = false;
    Status status = chat_repl_encode(chat, messages, ids, n, err);
    while (status == OK && *n > room && chat_repl_drop_oldest(messages)) {
        sluice_free(*ids);
        *ids = NULL;
        dropped = true;
        status = chat_repl_encode(chat, messages, ids, n, err);
    }
    json_decref(messages);
    if (status == OK && dropped)
        chat_repl_note(chat, "(the conversation outgrew the context: its oldest part is left out)");
    return status;
}

static Status chat_repl_answer(ChatRepl *chat, Err *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    TRY(chat_repl_prompt(chat, &ids, &n, err));
    Buf answer = {0};
    bool interrupted = false;
    Status status = session_answer(chat->session, ids, n, &answer, &interrupted, err);
    sluice_free(ids);
    printf("\n");
    if (interrupted) chat_repl_note(chat, "(stopped)");
    if (status == OK) chat_repl_add(chat, "assistant", buf_str(&answer));
    buf_free(&answer);
    return status;
}

static void chat_repl_say(ChatRepl *chat, Str text) {
    chat_repl_add(chat, "user", text);
    Err err = {0};
    if (chat_repl_answer(chat, &err) == OK) return;
    fprintf(stderr, "%s\n", err.text);
    /* The message that got no answer is taken back. */
    json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
}

/* ---- commands ---- */

static void chat_repl_help(void) {
    printf(
        "  \"\"\"            begin and end a message of several lines\n"
        "  /set NAME X    temperature, top-k, top-p, min-p, repetition-penalty, seed,\n"
        "                 max-tokens, or system (the system prompt; empty: none)\n"
        "  /show          the settings and the model\n"
        "  /save FILE     keep the conversation, as JSON\n"
        "  /load FILE     go on with one that was kept\n"
        "  /clear         forget the conversation\n"
        "  /bye           leave (so does Ctrl-D)\n"
        "Ctrl-C stops an answer, or empties the line.\n");
}

static void chat_repl_show(const ChatRepl *chat) {
    const Session *session = chat->session;
    const sluice_sampling *s = &session->sampling;
    printf("  model               %s (%s, %s)\n", session->info.path, session->info.arch,
           session->info.weight_dtype);
    printf("  context             %d\n  temperature         %g\n  top-k               %d\n",
           session->info.context, (double)s->temperature, s->top_k);
    printf("  top-p               %g\n  min-p               %g\n  repetition-penalty  %g\n",
           (double)s->top_p, (double)s->min_p, (double)s->repetition_penalty);
    printf("  seed                %llu\n  max-tokens          %d\n  messages            %zu\n",
           (unsigned long long)s->seed, session->max_tokens, json_array_size(chat->messages));
}

/* A setting that is a number: its name, range and where it goes. */
static bool chat_repl_set_number(Session *session, Str name, double x) {
    sluice_sampling *s = &session->sampling;
    if (str_is(name, "temperature") && x >= 0 && x <= 100) {
        s->temperature = (float)x;
    } else if (str_is(name, "top-k") && x >= 0 && x <= 1 << 30) {
        s->top_k = (int32_t)x;
    } else if (str_is(name, "top-p") && x > 0 && x <= 1) {
        s->top_p = (float)x;
    } else if (str_is(name, "min-p") && x >= 0 && x <= 1) {
        s->min_p = (float)x;
    } else if (str_is(name, "repetition-penalty") && x > 0 && x <= 100) {
        s->repetition_penalty = (float)x;
    } else if (str_is(name, "max-tokens") && x >= 0 && x <= 1 << 30) {
        session->max_tokens = (int32_t)x;
    } else {
        return false;
    }
    return true;
}

static void chat_repl_set(ChatRepl *chat, Str rest) {
    size_t space = MIN(str_find(rest, STR_LIT(" "), 0), rest.len);
    Str name = str_slice(rest, 0, space), value = str_trim(str_slice(rest, space, rest.len));
    double x;
    int64_t seed;
    if (str_is(name, "system")) {
        char *text = mem_strndup(value.ptr, value.len);
        chat_repl_set_system(chat, text);
        mem_free(text);
    } else if (str_is(name, "seed") && str_to_i64(value, &seed) && seed >= 0) {
        chat->session->sampling.seed = (uint64_t)seed;
    } else if (!str_to_f64(value, &x) || !chat_repl_set_number(chat->session, name, x)) {
        printf("cannot set '%.*s' to '%.*s' (see /help)\n", STR_ARG(name), STR_ARG(value));
    }
}

static void chat_repl_save(ChatRepl *chat, const char *path) {
    Err err = {0};
    FileWriter writer = {0};
    char *text = json_dumps(chat->messages, JSON_INDENT(1));
    Status status = text == NULL ? err_set(&err, ERR_NOMEM, "no memory for the conversation")
                                 : file_writer_open(&writer, path, &err);
    if (status == OK) {
        fprintf(writer.stream, "%s\n", text);
        status = file_writer_commit(&writer, &err);
    }
    free(text);
    if (status == OK) {
        printf("%zu messages saved to %s\n", json_array_size(chat->messages), path);
    } else {
        printf("%s\n", err.text);
    }
}

static bool chat_repl_is_conversation(const json_t *messages) {
    if (!json_is_array(messages)) return false;
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message) {
        if (!json_is_string(json_object_get(message, "role")) ||
            !json_is_string(json_object_get(message, "content")))
            return false;
    }
    return true;
}

static void chat_repl_load(ChatRepl *chat, const char *path) {
    Err err = {0};
    json_t *messages = NULL;
    if (json_parse_file(&messages, path, &err) != OK) {
        printf("%s\n", err.text);
        return;
    }
    if (!chat_repl_is_conversation(messages)) {
        printf("'%s' is not a list of messages with role and content\n", path);
        json_decref(messages);
        return;
    }
    json_decref(chat->messages);
    chat->messages = messages;
    printf("%zu messages loaded from %s\n", json_array_size(messages), path);
}

static void chat_repl_clear(ChatRepl *chat) {
    bool has_system = chat_repl_is_role(json_array_get(chat->messages, 0), "system");
    while (json_array_size(chat->messages) > (has_system ? 1u : 0u))
        json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
}

/* A line that begins with '/'. False: leave. */
static bool chat_repl_command(ChatRepl *chat, Str line) {
    size_t space = MIN(str_find(line, STR_LIT(" "), 0), line.len);
    Str name = str_slice(line, 0, space), rest = str_trim(str_slice(line, space, line.len));
    char *argument = mem_strndup(rest.ptr, rest.len);
    bool stay = true;
    if (str_is(name, "/bye") || str_is(name, "/exit") || str_is(name, "/quit")) {
        stay = false;
    } else if (str_is(name, "/help") || str_is(name, "/?")) {
        chat_repl_help();
    } else if (str_is(name, "/show")) {
        chat_repl_show(chat);
    } else if (str_is(name, "/set")) {
        chat_repl_set(chat, rest);
    } else if (str_is(name, "/clear")) {
        chat_repl_clear(chat);
    } else if (str_is(name, "/save") && rest.len > 0) {
        chat_repl_save(chat, argument);
    } else if (str_is(name, "/load") && rest.len > 0) {
        chat_repl_load(chat, argument);
    } else {
        printf("unknown command '%.*s' (see /help)\n", STR_ARG(line));
    }
    mem_free(argument);
    return stay;
}

/* ---- the loop ---- */

/* Reads a message: one line, or the lines between two """. False at the end of input. */
static bool chat_repl_read(ChatRepl *chat, Buf *message) {
    Buf line = {0};
    buf_clear(message);
    bool more = line_edit_read(chat->edit, ">>> ", &line);
    if (more && str_starts_with(buf_str(&line), "\"\"\"")) {
        Str part = str_slice(buf_str(&line), 3, line.len);
        while (more && !str_ends_with(part, "\"\"\"")) {
            buf_append_str(message, part);
            buf_append_byte(message, '\n');
            more = line_edit_read(chat->edit, "... ", &line);
            part = buf_str(&line);
        }
        if (more) buf_append_str(message, str_slice(part, 0, part.len - 3));
        more = more || message->len > 0;
    } else if (more) {
        buf_append_str(message, buf_str(&line));
    }
    buf_free(&line);
    return more && !message->failed;
}

/* ~/.local/state/sluice/history, made if need be; NULL when there is no home. */
static char *chat_repl_history_path(void) {
    const char *home = getenv("HOME");
    if (home == NULL || home[0] != '/') return NULL;
    static const char *const parts[] = {".local", ".local/state", ".local/state/sluice"};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        char *dir = file_join(home, parts[i]);
        mkdir(dir, 0700);
        mem_free(dir);
    }
    return file_join(home, ".local/state/sluice/history");
}

Status chat_repl(Session *session, const Config *config, Err *err) {
    if (!session->info.has_chat_template)
        FAIL(err, ERR_UNSUPPORTED,
             "'%s' has no chat template, so it cannot chat; give it a text with -p",
             session->info.path);
    bool colour = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    char *history_path = chat_repl_history_path();
    ChatRepl chat = {.session = session,
                     .messages = json_array(),
                     .edit = line_edit_open(history_path),
                     .dim = colour ? "\033[2m" : "",
                     .plain = colour ? "\033[0m" : "",
                     .interactive = isatty(STDIN_FILENO)};
    mem_free(history_path);
    chat_repl_set_system(&chat, config->system);
    const char *name = strrchr(session->info.path, '/');
    printf("%s%s, %s, %.1f M parameters. /help lists the commands.%s\n", chat.dim,
           name != NULL && name[1] != '\0' ? name + 1 : session->info.path,
           session->info.weight_dtype, (double)session->info.n_params / 1e6, chat.plain);
    Buf message = {0};
    bool stay = true;
    while (stay && chat_repl_read(&chat, &message)) {
        Str text = str_trim(buf_str(&message));
        if (text.len == 0) continue;
        line_edit_remember(chat.edit, message.data);
        if (text.ptr[0] == '/') {
            stay = chat_repl_command(&chat, text);
        } else {
            chat_repl_say(&chat, buf_str(&message));
        }
    }
    buf_free(&message);
    json_decref(chat.messages);
    line_edit_close(chat.edit);
    return OK;
}
