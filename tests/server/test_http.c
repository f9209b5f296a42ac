/* test_http: the HTTP face over real sockets: whole and streamed replies, limits, clients that
 * leave, and requests that two servers could read differently. */
#include "server/http.h"

#include <arpa/inet.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"

/* No test waits as long as TIMEOUT_S for what is right. */
enum {
    PENDING_BYTES = 20000,
    LARGE_BYTES = 32 << 20,
    STALL_MS = 4000,
    IDLE_US = 4000000,
    TIMEOUT_S = 60
};

typedef struct Fixture {
    HttpServer *server;
    atomic_int n_gone, n_handled;
    HttpExchange *held; /* of /hold: referenced until the test lets go */
    atomic_bool is_held;
    sem_t busy; /* handlers of /busy wait for it */
} Fixture;

static void fixture_gone(void *user) {
    Fixture *fixture = user;
    atomic_fetch_add(&fixture->n_gone, 1);
}

static void fixture_handle(void *context, HttpExchange *exchange) {
    Fixture *fixture = context;
    atomic_fetch_add(&fixture->n_handled, 1);
    Str path = str_from(http_path(exchange));
    Buf body = {0};
    if (str_is(path, "/stream")) {
        http_stream_begin(exchange, 200, "text/event-stream");
        for (int i = 0; i < 3; i++) http_stream_write(exchange, STR_LIT("data: x\n\n"));
        http_stream_end(exchange);
    } else if (str_is(path, "/hold")) {
        http_ref(exchange);
        http_on_gone(exchange, fixture_gone, fixture);
        http_stream_begin(exchange, 200, "text/event-stream");
        fixture->held = exchange;
        atomic_store(&fixture->is_held, true);
    } else if (str_is(path, "/busy")) {
        sem_wait(&fixture->busy);
        http_reply(exchange, 200, "text/plain", &body);
    } else if (str_is(path, "/large")) {
        for (int i = 0; i < LARGE_BYTES / 64; i++)
            buf_append_text(&body,
                            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n");
        http_reply(exchange, 200, "text/plain", &body);
    } else if (str_starts_with(path, "/pending/")) {
        int64_t n = 0;
        assert_true(str_to_i64(str_slice(path, strlen("/pending/"), path.len), &n));
        for (int64_t i = 0; i < n; i++) buf_append_byte(&body, 'p');
        http_stream_begin(exchange, 200, "text/plain");
        http_stream_write(exchange, buf_str(&body));
        http_stream_end(exchange);
        buf_free(&body);
    } else {
        buf_append_format(&body, "%s %s %zu:", http_method(exchange), http_path(exchange),
                          http_body(exchange).len);
        buf_append_str(&body, http_body(exchange));
        http_reply(exchange, 200, "text/plain", &body);
    }
}

static const char *fixture_error(void *context, int32_t code, const char *text, Buf *out) {
    (void)context;
    buf_append_format(out, "refused %d %s", code, text);
    return "text/plain";
}

static int fixture_open_with(void **state, int32_t connections_max, int32_t per_address_max,
                             int64_t idle_us_max) {
    Fixture *fixture = mem_alloc(sizeof *fixture);
    sem_init(&fixture->busy, 0, 0);
    HttpOptions options = http_options_default();
    options.port = 0;
    options.handler = fixture_handle;
    options.context = fixture;
    options.error_body = fixture_error;
    options.limits.body_bytes_max = 1000;
    options.limits.header_us_max = 1000000;
    options.limits.idle_us_max = idle_us_max;
    options.limits.stall_us_max = STALL_MS * 1000;
    options.limits.pending_bytes_max = PENDING_BYTES;
    options.limits.connections_max = connections_max;
    options.limits.connections_per_address_max = per_address_max;
    Err err = {0};
    if (http_open(&fixture->server, &options, &err) != OK) return -1;
    *state = fixture;
    return 0;
}

static int fixture_open(void **state) {
    return fixture_open_with(state, 100, 50, IDLE_US);
}

static int fixture_open_few(void **state) {
    return fixture_open_with(state, 4, 100, TIMEOUT_S * 1000000);
}

static int fixture_open_few_per_address(void **state) {
    return fixture_open_with(state, 100, 4, TIMEOUT_S * 1000000);
}

static int fixture_close(void **state) {
    Fixture *fixture = *state;
    http_close(fixture->server);
    sem_destroy(&fixture->busy);
    mem_free(fixture);
    return 0;
}

static int client_connect(const Fixture *fixture) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)http_port(fixture->server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void client_send(int fd, const char *data, size_t len) {
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0) return; /* the server may have refused already */
        data += n;
        len -= (size_t)n;
    }
}

/* Everything until the server closes. */
static void client_read_all(int fd, Buf *out) {
    for (;;) {
        assert_true(buf_reserve(out, 4096));
        ssize_t n = recv(fd, out->data + out->len, 4096, 0);
        if (n <= 0) return;
        out->len += (size_t)n;
        out->data[out->len] = '\0';
    }
}

/* Sends one request on a connection of its own and returns the whole answer. */
static void exchange_once(const Fixture *fixture, const char *request, size_t len, Buf *out) {
    int fd = client_connect(fixture);
    client_send(fd, request, len);
    buf_clear(out);
    client_read_all(fd, out);
    close(fd);
}

static void expect(const Buf *reply, const char *part) {
    if (reply->data == NULL || strstr(reply->data, part) == NULL)
        fail_msg("wanted '%s' in '%s'", part, reply->data == NULL ? "" : reply->data);
}

#define EXCHANGE(fixture, request, out) exchange_once(fixture, request, sizeof(request) - 1, out)

static void http_replies(void **state) {
    Fixture *fixture = *state;
    Buf reply = {0};
    EXCHANGE(fixture, "GET /a?b=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &reply);
    expect(&reply, "HTTP/1.1 200");
    expect(&reply, "GET /a 0:");
    EXCHANGE(fixture,
             "POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
             &reply);
    expect(&reply, "POST /p 5:hello");
    EXCHANGE(fixture,
             "POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
             "\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
             &reply);
    expect(&reply, "POST /p 5:abcde");
    EXCHANGE(fixture, "GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &reply);
    expect(&reply, "data: x\n\ndata: x\n\ndata: x\n\n");
    buf_free(&reply);
}

/* A request cut at every byte and sent in two parts gives the same answer. */
static void http_split_anywhere(void **state) {
    Fixture *fixture = *state;
    static const struct {
        const char *request, *answer;
    } rows[] = {
        {"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
         "POST /p 5:hello"},
        {"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
         "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
         "POST /p 5:hello"},
        {"GET /p HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n", "refused 400"},
        {"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
         "refused 400"},
    };
    Buf reply = {0};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const size_t len = strlen(rows[i].request);
        for (size_t cut = 1; cut < len; cut++) {
            int fd = client_connect(fixture);
            client_send(fd, rows[i].request, cut);
            struct timespec pause = {.tv_nsec = 200000};
            nanosleep(&pause, NULL);
            client_send(fd, rows[i].request + cut, len - cut);
            buf_clear(&reply);
            client_read_all(fd, &reply);
            expect(&reply, rows[i].answer);
            close(fd);
        }
    }
    buf_free(&reply);
}

static void http_keeps_alive(void **state) {
    Fixture *fixture = *state;
    int fd = client_connect(fixture);
    static const char two[] =
        "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    client_send(fd, two, sizeof two - 1);
    Buf reply = {0};
    client_read_all(fd, &reply);
    expect(&reply, "GET /1 0:");
    expect(&reply, "GET /2 0:");
    buf_free(&reply);
    close(fd);
}

static void http_body_limit(void **state) {
    Fixture *fixture = *state;
    Buf reply = {0}, request = {0};
    for (int size = 999; size <= 1001; size++) {
        buf_clear(&request);
        buf_append_format(
            &request,
            "POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", size);
        for (int i = 0; i < size; i++) buf_append_byte(&request, 'a');
        exchange_once(fixture, request.data, request.len, &reply);
        expect(&reply, size <= 1000 ? "HTTP/1.1 200" : "HTTP/1.1 413");
        /* The same without saying the length first. */
        buf_clear(&request);
        buf_append_format(&request,
                          "POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                          "Transfer-Encoding: chunked\r\n\r\n%x\r\n",
                          size);
        for (int i = 0; i < size; i++) buf_append_byte(&request, 'a');
        buf_append_text(&request, "\r\n0\r\n\r\n");
        exchange_once(fixture, request.data, request.len, &reply);
        expect(&reply, size <= 1000 ? "HTTP/1.1 200" : "HTTP/1.1 413");
    }
    buf_free(&reply);
    buf_free(&request);
}

/* Waits until the value is there; returns how long that took. */
static int64_t wait_for(const atomic_int *value, int wanted) {
    const int64_t start_us = clock_us();
    while (atomic_load(value) < wanted) {
        assert_in_range(clock_us() - start_us, 0, TIMEOUT_S * 1000000);
        usleep(1000);
    }
    return clock_us() - start_us;
}

/* A client that leaves, by a reset or a close, is noticed within 100 ms; writes after that are
 * dropped. A machine that does other things can only add to the time, so the shortest counts. */
static void http_client_leaves(void **state) {
    Fixture *fixture = *state;
    enum { ROUNDS = 20, NOTICED_US = 100000 };
    int64_t took_us[2] = {INT64_MAX, INT64_MAX};
    for (int round = 0; round < ROUNDS; round++) {
        const bool is_reset = round % 2 == 1;
        int before = atomic_load(&fixture->n_gone);
        int fd = client_connect(fixture);
        static const char request[] = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n";
        client_send(fd, request, sizeof request - 1);
        while (!atomic_load(&fixture->is_held)) usleep(1000);
        http_stream_write(fixture->held, STR_LIT("data: 1\n\n"));
        char reply[512];
        assert_true(recv(fd, reply, sizeof reply, 0) > 0);
        if (is_reset) {
            struct linger reset = {.l_onoff = 1};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        close(fd);
        took_us[is_reset] = MIN(took_us[is_reset], wait_for(&fixture->n_gone, before + 1));
        http_stream_write(fixture->held, STR_LIT("data: 2\n\n"));
        http_stream_end(fixture->held);
        http_unref(fixture->held);
        atomic_store(&fixture->is_held, false);
    }
    assert_in_range(took_us[false], 0, NOTICED_US);
    assert_in_range(took_us[true], 0, NOTICED_US);
}

/* One that stays but does not read is cut by its limit, long before that of a server that was told
 * none. */
static void http_slow_reader(void **state) {
    Fixture *fixture = *state;
    int before = atomic_load(&fixture->n_gone);
    int fd = client_connect(fixture);
    static const char request[] = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n";
    client_send(fd, request, sizeof request - 1);
    while (!atomic_load(&fixture->is_held)) usleep(1000);
    static char block[65536];
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 200 && atomic_load(&fixture->n_gone) == before; i++) {
        http_stream_write(fixture->held, (Str){block, sizeof block});
        usleep(1000);
    }
    assert_in_range(wait_for(&fixture->n_gone, before + 1), 0,
                    http_options_default().limits.stall_us_max * 2 / 3);
    http_stream_end(fixture->held);
    http_unref(fixture->held);
    atomic_store(&fixture->is_held, false);
    close(fd);
}

static void http_slow_header(void **state) {
    Fixture *fixture = *state;
    int64_t start_us = clock_us();
    int fd = client_connect(fixture);
    static const char part[] = "GET / HTTP/1.1\r\nHos";
    client_send(fd, part, sizeof part - 1);
    Buf reply = {0};
    client_read_all(fd, &reply);
    assert_in_range(clock_us() - start_us, 1000000,
                    http_options_default().limits.header_us_max * 2 / 3);
    buf_free(&reply);
    close(fd);
}

/* Sends a body in pieces; what came back, or nothing when the connection was cut. */
static void send_slowly(const Fixture *fixture, int n_pieces, int piece_bytes, int pause_ms,
                        Buf *reply) {
    int fd = client_connect(fixture);
    Buf request = {0};
    buf_append_format(&request,
                      "POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                      "Content-Length: %d\r\n\r\n",
                      n_pieces * piece_bytes);
    client_send(fd, request.data, request.len);
    buf_clear(&request);
    for (int i = 0; i < piece_bytes; i++) buf_append_byte(&request, 'a');
    for (int i = 0; i < n_pieces; i++) {
        usleep((useconds_t)pause_ms * 1000);
        client_send(fd, request.data, request.len);
    }
    buf_clear(reply);
    client_read_all(fd, reply);
    buf_free(&request);
    close(fd);
}

/* A body must come with 1,024 bytes a second once the header's second is over. */
static void http_slow_body(void **state) {
    Fixture *fixture = *state;
    Buf reply = {0};
    send_slowly(fixture, 2, 50, 150, &reply); /* 333 a second, but over before it counts */
    expect(&reply, "POST /p 100:");
    int handled = atomic_load(&fixture->n_handled);
    send_slowly(fixture, 40, 25, 100, &reply); /* 250 bytes a second */
    assert_int_equal(reply.len, 0);
    assert_int_equal(atomic_load(&fixture->n_handled), handled);
    buf_free(&reply);
}

/* Asks once more on an open connection and reads the whole answer; false: none came in time. */
static bool ask_again(int fd, int timeout_ms) {
    static const char request[] = "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n";
    struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    client_send(fd, request, sizeof request - 1);
    char reply[512] = "";
    for (size_t len = 0; strstr(reply, "GET /1 0:") == NULL;) {
        ssize_t n = recv(fd, reply + len, sizeof reply - 1 - len, 0);
        if (n <= 0) return false;
        len += (size_t)n;
        reply[len] = '\0';
    }
    return true;
}

/* Between two requests a connection may rest, for longer than a header may take. */
static void http_idle(void **state) {
    Fixture *fixture = *state;
    int fd = client_connect(fixture);
    assert_true(ask_again(fd, TIMEOUT_S * 1000));
    usleep(1500000);
    int64_t start_us = clock_us();
    assert_true(ask_again(fd, TIMEOUT_S * 1000));
    char byte;
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    assert_in_range(clock_us() - start_us, IDLE_US,
                    http_options_default().limits.idle_us_max * 2 / 3);
    close(fd);
}

/* Reads a large reply in pieces with pauses; the bytes that came. */
static size_t read_slowly(const Fixture *fixture, size_t piece, int pause_ms, size_t n_pieces) {
    int fd = client_connect(fixture), room = 65536;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    static const char request[] = "GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    client_send(fd, request, sizeof request - 1);
    char *data = mem_alloc(piece);
    size_t sum = 0, n_read = 0;
    ssize_t n = 1;
    while (n > 0) {
        n = recv(fd, data, piece, MSG_WAITALL);
        sum += (size_t)MAX(n, 0);
        if (n_read++ < n_pieces) usleep((useconds_t)pause_ms * 1000);
    }
    mem_free(data);
    close(fd);
    return sum;
}

/* A whole reply that is read slowly arrives; one that is not read for too long is cut. */
static void http_slow_reader_of_whole(void **state) {
    Fixture *fixture = *state;
    assert_true(read_slowly(fixture, 1 << 20, 200, 10) > LARGE_BYTES);
    int64_t before = http_stats(fixture->server).n_cut;
    assert_true(read_slowly(fixture, 1 << 20, 3 * STALL_MS / 2, 1) < LARGE_BYTES);
    assert_true(http_stats(fixture->server).n_cut > before);
}

static void http_pending_limit(void **state) {
    Fixture *fixture = *state;
    Buf reply = {0}, request = {0};
    for (int size = PENDING_BYTES - 1; size <= PENDING_BYTES + 1; size++) {
        buf_clear(&request);
        buf_append_format(&request,
                          "GET /pending/%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", size);
        exchange_once(fixture, request.data, request.len, &reply);
        /* The header may come before the cut; it has letters of its own, in April others. */
        const char *body = reply.len > 0 ? strstr(reply.data, "\r\n\r\n") : NULL;
        int n = 0;
        for (; body != NULL && *body != '\0'; body++) n += *body == 'p';
        assert_int_equal(n, size <= PENDING_BYTES ? size : 0);
    }
    buf_free(&reply);
    buf_free(&request);
}

/* Four connections are served, the fifth is not until one of them leaves. */
static void http_connections(void **state) {
    Fixture *fixture = *state;
    int fd[6];
    for (int i = 0; i < 4; i++) {
        fd[i] = client_connect(fixture);
        assert_true(ask_again(fd[i], TIMEOUT_S * 1000));
    }
    fd[4] = client_connect(fixture);
    assert_false(ask_again(fd[4], 500));
    close(fd[0]);
    close(fd[4]);
    bool served = false;
    for (int64_t until_us = clock_us() + TIMEOUT_S * 1000000; !served && clock_us() < until_us;) {
        fd[5] = client_connect(fixture);
        served = ask_again(fd[5], 500);
        if (!served) close(fd[5]);
    }
    assert_true(served);
    for (int i = 1; i < 4; i++) assert_true(ask_again(fd[i], TIMEOUT_S * 1000));
    for (int i = 1; i < 6; i++)
        if (i != 4) close(fd[i]);
}

static void http_malformed(void **state) {
    Fixture *fixture = *state;
    static const char *const requests[] = {
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5,5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
        "\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "fffffffffffffffff\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\001c\r\n\r\n",
        "GET / XTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\r\nHost: x\r\n\r\n",
    };
    Buf reply = {0};
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        int handled = atomic_load(&fixture->n_handled);
        exchange_once(fixture, requests[i], strlen(requests[i]), &reply);
        if (atomic_load(&fixture->n_handled) != handled)
            fail_msg("request %zu reached the handler: '%s'", i, requests[i]);
        bool version = strstr(requests[i], "HTTP/2.0") != NULL;
        if (reply.len > 0) expect(&reply, version ? "HTTP/1.1 505" : "HTTP/1.1 4");
    }
    buf_free(&reply);
}

/* A probe is answered while every worker reads somebody's prompt and more prompts wait. */
static void http_probes_do_not_wait(void **state) {
    Fixture *fixture = *state;
    enum { N_BUSY = 5 };
    const char *busy =
        "POST /busy HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
    const char *probe = "GET /probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    int fd[N_BUSY];
    for (int32_t i = 0; i < N_BUSY; i++) {
        fd[i] = client_connect(fixture);
        client_send(fd[i], busy, strlen(busy));
    }
    while (atomic_load(&fixture->n_handled) < http_options_default().n_workers) usleep(1000);
    Buf reply = {0};
    exchange_once(fixture, probe, strlen(probe), &reply);
    assert_true(str_ends_with(buf_str(&reply), "GET /probe 0:"));
    assert_int_equal(atomic_load(&fixture->n_handled), http_options_default().n_workers + 1);
    for (int32_t i = 0; i < N_BUSY; i++) sem_post(&fixture->busy);
    for (int32_t i = 0; i < N_BUSY; i++) {
        buf_clear(&reply);
        client_read_all(fd[i], &reply);
        assert_true(str_starts_with(buf_str(&reply), "HTTP/1.1 200"));
        close(fd[i]);
    }
    buf_free(&reply);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(http_replies, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_split_anywhere, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_keeps_alive, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_body_limit, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_client_leaves, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_slow_reader, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_slow_header, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_slow_body, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_idle, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_slow_reader_of_whole, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_pending_limit, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_connections, fixture_open_few, fixture_close),
        cmocka_unit_test_setup_teardown(http_connections, fixture_open_few_per_address,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(http_malformed, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_probes_do_not_wait, fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
