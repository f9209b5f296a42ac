/* api_response: OpenAI's Responses API without state: POST /v1/responses and
 * /v1/responses/input_tokens.
 *
 * source: openai-openapi 2.3.0, CreateResponse and ResponseStreamEvent. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/server_priv.h"

enum { API_RESPONSE_ITEMS_MAX = 4096 };

/* ---- the reply ---- */

/* The id of the one message: the response's digits behind "msg_". */
static const char *api_response_digits(const ApiCall *call) {
    return call->id + strlen("resp_");
}

/* {"type":"output_text", ...} */
static void api_response_part(Str text, Buf *out) {
    buf_append_text(out, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":");
    json_write_str(out, text);
    buf_append_byte(out, '}');
}

/* {"type":"message", ...} with its text, or without content at the beginning. */
static void api_response_item(const ApiCall *call, const char *status, bool with_text, Buf *out) {
    buf_append_format(out,
                      "{\"type\":\"message\",\"id\":\"msg_%s\",\"status\":\"%s\",\"role\":"
                      "\"assistant\",\"content\":[",
                      api_response_digits(call), status);
    if (with_text) api_response_part(buf_str(&call->choice[0].text), out);
    buf_append_text(out, "]}");
}

static const char *api_response_status(const ApiCall *call) {
    return call->choice[0].finish == SLUICE_FINISH_LENGTH ? "incomplete" : "completed";
}

static void api_response_usage(const ApiCall *call, Buf *out) {
    buf_append_format(out,
                      "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld},"
                      "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":0},"
                      "\"total_tokens\":%lld}",
                      (long long)call->n_prompt_tokens, (long long)call->n_cached_tokens,
                      (long long)call->n_output_tokens,
                      (long long)(call->n_prompt_tokens + call->n_output_tokens));
}

/* The response object; at its beginning (done false) without output and usage. */
static void api_response_object(const ApiCall *call, bool done, Buf *out) {
    const sluice_request *request = &call->params.request;
    const char *status = done ? api_response_status(call) : "in_progress";
    buf_append_format(
        out,
        "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":"
        "\"%s\",\"error\":null,\"incomplete_details\":%s,\"model\":",
        call->id, (long long)call->created, status,
        strcmp(status, "incomplete") == 0 ? "{\"reason\":\"max_output_tokens\"}" : "null");
    json_write_str(out, str_from(call->server->model_name));
    buf_append_text(out, ",\"output\":[");
    if (done) api_response_item(call, status, true, out);
    buf_append_format(out,
                      "],\"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[],"
                      "\"text\":{\"format\":{\"type\":\"text\"}},\"truncation\":\"disabled\","
                      "\"store\":false,\"background\":false,\"previous_response_id\":null,"
                      "\"reasoning\":{\"effort\":null,\"summary\":null},"
                      "\"temperature\":%g,\"top_p\":%g,\"max_output_tokens\":",
                      (double)request->sampling.temperature, (double)request->sampling.top_p);
    if (request->max_tokens > 0) {
        buf_append_format(out, "%d,", request->max_tokens);
    } else {
        buf_append_text(out, "null,");
    }
    buf_append_text(out, call->asked);
    buf_append_text(out, ",\"usage\":");
    if (done) {
        api_response_usage(call, out);
    } else {
        buf_append_text(out, "null");
    }
    buf_append_byte(out, '}');
}

/* ---- the stream ---- */

/* {"type": name, "sequence_number": n: every event begins so. */
static Buf api_response_frame(const ApiCall *call, const char *name) {
    Buf frame = {0};
    buf_append_format(&frame, "{\"type\":\"%s\",\"sequence_number\":%lld", name,
                      (long long)call->n_sent);
    return frame;
}

/* Ends the frame, sends and frees it. */
static void api_response_send(ApiCall *call, const char *name, Buf *frame) {
    buf_append_byte(frame, '}');
    api_call_send_named(call, name, buf_str(frame));
    buf_free(frame);
}

static void api_response_send_object(ApiCall *call, const char *name, bool done) {
    Buf frame = api_response_frame(call, name);
    buf_append_text(&frame, ",\"response\":");
    api_response_object(call, done, &frame);
    api_response_send(call, name, &frame);
}

static void api_response_send_item(ApiCall *call, const char *name, const char *status,
                                   bool with_text) {
    Buf frame = api_response_frame(call, name);
    buf_append_text(&frame, ",\"output_index\":0,\"item\":");
    api_response_item(call, status, with_text, &frame);
    api_response_send(call, name, &frame);
}

/* The place of the text: events of one part carry it. */
static void api_response_place(const ApiCall *call, Buf *frame) {
    buf_append_format(frame, ",\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0",
                      api_response_digits(call));
}

static void api_response_send_part(ApiCall *call, const char *name, Str text) {
    Buf frame = api_response_frame(call, name);
    api_response_place(call, &frame);
    buf_append_text(&frame, ",\"part\":");
    api_response_part(text, &frame);
    api_response_send(call, name, &frame);
}

/* key: "delta" or "text". */
static void api_response_send_text(ApiCall *call, const char *name, const char *key, Str text) {
    Buf frame = api_response_frame(call, name);
    api_response_place(call, &frame);
    buf_append_format(&frame, ",\"logprobs\":[],\"%s\":", key);
    json_write_str(&frame, text);
    api_response_send(call, name, &frame);
}

static void api_response_begin(ApiCall *call) {
    api_response_send_object(call, "response.created", false);
    api_response_send_object(call, "response.in_progress", false);
    api_response_send_item(call, "response.output_item.added", "in_progress", false);
    api_response_send_part(call, "response.content_part.added", STR_LIT(""));
}

static void api_response_end_stream(ApiCall *call) {
    Str text = buf_str(&call->choice[0].text);
    const char *status = api_response_status(call);
    api_response_send_text(call, "response.output_text.done", "text", text);
    api_response_send_part(call, "response.content_part.done", text);
    api_response_send_item(call, "response.output_item.done", status, true);
    api_response_send_object(
        call, strcmp(status, "completed") == 0 ? "response.completed" : "response.incomplete",
        true);
    http_stream_end(call->exchange);
}

static void api_response_event(ApiCall *call, const sluice_event *event) {
    ApiChoice *choice = &call->choice[0];
    if (event->finish != SLUICE_FINISH_NONE) choice->finish = event->finish;
    buf_append(&choice->text, event->text, event->text_len);
    if (!call->params.stream) return;
    if (!choice->started) api_response_begin(call);
    choice->started = true;
    if (event->text_len > 0)
        api_response_send_text(call, "response.output_text.delta", "delta",
                               (Str){event->text, event->text_len});
}

static void api_response_finish(ApiCall *call) {
    if (call->params.stream) {
        api_response_end_stream(call);
        return;
    }
    Buf body = {0};
    api_response_object(call, true, &body);
    http_reply(call->exchange, 200, "application/json", &body);
}

static const ApiFormat API_RESPONSE = {api_response_event, api_response_finish};

/* ---- the request ---- */

static bool api_response_is_empty(const json_t *value) {
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

/* What would change the answer and is not supported. */
static Status api_response_unsupported(const json_t *body, ApiFault *fault) {
    static const char *const keys[] = {"previous_response_id", "conversation", "background",
                                       "tools", "prompt"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (!api_response_is_empty(json_object_get(body, keys[i])))
            return api_params_fault(fault, keys[i], "'%s' is not supported", keys[i]);
    const json_t *format = json_object_get(json_object_get(body, "text"), "format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!api_response_is_empty(format) && (type == NULL || strcmp(type, "text") != 0))
        return api_params_fault(fault, "text",
                                "'text.format' other than {\"type\": \"text\"} is not supported");
    const json_t *truncation = json_object_get(body, "truncation");
    if (json_is_string(truncation) && strcmp(json_string_value(truncation), "disabled") != 0)
        return api_params_fault(fault, "truncation",
                                "'truncation' other than 'disabled' is not supported");
    const json_t *include = json_object_get(body, "include"), *item;
    size_t i;
    json_array_foreach(include, i, item) {
        if (json_is_string(item) &&
            strcmp(json_string_value(item), "message.output_text.logprobs") == 0)
            return api_params_fault(fault, "include",
                                    "'include' of logprobs is not supported here: use "
                                    "/v1/chat/completions");
    }
    return OK;
}

/* One entry of "input": a message. */
static Status api_response_message(const json_t *item, size_t i, json_t *messages,
                                   ApiFault *fault) {
    const json_t *type = json_object_get(item, "type"), *role = json_object_get(item, "role");
    bool message =
        type == NULL || (json_is_string(type) && strcmp(json_string_value(type), "message") == 0);
    if (!message || !json_is_string(role))
        return api_params_fault(fault, "input",
                                "input[%zu] is not a message, the only kind supported", i);
    json_t *text = NULL;
    TRY(api_chat_content(json_object_get(item, "content"), "input", i, &text, fault));
    json_array_append_new(messages,
                          json_pack("{s:s,s:o}", "role", json_string_value(role), "content", text));
    return OK;
}

/* The request as a chat: "instructions" is its first message. */
static Status api_response_chat(const json_t *body, json_t *chat, ApiFault *fault) {
    json_t *messages = json_array();
    json_object_set_new(chat, "messages", messages);
    json_t *instructions = json_object_get(body, "instructions"),
           *input = json_object_get(body, "input");
    if (json_is_string(instructions)) {
        json_array_append_new(messages,
                              json_pack("{s:s,s:O}", "role", "system", "content", instructions));
    } else if (instructions != NULL && !json_is_null(instructions)) {
        return api_params_fault(fault, "instructions", "'instructions' must be a string");
    }
    if (json_is_string(input)) {
        json_array_append_new(messages, json_pack("{s:s,s:O}", "role", "user", "content", input));
        return OK;
    }
    size_t n = json_array_size(input);
    if (!json_is_array(input) || n == 0 || n > API_RESPONSE_ITEMS_MAX)
        return api_params_fault(fault, "input",
                                "'input' must be text or a list of 1 to %d messages",
                                API_RESPONSE_ITEMS_MAX);
    for (size_t i = 0; i < n; i++)
        TRY(api_response_message(json_array_get(input, i), i, messages, fault));
    return OK;
}

static Status api_response_prompt(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *chat = json_object();
    Status status = api_response_unsupported(body, fault);
    if (status == OK) status = api_response_chat(body, chat, fault);
    if (status == OK) status = api_chat_prompt(call, chat, fault);
    json_decref(chat);
    return status;
}

/* Keeps what the response repeats: "instructions" and "metadata". */
static Status api_response_asked(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *instructions = json_object_get(body, "instructions"),
           *metadata = json_object_get(body, "metadata");
    json_t *asked = json_pack("{s:O?,s:o}", "instructions", instructions, "metadata",
                              json_is_object(metadata) ? json_incref(metadata) : json_object());
    char *text = json_dumps(asked, JSON_COMPACT);
    size_t len = text == NULL ? 0 : strlen(text);
    if (len > 2) call->asked = arena_strndup(&call->arena, text + 1, len - 2); /* without {} */
    free(text);
    json_decref(asked);
    return call->asked != NULL ? OK : err_set(&fault->err, ERR_NOMEM, "no memory for the request");
}

static Status api_response_read(ApiCall *call, const json_t *body, ApiFault *fault) {
    int64_t max_tokens = 0;
    TRY(api_params_read(&call->params, body, &call->server->defaults, &call->arena, fault));
    TRY(api_params_int(body, "max_output_tokens", 1, 1 << 30, &max_tokens, fault));
    call->params.request.max_tokens = (int32_t)max_tokens;
    call->params.request.n = 1;
    TRY(api_response_asked(call, body, fault));
    return api_response_prompt(call, body, fault);
}

void api_response_handle(Server *server, HttpExchange *exchange) {
    json_t *body;
    ApiCall *call = api_chat_open(server, exchange, &API_RESPONSE, "resp_", &body);
    if (call == NULL) return;
    ApiFault fault = {0};
    Status status = api_response_read(call, body, &fault);
    json_decref(body);
    api_go(call, status, &fault);
}

void api_response_count(Server *server, HttpExchange *exchange) {
    json_t *body;
    ApiCall *call = api_chat_open(server, exchange, NULL, "resp_", &body);
    if (call == NULL) return;
    ApiFault fault = {0};
    if (api_response_prompt(call, body, &fault) == OK) {
        api_reply_json(exchange, json_pack("{s:s,s:I}", "object", "response.input_tokens",
                                           "input_tokens", (json_int_t)call->prompt[0].n));
    } else {
        api_reply_fault(exchange, &fault);
    }
    json_decref(body);
    api_call_unref(call);
}
