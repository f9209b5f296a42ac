#include "app/load_link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/str.h"

/* LOAD_LINK_NOTES: what TLS 1.3 says between the data (session tickets) ends a read without any. */
enum { LOAD_LINK_TRY_SECONDS = 10, LOAD_LINK_NOTES = 8 };

/* ---- the host ---- */

/* HOST, HOST:PORT or [ADDRESS]:PORT into name and port. */
static Status load_link_host_split(LoadHost *host, Str text, char port[LOAD_HOST_BYTES], Err *err) {
    while (text.len > 0 && text.ptr[text.len - 1] == '/') text.len--;
    if (text.len == 0 || text.len >= LOAD_HOST_BYTES || memchr(text.ptr, '/', text.len) != NULL)
        FAIL(err, ERR_ARG, "'%.*s' is not HOST or HOST:PORT", STR_ARG(text));
    memcpy(host->host, text.ptr, text.len);
    const bool bracket = text.ptr[0] == '[';
    memcpy(host->name, text.ptr + bracket, text.len - bracket);
    char *end = bracket ? strchr(host->name, ']') : strrchr(host->name, ':');
    if (bracket && end == NULL) FAIL(err, ERR_ARG, "'%s' lacks a ']'", host->host);
    if (bracket) *end++ = '\0';
    if (end != NULL && *end == ':') {
        *end++ = '\0';
        memcpy(port, end, strlen(end) + 1);
    }
    return OK;
}

static Status load_link_host_trust(LoadHost *host, const char *ca, Err *err) {
    if (gnutls_certificate_allocate_credentials(&host->trust) < 0)
        FAIL(err, ERR_NOMEM, "no memory for certificates");
    const int n =
        ca == NULL ? gnutls_certificate_set_x509_system_trust(host->trust)
                   : gnutls_certificate_set_x509_trust_file(host->trust, ca, GNUTLS_X509_FMT_PEM);
    if (n < 0 && ca != NULL)
        FAIL(err, ERR_IO, "cannot read certificates from '%s': %s", ca, gnutls_strerror(n));
    return OK;
}

/* Finds the address that answers. */
static Status load_link_host_try(LoadHost *host, Err *err) {
    LoadLink link;
    int failed = 0;
    for (host->address = host->addresses; host->address != NULL;
         host->address = host->address->ai_next) {
        const bool good = load_link_open(&link, host, LOAD_LINK_TRY_SECONDS);
        failed = errno;
        const int shaken = good ? load_link_shake(&link) : -1;
        const char *failure = link.failure;
        load_link_close(&link);
        if (shaken > 0) return OK;
        if (good)
            FAIL(err, ERR_IO, "no TLS with '%s': %s", host->host,
                 failure != NULL ? failure : "it does not answer");
    }
    FAIL(err, ERR_IO, "cannot reach '%s': %s", host->host, strerror(failed));
}

Status load_link_host_open(LoadHost *host, const char *url, const char *ca, Err *err) {
    *host = (LoadHost){0};
    Str text = str_from(url);
    host->tls = str_starts_with(text, "https://");
    if (!host->tls && !str_starts_with(text, "http://"))
        FAIL(err, ERR_ARG, "'%s' does not begin with http:// or https://", url);
    char port[LOAD_HOST_BYTES] = "";
    memcpy(port, host->tls ? "443" : "80", host->tls ? 4 : 3);
    TRY(load_link_host_split(host, str_slice(text, host->tls ? 8 : 7, text.len), port, err));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const int failed = getaddrinfo(host->name, port, &hints, &host->addresses);
    if (failed != 0) FAIL(err, ERR_IO, "cannot find '%s': %s", host->host, gai_strerror(failed));
    Status status = host->tls ? load_link_host_trust(host, ca, err) : OK;
    if (status == OK) status = load_link_host_try(host, err);
    if (status != OK) load_link_host_close(host);
    return status;
}

void load_link_host_close(LoadHost *host) {
    if (host->addresses != NULL) freeaddrinfo(host->addresses);
    if (host->trust != NULL) gnutls_certificate_free_credentials(host->trust);
    *host = (LoadHost){0};
}

/* ---- a link ---- */

static bool load_link_begin_tls(LoadLink *link, const LoadHost *host) {
    unsigned char address[sizeof(struct in6_addr)];
    const bool numeric = inet_pton(AF_INET, host->name, address) == 1 ||
                         inet_pton(AF_INET6, host->name, address) == 1;
    if (gnutls_init(&link->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0)
        return false;
    gnutls_session_set_verify_cert(link->session, host->name, 0);
    gnutls_transport_set_int(link->session, link->fd);
    return gnutls_set_default_priority(link->session) == 0 &&
           gnutls_credentials_set(link->session, GNUTLS_CRD_CERTIFICATE, host->trust) == 0 &&
           (numeric || gnutls_server_name_set(link->session, GNUTLS_NAME_DNS, host->name,
                                              strlen(host->name)) == 0);
}

bool load_link_open(LoadLink *link, const LoadHost *host, int32_t wait_s) {
    const struct addrinfo *to = host->address;
    const struct timeval most = {.tv_sec = wait_s};
    int on = 1;
    *link = (LoadLink){.shaken = !host->tls};
    link->fd =
        socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | (wait_s > 0 ? 0 : SOCK_NONBLOCK), 0);
    if (link->fd < 0) return false;
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (wait_s > 0) {
        setsockopt(link->fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
        setsockopt(link->fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
    }
    if (connect(link->fd, to->ai_addr, to->ai_addrlen) != 0 && errno != EINPROGRESS) return false;
    return !host->tls || load_link_begin_tls(link, host);
}

void load_link_close(LoadLink *link) {
    if (link->session != NULL) gnutls_deinit(link->session);
    if (link->fd >= 0) close(link->fd);
    *link = (LoadLink){.fd = -1};
}

int load_link_shake(LoadLink *link) {
    if (link->shaken) return 1;
    const int result = gnutls_handshake(link->session);
    link->shaken = result == 0;
    if (result == 0) return 1;
    if (gnutls_error_is_fatal(result) == 0) return 0;
    link->failure = result == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR
                        ? "its certificate is not one to trust (see --tls-ca)"
                        : gnutls_strerror(result);
    return -1;
}

bool load_link_wants_write(const LoadLink *link) {
    return !link->shaken && gnutls_record_get_direction(link->session) == 1;
}

/* As a socket's result. An end without TLS's own goodbye is an end. */
static ssize_t load_link_result(ssize_t n) {
    if (n >= 0 || n == GNUTLS_E_PREMATURE_TERMINATION) return n >= 0 ? n : 0;
    errno = gnutls_error_is_fatal((int)n) == 0 ? EAGAIN : EIO;
    return -1;
}

ssize_t load_link_read(LoadLink *link, void *out, size_t room) {
    if (link->session == NULL) return recv(link->fd, out, room, 0);
    ssize_t n = GNUTLS_E_AGAIN;
    for (int32_t i = 0; i < LOAD_LINK_NOTES && n == GNUTLS_E_AGAIN; i++)
        n = gnutls_record_recv(link->session, out, room);
    return load_link_result(n);
}

ssize_t load_link_write(LoadLink *link, const void *data, size_t len) {
    if (link->session == NULL) return send(link->fd, data, len, MSG_NOSIGNAL);
    return load_link_result(gnutls_record_send(link->session, data, len));
}
