/* test_http: the HTTP face over real sockets: whole and streamed replies, limits, clients that
 * leave, and requests that two servers could read differently. */
#include "server/http.h"

#include <arpa/inet.h>
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

enum { REPLY_BYTES = 1 << 20 };

typedef struct Fixture {
    HttpServer *server;
    atomic_int n_gone, n_handled;
    HttpExchange *held; /* of /hold: referenced until the test lets go */
    atomic_bool is_held;
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

static int fixture_open(void **state) {
    Fixture *fixture = mem_alloc(sizeof *fixture);
    HttpOptions options = http_options_default();
    options.port = 0;
    options.handler = fixture_handle;
    options.context = fixture;
    options.error_body = fixture_error;
    options.limits.body_bytes_max = 1000;
    options.limits.header_us_max = 1000000;
    options.limits.idle_us_max = 2000000;
    options.limits.stall_us_max = 1000000;
    Err err = {0};
    if (http_open(&fixture->server, &options, &err) != OK) return -1;
    *state = fixture;
    return 0;
}

static int fixture_close(void **state) {
    Fixture *fixture = *state;
    http_close(fixture->server);
    mem_free(fixture);
    return 0;
}

static int client_connect(const Fixture *fixture) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)http_port(fixture->server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval timeout = {.tv_sec = 10};
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
    static const char request[] =
        "POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    Buf reply = {0};
    for (size_t cut = 1; cut < sizeof request - 1; cut++) {
        int fd = client_connect(fixture);
        client_send(fd, request, cut);
        struct timespec pause = {.tv_nsec = 200000};
        nanosleep(&pause, NULL);
        client_send(fd, request + cut, sizeof request - 1 - cut);
        buf_clear(&reply);
        client_read_all(fd, &reply);
        expect(&reply, "POST /p 5:hello");
        close(fd);
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

static bool wait_for(const atomic_int *value, int wanted, int64_t us) {
    for (int64_t until_us = clock_us() + us; clock_us() < until_us;) {
        if (atomic_load(value) >= wanted) return true;
        struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
    }
    return false;
}

/* A client that leaves, by a reset or a close, is noticed within 100 ms; writes after that are
 * dropped. */
static void http_client_leaves(void **state) {
    Fixture *fixture = *state;
    for (int round = 0; round < 2; round++) {
        int before = atomic_load(&fixture->n_gone);
        int fd = client_connect(fixture);
        static const char request[] = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n";
        client_send(fd, request, sizeof request - 1);
        while (!atomic_load(&fixture->is_held)) usleep(1000);
        http_stream_write(fixture->held, STR_LIT("data: 1\n\n"));
        char reply[512];
        assert_true(recv(fd, reply, sizeof reply, 0) > 0);
        if (round == 1) {
            struct linger reset = {.l_onoff = 1};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        close(fd);
        assert_true(wait_for(&fixture->n_gone, before + 1, 100000));
        http_stream_write(fixture->held, STR_LIT("data: 2\n\n"));
        http_stream_end(fixture->held);
        http_unref(fixture->held);
        atomic_store(&fixture->is_held, false);
    }
}

/* One that stays but does not read is cut by its limit. */
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
    assert_true(wait_for(&fixture->n_gone, before + 1, 3000000));
    http_stream_end(fixture->held);
    http_unref(fixture->held);
    atomic_store(&fixture->is_held, false);
    close(fd);
}

static void http_slow_header(void **state) {
    Fixture *fixture = *state;
    int fd = client_connect(fixture);
    static const char part[] = "GET / HTTP/1.1\r\nHos";
    client_send(fd, part, sizeof part - 1);
    int64_t start_us = clock_us();
    Buf reply = {0};
    client_read_all(fd, &reply);
    assert_in_range(clock_us() - start_us, 500000, 3000000);
    buf_free(&reply);
    close(fd);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(http_replies, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_split_anywhere, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_keeps_alive, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_body_limit, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_client_leaves, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_slow_reader, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_slow_header, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(http_malformed, fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
