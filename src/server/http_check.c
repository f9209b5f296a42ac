#include "server/http_check.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    HTTP_CHECK_SPACES_MAX = 64,         /* after a header's colon, with the one that is usual */
    HTTP_CHECK_MHD_STRICT = 0x01000000, /* since when libmicrohttpd is strict itself */
};

#define HTTP_CHECK_ALNUM "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* What the headers of one request come to. */
typedef struct HttpSeen {
    size_t bytes; /* of the header's lines as they are usually written */
    int32_t n, n_length, n_encoding, n_host;
    const char *end; /* of the line before, in libmicrohttpd's buffer */
    bool hidden;     /* something is between the lines */
    bool bad_encoding, bad_length, bad_host, bad_name, bad_value;
} HttpSeen;

/* Whether `next` begins where `bytes` more after `end` came in. */
static bool http_check_follows(const char *end, size_t bytes, const char *next) {
    return (uintptr_t)end + bytes == (uintptr_t)next;
}

/* RFC 9110 5.6.2. */
static bool http_check_token(const char *text) {
    return text[0] != '\0' && text[strspn(text, HTTP_CHECK_ALNUM "!#$%&'*+-.^_`|~")] == '\0';
}

/* A name, an IPv4 address or a bracketed IPv6 address, and a port (RFC 9110 7.2). */
static bool http_check_host(const char *text) {
    if (text[0] == '[') {
        text += 1 + strspn(text + 1, "0123456789abcdefABCDEF:.");
        if (*text++ != ']') return false;
    } else {
        text += strspn(text, HTTP_CHECK_ALNUM "-._~");
    }
    if (*text == ':') text += 1 + strspn(text + 1, "0123456789");
    return *text == '\0';
}

static enum MHD_Result http_check_one(void *context, enum MHD_ValueKind kind, const char *name,
                                      size_t name_len, const char *value, size_t len) {
    (void)kind;
    HttpSeen *seen = context;
    if (value == NULL) value = "";
    const char *colon = name + name_len;
    seen->hidden |= !http_check_follows(seen->end, strlen("\r\n"), name) ||
                    (uintptr_t)value <= (uintptr_t)colon ||
                    (uintptr_t)value > (uintptr_t)colon + HTTP_CHECK_SPACES_MAX;
    seen->end = value + len;
    seen->n++;
    seen->bytes += name_len + strlen(": ") + len + strlen("\r\n");
    if (strcasecmp(name, "content-length") == 0) {
        seen->n_length++;
        seen->bad_length |= len == 0 || len > 18 || strspn(value, "0123456789") != len;
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
        seen->n_encoding++;
        seen->bad_encoding |= strcasecmp(value, "chunked") != 0;
    } else if (strcasecmp(name, "host") == 0) {
        seen->n_host++;
        seen->bad_host |= !http_check_host(value);
    }
    seen->bad_name |= strlen(name) != name_len || !http_check_token(name);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)value[i];
        seen->bad_value |= (byte < 0x20 && byte != '\t') || byte == 0x7f;
    }
    return MHD_YES;
}

void http_check_init(HttpCheck *check, const HttpLimits *limits) {
    check->limits = *limits;
    snprintf(check->url_text, sizeof check->url_text, "the URL is longer than %d bytes",
             limits->url_bytes_max);
    snprintf(check->count_text, sizeof check->count_text, "there are more than %d headers",
             limits->header_count_max);
    snprintf(check->bytes_text, sizeof check->bytes_text, "the headers are longer than %d bytes",
             limits->header_bytes_max);
}

size_t http_check_memory(const HttpCheck *check) {
    /* The head, an entry for each header, and what a reply's head and a piece of its body take.
     * libmicrohttpd writes on half of it for each connection: no more than that. */
    return (size_t)check->limits.header_bytes_max + (size_t)check->limits.url_bytes_max +
           64 * (size_t)check->limits.header_count_max + 8192;
}

const char *http_check_target(const HttpCheck *check, const char *target, int32_t *code) {
    if (target == NULL) target = "";
    *code = 414;
    if (strlen(target) > (size_t)check->limits.url_bytes_max) return check->url_text;
    *code = 400;
    if (target[0] != '/' || target[1] == '/') return "the URL does not begin with one '/'";
    for (const char *c = target; *c != '\0'; c++) {
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f || *c == '#')
            return "the URL holds a character that is not allowed";
        if (c[0] == '%' && (c[1] == '0' || c[1] == '1'))
            return "the URL holds an escaped control character";
    }
    return NULL;
}

/* Whether the head has bytes that none of its texts shows, or lacks some that it needs. */
static bool http_check_hides(struct MHD_Connection *connection, const HttpLine *line,
                             const HttpSeen *seen) {
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return seen->hidden ||
           !http_check_follows(line->method + strlen(line->method), strlen(" "), line->target) ||
           !http_check_follows(line->target + line->target_bytes, strlen(" "), line->version) ||
           !http_check_follows(seen->end, strlen("\r\n\r\n"), line->method + size->header_size);
}

bool http_check_is_chunked(struct MHD_Connection *connection) {
    return MHD_VERSION < HTTP_CHECK_MHD_STRICT &&
           MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "transfer-encoding") != NULL;
}

const char *http_check_chunk(const char *head_end, const char *piece) {
    /* A line in front of the piece has been read in this turn, or nothing was. */
    if (piece <= head_end || piece[-1] != '\n') return NULL;
    const char *end = piece - 1, *line = end;
    while (line > head_end && line[-1] != '\n') line--;
    const bool bare = end == line || end[-1] != '\r' ||
                      (line - head_end >= 2 && line[-2] != '\r') || line - head_end == 1;
    if (bare) return "a line of a chunk does not end in CR LF";
    const size_t digits = strspn(line, "0123456789abcdefABCDEF");
    if (digits == 0 || (line[digits] != ';' && line + digits != end - 1) ||
        memchr(line, '\r', (size_t)(end - line)) != end - 1)
        return "a chunk's size is not a number";
    return NULL;
}

const char *http_check_header(const HttpCheck *check, struct MHD_Connection *connection,
                              const HttpLine *line, int32_t *code) {
    HttpSeen seen = {.end = line->version + strlen(line->version)};
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, http_check_one, &seen);
    bool v11 = strcmp(line->version, "HTTP/1.1") == 0;
    *code = 431;
    if (seen.n > check->limits.header_count_max) return check->count_text;
    if (seen.bytes > (size_t)check->limits.header_bytes_max) return check->bytes_text;
    *code = 400;
    if (!http_check_token(line->method)) return "the method holds a character that is not allowed";
    if (seen.n_length > 1 || seen.bad_length) return "the content-length header is not one number";
    if (seen.n_encoding > 1 || seen.bad_encoding || (seen.n_encoding > 0 && !v11))
        return "the transfer-encoding header is not 'chunked' of HTTP/1.1";
    if (seen.n_encoding > 0 && seen.n_length > 0)
        return "content-length and transfer-encoding exclude each other";
    if (seen.n_host > 1 || (seen.n_host == 0 && v11)) return "wanted exactly one host header";
    if (seen.bad_host) return "the host header is not a name and a port";
    if (seen.bad_name || seen.bad_value) return "a header holds a character that is not allowed";
    if (!v11 && strcmp(line->version, "HTTP/1.0") != 0) return "the protocol is not HTTP/1.1";
    if (MHD_VERSION < HTTP_CHECK_MHD_STRICT && http_check_hides(connection, line, &seen))
        return "a line does not end in CR LF, or holds what is not allowed";
    return NULL;
}
