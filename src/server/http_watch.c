/* The watcher sees clients that leave (libmicrohttpd does not look at a suspended connection) and
 * cuts those that are too slow; the workers run the handler. */
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/http_priv.h"

enum { HTTP_WATCH_EVENTS = 64, HTTP_WATCH_PERIOD_MS = 250 };
/* tcpi_state; the header that names them clashes with the one of struct tcp_info. */
enum { HTTP_TCP_CLOSE = 7, HTTP_TCP_CLOSE_WAIT = 8 };

void http_watch(HttpServer *server, HttpExchange *exchange) {
    pthread_mutex_lock(&server->lock);
    HttpConn *conn = &server->conn[exchange->fd];
    conn->state = HTTP_CONN_WORK;
    conn->since_us = clock_us();
    conn->acked_us = 0;
    if (conn->exchange == NULL) {
        http_ref(exchange);
        conn->exchange = exchange;
        server->stats.n_open++;
        struct epoll_event event = {
            .events = EPOLLRDHUP | EPOLLONESHOT,
            .data.u64 = (uint64_t)conn->generation << 32 | (uint32_t)exchange->fd};
        epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, exchange->fd, &event);
    }
    pthread_mutex_unlock(&server->lock);
}

void http_watch_drop(HttpServer *server, HttpExchange *exchange) {
    pthread_mutex_lock(&server->lock);
    HttpConn *conn = &server->conn[exchange->fd];
    bool watched = conn->exchange == exchange;
    if (watched) {
        epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, exchange->fd, NULL);
        conn->exchange = NULL;
        server->stats.n_open--;
    }
    if (conn->state != HTTP_CONN_FREE) {
        conn->state = HTTP_CONN_IDLE;
        conn->since_us = clock_us();
    }
    pthread_mutex_unlock(&server->lock);
    if (watched) http_unref(exchange);
}

/* The exchange of a watched descriptor with a reference, or NULL when it is another by now. */
static HttpExchange *http_watched(HttpServer *server, uint64_t key) {
    int32_t fd = (int32_t)(uint32_t)key;
    uint32_t generation = (uint32_t)(key >> 32);
    pthread_mutex_lock(&server->lock);
    HttpConn *conn = &server->conn[fd];
    HttpExchange *exchange = conn->generation == generation ? conn->exchange : NULL;
    if (exchange != NULL) http_ref(exchange);
    pthread_mutex_unlock(&server->lock);
    return exchange;
}

/* Since when the client read nothing of a reply that libmicrohttpd has in its hands; 0: it reads.
 */
static int64_t http_unread_since(HttpConn *conn, int32_t fd, int64_t now_us) {
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) return 0;
    if (conn->acked_us == 0 || info.tcpi_bytes_acked != conn->acked_bytes) {
        conn->acked_bytes = info.tcpi_bytes_acked;
        conn->acked_us = now_us;
    }
    return conn->acked_us;
}

/* Since when the client of a reply has read nothing of what waits for it; 0: nothing waits. */
static int64_t http_stalled_since(HttpConn *conn, int64_t now_us) {
    HttpExchange *exchange = conn->exchange;
    if (exchange == NULL) return 0;
    pthread_mutex_lock(&exchange->lock);
    int64_t since_us = exchange->stalled_since_us;
    bool whole = exchange->reply == HTTP_REPLY_WHOLE || exchange->reply == HTTP_REPLY_ENDED;
    pthread_mutex_unlock(&exchange->lock);
    return since_us == 0 && whole ? http_unread_since(conn, exchange->fd, now_us) : since_us;
}

/* Whether the connection has used up its time in the state it is in. */
static bool http_too_slow(const HttpServer *server, HttpConn *conn, int64_t now_us) {
    const HttpLimits *limits = &server->options.limits;
    int64_t us = now_us - conn->since_us;
    switch (conn->state) {
        case HTTP_CONN_HEADER: return us > limits->header_us_max;
        case HTTP_CONN_IDLE: return us > limits->idle_us_max;
        case HTTP_CONN_BODY:
            return us > limits->header_us_max &&
                   conn->body_bytes < us / 1000 * limits->body_rate_min / 1000;
        case HTTP_CONN_WORK: {
            int64_t since_us = http_stalled_since(conn, now_us);
            return since_us != 0 && now_us - since_us > limits->stall_us_max;
        }
        case HTTP_CONN_FREE: break;
    }
    return false;
}

/* Whether the client of a connection that is still to bring its request has gone. libmicrohttpd
 * misses it when the last bytes and the end came at once: the edge it waits for was the same. */
static bool http_left_unseen(const HttpConn *conn, int32_t fd) {
    if (conn->state != HTTP_CONN_HEADER && conn->state != HTTP_CONN_BODY) return false;
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           (info.tcpi_state == HTTP_TCP_CLOSE_WAIT || info.tcpi_state == HTTP_TCP_CLOSE);
}

/* Cuts one connection that is too slow or whose client has left, from descriptor `fd` on; returns
 * where to go on, or -1. */
static int32_t http_cut_next(HttpServer *server, int32_t fd, int64_t now_us) {
    HttpExchange *exchange = NULL;
    pthread_mutex_lock(&server->lock);
    bool slow = false;
    while (fd < server->n_conns && !(slow = http_too_slow(server, &server->conn[fd], now_us)) &&
           !http_left_unseen(&server->conn[fd], fd))
        fd++;
    if (fd < server->n_conns) {
        exchange = server->conn[fd].exchange;
        if (exchange != NULL) http_ref(exchange);
        server->conn[fd].since_us = now_us; /* not again at the next look */
        server->stats.n_cut += slow;
        shutdown(fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&server->lock);
    if (exchange != NULL) {
        http_exchange_gone(exchange);
        http_unref(exchange);
    }
    return fd < server->n_conns ? fd + 1 : -1;
}

static void *http_watcher_main(void *context) {
    HttpServer *server = context;
    struct epoll_event event[HTTP_WATCH_EVENTS];
    int64_t looked_us = clock_us();
    for (;;) {
        int n = epoll_wait(server->epoll_fd, event, HTTP_WATCH_EVENTS, HTTP_WATCH_PERIOD_MS);
        for (int i = 0; i < n; i++) {
            if (event[i].data.u64 == UINT64_MAX) return NULL; /* stop_fd */
            HttpExchange *exchange = http_watched(server, event[i].data.u64);
            if (exchange == NULL) continue;
            http_exchange_gone(exchange);
            http_unref(exchange);
        }
        int64_t now_us = clock_us();
        if (now_us - looked_us < HTTP_WATCH_PERIOD_MS * 1000) continue;
        looked_us = now_us;
        for (int32_t fd = 0; fd >= 0;) fd = http_cut_next(server, fd, now_us);
    }
}

void http_watch_enqueue(HttpServer *server, HttpExchange *exchange) {
    HttpQueue *queue = &server->queue[exchange->body.len > 0 ? HTTP_QUEUE_BODY : HTTP_QUEUE_EMPTY];
    pthread_mutex_lock(&server->lock);
    exchange->next = NULL;
    if (queue->tail != NULL) {
        queue->tail->next = exchange;
    } else {
        queue->head = exchange;
    }
    queue->tail = exchange;
    pthread_cond_signal(&queue->work);
    pthread_mutex_unlock(&server->lock);
}

static void *http_worker_main(void *context) {
    HttpQueue *queue = context;
    HttpServer *server = queue->server;
    for (;;) {
        pthread_mutex_lock(&server->lock);
        while (queue->head == NULL && !server->stop) pthread_cond_wait(&queue->work, &server->lock);
        HttpExchange *exchange = queue->head;
        if (exchange != NULL) {
            queue->head = exchange->next;
            if (queue->head == NULL) queue->tail = NULL;
        }
        pthread_mutex_unlock(&server->lock);
        if (exchange == NULL) return NULL;
        server->options.handler(server->options.context, exchange);
        buf_free(&exchange->body);
        http_unref(exchange);
    }
}

Status http_watch_start(HttpServer *server, Err *err) {
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->stop_fd = eventfd(0, EFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    if (server->epoll_fd < 0 || server->stop_fd < 0 ||
        epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->stop_fd, &event) != 0)
        FAIL(err, ERR_IO, "cannot make the server's watcher: %s", strerror(errno));
    const int32_t n_workers = 1 + server->options.n_workers;
    server->worker = mem_alloc((size_t)n_workers * sizeof *server->worker);
    if (pthread_create(&server->watcher, NULL, http_watcher_main, server) != 0)
        FAIL(err, ERR_IO, "cannot start the server's watcher thread");
    server->n_started = 0;
    for (; server->n_started < n_workers; server->n_started++) {
        HttpQueue *queue =
            &server->queue[server->n_started == 0 ? HTTP_QUEUE_EMPTY : HTTP_QUEUE_BODY];
        if (pthread_create(&server->worker[server->n_started], NULL, http_worker_main, queue) != 0)
            FAIL(err, ERR_IO, "cannot start worker thread %d of %d", server->n_started + 1,
                 n_workers);
    }
    return OK;
}

void http_watch_stop(HttpServer *server) {
    pthread_mutex_lock(&server->lock);
    server->stop = true;
    for (int32_t i = 0; i < HTTP_QUEUES; i++) pthread_cond_broadcast(&server->queue[i].work);
    pthread_mutex_unlock(&server->lock);
    for (int32_t i = 0; i < server->n_started; i++) pthread_join(server->worker[i], NULL);
    if (server->worker != NULL) {
        uint64_t one = 1;
        if (write(server->stop_fd, &one, sizeof one) == sizeof one)
            pthread_join(server->watcher, NULL);
    }
    if (server->epoll_fd >= 0) close(server->epoll_fd);
    if (server->stop_fd >= 0) close(server->stop_fd);
    mem_free(server->worker);
}
