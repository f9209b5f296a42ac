#include "server/api.h"

#include <stdlib.h>
#include <string.h>

#include "server/api_error.h"
#include "server/api_logprobs.h"
#include "server/server_priv.h"

enum { API_SPECIAL_TOKENS = 8 }; /* that a tokenizer puts around a text, at most */

void api_reply_json(HttpExchange *exchange, json_t *value) {
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(value);
    Buf body = {0};
    buf_append_text(&body, text == NULL ? "null" : text);
    free(text);
    http_reply(exchange, 200, "application/json", &body);
}

void api_reply_fault(HttpExchange *exchange, const ApiFault *fault) {
    const ApiErrorText text = {.text = fault->err.text,
                               .param = fault->param[0] != '\0' ? fault->param : NULL,
                               .code = fault->code};
    api_error_reply_text(exchange, api_error_code((sluice_status)fault->err.status), &text);
}

Status api_read_params(ApiCall *call, const json_t *body, ApiFault *fault) {
    const Server *server = call->server;
    const ApiParamsRules rules = {server->model, server->info.vocab, &server->defaults};
    return api_params_read(&call->params, body, &rules, &call->arena, fault);
}

/* Tokens that the answer wants room for. */
static int32_t api_n_output(const sluice_request *request) {
    return request->pooling != SLUICE_POOL_NONE ? 0 : MAX(request->max_tokens, 1);
}

/* "truncate_prompt_tokens". */
static void api_truncate(ApiCall *call) {
    const ApiParams *params = &call->params;
    int64_t keep = params->truncate;
    if (keep == 0) return;
    if (keep < 0) keep = call->server->options.plan->max_context - api_n_output(&params->request);
    for (int32_t i = 0; i < call->n_prompts; i++) {
        ApiPrompt *prompt = &call->prompt[i];
        size_t n = (size_t)MAX(keep, 1);
        if (prompt->n <= n) continue;
        if (!params->truncate_end)
            memmove(prompt->ids, prompt->ids + prompt->n - n, n * sizeof *prompt->ids);
        prompt->n = n;
    }
}

/* Clients know by code and words that a conversation is too long, and make it shorter. */
static Status api_check_context(const ApiCall *call, ApiFault *fault) {
    const sluice_request *request = &call->params.request;
    const int32_t most = call->server->options.plan->max_context;
    const int32_t n_output = api_n_output(request);
    for (int32_t i = 0; i < call->n_prompts; i++) {
        const int64_t n = (int64_t)call->prompt[i].n + n_output;
        if (n <= most) continue;
        fault->code = API_CODE_CONTEXT;
        return api_params_fault(fault, "",
                                "this model's maximum context length is %d tokens; the prompt has "
                                "%zu and %d are to be generated",
                                most, call->prompt[i].n, n_output);
    }
    return OK;
}

static Status api_check_lengths(const ApiCall *call, ApiFault *fault) {
    const sluice_request *request = &call->params.request;
    if (request->max_tokens == 0 || request->min_tokens <= request->max_tokens) return OK;
    return api_params_fault(fault, "min_tokens", "'min_tokens' is %d, 'max_tokens' only %d",
                            request->min_tokens, request->max_tokens);
}

static Status api_check_seqs(const ApiCall *call, ApiFault *fault) {
    const int32_t n = MAX(call->params.request.n, call->params.request.beam_width),
                  most = call->server->options.plan->max_seqs;
    if (n <= most) return OK;
    return api_params_fault(fault, "n", "'n' is %d, this server runs %d sequences at once", n,
                            most);
}

void api_go(ApiCall *call, Status status, ApiFault *fault) {
    if (status == OK) {
        api_truncate(call);
        status = api_check_lengths(call, fault);
        if (status == OK) status = api_check_context(call, fault);
        if (status == OK) status = api_check_seqs(call, fault);
        if (status == OK) status = api_logprobs_check(call, fault);
    }
    if (status == OK) {
        api_call_submit(call);
    } else {
        api_reply_fault(call->exchange, fault);
        api_call_unref(call);
    }
}

/* How many parts the contents of a list of messages have. */
static size_t api_count_parts(const json_t *messages) {
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(messages); i++)
        n += json_array_size(json_object_get(json_array_get(messages, i), "content"));
    return n;
}

/* The bounds of a conversation, whichever API it comes through. */
static Status api_check_lists(const Server *server, const json_t *body, ApiFault *fault) {
    static const char *const keys[] = {"messages", "input"};
    const ServerLimits *limits = &server->options.limits;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const json_t *list = json_object_get(body, keys[i]);
        size_t n_parts = api_count_parts(list);
        if (strcmp(keys[i], "messages") == 0 &&
            json_array_size(list) > (size_t)limits->messages_max)
            return api_params_fault(fault, keys[i], "'%s' has %zu messages, at most %d are allowed",
                                    keys[i], json_array_size(list), limits->messages_max);
        if (n_parts > (size_t)limits->parts_max)
            return api_params_fault(fault, keys[i],
                                    "'%s' has %zu content parts, at most %d are allowed", keys[i],
                                    n_parts, limits->parts_max);
    }
    return OK;
}

json_t *api_body(Server *server, HttpExchange *exchange) {
    Err err = {0};
    json_t *body = NULL;
    if (atomic_load(&server->draining)) {
        http_reply_header(exchange, "connection", "close");
        api_error_reply(exchange, 503, "the server is shutting down", NULL);
        return NULL;
    }
    if (json_parse(&body, http_body(exchange), &server->options.limits.json, "the body", &err) !=
        OK) {
        api_error_reply(exchange, 400, err.text, NULL);
        return NULL;
    }
    ApiFault fault = {0};
    const json_t *model = json_object_get(body, "model");
    if (!json_is_object(body)) {
        api_error_reply(exchange, 400, "the body is not a JSON object", NULL);
    } else if (model != NULL && !json_is_null(model) && !json_is_string(model)) {
        api_error_reply(exchange, 400, "'model' must be a string", "model");
    } else if (json_is_string(model) && strcmp(json_string_value(model), server->model_name) != 0) {
        api_error_reply_text(exchange, 404, &API_NO_MODEL);
    } else if (api_check_lists(server, body, &fault) != OK) {
        api_reply_fault(exchange, &fault);
    } else {
        return body;
    }
    json_decref(body);
    return NULL;
}

Status api_encode(const Server *server, Str text, bool add_special, bool parse_special,
                  int32_t **ids, size_t *n, Err *err) {
    sluice_error failure = {.status = SLUICE_ERR_LIMIT};
    *n = text.len + API_SPECIAL_TOKENS; /* hardly ever more than bytes: then once more */
    *ids = NULL;
    for (int32_t i = 0; i < 2 && failure.status == SLUICE_ERR_LIMIT; i++) {
        const size_t room = *n;
        free(*ids);
        *ids = malloc(room * sizeof **ids);
        if (*ids == NULL) FAIL(err, ERR_NOMEM, "no memory for %zu tokens", room);
        failure.status = SLUICE_OK;
        (void)sluice_tokenize(server->model, text.ptr, text.len, add_special, parse_special, *ids,
                              room, n, &failure);
    }
    if (failure.status == SLUICE_OK) {
        int32_t *fitting = realloc(*ids, (*n + 1) * sizeof *fitting);
        if (fitting != NULL) *ids = fitting;
        return OK;
    }
    free(*ids);
    *ids = NULL;
    FAIL(err, (Status)failure.status, "%s", failure.text);
}

static bool api_is_ids(const json_t *value) {
    return json_is_array(value) && json_array_size(value) > 0 &&
           json_is_integer(json_array_get(value, 0));
}

Status api_prompt_ids(ApiCall *call, const json_t *list, const char *key, ApiFault *fault) {
    size_t n = json_array_size(list);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (ids == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= call->server->info.vocab) {
            free(ids);
            return api_params_fault(fault, key,
                                    "'%s' holds something that is not a token id below %d", key,
                                    call->server->info.vocab);
        }
        ids[i] = (int32_t)json_integer_value(id);
    }
    call->prompt[call->n_prompts++] = (ApiPrompt){.ids = ids, .n = n};
    return OK;
}

static Status api_prompt(ApiCall *call, const json_t *value, const char *key, ApiFault *fault) {
    if (api_is_ids(value)) return api_prompt_ids(call, value, key, fault);
    if (!json_is_string(value))
        return api_params_fault(fault, key, "'%s' must be text, token ids, or a list of these",
                                key);
    ApiPrompt *prompt = &call->prompt[call->n_prompts];
    Str text = {json_string_value(value), json_string_length(value)};
    TRY(api_encode(call->server, text, call->params.add_special, false, &prompt->ids, &prompt->n,
                   &fault->err));
    call->n_prompts++;
    return OK;
}

Status api_prompts(ApiCall *call, const json_t *value, const char *key, int32_t n_max,
                   ApiFault *fault) {
    if (!json_is_array(value) || api_is_ids(value)) {
        api_call_make_prompts(call, 1);
        TRY(api_prompt(call, value, key, fault));
    } else {
        size_t n = json_array_size(value);
        if (n == 0 || n > (size_t)n_max)
            return api_params_fault(fault, key, "'%s' has %zu entries, wanted 1 to %d", key, n,
                                    n_max);
        api_call_make_prompts(call, (int32_t)n);
        for (size_t i = 0; i < n; i++) TRY(api_prompt(call, json_array_get(value, i), key, fault));
    }
    for (int32_t i = 0; i < call->n_prompts; i++)
        if (call->prompt[i].n == 0) return api_params_fault(fault, key, "'%s' is empty", key);
    return OK;
}
