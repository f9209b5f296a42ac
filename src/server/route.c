#include "server/route.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "server/api.h"
#include "server/api_error.h"
#include "server/server_priv.h"

typedef struct Route {
    const char *method, *path;
    void (*handle)(Server *server, HttpExchange *exchange);
    bool open; /* answers without a key */
} Route;

static const Route ROUTES[] = {
    {"POST", "/v1/chat/completions", api_chat_handle, false},
    {"POST", "/v1/completions", api_completion_handle, false},
    {"POST", "/v1/messages", api_message_handle, false},
    {"POST", "/v1/messages/count_tokens", api_message_count, false},
    {"POST", "/v1/responses", api_response_handle, false},
    {"POST", "/v1/responses/input_tokens", api_response_count, false},
    {"POST", "/v1/embeddings", api_embedding_handle, false},
    {"GET", "/v1/models", api_admin_models, false},
    {"POST", "/tokenize", api_token_tokenize, false},
    {"POST", "/detokenize", api_token_detokenize, false},
    {"GET", "/version", api_admin_version, false},
    {"GET", "/metrics", api_admin_metrics, false},
    {"GET", "/health", api_admin_health, true},
    {"GET", "/ready", api_admin_ready, true},
    {"GET", "/", api_admin_page, true},
    {"GET", "/app.js", api_admin_page, true},
    {"GET", "/style.css", api_admin_page, true},
};

/* In a time that does not depend on where they differ. */
static bool route_same_key(Str given, const char *key) {
    size_t len = strlen(key);
    unsigned char differ = given.len != len;
    for (size_t i = 0; i < len; i++)
        differ |= (unsigned char)(key[i] ^ (given.len > 0 ? given.ptr[i % given.len] : 0));
    return differ == 0;
}

/* The tenant of a key: the same for this server's life, and of no use to who wants the key. */
static void route_set_tenant(const Server *server, HttpExchange *exchange, const char *key) {
    char tenant[HTTP_TENANT_BYTES];
    size_t len = strlen(key);
    snprintf(tenant, sizeof tenant, "%016llx%016llx",
             (unsigned long long)hash_bytes(key, len, server->id_seed),
             (unsigned long long)hash_bytes(key, len, ~server->id_seed));
    http_set_tenant(exchange, tenant);
}

/* Bearer token or x-api-key; every key is compared, whichever fits, and the one that does says
 * whose request it is. */
static bool route_allowed(const Server *server, HttpExchange *exchange) {
    if (server->options.n_keys == 0) return true;
    const char *bearer = http_header(exchange, "authorization");
    const char *plain = http_header(exchange, "x-api-key");
    Str given = str_from(plain);
    if (bearer != NULL && strncasecmp(bearer, "bearer ", 7) == 0)
        given = str_trim(str_from(bearer + 7));
    const char *found = NULL;
    for (int32_t i = 0; i < server->options.n_keys; i++)
        if (route_same_key(given, server->options.key[i])) found = server->options.key[i];
    if (found != NULL) route_set_tenant(server, exchange, found);
    return found != NULL;
}

/* The row of a path; *path_known: some method has it. "/v1/models/ID" is "/v1/models". */
static const Route *route_find(const char *method, const char *path, bool *path_known) {
    *path_known = false;
    bool model = strncmp(path, "/v1/models/", 11) == 0;
    for (size_t i = 0; i < ARRAY_LEN(ROUTES); i++) {
        if (strcmp(ROUTES[i].path, model ? "/v1/models" : path) != 0) continue;
        *path_known = true;
        if (strcmp(ROUTES[i].method, method) == 0) return &ROUTES[i];
    }
    return NULL;
}

void route_handle(void *context, HttpExchange *exchange) {
    Server *server = context;
    char id[API_ID_BYTES];
    const char *given = http_header(exchange, "x-request-id");
    if (given == NULL || strlen(given) >= sizeof id || given[0] == '\0') {
        server_new_id(server, "req-", id, sizeof id);
    } else {
        snprintf(id, sizeof id, "%s", given);
    }
    http_reply_header(exchange, "x-request-id", id);
    bool path_known;
    const Route *route = route_find(http_method(exchange), http_path(exchange), &path_known);
    if ((route == NULL || !route->open) && !route_allowed(server, exchange)) {
        http_reply_header(exchange, "www-authenticate", "Bearer");
        api_error_reply(exchange, 401, "the API key is missing or not known here", NULL);
    } else if (route != NULL) {
        route->handle(server, exchange);
    } else if (path_known) {
        api_error_reply(exchange, 405, "this path does not take this method", NULL);
    } else {
        api_error_reply(exchange, 404, "there is nothing at this path", NULL);
    }
}
