#include "app/secrets.h"

#include <string.h>

#include "base/file.h"

enum { SECRETS_FILE_MAX = 1 << 20 };

/* One key a line; empty lines and those with # are skipped. The buffer is cut into texts. */
static Status secrets_read_keys(Secrets *secrets, const char *path, Err *err) {
    TRY(file_read(&secrets->key_text, path, SECRETS_FILE_MAX, err));
    char *rest = secrets->key_text.data, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        Str key = str_trim(str_from(line));
        if (key.len == 0 || key.ptr[0] == '#') continue;
        if (secrets->n_keys == SERVER_KEYS_MAX)
            FAIL(err, ERR_LIMIT, "'%s' has more than %d keys", path, SERVER_KEYS_MAX);
        char *start = line + (key.ptr - line);
        start[key.len] = '\0';
        secrets->key[secrets->n_keys++] = start;
    }
    if (secrets->n_keys == 0) FAIL(err, ERR_ARG, "'%s' holds no key", path);
    return OK;
}

Status secrets_read(Secrets *secrets, const Config *config, Err *err) {
    *secrets = (Secrets){0};
    if ((config->tls_cert == NULL) != (config->tls_key == NULL))
        FAIL(err, ERR_ARG, "--tls-cert and --tls-key go together");
    if (config->tls_cert != NULL) {
        TRY(file_read(&secrets->cert, config->tls_cert, SECRETS_FILE_MAX, err));
        TRY(file_read(&secrets->tls_key, config->tls_key, SECRETS_FILE_MAX, err));
    }
    if (config->api_key_file != NULL) return secrets_read_keys(secrets, config->api_key_file, err);
    return OK;
}

static void secrets_wipe(Buf *text) {
    if (text->data != NULL) explicit_bzero(text->data, text->len);
    buf_free(text);
}

void secrets_free(Secrets *secrets) {
    secrets_wipe(&secrets->key_text);
    secrets_wipe(&secrets->cert);
    secrets_wipe(&secrets->tls_key);
    secrets->n_keys = 0;
}

ServerSecrets secrets_view(const Secrets *secrets) {
    return (ServerSecrets){.tls_cert = secrets->cert.data,
                           .tls_key = secrets->tls_key.data,
                           .n_keys = secrets->n_keys,
                           .key = secrets->key};
}
