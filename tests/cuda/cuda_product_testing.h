/* cuda_product_testing: one matrix product of the GPU's table against the reference. */
#pragma once

#include "cuda/cuda_testing.h"
#include "ops/linear_testing.h"

static inline Weight cuda_product_weight(CudaTesting *t, const Tensor *file) {
    Err err = {0};
    Weight w = {0};
    ASSERT_OK(t->ops->weight_prepare(&t->ctx, file, &w, &err), err);
    return w;
}

typedef struct CudaProductCase {
    DType weight, in, out;
    int64_t n_tokens, n, k;
    bool accumulate, bias;
} CudaProductCase;

/* Frees the case's memory too. Returns the layout of the weight. */
static inline int32_t cuda_product_case(CudaTesting *t, const CudaProductCase *c, uint64_t stream) {
    char what[128];
    Tensor file = linear_testing_weight(c->weight, c->n, c->k, stream);
    Weight w = cuda_product_weight(t, &file), host_w = {.t = file};
    float *x = cuda_testing_random(c->n_tokens * c->k, stream + 5, 1);
    float *y = cuda_testing_random(c->n_tokens * c->n, stream + 6, 1);
    float *bias = cuda_testing_random(c->n, stream + 7, 1);
    void *gpu_x = cuda_testing_put_f32(t, x, c->n_tokens * c->k, c->in);
    void *gpu_y = c->accumulate ? cuda_testing_put_f32(t, y, c->n_tokens * c->n, c->out)
                                : cuda_testing_put(t, NULL, (size_t)(c->n_tokens * c->n) * 4);
    LinearArgs args = {.x = tensor_2d(gpu_x, c->in, c->n_tokens, c->k),
                       .n_parts = 1,
                       .part = {{&w, NULL, tensor_2d(gpu_y, c->out, c->n_tokens, c->n)}},
                       .accumulate = c->accumulate};
    if (c->bias) args.part[0].bias = cuda_testing_put(t, bias, (size_t)c->n * 4);
    t->ops->linear(&t->ctx, &args);
    LinearArgs host = {
        .x = tensor_2d(x, DTYPE_F32, c->n_tokens, c->k),
        .n_parts = 1,
        .part = {{&host_w, c->bias ? bias : NULL, tensor_2d(y, DTYPE_F32, c->n_tokens, c->n)}},
        .accumulate = c->accumulate};
    t->ref->linear(&t->host, &host);
    snprintf(what, sizeof what, "linear %s %s->%s [%lld, %lld] x %lld", dtype_info(c->weight)->name,
             dtype_info(c->in)->name, dtype_info(c->out)->name, (long long)c->n, (long long)c->k,
             (long long)c->n_tokens);
    cuda_testing_compare(t, what, gpu_y, y, c->n_tokens * c->n, c->out, 1e-11);
    mem_free(x);
    mem_free(y);
    mem_free(bias);
    mem_free(file.data);
    cuda_testing_reset(t);
    return w.layout;
}
