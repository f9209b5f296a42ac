/* http_check: refuses what two servers could read differently (request smuggling).
 *
 * It sees what libmicrohttpd shows. Before its version 1.0 that says nothing of a line that ends in
 * a bare LF, of more than one space in the request line, of a header without a name or of bytes
 * after a NUL; but the texts that it shows lie where they came in, so what is between them can be
 * told from their addresses. What cannot be seen is a chunk's size line: after a chunked body the
 * connection closes, so that nothing that follows is ever read as a request. */
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

/* The request line as libmicrohttpd shows it. */
typedef struct HttpLine {
    const char *method, *target, *version;
    size_t target_bytes; /* before the query was cut off */
} HttpLine;

/* Whether the body comes in chunks whose size lines nobody has checked. */
bool http_check_is_chunked(struct MHD_Connection *connection);
/* What is wrong with the request line and headers, or NULL. *code becomes 400, 431 or 505. */
const char *http_check_header(const HttpCheck *check, struct MHD_Connection *connection,
                              const HttpLine *line, int32_t *code);
