/* test_moe: the experts of each level against the reference; the bits of a token alone, in batches
 * and at any thread count; experts of different formats. (Routing: test_ops and the model's.) */
#include "ops/linear_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 700,
                                 .k_max = 512,
                                 .n_max = 512,
                                 .n_experts = 16,
                                 .n_experts_used = 5,
                                 .expert_ff = 512};

typedef struct MoeFixture {
    const Ops *ops;
    int32_t n_experts;
    int64_t dim, ff;
    Tensor file[3][16];
    Weight weight[3][16]; /* gate, up, down */
} MoeFixture;

static MoeFixture *moe_fixture(const Ops *ops, OpCtx *ctx, const DType dtype[3], int32_t n_experts,
                               int64_t dim, int64_t ff) {
    MoeFixture *f = mem_alloc(sizeof *f);
    f->ops = ops;
    f->n_experts = n_experts;
    f->dim = dim;
    f->ff = ff;
    for (int32_t i = 0; i < 3; i++) {
        for (int32_t e = 0; e < n_experts; e++) {
            f->file[i][e] = linear_testing_weight(dtype[i], i == 2 ? dim : ff, i == 2 ? ff : dim,
                                                  (uint64_t)(100 + 40 * i + 2 * e));
            assert_int_equal(ops->weight_prepare(ctx, &f->file[i][e], &f->weight[i][e], NULL), OK);
        }
    }
    return f;
}

static void moe_fixture_free(MoeFixture *f, OpCtx *ctx) {
    for (int32_t i = 0; i < 3; i++) {
        for (int32_t e = 0; e < f->n_experts; e++) {
            f->ops->weight_release(ctx, &f->weight[i][e]);
            mem_free(f->file[i][e].data);
        }
    }
    mem_free(f);
}

/* Distinct experts per token, uneven over experts; expert 3 is never chosen. */
static void moe_choose(int64_t n_tokens, int32_t n_experts, int32_t n_used, int32_t *expert,
                       float *weight) {
    for (int64_t t = 0; t < n_tokens; t++) {
        int32_t e = (int32_t)(rng_bits(1, 2, (uint64_t)t) % (uint64_t)n_experts);
        if (t % 3 == 0) e = 0;
        for (int32_t u = 0; u < n_used; u++, e++) {
            if (e % n_experts == 3) e++;
            expert[t * n_used + u] = e % n_experts;
            weight[t * n_used + u] = 0.1f + (float)rng_uniform(1, 3, (uint64_t)(t * n_used + u));
        }
    }
}

/* The tokens of one call. */
typedef struct MoeTokens {
    float *x;
    int64_t x_stride, n;
    int32_t n_used;
    const int32_t *expert;
    const float *weight;
} MoeTokens;

static void moe_run(MoeFixture *f, OpCtx *ctx, ActKind act, const MoeTokens *t, float *out,
                    bool accumulate) {
    MoeArgs args = {.x = strided_2d(t->x, t->n, f->dim, t->x_stride),
                    .gate = f->weight[0],
                    .up = f->weight[1],
                    .down = f->weight[2],
                    .act = act,
                    .n_experts = f->n_experts,
                    .n_used = t->n_used,
                    .expert = t->expert,
                    .weight = t->weight,
                    .out = tensor_2d(out, DTYPE_F32, t->n, f->dim),
                    .accumulate = accumulate};
    f->ops->moe(ctx, &args);
}

typedef struct MoeCase {
    DType dtype[3];
    int32_t n_experts, n_used;
    int64_t dim, ff, n_tokens;
    double bound;
} MoeCase;

static const MoeCase CASES[] = {
    {{DTYPE_F32, DTYPE_F32, DTYPE_F32}, 4, 2, 50, 33, 7, 1e-11},
    {{DTYPE_BF16, DTYPE_BF16, DTYPE_BF16}, 16, 5, 64, 96, 1, 1e-11},
    {{DTYPE_F16, DTYPE_F16, DTYPE_F16}, 8, 1, 40, 24, 33, 1e-11},
    {{DTYPE_BF16, DTYPE_F16, DTYPE_F16}, 5, 2, 72, 40, 19, 1e-11},
    {{DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0}, 8, 2, 256, 128, 21, 4e-4},
    {{DTYPE_Q4_0, DTYPE_Q4_0, DTYPE_Q4_0}, 5, 4, 64, 96, 3, 4e-4},
    {{DTYPE_Q4_K, DTYPE_Q4_K, DTYPE_Q6_K}, 8, 2, 256, 256, 40, 4e-4},
    {{DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_Q8_0}, 6, 3, 256, 64, 9, 4e-4}, /* unlike gate and up */
    {{DTYPE_Q8_0, DTYPE_BF16, DTYPE_F16}, 6, 3, 64, 32, 9, 4e-4},
    {{DTYPE_MXFP4, DTYPE_MXFP4, DTYPE_MXFP4}, 16, 4, 64, 64, 600, 4e-4}, /* two passes */
};

static bool moe_has(const MoeCase *c, DType dtype) {
    return c->dtype[0] == dtype || c->dtype[1] == dtype || c->dtype[2] == dtype;
}

/* Two roundings to bf16 one after the other, where the level has them. */
static double moe_bound(const Ops *ops, const MoeCase *c) {
    const bool half = moe_has(c, DTYPE_BF16), amx = strcmp(ops->level, "amx") == 0;
    if (half && (amx || strcmp(ops->level, "avx512bf16") == 0))
        return MAX(c->bound, 4 * BOUND_LINEAR_HALF);
    if (moe_has(c, DTYPE_F16) && amx) return MAX(c->bound, 4 * BOUND_LINEAR_PAIR);
    return c->bound;
}

static void moe_matches_ref(void **state) {
    const Ops *ops = ops_testing_level(state), *ref = ops_testing_ref();
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2), ref_ctx = ops_testing_open(ref, &LIMITS, 1);
    static const ActKind acts[] = {ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_RELU};
    for (size_t i = 0; i < ARRAY_LEN(CASES); i++) {
        const MoeCase *c = &CASES[i];
        int64_t n = c->n_tokens * c->dim, n_pairs = c->n_tokens * c->n_used, stride = c->dim + 3;
        MoeFixture *f = moe_fixture(ops, &ctx, c->dtype, c->n_experts, c->dim, c->ff);
        MoeFixture *r = moe_fixture(ref, &ref_ctx, c->dtype, c->n_experts, c->dim, c->ff);
        float *x = random_new(c->n_tokens * stride, 1, 1), *weight = guard_new(n_pairs);
        float *out = random_new(n, 2, 1), *want = copy_new(out, n);
        int32_t *expert = mem_alloc((size_t)n_pairs * sizeof *expert);
        moe_choose(c->n_tokens, c->n_experts, c->n_used, expert, weight);
        MoeTokens t = {x, stride, c->n_tokens, c->n_used, expert, weight};
        moe_run(f, &ctx, acts[i % 4], &t, out, i % 2);
        moe_run(r, &ref_ctx, acts[i % 4], &t, want, i % 2);
        ASSERT_ERROR_BELOW(testing_nmse(out, want, (size_t)n), moe_bound(ops, c));
        guard_free(x, c->n_tokens * stride), guard_free(weight, n_pairs);
        guard_free(out, n), guard_free(want, n);
        mem_free(expert);
        moe_fixture_free(f, &ctx), moe_fixture_free(r, &ref_ctx);
    }
    ops_testing_close(&ctx), ops_testing_close(&ref_ctx);
}

static void moe_same_bits(void **state) {
    enum { TOKENS = 70, EXPERTS = 8, USED = 3, DIM = 256, FF = 256 };
    const Ops *ops = ops_testing_level(state);
    OpCtx one = ops_testing_open(ops, &LIMITS, 1), two = ops_testing_open(ops, &LIMITS, 2);
    static const DType kinds[][3] = {{DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
                                     {DTYPE_Q4_K, DTYPE_Q4_K, DTYPE_Q6_K},
                                     {DTYPE_Q8_0, DTYPE_F32, DTYPE_Q4_0}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        MoeFixture *f = moe_fixture(ops, &one, kinds[i], EXPERTS, DIM, FF);
        float *x = random_new(TOKENS * DIM, 1, 1), weight[TOKENS * USED];
        float *alone = guard_new(TOKENS * DIM), *batch = guard_new(TOKENS * DIM);
        int32_t expert[TOKENS * USED];
        moe_choose(TOKENS, EXPERTS, USED, expert, weight);
        for (int32_t t = 0; t < TOKENS; t++) {
            MoeTokens one_token = {x + t * DIM, DIM, 1, USED, expert + t * USED, weight + t * USED};
            moe_run(f, &one, ACT_SILU, &one_token, alone + t * DIM, false);
        }
        for (int32_t n = 2; n <= TOKENS; n += n < 12 ? 1 : 29) {
            int32_t first = (TOKENS - n) / 2;
            MoeTokens some = {x + first * DIM,      DIM, n, USED, expert + first * USED,
                              weight + first * USED};
            moe_run(f, n % 2 ? &one : &two, ACT_SILU, &some, batch, false);
            assert_true(same_bits(batch, alone + first * DIM, n * DIM));
        }
        guard_free(x, TOKENS * DIM), guard_free(alone, TOKENS * DIM);
        guard_free(batch, TOKENS * DIM);
        moe_fixture_free(f, &one);
    }
    ops_testing_close(&one), ops_testing_close(&two);
}

int main(void) {
    const struct CMUnitTest tests[] = {OPS_TEST_PRODUCTS(moe_matches_ref),
                                       OPS_TEST_PRODUCTS(moe_same_bits)};
    return cmocka_run_group_tests_name("moe", tests, NULL, NULL);
}
