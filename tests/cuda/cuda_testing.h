/* cuda_testing: what the tests of the GPU's ops share: the device, its memory, and buffers that are
 * poisoned and compared with what the reference makes of the same arguments. */
#pragma once

#include "ops/ops_testing.h"
#include "ops/plugin_testing.h"

enum { CUDA_TESTING_PIECES = 64 };

typedef struct CudaTesting {
    const Ops *ops, *ref;
    OpCtx ctx, host;
    void *piece[CUDA_TESTING_PIECES];
    int32_t n_pieces;
} CudaTesting;

/* The GPU with scratch for the limits; where there is none the test counts as skipped. */
static inline void cuda_testing_open(CudaTesting *t, const OpsLimits *limits) {
    Err err = {0};
    memset(t, 0, sizeof *t);
    if (!plugin_testing_gpu(&t->ops, &t->ctx.device)) skip();
    t->ref = ops_testing_ref();
    t->host = ops_testing_open(t->ref, limits, 1);
    t->ctx.scratch_bytes = t->ops->scratch_bytes(limits, 1);
    const DeviceVtable *v = t->ctx.device->vtable;
    ASSERT_OK(v->alloc(t->ctx.device, t->ctx.scratch_bytes, &t->ctx.scratch, &err), err);
}

/* Ends a case: the memory of all pieces. */
static inline void cuda_testing_reset(CudaTesting *t) {
    for (int32_t i = 0; i < t->n_pieces; i++)
        t->ctx.device->vtable->free(t->ctx.device, t->piece[i], 0);
    t->n_pieces = 0;
}

static inline void cuda_testing_close(CudaTesting *t) {
    cuda_testing_reset(t);
    t->ctx.device->vtable->free(t->ctx.device, t->ctx.scratch, t->ctx.scratch_bytes);
    ops_testing_close(&t->host);
    plugin_close(t->ctx.device);
}

/* A copy on the device, or `bytes` of NaNs when from is NULL. */
static inline void *cuda_testing_put(CudaTesting *t, const void *from, size_t bytes) {
    Err err = {0};
    const DeviceVtable *v = t->ctx.device->vtable;
    void *data = NULL, *poison = NULL;
    assert_true(t->n_pieces < CUDA_TESTING_PIECES);
    ASSERT_OK(v->alloc(t->ctx.device, bytes, &data, &err), err);
    t->piece[t->n_pieces++] = data;
    if (from == NULL) from = memset(poison = mem_alloc(bytes), 0xff, bytes);
    ASSERT_OK(v->upload(t->ctx.device, data, from, bytes, &err), err);
    mem_free(poison);
    return data;
}

static inline void cuda_testing_get(CudaTesting *t, void *to, const void *from, size_t bytes) {
    Err err = {0};
    ASSERT_OK(t->ctx.device->vtable->download(t->ctx.device, to, from, bytes, &err), err);
}

/* f32 values as a device array of f32 or bf16; what bf16 rounds is rounded in x too, so that the
 * reference has the same inputs. */
static inline void *cuda_testing_put_f32(CudaTesting *t, float *x, int64_t n, DType dtype) {
    if (dtype == DTYPE_F32) return cuda_testing_put(t, x, (size_t)n * sizeof *x);
    uint16_t *half = mem_alloc((size_t)n * sizeof *half);
    for (int64_t i = 0; i < n; i++) {
        half[i] = bf16_from_f32(x[i]);
        x[i] = bf16_to_f32(half[i]);
    }
    void *data = cuda_testing_put(t, half, (size_t)n * sizeof *half);
    mem_free(half);
    return data;
}

/* n values of a device array as f32. */
static inline void cuda_testing_get_f32(CudaTesting *t, float *to, const void *from, int64_t n,
                                        DType dtype) {
    if (dtype == DTYPE_F32) {
        cuda_testing_get(t, to, from, (size_t)n * sizeof *to);
        return;
    }
    uint16_t *half = mem_alloc((size_t)n * sizeof *half);
    cuda_testing_get(t, half, from, (size_t)n * sizeof *half);
    for (int64_t i = 0; i < n; i++) to[i] = bf16_to_f32(half[i]);
    mem_free(half);
}

static inline float *cuda_testing_random(int64_t n, uint64_t stream, float scale) {
    float *x = mem_alloc((size_t)n * sizeof *x);
    random_fill(x, n, stream, scale);
    return x;
}

/* The device's array against the reference's: bound on the NMSE for f32, plus one rounding to bf16
 * where the array is bf16. */
static inline void cuda_testing_compare(CudaTesting *t, const char *what, const void *got,
                                        const float *want, int64_t n, DType dtype, double bound) {
    float *have = mem_alloc((size_t)n * sizeof *have);
    cuda_testing_get_f32(t, have, got, n, dtype);
    double error = testing_nmse(have, want, (size_t)n);
    mem_free(have);
    if (dtype == DTYPE_BF16) bound += 1.6e-5; /* 2^-8 relative, squared: the most */
    if (!(error <= bound)) fail_msg("%s: NMSE %.3g, the bound is %.3g", what, error, bound);
}
