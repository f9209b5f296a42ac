#include "server/api_error.h"

#include <stdio.h>

#include "base/json.h"

/* HTTP code -> OpenAI's type and code, Anthropic's type. */
typedef struct ApiErrorRow {
    int32_t code;
    const char *type, *openai_code, *anthropic_type;
} ApiErrorRow;

static const ApiErrorRow API_ERROR_ROWS[] = {
    {400, "invalid_request_error", NULL, "invalid_request_error"},
    {401, "authentication_error", "invalid_api_key", "authentication_error"},
    {403, "permission_error", NULL, "permission_error"},
    {404, "invalid_request_error", "not_found", "not_found_error"},
    {405, "invalid_request_error", "method_not_allowed", "invalid_request_error"},
    {413, "invalid_request_error", "request_too_large", "request_too_large"},
    {429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error"},
    {500, "server_error", "internal_error", "api_error"},
    {503, "server_error", "unavailable", "overloaded_error"},
};

const ApiErrorText API_NO_MODEL = {"there is no such model here (see /v1/models)", "model",
                                   API_CODE_MODEL};

static const ApiErrorRow *api_error_row(int32_t code) {
    for (size_t i = 0; i < ARRAY_LEN(API_ERROR_ROWS); i++)
        if (API_ERROR_ROWS[i].code == code) return &API_ERROR_ROWS[i];
    return &API_ERROR_ROWS[code < 500 ? 0 : 7];
}

ApiDialect api_error_dialect(const char *path) {
    return str_starts_with(str_from(path), "/v1/messages") ? API_ANTHROPIC : API_OPENAI;
}

static void api_error_write_or_null(Buf *out, const char *text) {
    if (text == NULL) {
        buf_append_text(out, "null");
    } else {
        json_write_str(out, str_from(text));
    }
}

void api_error_body(Buf *out, ApiDialect dialect, int32_t code, const ApiErrorText *text) {
    const ApiErrorRow *row = api_error_row(code);
    buf_append_text(out, dialect == API_ANTHROPIC ? "{\"type\":\"error\",\"error\":{\"type\":"
                                                  : "{\"error\":{\"type\":");
    json_write_str(out, str_from(dialect == API_ANTHROPIC ? row->anthropic_type : row->type));
    buf_append_text(out, ",\"message\":");
    json_write_str(out, str_from(text->text));
    if (dialect == API_OPENAI) {
        buf_append_text(out, ",\"param\":");
        api_error_write_or_null(out, text->param);
        buf_append_text(out, ",\"code\":");
        api_error_write_or_null(out, text->code != NULL ? text->code : row->openai_code);
    }
    buf_append_text(out, "}}");
}

static void api_error_write(HttpExchange *exchange, int32_t code, const ApiErrorText *text,
                            int32_t retry_seconds) {
    Buf body = {0};
    api_error_body(&body, api_error_dialect(http_path(exchange)), code, text);
    if (code == 429 || code == 503) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", retry_seconds);
        http_reply_header(exchange, "retry-after", seconds);
    }
    http_reply(exchange, code, "application/json", &body);
}

void api_error_reply(HttpExchange *exchange, int32_t code, const char *text, const char *param) {
    api_error_reply_text(exchange, code, &(ApiErrorText){.text = text, .param = param});
}

void api_error_reply_text(HttpExchange *exchange, int32_t code, const ApiErrorText *text) {
    api_error_write(exchange, code, text, 1);
}

int32_t api_error_code(sluice_status status) {
    switch (status) {
        case SLUICE_ERR_ARG:
        case SLUICE_ERR_FORMAT:
        case SLUICE_ERR_UNSUPPORTED:
        case SLUICE_ERR_TEMPLATE: return 400;
        case SLUICE_ERR_NOT_FOUND: return 404;
        case SLUICE_ERR_LIMIT: return 429;
        case SLUICE_ERR_CANCELLED:
        case SLUICE_ERR_NOMEM: return 503;
        case SLUICE_OK:
        case SLUICE_ERR_IO:
        case SLUICE_ERR_DEVICE: break;
    }
    return 500;
}

void api_error_reply_status(HttpExchange *exchange, const sluice_error *failure,
                            int32_t retry_seconds) {
    api_error_write(exchange, api_error_code(failure->status),
                    &(ApiErrorText){.text = failure->text}, retry_seconds);
}
