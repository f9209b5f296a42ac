#include "server/route.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "server/api.h"
#include "server/api_error.h"
#include "server/server_priv.h"

enum {
    ROUTE_KEYED = 0,
    ROUTE_OPEN = 1, /* answers without a key */
    ROUTE_PROBE = 2 /* asked again and again by machines: not news for the log */
};

typedef struct Route {
    const char *method, *path;
    void (*handle)(Server *server, HttpExchange *exchange);
    int flags;
} Route;

static const Route ROUTES[] = {
    {"POST", "/v1/chat/completions", api_chat_handle, ROUTE_KEYED},
    {"POST", "/v1/completions", api_completion_handle, ROUTE_KEYED},
    {"POST", "/v1/messages", api_message_handle, ROUTE_KEYED},
    {"POST", "/v1/messages/count_tokens", api_message_count, ROUTE_KEYED},
    {"POST", "/v1/responses", api_response_handle, ROUTE_KEYED},
    {"POST", "/v1/responses/input_tokens", api_response_count, ROUTE_KEYED},
    {"POST", "/v1/embeddings", api_embedding_handle, ROUTE_KEYED},
    {"GET", "/v1/models", api_admin_models, ROUTE_KEYED},
    {"POST", "/tokenize", api_token_tokenize, ROUTE_KEYED},
    {"POST", "/detokenize", api_token_detokenize, ROUTE_KEYED},
    {"GET", "/version", api_admin_version, ROUTE_KEYED},
    {"GET", "/metrics", api_admin_metrics, ROUTE_PROBE},
    {"GET", "/health", api_admin_health, ROUTE_OPEN | ROUTE_PROBE},
    {"GET", "/ready", api_admin_ready, ROUTE_OPEN | ROUTE_PROBE},
    {"GET", "/", api_admin_page, ROUTE_OPEN},
    {"GET", "/dashboard", api_admin_page, ROUTE_OPEN},
    {"GET", "/dashboard/data", api_dashboard_data, ROUTE_PROBE},
    {"GET", "/chat.js", api_admin_page, ROUTE_OPEN | ROUTE_PROBE},
    {"GET", "/common.js", api_admin_page, ROUTE_OPEN | ROUTE_PROBE},
    {"GET", "/dashboard.js", api_admin_page, ROUTE_OPEN | ROUTE_PROBE},
    {"GET", "/markdown.js", api_admin_page, ROUTE_OPEN | ROUTE_PROBE},
    {"GET", "/style.css", api_admin_page, ROUTE_OPEN | ROUTE_PROBE},
};
_Static_assert(ARRAY_LEN(ROUTES) <= ROUTE_MAX, "ROUTE_MAX is too small");

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
static bool route_allowed(Server *server, HttpExchange *exchange) {
    const char *bearer = http_header(exchange, "authorization");
    const char *plain = http_header(exchange, "x-api-key");
    Str given = str_from(plain);
    if (bearer != NULL && strncasecmp(bearer, "bearer ", 7) == 0)
        given = str_trim(str_from(bearer + 7));
    const char *found = NULL;
    pthread_rwlock_rdlock(&server->keys_lock);
    for (int32_t i = 0; i < server->n_keys; i++)
        if (route_same_key(given, server->key[i])) found = server->key[i];
    if (found != NULL) route_set_tenant(server, exchange, found);
    const bool allowed = found != NULL || server->n_keys == 0;
    pthread_rwlock_unlock(&server->keys_lock);
    return allowed;
}

/* "/v1/models/ID" is "/v1/models". */
static const char *route_stem(const char *path) {
    return strncmp(path, "/v1/models/", 11) == 0 ? "/v1/models" : path;
}

int32_t route_find(const char *method, const char *path) {
    /* libmicrohttpd leaves the body out of the reply to HEAD. */
    if (strcmp(method, "HEAD") == 0) method = "GET";
    for (size_t i = 0; i < ARRAY_LEN(ROUTES); i++)
        if (strcmp(ROUTES[i].path, route_stem(path)) == 0 && strcmp(ROUTES[i].method, method) == 0)
            return (int32_t)i;
    return ROUTE_MAX;
}

/* What a path takes, for the header "allow"; NULL: there is no such path. */
static const char *route_methods(const char *path) {
    for (size_t i = 0; i < ARRAY_LEN(ROUTES); i++)
        if (strcmp(ROUTES[i].path, route_stem(path)) == 0)
            return strcmp(ROUTES[i].method, "GET") == 0 ? "GET, HEAD" : ROUTES[i].method;
    return NULL;
}

const char *route_path(int32_t route) {
    return route == ROUTE_MAX ? "none" : ROUTES[route].path;
}

const char *route_method(int32_t route) {
    return route == ROUTE_MAX ? "" : ROUTES[route].method;
}

bool route_is_probe(int32_t route) {
    return route != ROUTE_MAX && (ROUTES[route].flags & ROUTE_PROBE) != 0;
}

/* The client's own name of the request, if it can stand in a header and in a line of the log. */
static void route_set_id(Server *server, HttpExchange *exchange) {
    char id[API_ID_BYTES];
    const char *given = http_header(exchange, "x-request-id");
    size_t n = 0;
    while (given != NULL && given[n] > ' ' && given[n] < 0x7f && strchr("\"\\", given[n]) == NULL)
        n++;
    if (n == 0 || n >= sizeof id || given[n] != '\0') {
        server_new_id(server, "req-", id, sizeof id);
    } else {
        snprintf(id, sizeof id, "%s", given);
    }
    http_set_id(exchange, id);
    http_reply_header(exchange, "x-request-id", id);
}

void route_handle(void *context, HttpExchange *exchange) {
    Server *server = context;
    route_set_id(server, exchange);
    const char *methods = route_methods(http_path(exchange));
    int32_t row = route_find(http_method(exchange), http_path(exchange));
    const Route *route = row == ROUTE_MAX ? NULL : &ROUTES[row];
    if ((route == NULL || (route->flags & ROUTE_OPEN) == 0) && !route_allowed(server, exchange)) {
        http_reply_header(exchange, "www-authenticate", "Bearer");
        api_error_reply(exchange, 401, "the API key is missing or not known here", NULL);
    } else if (route != NULL) {
        route->handle(server, exchange);
    } else if (methods != NULL) {
        http_reply_header(exchange, "allow", methods);
        api_error_reply(exchange, 405, "this path does not take this method", NULL);
    } else {
        api_error_reply(exchange, 404, "there is nothing at this path", NULL);
    }
}
