/* api_error: failures as HTTP codes and bodies, in OpenAI's and Anthropic's shapes. */
#pragma once

#include "server/http.h"
#include "sluice.h"

typedef enum ApiDialect { API_OPENAI, API_ANTHROPIC } ApiDialect;

/* The dialect of the API a path belongs to. */
ApiDialect api_error_dialect(const char *path);

/* What OpenAI's clients know a refusal by; NULL: by its HTTP code. */
#define API_CODE_MODEL   "model_not_found"
#define API_CODE_CONTEXT "context_length_exceeded"

/* What is told of an error. The sentence goes to the client as it is: it must name no path and no
 * other request. */
typedef struct ApiErrorText {
    const char *text;
    const char *param; /* the field at fault, or NULL */
    const char *code;  /* API_CODE_*, or NULL */
} ApiErrorText;

extern const ApiErrorText API_NO_MODEL;

/* Appends {"error": {...}} (or Anthropic's twin) for an HTTP code. */
void api_error_body(Buf *out, ApiDialect dialect, int32_t code, const ApiErrorText *text);

/* Replies with an error. 429 and 503 carry Retry-After. */
void api_error_reply(HttpExchange *exchange, int32_t code, const char *text, const char *param);
void api_error_reply_text(HttpExchange *exchange, int32_t code, const ApiErrorText *text);

/* The HTTP code for a failure of the library: bad arguments 400, a full queue 429, ... */
int32_t api_error_code(sluice_status status);
/* As api_error_reply for the library's failure; retry_seconds: when another try may succeed. */
void api_error_reply_status(HttpExchange *exchange, const sluice_error *failure,
                            int32_t retry_seconds);
