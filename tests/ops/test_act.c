/* test_act: activations and the soft cap. The reference against series and integrals made here;
 * each level against the reference, value by value over the whole range of f32, and over shapes. */
#include "ops/ops_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 64, .k_max = 8192, .n_max = 8192};

/* Phi(x) = 1/2 + phi(x) * (x + x^3/3 + x^5/15 + ...), Marsaglia's series; no erf. */
static long double act_normal_cdf(long double x) {
    long double sum = x, term = x;
    for (int i = 3; i < 400; i += 2) {
        term *= x * x / i;
        sum += term;
    }
    return 0.5L + sum * expl(-0.5L * x * x) / 2.506628274631000502415765L;
}

static long double act_truth(ActKind kind, long double x) {
    long double e;
    switch (kind) {
        case ACT_SILU: return x / (1 + expl(-x));
        case ACT_GELU: return x * act_normal_cdf(x);
        case ACT_GELU_TANH:
            e = expl(2 * 0.797884560802865355879892L * (x + 0.044715L * x * x * x));
            return 0.5L * x * (1 + (e - 1) / (e + 1));
        case ACT_RELU: return x > 0 ? x : 0;
    }
    return 0;
}

static void act_one(const Ops *ops, ActKind kind, const float *x, float *out, int64_t n) {
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    ActArgs args = {.kind = kind};
    args.gate = tensor_2d((void *)(uintptr_t)x, DTYPE_F32, 1, n);
    args.out = tensor_2d(out, DTYPE_F32, 1, n);
    ops->act(&ctx, &args);
    ops_testing_close(&ctx);
}

static void act_values(void **state) {
    const Ops *ops = ops_testing_level(state);
    enum { N = 8001 };
    float *x = guard_new(N), *out = guard_new(N);
    for (int32_t i = 0; i < N; i++) x[i] = (float)(i - N / 2) * (5.0f / (N / 2));
    for (int32_t kind = ACT_SILU; kind <= ACT_RELU; kind++) {
        act_one(ops, (ActKind)kind, x, out, N);
        for (int32_t i = 0; i < N; i++) {
            double want = (double)act_truth((ActKind)kind, x[i]);
            double bound = 2e-7 * fabs(want) + 2e-7 * fmin(1, fabs((double)x[i]));
            if (fabs(out[i] - want) > bound)
                fail_msg("kind %d: act(%.9g) is %.9g, wanted %.9g", kind, x[i], out[i], want);
        }
    }
    guard_free(x, N), guard_free(out, N);
}

/* Over all magnitudes, the level within a relative error of the reference. */
static void act_relative(void **state) {
    const Ops *ops = ops_testing_level(state), *ref = ops_testing_ref();
    enum { N = 1 << 16 };
    float *x = guard_new(N), *out = guard_new(N), *want = guard_new(N);
    for (uint32_t i = 0; i < N; i++) x[i] = half_bits_to_f32(i << 16 | (i * 40503u & 0xffff));
    for (int32_t kind = ACT_SILU; kind <= ACT_RELU; kind++) {
        act_one(ops, (ActKind)kind, x, out, N);
        act_one(ref, (ActKind)kind, x, want, N);
        double worst = 0;
        for (int32_t i = 0; i < N; i++) {
            if (isnan(want[i]) || isinf(want[i])) {
                assert_true(isnan(want[i]) ? isnan(out[i]) : out[i] == want[i]);
                continue;
            }
            double x2 = fmin((double)x[i] * x[i], 200);
            double bound = BOUND_ACT_REL + (kind == ACT_RELU ? 0 : BOUND_ACT_REL_X2 * x2);
            double error = fabs((double)out[i] - want[i]);
            if (error > bound * fabs(want[i]) + 4e-37)
                fail_msg("kind %d: act(%.9g) is %.9g, wanted %.9g", kind, x[i], out[i], want[i]);
            if (fabs(want[i]) > 1e-30 && fabs(x[i]) < 4) worst = fmax(worst, error / fabs(want[i]));
        }
        print_message("%s kind %d: largest relative error for |x| < 4: %.2g\n", ops->level, kind,
                      worst);
    }
    guard_free(x, N), guard_free(out, N), guard_free(want, N);
}

static void act_shapes(void **state) {
    const Ops *ops = ops_testing_level(state), *ref = ops_testing_ref();
    static const int64_t widths[] = {1, 3, 8, 15, 16, 17, 31, 33, 100, 1027};
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    for (size_t w = 0; w < ARRAY_LEN(widths); w++) {
        for (int32_t bits = 0; bits < 32; bits++) {
            int64_t n = widths[w], rows = bits & 4 ? 64 : 3, stride = bits & 8 ? 2 * n : n;
            int64_t span = (rows - 1) * stride + n;
            float *gate = random_new(span, 1, 2), *up = random_new(span, 2, 1);
            float *out = guard_new(rows * n), *want = guard_new(rows * n);
            Tensor up_tensor = strided_2d(up, rows, n, stride);
            ActArgs args = {.kind = (ActKind)(bits & 3), .up = bits & 16 ? &up_tensor : NULL};
            args.gate = strided_2d(gate, rows, n, stride);
            args.out = tensor_2d(want, DTYPE_F32, rows, n);
            ref->act(&ctx, &args);
            args.out = tensor_2d(out, DTYPE_F32, rows, n);
            ops->act(&ctx, &args);
            ASSERT_ERROR_BELOW(testing_nmse(out, want, (size_t)(rows * n)), BOUND_ACT);
            /* In place: the same bits, and nothing between the rows is touched. */
            float *copy = copy_new(gate, span);
            args.gate = args.out = strided_2d(gate, rows, n, stride);
            ops->act(&ctx, &args);
            for (int64_t i = 0; i < span; i++) {
                bool inside = i % stride < n;
                float expected = inside ? out[i / stride * n + i % stride] : copy[i];
                assert_true(same_bits(&gate[i], &expected, 1));
            }
            guard_free(gate, span), guard_free(up, span), guard_free(copy, span);
            guard_free(out, rows * n), guard_free(want, rows * n);
        }
    }
    ops_testing_close(&ctx);
}

static void softcap_values(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    enum { N = 20011 };
    static const float caps[] = {1, 30, 50};
    for (size_t c = 0; c < ARRAY_LEN(caps); c++) {
        float *x = guard_new(2 * N), *want = guard_new(2 * N);
        for (int32_t i = 0; i < 2 * N; i++) {
            x[i] = random_normal(9, (uint64_t)i) * (i % 7 == 0 ? 1e4f : i % 5 ? 40 : 1e-3f);
            want[i] = (float)(caps[c] * tanhl((long double)x[i] / caps[c]));
        }
        ops->softcap(&ctx, tensor_2d(x, DTYPE_F32, 2, N), caps[c]);
        ASSERT_ERROR_BELOW(testing_nmse(x, want, 2 * N), BOUND_SOFTCAP);
        for (int32_t i = 0; i < 2 * N; i++) {
            assert_true(fabsf(x[i]) <= caps[c]);
            assert_true(fabs((double)x[i] - want[i]) <= 4e-7 * fabs((double)want[i]));
        }
        guard_free(x, 2 * N), guard_free(want, 2 * N);
    }
    float edge[4] = {INFINITY, -INFINITY, NAN, -0.0f};
    ops->softcap(&ctx, tensor_2d(edge, DTYPE_F32, 1, 4), 30);
    assert_true(edge[0] == 30 && edge[1] == -30 && isnan(edge[2]) && edge[3] == 0);
    assert_true(signbit(edge[3]));
    ops_testing_close(&ctx);
}

static void act_bench(void) {
    const Ops *level[OPS_LEVEL_COUNT];
    int32_t n_levels = bench_levels(level, OPS_REF);
    static const char *const names[] = {"silu", "gelu", "gelu_tanh", "relu"};
    static const int64_t rows[] = {1, 16, 512};
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        enum { DIM = 5632 };
        int64_t n = rows[r] * DIM;
        float *gate = random_new(n, 1, 1), *up = random_new(n, 2, 1), *out = guard_new(n);
        Tensor up_tensor = tensor_2d(up, DTYPE_F32, rows[r], DIM);
        for (int32_t kind = ACT_SILU; kind <= ACT_RELU; kind++) {
            for (int32_t l = 0; l < n_levels; l++) {
                OpCtx ctx = ops_testing_open(level[l], &LIMITS, 2);
                ActArgs args = {.kind = (ActKind)kind, .up = &up_tensor};
                args.gate = tensor_2d(gate, DTYPE_F32, rows[r], DIM);
                args.out = tensor_2d(out, DTYPE_F32, rows[r], DIM);
                double seconds = BENCH_SECONDS(level[l]->act(&ctx, &args));
                printf("%-9s %4lldx%d %-7s %9.1f us %7.1f GB/s\n", names[kind], (long long)rows[r],
                       DIM, level[l]->level, seconds * 1e6, (double)(3 * n) * 4e-9 / seconds);
                ops_testing_close(&ctx);
            }
        }
        guard_free(gate, n), guard_free(up, n), guard_free(out, n);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        act_bench();
        return 0;
    }
    const struct CMUnitTest tests[] = {OPS_TEST_ALL(act_values), OPS_TEST_FAST(act_relative),
                                       OPS_TEST_ALL(act_shapes), OPS_TEST_ALL(softcap_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
