/* api_chat: POST /v1/chat/completions. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_error.h"
#include "server/api_openai.h"
#include "server/api_tools.h"
#include "server/server_priv.h"

enum { API_THINK_TOKENS = 16 };

static Status api_chat_logprobs(ApiCall *call, const json_t *body, ApiFault *fault) {
    int64_t n = 0;
    TRY(api_params_bool(body, "logprobs", &call->params.logprobs, fault));
    TRY(api_params_int(body, "top_logprobs", 0, API_LOGPROBS_MAX, &n, fault));
    if (n > 0 && !call->params.logprobs)
        return api_params_fault(fault, "top_logprobs", "'top_logprobs' wants 'logprobs': true");
    call->params.request.sampling.n_logprobs = call->params.logprobs ? (int32_t)n : -1;
    call->params.tell_prompt = call->params.request.prompt_logprobs >= 0;
    /* What the two would do to a chat is done by its template. */
    static const char *const keys[] = {"echo", "add_special_tokens"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (json_is_true(json_object_get(body, keys[i])))
            return api_params_fault(fault, keys[i], "'%s' is not supported in chats", keys[i]);
    return OK;
}

/* Content parts become one text, as templates of text models expect. */
static Status api_chat_parts(const json_t *parts, const char *param, size_t message, json_t **out,
                             ApiFault *fault) {
    static const char *const types[] = {"text", "input_text", "output_text"};
    Buf text = {0};
    size_t n = json_array_size(parts);
    Status status = OK;
    for (size_t i = 0; i < n && status == OK; i++) {
        const json_t *part = json_array_get(parts, i), *value = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        bool known = false;
        for (size_t k = 0; k < ARRAY_LEN(types) && type != NULL; k++)
            known |= strcmp(type, types[k]) == 0;
        if (!known || !json_is_string(value)) {
            status = api_params_fault(fault, param,
                                      "%s[%zu].content[%zu] is not of type 'text', the only one "
                                      "supported",
                                      param, message, i);
        } else {
            buf_append(&text, json_string_value(value), json_string_length(value));
        }
    }
    if (status == OK) *out = json_stringn(text.len > 0 ? text.data : "", text.len);
    buf_free(&text);
    return status;
}

Status api_chat_content(const json_t *content, const char *param, size_t message, json_t **out,
                        ApiFault *fault) {
    if (json_is_array(content)) return api_chat_parts(content, param, message, out, fault);
    if (!json_is_string(content))
        return api_params_fault(fault, param, "%s[%zu].content is neither text nor parts", param,
                                message);
    *out = json_incref((json_t *)(uintptr_t)content);
    return OK;
}

/* Reasoning of an earlier answer has two names. */
static void api_chat_reasoning(json_t *message) {
    static const char *const keys[] = {"reasoning", "reasoning_content"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        json_t *text = json_object_get(message, keys[i]);
        if (json_is_string(text) && json_object_get(message, keys[1 - i]) == NULL)
            json_object_set(message, keys[1 - i], text);
    }
}

/* A message as templates expect it: role, content as text, arguments of calls as objects; the rest
 * as it came. */
static Status api_chat_message(const json_t *from, size_t i, json_t *messages, ApiFault *fault) {
    const json_t *content = json_object_get(from, "content");
    const char *role = json_string_value(json_object_get(from, "role"));
    const json_t *name = json_object_get(from, "name");
    if (role == NULL) return api_params_fault(fault, "messages", "messages[%zu] has no role", i);
    if (name != NULL && !json_is_null(name) && !json_is_string(name))
        return api_params_fault(fault, "messages", "messages[%zu].name must be a string", i);
    json_t *message = json_copy((json_t *)(uintptr_t)from);
    json_array_append_new(messages, message);
    if (strcmp(role, "developer") == 0) json_object_set_new(message, "role", json_string("system"));
    api_chat_reasoning(message);
    TRY(api_tools_message(message, i, fault));
    if (content == NULL || json_is_null(content)) {
        if (json_object_get(message, "tool_calls") != NULL) return OK;
        return api_params_fault(fault, "messages", "messages[%zu] has no content", i);
    }
    json_t *text = NULL;
    TRY(api_chat_content(content, "messages", i, &text, fault));
    json_object_set_new(message, "content", text);
    return OK;
}

static Status api_chat_messages(const json_t *body, json_t *messages, ApiFault *fault) {
    const json_t *from = json_object_get(body, "messages");
    size_t n = json_array_size(from);
    if (!json_is_array(from) || n == 0)
        return api_params_fault(fault, "messages", "'messages' must be a list of messages");
    for (size_t i = 0; i < n; i++)
        TRY(api_chat_message(json_array_get(from, i), i, messages, fault));
    return OK;
}

/* With "continue_final_message" the last message is the beginning of the answer: it leaves the
 * list, and its text follows the prompt that begins an answer. */
static Status api_chat_continue(const json_t *body, json_t *variables, json_t **tail,
                                ApiFault *fault) {
    const char *key = "continue_final_message";
    bool generation = true, continued = false;
    TRY(api_params_bool(body, "add_generation_prompt", &generation, fault));
    TRY(api_params_bool(body, key, &continued, fault));
    json_object_set_new(variables, "add_generation_prompt", json_boolean(generation || continued));
    if (!continued) return OK;
    json_t *messages = json_object_get(variables, "messages");
    size_t last = json_array_size(messages) - 1;
    const json_t *message = json_array_get(messages, last);
    const char *role = json_string_value(json_object_get(message, "role"));
    json_t *content = json_object_get(message, "content");
    if (last == 0 || strcmp(role, "assistant") != 0 || !json_is_string(content))
        return api_params_fault(fault, key,
                                "'%s' wants an assistant's message with text at the end", key);
    *tail = json_incref(content);
    json_array_remove(messages, last);
    return OK;
}

/* What the template is given beside messages and tools: "chat_template_kwargs", and the effort of
 * reasoning under the names that templates use. */
static Status api_chat_kwargs(const json_t *body, json_t *variables, ApiFault *fault) {
    static const char *const efforts[] = {"none", "minimal", "low", "medium",
                                          "high", "xhigh",   "max"};
    json_t *kwargs = json_object_get(body, "chat_template_kwargs"), *value;
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
    json_t *effort = json_object_get(body, "reasoning_effort");
    if (effort == NULL || json_is_null(effort)) return OK;
    bool known = false;
    for (size_t i = 0; i < ARRAY_LEN(efforts) && json_is_string(effort); i++)
        known |= strcmp(json_string_value(effort), efforts[i]) == 0;
    if (!known)
        return api_params_fault(fault, "reasoning_effort",
                                "'reasoning_effort' must be none, minimal, low, medium, high, "
                                "xhigh or max");
    json_object_set(variables, "reasoning_effort", effort);
    if (strcmp(json_string_value(effort), efforts[0]) == 0 &&
        json_object_get(variables, "enable_thinking") == NULL)
        json_object_set_new(variables, "enable_thinking", json_false());
    return OK;
}

/* The template's variables: messages, tools, add_generation_prompt, chat_template_kwargs. *tail:
 * the text that the answer begins with, or NULL. */
static Status api_chat_variables(ApiCall *call, const json_t *body, json_t *variables,
                                 json_t **tail, ApiFault *fault) {
    json_t *messages = json_array();
    bool told = true;
    json_object_set_new(variables, "messages", messages);
    TRY(api_chat_messages(body, messages, fault));
    TRY(api_tools_read(call, body, variables, fault));
    TRY(api_chat_continue(body, variables, tail, fault));
    if (*tail != NULL && call->tools.forced.len > 0)
        return api_params_fault(fault, "tool_choice",
                                "'tool_choice' cannot demand a call in an answer that is begun");
    TRY(api_params_bool(body, "include_reasoning", &told, fault));
    call->tools.hide_reasoning = !told;
    return api_chat_kwargs(body, variables, fault);
}

/* Appends the tokens of a text to the prompt. own: the server's own text, not the client's. */
static Status api_chat_append(ApiCall *call, Str text, bool own, ApiFault *fault) {
    ApiPrompt *prompt = &call->prompt[0];
    int32_t *ids = NULL;
    size_t n = 0;
    TRY(api_encode(call->server, text, false, own, &ids, &n, &fault->err));
    int32_t *grown = realloc(prompt->ids, (prompt->n + n + 1) * sizeof *grown);
    if (grown != NULL) {
        prompt->ids = grown;
        memcpy(grown + prompt->n, ids, n * sizeof *ids);
        prompt->n += n;
    }
    sluice_free(ids);
    return grown != NULL ? OK : err_set(&fault->err, ERR_NOMEM, "no memory for the messages");
}

/* Whether the prompt ends where reasoning begins. */
static bool api_chat_is_thinking(const ApiCall *call) {
    const ApiPrompt *prompt = &call->prompt[0];
    size_t n = MIN(prompt->n, (size_t)API_THINK_TOKENS), len = 0;
    char *text = NULL;
    if (!call->tools.thinks || sluice_detokenize(call->server->model, prompt->ids + prompt->n - n,
                                                 n, true, &text, &len, NULL) != SLUICE_OK)
        return false;
    bool thinking = str_ends_with(str_trim((Str){text, len}), "<think>");
    sluice_free(text);
    return thinking;
}

/* What the answer begins with: the client's text, or the call that it demands, which comes after
 * reasoning. */
static Status api_chat_begin(ApiCall *call, const json_t *tail, ApiFault *fault) {
    if (tail != NULL) {
        Str text = {json_string_value(tail), json_string_length(tail)};
        TRY(api_chat_append(call, text, false, fault));
    }
    ApiTools *tools = &call->tools;
    tools->thinking = api_chat_is_thinking(call);
    if (tools->forced.len == 0) return OK;
    if (tools->thinking) {
        Buf forced = {0};
        buf_append_text(&forced, "</think>\n\n");
        buf_append_str(&forced, buf_str(&tools->forced));
        buf_free(&tools->forced);
        tools->forced = forced;
    }
    return api_chat_append(call, buf_str(&tools->forced), true, fault);
}

Status api_chat_prompt(ApiCall *call, const json_t *body, ApiFault *fault) {
    json_t *variables = json_object(), *tail = NULL;
    Status status = api_chat_variables(call, body, variables, &tail, fault);
    char *text = status == OK ? json_dumps(variables, JSON_COMPACT) : NULL;
    json_decref(variables);
    if (status == OK && text == NULL)
        status = err_set(&fault->err, ERR_NOMEM, "no memory for the messages");
    if (status == OK) {
        sluice_error failure = {0};
        api_call_make_prompts(call, 1);
        ApiPrompt *prompt = &call->prompt[0];
        if (sluice_chat_tokenize(call->server->model, text, &prompt->ids, &prompt->n, &failure) ==
            SLUICE_OK) {
            call->n_prompts = 1;
            status = api_chat_begin(call, tail, fault);
        } else {
            status = err_set(&fault->err, (Status)failure.status, "%s", failure.text);
        }
    }
    free(text);
    json_decref(tail);
    return status;
}

ApiCall *api_chat_open(Server *server, HttpExchange *exchange, const ApiFormat *format,
                       const char *prefix, json_t **body) {
    if (!server->info.has_chat_template) {
        api_error_reply(exchange, 400, "this model has no chat template: use /v1/completions",
                        NULL);
        return NULL;
    }
    *body = api_body(server, exchange);
    return *body == NULL ? NULL : api_call_open(server, exchange, format, prefix);
}

void api_chat_handle(Server *server, HttpExchange *exchange) {
    json_t *body;
    ApiCall *call = api_chat_open(server, exchange, &API_OPENAI_CHAT, "chatcmpl-", &body);
    if (call == NULL) return;
    call->tools.id_prefix = "call_";
    ApiFault fault = {0};
    Status status = api_read_params(call, body, &fault);
    if (status == OK) status = api_chat_logprobs(call, body, &fault);
    if (status == OK) status = api_chat_prompt(call, body, &fault);
    json_decref(body);
    api_go(call, status, &fault);
}
