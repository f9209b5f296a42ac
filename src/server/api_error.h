/* api_error: failures as HTTP codes and bodies, in OpenAI's and Anthropic's shapes. */
#pragma once

#include "server/http.h"
#include "sluice.h"

typedef enum ApiDialect { API_OPENAI, API_ANTHROPIC } ApiDialect;

/* The dialect of the API a path belongs to. */
ApiDialect api_error_dialect(const char *path);

/* Appends {"error": {...}} (or Anthropic's twin) for an HTTP code. param: the field at fault, or
 * NULL. The sentence goes to the client as it is: it must name no path and no other request. */
void api_error_body(Buf *out, ApiDialect dialect, int32_t code, const char *text,
                    const char *param);

/* Replies with an error. 429 and 503 carry Retry-After. */
void api_error_reply(HttpExchange *exchange, int32_t code, const char *text, const char *param);

/* The HTTP code for a failure of the library: bad arguments 400, a full queue 429, ... */
int32_t api_error_code(sluice_status status);
/* As api_error_reply for the library's failure; retry_seconds: when another try may succeed. */
void api_error_reply_status(HttpExchange *exchange, const sluice_error *failure,
                            int32_t retry_seconds);
