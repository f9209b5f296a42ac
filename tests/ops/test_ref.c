/* test_ref: the reference's matrix products, routing and experts against brute force in long double
 * that shares no code with them. The other ops' programs hold the reference to its formula too;
 * test_linear and test_moe then hold the levels to the reference. */
#include "ops/ops_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 16, .k_max = 512, .n_max = 512, .expert_ff = 64};

/* Any readable format from random values, or from small random bytes where none writes it. */
static char *ref_matrix_new(DType dtype, int64_t n, int64_t k, uint64_t stream) {
    int64_t bytes;
    assert_true(dtype_bytes(dtype, n * k, &bytes));
    char *data = mem_alloc((size_t)bytes);
    float *values = random_new(n * k, stream, 1);
    if (dtype_can_write(dtype)) {
        assert_true(dtype_from_f32(dtype, values, data, n * k));
    } else {
        for (int64_t i = 0; i < bytes; i++)
            data[i] = (char)(rng_bits(3, stream, (uint64_t)i) & 0x3b);
    }
    guard_free(values, n * k);
    return data;
}

static void ref_linear_formats(void **state) {
    (void)state;
    const Ops *ops = ops_testing_ref();
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    enum { TOKENS = 5, N = 9, X_STRIDE = 520, OUT_STRIDE = 13 };
    for (int32_t d = 0; d < DTYPE_COUNT; d++) {
        if (!dtype_can_read((DType)d)) continue;
        int64_t k = dtype_is_grouped((DType)d) ? 512 : 77, bytes;
        float *x = random_new(TOKENS * X_STRIDE, 1, 1), *bias = random_new(N, 2, 1);
        float *row = guard_new(k);
        for (int32_t bits = 0; bits < 4; bits++) {
            LinearArgs args = {.n_parts = 2, .accumulate = bits & 1};
            args.x = strided_2d(x, TOKENS, k, X_STRIDE);
            float *out[2], *before[2];
            char *data[2];
            Weight weight[2];
            for (int32_t p = 0; p < 2; p++) {
                data[p] = ref_matrix_new((DType)d, N, k, 10 + (uint64_t)p);
                Tensor file = tensor_2d(data[p], (DType)d, N, k);
                assert_int_equal(ops->weight_prepare(&ctx, &file, &weight[p], NULL), OK);
                out[p] = random_new(TOKENS * OUT_STRIDE, 20, 1);
                before[p] = copy_new(out[p], TOKENS * OUT_STRIDE);
                args.part[p] = (LinearPart){&weight[p], bits & 2 ? bias : NULL,
                                            strided_2d(out[p], TOKENS, N, OUT_STRIDE)};
            }
            ops->linear(&ctx, &args);
            assert_true(dtype_bytes((DType)d, k, &bytes));
            for (int32_t at = 0; at < 2 * TOKENS * OUT_STRIDE; at++) {
                int32_t p = at % 2, t = at / 2 / OUT_STRIDE, i = at / 2 % OUT_STRIDE;
                float got = out[p][t * OUT_STRIDE + i], old = before[p][t * OUT_STRIDE + i];
                if (i >= N) {
                    assert_true(got == old);
                    continue;
                }
                dtype_to_f32((DType)d, data[p] + i * bytes, row, k);
                long double sum = bits & 1 ? old : 0, size = 0;
                for (int64_t j = 0; j < k; j++) {
                    sum += (long double)row[j] * x[t * X_STRIDE + j];
                    size += fabsl((long double)row[j] * x[t * X_STRIDE + j]);
                }
                sum += bits & 2 ? bias[i] : 0;
                assert_true(fabsl(got - sum) <= 1e-7L * fabsl(sum) + 1e-13L * size);
            }
            for (int32_t p = 0; p < 2; p++) {
                guard_free(out[p], TOKENS * OUT_STRIDE), guard_free(before[p], TOKENS * OUT_STRIDE);
                ops->weight_release(&ctx, &weight[p]);
                mem_free(data[p]);
            }
        }
        guard_free(x, TOKENS * X_STRIDE), guard_free(bias, N), guard_free(row, k);
    }
    ops_testing_close(&ctx);
}

/* The chosen are those with fewer than n_used experts before them: larger, or equal and lower. */
static void ref_route(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    enum { TOKENS = 50, EXPERTS = 17, USED = 5 };
    float *logits = random_new(TOKENS * EXPERTS, 1, 2), *weight = guard_new(TOKENS * USED);
    for (int32_t i = 0; i < TOKENS * EXPERTS; i += 3) logits[i] = roundf(logits[i]); /* ties */
    for (int32_t i = 0; i < EXPERTS; i++) logits[i] = 1;
    int32_t expert[TOKENS * USED];
    for (int32_t normalize = 0; normalize < 2; normalize++) {
        MoeRouteArgs args = {.logits = tensor_2d(logits, DTYPE_F32, TOKENS, EXPERTS),
                             .n_used = USED,
                             .normalize = normalize,
                             .scale = 1.5f,
                             .expert = expert,
                             .weight = weight};
        ops->moe_route(&ctx, &args);
        for (int32_t t = 0; t < TOKENS; t++) {
            const float *row = logits + t * EXPERTS;
            long double all = 0, chosen = 0;
            int32_t rank_of[EXPERTS];
            for (int32_t e = 0; e < EXPERTS; e++) {
                rank_of[e] = 0;
                for (int32_t o = 0; o < EXPERTS; o++)
                    rank_of[e] += row[o] > row[e] || (row[o] == row[e] && o < e);
                all += expl(row[e]);
                if (rank_of[e] < USED) chosen += expl(row[e]);
            }
            for (int32_t i = 0; i < USED; i++) {
                int32_t e = expert[t * USED + i];
                assert_in_range(e, 0, EXPERTS - 1);
                assert_int_equal(rank_of[e], i);
                long double want = 1.5L * expl(row[e]) / (normalize ? chosen : all);
                assert_true(fabsl(weight[t * USED + i] - want) <= 1e-6L * want);
            }
        }
    }
    guard_free(logits, TOKENS * EXPERTS), guard_free(weight, TOKENS * USED);
    ops_testing_close(&ctx);
}

/* Extreme logits give finite weights; a NaN expert is chosen last. */
static void ref_route_extreme(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    float logits[2 * 4] = {1e30f, -1e30f, 1e30f, 0, NAN, 1, NAN, 3}, weight[4];
    int32_t expert[4];
    MoeRouteArgs args = {.logits = tensor_2d(logits, DTYPE_F32, 2, 4),
                         .n_used = 2,
                         .normalize = true,
                         .scale = 1,
                         .expert = expert,
                         .weight = weight};
    ops->moe_route(&ctx, &args);
    assert_true(expert[0] == 0 && expert[1] == 2 && weight[0] == 0.5f && weight[1] == 0.5f);
    assert_true(expert[2] == 3 && expert[3] == 1);
    ops_testing_close(&ctx);
}

static void ref_experts(void **state) {
    (void)state;
    const Ops *ops = ops_testing_ref();
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    enum { TOKENS = 7, DIM = 24, FF = 40, EXPERTS = 4, USED = 3 };
    float *m[3], *x = random_new(TOKENS * DIM, 5, 1), *out = random_new(TOKENS * DIM, 6, 1);
    float *before = copy_new(out, TOKENS * DIM), weight[TOKENS * USED];
    int32_t expert[TOKENS * USED];
    Weight w[3][EXPERTS];
    for (int32_t i = 0; i < 3; i++) {
        m[i] = random_new(EXPERTS * FF * DIM, 7 + (uint64_t)i, 0.3f);
        for (int32_t e = 0; e < EXPERTS; e++)
            w[i][e] = (Weight){.t = tensor_2d(m[i] + e * FF * DIM, DTYPE_F32, i == 2 ? DIM : FF,
                                              i == 2 ? FF : DIM)};
    }
    for (int32_t i = 0; i < TOKENS * USED; i++) {
        expert[i] = (i / USED + i % USED) % EXPERTS;
        weight[i] = 0.1f + 0.07f * (float)i;
    }
    MoeArgs args = {.x = tensor_2d(x, DTYPE_F32, TOKENS, DIM),
                    .gate = w[0],
                    .up = w[1],
                    .down = w[2],
                    .act = ACT_SILU,
                    .n_experts = EXPERTS,
                    .n_used = USED,
                    .expert = expert,
                    .weight = weight,
                    .out = tensor_2d(out, DTYPE_F32, TOKENS, DIM),
                    .accumulate = true};
    ops->moe(&ctx, &args);
    for (int32_t t = 0; t < TOKENS; t++) {
        for (int32_t i = 0; i < DIM; i++) {
            long double sum = before[t * DIM + i];
            for (int32_t u = 0; u < USED; u++) {
                int64_t at = (int64_t)expert[t * USED + u] * FF * DIM;
                for (int32_t f = 0; f < FF; f++) {
                    long double gate = 0, up = 0;
                    for (int32_t j = 0; j < DIM; j++) {
                        gate += (long double)m[0][at + f * DIM + j] * x[t * DIM + j];
                        up += (long double)m[1][at + f * DIM + j] * x[t * DIM + j];
                    }
                    long double hidden = gate / (1 + expl(-gate)) * up;
                    sum += weight[t * USED + u] * hidden * m[2][at + i * FF + f];
                }
            }
            assert_true(fabsl(out[t * DIM + i] - sum) <= 1e-6L * fabsl(sum) + 1e-6L);
        }
    }
    for (int32_t i = 0; i < 3; i++) guard_free(m[i], EXPERTS * FF * DIM);
    guard_free(x, TOKENS * DIM), guard_free(out, TOKENS * DIM), guard_free(before, TOKENS * DIM);
    ops_testing_close(&ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {OPS_TEST(ref_linear_formats, REF), OPS_TEST_ALL(ref_route),
                                       OPS_TEST_ALL(ref_route_extreme), OPS_TEST(ref_experts, REF)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
