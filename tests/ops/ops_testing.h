/* ops_testing: what the op tests share: one run of each test per level, guarded and poisoned
 * buffers, random data, and the bench clock. */
#pragma once

#include "testing.h"

#include "base/clock.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/ops.h"
#include "tensor/half.h"
#include "ops/bounds.h"

/* A cmocka test that runs at one level; the level is its initial state. */
#define OPS_TEST(test, at) \
    { #test " " #at, test, NULL, NULL, (void *)(uintptr_t)OPS_##at }
#define OPS_TEST_ALL(test)  OPS_TEST(test, REF), OPS_TEST(test, AVX2), OPS_TEST(test, AVX512)
#define OPS_TEST_FAST(test) OPS_TEST(test, AVX2), OPS_TEST(test, AVX512)
/* Of matrix products, in which avx512bf16 and amx differ from avx512. */
#define OPS_TEST_PRODUCTS(test) OPS_TEST_FAST(test), OPS_TEST(test, AVX512BF16), OPS_TEST(test, AMX)

/* The table of the test's level; where this machine lacks it the test counts as skipped. */
static inline const Ops *ops_testing_level(void **state) {
    OpsLevel level = (OpsLevel)(uintptr_t)*state;
    const Ops *ops = NULL;
    if (!ops_cpu_has(level)) skip();
    assert_int_equal(ops_cpu(&ops, ops_level_name(level), NULL), OK);
    return ops;
}

static inline const Ops *ops_testing_ref(void) {
    const Ops *ops = NULL;
    assert_int_equal(ops_cpu(&ops, "ref", NULL), OK);
    return ops;
}

/* A context with its own pool and scratch for the limits. */
static inline OpCtx ops_testing_open(const Ops *ops, const OpsLimits *limits, int32_t n_threads) {
    OpCtx ctx = {.device = device_host()};
    if (n_threads > 1) assert_int_equal(pool_open(&ctx.pool, n_threads, NULL), OK);
    ctx.scratch_bytes = ops->scratch_bytes(limits, n_threads);
    ctx.scratch = mem_alloc(ctx.scratch_bytes);
    memset(ctx.scratch, 0xff, ctx.scratch_bytes); /* NaN: nothing may be read before written */
    return ctx;
}

static inline void ops_testing_close(OpCtx *ctx) {
    if (ctx->pool != NULL) pool_close(ctx->pool);
    mem_free(ctx->scratch);
}

/* n floats between two runs of guard words, filled with NaN. */
enum { GUARD_FLOATS = 32 };
static const uint32_t GUARD_WORD = 0x5ca1ab1e;

static inline float *guard_new(int64_t n) {
    float *all = mem_alloc((size_t)(n + 2 * GUARD_FLOATS) * sizeof(float));
    for (int64_t i = 0; i < n + 2 * GUARD_FLOATS; i++) {
        bool inside = i >= GUARD_FLOATS && i < GUARD_FLOATS + n;
        all[i] = half_bits_to_f32(inside ? 0x7fc0dead : GUARD_WORD);
    }
    return all + GUARD_FLOATS;
}

/* Fails when a guard word changed; frees. */
static inline void guard_free(float *p, int64_t n) {
    for (int64_t i = 0; i < GUARD_FLOATS; i++) {
        assert_int_equal(half_bits_from_f32(p[-1 - i]), GUARD_WORD);
        assert_int_equal(half_bits_from_f32(p[n + i]), GUARD_WORD);
    }
    mem_free(p - GUARD_FLOATS);
}

/* About normal with standard deviation `scale`: the sum of twelve uniforms. */
static inline float random_normal(uint64_t stream, uint64_t i) {
    double sum = -6;
    for (uint64_t j = 0; j < 12; j += 4) {
        uint64_t bits = rng_bits(42, stream, 3 * i + j / 4);
        for (int s = 0; s < 64; s += 16) sum += (double)(bits >> s & 0xffff) / 65536.0;
    }
    return (float)sum;
}

static inline void random_fill(float *p, int64_t n, uint64_t stream, float scale) {
    for (int64_t i = 0; i < n; i++) p[i] = scale * random_normal(stream, (uint64_t)i);
}

static inline float *random_new(int64_t n, uint64_t stream, float scale) {
    float *p = guard_new(n);
    random_fill(p, n, stream, scale);
    return p;
}

static inline float *copy_new(const float *from, int64_t n) {
    float *p = guard_new(n);
    memcpy(p, from, (size_t)n * sizeof *p);
    return p;
}

/* Rows of `width` at a distance of `stride` floats. */
static inline Tensor strided_2d(float *data, int64_t n_rows, int64_t width, int64_t stride) {
    Tensor t = tensor_2d(data, DTYPE_F32, n_rows, width);
    t.stride[0] = stride;
    return t;
}

static inline bool same_bits(const float *a, const float *b, int64_t n) {
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

/* Seconds of the fastest of several calls, for the benches. */
#define BENCH_SECONDS(call)                                                    \
    __extension__({                                                            \
        double best_ = 1e30;                                                   \
        int64_t began_ = clock_us();                                           \
        for (int run_ = 0; run_ < 5 || clock_us() - began_ < 300000; run_++) { \
            int64_t start_ = clock_us();                                       \
            call;                                                              \
            double took_ = (double)(clock_us() - start_) * 1e-6;               \
            if (took_ < best_) best_ = took_;                                  \
        }                                                                      \
        best_ > 0 ? best_ : 1e-6;                                              \
    })

/* The levels of this machine, for the benches. */
static inline int32_t bench_levels(const Ops *out[OPS_LEVEL_COUNT], OpsLevel first) {
    int32_t n = 0;
    for (int32_t i = (int32_t)first; i < OPS_LEVEL_COUNT; i++)
        if (ops_cpu(&out[n], ops_level_name((OpsLevel)i), NULL) == OK) n++;
    return n;
}
