/* test_load: the server over a fake engine, in a process of its own, under very many streams and
 * under more requests than it can take.
 *
 * In `make test` for seconds, with what holds on any machine; SLUICE_LOAD=long (`make load`) for a
 * minute with the bounds that two cores of today must keep. */
#include <math.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/rng.h"
#include "fake_engine.h"
#include "load_client.h"
#include "server/server.h"
#include "testing.h"

enum {
    SEQS = 512,
    QUEUE = 64,
    CLIENTS_MAX = 400000,
    TOKENS = 40,
    TICK_US = 40000,
    FILES_MAX = 16000,
    ENDS_MS = 600000 /* in which whatever was asked must end */
};

static bool is_long(void) {
    const char *value = getenv("SLUICE_LOAD");
    return value != NULL && strcmp(value, "long") == 0;
}

typedef struct Child {
    pid_t pid;
    int port;
} Child;

/* The server's process: serves until SIGTERM, then drains as `sluice serve` does. */
static void child_main(int port_fd, int32_t max_seqs, int32_t max_queue, int32_t tick_us,
                       const sigset_t *signals) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sluice_model model = {0};
    sluice_engine *engine = fake_open(max_seqs, max_queue, tick_us);
    sluice_engine_plan plan = {.size = sizeof plan,
                               .max_context = 1 << 20,
                               .block_tokens = 16,
                               .max_seqs = max_seqs,
                               .max_queue = max_queue};
    ServerOptions options = {
        .address = "127.0.0.1", .plan = &plan, .limits = server_limits_default()};
    options.limits.http.connections_max = FILES_MAX;
    options.limits.http.connections_per_address_max = FILES_MAX;
    Server *server = NULL;
    Err err = {0};
    if (server_open(&server, &model, engine, &options, &err) != OK) _exit(3);
    int32_t port = server_port(server);
    if (write(port_fd, &port, sizeof port) != sizeof port) _exit(4);
    int signal_number;
    sigwait(signals, &signal_number);
    server_drain(server);
    while (server_n_open(server) > 0) usleep(1000);
    server_close(server);
    fake_close(engine);
    _exit(0);
}

static Child child_open(int32_t max_seqs, int32_t max_queue, int32_t tick_us) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = MIN(files.rlim_max, FILES_MAX);
    setrlimit(RLIMIT_NOFILE, &files);
    Child child;
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (child.pid == 0) {
        sigprocmask(SIG_BLOCK, &signals, NULL);
        child_main(fd[1], max_seqs, max_queue, tick_us, &signals);
    }
    int32_t port = 0;
    assert_int_equal(read(fd[0], &port, sizeof port), sizeof port);
    close(fd[0]);
    close(fd[1]);
    child.port = port;
    return child;
}

static void child_close(Child *child) {
    int status = -1;
    assert_int_equal(kill(child->pid, SIGTERM), 0);
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Resident bytes of the server. */
static double child_resident(const Child *child) {
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)child->pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*s %ld", &pages), 1);
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* All streams open at once, each with twenty events a second: none is lost, each holds its own
 * tokens in order. */
static void load_streams(void **state) {
    (void)state;
    const int32_t n_streams = is_long() ? 5000 : 1000, seconds = is_long() ? 60 : 10;
    const int32_t tick_us = 50000, n_tokens = seconds * 1000000 / tick_us;
    Child child = child_open(n_streams, n_streams, tick_us);
    Load load;
    load_open(&load, child.port, n_streams);
    const double before = child_resident(&child);
    for (int32_t i = 0; i < n_streams; i++) {
        load_add(&load, n_tokens);
        if (i % 50 == 49) load_run(&load, 5);
    }
    load_run(&load, seconds * 500);
    const double each = (child_resident(&child) - before) / n_streams;
    load_run(&load, ENDS_MS);
    const double p99 = load_percentile(&load.delay, 0.99);
    print_message(
        "%d streams of %d tokens: %d done, %d lost, %d wrong; %.1f kB of the server each; "
        "event delay p50 %.1f ms, p99 %.1f ms\n",
        n_streams, n_tokens, load.n_done, load.n_lost, load.n_wrong, each / 1024,
        load_percentile(&load.delay, 0.5), p99);
    assert_int_equal(load.n_done, n_streams);
    assert_int_equal(load.n_wrong, 0);
    if (is_long()) {
        assert_true(each <= 32 * 1024);
        assert_true(p99 <= 50);
    }
    load_close(&load);
    child_close(&child);
}

/* Clients that come at random and ask for half to one and a half times TOKENS; `share` times as
 * many as the server can take. Of the first `before` seconds the times to the first token are not
 * kept. */
static void arrive(Load *load, double share, int32_t before, int32_t seconds) {
    const double rate = share * SEQS * 1e6 / ((double)TOKENS * TICK_US);
    const int64_t start_us = clock_us();
    double at_us = 0;
    for (int32_t i = 0; at_us < (before + seconds) * 1e6; i++) {
        if (at_us < before * 1e6) load->first.n = 0;
        at_us -= log(1 - rng_uniform(7, 0, (uint64_t)i)) * 1e6 / rate;
        int64_t wait_us = start_us + (int64_t)at_us - clock_us();
        if (wait_us >= 1000) load_run(load, (int)(wait_us / 1000));
        load_add(load, TOKENS / 2 + i * 7919 % (TOKENS + 1));
    }
    load_run(load, ENDS_MS);
}

/* Ten times more than the server can take: whoever is not served is told so at once, with a time
 * after which to come again; who is served is served about as soon as at 0.9 of what it can take.
 * Until the server knows that it is no burst, as many wait as the queue holds. */
static void load_overload(void **state) {
    (void)state;
    const int32_t seconds = is_long() ? 60 : 5;
    double first[2];
    for (int32_t i = 0; i < 2; i++) {
        Child child = child_open(SEQS, QUEUE, TICK_US);
        Load load;
        load_open(&load, child.port, CLIENTS_MAX);
        const double before = child_resident(&child);
        arrive(&load, i == 0 ? 0.9 : 10, 0, seconds);
        const double grown = (child_resident(&child) - before) / 1e6;
        first[i] = load_percentile(&load.first, 0.99);
        const double refused = load_percentile(&load.refused, 0.99);
        print_message(
            "%.1f times what it can take: %d asked, %d done, %d refused, %d lost; first "
            "token p99 %.1f ms, refusal p99 %.1f ms, memory +%.1f MB\n",
            i == 0 ? 0.9 : 10.0, load.n_clients, load.n_done, load.n_refused, load.n_lost, first[i],
            refused, grown);
        assert_int_equal(load.n_done + load.n_refused, load.n_clients);
        assert_int_equal(load.n_wrong, 0);
        if (i == 0 && is_long()) assert_int_equal(load.n_refused, 0);
        if (i == 1) assert_true(load.n_refused > load.n_done);
        if (i == 1 && is_long()) {
            assert_true(load.n_done >= 0.95 * seconds * SEQS * 1e6 / ((double)TOKENS * TICK_US));
            assert_true(refused <= 20);
            assert_true(first[1] <= 1.5 * first[0]);
        }
        load_close(&load);
        child_close(&child);
    }
}

/* A little more than the server can take, for long: when the burst that it might have been is over,
 * the queue is short and stays so. */
static void load_small_overloads(void **state) {
    (void)state;
    static const double loads[] = {0.9, 1.2, 1.5, 2};
    const int32_t seconds = is_long() ? 25 : 1;
    double least = 0;
    for (size_t i = 0; i < ARRAY_LEN(loads); i++) {
        Child child = child_open(SEQS, QUEUE, TICK_US);
        Load load;
        load_open(&load, child.port, CLIENTS_MAX);
        arrive(&load, loads[i], 5, seconds);
        const double first = load_percentile(&load.first, 0.99);
        if (i == 0) least = first;
        print_message(
            "%.1f times what it can take: %d asked, %d done, %d refused; after 5 s first "
            "token p99 %.1f ms\n",
            loads[i], load.n_clients, load.n_done, load.n_refused, first);
        assert_int_equal(load.n_done + load.n_refused, load.n_clients);
        assert_int_equal(load.n_wrong, 0);
        if (is_long()) assert_true(first <= 1.5 * least);
        load_close(&load);
        child_close(&child);
    }
}

/* 500 streams when the server is told to end: each comes to its end or gets an error. */
static void load_drain(void **state) {
    (void)state;
    Child child = child_open(500, 500, 20000);
    Load load;
    load_open(&load, child.port, 500);
    for (int32_t i = 0; i < 500; i++) {
        load_add(&load, 100);
        if (i % 50 == 49) load_run(&load, 5);
    }
    for (int32_t i = 0; i < ENDS_MS / 10 && load.first.n < 500; i++) load_run(&load, 10);
    assert_int_equal(load.first.n, 500);
    assert_int_equal(kill(child.pid, SIGTERM), 0);
    load_run(&load, ENDS_MS);
    assert_int_equal(load.n_done, 500);
    assert_int_equal(load.n_wrong, 0);
    int status = -1;
    assert_int_equal(waitpid(child.pid, &status, 0), child.pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    load_close(&load);
}

/* The argument, if there is one, is a pattern of test names. */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(load_streams),
        cmocka_unit_test(load_overload),
        cmocka_unit_test(load_small_overloads),
        cmocka_unit_test(load_drain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
