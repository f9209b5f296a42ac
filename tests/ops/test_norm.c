/* test_norm: the reference against sums in long double; each level against the reference over odd
 * widths, strides, in place, with and without the residual; bits alone and in a batch. */
#include "ops/ops_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 64, .k_max = 8192, .n_max = 8192};

typedef struct NormCase {
    NormKind kind;
    int64_t n_rows, dim, stride;
    bool add, bias, in_place;
} NormCase;

/* Brute force in long double, from the formula. */
static void norm_truth(const NormCase *c, const float *x, const float *add, const float *w,
                       const float *bias, float eps, float *out) {
    for (int64_t t = 0; t < c->n_rows; t++) {
        long double mean = 0, var = 0;
        for (int64_t i = 0; i < c->dim; i++) {
            float v = x[t * c->stride + i] + (add ? add[t * c->dim + i] : 0);
            mean += v;
        }
        mean = c->kind == NORM_RMS ? 0 : mean / c->dim;
        for (int64_t i = 0; i < c->dim; i++) {
            float v = x[t * c->stride + i] + (add ? add[t * c->dim + i] : 0);
            var += (v - mean) * (v - mean);
        }
        long double scale = 1 / sqrtl(var / c->dim + eps);
        for (int64_t i = 0; i < c->dim; i++) {
            float v = x[t * c->stride + i] + (add ? add[t * c->dim + i] : 0);
            out[t * c->dim + i] = (float)((v - mean) * scale * w[i] + (bias ? bias[i] : 0));
        }
    }
}

static void norm_case(const Ops *ops, OpCtx *ctx, const NormCase *c) {
    int64_t n = c->n_rows * c->dim, span = (c->n_rows - 1) * c->stride + c->dim;
    float *x = random_new(span, 1, 3), *w = random_new(c->dim, 2, 1), *want = guard_new(n);
    float *add = c->add ? random_new(n, 3, 1) : NULL;
    float *bias = c->bias ? random_new(c->dim, 4, 1) : NULL;
    for (int64_t i = 0; i < span; i++) x[i] += 0.5f;
    norm_truth(c, x, add, w, bias, 1e-5f, want);
    float *before = copy_new(x, span), *out = c->in_place ? x : guard_new(n);
    Tensor add_tensor = tensor_2d(add, DTYPE_F32, c->n_rows, c->dim);
    NormArgs args = {.kind = c->kind,
                     .x = strided_2d(x, c->n_rows, c->dim, c->stride),
                     .add = add ? &add_tensor : NULL,
                     .w = w,
                     .bias = bias,
                     .eps = 1e-5f};
    args.out = c->in_place ? args.x : tensor_2d(out, DTYPE_F32, c->n_rows, c->dim);
    ops->norm(ctx, &args);
    for (int64_t t = 0; t < c->n_rows; t++) {
        const float *row = (const float *)args.out.data + t * args.out.stride[0];
        ASSERT_ERROR_BELOW(testing_nmse(row, want + t * c->dim, (size_t)c->dim), BOUND_NORM);
        for (int64_t i = 0; i < c->stride && t * c->stride + i < span; i++) {
            int64_t at = t * c->stride + i;
            bool inside = i < c->dim;
            if (inside && c->in_place) continue;
            float expected = before[at] + (add && inside ? add[t * c->dim + i] : 0);
            assert_true(x[at] == expected);
        }
    }
    if (!c->in_place) guard_free(out, n);
    guard_free(x, span), guard_free(before, span), guard_free(w, c->dim), guard_free(want, n);
    if (add) guard_free(add, n);
    if (bias) guard_free(bias, c->dim);
}

static void norm_shapes(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    static const int64_t dims[] = {1,  2,  7,  8,  9,   15,  16,   17,  31,
                                   33, 63, 64, 65, 127, 129, 1000, 2048};
    for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
        for (int32_t bits = 0; bits < 32; bits++) {
            NormCase c = {.kind = bits & 1 ? NORM_LAYER : NORM_RMS,
                          .n_rows = bits & 2 ? 5 : 1,
                          .dim = dims[i],
                          .stride = dims[i] + (bits & 4 ? 3 : 0),
                          .add = bits & 8,
                          .bias = bits & 1,
                          .in_place = bits & 16};
            if (c.kind == NORM_LAYER && c.dim < 8) continue; /* x - mean cancels */
            norm_case(ops, &ctx, &c);
        }
    }
    NormCase large = {NORM_RMS, 64, 8192, 8192, true, false, false};
    norm_case(ops, &ctx, &large);
    ops_testing_close(&ctx);
}

/* A row's bits: alone, among neighbours, on one thread and on two. */
static void norm_same_bits(void **state) {
    const Ops *ops = ops_testing_level(state);
    enum { ROWS = 40, DIM = 1027 };
    float *x = random_new(ROWS * DIM, 5, 1), *w = random_new(DIM, 6, 1);
    float *all = guard_new(ROWS * DIM), *one = guard_new(DIM);
    for (int32_t kind = NORM_RMS; kind <= NORM_LAYER; kind++) {
        for (int32_t n_threads = 1; n_threads <= 2; n_threads++) {
            OpCtx ctx = ops_testing_open(ops, &LIMITS, n_threads);
            NormArgs args = {.kind = (NormKind)kind, .w = w, .eps = 1e-6f};
            args.x = tensor_2d(x, DTYPE_F32, ROWS, DIM);
            args.out = tensor_2d(all, DTYPE_F32, ROWS, DIM);
            ops->norm(&ctx, &args);
            for (int64_t t = 0; t < ROWS; t++) {
                args.x = tensor_2d(x + t * DIM, DTYPE_F32, 1, DIM);
                args.out = tensor_2d(one, DTYPE_F32, 1, DIM);
                ops->norm(&ctx, &args);
                assert_true(same_bits(all + t * DIM, one, DIM));
            }
            ops_testing_close(&ctx);
        }
    }
    guard_free(x, ROWS * DIM), guard_free(w, DIM), guard_free(all, ROWS * DIM);
    guard_free(one, DIM);
}

/* NaN and infinity stay in their row and show there. */
static void norm_not_finite(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    enum { DIM = 37 };
    for (int64_t at = 0; at < DIM; at += 6) {
        float *x = random_new(2 * DIM, 7, 1), *w = random_new(DIM, 8, 1), *out = guard_new(2 * DIM);
        x[at] = at % 4 ? NAN : INFINITY;
        NormArgs args = {.kind = NORM_RMS, .w = w, .eps = 1e-6f};
        args.x = tensor_2d(x, DTYPE_F32, 2, DIM);
        args.out = tensor_2d(out, DTYPE_F32, 2, DIM);
        ops->norm(&ctx, &args);
        assert_true(isnan(out[at]));
        for (int64_t i = 0; i < DIM; i++) assert_true(isfinite(out[DIM + i]));
        guard_free(x, 2 * DIM), guard_free(w, DIM), guard_free(out, 2 * DIM);
    }
    ops_testing_close(&ctx);
}

static void norm_bench(void) {
    const Ops *level[OPS_LEVEL_COUNT];
    int32_t n_levels = bench_levels(level, OPS_REF);
    static const int64_t shapes[][2] = {{1, 2048}, {16, 2048}, {512, 2048}, {512, 4096}};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        int64_t n = shapes[i][0], dim = shapes[i][1];
        float *x = random_new(n * dim, 1, 1), *w = random_new(dim, 2, 1), *out = guard_new(n * dim);
        NormArgs args = {.kind = NORM_RMS, .w = w, .eps = 1e-5f};
        args.x = tensor_2d(x, DTYPE_F32, n, dim);
        args.out = tensor_2d(out, DTYPE_F32, n, dim);
        for (int32_t l = 0; l < n_levels; l++) {
            OpCtx ctx = ops_testing_open(level[l], &LIMITS, 2);
            double seconds = BENCH_SECONDS(level[l]->norm(&ctx, &args));
            printf("norm %4lldx%-5lld %-7s %9.1f us %7.1f GB/s\n", (long long)n, (long long)dim,
                   level[l]->level, seconds * 1e6, (double)(2 * n * dim) * 4e-9 / seconds);
            ops_testing_close(&ctx);
        }
        guard_free(x, n * dim), guard_free(w, dim), guard_free(out, n * dim);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        norm_bench();
        return 0;
    }
    const struct CMUnitTest tests[] = {OPS_TEST_ALL(norm_shapes), OPS_TEST_ALL(norm_same_bits),
                                       OPS_TEST_ALL(norm_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
