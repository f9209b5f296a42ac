#include "ops/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/available.h"
#include "base/clock.h"
#include "base/mem.h"
#include "ops/cpu/cpu_probe.h"

enum {
    PROBE_BYTES = 512 << 20,
    PROBE_CHUNK_BYTES = 4 << 20,
    PROBE_STREAMS = 4,
    PROBE_PREFETCH_BYTES = 3072,
    PROBE_ROUNDS_MAX = 64,
    PROBE_LOOPS = 1000000,
    PROBE_RUNS = 2000,
    PROBE_RUN_STEPS = 4000 /* of a task: about 4 us */
};

typedef uint64_t ProbeVec __attribute__((vector_size(16)));

typedef struct ProbeRead {
    const char *data;
    uint64_t *sum; /* [n_chunks], so that no read can be left out */
} ProbeRead;

static inline ProbeVec probe_read_line(const char *line) {
    const ProbeVec *v = (const ProbeVec *)line;
    return (v[0] ^ v[1]) + (v[2] ^ v[3]);
}

/* One chunk, walked as n_streams runs side by side; n_streams and ahead are constants. */
static inline __attribute__((always_inline)) void probe_read_chunk(const ProbeRead *read,
                                                                   int64_t task, int n_streams,
                                                                   int64_t ahead) {
    const int64_t stream = PROBE_CHUNK_BYTES / n_streams;
    const char *base = read->data + task * PROBE_CHUNK_BYTES;
    ProbeVec sum[PROBE_STREAMS] = {0};
    for (int64_t at = 0; at < stream; at += CACHE_LINE) {
        for (int s = 0; s < n_streams; s++) {
            const char *line = base + s * stream + at;
            if (ahead > 0) __builtin_prefetch(line + ahead);
            sum[s] += probe_read_line(line);
        }
    }
    ProbeVec all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    read->sum[task] = all[0] + all[1];
}

static void probe_read_one(void *context, int64_t task, int32_t thread) {
    (void)thread;
    probe_read_chunk(context, task, 1, 0);
}

static void probe_read_four(void *context, int64_t task, int32_t thread) {
    (void)thread;
    probe_read_chunk(context, task, PROBE_STREAMS, 0);
}

static void probe_read_prefetched(void *context, int64_t task, int32_t thread) {
    (void)thread;
    probe_read_chunk(context, task, PROBE_STREAMS, PROBE_PREFETCH_BYTES);
}

static int probe_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double probe_read_bandwidth(ThreadPool *pool, ProbeWalk walk, int32_t rounds) {
    static const PoolTask tasks[PROBE_WALK_COUNT] = {probe_read_one, probe_read_four,
                                                     probe_read_prefetched};
    const int64_t n_chunks = PROBE_BYTES / PROBE_CHUNK_BYTES;
    if (available_memory("") < PROBE_BYTES + PROBE_CHUNK_BYTES) return 0;
    char *data = mem_try_alloc_large((size_t)PROBE_BYTES + PROBE_CHUNK_BYTES);
    if (data == NULL) return 0;
    /* Touched, or every page would be the same zero page. */
    for (int64_t i = 0; i < PROBE_BYTES; i += 4096) data[i] = (char)i;
    uint64_t sum[PROBE_BYTES / PROBE_CHUNK_BYTES];
    ProbeRead read = {data, sum};
    double rate[PROBE_ROUNDS_MAX];
    rounds = MIN(MAX(rounds, 1), (int32_t)PROBE_ROUNDS_MAX);
    for (int32_t r = 0; r < rounds; r++) {
        int64_t start_us = clock_us();
        pool_run(pool, n_chunks, tasks[walk], &read);
        rate[r] = (double)PROBE_BYTES / ((double)MAX(clock_us() - start_us, (int64_t)1) * 1e-6);
    }
    mem_free_large(data, (size_t)PROBE_BYTES + PROBE_CHUNK_BYTES);
    qsort(rate, (size_t)rounds, sizeof rate[0], probe_compare);
    return rate[rounds / 2];
}

typedef struct ProbeLoop {
    double (*loop)(int64_t n_loops); /* returns the operations it did */
    double *operations;              /* [n_threads] */
} ProbeLoop;

static void probe_loop_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    ProbeLoop *probe = context;
    probe->operations[task] = probe->loop(PROBE_LOOPS);
}

static double probe_loop(ThreadPool *pool, double (*loop)(int64_t), int32_t rounds) {
    int32_t n = pool == NULL ? 1 : pool_threads(pool);
    ProbeLoop probe = {loop, mem_alloc((size_t)n * sizeof(double))};
    double best = 0;
    for (int32_t r = 0; r < MAX(rounds, 1); r++) {
        int64_t start_us = clock_us();
        pool_run(pool, n, probe_loop_task, &probe);
        double seconds = (double)MAX(clock_us() - start_us, (int64_t)1) * 1e-6, total = 0;
        for (int32_t i = 0; i < n; i++) total += probe.operations[i];
        best = MAX(best, total / seconds);
    }
    mem_free(probe.operations);
    return best;
}

double probe_f32_fma(ThreadPool *pool, OpsLevel level, int32_t rounds) {
    if (!ops_cpu_has(level)) return 0;
    if (level == OPS_AVX2) return probe_loop(pool, cpu_probe_fma_avx2, rounds);
    return level == OPS_AVX512 ? probe_loop(pool, cpu_probe_fma_avx512, rounds) : 0;
}

double probe_bf16_dot(ThreadPool *pool, OpsLevel level, int32_t rounds) {
    if (!ops_cpu_has(level)) return 0;
    if (level == OPS_AVX512BF16) return probe_loop(pool, cpu_probe_half_avx512, rounds);
    return level == OPS_AMX ? probe_loop(pool, cpu_probe_half_amx, rounds) : 0;
}

double probe_int8_dot(ThreadPool *pool, OpsLevel level, int32_t rounds) {
    if (!ops_cpu_has(level)) return 0;
    if (level == OPS_AVX2) return probe_loop(pool, cpu_probe_dot_avx2, rounds);
    if (level == OPS_AVX512) return probe_loop(pool, cpu_probe_dot_avx512, rounds);
    return level == OPS_AMX ? probe_loop(pool, cpu_probe_dot_amx, rounds) : 0;
}

double probe_bf16_fed(ThreadPool *pool, int32_t rounds) {
    return ops_cpu_has(OPS_AMX) ? probe_loop(pool, cpu_probe_half_fed_amx, rounds) : 0;
}

double probe_int8_fed(ThreadPool *pool, int32_t rounds) {
    return ops_cpu_has(OPS_AMX) ? probe_loop(pool, cpu_probe_dot_fed_amx, rounds) : 0;
}

double probe_products(ThreadPool *pool, OpsLevel level, DType weights, int32_t rounds) {
    if (level == OPS_REF) return 0;
    OpsLevel vectors = level == OPS_AVX2 ? OPS_AVX2 : OPS_AVX512;
    const bool amx = level == OPS_AMX;
    if (dtype_is_grouped(weights)) {
        double dot = probe_int8_dot(pool, vectors, rounds);
        return amx ? MAX(dot, probe_int8_fed(pool, rounds) / 2) : dot;
    }
    if (amx && weights == DTYPE_BF16) return probe_bf16_fed(pool, rounds);
    if (amx && weights == DTYPE_F16) return probe_bf16_fed(pool, rounds) / 3;
    if (weights == DTYPE_BF16 && level == OPS_AVX512BF16)
        return probe_bf16_dot(pool, level, rounds);
    return probe_f32_fma(pool, vectors, rounds);
}

/* Each step waits for the one before it. Tasks without work the caller would do alone, before any
 * other thread has seen the run. */
static void probe_work_task(void *context, int64_t task, int32_t thread) {
    (void)context, (void)thread;
    uint64_t x = (uint64_t)task;
    for (int i = 0; i < PROBE_RUN_STEPS; i++) {
        x = x * 6364136223846793005u + 1;
        __asm__ volatile("" : "+r"(x));
    }
}

double probe_pool_run(ThreadPool *pool, int32_t rounds) {
    double seconds[PROBE_ROUNDS_MAX];
    rounds = MIN(MAX(rounds, 1), (int32_t)PROBE_ROUNDS_MAX);
    for (int32_t r = 0; r < rounds; r++) {
        const int64_t start_us = clock_us();
        for (int i = 0; i < PROBE_RUNS; i++) probe_work_task(NULL, i, 0);
        const int64_t alone_us = clock_us() - start_us;
        for (int i = 0; i < PROBE_RUNS; i++)
            pool_run(pool, pool_threads(pool), probe_work_task, NULL);
        const int64_t run_us = clock_us() - start_us - alone_us;
        seconds[r] = (double)MAX(run_us - alone_us, (int64_t)0) * 1e-6 / PROBE_RUNS;
    }
    qsort(seconds, (size_t)rounds, sizeof seconds[0], probe_compare);
    return seconds[rounds / 2];
}

/* The first word of a file of sysfs. */
static bool probe_sys(int32_t index, const char *name, char word[64]) {
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, name);
    FILE *stream = fopen(path, "re");
    if (stream == NULL) return false;
    bool found = fscanf(stream, "%63s", word) == 1;
    fclose(stream);
    return found;
}

/* "0-3,8" -> 5 */
static int32_t probe_count_cpus(const char *list) {
    int32_t n = 0;
    while (*list >= '0' && *list <= '9') {
        char *end;
        long first = strtol(list, &end, 10), last = first;
        if (*end == '-') last = strtol(end + 1, &end, 10);
        n += (int32_t)(last - first + 1);
        list = *end == ',' ? end + 1 : end;
    }
    return n;
}

int32_t probe_caches(ProbeCache out[PROBE_CACHES_MAX]) {
    char type[64], level[64], size[64], cpus[64];
    int32_t n = 0;
    for (int32_t i = 0; n < PROBE_CACHES_MAX && probe_sys(i, "type", type); i++) {
        if (strcmp(type, "Instruction") == 0 || !probe_sys(i, "level", level) ||
            !probe_sys(i, "size", size) || !probe_sys(i, "shared_cpu_list", cpus))
            continue;
        char *unit;
        int64_t bytes = strtoll(size, &unit, 10);
        bytes <<= *unit == 'K' ? 10 : *unit == 'M' ? 20 : 0;
        out[n++] = (ProbeCache){(int32_t)strtol(level, NULL, 10), probe_count_cpus(cpus), bytes};
    }
    return n;
}
