#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/numa.h"
#include "base/str.h"

/* One 32-bit word, on which threads also sleep, says where a run stands:
 *
 *   31........12   11       10     9.....0
 *   run number     WAITER   OPEN   workers inside
 *
 * The caller opens a run, works, closes it, and waits only for the workers that came inside. A
 * worker that the system gave no core in time finds the run closed and misses it: nobody waits for
 * it, so a busy machine slows a run by the lost core and no more. The fields that describe the run
 * are written only while the word is closed and nobody is inside; entering is a compare-and-swap of
 * the whole word, so a late worker cannot enter a run that it has not seen. */
enum {
    POOL_INSIDE = (1 << 10) - 1,
    POOL_OPEN = 1 << 10,
    POOL_WAITER = 1 << 11,
    POOL_RUN_SHIFT = 12,
    POOL_THREADS_MAX = POOL_INSIDE,
    POOL_SPINS = 1000,    /* without giving the core away: about 20 us */
    POOL_SPIN_US = 150,   /* then yielding in between; longer than the gap between two ops */
    POOL_OFFER_US = 1000, /* between a worker's offers of its core: less than a slice of Linux */
    POOL_PIECES = 8       /* of what is left of a range, taken at once */
};

/* The tasks of a run that nobody took yet, of those that one thread begins with: from the low half
 * of the word to the high half. Its thread takes them in order, so that it reads memory in one run;
 * who is done with his own takes from the end of another's. */
typedef struct PoolRange {
    _Alignas(CACHE_LINE) _Atomic uint64_t left;
} PoolRange;

struct ThreadPool {
    int32_t n_threads;
    pthread_t *threads; /* [n_threads - 1] */
    atomic_bool stop;

    /* Of the run. */
    PoolTask task;
    void *context;
    PoolRange *range; /* [n_threads]; all empty between runs */

    _Alignas(CACHE_LINE) _Atomic uint32_t state;
    _Alignas(CACHE_LINE) _Atomic int32_t n_sleeping;
};

typedef struct PoolWorker {
    ThreadPool *pool;
    int32_t thread;
} PoolWorker;

static void pool_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void pool_futex(_Atomic uint32_t *word, int op, uint32_t value) {
    syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static uint64_t pool_range(uint64_t from, uint64_t to) {
    return to << 32 | from;
}

/* Takes a piece of what is left of a range; false when there is nothing. */
static bool pool_take(PoolRange *range, bool own, uint32_t *from, uint32_t *to) {
    uint64_t left = atomic_load_explicit(&range->left, memory_order_relaxed), rest;
    do {
        *from = (uint32_t)left;
        *to = (uint32_t)(left >> 32);
        if (*from >= *to) return false;
        const uint32_t n = MAX((*to - *from) / POOL_PIECES, 1u);
        rest = own ? pool_range(*from + n, *to) : pool_range(*from, *to - n);
        if (own)
            *to = *from + n;
        else
            *from = *to - n;
    } while (!atomic_compare_exchange_weak_explicit(&range->left, &left, rest, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static void pool_work(ThreadPool *pool, int32_t thread) {
    for (int32_t i = 0; i < pool->n_threads; i++) {
        PoolRange *range = &pool->range[(thread + i) % pool->n_threads];
        uint32_t from, to;
        while (pool_take(range, i == 0, &from, &to))
            for (uint32_t task = from; task < to; task++) pool->task(pool->context, task, thread);
    }
}

/* One turn of waiting for the word to change; spins counts the turns since start_us. False when it
 * is time to sleep. */
static bool pool_spin(int32_t *spins, int64_t *start_us) {
    pool_pause();
    if (++*spins < POOL_SPINS) return true;
    if (*spins == POOL_SPINS) *start_us = clock_us();
    if (*spins % 64 != 0) return true;
    if (clock_us() - *start_us > POOL_SPIN_US) return false;
    sched_yield();
    return true;
}

/* Waits until the word shows another run than `seen`, or until the pool ends. */
static uint32_t pool_wait_run(ThreadPool *pool, uint32_t seen) {
    int32_t spins = 0;
    int64_t start_us = 0;
    for (;;) {
        uint32_t state = atomic_load_explicit(&pool->state, memory_order_acquire);
        if (state >> POOL_RUN_SHIFT != seen) return state;
        if (pool_spin(&spins, &start_us)) continue;
        /* The caller reads n_sleeping after it opened a run, and the kernel compares the word after
         * n_sleeping grew: one of the two sees the other. */
        atomic_fetch_add(&pool->n_sleeping, 1);
        pool_futex(&pool->state, FUTEX_WAIT, state);
        atomic_fetch_sub(&pool->n_sleeping, 1);
    }
}

static void *pool_worker_main(void *argument) {
    PoolWorker *worker = argument;
    ThreadPool *pool = worker->pool;
    int32_t thread = worker->thread;
    mem_free(worker);
    uint32_t seen = 0;
    int64_t offered_us = clock_us();
    while (!atomic_load(&pool->stop)) {
        uint32_t state = pool_wait_run(pool, seen);
        if ((state & POOL_OPEN) == 0) {
            seen = state >> POOL_RUN_SHIFT;
            continue;
        }
        if (!atomic_compare_exchange_strong(&pool->state, &state, state + 1)) continue;
        seen = state >> POOL_RUN_SHIFT;
        pool_work(pool, thread);
        uint32_t before = atomic_fetch_sub(&pool->state, 1);
        if ((before & POOL_INSIDE) == 1 && (before & POOL_WAITER) != 0)
            pool_futex(&pool->state, FUTEX_WAKE, INT_MAX);
        /* Nobody waits for this thread here: another program that wants its core had better take
         * it now than inside a task. */
        if (clock_us() - offered_us > POOL_OFFER_US) {
            sched_yield();
            offered_us = clock_us();
        }
    }
    return NULL;
}

/* Shows a new run number with these flags and wakes up to n sleepers. */
static void pool_signal(ThreadPool *pool, uint32_t flags, int32_t n) {
    uint32_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
    atomic_store(&pool->state, ((state >> POOL_RUN_SHIFT) + 1) << POOL_RUN_SHIFT | flags);
    if (atomic_load(&pool->n_sleeping) > 0) pool_futex(&pool->state, FUTEX_WAKE, (uint32_t)n);
}

static Status pool_start_worker(ThreadPool *pool, int32_t thread, Err *err) {
    PoolWorker *worker = mem_alloc(sizeof *worker);
    *worker = (PoolWorker){pool, thread};
    int error = pthread_create(&pool->threads[thread - 1], NULL, pool_worker_main, worker);
    if (error != 0) {
        mem_free(worker);
        FAIL(err, ERR_LIMIT, "cannot start thread %d of %d: %s", thread + 1, pool->n_threads,
             strerror(error));
    }
    char name[16];
    snprintf(name, sizeof name, "sluice-%d", thread % 10000);
    pthread_setname_np(pool->threads[thread - 1], name);
    return OK;
}

/* Workers stay on their node; the caller's thread is not ours to move. */
static void pool_spread(const ThreadPool *pool) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    NumaNodes *nodes = mem_alloc(sizeof *nodes);
    numa_read(nodes, NUMA_FOLDER, &allowed);
    for (int32_t i = 1; i < pool->n_threads && nodes->n > 1; i++)
        (void)pthread_setaffinity_np(pool->threads[i - 1], sizeof allowed,
                                     &nodes->cpus[numa_node_of(nodes, i, pool->n_threads)]);
    mem_free(nodes);
}

/* Ends and joins the first n workers. */
static void pool_stop(ThreadPool *pool, int32_t n) {
    atomic_store(&pool->stop, true);
    pool_signal(pool, 0, INT_MAX);
    for (int32_t i = 0; i < n; i++) pthread_join(pool->threads[i], NULL);
    mem_free(pool->threads);
    mem_free(pool->range);
    mem_free(pool);
}

Status pool_open(ThreadPool **out, int32_t n_threads, Err *err) {
    if (n_threads < 1 || n_threads > POOL_THREADS_MAX)
        FAIL(err, ERR_ARG, "%d threads, wanted 1 to %d", n_threads, POOL_THREADS_MAX);
    ThreadPool *pool = mem_alloc(sizeof *pool);
    pool->n_threads = n_threads;
    pool->threads = mem_alloc((size_t)n_threads * sizeof *pool->threads);
    pool->range = mem_alloc((size_t)n_threads * sizeof *pool->range);
    /* Signals are for the program's own threads; workers inherit a full mask. */
    sigset_t all, before;
    sigfillset(&all);
    /* These are of the thread that makes them; blocked, they would kill without a handler. */
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Status status = OK;
    int32_t n_started = 0;
    while (status == OK && n_started < n_threads - 1) {
        status = pool_start_worker(pool, n_started + 1, err);
        if (status == OK) n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status != OK) {
        pool_stop(pool, n_started);
        return status;
    }
    pool_spread(pool);
    *out = pool;
    return OK;
}

void pool_close(ThreadPool *pool) {
    if (pool != NULL) pool_stop(pool, pool->n_threads - 1);
}

int32_t pool_threads(const ThreadPool *pool) {
    return pool == NULL ? 1 : pool->n_threads;
}

/* Closes the run and waits for the workers that are still inside it. */
static void pool_finish(ThreadPool *pool) {
    uint32_t state = atomic_fetch_and(&pool->state, ~(uint32_t)POOL_OPEN) & ~(uint32_t)POOL_OPEN;
    int32_t spins = 0;
    int64_t start_us = 0;
    while ((state & POOL_INSIDE) != 0) {
        if (!pool_spin(&spins, &start_us)) {
            state = atomic_fetch_or(&pool->state, POOL_WAITER) | POOL_WAITER;
            if ((state & POOL_INSIDE) != 0) pool_futex(&pool->state, FUTEX_WAIT, state);
        }
        state = atomic_load_explicit(&pool->state, memory_order_acquire);
    }
}

void pool_run(ThreadPool *pool, int64_t n_tasks, PoolTask task, void *context) {
    if (pool == NULL || pool->n_threads == 1 || n_tasks <= 1) {
        for (int64_t i = 0; i < n_tasks; i++) task(context, i, 0);
        return;
    }
    CHECK(n_tasks <= UINT32_MAX);
    pool->task = task;
    pool->context = context;
    const int64_t n = MIN(n_tasks, (int64_t)pool->n_threads);
    for (int64_t i = 0; i < n; i++)
        atomic_store_explicit(
            &pool->range[i].left,
            pool_range((uint64_t)(n_tasks * i / n), (uint64_t)(n_tasks * (i + 1) / n)),
            memory_order_relaxed);
    pool_signal(pool, POOL_OPEN, (int32_t)n - 1);
    pool_work(pool, 0);
    pool_finish(pool);
}

enum { THREAD_TEXT_BYTES = 4096 };

/* Reads a small file of /proc or /sys, whose sizes are not told in advance. */
static bool thread_read(const char *path, char text[THREAD_TEXT_BYTES]) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, THREAD_TEXT_BYTES - 1);
    close(fd);
    text[MAX(n, (ssize_t)0)] = '\0';
    return n > 0;
}

/* Cores that "QUOTA PERIOD" (microseconds) comes to, rounded up; INT32_MAX for "max" or
 * nonsense. */
static int32_t thread_quota_cores(const char *text) {
    long long quota, period;
    if (sscanf(text, "%lld %lld", &quota, &period) != 2 || quota <= 0 || period <= 0)
        return INT32_MAX;
    return (int32_t)MIN((quota - 1) / period + 1, (long long)INT32_MAX);
}

/* cgroup v2: the tightest cpu.max from this process's group up to the root. */
static int32_t thread_cgroup_v2_cores(void) {
    char group[CGROUP_PATH_BYTES], path[CGROUP_PATH_BYTES + 64], quota[THREAD_TEXT_BYTES];
    if (!cgroup_path("", "0::/", group)) return INT32_MAX;
    int32_t cores = INT32_MAX;
    do {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        if (thread_read(path, quota)) cores = MIN(cores, thread_quota_cores(quota));
    } while (cgroup_up(group));
    return cores;
}

/* cgroup v1, as containers mount it. */
static int32_t thread_cgroup_v1_cores(void) {
    char quota[THREAD_TEXT_BYTES], period[THREAD_TEXT_BYTES], both[2 * THREAD_TEXT_BYTES];
    if (!thread_read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota) ||
        !thread_read("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period))
        return INT32_MAX;
    snprintf(both, sizeof both, "%s %s", quota, period);
    return thread_quota_cores(both);
}

static int32_t thread_affinity_cores(void) {
    /* The kernel refuses a set that is smaller than its own; 1,024 CPUs are the usual bound. */
    for (int n_cpus = CPU_SETSIZE; n_cpus <= 64 * CPU_SETSIZE; n_cpus *= 4) {
        size_t bytes = CPU_ALLOC_SIZE(n_cpus);
        cpu_set_t *set = mem_alloc(bytes);
        bool good = sched_getaffinity(0, bytes, set) == 0;
        int32_t cores = good ? CPU_COUNT_S(bytes, set) : 0;
        mem_free(set);
        if (good) return MAX(cores, 1);
        if (errno != EINVAL) break;
    }
    return (int32_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
}

int32_t thread_cores(void) {
    int32_t cores = MIN(thread_affinity_cores(), (int32_t)POOL_THREADS_MAX);
    cores = MIN(cores, thread_cgroup_v2_cores());
    return MIN(cores, thread_cgroup_v1_cores());
}
