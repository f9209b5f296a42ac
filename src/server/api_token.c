/* api_token: POST /tokenize and /detokenize, in vLLM's shapes. */
#include "server/api.h"
#include "server/api_error.h"
#include "server/server_priv.h"

/* The tokens of "prompt" (text) or of "messages", as a chat would send them to the model. */
static Status api_token_encode(ApiCall *call, const json_t *body, ApiFault *fault) {
    const json_t *prompt = json_object_get(body, "prompt");
    if (prompt == NULL || json_is_null(prompt)) {
        if (json_is_array(json_object_get(body, "messages")))
            return api_chat_prompt(call, body, fault);
        return api_params_fault(fault, "prompt", "wanted 'prompt' as text or 'messages'");
    }
    if (!json_is_string(prompt))
        return api_params_fault(fault, "prompt", "'prompt' must be a string");
    bool add_special = true;
    TRY(api_params_bool(body, "add_special_tokens", &add_special, fault));
    Str text = {json_string_value(prompt), json_string_length(prompt)};
    api_call_make_prompts(call, 1);
    TRY(api_encode(call->server, text, add_special, false, &call->prompt[0].ids, &call->prompt[0].n,
                   &fault->err));
    call->n_prompts = 1;
    return OK;
}

/* "token_strs": the text of each; a piece of a character is told as U+FFFD. */
static void api_token_strs(const ApiCall *call, Buf *out) {
    const ApiPrompt *prompt = &call->prompt[0];
    buf_append_text(out, ",\"token_strs\":[");
    for (size_t i = 0; i < prompt->n; i++) {
        char *bytes = NULL;
        size_t len = 0;
        (void)sluice_token_bytes(call->server->model, prompt->ids[i], i == 0, true, &bytes, &len,
                                 NULL);
        if (i > 0) buf_append_byte(out, ',');
        json_write_str(out, (Str){bytes == NULL ? "" : bytes, len});
        sluice_free(bytes);
    }
    buf_append_byte(out, ']');
}

static void api_token_reply(const ApiCall *call, bool with_strs) {
    const ApiPrompt *prompt = &call->prompt[0];
    Buf body = {0};
    buf_append_format(&body, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", prompt->n,
                      call->server->options.plan->max_context);
    for (size_t i = 0; i < prompt->n; i++)
        buf_append_format(&body, i == 0 ? "%d" : ",%d", prompt->ids[i]);
    buf_append_byte(&body, ']');
    if (with_strs) api_token_strs(call, &body);
    buf_append_byte(&body, '}');
    http_reply(call->exchange, 200, "application/json", &body);
}

void api_token_tokenize(Server *server, HttpExchange *exchange) {
    json_t *body = api_body(server, exchange);
    if (body == NULL) return;
    ApiFault fault = {0};
    ApiCall *call = api_call_open(server, exchange, NULL, "tok-");
    bool with_strs = false;
    Status status = api_params_bool(body, "return_token_strs", &with_strs, &fault);
    if (status == OK) status = api_token_encode(call, body, &fault);
    json_decref(body);
    if (status == OK) {
        api_token_reply(call, with_strs);
    } else {
        api_reply_fault(exchange, &fault);
    }
    api_call_unref(call);
}

/* The text of "tokens", a list of ids that may be empty. */
static Status api_token_decode(ApiCall *call, const json_t *body, json_t **text, ApiFault *fault) {
    const json_t *tokens = json_object_get(body, "tokens");
    char *bytes = NULL;
    size_t len = 0;
    if (!json_is_array(tokens))
        return api_params_fault(fault, "tokens", "'tokens' must be a list of ids");
    api_call_make_prompts(call, 1);
    TRY(api_prompt_ids(call, tokens, "tokens", fault));
    if (sluice_detokenize(call->server->model, call->prompt[0].ids, call->prompt[0].n, true, &bytes,
                          &len, NULL) != SLUICE_OK)
        FAIL(&fault->err, ERR_NOMEM, "no memory for the text");
    *text = json_stringn(bytes, len);
    sluice_free(bytes);
    return OK;
}

void api_token_detokenize(Server *server, HttpExchange *exchange) {
    json_t *body = api_body(server, exchange), *text = NULL;
    if (body == NULL) return;
    ApiFault fault = {0};
    ApiCall *call = api_call_open(server, exchange, NULL, "detok-");
    if (api_token_decode(call, body, &text, &fault) == OK) {
        api_reply_json(exchange, json_pack("{s:o}", "prompt", text));
    } else {
        api_reply_fault(exchange, &fault);
    }
    json_decref(body);
    api_call_unref(call);
}
