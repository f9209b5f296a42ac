/* api_token: POST /tokenize and /detokenize, in vLLM's shapes. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_error.h"
#include "server/server_priv.h"

/* The tokens of "prompt" (text) or "messages" (through the template). */
static Status api_token_encode(Server *server, const json_t *body, int32_t **ids, size_t *n,
                               ApiFault *fault) {
    const json_t *prompt = json_object_get(body, "prompt");
    if (json_is_string(prompt)) {
        bool add_special = true;
        TRY(api_params_bool(body, "add_special_tokens", &add_special, fault));
        Str text = {json_string_value(prompt), json_string_length(prompt)};
        return api_encode(server, text, add_special, false, ids, n, &fault->err);
    }
    if (!json_is_array(json_object_get(body, "messages")))
        return api_params_fault(fault, "prompt", "wanted 'prompt' as text or 'messages'");
    char *text = json_dumps(body, JSON_COMPACT);
    if (text == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for the messages");
    sluice_error failure = {0};
    sluice_status status = sluice_chat_tokenize(server->model, text, ids, n, &failure);
    free(text);
    if (status != SLUICE_OK) FAIL(&fault->err, (Status)status, "%s", failure.text);
    return OK;
}

void api_token_tokenize(Server *server, HttpExchange *exchange) {
    json_t *body = api_body(server, exchange);
    if (body == NULL) return;
    ApiFault fault = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    Status status = api_token_encode(server, body, &ids, &n, &fault);
    json_decref(body);
    if (status != OK) {
        api_reply_fault(exchange, &fault);
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    sluice_free(ids);
    api_reply_json(exchange, json_pack("{s:I,s:i,s:o}", "count", (json_int_t)n, "max_model_len",
                                       (int)server->info.context, "tokens", list));
}

void api_token_detokenize(Server *server, HttpExchange *exchange) {
    json_t *body = api_body(server, exchange);
    if (body == NULL) return;
    ApiFault fault = {0};
    ApiCall *call = api_call_open(server, exchange, NULL, "detok-");
    const json_t *tokens = json_object_get(body, "tokens");
    char *text = NULL;
    size_t len = 0;
    Status status = json_is_array(tokens)
                        ? api_prompts(call, tokens, "tokens", 1, &fault)
                        : api_params_fault(&fault, "tokens", "'tokens' must be a list of ids");
    if (status == OK && sluice_detokenize(server->model, call->prompt[0].ids, call->prompt[0].n,
                                          true, &text, &len, NULL) != SLUICE_OK)
        status = err_set(&fault.err, ERR_NOMEM, "no memory for the text");
    if (status == OK) {
        json_t *value = json_stringn(text, len);
        api_reply_json(exchange, json_pack("{s:o}", "prompt", value));
    } else {
        api_reply_fault(exchange, &fault);
    }
    sluice_free(text);
    json_decref(body);
    api_call_unref(call);
}
