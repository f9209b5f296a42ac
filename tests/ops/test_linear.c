/* test_linear: each level's matrix products against the reference (f64 sums over the same weights)
 * for every format: odd shapes, strides, several parts, bias, accumulate; a row's bits alone and in
 * batches, on one thread and on two; values that are not numbers, zero, huge and tiny. */
#include "ops/linear_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 80, .k_max = 4096, .n_max = 4096};

typedef struct LinearCase {
    DType dtype[LINEAR_PARTS_MAX];
    int64_t n[LINEAR_PARTS_MAX];
    int32_t n_parts;
    int64_t n_tokens, k, pad;
    bool bias, accumulate;
} LinearCase;

static double linear_bound(const Ops *ops, DType dtype) {
    const bool amx = strcmp(ops->level, "amx") == 0;
    if (dtype == DTYPE_BF16 && (amx || strcmp(ops->level, "avx512bf16") == 0))
        return BOUND_LINEAR_HALF;
    if (dtype == DTYPE_F16 && amx) return BOUND_LINEAR_PAIR;
    if (dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16) return BOUND_LINEAR_PLAIN;
    return BOUND_LINEAR_BLOCK;
}

/* Runs the case at a level into out[part]; weights are made anew. */
static void linear_run(const Ops *ops, OpCtx *ctx, const LinearCase *c, float *x, float **out) {
    Weight weight[LINEAR_PARTS_MAX];
    Tensor file[LINEAR_PARTS_MAX];
    float *bias[LINEAR_PARTS_MAX];
    LinearArgs args = {.x = strided_2d(x, c->n_tokens, c->k, c->k + c->pad)};
    args.n_parts = c->n_parts;
    args.accumulate = c->accumulate;
    for (int32_t i = 0; i < c->n_parts; i++) {
        file[i] = linear_testing_weight(c->dtype[i], c->n[i], c->k, 10 + 2 * (uint64_t)i);
        assert_int_equal(ops->weight_prepare(ctx, &file[i], &weight[i], NULL), OK);
        bias[i] = random_new(c->n[i], 20 + (uint64_t)i, 1);
        args.part[i] = (LinearPart){&weight[i], c->bias ? bias[i] : NULL,
                                    strided_2d(out[i], c->n_tokens, c->n[i], c->n[i] + c->pad)};
    }
    ops->linear(ctx, &args);
    for (int32_t i = 0; i < c->n_parts; i++) {
        ops->weight_release(ctx, &weight[i]);
        mem_free(file[i].data);
        guard_free(bias[i], c->n[i]);
    }
}

static void linear_case(const Ops *ops, OpCtx *ctx, OpCtx *ref_ctx, const LinearCase *c) {
    int64_t span = (c->n_tokens - 1) * (c->k + c->pad) + c->k;
    float *x = random_new(span, 1, 1), *out[LINEAR_PARTS_MAX], *want[LINEAR_PARTS_MAX];
    for (int32_t i = 0; i < c->n_parts; i++) {
        int64_t size = (c->n_tokens - 1) * (c->n[i] + c->pad) + c->n[i];
        out[i] = random_new(size, 30, 1);
        want[i] = copy_new(out[i], size);
    }
    linear_run(ops, ctx, c, x, out);
    linear_run(ops_testing_ref(), ref_ctx, c, x, want);
    for (int32_t i = 0; i < c->n_parts; i++) {
        int64_t stride = c->n[i] + c->pad, size = (c->n_tokens - 1) * stride + c->n[i];
        double error = testing_nmse(out[i], want[i], (size_t)size);
        /* Few outputs may cancel by chance. */
        assert_true(error <=
                    linear_bound(ops, c->dtype[i]) * (c->n_tokens * c->n[i] < 64 ? 30 : 1));
        for (int64_t t = 0; t + 1 < c->n_tokens; t++)
            assert_true(
                same_bits(out[i] + t * stride + c->n[i], want[i] + t * stride + c->n[i], c->pad));
        guard_free(out[i], size), guard_free(want[i], size);
    }
    guard_free(x, span);
}

static void linear_shapes(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    OpCtx ref_ctx = ops_testing_open(ops_testing_ref(), &LIMITS, 1);
    static const int64_t plain_k[] = {1, 3, 15, 16, 17, 33, 100, 513, 1030};
    static const int64_t n_rows[] = {1, 3, 8, 15, 16, 17, 33, 64, 67, 131};
    static const int64_t n_tokens[] = {1, 2, 3, 5, 6, 7, 8, 13, 20};
    int32_t i = 0;
    for (size_t d = 0; d < ARRAY_LEN(LINEAR_DTYPES); d++) {
        int32_t group = dtype_info(LINEAR_DTYPES[d])->group_len;
        for (size_t a = 0; a < ARRAY_LEN(n_rows); a++) {
            for (size_t b = 0; b < ARRAY_LEN(n_tokens); b++, i++) {
                LinearCase c = {.dtype = {LINEAR_DTYPES[d]}, .n = {n_rows[a]}, .n_parts = 1};
                c.n_tokens = n_tokens[b];
                c.k = group == 1 ? plain_k[i % (int)ARRAY_LEN(plain_k)] : group * (1 + i % 5);
                c.pad = i % 3 == 0 ? 0 : 5;
                c.bias = i % 2 == 0;
                c.accumulate = i % 5 < 2;
                linear_case(ops, &ctx, &ref_ctx, &c);
            }
        }
    }
    ops_testing_close(&ctx), ops_testing_close(&ref_ctx);
}

/* Long rows: several blocks of k, the prefetch's switch to the next rows, short last panels. */
static void linear_long(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    OpCtx ref_ctx = ops_testing_open(ops_testing_ref(), &LIMITS, 1);
    for (size_t d = 0; d < ARRAY_LEN(LINEAR_DTYPES); d++) {
        for (int32_t n_tokens = 1; n_tokens <= 65; n_tokens += 32) {
            LinearCase c = {.dtype = {LINEAR_DTYPES[d]}, .n = {150}, .n_parts = 1, .k = 3328};
            c.n_tokens = n_tokens;
            linear_case(ops, &ctx, &ref_ctx, &c);
        }
    }
    ops_testing_close(&ctx), ops_testing_close(&ref_ctx);
}

/* Parts of three kinds read one input: plain, with offsets, with minimums. */
static void linear_mixed_parts(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    OpCtx ref_ctx = ops_testing_open(ops_testing_ref(), &LIMITS, 1);
    static const DType kinds[][3] = {{DTYPE_Q4_K, DTYPE_Q4_K, DTYPE_Q6_K},
                                     {DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q2_K},
                                     {DTYPE_Q5_0, DTYPE_Q4_1, DTYPE_Q3_K},
                                     {DTYPE_Q4_0, DTYPE_F32, DTYPE_F16},
                                     {DTYPE_F16, DTYPE_BF16, DTYPE_F16}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        for (int32_t n_tokens = 1; n_tokens < 12; n_tokens += 5) {
            LinearCase c = {.n = {64, 17, 130}, .n_parts = 3, .n_tokens = n_tokens, .k = 512};
            memcpy(c.dtype, kinds[i], sizeof c.dtype);
            c.bias = i % 2 == 0;
            linear_case(ops, &ctx, &ref_ctx, &c);
        }
    }
    ops_testing_close(&ctx), ops_testing_close(&ref_ctx);
}

/* One matrix, prepared once, with n_tokens rows of x. */
typedef struct LinearFixture {
    const Ops *ops;
    Tensor file;
    Weight weight;
} LinearFixture;

static LinearFixture linear_fixture(const Ops *ops, OpCtx *ctx, DType dtype, int64_t n, int64_t k) {
    LinearFixture f = {.ops = ops, .file = linear_testing_weight(dtype, n, k, 50)};
    assert_int_equal(ops->weight_prepare(ctx, &f.file, &f.weight, NULL), OK);
    return f;
}

static void linear_fixture_free(LinearFixture *f, OpCtx *ctx) {
    f->ops->weight_release(ctx, &f->weight);
    mem_free(f->file.data);
}

static void linear_fixture_run(LinearFixture *f, OpCtx *ctx, float *x, int64_t n_tokens,
                               int32_t n_parts, float *out) {
    int64_t n = f->file.shape[0];
    LinearArgs args = {.x = tensor_2d(x, DTYPE_F32, n_tokens, f->file.shape[1])};
    args.n_parts = n_parts;
    for (int32_t i = 0; i < n_parts; i++)
        args.part[i] = (LinearPart){&f->weight, NULL,
                                    tensor_2d(out + i * n_tokens * n, DTYPE_F32, n_tokens, n)};
    f->ops->linear(ctx, &args);
}

/* The signature: bits of a row alone, in every batch size and place, and at any thread count. */
static void linear_bits(const Ops *ops, DType dtype, int64_t n, int64_t k) {
    enum { TOKENS = 67 };
    OpCtx one = ops_testing_open(ops, &LIMITS, 1), two = ops_testing_open(ops, &LIMITS, 2);
    LinearFixture f = linear_fixture(ops, &one, dtype, n, k);
    float *x = random_new(TOKENS * k, 60, 2), *alone = guard_new(TOKENS * n);
    float *batch = guard_new(3 * TOKENS * n);
    for (int64_t t = 0; t < TOKENS; t++)
        linear_fixture_run(&f, &one, x + t * k, 1, 1, alone + t * n);
    for (int64_t n_tokens = 1; n_tokens <= TOKENS; n_tokens++) {
        int64_t first = (TOKENS - n_tokens) / 2;
        OpCtx *ctx = n_tokens % 2 == 0 ? &one : &two;
        linear_fixture_run(&f, ctx, x + first * k, n_tokens, 1, batch);
        assert_true(same_bits(batch, alone + first * n, n_tokens * n));
    }
    for (int64_t n_tokens = 1; n_tokens <= TOKENS; n_tokens += 33) {
        linear_fixture_run(&f, &two, x, n_tokens, 3, batch);
        for (int32_t i = 0; i < 3; i++)
            assert_true(same_bits(batch + i * n_tokens * n, alone, n_tokens * n));
    }
    linear_fixture_free(&f, &one);
    guard_free(x, TOKENS * k), guard_free(alone, TOKENS * n), guard_free(batch, 3 * TOKENS * n);
    ops_testing_close(&one), ops_testing_close(&two);
}

static void linear_same_bits(void **state) {
    const Ops *ops = ops_testing_level(state);
    for (size_t d = 0; d < ARRAY_LEN(LINEAR_DTYPES); d++) {
        bool plain = dtype_info(LINEAR_DTYPES[d])->group_len == 1;
        linear_bits(ops, LINEAR_DTYPES[d], 83, plain ? 1051 : 768);
    }
}

/* The levels give the same bits where their numerics are the same: a row's products do not depend
 * on the processor. */
static void linear_levels_agree(void **state) {
    enum { N = 131, LEVELS = 4 };
    static const char *const names[LEVELS] = {"avx2", "avx512", "avx512bf16", "amx"};
    static const int64_t n_tokens[] = {1, 13, 77};
    (void)state;
    if (!ops_cpu_has(OPS_AVX512)) skip();
    for (size_t d = 0; d < 3 * ARRAY_LEN(LINEAR_DTYPES); d++) {
        DType dtype = LINEAR_DTYPES[d / 3];
        int64_t k = dtype_info(dtype)->group_len == 1 ? 1029 : 1024, n = n_tokens[d % 3];
        float *x = random_new(n * k, 65, 1), *want = NULL;
        for (int32_t i = 0; i < LEVELS; i++) {
            const Ops *ops = NULL;
            if (ops_cpu(&ops, names[i], NULL) != OK || (i >= 2 && dtype == DTYPE_BF16)) continue;
            if (i == 3 && dtype == DTYPE_F16) continue;
            OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
            LinearFixture f = linear_fixture(ops, &ctx, dtype, N, k);
            float *out = guard_new(n * N);
            linear_fixture_run(&f, &ctx, x, n, 1, out);
            linear_fixture_free(&f, &ctx);
            ops_testing_close(&ctx);
            if (want == NULL)
                want = copy_new(out, n * N);
            else
                assert_true(same_bits(out, want, n * N));
            guard_free(out, n * N);
        }
        guard_free(x, n * k), guard_free(want, n * N);
    }
}

static void linear_many(const Ops *ops, int64_t n_tokens, int32_t n_threads) {
    enum { N = 150, K = 1280, STEP = 137 };
    static const DType dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q6_K};
    OpsLimits limits = {.n_tokens_max = (int32_t)n_tokens, .k_max = K, .n_max = N};
    OpCtx ctx = ops_testing_open(ops, &limits, n_threads);
    float *x = random_new(n_tokens * K, 61, 1), *out = guard_new(n_tokens * N);
    float *alone = guard_new(N);
    for (size_t d = 0; d < ARRAY_LEN(dtypes); d++) {
        LinearFixture f = linear_fixture(ops, &ctx, dtypes[d], N, K);
        linear_fixture_run(&f, &ctx, x, n_tokens, 1, out);
        for (int64_t t = n_tokens - 1; t >= 0; t -= STEP) {
            linear_fixture_run(&f, &ctx, x + t * K, 1, 1, alone);
            assert_true(same_bits(alone, out + t * N, N));
        }
        linear_fixture_free(&f, &ctx);
    }
    guard_free(x, n_tokens * K), guard_free(out, n_tokens * N), guard_free(alone, N);
    ops_testing_close(&ctx);
}

/* More tokens than a pass of any level has, and more activations than its caches keep: a row's bits
 * are still those that it has alone. */
static void linear_many_tokens(void **state) {
    linear_many(ops_testing_level(state), 1047, 1);
}

/* More threads than there are units of rows, so that tokens are shared out too, and a rest of few
 * tokens. */
static void linear_many_threads(void **state) {
    const Ops *ops = ops_testing_level(state);
    linear_many(ops, 980, 8);
    linear_many(ops, 512, 16);
}

/* Rows that are not numbers give nothing finite and leave their neighbours alone; zeros give zeros;
 * huge and tiny values keep their relative precision. */
static void linear_values(void **state) {
    enum { N = 40, K = 512, TOKENS = 9 };
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    OpCtx ref_ctx = ops_testing_open(ops_testing_ref(), &LIMITS, 1);
    for (size_t d = 0; d < ARRAY_LEN(LINEAR_DTYPES); d++) {
        DType dtype = LINEAR_DTYPES[d];
        LinearFixture f = linear_fixture(ops, &ctx, dtype, N, K);
        LinearFixture r = linear_fixture(ops_testing_ref(), &ref_ctx, dtype, N, K);
        float *x = random_new(TOKENS * K, 70, 1), *out = guard_new(TOKENS * N);
        float *want = guard_new(TOKENS * N);
        x[1 * K + 77] = NAN;
        x[2 * K + 40] = INFINITY;
        x[3 * K + 511] = -INFINITY;
        for (int64_t i = 0; i < K; i++) {
            x[4 * K + i] = 0;
            x[5 * K + i] *= 1e34f;
            x[6 * K + i] *= 1e-30f;
            x[7 * K + i] = 0x1p-149f;
        }
        x[8 * K] = -NAN, x[8 * K + 1] = INFINITY;
        linear_fixture_run(&f, &ctx, x, TOKENS, 1, out);
        linear_fixture_run(&r, &ref_ctx, x, TOKENS, 1, want);
        for (int64_t t = 0; t < TOKENS; t++) {
            const float *row = out + t * N;
            bool bad = t == 1 || t == 2 || t == 3 || t == 8;
            for (int64_t i = 0; i < N; i++) assert_true(bad ? !isfinite(row[i]) : isfinite(row[i]));
            for (int64_t i = 0; t == 4 && i < N; i++) assert_true(row[i] == 0);
            for (int64_t i = 0; t == 7 && i < N; i++) assert_true(fabsf(row[i]) < 1e-35f);
            if (t == 0 || t == 5 || t == 6)
                assert_true(testing_nmse(row, want + t * N, N) <= linear_bound(ops, dtype));
            float *alone = guard_new(N);
            linear_fixture_run(&f, &ctx, x + t * K, 1, 1, alone);
            assert_true(bad || same_bits(alone, row, N));
            guard_free(alone, N);
        }
        guard_free(x, TOKENS * K), guard_free(out, TOKENS * N), guard_free(want, TOKENS * N);
        linear_fixture_free(&f, &ctx), linear_fixture_free(&r, &ref_ctx);
    }
    ops_testing_close(&ctx), ops_testing_close(&ref_ctx);
}

static void linear_prepare(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    int64_t ids[4] = {0};
    Err err = {0};
    Weight weight = {.layout = 77};
    Tensor file = tensor_2d(ids, DTYPE_I64, 2, 2);
    assert_int_equal(ops->weight_prepare(&ctx, &file, &weight, &err), ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "i64"));
    assert_int_equal(weight.layout, 77);
    float values[4] = {1, 2, 3, 4};
    file = tensor_2d(values, DTYPE_F32, 2, 2);
    assert_int_equal(ops->weight_prepare(&ctx, &file, &weight, NULL), OK);
    assert_ptr_equal(weight.t.data, values); /* plain weights are borrowed */
    assert_null(weight.owned);
    ops->weight_release(&ctx, &weight);
    ops->weight_release(&ctx, &weight); /* a zeroed weight */
    LinearArgs none = {.x = tensor_2d(values, DTYPE_F32, 0, 2), .n_parts = 1};
    assert_int_equal(ops->weight_prepare(&ctx, &file, &weight, NULL), OK);
    none.part[0] = (LinearPart){&weight, NULL, tensor_2d(NULL, DTYPE_F32, 0, 2)};
    ops->linear(&ctx, &none);
    ops->weight_release(&ctx, &weight);
    ops_testing_close(&ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        OPS_TEST_PRODUCTS(linear_shapes),      OPS_TEST_PRODUCTS(linear_long),
        OPS_TEST_PRODUCTS(linear_mixed_parts), OPS_TEST_PRODUCTS(linear_same_bits),
        OPS_TEST_PRODUCTS(linear_many_tokens), OPS_TEST_PRODUCTS(linear_many_threads),
        cmocka_unit_test(linear_levels_agree), OPS_TEST_PRODUCTS(linear_values),
        OPS_TEST_ALL(linear_prepare),
    };
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
