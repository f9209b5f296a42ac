/* test_cuda_quant: products of f16, bf16 and block-format matrices with bf16 rows, on the tensor
 * cores, against the reference on odd shapes, every output kind; a row has the same bits in every
 * batch, and a matrix the same alone and beside others. Outputs hold NaN before. */
#include "cuda/cuda_product_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 200,
                                 .n_seqs_max = 8,
                                 .k_max = 4096,
                                 .n_max = 4096,
                                 .ff = 1024,
                                 .vocab = 512,
                                 .n_logits_max = 16,
                                 .n_heads = 32,
                                 .n_kv_heads = 8,
                                 .head_dim = 64};
static const DType FORMATS[] = {DTYPE_BF16,  DTYPE_F16,  DTYPE_Q8_0, DTYPE_Q4_0,
                                DTYPE_MXFP4, DTYPE_Q4_K, DTYPE_Q6_K};

static Weight upload(CudaTesting *t, const Tensor *file) {
    Weight w = cuda_product_weight(t, file);
    assert_true(w.layout != 0); /* or the plain kernel would be tested */
    return w;
}

static void products_are_right(void **state) {
    (void)state;
    static const int64_t tokens[] = {1, 2, 8, 9, 17, 33, 64, 130}, ns[] = {16, 37, 200},
                         ks[] = {256, 768, 4096};
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    uint64_t stream = 100;
    for (size_t f = 0; f < ARRAY_LEN(FORMATS); f++)
        for (size_t i = 0; i < ARRAY_LEN(tokens); i++)
            for (size_t j = 0; j < ARRAY_LEN(ns); j++) {
                const size_t l = (f + i + j) % ARRAY_LEN(ks);
                const int32_t out = (int32_t)((i + j) % 3);
                stream += 16;
                const CudaProductCase c = {
                    FORMATS[f], DTYPE_BF16, out == 0 ? DTYPE_BF16 : DTYPE_F32,
                    tokens[i],  ns[j],      ks[l],
                    out == 2,   i % 2 == 0};
                assert_true(cuda_product_case(&t, &c, stream) != 0);
            }
    cuda_testing_close(&t);
}

/* Rows [first, first + n) of x by n_parts matrices of one launch; the outputs one by one. */
static float *run(CudaTesting *t, const Weight *w, int32_t n_parts, const void *x, int64_t first,
                  int64_t n) {
    int64_t size = 0;
    LinearArgs args = {.x = tensor_2d((char *)(uintptr_t)x + first * w->t.shape[1] * 2, DTYPE_BF16,
                                      n, w->t.shape[1]),
                       .n_parts = n_parts};
    for (int32_t i = 0; i < n_parts; i++) size += n * w[i].t.shape[0];
    char *y = cuda_testing_put(t, NULL, (size_t)size * 4), *at = y;
    for (int32_t i = 0; i < n_parts; i++) {
        args.part[i] = (LinearPart){&w[i], NULL, tensor_2d(at, DTYPE_F32, n, w[i].t.shape[0])};
        at += n * w[i].t.shape[0] * 4;
    }
    t->ops->linear(&t->ctx, &args);
    float *out = mem_alloc((size_t)size * sizeof *out);
    cuda_testing_get(t, out, y, (size_t)size * sizeof *out);
    return out;
}

static void same_bits_case(CudaTesting *t, DType dtype, int64_t k, uint64_t stream) {
    enum { TOKENS = 130, ROWS = 100 };
    static const int64_t sizes[] = {1, 5, 9, 30, 64, 129};
    static const int64_t rows[] = {ROWS, 16, 40};
    Tensor file[3];
    Weight w[3];
    for (uint64_t i = 0; i < 3; i++) {
        file[i] = linear_testing_weight(dtype, rows[i], k, stream + i);
        w[i] = upload(t, &file[i]);
    }
    float *x = cuda_testing_random(TOKENS * k, stream + 5, 1);
    const void *gpu_x = cuda_testing_put_f32(t, x, TOKENS * k, DTYPE_BF16);
    float *all = run(t, w, 1, gpu_x, 0, TOKENS);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        const int64_t first = (int64_t)(rng_bits(1, stream, i) % (uint64_t)(TOKENS + 1 - sizes[i]));
        const int32_t n_parts = (int32_t)(i % 3) + 1;
        float *some = run(t, w, n_parts, gpu_x, first, sizes[i]);
        if (memcmp(some, all + first * ROWS, (size_t)(sizes[i] * ROWS) * sizeof *some) != 0)
            fail_msg("%s, k %lld: %lld tokens from %lld on with %d parts have other bits",
                     dtype_info(dtype)->name, (long long)k, (long long)sizes[i], (long long)first,
                     n_parts);
        mem_free(some);
    }
    mem_free(all);
    mem_free(x);
    for (int32_t i = 0; i < 3; i++) mem_free(file[i].data);
    cuda_testing_reset(t);
}

static void rows_have_the_same_bits(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    for (size_t f = 0; f < ARRAY_LEN(FORMATS); f++)
        for (int64_t k = 256; k <= 4096; k *= 4)
            same_bits_case(&t, FORMATS[f], k, 16 * (uint64_t)k + f);
    cuda_testing_close(&t);
}

/* f32 rows go to the plain kernel, which finds the elements in the units. */
static void plain_kernel_reads_units(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    for (size_t f = 0; f < ARRAY_LEN(FORMATS); f++) {
        Tensor file = linear_testing_weight(FORMATS[f], 37, 512, f);
        Weight w = upload(&t, &file), host_w = {.t = file};
        float *x = cuda_testing_random(3 * 512, f + 50, 1), y[3 * 37];
        void *gpu_y = cuda_testing_put(&t, NULL, sizeof y);
        LinearArgs args = {.x = tensor_2d(cuda_testing_put(&t, x, 3 * 512 * 4), DTYPE_F32, 3, 512),
                           .n_parts = 1,
                           .part = {{&w, NULL, tensor_2d(gpu_y, DTYPE_F32, 3, 37)}}};
        t.ops->linear(&t.ctx, &args);
        args.x.data = x;
        args.part[0] = (LinearPart){&host_w, NULL, tensor_2d(y, DTYPE_F32, 3, 37)};
        t.ref->linear(&t.host, &args);
        cuda_testing_compare(&t, dtype_info(FORMATS[f])->name, gpu_y, y, 3 * 37, DTYPE_F32, 1e-11);
        mem_free(x);
        mem_free(file.data);
        cuda_testing_reset(&t);
    }
    cuda_testing_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(products_are_right),
                                       cmocka_unit_test(rows_have_the_same_bits),
                                       cmocka_unit_test(plain_kernel_reads_units)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
