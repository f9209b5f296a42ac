#include "server/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/http_check.h"
#include "server/http_priv.h"
#include "server/http_tls.h"

/* HTTP_STREAM_BLOCK: of each stream, though only clients of HTTP/1.0 are written to through it.
 * HTTP_STREAM_KEEP: so much memory stays with a stream whose client has read all.
 * HTTP_DISCARD_BODIES: a body of up to that many times its limit is read and dropped. */
enum {
    HTTP_BACKLOG = 4096,
    HTTP_STREAM_BLOCK = 512,
    HTTP_STREAM_KEEP = 2048,
    HTTP_DISCARD_BODIES = 4
};
static const char HTTP_TOO_LARGE[] = "the body is too large";

HttpOptions http_options_default(void) {
    return (HttpOptions){.address = "127.0.0.1",
                         .port = 8000,
                         .n_workers = 2,
                         .limits = {.url_bytes_max = 4096,
                                    .header_count_max = 100,
                                    .header_bytes_max = 16384,
                                    .body_bytes_max = 16 << 20,
                                    .pending_bytes_max = 1 << 20,
                                    .connections_max = 4096,
                                    .connections_per_address_max = 256,
                                    .header_us_max = 10 * 1000000,
                                    .idle_us_max = 75 * 1000000,
                                    .stall_us_max = 30 * 1000000,
                                    .body_rate_min = 1024}};
}

/* ---- exchanges ---- */

static HttpExchange *http_exchange_open(HttpServer *server, struct MHD_Connection *connection,
                                        const char *method, const char *path) {
    HttpExchange *exchange = mem_alloc(sizeof *exchange);
    exchange->server = server;
    atomic_init(&exchange->n_refs, 1);
    exchange->connection = connection;
    exchange->start_us = clock_us();
    exchange->method = mem_strdup(method);
    exchange->path = mem_strdup(path);
    exchange->body.bytes_max = server->options.limits.body_bytes_max;
    pthread_mutex_init(&exchange->lock, NULL);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    exchange->fd = info->connect_fd;
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    socklen_t len = info->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                             : sizeof(struct sockaddr_in);
    if (getnameinfo(info->client_addr, len, exchange->peer, sizeof exchange->peer, NULL, 0,
                    NI_NUMERICHOST) != 0)
        exchange->peer[0] = '\0';
    return exchange;
}

void http_ref(HttpExchange *exchange) {
    atomic_fetch_add(&exchange->n_refs, 1);
}

void http_unref(HttpExchange *exchange) {
    if (atomic_fetch_sub(&exchange->n_refs, 1) != 1) return;
    mem_free(exchange->method);
    mem_free(exchange->path);
    mem_free(exchange->content_type);
    for (int32_t i = 0; i < exchange->n_headers; i++) {
        mem_free(exchange->header_name[i]);
        mem_free(exchange->header_value[i]);
    }
    buf_free(&exchange->fields);
    buf_free(&exchange->body);
    buf_free(&exchange->data);
    pthread_mutex_destroy(&exchange->lock);
    mem_free(exchange);
}

void http_exchange_gone(HttpExchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    if (!exchange->client_gone) {
        exchange->client_gone = true;
        if (exchange->gone != NULL) exchange->gone(exchange->gone_user);
        exchange->gone = NULL;
        http_net_wake(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void http_on_gone(HttpExchange *exchange, void (*gone)(void *user), void *user) {
    pthread_mutex_lock(&exchange->lock);
    if (gone != NULL && exchange->client_gone) {
        gone(user);
    } else {
        exchange->gone = gone;
        exchange->gone_user = user;
    }
    pthread_mutex_unlock(&exchange->lock);
}

const char *http_method(const HttpExchange *exchange) {
    return exchange->method;
}

const char *http_path(const HttpExchange *exchange) {
    return exchange->path;
}

Str http_body(const HttpExchange *exchange) {
    return buf_str(&exchange->body);
}

enum { HTTP_FIELD_HEADER = 'h', HTTP_FIELD_ARGUMENT = 'a' };

static enum MHD_Result http_keep_field(void *context, enum MHD_ValueKind kind, const char *name,
                                       const char *value) {
    Buf *fields = context;
    buf_append_byte(fields, kind == MHD_HEADER_KIND ? HTTP_FIELD_HEADER : HTTP_FIELD_ARGUMENT);
    buf_append(fields, name, strlen(name) + 1);
    buf_append(fields, value == NULL ? "" : value, value == NULL ? 1 : strlen(value) + 1);
    return MHD_YES;
}

/* Copies what a worker may ask for: by then the client may have left, and its connection with it.
 */
static void http_keep_fields(HttpExchange *exchange) {
    MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, http_keep_field,
                              &exchange->fields);
    MHD_get_connection_values(exchange->connection, MHD_GET_ARGUMENT_KIND, http_keep_field,
                              &exchange->fields);
}

static const char *http_find_field(const HttpExchange *exchange, char kind, const char *name) {
    const Buf *fields = &exchange->fields;
    for (const char *at = fields->data; fields->len > 0 && at < fields->data + fields->len;) {
        const char *field = at + 1, *value = field + strlen(field) + 1;
        if (*at == kind && strcasecmp(field, name) == 0) return value;
        at = value + strlen(value) + 1;
    }
    return NULL;
}

const char *http_header(const HttpExchange *exchange, const char *name) {
    return http_find_field(exchange, HTTP_FIELD_HEADER, name);
}

const char *http_query(const HttpExchange *exchange, const char *name) {
    return http_find_field(exchange, HTTP_FIELD_ARGUMENT, name);
}

const char *http_peer(const HttpExchange *exchange) {
    return exchange->peer;
}

void http_set_tenant(HttpExchange *exchange, const char *tenant) {
    snprintf(exchange->tenant, sizeof exchange->tenant, "%s", tenant);
}

const char *http_tenant(const HttpExchange *exchange) {
    return exchange->tenant;
}

void http_set_id(HttpExchange *exchange, const char *id) {
    snprintf(exchange->id, sizeof exchange->id, "%s", id);
    atomic_store(&exchange->has_id, true);
}

const char *http_id(const HttpExchange *exchange) {
    return atomic_load(&exchange->has_id) ? exchange->id : "";
}

int64_t http_start_us(const HttpExchange *exchange) {
    return exchange->start_us;
}

/* ---- replying ---- */

void http_reply_header(HttpExchange *exchange, const char *name, const char *value) {
    pthread_mutex_lock(&exchange->lock);
    CHECK(exchange->n_headers < HTTP_HEADERS_MAX);
    exchange->header_name[exchange->n_headers] = mem_strdup(name);
    exchange->header_value[exchange->n_headers++] = mem_strdup(value);
    pthread_mutex_unlock(&exchange->lock);
}

void http_reply(HttpExchange *exchange, int32_t code, const char *content_type, Buf *body) {
    pthread_mutex_lock(&exchange->lock);
    CHECK(exchange->reply == HTTP_REPLY_NONE);
    exchange->reply = HTTP_REPLY_WHOLE;
    exchange->code = code;
    exchange->content_type = mem_strdup(content_type);
    exchange->data = *body;
    exchange->gone = NULL;
    *body = (Buf){0};
    http_net_wake(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

void http_stream_begin(HttpExchange *exchange, int32_t code, const char *content_type) {
    pthread_mutex_lock(&exchange->lock);
    CHECK(exchange->reply == HTTP_REPLY_NONE);
    exchange->reply = HTTP_REPLY_STREAM;
    exchange->code = code;
    exchange->content_type = mem_strdup(content_type);
    http_net_wake(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

void http_stream_write(HttpExchange *exchange, Str data) {
    bool too_much = false;
    pthread_mutex_lock(&exchange->lock);
    CHECK(exchange->reply == HTTP_REPLY_STREAM);
    if (!exchange->client_gone) {
        if (exchange->data_read == exchange->data.len) {
            if (exchange->data.cap > HTTP_STREAM_KEEP) buf_free(&exchange->data);
            buf_clear(&exchange->data);
            exchange->data_read = 0;
            exchange->stalled_since_us = clock_us();
        }
        too_much = exchange->data.len - exchange->data_read + data.len >
                   exchange->server->options.limits.pending_bytes_max;
        if (!too_much) {
            buf_append_str(&exchange->data, data);
            http_net_wake(exchange);
        } else if (!exchange->detached) { /* later the descriptor may be another client's */
            shutdown(exchange->fd, SHUT_RDWR);
        }
    }
    pthread_mutex_unlock(&exchange->lock);
    if (too_much) http_exchange_gone(exchange);
}

void http_stream_end(HttpExchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    CHECK(exchange->reply == HTTP_REPLY_STREAM);
    exchange->reply = HTTP_REPLY_ENDED;
    exchange->gone = NULL;
    http_net_wake(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

/* libmicrohttpd asks for more of a stream. */
static ssize_t http_read_stream(void *context, uint64_t at, char *out, size_t room) {
    (void)at;
    HttpExchange *exchange = context;
    ssize_t n = 0;
    pthread_mutex_lock(&exchange->lock);
    size_t waiting = exchange->data.len - exchange->data_read;
    if (exchange->client_gone) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (waiting > 0) {
        n = (ssize_t)MIN(waiting, room);
        memcpy(out, exchange->data.data + exchange->data_read, (size_t)n);
        exchange->data_read += (size_t)n;
        exchange->stalled_since_us = exchange->data_read < exchange->data.len ? clock_us() : 0;
    } else if (exchange->reply == HTTP_REPLY_ENDED) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    return n;
}

static void http_stream_free(void *context) {
    http_unref(context);
}

/* Hands the reply that is ready to libmicrohttpd. The net thread's, without the exchange's lock:
 * libmicrohttpd holds a lock of its own when it asks for more of a stream. */
static enum MHD_Result http_queue_reply(HttpExchange *exchange, bool whole) {
    struct MHD_Response *response;
    if (whole) {
        response = MHD_create_response_from_buffer(exchange->data.len, exchange->data.data,
                                                   MHD_RESPMEM_MUST_COPY);
    } else {
        http_ref(exchange);
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, HTTP_STREAM_BLOCK,
                                                     http_read_stream, exchange, http_stream_free);
    }
    if (response == NULL) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, exchange->content_type);
    for (int32_t i = 0; i < exchange->n_headers; i++)
        MHD_add_response_header(response, exchange->header_name[i], exchange->header_value[i]);
    enum MHD_Result result =
        MHD_queue_response(exchange->connection, (unsigned)exchange->code, response);
    MHD_destroy_response(response);
    return result;
}

/* A reply that the handler never sees: the request is too large or makes no sense. */
static enum MHD_Result http_refuse(HttpExchange *exchange, int32_t code, const char *text) {
    HttpServer *server = exchange->server;
    Buf body = {0};
    const char *type = server->options.error_body(server->options.context, code, text, &body);
    http_reply_header(exchange, "connection", "close");
    http_reply(exchange, code, type, &body);
    pthread_mutex_lock(&server->lock);
    server->stats.n_refused++;
    pthread_mutex_unlock(&server->lock);
    return http_queue_reply(exchange, true);
}

/* The header is whole. */
static enum MHD_Result http_begin(HttpServer *server, struct MHD_Connection *connection,
                                  HttpExchange *exchange, const char *method, const char *version) {
    pthread_mutex_lock(&server->lock);
    HttpConn *conn = &server->conn[exchange->fd];
    conn->state = HTTP_CONN_BODY;
    conn->since_us = exchange->start_us;
    conn->body_bytes = 0;
    server->stats.n_requests++;
    HttpLine line = {method, conn->target, version, conn->target_bytes};
    const char *unsound = conn->target_fault;
    int32_t code = conn->target_code;
    pthread_mutex_unlock(&server->lock);
    if (unsound == NULL) unsound = http_check_header(&server->check, connection, &line, &code);
    if (unsound != NULL) return http_refuse(exchange, code, unsound);
    if (http_check_is_chunked(connection)) {
        const union MHD_ConnectionInfo *size =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
        exchange->chunks_from = method + size->header_size;
        http_reply_header(exchange, "connection", "close");
    }
    const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "content-length");
    int64_t bytes = 0;
    if (length == NULL || !str_to_i64(str_from(length), &bytes)) bytes = 0;
    int64_t bytes_max = (int64_t)server->options.limits.body_bytes_max;
    /* Who sends without waiting sees the reply only when all was taken: up to a size, that is. */
    bool waits = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "expect") != NULL;
    if (bytes > bytes_max && (waits || bytes / HTTP_DISCARD_BODIES > bytes_max))
        return http_refuse(exchange, 413, HTTP_TOO_LARGE);
    exchange->body.failed = bytes > bytes_max;
    return MHD_YES;
}

static enum MHD_Result http_take_body(HttpServer *server, HttpExchange *exchange, const char *data,
                                      size_t *len) {
    buf_append(&exchange->body, data, *len);
    if (exchange->chunks_from != NULL && exchange->chunks_fault == NULL)
        exchange->chunks_fault = http_check_chunk(exchange->chunks_from, data);
    pthread_mutex_lock(&server->lock);
    server->conn[exchange->fd].body_bytes += (int64_t)*len;
    pthread_mutex_unlock(&server->lock);
    *len = 0;
    return MHD_YES;
}

/* libmicrohttpd's access handler: once for the header, then for pieces of the body, once at its
 * end, and again after each resume until a response is queued. */
static enum MHD_Result http_access(void *context, struct MHD_Connection *connection,
                                   const char *url, const char *method, const char *version,
                                   const char *data, size_t *len, void **slot) {
    HttpServer *server = context;
    HttpExchange *exchange = *slot;
    if (exchange == NULL) {
        exchange = http_exchange_open(server, connection, method, url);
        *slot = exchange;
        return http_begin(server, connection, exchange, method, version);
    }
    if (*len > 0) return http_take_body(server, exchange, data, len);
    if (exchange->chunks_fault != NULL) return http_refuse(exchange, 400, exchange->chunks_fault);
    bool first = false, large = false, ready = false, whole = false, gone;
    pthread_mutex_lock(&exchange->lock);
    gone = exchange->client_gone;
    if (gone) {
        /* nobody to reply to */
    } else if (exchange->reply != HTTP_REPLY_NONE) {
        ready = !exchange->queued;
        whole = exchange->reply == HTTP_REPLY_WHOLE;
        exchange->queued = true;
    } else if (!exchange->suspended) {
        large = exchange->body.failed;
        first = !large;
        exchange->suspended = first;
        if (first) MHD_suspend_connection(connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    if (large) return http_refuse(exchange, 413, HTTP_TOO_LARGE);
    if (first) {
        http_keep_fields(exchange);
        http_watch(server, exchange);
        http_ref(exchange);
        http_watch_enqueue(server, exchange);
    }
    if (ready) return http_queue_reply(exchange, whole);
    return gone ? MHD_NO : MHD_YES;
}

/* The request is over, for whatever reason. */
static void http_completed(void *context, struct MHD_Connection *connection, void **slot,
                           enum MHD_RequestTerminationCode reason) {
    (void)connection;
    HttpServer *server = context;
    HttpExchange *exchange = *slot;
    if (exchange == NULL) return;
    *slot = NULL;
    if (reason != MHD_REQUEST_TERMINATED_COMPLETED_OK) http_exchange_gone(exchange);
    pthread_mutex_lock(&exchange->lock);
    exchange->detached = true;
    int32_t code = reason == MHD_REQUEST_TERMINATED_COMPLETED_OK ? exchange->code : HTTP_CODE_GONE;
    pthread_mutex_unlock(&exchange->lock);
    if (server->options.done != NULL) server->options.done(server->options.context, exchange, code);
    http_watch_drop(server, exchange);
    http_unref(exchange);
}

static void http_connection(void *context, struct MHD_Connection *connection, void **slot,
                            enum MHD_ConnectionNotificationCode code) {
    HttpServer *server = context;
    *slot = server; /* for http_tls_retrieve */
    int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    pthread_mutex_lock(&server->lock);
    HttpConn *conn = &server->conn[fd];
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *conn = (HttpConn){
            .state = HTTP_CONN_HEADER, .generation = conn->generation + 1, .since_us = clock_us()};
        server->stats.n_connections++;
        server->stats.n_connections_total++;
    } else {
        conn->state = HTTP_CONN_FREE;
        server->stats.n_connections--;
        server->net_again = true; /* it listens again where there were too many */
    }
    pthread_mutex_unlock(&server->lock);
}

/* A request line has come: the header's time runs from here on a kept-alive connection. */
static void *http_request_line(void *context, const char *uri, struct MHD_Connection *connection) {
    HttpServer *server = context;
    int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    pthread_mutex_lock(&server->lock);
    HttpConn *conn = &server->conn[fd];
    conn->target = uri;
    conn->target_bytes = uri == NULL ? 0 : strlen(uri);
    conn->target_fault = http_check_target(&server->check, uri, &conn->target_code);
    if (conn->state == HTTP_CONN_IDLE) {
        conn->state = HTTP_CONN_HEADER;
        conn->since_us = clock_us();
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

/* ---- the server ---- */

static Status http_listen(const HttpOptions *options, int *out, int32_t *port, Err *err) {
    char service[16];
    snprintf(service, sizeof service, "%d", options->port);
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *address;
    if (getaddrinfo(options->address, service, &hints, &address) != 0)
        FAIL(err, ERR_ARG, "'%s' is not an address to listen at", options->address);
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    bool good = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                bind(fd, address->ai_addr, address->ai_addrlen) == 0 &&
                listen(fd, HTTP_BACKLOG) == 0 &&
                getsockname(fd, (struct sockaddr *)&bound, &len) == 0;
    int error = errno;
    freeaddrinfo(address);
    if (!good) {
        if (fd >= 0) close(fd);
        FAIL(err, ERR_IO, "cannot listen at %s port %d: %s", options->address, options->port,
             strerror(error));
    }
    *out = fd;
    *port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                              : ((struct sockaddr_in *)&bound)->sin_port);
    return OK;
}

/* TLS 1.2 and 1.3. */
static const char HTTP_TLS_PRIORITIES[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

static Status http_start(HttpServer *server, Err *err) {
    const HttpOptions *options = &server->options;
    bool tls = server->tls != NULL;
    struct MHD_OptionItem tls_items[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)(uintptr_t)http_tls_retrieve},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)HTTP_TLS_PRIORITIES},
        {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem no_items[] = {{MHD_OPTION_END, 0, NULL}};
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | (tls ? MHD_USE_TLS : 0), 0, NULL, NULL,
        http_access, server, MHD_OPTION_LISTEN_SOCKET, server->listen_fd,
        MHD_OPTION_NOTIFY_COMPLETED, http_completed, server, MHD_OPTION_NOTIFY_CONNECTION,
        http_connection, server, MHD_OPTION_URI_LOG_CALLBACK, http_request_line, server,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->limits.connections_max,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)options->limits.connections_per_address_max,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, http_check_memory(&server->check),
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, tls ? tls_items : no_items,
        MHD_OPTION_END);
    if (server->daemon == NULL) FAIL(err, ERR_IO, "cannot start the server");
    server->listening = true;
    return http_net_start(server, err);
}

Status http_open(HttpServer **out, const HttpOptions *options, Err *err) {
    HttpServer *server = mem_alloc(sizeof *server);
    server->options = *options;
    http_check_init(&server->check, &options->limits);
    server->epoll_fd = server->stop_fd = server->listen_fd = -1;
    server->net_epoll_fd = server->wake_fd = -1;
    pthread_mutex_init(&server->lock, NULL);
    for (int32_t i = 0; i < HTTP_QUEUES; i++) {
        server->queue[i].server = server;
        pthread_cond_init(&server->queue[i].work, NULL);
    }
    pthread_mutex_init(&server->woken_lock, NULL);
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    server->n_conns = (int32_t)MIN(MAX(files.rlim_cur, (rlim_t)1024), (rlim_t)1 << 20);
    server->conn = mem_alloc((size_t)server->n_conns * sizeof *server->conn);
    Status status = OK;
    if (options->tls_cert != NULL)
        status = http_tls_open(&server->tls, options->tls_cert, options->tls_key, err);
    if (status == OK) status = http_listen(options, &server->listen_fd, &server->port, err);
    if (status == OK) status = http_watch_start(server, err);
    /* The first request may come before this returns, and its handler wants the server. */
    *out = server;
    if (status == OK) status = http_start(server, err);
    if (status == OK) return OK;
    *out = NULL;
    http_close(server);
    return status;
}

Status http_set_tls(HttpServer *server, const char *cert, const char *key, Err *err) {
    CHECK(server->tls != NULL);
    return http_tls_set(server->tls, cert, key, err);
}

int32_t http_port(const HttpServer *server) {
    return server->port;
}

void http_stop_listening(HttpServer *server) {
    if (!server->listening) return;
    server->listening = false;
    /* The net thread may be about to use the descriptor: it must not become another's. */
    if (MHD_quiesce_daemon(server->daemon) != MHD_INVALID_SOCKET)
        shutdown(server->listen_fd, SHUT_RDWR);
}

void http_cut(HttpServer *server) {
    for (int32_t fd = 0; fd < server->n_conns; fd++) {
        pthread_mutex_lock(&server->lock);
        HttpExchange *exchange = server->conn[fd].exchange;
        if (exchange != NULL) http_ref(exchange);
        pthread_mutex_unlock(&server->lock);
        if (exchange == NULL) continue;
        http_exchange_gone(exchange);
        http_unref(exchange);
    }
}

void http_close(HttpServer *server) {
    if (server->daemon != NULL) {
        http_stop_listening(server);
        http_cut(server);
    }
    http_watch_stop(server);
    if (server->daemon != NULL) {
        http_net_stop(server);
        MHD_stop_daemon(server->daemon);
    }
    if (server->listen_fd >= 0) close(server->listen_fd);
    for (int32_t i = 0; i < HTTP_QUEUES; i++) pthread_cond_destroy(&server->queue[i].work);
    pthread_mutex_destroy(&server->woken_lock);
    pthread_mutex_destroy(&server->lock);
    mem_free(server->conn);
    http_tls_close(server->tls);
    mem_free(server);
}

HttpStats http_stats(const HttpServer *server) {
    HttpServer *mutable_server = (HttpServer *)(uintptr_t)server;
    pthread_mutex_lock(&mutable_server->lock);
    HttpStats stats = server->stats;
    pthread_mutex_unlock(&mutable_server->lock);
    return stats;
}
