#include "server/api_tools.h"

#include <string.h>

#include "server/server_priv.h"

static bool api_tools_is_name(const json_t *name) {
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t len = json_string_length(name);
    return len > 0 && len <= CHAT_NAME_MAX && strspn(json_string_value(name), allowed) == len;
}

static Status api_tools_one(const json_t *tool, size_t i, ApiFault *fault) {
    const char *type = json_string_value(json_object_get(tool, "type"));
    const json_t *function = json_object_get(tool, "function");
    const json_t *parameters = json_object_get(function, "parameters"),
                 *description = json_object_get(function, "description");
    if (type == NULL || strcmp(type, "function") != 0)
        return api_params_fault(fault, "tools",
                                "tools[%zu].type is not 'function', the only kind supported", i);
    if (!api_tools_is_name(json_object_get(function, "name")))
        return api_params_fault(fault, "tools",
                                "tools[%zu]: the function's name must be 1 to %d letters, digits, "
                                "'_', '-' or '.'",
                                i, CHAT_NAME_MAX);
    if (parameters != NULL && !json_is_null(parameters) && !json_is_object(parameters))
        return api_params_fault(fault, "tools",
                                "tools[%zu]: the function's parameters must be an object", i);
    if (description != NULL && !json_is_null(description) && !json_is_string(description))
        return api_params_fault(fault, "tools",
                                "tools[%zu]: the function's description must be text", i);
    if (json_is_true(json_object_get(function, "strict")))
        return api_params_fault(fault, "tools",
                                "tools[%zu]: 'strict' wants a grammar, which is not supported", i);
    return OK;
}

static bool api_tools_has(const json_t *tools, const char *name) {
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        if (strcmp(json_string_value(json_object_get(function, "name")), name) == 0) return true;
    }
    return false;
}

/* The function that "tool_choice" demands: NULL when none; *none: no calls at all. "required" with
 * one function demands that one; which of several cannot be promised without a grammar. */
static Status api_tools_choice(const json_t *choice, const json_t *tools, const char **name,
                               bool *none, ApiFault *fault) {
    const char *word = json_string_value(choice), *key = "tool_choice";
    if (choice == NULL || json_is_null(choice)) return OK;
    if (word != NULL && strcmp(word, "auto") == 0) return OK;
    if (word != NULL && strcmp(word, "none") == 0) {
        *none = true;
        return OK;
    }
    if (word != NULL && strcmp(word, "required") == 0) {
        if (json_array_size(tools) != 1)
            return api_params_fault(fault, key,
                                    "'tool_choice' of 'required' is supported with one tool only; "
                                    "there are %zu",
                                    json_array_size(tools));
        *name = json_string_value(
            json_object_get(json_object_get(json_array_get(tools, 0), "function"), "name"));
        return OK;
    }
    const char *type = json_string_value(json_object_get(choice, "type"));
    *name = json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
    if (type == NULL || strcmp(type, "function") != 0 || *name == NULL)
        return api_params_fault(
            fault, key, "'tool_choice' must be 'none', 'auto', 'required' or a function's name");
    if (!api_tools_has(tools, *name))
        return api_params_fault(fault, key,
                                "'tool_choice' names a function that is not in 'tools'");
    return OK;
}

Status api_tools_read(ApiCall *call, const json_t *body, json_t *variables, ApiFault *fault) {
    json_t *tools = json_object_get(body, "tools");
    bool none = false, parallel = true;
    const char *name = NULL;
    size_t n = json_array_size(tools);
    if (tools != NULL && !json_is_null(tools) && (!json_is_array(tools) || n > API_TOOLS_MAX))
        return api_params_fault(fault, "tools", "'tools' must be a list of at most %d",
                                API_TOOLS_MAX);
    for (size_t i = 0; i < n; i++) TRY(api_tools_one(json_array_get(tools, i), i, fault));
    TRY(api_tools_choice(json_object_get(body, "tool_choice"), tools, &name, &none, fault));
    TRY(api_params_bool(body, "parallel_tool_calls", &parallel, fault));
    bool offered = n > 0 && !none;
    const sluice_model_info *info = &call->server->info;
    Str source = str_from(offered ? info->tool_template : info->chat_template);
    call->tools.thinks = chat_parse_thinks(source);
    if (!offered) return OK;
    call->tools.style = chat_parse_style(source);
    call->tools.one_call = !parallel;
    if (call->tools.style == CHAT_PLAIN)
        return api_params_fault(fault, "tools",
                                "this model's chat template writes no calls of tools that are "
                                "known here: leave 'tools' out, or set 'tool_choice' to 'none'");
    if (name != NULL) chat_parse_force(call->tools.style, str_from(name), &call->tools.forced);
    json_object_set(variables, "tools", tools);
    /* Some models' marks of calls are special tokens. */
    call->params.request.with_special = true;
    return OK;
}

/* A call's function with its arguments as an object. */
static Status api_tools_call(const json_t *from, size_t i, json_t *calls, ApiFault *fault) {
    json_t *call = json_copy((json_t *)(uintptr_t)from);
    json_t *function = json_copy(json_object_get(from, "function"));
    json_array_append_new(calls, call);
    if (function != NULL) json_object_set_new(call, "function", function);
    json_t *arguments = json_object_get(function, "arguments"), *object = NULL;
    if (!api_tools_is_name(json_object_get(function, "name")))
        return api_params_fault(fault, "messages",
                                "messages[%zu].tool_calls holds something that is no call of a "
                                "function",
                                i);
    if (json_is_object(arguments)) return OK;
    if (arguments != NULL && !json_is_string(arguments))
        return api_params_fault(fault, "messages",
                                "messages[%zu].tool_calls has arguments that are no string", i);
    Str text = {json_string_value(arguments), json_string_length(arguments)};
    if (str_trim(text).len == 0) text = STR_LIT("{}");
    if (json_parse(&object, text, &JSON_LIMITS_REQUEST, "arguments", NULL) != OK)
        object = json_incref(arguments); /* a model may have written them so */
    json_object_set_new(function, "arguments", object);
    return OK;
}

Status api_tools_message(json_t *message, size_t i, ApiFault *fault) {
    const json_t *from = json_object_get(message, "tool_calls");
    json_t *id = json_object_get(message, "tool_call_id");
    if (id != NULL && !json_is_null(id) && !json_is_string(id))
        return api_params_fault(fault, "messages", "messages[%zu].tool_call_id must be a string",
                                i);
    if (from == NULL) return OK;
    size_t n = json_array_size(from);
    if (!json_is_null(from) && (!json_is_array(from) || n > CHAT_CALLS_MAX))
        return api_params_fault(fault, "messages",
                                "messages[%zu].tool_calls must be a list of at most %d", i,
                                CHAT_CALLS_MAX);
    if (n == 0) {
        json_object_del(message, "tool_calls");
        return OK;
    }
    json_t *calls = json_array();
    Status status = OK;
    for (size_t k = 0; k < n && status == OK; k++)
        status = api_tools_call(json_array_get(from, k), i, calls, fault);
    json_object_set_new(message, "tool_calls", calls);
    return status;
}
