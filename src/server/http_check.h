/* http_check: refuses what two servers could read differently (request smuggling).
 *
 * It sees what libmicrohttpd shows. What that hides: a line that ends in a bare LF, more than one
 * space in the request line, a chunk's extension, a
 * header without a name (it is dropped), and bytes after a NUL. */
#pragma once

#include <microhttpd.h>

#include "server/http.h"

/* The limits of a request's head and the sentences that name them. */
typedef struct HttpCheck {
    HttpLimits limits;
    char url_text[64], count_text[64], bytes_text[64];
} HttpCheck;

void http_check_init(HttpCheck *check, const HttpLimits *limits);
/* Bytes that libmicrohttpd needs per connection, for a head at its limit. */
size_t http_check_memory(const HttpCheck *check);

/* What is wrong with the raw request target, or NULL. *code becomes 400 or 414. */
const char *http_check_target(const HttpCheck *check, const char *target, int32_t *code);

/* What is wrong with the method, version and headers, or NULL. *code becomes 400, 431 or 505. */
const char *http_check_header(const HttpCheck *check, struct MHD_Connection *connection,
                              const char *method, const char *version, int32_t *code);
