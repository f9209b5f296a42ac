/* bench_testing: what benches share: this machine's limits, measured beside them (f32 FMA of a
 * level and read bandwidth, on all threads of a pool), times, medians and large weights. */
#pragma once

#include <stdlib.h>

#include "ops/linear_testing.h"

enum { PEAK_LOOPS = 200000, PEAK_CHAINS = 12 };

#define PEAK_LOOP(clear, fma)                                                                    \
    __asm__ volatile(clear "1:\n" fma(0) fma(1) fma(2) fma(3) fma(4) fma(5) fma(6) fma(7) fma(8) \
                         fma(9) fma(10) fma(11) "dec %0\n jnz 1b\n"                              \
                     : "+r"(n)                                                                   \
                     :                                                                           \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",     \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm15")
#define PEAK_FMA_256(i) "vfmadd231ps %%ymm15, %%ymm15, %%ymm" #i "\n"
#define PEAK_FMA_512(i) "vfmadd231ps %%zmm15, %%zmm15, %%zmm" #i "\n"

static inline void peak_task(void *context, int64_t task, int32_t thread) {
    (void)task, (void)thread;
    int64_t n = PEAK_LOOPS;
    if (*(const bool *)context)
        PEAK_LOOP("vzeroall\n", PEAK_FMA_512);
    else
        PEAK_LOOP("vzeroall\n", PEAK_FMA_256);
}

/* FLOP/s of independent FMA chains on n_threads. */
static inline double bench_fma_peak(const Ops *ops, OpCtx *ctx, int32_t n_threads) {
    bool wide = strcmp(ops->level, "avx512") == 0;
    double seconds = BENCH_SECONDS(pool_run(ctx->pool, 8 * n_threads, peak_task, &wide));
    return 2.0 * (wide ? 16 : 8) * PEAK_CHAINS * PEAK_LOOPS * 8 * n_threads / seconds;
}

enum { PEAK_READ_BYTES = 256 << 20, PEAK_READ_TASKS = 256 };

typedef struct PeakRead {
    const uint64_t *data;
    uint64_t sum[64];
} PeakRead;

/* Four streams with prefetch, which reads faster than one. */
static inline void peak_read_task(void *context, int64_t task, int32_t thread) {
    PeakRead *read = context;
    int64_t words = PEAK_READ_BYTES / PEAK_READ_TASKS / 8, quarter = words / 4;
    const uint64_t *p = read->data + task * words;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (int64_t i = 0; i < quarter; i += 8) {
        for (int64_t s = 0; s < 4; s++) __builtin_prefetch(p + s * quarter + i + 384);
        for (int64_t j = i; j < i + 8; j++) {
            a += p[j], b += p[quarter + j], c += p[2 * quarter + j], d += p[3 * quarter + j];
        }
    }
    read->sum[thread % 64] += a + b + c + d;
}

/* Bytes per second. */
static inline double bench_read_peak(OpCtx *ctx) {
    PeakRead read = {.data = mem_try_alloc_large(PEAK_READ_BYTES)};
    assert_non_null(read.data);
    memset((void *)(uintptr_t)read.data, 1, PEAK_READ_BYTES);
    double seconds = BENCH_SECONDS(pool_run(ctx->pool, PEAK_READ_TASKS, peak_read_task, &read));
    mem_free_large((void *)(uintptr_t)read.data, PEAK_READ_BYTES);
    volatile uint64_t used = read.sum[0]; /* the loops must not be dropped */
    (void)used;
    return PEAK_READ_BYTES / seconds;
}

/* Never 0, to be divided by. */
static inline double bench_seconds_since(int64_t start_us) {
    return (double)MAX(clock_us() - start_us, (int64_t)1) * 1e-6;
}

static inline int bench_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts v. */
static inline double bench_median(double *v, int32_t n) {
    qsort(v, (size_t)n, sizeof *v, bench_compare);
    return v[n / 2];
}

/* A weight whose rows repeat after 64, in memory of its own; returns its bytes in a file. */
static inline int64_t bench_weight(const Ops *ops, OpCtx *ctx, DType dtype, int64_t n, int64_t k,
                                   Weight *out) {
    Tensor few = linear_testing_weight(dtype, 64, k, 5);
    int64_t row_bytes = tensor_row_bytes(&few);
    char *file = mem_try_alloc_large((size_t)(n * row_bytes));
    assert_non_null(file);
    for (int64_t i = 0; i < n; i += 64)
        memcpy(file + i * row_bytes, few.data, (size_t)(MIN(n - i, (int64_t)64) * row_bytes));
    mem_free(few.data);
    Tensor t = tensor_2d(file, dtype, n, k);
    assert_int_equal(ops->weight_prepare(ctx, &t, out, NULL), OK);
    if (out->owned != NULL) mem_free_large(file, (size_t)(n * row_bytes));
    return n * row_bytes;
}

static inline void bench_weight_free(const Ops *ops, OpCtx *ctx, Weight *w) {
    void *file = w->owned == NULL ? w->t.data : NULL;
    size_t bytes = (size_t)tensor_bytes(&w->t);
    ops->weight_release(ctx, w);
    if (file != NULL) mem_free_large(file, bytes);
}
