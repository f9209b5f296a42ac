/* test_thread: every task of a run happens exactly once and is over when the run returns, for many
 * sizes and many runs in quick succession and after sleeps; with more threads than cores too. Also
 * meaningful under config=tsan. */
#include "base/thread.h"

#include <sched.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "testing.h"

enum { N_MAX = 5000 };

typedef struct ThreadCounts {
    int32_t counts[N_MAX]; /* plain: a data race on them is a failure */
    int64_t sum;           /* of what the caller put in, read by the tasks */
    int32_t n_threads;
} ThreadCounts;

static void thread_count_task(void *context, int64_t task, int32_t thread) {
    ThreadCounts *counts = context;
    if (thread < 0 || thread >= counts->n_threads) abort();
    counts->counts[task] += (int32_t)counts->sum;
}

static void thread_check_run(ThreadPool *pool, ThreadCounts *counts, int64_t n, int64_t sum) {
    memset(counts->counts, 0, sizeof counts->counts);
    counts->sum = sum;
    pool_run(pool, n, thread_count_task, counts);
    for (int64_t i = 0; i < N_MAX; i++) assert_int_equal(counts->counts[i], i < n ? sum : 0);
}

static void thread_runs_each_task_once(void **state) {
    (void)state;
    static ThreadCounts counts;
    const int32_t threads[] = {1, 2, 3, 8, 33};
    const int64_t sizes[] = {0, 1, 2, 3, 7, 15, 16, 17, 100, 1023, N_MAX};
    for (size_t t = 0; t < ARRAY_LEN(threads); t++) {
        ThreadPool *pool = NULL;
        Err err = {0};
        ASSERT_OK(pool_open(&pool, threads[t], &err), err);
        assert_int_equal(pool_threads(pool), threads[t]);
        counts.n_threads = threads[t];
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
            for (int64_t round = 1; round < 10; round++)
                thread_check_run(pool, &counts, sizes[s], round);
        pool_close(pool);
    }
    counts.n_threads = 1;
    thread_check_run(NULL, &counts, 100, 1);
    assert_int_equal(pool_threads(NULL), 1);
}

/* Thousands of short runs: workers come late, miss runs, and fall asleep in between. */
static void thread_survives_short_runs(void **state) {
    (void)state;
    static ThreadCounts counts;
    for (int32_t n_threads = 2; n_threads <= 5; n_threads++) {
        ThreadPool *pool = NULL;
        Err err = {0};
        ASSERT_OK(pool_open(&pool, n_threads, &err), err);
        counts.n_threads = n_threads;
        memset(counts.counts, 0, sizeof counts.counts);
        counts.sum = 1;
        int32_t n_runs = 3000;
        for (int32_t run = 0; run < n_runs; run++) {
            pool_run(pool, 4 + run % 5, thread_count_task, &counts);
            /* Longer than the workers spin, now and then. */
            if (run % 500 == 0)
                for (int64_t end = clock_us() + 1000; clock_us() < end;) sched_yield();
        }
        for (int32_t i = 0; i < 4; i++) assert_int_equal(counts.counts[i], n_runs);
        assert_int_equal(counts.counts[7], n_runs / 5);
        pool_close(pool);
    }
}

enum { STUCK_TASKS = 100, STUCK_WAITS_FOR = 90 };

/* The first task lasts until most others are done: its thread's share has to go to the others. */
static void thread_stuck_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    _Atomic int32_t *done = context;
    while (task == 0 && atomic_load(done) < STUCK_WAITS_FOR) sched_yield();
    atomic_fetch_add(done, 1);
}

static void thread_helps_a_slow_one(void **state) {
    (void)state;
    for (int32_t n_threads = 2; n_threads <= 5; n_threads++) {
        ThreadPool *pool = NULL;
        Err err = {0};
        ASSERT_OK(pool_open(&pool, n_threads, &err), err);
        for (int32_t run = 0; run < 20; run++) {
            _Atomic int32_t done = 0;
            pool_run(pool, STUCK_TASKS, thread_stuck_task, &done);
            assert_int_equal(atomic_load(&done), STUCK_TASKS);
        }
        pool_close(pool);
    }
}

static void thread_opens_and_closes(void **state) {
    (void)state;
    Err err = {0};
    ThreadPool *pool = NULL;
    for (int32_t i = 0; i < 200; i++) {
        ASSERT_OK(pool_open(&pool, 1 + i % 4, &err), err);
        pool_close(pool);
    }
    pool_close(NULL);
    pool = NULL;
    assert_int_equal(pool_open(&pool, 0, &err), ERR_ARG);
    assert_int_equal(pool_open(&pool, 100000, NULL), ERR_ARG);
    assert_null(pool);
}

static void thread_cores_follow_affinity(void **state) {
    (void)state;
    int32_t cores = thread_cores();
    assert_true(cores >= 1);
    cpu_set_t before, one;
    if (sched_getaffinity(0, sizeof before, &before) != 0) skip();
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(thread_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_int_equal(thread_cores(), cores);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thread_runs_each_task_once), cmocka_unit_test(thread_survives_short_runs),
        cmocka_unit_test(thread_helps_a_slow_one), cmocka_unit_test(thread_opens_and_closes),
        cmocka_unit_test(thread_cores_follow_affinity)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
