/* api_response: OpenAI's Responses API without state: POST /v1/responses and
 * /v1/responses/input_tokens.
 *
 * source: openai-openapi 2.3.0, CreateResponse and ResponseStreamEvent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_answer.h"
#include "server/server_priv.h"

enum { API_RESPONSE_ITEMS_MAX = 4096 };

/* ---- the reply ---- */

/* An item's id: the response's digits and its place, behind the kind's prefix. */
static void api_response_id(const ApiCall *call, const ApiItem *item, Buf *out) {
    static const char *const prefixes[] = {"msg_", "rs_", "fc_"};
    buf_append_format(out, "\"%s%s%02x\"", prefixes[item->kind], call->id + strlen("resp_"),
                      (unsigned)(item - call->choice[0].item));
}

/* {"type":"output_text", ...}, or reasoning's part. */
static void api_response_part(const ApiItem *item, Str text, Buf *out) {
    buf_append_text(out, item->kind == CHAT_REASONING
                             ? "{\"type\":\"reasoning_text\",\"text\":"
                             : "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],"
                               "\"text\":");
    json_write_str(out, text);
    buf_append_byte(out, '}');
}

/* {"type":"message", ...} with its text, or without content at the beginning; so with calls and
 * reasoning. */
static void api_response_item(const ApiCall *call, const ApiItem *item, const char *status,
                              bool whole, Buf *out) {
    static const char *const types[] = {"message\",\"role\":\"assistant", "reasoning",
                                        "function_call"};
    buf_append_format(out, "{\"type\":\"%s\",\"status\":\"%s\",\"id\":", types[item->kind], status);
    api_response_id(call, item, out);
    if (item->kind == CHAT_CALL) {
        buf_append_format(out, ",\"call_id\":\"%s\",\"name\":", item->id);
        json_write_str(out, buf_str(&item->name));
        buf_append_text(out, ",\"arguments\":");
        json_write_str(out, whole ? buf_str(&item->text) : (Str){0});
        buf_append_byte(out, '}');
        return;
    }
    if (item->kind == CHAT_REASONING) buf_append_text(out, ",\"summary\":[]");
    buf_append_text(out, ",\"content\":[");
    if (whole) api_response_part(item, buf_str(&item->text), out);
    buf_append_text(out, "]}");
}

static const char *api_response_status(const ApiCall *call) {
    return call->choice[0].finish == SLUICE_FINISH_LENGTH ? "incomplete" : "completed";
}

static void api_response_usage(const ApiCall *call, Buf *out) {
    buf_append_format(out,
                      "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld,"
                      "\"cache_write_tokens\":0},"
                      "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":%lld}"
                      ",\"total_tokens\":%lld}",
                      (long long)call->n_prompt_tokens, (long long)call->n_cached_tokens,
                      (long long)call->n_output_tokens, (long long)call->n_reasoning_tokens,
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
    for (int32_t i = 0; done && i < call->choice[0].n_items; i++) {
        if (i > 0) buf_append_byte(out, ',');
        api_response_item(call, &call->choice[0].item[i], status, true, out);
    }
    buf_append_format(out,
                      "],\"text\":{\"format\":{\"type\":\"text\"}},\"truncation\":\"disabled\","
                      "\"background\":false,\"previous_response_id\":null,"
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

static void api_response_send_item(ApiCall *call, const ApiItem *item, const char *name,
                                   const char *status, bool whole) {
    Buf frame = api_response_frame(call, name);
    buf_append_format(&frame, ",\"output_index\":%d,\"item\":", (int)(item - call->choice[0].item));
    api_response_item(call, item, status, whole, &frame);
    api_response_send(call, name, &frame);
}

/* The place of a text: events of one part carry it; arguments are no part. */
static void api_response_place(const ApiCall *call, const ApiItem *item, Buf *frame) {
    buf_append_text(frame, ",\"item_id\":");
    api_response_id(call, item, frame);
    buf_append_format(frame, ",\"output_index\":%d", (int)(item - call->choice[0].item));
    if (item->kind != CHAT_CALL) buf_append_text(frame, ",\"content_index\":0");
}

static void api_response_send_part(ApiCall *call, const ApiItem *item, const char *name, Str text) {
    Buf frame = api_response_frame(call, name);
    api_response_place(call, item, &frame);
    buf_append_text(&frame, ",\"part\":");
    api_response_part(item, text, &frame);
    api_response_send(call, name, &frame);
}

/* More of an item's text, or all of it. */
static void api_response_send_text(ApiCall *call, const ApiItem *item, bool whole, Str text) {
    static const char *const kinds[] = {"output_text", "reasoning_text", "function_call_arguments"};
    char name[64];
    snprintf(name, sizeof name, "response.%s.%s", kinds[item->kind], whole ? "done" : "delta");
    Buf frame = api_response_frame(call, name);
    api_response_place(call, item, &frame);
    if (item->kind == CHAT_TEXT) buf_append_text(&frame, ",\"logprobs\":[]");
    buf_append_format(&frame, ",\"%s\":",
                      !whole                    ? "delta"
                      : item->kind == CHAT_CALL ? "arguments"
                                                : "text");
    json_write_str(&frame, text);
    api_response_send(call, name, &frame);
}

static void api_response_begin_item(ApiCall *call, ApiItem *item) {
    item->begun = true;
    api_response_send_item(call, item, "response.output_item.added", "in_progress", false);
    if (item->kind != CHAT_CALL)
        api_response_send_part(call, item, "response.content_part.added", STR_LIT(""));
}

static void api_response_end_item(ApiCall *call, const ApiItem *item) {
    Str text = buf_str(&item->text);
    api_response_send_text(call, item, true, text);
    if (item->kind != CHAT_CALL)
        api_response_send_part(call, item, "response.content_part.done", text);
    api_response_send_item(call, item, "response.output_item.done", api_response_status(call),
                           true);
}

static void api_response_stream(ApiCall *call, ApiChoice *choice) {
    ApiItem *item;
    while ((item = api_answer_untold(choice)) != NULL) {
        if (!item->begun) api_response_begin_item(call, item);
        Str news = api_answer_news(item);
        if (news.len > 0) api_response_send_text(call, item, false, news);
        if (!api_answer_is_over(choice, item)) break;
        api_response_end_item(call, item);
    }
}

static void api_response_end_stream(ApiCall *call) {
    bool whole = strcmp(api_response_status(call), "completed") == 0;
    api_response_send_object(call, whole ? "response.completed" : "response.incomplete", true);
    http_stream_end(call->exchange);
}

static void api_response_event(ApiCall *call, const sluice_event *event) {
    ApiChoice *choice = &call->choice[0];
    api_answer_note(call, choice, event);
    if (!call->params.stream) return;
    if (!choice->started) {
        api_response_send_object(call, "response.created", false);
        api_response_send_object(call, "response.in_progress", false);
    }
    choice->started = true;
    api_response_stream(call, choice);
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

/* The types of what only this API has. */
static Status api_response_types(const json_t *body, ApiFault *fault) {
    static const struct {
        const char *key, *wanted;
        json_type type;
    } rows[] = {{"text", "an object", JSON_OBJECT},
                {"reasoning", "an object", JSON_OBJECT},
                {"include", "a list", JSON_ARRAY},
                {"truncation", "a string", JSON_STRING}};
    int64_t top_logprobs = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const json_t *value = json_object_get(body, rows[i].key);
        if (value != NULL && !json_is_null(value) && json_typeof(value) != rows[i].type)
            return api_params_fault(fault, rows[i].key, "'%s' must be %s", rows[i].key,
                                    rows[i].wanted);
    }
    const json_t *verbosity = json_object_get(json_object_get(body, "text"), "verbosity");
    if (verbosity != NULL && !json_is_null(verbosity) &&
        (!json_is_string(verbosity) || strcmp(json_string_value(verbosity), "medium") != 0))
        return api_params_fault(fault, "text",
                                "'text.verbosity' other than 'medium' is not supported");
    TRY(api_params_int(body, "top_logprobs", 0, API_LOGPROBS_MAX, &top_logprobs, fault));
    if (top_logprobs > 0)
        return api_params_fault(fault, "top_logprobs",
                                "'top_logprobs' is not supported here: use /v1/chat/completions");
    return OK;
}

/* What would change the answer and is not supported. */
static Status api_response_unsupported(const json_t *body, ApiFault *fault) {
    static const char *const keys[] = {"previous_response_id", "conversation", "background",
                                       "prompt", "max_tool_calls"};
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

/* An earlier call: added to the assistant's message before it, or to one of its own. */
static Status api_response_call(const json_t *item, size_t i, json_t *messages, ApiFault *fault) {
    json_t *id = json_object_get(item, "call_id"), *name = json_object_get(item, "name"),
           *arguments = json_object_get(item, "arguments");
    if (!json_is_string(id) || !json_is_string(name) || !json_is_string(arguments))
        return api_params_fault(
            fault, "input", "input[%zu] is a function_call without call_id, name or arguments", i);
    size_t n = json_array_size(messages);
    json_t *last = n > 0 ? json_array_get(messages, n - 1) : NULL;
    const char *role = json_string_value(json_object_get(last, "role"));
    if (role == NULL || strcmp(role, "assistant") != 0) {
        last = json_pack("{s:s,s:s}", "role", "assistant", "content", "");
        json_array_append_new(messages, last);
    }
    json_t *calls = json_object_get(last, "tool_calls");
    if (calls == NULL) {
        calls = json_array();
        json_object_set_new(last, "tool_calls", calls);
    }
    json_array_append_new(calls, json_pack("{s:O,s:s,s:{s:O,s:O}}", "id", id, "type", "function",
                                           "function", "name", name, "arguments", arguments));
    return OK;
}

static Status api_response_result(const json_t *item, size_t i, json_t *messages, ApiFault *fault) {
    json_t *id = json_object_get(item, "call_id"), *text = NULL;
    if (!json_is_string(id))
        return api_params_fault(fault, "input",
                                "input[%zu] is a function_call_output without call_id", i);
    TRY(api_chat_content(json_object_get(item, "output"), "input", i, &text, fault));
    json_array_append_new(
        messages, json_pack("{s:s,s:O,s:o}", "role", "tool", "tool_call_id", id, "content", text));
    return OK;
}

/* One entry of "input": a message, a call, or what a call gave. Reasoning is not needed again. */
static Status api_response_entry(const json_t *item, size_t i, json_t *messages, ApiFault *fault) {
    const json_t *type = json_object_get(item, "type"), *role = json_object_get(item, "role");
    Str kind = type == NULL ? STR_LIT("message") : str_from(json_string_value(type));
    if (str_is(kind, "function_call")) return api_response_call(item, i, messages, fault);
    if (str_is(kind, "function_call_output")) return api_response_result(item, i, messages, fault);
    if (str_is(kind, "reasoning")) return OK;
    if (!str_is(kind, "message") || !json_is_string(role))
        return api_params_fault(fault, "input",
                                "input[%zu] is not a message, a function_call or its output", i);
    json_t *text = NULL;
    TRY(api_chat_content(json_object_get(item, "content"), "input", i, &text, fault));
    json_array_append_new(messages,
                          json_pack("{s:s,s:o}", "role", json_string_value(role), "content", text));
    return OK;
}

/* Tools in the shape of chats: the function's fields go into an object of their own. */
static Status api_response_tools(const json_t *body, json_t *chat, ApiFault *fault) {
    static const char *const kept[] = {"name", "description", "parameters", "strict"};
    json_t *from = json_object_get(body, "tools"), *tool,
           *choice = json_object_get(body, "tool_choice"), *tools = json_array();
    json_object_set_new(chat, "tools", tools);
    if (from != NULL && !json_is_null(from) && !json_is_array(from))
        return api_params_fault(fault, "tools", "'tools' must be a list");
    size_t i;
    json_array_foreach(from, i, tool) {
        json_t *function = json_object(), *as_chat = json_object();
        for (size_t k = 0; k < ARRAY_LEN(kept); k++)
            json_object_set(function, kept[k], json_object_get(tool, kept[k]));
        json_object_set(as_chat, "type", json_object_get(tool, "type"));
        json_object_set_new(as_chat, "function", function);
        json_array_append_new(tools, as_chat);
    }
    if (json_is_object(choice)) {
        json_object_set_new(chat, "tool_choice",
                            json_pack("{s:O?,s:{s:O?}}", "type", json_object_get(choice, "type"),
                                      "function", "name", json_object_get(choice, "name")));
    } else {
        json_object_set(chat, "tool_choice", choice);
    }
    json_object_set(chat, "parallel_tool_calls", json_object_get(body, "parallel_tool_calls"));
    json_t *effort = json_object_get(json_object_get(body, "reasoning"), "effort");
    json_object_set(chat, "reasoning_effort", effort);
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
        return api_params_fault(fault, "input", "'input' must be text or a list of 1 to %d entries",
                                API_RESPONSE_ITEMS_MAX);
    for (size_t i = 0; i < n; i++)
        TRY(api_response_entry(json_array_get(input, i), i, messages, fault));
    return OK;
}

static Status api_response_prompt(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *chat = json_object();
    Status status = api_response_types(body, fault);
    if (status == OK) status = api_response_unsupported(body, fault);
    if (status == OK) status = api_response_chat(body, chat, fault);
    if (status == OK) status = api_response_tools(body, chat, fault);
    if (status == OK) status = api_chat_prompt(call, chat, fault);
    json_decref(chat);
    return status;
}

/* Keeps what the response repeats of the request. */
static Status api_response_asked(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *instructions = json_object_get(body, "instructions"),
           *metadata = json_object_get(body, "metadata"), *tools = json_object_get(body, "tools"),
           *choice = json_object_get(body, "tool_choice"),
           *parallel = json_object_get(body, "parallel_tool_calls");
    json_t *asked = json_pack(
        "{s:O?,s:o,s:o,s:o,s:o}", "instructions", instructions, "metadata",
        json_is_object(metadata) ? json_incref(metadata) : json_object(), "tools",
        json_is_array(tools) ? json_incref(tools) : json_array(), "tool_choice",
        choice != NULL && !json_is_null(choice) ? json_incref(choice) : json_string("auto"),
        "parallel_tool_calls", json_boolean(!json_is_false(parallel)));
    char *text = json_dumps(asked, JSON_COMPACT);
    size_t len = text == NULL ? 0 : strlen(text);
    if (len > 2) call->asked = arena_strndup(&call->arena, text + 1, len - 2); /* without {} */
    free(text);
    json_decref(asked);
    return call->asked != NULL ? OK : err_set(&fault->err, ERR_NOMEM, "no memory for the request");
}

static Status api_response_read(ApiCall *call, const json_t *body, ApiFault *fault) {
    static const char *const elsewhere[] = {
        "n",    "logprobs",        "prompt_logprobs", "max_tokens", "max_completion_tokens",
        "echo", "return_token_ids"};
    int64_t max_tokens = 0;
    TRY(api_read_params(call, body, fault));
    TRY(api_params_elsewhere(body, elsewhere, ARRAY_LEN(elsewhere), fault));
    TRY(api_params_int(body, "max_output_tokens", 1, 1 << 30, &max_tokens, fault));
    call->params.request.max_tokens = (int32_t)max_tokens;
    TRY(api_response_asked(call, body, fault));
    return api_response_prompt(call, body, fault);
}

void api_response_handle(Server *server, HttpExchange *exchange) {
    json_t *body;
    ApiCall *call = api_chat_open(server, exchange, &API_RESPONSE, "resp_", &body);
    if (call == NULL) return;
    call->tools.id_prefix = "call_";
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
