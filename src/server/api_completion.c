/* api_completion: POST /v1/completions. */
#include "server/api.h"
#include "server/api_openai.h"
#include "server/server_priv.h"

/* "logprobs": how many of the likeliest tokens to tell. */
static Status api_completion_logprobs(ApiCall *call, const json_t *body, ApiFault *fault) {
    int64_t n = -1;
    TRY(api_params_int(body, "logprobs", 0, API_LOGPROBS_MAX, &n, fault));
    call->params.logprobs = n >= 0;
    call->params.request.sampling.n_logprobs = (int32_t)n;
    int32_t *prompt_logprobs = &call->params.request.prompt_logprobs;
    call->params.tell_prompt = *prompt_logprobs >= 0;
    if (call->params.echo && n >= 0) *prompt_logprobs = MAX(*prompt_logprobs, (int32_t)n);
    return OK;
}

/* "max_tokens": 0 with echo asks about the prompt alone. The field becomes 1: the engine generates
 * that much at least. */
static bool api_completion_is_echo_only(json_t *body) {
    const json_t *max_tokens = json_object_get(body, "max_tokens"),
                 *other_name = json_object_get(body, "max_completion_tokens");
    if (!json_is_integer(max_tokens) || json_integer_value(max_tokens) != 0) return false;
    if (other_name != NULL && !json_is_null(other_name)) return false;
    if (!json_is_true(json_object_get(body, "echo"))) return false;
    json_object_set_new(body, "max_tokens", json_integer(1));
    return true;
}

static Status api_completion_read(ApiCall *call, json_t *body, ApiFault *fault) {
    const bool echo_only = api_completion_is_echo_only(body);
    TRY(api_read_params(call, body, fault));
    call->params.echo_only = echo_only;
    TRY(api_completion_logprobs(call, body, fault));
    /* OpenAI's default of this older interface. */
    if (call->params.request.max_tokens == 0) call->params.request.max_tokens = 16;
    const json_t *prompt = json_object_get(body, "prompt");
    if (prompt == NULL) return api_params_fault(fault, "prompt", "'prompt' is missing");
    return api_prompts(call, prompt, "prompt", API_PROMPTS_MAX, fault);
}

void api_completion_handle(Server *server, HttpExchange *exchange) {
    json_t *body = api_body(server, exchange);
    if (body == NULL) return;
    ApiCall *call = api_call_open(server, exchange, &API_OPENAI_TEXT, "cmpl-");
    ApiFault fault = {0};
    Status status = api_completion_read(call, body, &fault);
    json_decref(body);
    api_go(call, status, &fault);
}
