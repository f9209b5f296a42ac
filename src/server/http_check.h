/* http_check: refuses what two servers could read differently (request smuggling).
 *
 * It sees what libmicrohttpd shows. Before its version 1.0 that says nothing of a line that ends in
 * a bare LF, of more than one space in the request line, of a header without a name or of bytes
 * after a NUL; but the texts that it shows lie where they came in, so what is between them can be
 * told from their addresses. A chunk's size line lies before the chunk, if both came at once; what
 * else frames a chunked body cannot be seen. So the connection closes after it, and nothing that
 * follows is ever read as a request. */
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
/* What is wrong with the size line before a piece of such a body, or NULL; it may lie between
 * head_end, where the head ended in libmicrohttpd's buffer, and the piece. */
const char *http_check_chunk(const char *head_end, const char *piece);
/* What is wrong with the request line and headers, or NULL. *code becomes 400, 431 or 505. */
const char *http_check_header(const HttpCheck *check, struct MHD_Connection *connection,
                              const HttpLine *line, int32_t *code);
