/* secrets: what a server may not show: its clients' keys and its certificate's key, from files. */
#pragma once

#include "app/config.h"
#include "base/buf.h"
#include "server/server.h"

typedef struct Secrets {
    Buf key_text, cert, tls_key;
    const char *key[SERVER_KEYS_MAX]; /* into key_text */
    int32_t n_keys;
} Secrets;

/* Reads the files that the options name. Free with secrets_free, also after a failure. */
MUST_USE Status secrets_read(Secrets *secrets, const Config *config, Err *err);
/* Their memory is wiped. */
void secrets_free(Secrets *secrets);
/* As the server takes them; valid until the secrets are freed. */
ServerSecrets secrets_view(const Secrets *secrets);
