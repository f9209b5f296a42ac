#include "server/http_tls.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <pthread.h>

#include "base/mem.h"
#include "server/http_priv.h"

enum { HTTP_TLS_CHAIN_MAX = 16 };

/* The texts are kept, and parsed anew for each handshake, which costs little beside its arithmetic:
 * so GnuTLS owns what it was given, and nobody has to know when the last handshake is over. */
struct HttpTls {
    pthread_mutex_t lock;
    char *cert, *key;
};

static Status http_tls_parse_chain(const char *text, gnutls_pcert_st **certs, unsigned *n,
                                   Err *err) {
    const gnutls_datum_t datum = {(unsigned char *)(uintptr_t)text, (unsigned)strlen(text)};
    *n = HTTP_TLS_CHAIN_MAX;
    *certs = gnutls_calloc(HTTP_TLS_CHAIN_MAX, sizeof **certs);
    if (*certs == NULL) FAIL(err, ERR_NOMEM, "no memory for a certificate");
    int failed = gnutls_pcert_list_import_x509_raw(*certs, n, &datum, GNUTLS_X509_FMT_PEM,
                                                   GNUTLS_X509_CRT_LIST_FAIL_IF_UNSORTED);
    if (failed < 0) {
        gnutls_free(*certs);
        FAIL(err, ERR_FORMAT, "the certificate is not sound: %s", gnutls_strerror(failed));
    }
    return OK;
}

static Status http_tls_parse_key(const char *text, gnutls_privkey_t *key, Err *err) {
    const gnutls_datum_t datum = {(unsigned char *)(uintptr_t)text, (unsigned)strlen(text)};
    if (gnutls_privkey_init(key) < 0) FAIL(err, ERR_NOMEM, "no memory for a key");
    int failed = gnutls_privkey_import_x509_raw(*key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (failed < 0) {
        gnutls_privkey_deinit(*key);
        FAIL(err, ERR_FORMAT, "the certificate's key is not sound: %s", gnutls_strerror(failed));
    }
    return OK;
}

static void http_tls_free_chain(gnutls_pcert_st *certs, unsigned n) {
    for (unsigned i = 0; i < n; i++) gnutls_pcert_deinit(&certs[i]);
    gnutls_free(certs);
}

/* Both can be read, and belong together: what the key signs the certificate's key confirms. */
static Status http_tls_check(const char *cert, const char *key, Err *err) {
    gnutls_pcert_st *certs = NULL;
    gnutls_privkey_t parsed = NULL;
    unsigned n = 0;
    TRY(http_tls_parse_chain(cert, &certs, &n, err));
    Status status = http_tls_parse_key(key, &parsed, err);
    if (status == OK) {
        unsigned char text[] = "sluice";
        const gnutls_datum_t datum = {text, sizeof text};
        gnutls_datum_t signature = {0};
        gnutls_sign_algorithm_t algorithm = GNUTLS_SIGN_UNKNOWN;
        if (gnutls_pubkey_get_preferred_hash_algorithm(certs[0].pubkey, NULL, NULL) >= 0)
            algorithm = gnutls_pk_to_sign(
                (gnutls_pk_algorithm_t)gnutls_pubkey_get_pk_algorithm(certs[0].pubkey, NULL),
                GNUTLS_DIG_SHA256);
        if (gnutls_privkey_sign_data(parsed, GNUTLS_DIG_SHA256, 0, &datum, &signature) < 0 ||
            gnutls_pubkey_verify_data2(certs[0].pubkey, algorithm, 0, &datum, &signature) < 0)
            status = err_set(err, ERR_FORMAT, "the certificate and the key do not belong together");
        gnutls_free(signature.data);
        gnutls_privkey_deinit(parsed);
    }
    http_tls_free_chain(certs, n);
    return status;
}

Status http_tls_open(HttpTls **out, const char *cert, const char *key, Err *err) {
    TRY(http_tls_check(cert, key, err));
    HttpTls *tls = mem_alloc(sizeof *tls);
    pthread_mutex_init(&tls->lock, NULL);
    tls->cert = mem_strdup(cert);
    tls->key = mem_strdup(key);
    *out = tls;
    return OK;
}

void http_tls_close(HttpTls *tls) {
    if (tls == NULL) return;
    pthread_mutex_destroy(&tls->lock);
    mem_free(tls->cert);
    mem_free(tls->key);
    mem_free(tls);
}

Status http_tls_set(HttpTls *tls, const char *cert, const char *key, Err *err) {
    TRY(http_tls_check(cert, key, err));
    pthread_mutex_lock(&tls->lock);
    mem_free(tls->cert);
    mem_free(tls->key);
    tls->cert = mem_strdup(cert);
    tls->key = mem_strdup(key);
    pthread_mutex_unlock(&tls->lock);
    return OK;
}

int http_tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info,
                      gnutls_pcert_st **certs, unsigned *n_certs, gnutls_ocsp_data_st **ocsp,
                      unsigned *n_ocsp, gnutls_privkey_t *key, unsigned *flags) {
    (void)info;
    struct MHD_Connection *connection = gnutls_session_get_ptr(session);
    const union MHD_ConnectionInfo *context =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    const HttpServer *server = context->socket_context;
    HttpTls *tls = server->tls;
    pthread_mutex_lock(&tls->lock);
    Status status = http_tls_parse_chain(tls->cert, certs, n_certs, NULL);
    if (status == OK && http_tls_parse_key(tls->key, key, NULL) != OK) {
        http_tls_free_chain(*certs, *n_certs);
        status = ERR_FORMAT;
    }
    pthread_mutex_unlock(&tls->lock);
    if (status != OK) return -1;
    *ocsp = NULL;
    *n_ocsp = 0;
    *flags = GNUTLS_CERT_RETR_DEINIT_ALL;
    return 0;
}
