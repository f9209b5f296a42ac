/* http: libmicrohttpd behind one small face: listen, limits, TLS, streams, and who has hung up.
 *
 * One net thread reads and writes sockets; a request whose body is whole goes to one of the
 * workers, which calls the handler; the reply may be given from any thread, at once or as a stream.
 * A watcher thread sees clients that leave and cuts those that are too slow.
 *
 * An exchange is one request and its reply. It is counted: the handler gets a reference for the
 * time of its call, whoever replies later takes one with http_ref. */
#pragma once

#include "base/buf.h"
#include "base/status.h"

enum { HTTP_TENANT_BYTES = 40, HTTP_ID_BYTES = 48 };

typedef struct HttpServer HttpServer;
typedef struct HttpExchange HttpExchange;

/* Runs on a worker, with the whole request. Must reply, or keep a reference and reply later. */
typedef void (*HttpHandler)(void *context, HttpExchange *exchange);

/* What a client may take. Times are in microseconds. */
typedef struct HttpLimits {
    int32_t url_bytes_max, header_count_max, header_bytes_max;
    size_t body_bytes_max;
    size_t pending_bytes_max; /* of a stream not yet read by the client: then it is cut */
    int32_t connections_max, connections_per_address_max;
    int64_t header_us_max; /* until the header is whole */
    int64_t idle_us_max;   /* between two requests of a connection */
    int64_t stall_us_max;  /* in which the client reads nothing of what waits for it */
    int32_t body_rate_min; /* bytes per second, after header_us_max */
} HttpLimits;

typedef struct HttpOptions {
    const char *address;            /* "127.0.0.1", "::1", "0.0.0.0" */
    int32_t port;                   /* 0: any free one, see http_port */
    const char *tls_cert, *tls_key; /* PEM text, or NULL: no TLS */
    int32_t n_workers;              /* for requests with a body; those without have one more */
    HttpLimits limits;
    HttpHandler handler;
    void *context;
    /* For errors that never reach the handler (too large, malformed): appends the body of such a
     * reply to out and returns its content type. */
    const char *(*error_body)(void *context, int32_t code, const char *text, Buf *out);
    /* A request is over, on the net thread. code: of the reply; HTTP_CODE_GONE: the client left
     * before its end. May be NULL. */
    void (*done)(void *context, const HttpExchange *exchange, int32_t code);
} HttpOptions;

enum { HTTP_CODE_GONE = 499 };

/* The defaults of every limit, with the address, handler and context left empty. */
HttpOptions http_options_default(void);

MUST_USE Status http_open(HttpServer **out, const HttpOptions *options, Err *err);
int32_t http_port(const HttpServer *server);
/* Another certificate and key for the connections that come; only a server that has TLS. */
MUST_USE Status http_set_tls(HttpServer *server, const char *cert, const char *key, Err *err);
/* No new connections from now on; those there go on. */
void http_stop_listening(HttpServer *server);
/* Ends every request that is open, as if its client had left. */
void http_cut(HttpServer *server);
/* Ends every connection. All references to exchanges must be gone, except those of the server. */
void http_close(HttpServer *server);

/* ---- the request; its body until the handler returns ---- */

const char *http_method(const HttpExchange *exchange);
const char *http_path(const HttpExchange *exchange); /* without the query */
Str http_body(const HttpExchange *exchange);
/* A header's value by its name in any case; NULL: absent. */
const char *http_header(const HttpExchange *exchange, const char *name);
/* An argument of the query by its name in any case; NULL: absent. */
const char *http_query(const HttpExchange *exchange, const char *name);
/* The client's address as text. */
const char *http_peer(const HttpExchange *exchange);
int64_t http_start_us(const HttpExchange *exchange);
/* Who asks: set by the handler before others see the exchange; cut at HTTP_TENANT_BYTES - 1. "":
 * nobody in particular. */
void http_set_tenant(HttpExchange *exchange, const char *tenant);
const char *http_tenant(const HttpExchange *exchange);
/* What the request is called in the log: set once, likewise, cut at HTTP_ID_BYTES - 1. */
void http_set_id(HttpExchange *exchange, const char *id);
const char *http_id(const HttpExchange *exchange);

/* ---- the reply, from any thread ---- */

void http_ref(HttpExchange *exchange);
void http_unref(HttpExchange *exchange);

/* Adds a header to the reply that follows; at most 8. The texts are copied. */
void http_reply_header(HttpExchange *exchange, const char *name, const char *value);
/* The whole reply. Takes the body's memory. */
void http_reply(HttpExchange *exchange, int32_t code, const char *content_type, Buf *body);

/* A streamed reply: begin, any number of writes, end. Writes to a client that is gone are
 * dropped. */
void http_stream_begin(HttpExchange *exchange, int32_t code, const char *content_type);
void http_stream_write(HttpExchange *exchange, Str data);
void http_stream_end(HttpExchange *exchange);

/* Calls gone(user) once when the client leaves before the reply's end, on the watcher thread; at
 * once when it already has. NULL takes it back: after that call gone does not run any more. */
void http_on_gone(HttpExchange *exchange, void (*gone)(void *user), void *user);

/* Live figures. */
typedef struct HttpStats {
    int64_t n_connections, n_connections_total, n_requests, n_refused, n_cut;
    int64_t n_open; /* requests whose reply is not sent yet */
} HttpStats;
HttpStats http_stats(const HttpServer *server);
