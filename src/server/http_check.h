/* http_check: refuses what two servers could read differently (request smuggling).
 *
 * It sees what libmicrohttpd shows. What that hides: a line that ends in a bare LF, more than one
 * space in the request line, a chunk's extension, a
 * header without a name (it is dropped), and bytes after a NUL. */
#pragma once

#include <microhttpd.h>

#include "base/base.h"

enum { HTTP_URL_BYTES_MAX = 4096, HTTP_HEADER_COUNT_MAX = 100, HTTP_HEADER_BYTES_MAX = 16384 };

/* What is wrong with the raw request target, or NULL. *code becomes 400 or 414. */
const char *http_check_target(const char *target, int32_t *code);

/* What is wrong with the method, version and headers, or NULL. *code becomes 400, 431 or 505. */
const char *http_check_header(struct MHD_Connection *connection, const char *method,
                              const char *version, int32_t *code);
