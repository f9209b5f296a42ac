/* http_priv: what http.c (sockets, exchanges), http_net.c (the thread that runs libmicrohttpd) and
 * http_watch.c (watcher, workers) share. */
#pragma once

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "server/http.h"
#include "server/http_check.h"

enum { HTTP_HEADERS_MAX = 8, HTTP_PEER_BYTES = 64 };

typedef enum HttpConnState {
    HTTP_CONN_FREE,
    HTTP_CONN_HEADER, /* waiting for a whole header */
    HTTP_CONN_BODY,
    HTTP_CONN_WORK, /* suspended or replying */
    HTTP_CONN_IDLE  /* kept alive between requests */
} HttpConnState;

/* One connection, in a table indexed by its descriptor. Guarded by the server's lock. */
typedef struct HttpConn {
    HttpConnState state;
    uint32_t generation; /* tells a reused descriptor from its predecessor */
    int64_t since_us;    /* of the state */
    int64_t body_bytes;
    const char *target; /* of the request line that came last */
    size_t target_bytes;
    const char *target_fault; /* of the request line that came last, or NULL */
    int32_t target_code;      /* to refuse it with */
    uint64_t acked_bytes;     /* by the client, when it was looked at last */
    int64_t acked_us;         /* when that had grown */
    HttpExchange *exchange;   /* referenced, while state is WORK */
} HttpConn;

typedef enum HttpReplyState {
    HTTP_REPLY_NONE,
    HTTP_REPLY_WHOLE,  /* code, type and data are ready */
    HTTP_REPLY_STREAM, /* begun; data is what the client has not read */
    HTTP_REPLY_ENDED   /* no more data will come */
} HttpReplyState;

struct HttpExchange {
    HttpServer *server;
    atomic_int n_refs;
    struct MHD_Connection *connection; /* of the net thread; valid until `detached` */
    int fd;
    int64_t start_us;
    char *method, *path;
    char peer[HTTP_PEER_BYTES], tenant[HTTP_TENANT_BYTES], id[HTTP_ID_BYTES];
    atomic_bool has_id; /* the client may leave, and be logged, while a worker gives it */
    Buf fields;         /* headers and arguments: kind, name, NUL, value, NUL, and so on */
    Buf body;
    const char *chunks_from;  /* of a chunked body: where the head ended */
    const char *chunks_fault; /* what is wrong with it, or NULL */
    HttpExchange *next;       /* in the workers' queue */
    HttpExchange *next_woken; /* guarded by the server's woken_lock */

    pthread_mutex_t lock; /* guards what follows */
    bool suspended, detached, client_gone;
    HttpReplyState reply;
    bool queued; /* libmicrohttpd has the response */
    int32_t code;
    char *content_type;
    char *header_name[HTTP_HEADERS_MAX], *header_value[HTTP_HEADERS_MAX];
    int32_t n_headers;
    Buf data;                 /* the reply's bytes */
    size_t data_read;         /* of them, given to the net thread */
    int64_t stalled_since_us; /* 0: nothing waits to be read */
    void (*gone)(void *user);
    void *gone_user;
};

/* Whole requests that wait for a worker. Those without a body (pages, probes, figures) have a queue
 * and a worker of their own: they never wait for others' prompts to be read. */
typedef enum HttpQueueKind { HTTP_QUEUE_EMPTY, HTTP_QUEUE_BODY, HTTP_QUEUES } HttpQueueKind;

typedef struct HttpQueue {
    HttpServer *server;
    HttpExchange *head, *tail; /* guarded by the server's lock */
    pthread_cond_t work;
} HttpQueue;

struct HttpServer {
    HttpOptions options;
    HttpCheck check;
    struct MHD_Daemon *daemon;
    int32_t port;
    int listen_fd; /* -1: none; closed with the server, for the net thread knows it until then */
    bool listening;
    struct HttpTls *tls; /* or NULL */

    pthread_mutex_t lock; /* guards the table, the queue and the figures */
    HttpConn *conn;       /* [n_conns] by descriptor */
    int32_t n_conns;
    HttpQueue queue[HTTP_QUEUES];
    bool stop;
    HttpStats stats;

    int epoll_fd, stop_fd;
    pthread_t watcher, *worker;
    int32_t n_started; /* workers */

    pthread_t net;
    bool has_net;
    bool net_again; /* the net thread's: libmicrohttpd wants to be run once more, at once */
    int net_epoll_fd, wake_fd;
    pthread_mutex_t woken_lock; /* guards what follows; inside an exchange's lock */
    HttpExchange *woken;        /* referenced; to be resumed by the net thread */
    bool net_stop;
};

/* Marks the client as gone: runs `gone`, wakes the connection so that libmicrohttpd drops it. */
void http_exchange_gone(HttpExchange *exchange);
/* Has the net thread resume the connection if it waits. The exchange's lock is held. */
void http_net_wake(HttpExchange *exchange);
MUST_USE Status http_net_start(HttpServer *server, Err *err);
/* Ends the net thread and resumes every connection, so that libmicrohttpd may stop. */
void http_net_stop(HttpServer *server);

/* The exchange's connection is watched for a client that leaves, until http_watch_drop. */
void http_watch(HttpServer *server, HttpExchange *exchange);
void http_watch_drop(HttpServer *server, HttpExchange *exchange);
/* To the workers; takes the caller's reference. */
void http_watch_enqueue(HttpServer *server, HttpExchange *exchange);

MUST_USE Status http_watch_start(HttpServer *server, Err *err);
void http_watch_stop(HttpServer *server);
