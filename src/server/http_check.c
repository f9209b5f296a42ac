#include "server/http_check.h"

#include <string.h>
#include <strings.h>

#define HTTP_CHECK_ALNUM "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

typedef struct HttpCheck {
    size_t bytes; /* of the header's lines as they are usually written */
    int32_t n, n_length, n_encoding, n_host;
    bool bad_encoding, bad_length, bad_host, bad_name, bad_value;
} HttpCheck;

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
    HttpCheck *check = context;
    if (value == NULL) value = "";
    check->n++;
    check->bytes += name_len + strlen(": ") + len + strlen("\r\n");
    if (strcasecmp(name, "content-length") == 0) {
        check->n_length++;
        check->bad_length |= len == 0 || len > 18 || strspn(value, "0123456789") != len;
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
        check->n_encoding++;
        check->bad_encoding |= strcasecmp(value, "chunked") != 0;
    } else if (strcasecmp(name, "host") == 0) {
        check->n_host++;
        check->bad_host |= !http_check_host(value);
    }
    check->bad_name |= strlen(name) != name_len || !http_check_token(name);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)value[i];
        check->bad_value |= (byte < 0x20 && byte != '\t') || byte == 0x7f;
    }
    return MHD_YES;
}

const char *http_check_target(const char *target, int32_t *code) {
    *code = 414;
    if (strlen(target) > HTTP_URL_BYTES_MAX) return "the URL is longer than 4096 bytes";
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

const char *http_check_header(struct MHD_Connection *connection, const char *method,
                              const char *version, int32_t *code) {
    HttpCheck check = {0};
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, http_check_one, &check);
    bool v11 = strcmp(version, "HTTP/1.1") == 0;
    *code = 431;
    if (check.n > HTTP_HEADER_COUNT_MAX) return "there are more than 100 headers";
    if (check.bytes > HTTP_HEADER_BYTES_MAX) return "the headers are longer than 16384 bytes";
    *code = 400;
    if (!http_check_token(method)) return "the method holds a character that is not allowed";
    if (check.n_length > 1 || check.bad_length)
        return "the content-length header is not one number";
    if (check.n_encoding > 1 || check.bad_encoding || (check.n_encoding > 0 && !v11))
        return "the transfer-encoding header is not 'chunked' of HTTP/1.1";
    if (check.n_encoding > 0 && check.n_length > 0)
        return "content-length and transfer-encoding exclude each other";
    if (check.n_host > 1 || (check.n_host == 0 && v11)) return "wanted exactly one host header";
    if (check.bad_host) return "the host header is not a name and a port";
    if (check.bad_name || check.bad_value) return "a header holds a character that is not allowed";
    if (!v11 && strcmp(version, "HTTP/1.0") != 0) return "the protocol is not HTTP/1.1";
    return NULL;
}
