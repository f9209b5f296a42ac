/* api_embedding: POST /v1/embeddings. */
#include <string.h>

#include "server/api.h"
#include "server/server_priv.h"

enum { API_EMBEDDING_INPUTS_MAX = API_PROMPTS_MAX };

static const char API_BASE64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void api_embedding_base64(const uint8_t *data, size_t len, Buf *out) {
    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = (uint32_t)data[i] << 16 | (i + 1 < len ? (uint32_t)data[i + 1] << 8 : 0) |
                        (i + 2 < len ? data[i + 2] : 0);
        char text[4] = {API_BASE64[bits >> 18], API_BASE64[bits >> 12 & 63],
                        i + 1 < len ? API_BASE64[bits >> 6 & 63] : '=',
                        i + 2 < len ? API_BASE64[bits & 63] : '='};
        buf_append(out, text, sizeof text);
    }
}

static void api_embedding_event(ApiCall *call, const sluice_event *event) {
    if (event->embedding == NULL) return;
    ApiChoice *choice = &call->choice[event->index];
    if (call->params.base64) {
        buf_append_byte(&choice->text, '"');
        api_embedding_base64((const uint8_t *)event->embedding,
                             (size_t)event->n_embedding * sizeof(float), &choice->text);
        buf_append_byte(&choice->text, '"');
        return;
    }
    for (int32_t i = 0; i < event->n_embedding; i++)
        buf_append_format(&choice->text, "%c%.9g", i == 0 ? '[' : ',', (double)event->embedding[i]);
    buf_append_byte(&choice->text, ']');
}

static void api_embedding_finish(ApiCall *call) {
    Buf body = {0};
    buf_append_text(&body, "{\"object\":\"list\",\"data\":[");
    for (int32_t i = 0; i < call->n_choices; i++) {
        buf_append_format(
            &body, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i > 0 ? "," : "", i);
        buf_append_str(&body, buf_str(&call->choice[i].text));
        buf_append_byte(&body, '}');
    }
    buf_append_text(&body, "],\"model\":");
    json_write_str(&body, str_from(call->server->model_name));
    buf_append_format(&body, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}",
                      (long long)call->n_prompt_tokens, (long long)call->n_prompt_tokens);
    http_reply(call->exchange, 200, "application/json", &body);
}

static const ApiFormat API_EMBEDDING = {api_embedding_event, api_embedding_finish};

static Status api_embedding_read(ApiCall *call, const json_t *body, ApiFault *fault) {
    TRY(api_read_params(call, body, fault));
    const int32_t priority = call->params.request.priority;
    call->params.stream = false;
    call->params.request = (sluice_request)SLUICE_REQUEST_INIT;
    call->params.request.priority = priority;
    call->params.request.n = 1;
    call->params.request.pooling = SLUICE_POOL_MEAN;
    call->params.request.cache_salt = call->params.cache_salt;
    const json_t *format = json_object_get(body, "encoding_format");
    if (format != NULL && !json_is_null(format)) {
        const char *text = json_string_value(format);
        if (text == NULL || (strcmp(text, "float") != 0 && strcmp(text, "base64") != 0))
            return api_params_fault(fault, "encoding_format",
                                    "'encoding_format' must be 'float' or 'base64'");
        call->params.base64 = strcmp(text, "base64") == 0;
    }
    const json_t *dimensions = json_object_get(body, "dimensions");
    if (dimensions != NULL && !json_is_null(dimensions))
        return api_params_fault(fault, "dimensions", "'dimensions' is not supported");
    const json_t *input = json_object_get(body, "input");
    if (input == NULL) return api_params_fault(fault, "input", "'input' is missing");
    return api_prompts(call, input, "input", API_EMBEDDING_INPUTS_MAX, fault);
}

void api_embedding_handle(Server *server, HttpExchange *exchange) {
    json_t *body = api_body(server, exchange);
    if (body == NULL) return;
    ApiCall *call = api_call_open(server, exchange, &API_EMBEDDING, "embd-");
    ApiFault fault = {0};
    Status status = api_embedding_read(call, body, &fault);
    json_decref(body);
    api_go(call, status, &fault);
}
