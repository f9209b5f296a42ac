#include "ops/probe.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "ops/cpu/cpu_probe.h"

enum {
    PROBE_BYTES = 512 << 20,
    PROBE_CHUNK_BYTES = 4 << 20,
    PROBE_STREAMS = 4,
    PROBE_PREFETCH_BYTES = 3072,
    PROBE_ROUNDS_MAX = 64,
    PROBE_LOOPS = 1000000
};

typedef uint64_t ProbeVec __attribute__((vector_size(16)));

typedef struct ProbeRead {
    const char *data;
    uint64_t *sum; /* [n_chunks], so that no read can be left out */
} ProbeRead;

/* One chunk, walked as PROBE_STREAMS runs side by side. */
static void probe_read_chunk(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ProbeRead *read = context;
    const int64_t stream = PROBE_CHUNK_BYTES / PROBE_STREAMS;
    const char *base = read->data + task * PROBE_CHUNK_BYTES;
    ProbeVec sum[PROBE_STREAMS] = {0};
    for (int64_t at = 0; at < stream; at += CACHE_LINE) {
        for (int s = 0; s < PROBE_STREAMS; s++) {
            const char *line = base + s * stream + at;
            __builtin_prefetch(line + PROBE_PREFETCH_BYTES);
            const ProbeVec *v = (const ProbeVec *)line;
            sum[s] += (v[0] ^ v[1]) + (v[2] ^ v[3]);
        }
    }
    ProbeVec all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    read->sum[task] = all[0] + all[1];
}

static int probe_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double probe_read_bandwidth(ThreadPool *pool, int32_t rounds) {
    const int64_t n_chunks = PROBE_BYTES / PROBE_CHUNK_BYTES;
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
        pool_run(pool, n_chunks, probe_read_chunk, &read);
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
    if (level == OPS_REF || !ops_cpu_has(level)) return 0;
    return probe_loop(pool, level == OPS_AVX512 ? cpu_probe_fma_avx512 : cpu_probe_fma_avx2,
                      rounds);
}

double probe_int8_dot(ThreadPool *pool, OpsLevel level, int32_t rounds) {
    if (level == OPS_REF || !ops_cpu_has(level)) return 0;
    return probe_loop(pool, level == OPS_AVX512 ? cpu_probe_dot_avx512 : cpu_probe_dot_avx2,
                      rounds);
}
