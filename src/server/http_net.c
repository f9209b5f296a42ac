/* The net thread: runs libmicrohttpd and resumes the connections that have something to say. They
 * are collected while it works and resumed together, for libmicrohttpd looks at all that are
 * suspended whenever one of them is resumed: with 5,000 streams that took most of a core. */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server/http_priv.h"

void http_net_wake(HttpExchange *exchange) {
    if (!exchange->suspended || exchange->detached) return;
    HttpServer *server = exchange->server;
    exchange->suspended = false;
    http_ref(exchange);
    pthread_mutex_lock(&server->woken_lock);
    bool first = server->woken == NULL;
    exchange->next_woken = server->woken;
    server->woken = exchange;
    pthread_mutex_unlock(&server->woken_lock);
    if (first) eventfd_write(server->wake_fd, 1);
}

/* Returns whether the thread is to end. */
static bool http_net_resume(HttpServer *server) {
    pthread_mutex_lock(&server->woken_lock);
    HttpExchange *exchange = server->woken;
    server->woken = NULL;
    bool stop = server->net_stop;
    pthread_mutex_unlock(&server->woken_lock);
    while (exchange != NULL) {
        HttpExchange *next = exchange->next_woken;
        MHD_resume_connection(exchange->connection);
        http_unref(exchange);
        exchange = next;
    }
    return stop;
}

static void *http_net_main(void *context) {
    HttpServer *server = context;
    struct epoll_event event[2];
    for (bool stop = false; !stop;) {
        MHD_UNSIGNED_LONG_LONG ms = 0;
        bool timed = server->net_again || MHD_get_timeout(server->daemon, &ms) == MHD_YES;
        server->net_again = false;
        epoll_wait(server->net_epoll_fd, event, 2, timed ? (int)MIN(ms, 1000) : -1);
        eventfd_t count;
        eventfd_read(server->wake_fd, &count);
        stop = http_net_resume(server);
        MHD_run(server->daemon);
    }
    return NULL;
}

Status http_net_start(HttpServer *server, Err *err) {
    server->net_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int fd = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    struct epoll_event event = {.events = EPOLLIN};
    if (server->net_epoll_fd < 0 || server->wake_fd < 0 ||
        epoll_ctl(server->net_epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0 ||
        epoll_ctl(server->net_epoll_fd, EPOLL_CTL_ADD, server->wake_fd, &event) != 0)
        FAIL(err, ERR_IO, "cannot wait for the server's sockets: %s", strerror(errno));
    server->has_net = pthread_create(&server->net, NULL, http_net_main, server) == 0;
    if (!server->has_net) FAIL(err, ERR_IO, "cannot start the server's net thread");
    return OK;
}

void http_net_stop(HttpServer *server) {
    pthread_mutex_lock(&server->woken_lock);
    server->net_stop = true;
    pthread_mutex_unlock(&server->woken_lock);
    if (server->has_net) {
        eventfd_write(server->wake_fd, 1);
        pthread_join(server->net, NULL);
    }
    /* Requests that came after the workers had ended. */
    http_cut(server);
    http_net_resume(server);
    if (server->wake_fd >= 0) close(server->wake_fd);
    if (server->net_epoll_fd >= 0) close(server->net_epoll_fd);
}
