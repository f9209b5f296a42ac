/* load_link: connections of the load generator to one server, over TCP or TLS.
 *
 * A link reads and writes as a socket does (-1 and errno, EAGAIN: later); under TLS it shakes hands
 * first. The certificate must fit the name in the URL. One thread. */
#pragma once

#include <sys/types.h>

#include "base/status.h"

enum { LOAD_HOST_BYTES = 256 };

/* Where to: a name may have several addresses, of which the first that answers is used. */
typedef struct LoadHost {
    bool tls;
    char host[LOAD_HOST_BYTES]; /* HOST or HOST:PORT, for the header */
    char name[LOAD_HOST_BYTES]; /* without the port and the brackets of an IPv6 address */
    struct addrinfo *addresses;
    const struct addrinfo *address;                  /* of them, the one to use */
    struct gnutls_certificate_credentials_st *trust; /* NULL without TLS */
} LoadHost;

/* url: http://HOST[:PORT] or https://. ca: a file of certificates (PEM) to trust, NULL: the
 * system's. Connects once, to see which address answers. */
MUST_USE Status load_link_host_open(LoadHost *host, const char *url, const char *ca, Err *err);
void load_link_host_close(LoadHost *host);

typedef struct LoadLink {
    int fd;                             /* -1: none */
    struct gnutls_session_int *session; /* NULL: no TLS */
    bool shaken;                        /* the handshake is over, if there is one */
    const char *failure;                /* of TLS, static; NULL: none */
} LoadLink;

/* Begins to connect. False: not even that. wait_s: how long reads and writes may take; 0: they do
 * not wait. */
bool load_link_open(LoadLink *link, const LoadHost *host, int32_t wait_s);
void load_link_close(LoadLink *link);
/* Goes on with the handshake. 1: over, 0: later, -1: failed. */
int load_link_shake(LoadLink *link);
/* Whether the handshake waits until it may write. */
bool load_link_wants_write(const LoadLink *link);
ssize_t load_link_read(LoadLink *link, void *out, size_t room);
ssize_t load_link_write(LoadLink *link, const void *data, size_t len);
