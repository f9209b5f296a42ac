/* api_chat: POST /v1/chat/completions. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_error.h"
#include "server/api_openai.h"
#include "server/server_priv.h"

enum { API_MESSAGES_MAX = 4096, API_PARTS_MAX = 8192, API_TOOLS_MAX = 128 };

static Status api_chat_logprobs(ApiCall *call, const json_t *body, ApiFault *fault) {
    int64_t n = 0;
    TRY(api_params_bool(body, "logprobs", &call->params.logprobs, fault));
    TRY(api_params_int(body, "top_logprobs", 0, API_LOGPROBS_MAX, &n, fault));
    if (n > 0 && !call->params.logprobs)
        return api_params_fault(fault, "top_logprobs", "'top_logprobs' wants 'logprobs': true");
    call->params.request.sampling.n_logprobs = call->params.logprobs ? (int32_t)n : -1;
    return OK;
}

/* Content parts become one text, as templates of text models expect. */
static Status api_chat_parts(const json_t *parts, size_t message, json_t **out, ApiFault *fault) {
    Buf text = {0};
    size_t n = json_array_size(parts);
    Status status = OK;
    if (n > API_PARTS_MAX)
        status =
            api_params_fault(fault, "messages", "messages[%zu].content has %zu parts, at most %d",
                             message, n, API_PARTS_MAX);
    for (size_t i = 0; i < n && status == OK; i++) {
        const json_t *part = json_array_get(parts, i), *value = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (type == NULL || strcmp(type, "text") != 0 || !json_is_string(value)) {
            status =
                api_params_fault(fault, "messages",
                                 "messages[%zu].content[%zu] is not of type 'text', the only one "
                                 "supported",
                                 message, i);
        } else {
            buf_append(&text, json_string_value(value), json_string_length(value));
        }
    }
    if (status == OK) *out = json_stringn(text.len > 0 ? text.data : "", text.len);
    buf_free(&text);
    return status;
}

/* A message as templates expect it: role, content as text; the rest as it came. */
static Status api_chat_message(const json_t *from, size_t i, json_t *messages, ApiFault *fault) {
    const json_t *content = json_object_get(from, "content");
    const char *role = json_string_value(json_object_get(from, "role"));
    if (role == NULL) return api_params_fault(fault, "messages", "messages[%zu] has no role", i);
    json_t *message = json_copy((json_t *)(uintptr_t)from);
    json_array_append_new(messages, message);
    if (strcmp(role, "developer") == 0) json_object_set_new(message, "role", json_string("system"));
    if (json_is_string(content)) return OK;
    if (json_is_array(content)) {
        json_t *text = NULL;
        TRY(api_chat_parts(content, i, &text, fault));
        json_object_set_new(message, "content", text);
        return OK;
    }
    if (content != NULL && !json_is_null(content))
        return api_params_fault(fault, "messages",
                                "messages[%zu].content is neither text nor parts", i);
    if (json_object_get(from, "tool_calls") == NULL)
        return api_params_fault(fault, "messages", "messages[%zu] has no content", i);
    return OK;
}

static Status api_chat_messages(const json_t *body, json_t *messages, ApiFault *fault) {
    const json_t *from = json_object_get(body, "messages");
    size_t n = json_array_size(from);
    if (!json_is_array(from) || n == 0 || n > API_MESSAGES_MAX)
        return api_params_fault(fault, "messages", "'messages' must be a list of 1 to %d messages",
                                API_MESSAGES_MAX);
    for (size_t i = 0; i < n; i++)
        TRY(api_chat_message(json_array_get(from, i), i, messages, fault));
    return OK;
}

/* The template's variables: messages, tools, add_generation_prompt, chat_template_kwargs. */
static Status api_chat_variables(const json_t *body, json_t *variables, ApiFault *fault) {
    json_t *messages = json_array();
    json_object_set_new(variables, "messages", messages);
    TRY(api_chat_messages(body, messages, fault));
    json_t *tools = json_object_get(body, "tools"), *value;
    const json_t *choice = json_object_get(body, "tool_choice");
    bool none = json_is_string(choice) && strcmp(json_string_value(choice), "none") == 0;
    if (tools != NULL && !json_is_null(tools)) {
        if (!json_is_array(tools) || json_array_size(tools) > API_TOOLS_MAX)
            return api_params_fault(fault, "tools", "'tools' must be a list of at most %d",
                                    API_TOOLS_MAX);
        if (json_array_size(tools) > 0 && !none) json_object_set(variables, "tools", tools);
    }
    bool generation = true, continued = false;
    TRY(api_params_bool(body, "add_generation_prompt", &generation, fault));
    TRY(api_params_bool(body, "continue_final_message", &continued, fault));
    if (continued)
        return api_params_fault(fault, "continue_final_message",
                                "'continue_final_message' is not supported");
    json_object_set_new(variables, "add_generation_prompt", json_boolean(generation));
    json_t *kwargs = json_object_get(body, "chat_template_kwargs");
    const char *key;
    if (kwargs != NULL && !json_is_null(kwargs) && !json_is_object(kwargs))
        return api_params_fault(fault, "chat_template_kwargs",
                                "'chat_template_kwargs' must be an object");
    json_object_foreach(kwargs, key, value) {
        if (json_object_get(variables, key) != NULL)
            return api_params_fault(fault, "chat_template_kwargs",
                                    "'chat_template_kwargs' may not set '%s'", key);
        json_object_set(variables, key, value);
    }
    return OK;
}

static Status api_chat_prompt(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *variables = json_object();
    Status status = api_chat_variables(body, variables, fault);
    char *text = status == OK ? json_dumps(variables, JSON_COMPACT) : NULL;
    json_decref(variables);
    if (status == OK && text == NULL)
        status = err_set(&fault->err, ERR_NOMEM, "no memory for the messages");
    if (status == OK) {
        sluice_error failure = {0};
        ApiPrompt *prompt = &call->prompt[0];
        if (sluice_chat_tokenize(call->server->model, text, &prompt->ids, &prompt->n, &failure) ==
            SLUICE_OK) {
            call->n_prompts = 1;
        } else {
            status = err_set(&fault->err, (Status)failure.status, "%s", failure.text);
        }
    }
    free(text);
    return status;
}

void api_chat_handle(Server *server, HttpExchange *exchange) {
    if (!server->info.has_chat_template) {
        api_error_reply(exchange, 400, "this model has no chat template: use /v1/completions",
                        NULL);
        return;
    }
    json_t *body = api_body(server, exchange);
    if (body == NULL) return;
    ApiCall *call = api_call_open(server, exchange, &API_OPENAI_CHAT, "chatcmpl-");
    ApiFault fault = {0};
    Status status = api_params_read(&call->params, body, &server->defaults, &call->arena, &fault);
    if (status == OK) status = api_chat_logprobs(call, body, &fault);
    if (status == OK) status = api_chat_prompt(call, body, &fault);
    json_decref(body);
    if (status == OK) {
        api_call_submit(call);
    } else {
        api_reply_fault(exchange, &fault);
        api_call_unref(call);
    }
}
