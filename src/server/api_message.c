/* api_message: Anthropic's Messages API: POST /v1/messages and /v1/messages/count_tokens.
 *
 * source: Anthropic's API reference, "Create a Message" and "Streaming Messages" (2023-06-01). */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_answer.h"
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
    } else if (api_answer_n_calls(choice) > 0) {
        reason = "tool_use";
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

/* A call's arguments as an object. What is none (an answer that broke off) is told as it is, in an
 * object, so that it is not lost. */
static void api_message_input(Str arguments, Buf *out) {
    json_t *input = NULL;
    if (json_parse(&input, arguments, &JSON_LIMITS_REQUEST, "arguments", NULL) == OK &&
        json_is_object(input)) {
        buf_append_str(out, arguments);
    } else if (arguments.len == 0) {
        buf_append_text(out, "{}");
    } else {
        buf_append_text(out, "{\"malformed\":");
        json_write_str(out, arguments);
        buf_append_byte(out, '}');
    }
    json_decref(input);
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
}

/* A content block; at its beginning in a stream without its text. */
static void api_message_block(const ApiItem *item, bool whole, Buf *out) {
    Str text = whole ? buf_str(&item->text) : (Str){0};
    if (item->kind == CHAT_CALL) {
        buf_append_format(out, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", item->id);
        json_write_str(out, buf_str(&item->name));
        buf_append_text(out, ",\"input\":");
        api_message_input(text, out);
    } else if (item->kind == CHAT_REASONING) {
        buf_append_text(out, "{\"type\":\"thinking\",\"signature\":\"\",\"thinking\":");
        json_write_str(out, text);
    } else {
        buf_append_text(out, "{\"type\":\"text\",\"text\":");
        json_write_str(out, text);
    }
    buf_append_byte(out, '}');
}

static void api_message_send_delta(ApiCall *call, const ApiItem *item, Str news) {
    static const char *const deltas[] = {"text_delta\",\"text", "thinking_delta\",\"thinking",
                                         "input_json_delta\",\"partial_json"};
    Buf frame = {0};
    buf_append_format(&frame,
                      "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":"
                      "\"%s\":",
                      call->choice[0].n_told, deltas[item->kind]);
    json_write_str(&frame, news);
    buf_append_text(&frame, "}}");
    api_message_send(call, "content_block_delta", &frame);
}

static void api_message_stream(ApiCall *call, ApiChoice *choice) {
    ApiItem *item;
    while ((item = api_answer_untold(choice)) != NULL) {
        Buf frame = {0};
        int32_t index = choice->n_told;
        if (!item->begun) {
            buf_append_format(
                &frame, "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":", index);
            api_message_block(item, false, &frame);
            buf_append_byte(&frame, '}');
            api_message_send(call, "content_block_start", &frame);
            item->begun = true;
        }
        Str news = api_answer_news(item);
        if (news.len > 0) api_message_send_delta(call, item, news);
        if (!api_answer_is_over(choice, item)) break;
        buf_append_format(&frame, "{\"type\":\"content_block_stop\",\"index\":%d}", index);
        api_message_send(call, "content_block_stop", &frame);
    }
}

static void api_message_event(ApiCall *call, const sluice_event *event) {
    ApiChoice *choice = &call->choice[0];
    api_answer_note(call, choice, event);
    if (!call->params.stream) return;
    if (!choice->started) api_message_begin(call);
    choice->started = true;
    api_message_stream(call, choice);
}

static void api_message_end_stream(ApiCall *call) {
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
    buf_append_text(&body, ",\"content\":[");
    for (int32_t i = 0; i < call->choice[0].n_items; i++) {
        if (i > 0) buf_append_byte(&body, ',');
        api_message_block(&call->choice[0].item[i], true, &body);
    }
    buf_append_text(&body, "],");
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
    static const char *const keys[] = {"thinking", "container", "output_config", "mcp_servers"};
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
static json_t *api_message_append(json_t *messages, const char *role, json_t *content) {
    json_t *message = json_object();
    json_object_set_new(message, "role", json_string(role));
    json_object_set_new(message, "content", content);
    json_array_append_new(messages, message);
    return message;
}

/* A "tool_use" block of an earlier answer as a call. */
static Status api_message_tool_use(const json_t *block, size_t i, json_t *calls, ApiFault *fault) {
    json_t *id = json_object_get(block, "id"), *name = json_object_get(block, "name"),
           *input = json_object_get(block, "input");
    if (!json_is_string(id) || !json_is_string(name) || !json_is_object(input))
        return api_params_fault(fault, "messages",
                                "messages[%zu].content holds a tool_use without id, name or input",
                                i);
    json_array_append_new(calls, json_pack("{s:O,s:s,s:{s:O,s:O}}", "id", id, "type", "function",
                                           "function", "name", name, "arguments", input));
    return OK;
}

/* A "tool_result" block as a message of its own. */
static Status api_message_tool_result(const json_t *block, size_t i, json_t *messages,
                                      ApiFault *fault) {
    json_t *id = json_object_get(block, "tool_use_id"),
           *content = json_object_get(block, "content"), *text = NULL;
    if (!json_is_string(id))
        return api_params_fault(fault, "messages",
                                "messages[%zu].content holds a tool_result without tool_use_id", i);
    if (content == NULL || json_is_null(content)) {
        text = json_string("");
    } else {
        TRY(api_chat_content(content, "messages", i, &text, fault));
    }
    json_object_set(api_message_append(messages, "tool", text), "tool_call_id", id);
    return OK;
}

/* Sorts the blocks of a message: texts stay, calls and reasoning are collected, results become
 * messages before it. */
static Status api_message_blocks(const json_t *content, size_t i, json_t *messages, json_t *texts,
                                 json_t *calls, json_t **reasoning, ApiFault *fault) {
    size_t k;
    json_t *block;
    json_array_foreach(content, k, block) {
        Str type = str_from(json_string_value(json_object_get(block, "type")));
        if (str_is(type, "tool_use")) {
            TRY(api_message_tool_use(block, i, calls, fault));
        } else if (str_is(type, "tool_result")) {
            TRY(api_message_tool_result(block, i, messages, fault));
        } else if (str_is(type, "thinking")) {
            *reasoning = json_object_get(block, "thinking");
        } else if (!str_is(type, "redacted_thinking")) {
            json_array_append(texts, block);
        }
    }
    return OK;
}

static Status api_message_list(const json_t *content, const char *role, size_t i, json_t *messages,
                               json_t *texts, json_t *calls, ApiFault *fault) {
    json_t *reasoning = NULL, *text = NULL;
    size_t before = json_array_size(messages);
    TRY(api_message_blocks(content, i, messages, texts, calls, &reasoning, fault));
    bool empty = json_array_size(texts) == 0;
    if (empty && json_array_size(messages) > before) return OK; /* results only */
    TRY(api_chat_content(texts, "messages", i, &text, fault));
    json_t *message = api_message_append(messages, role, text);
    if (json_array_size(calls) > 0) json_object_set(message, "tool_calls", calls);
    if (json_is_string(reasoning)) json_object_set(message, "reasoning", reasoning);
    return OK;
}

static Status api_message_one(const json_t *from, size_t i, json_t *messages, ApiFault *fault) {
    const char *role = json_string_value(json_object_get(from, "role"));
    const json_t *content = json_object_get(from, "content");
    if (role == NULL || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0))
        return api_params_fault(fault, "messages",
                                "messages[%zu].role must be 'user' or 'assistant'", i);
    json_t *text = NULL;
    if (!json_is_array(content)) {
        TRY(api_chat_content(content, "messages", i, &text, fault));
        api_message_append(messages, role, text);
        return OK;
    }
    json_t *texts = json_array(), *calls = json_array();
    Status status = api_message_list(content, role, i, messages, texts, calls, fault);
    json_decref(texts);
    json_decref(calls);
    return status;
}

/* A tool in the shape of OpenAI's chats. */
static Status api_message_tool(const json_t *from, size_t i, json_t *tools, ApiFault *fault) {
    const char *type = json_string_value(json_object_get(from, "type"));
    json_t *schema = json_object_get(from, "input_schema");
    if ((type != NULL && strcmp(type, "custom") != 0) || !json_is_object(schema))
        return api_params_fault(fault, "tools",
                                "tools[%zu] is not a tool with an input_schema, the only kind "
                                "supported",
                                i);
    json_array_append_new(
        tools, json_pack("{s:s,s:{s:O?,s:O*,s:O,s:O*}}", "type", "function", "function", "name",
                         json_object_get(from, "name"), "description",
                         json_object_get(from, "description"), "parameters", schema, "strict",
                         json_object_get(from, "strict")));
    return OK;
}

static Status api_message_tool_choice(const json_t *choice, json_t *chat, ApiFault *fault) {
    static const char *const words[][2] = {{"auto", "auto"}, {"any", "required"}, {"none", "none"}};
    if (choice == NULL || json_is_null(choice)) return OK;
    const char *type = json_string_value(json_object_get(choice, "type"));
    json_t *value = NULL;
    for (size_t i = 0; i < ARRAY_LEN(words) && type != NULL; i++)
        if (strcmp(type, words[i][0]) == 0) value = json_string(words[i][1]);
    if (type != NULL && strcmp(type, "tool") == 0)
        value = json_pack("{s:s,s:{s:O?}}", "type", "function", "function", "name",
                          json_object_get(choice, "name"));
    if (value == NULL)
        return api_params_fault(fault, "tool_choice",
                                "'tool_choice.type' must be auto, any, tool or none");
    json_object_set_new(chat, "tool_choice", value);
    bool alone = false;
    TRY(api_params_bool(choice, "disable_parallel_tool_use", &alone, fault));
    json_object_set_new(chat, "parallel_tool_calls", json_boolean(!alone));
    return OK;
}

static Status api_message_tools(const json_t *body, json_t *chat, ApiFault *fault) {
    const json_t *from = json_object_get(body, "tools");
    json_t *tools = json_array();
    json_object_set_new(chat, "tools", tools);
    if (from != NULL && !json_is_null(from) && !json_is_array(from))
        return api_params_fault(fault, "tools", "'tools' must be a list");
    for (size_t i = 0; i < json_array_size(from); i++)
        TRY(api_message_tool(json_array_get(from, i), i, tools, fault));
    return api_message_tool_choice(json_object_get(body, "tool_choice"), chat, fault);
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
    const char *thinking =
        json_string_value(json_object_get(json_object_get(body, "thinking"), "type"));
    if (thinking != NULL && strcmp(thinking, "disabled") == 0)
        json_object_set_new(chat, "chat_template_kwargs", json_pack("{s:b}", "enable_thinking", 0));
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const bool is_answer =
        strcmp(json_string_value(json_object_get(last, "role")), "assistant") == 0;
    if (is_answer && json_array_size(messages) == 1)
        return api_params_fault(fault, "messages", "'messages' must begin with one of the user's");
    bool begun = is_answer && json_object_get(last, "tool_calls") == NULL;
    json_object_set_new(chat, "continue_final_message", json_boolean(begun));
    return OK;
}

static Status api_message_prompt(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *chat = json_object();
    Status status = api_message_unsupported(body, fault);
    if (status == OK) status = api_message_chat(body, chat, fault);
    if (status == OK) status = api_message_tools(body, chat, fault);
    if (status == OK) status = api_chat_prompt(call, chat, fault);
    json_decref(chat);
    return status;
}

static Status api_message_read(ApiCall *call, const json_t *body, ApiFault *fault) {
    sluice_request *request = &call->params.request;
    static const char *const elsewhere[] = {
        "n",    "logprobs",         "top_logprobs", "prompt_logprobs", "max_completion_tokens",
        "echo", "return_token_ids", "stop"};
    TRY(api_read_params(call, body, fault));
    TRY(api_params_elsewhere(body, elsewhere, ARRAY_LEN(elsewhere), fault));
    TRY(api_params_stop(body, "stop_sequences", request, &call->arena, fault));
    if (request->max_tokens == 0)
        return api_params_fault(fault, "max_tokens", "'max_tokens' is missing");
    return api_message_prompt(call, body, fault);
}

void api_message_handle(Server *server, HttpExchange *exchange) {
    json_t *body;
    ApiCall *call = api_chat_open(server, exchange, &API_MESSAGE, "msg_", &body);
    if (call == NULL) return;
    call->tools.id_prefix = "toolu_";
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
