/* http_tls: the certificate that TLS connections are opened with; it may be changed while the
 * server runs, and connections that are open keep what they began with. */
#pragma once

#include "base/status.h"

typedef struct HttpTls HttpTls;

/* cert: a chain, the server's own first; key: its key; both PEM text, copied. */
MUST_USE Status http_tls_open(HttpTls **out, const char *cert, const char *key, Err *err);
void http_tls_close(HttpTls *tls);
/* Handshakes from now on show another certificate; on failure it stays as it was. Any thread. */
MUST_USE Status http_tls_set(HttpTls *tls, const char *cert, const char *key, Err *err);

/* GnuTLS' gnutls_certificate_retrieve_function3, for libmicrohttpd: the connection's socket context
 * is its HttpServer. */
struct gnutls_session_int;
struct gnutls_cert_retr_st;
struct gnutls_pcert_st;
struct gnutls_ocsp_data_st;
struct gnutls_privkey_st;
int http_tls_retrieve(struct gnutls_session_int *session, const struct gnutls_cert_retr_st *info,
                      struct gnutls_pcert_st **certs, unsigned *n_certs,
                      struct gnutls_ocsp_data_st **ocsp, unsigned *n_ocsp,
                      struct gnutls_privkey_st **key, unsigned *flags);
