/* load_client: very many HTTP clients of one server in one thread, by epoll.
 *
 * Each sends one streamed completion whose prompt names it (see fake_engine.h), reads the reply as
 * it comes and checks every token: the name is its own, the numbers go up by one, and the stream
 * ends with [DONE]. What the replies took is collected for percentiles. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "testing.h"

enum { LOAD_EVENTS = 512, LOAD_LINE_BYTES = 1024 };

typedef enum LoadState { LOAD_FREE, LOAD_OPEN, LOAD_DONE, LOAD_REFUSED, LOAD_LOST } LoadState;

/* A growing list of times in microseconds. */
typedef struct LoadTimes {
    int32_t *us;
    size_t n, cap;
} LoadTimes;

typedef struct LoadClient {
    LoadState state;
    int fd, code;
    int64_t start_us;
    int32_t n_wanted, n_tokens; /* that were asked for; that came */
    bool ended, wrong, retry_after;
    char line[LOAD_LINE_BYTES];
    int32_t line_len;
} LoadClient;

typedef struct Load {
    int epoll_fd, port;
    LoadClient *client;
    int32_t n_clients; /* so far; room for n_max */
    int32_t n_max, n_open, n_done, n_refused, n_lost, n_wrong;
    LoadTimes first, refused, delay; /* to the first token; to a refusal; of each event */
} Load;

static inline void load_note(LoadTimes *times, int64_t us) {
    if (times->n == times->cap) {
        times->cap = MAX(times->cap * 2, (size_t)1024);
        times->us = realloc(times->us, times->cap * sizeof *times->us);
        assert_non_null(times->us);
    }
    times->us[times->n++] = (int32_t)MIN(us, INT32_MAX);
}

static inline int load_compare(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* In milliseconds; 0 of none. Sorts them. */
static inline double load_percentile(LoadTimes *times, double share) {
    if (times->n == 0) return 0;
    qsort(times->us, times->n, sizeof *times->us, load_compare);
    return times->us[(size_t)(share * (double)(times->n - 1))] / 1e3;
}

static inline void load_open(Load *load, int port, int32_t n_max) {
    *load = (Load){.port = port, .n_max = n_max};
    load->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    load->client = mem_alloc((size_t)n_max * sizeof *load->client);
}

static inline void load_close(Load *load) {
    for (int32_t i = 0; i < load->n_clients; i++)
        if (load->client[i].state == LOAD_OPEN) close(load->client[i].fd);
    close(load->epoll_fd);
    mem_free(load->client);
    free(load->first.us);
    free(load->refused.us);
    free(load->delay.us);
}

static inline int load_connect(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* One more client, who asks for n_tokens. */
static inline void load_add(Load *load, int32_t n_tokens) {
    assert_true(load->n_clients < load->n_max);
    const int32_t i = load->n_clients++;
    LoadClient *c = &load->client[i];
    *c = (LoadClient){.state = LOAD_OPEN,
                      .fd = load_connect(load->port),
                      .start_us = clock_us(),
                      .n_wanted = n_tokens};
    char body[128], request[512];
    int n = snprintf(body, sizeof body,
                     "{\"prompt\":[%d,%d],\"max_tokens\":%d,\"stream\":true,\"stop\":[\"\\n\\n\"]}",
                     i / 65536, i % 65536, n_tokens);
    n = snprintf(request, sizeof request,
                 "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                 "Content-Length: %d\r\n\r\n%s",
                 n, body);
    assert_int_equal(send(c->fd, request, (size_t)n, MSG_NOSIGNAL), n);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
    assert_int_equal(epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, c->fd, &event), 0);
    load->n_open++;
}

static inline void load_end(Load *load, LoadClient *c) {
    close(c->fd);
    load->n_open--;
    c->state = LOAD_LOST;
    if (c->code == 429 || c->code == 503) {
        c->state = LOAD_REFUSED;
        c->wrong |= !c->retry_after;
        load_note(&load->refused, clock_us() - c->start_us);
    } else if (c->code == 200 && c->ended && c->n_tokens == c->n_wanted) {
        c->state = LOAD_DONE;
    }
    load->n_done += c->state == LOAD_DONE;
    load->n_refused += c->state == LOAD_REFUSED;
    load->n_lost += c->state == LOAD_LOST;
    load->n_wrong += c->wrong;
}

/* The tokens in a line of the stream: "NAME:K:US ". */
static inline void load_take_text(Load *load, LoadClient *c, const char *text) {
    const int32_t name = (int32_t)(c - load->client);
    int at = 0, token_name, k, len;
    long long made_us;
    while (sscanf(text + at, "%d:%d:%lld %n", &token_name, &k, &made_us, &len) == 3) {
        c->wrong |= token_name != name || k != c->n_tokens;
        if (c->n_tokens == 0) load_note(&load->first, clock_us() - c->start_us);
        c->n_tokens++;
        load_note(&load->delay, clock_us() - made_us);
        at += len;
    }
}

static inline void load_take_line(Load *load, LoadClient *c) {
    static const char field[] = "\"text\":\"";
    const char *text;
    if (c->code == 0) {
        if (sscanf(c->line, "HTTP/1.1 %d", &c->code) != 1) c->wrong = true;
    } else if (strncasecmp(c->line, "retry-after: ", 13) == 0) {
        c->retry_after = c->line[13] >= '1' && c->line[13] <= '9';
    } else if (strcmp(c->line, "data: [DONE]") == 0) {
        c->ended = true;
    } else if (strncmp(c->line, "data: ", 6) == 0) {
        if (c->ended) c->wrong = true;
        text = strstr(c->line, field);
        if (text != NULL) load_take_text(load, c, text + sizeof field - 1);
    }
}

/* Chunks' sizes are lines of their own and are skipped: an event never shares a line with one. */
static inline void load_take(Load *load, LoadClient *c, const char *data, ssize_t n) {
    for (ssize_t i = 0; i < n; i++) {
        if (data[i] != '\n') {
            if (c->line_len < LOAD_LINE_BYTES - 1) c->line[c->line_len++] = data[i];
            continue;
        }
        while (c->line_len > 0 && c->line[c->line_len - 1] == '\r') c->line_len--;
        c->line[c->line_len] = '\0';
        load_take_line(load, c);
        c->line_len = 0;
    }
}

/* Serves all that comes within ms. */
static inline void load_run(Load *load, int ms) {
    static char data[1 << 16];
    struct epoll_event event[LOAD_EVENTS];
    for (int64_t until_us = clock_us() + (int64_t)ms * 1000; load->n_open > 0;) {
        int64_t left_us = until_us - clock_us();
        if (left_us < 0) return;
        int n = epoll_wait(load->epoll_fd, event, LOAD_EVENTS, (int)(left_us / 1000));
        for (int i = 0; i < n; i++) {
            LoadClient *c = &load->client[event[i].data.u32];
            ssize_t got = recv(c->fd, data, sizeof data, 0);
            if (got > 0) {
                load_take(load, c, data, got);
            } else {
                load_end(load, c);
            }
        }
        if (left_us < 1000 && n == 0) return;
    }
}
