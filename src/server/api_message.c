/* api_message: Anthropic's Messages API: POST /v1/messages and /v1/messages/count_tokens.
 *
 * source: Anthropic's API reference, "Create a Message" and "Streaming Messages" (2023-06-01). */
#include <string.h>

#include "server/api.h"
#include "server/server_priv.h"

/* ---- the reply ---- */

/* Tokens read from the cache are not part of input_tokens. */
static void api_message_usage(const ApiCall *call, Buf *out) {
    buf_append_format(out,
                      "\"usage\":{\"input_tokens\":%lld,\"cache_creation_input_tokens\":0,"
                      "\"cache_read_input_tokens\":%lld,\"output_tokens\":%lld}",
                      (long long)(call->n_prompt_tokens - call->n_cached_tokens),
                      (long long)call->n_cached_tokens, (long long)call->n_output_tokens);
}

/* "stop_reason": ..., "stop_sequence": ... */
static void api_message_stop(const ApiCall *call, Buf *out) {
    const ApiChoice *choice = &call->choice[0];
    const sluice_request *request = &call->params.request;
    bool stopped = choice->stop_index >= 0 && choice->stop_index < request->n_stop;
    const char *reason = "end_turn";
    if (choice->finish == SLUICE_FINISH_LENGTH) {
        reason = call->n_output_tokens < request->max_tokens ? "model_context_window_exceeded"
                                                             : "max_tokens";
    } else if (stopped) {
        reason = "stop_sequence";
    }
    buf_append_format(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (choice->finish == SLUICE_FINISH_STOP && stopped) {
        json_write_str(out, str_from(request->stop[choice->stop_index]));
    } else {
        buf_append_text(out, "null");
    }
}

/* {"id": ..., up to the content. */
static void api_message_head(const ApiCall *call, Buf *out) {
    buf_append_format(
        out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", call->id);
    json_write_str(out, str_from(call->server->model_name));
}

/* Sends the frame under the name and frees it. */
static void api_message_send(ApiCall *call, const char *name, Buf *frame) {
    api_call_send_named(call, name, buf_str(frame));
    buf_free(frame);
}

/* What the cache gave is known only at the end: until then all of the prompt counts as read. */
static void api_message_begin(ApiCall *call) {
    Buf frame = {0};
    buf_append_text(&frame, "{\"type\":\"message_start\",\"message\":");
    api_message_head(call, &frame);
    buf_append_format(&frame,
                      ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{"
                      "\"input_tokens\":%zu,\"cache_creation_input_tokens\":0,"
                      "\"cache_read_input_tokens\":0,\"output_tokens\":0}}}",
                      call->prompt[0].n);
    api_message_send(call, "message_start", &frame);
    api_call_send_named(call, "content_block_start",
                        STR_LIT("{\"type\":\"content_block_start\",\"index\":0,\"content_block\":"
                                "{\"type\":\"text\",\"text\":\"\"}}"));
}

static void api_message_event(ApiCall *call, const sluice_event *event) {
    ApiChoice *choice = &call->choice[0];
    if (event->finish != SLUICE_FINISH_NONE) {
        choice->finish = event->finish;
        choice->stop_index = event->stop_index;
    }
    if (!call->params.stream) {
        buf_append(&choice->text, event->text, event->text_len);
        return;
    }
    if (!choice->started) api_message_begin(call);
    choice->started = true;
    if (event->text_len == 0) return;
    Buf frame = {0};
    buf_append_text(&frame,
                    "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":"
                    "\"text_delta\",\"text\":");
    json_write_str(&frame, (Str){event->text, event->text_len});
    buf_append_text(&frame, "}}");
    api_message_send(call, "content_block_delta", &frame);
}

static void api_message_end_stream(ApiCall *call) {
    api_call_send_named(call, "content_block_stop",
                        STR_LIT("{\"type\":\"content_block_stop\",\"index\":0}"));
    Buf frame = {0};
    buf_append_text(&frame, "{\"type\":\"message_delta\",\"delta\":{");
    api_message_stop(call, &frame);
    buf_append_text(&frame, "},");
    api_message_usage(call, &frame);
    buf_append_byte(&frame, '}');
    api_message_send(call, "message_delta", &frame);
    api_call_send_named(call, "message_stop", STR_LIT("{\"type\":\"message_stop\"}"));
    http_stream_end(call->exchange);
}

static void api_message_finish(ApiCall *call) {
    if (call->params.stream) {
        api_message_end_stream(call);
        return;
    }
    Buf body = {0};
    api_message_head(call, &body);
    buf_append_text(&body, ",\"content\":[{\"type\":\"text\",\"text\":");
    json_write_str(&body, buf_str(&call->choice[0].text));
    buf_append_text(&body, "}],");
    api_message_stop(call, &body);
    buf_append_byte(&body, ',');
    api_message_usage(call, &body);
    buf_append_byte(&body, '}');
    http_reply(call->exchange, 200, "application/json", &body);
}

static const ApiFormat API_MESSAGE = {api_message_event, api_message_finish};

/* ---- the request ---- */

/* What would change the answer and is not supported; null, empty and "disabled" change nothing. */
static Status api_message_unsupported(const json_t *body, ApiFault *fault) {
    static const char *const keys[] = {"tools", "thinking", "container", "output_config",
                                       "mcp_servers"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const json_t *value = json_object_get(body, keys[i]);
        const char *type = json_string_value(json_object_get(value, "type"));
        bool empty = json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0) ||
                     (json_is_object(value) && json_object_size(value) == 0);
        if (value == NULL || empty || (type != NULL && strcmp(type, "disabled") == 0)) continue;
        return api_params_fault(fault, keys[i], "'%s' is not supported", keys[i]);
    }
    return OK;
}

/* Appends {"role", "content"} to the messages; takes the content. */
static void api_message_append(json_t *messages, const char *role, json_t *content) {
    json_t *message = json_object();
    json_object_set_new(message, "role", json_string(role));
    json_object_set_new(message, "content", content);
    json_array_append_new(messages, message);
}

static Status api_message_one(const json_t *from, size_t i, json_t *messages, ApiFault *fault) {
    const char *role = json_string_value(json_object_get(from, "role"));
    if (role == NULL || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0))
        return api_params_fault(fault, "messages",
                                "messages[%zu].role must be 'user' or 'assistant'", i);
    json_t *text = NULL;
    TRY(api_chat_content(json_object_get(from, "content"), "messages", i, &text, fault));
    api_message_append(messages, role, text);
    return OK;
}

/* The request as a chat: "system" is its first message, and an assistant's message at the end is
 * the beginning of the answer. */
static Status api_message_chat(const json_t *body, json_t *chat, ApiFault *fault) {
    json_t *messages = json_array();
    json_object_set_new(chat, "messages", messages);
    const json_t *system = json_object_get(body, "system");
    if (system != NULL && !json_is_null(system)) {
        json_t *text = NULL;
        TRY(api_chat_content(system, "system", 0, &text, fault));
        api_message_append(messages, "system", text);
    }
    const json_t *from = json_object_get(body, "messages");
    size_t n = json_array_size(from);
    if (!json_is_array(from) || n == 0)
        return api_params_fault(fault, "messages", "'messages' must be a list of messages");
    for (size_t i = 0; i < n; i++)
        TRY(api_message_one(json_array_get(from, i), i, messages, fault));
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    bool begun = strcmp(json_string_value(json_object_get(last, "role")), "assistant") == 0;
    json_object_set_new(chat, "continue_final_message", json_boolean(begun));
    return OK;
}

static Status api_message_prompt(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *chat = json_object();
    Status status = api_message_unsupported(body, fault);
    if (status == OK) status = api_message_chat(body, chat, fault);
    if (status == OK) status = api_chat_prompt(call, chat, fault);
    json_decref(chat);
    return status;
}

static Status api_message_read(ApiCall *call, const json_t *body, ApiFault *fault) {
    sluice_request *request = &call->params.request;
    TRY(api_params_read(&call->params, body, &call->server->defaults, &call->arena, fault));
    request->n = 1;
    request->stop = NULL;
    request->n_stop = 0;
    TRY(api_params_stop(body, "stop_sequences", request, &call->arena, fault));
    if (request->max_tokens == 0)
        return api_params_fault(fault, "max_tokens", "'max_tokens' is missing");
    return api_message_prompt(call, body, fault);
}

void api_message_handle(Server *server, HttpExchange *exchange) {
    json_t *body;
    ApiCall *call = api_chat_open(server, exchange, &API_MESSAGE, "msg_", &body);
    if (call == NULL) return;
    ApiFault fault = {0};
    Status status = api_message_read(call, body, &fault);
    json_decref(body);
    api_go(call, status, &fault);
}

void api_message_count(Server *server, HttpExchange *exchange) {
    json_t *body;
    ApiCall *call = api_chat_open(server, exchange, NULL, "msg_", &body);
    if (call == NULL) return;
    ApiFault fault = {0};
    if (api_message_prompt(call, body, &fault) == OK) {
        api_reply_json(exchange, json_pack("{s:I}", "input_tokens", (json_int_t)call->prompt[0].n));
    } else {
        api_reply_fault(exchange, &fault);
    }
    json_decref(body);
    api_call_unref(call);
}
