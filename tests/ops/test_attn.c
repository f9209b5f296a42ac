/* test_attn: attention against its definition in f64: head sizes, ratios of heads, dtypes, block
 * sizes, ragged batches, window, softcap, sinks, not causal; extreme logits; sums of weights. The
 * same-bits rule has its own program, test_attn_exact. */
#include "ops/attn_testing.h"
#include "ops/bench_testing.h"

static void attn_check(const Ops *ops, const AttnCase *c) {
    AttnData d;
    attn_open(&d, c, 100);
    OpsLimits limits = attn_limits(c);
    OpCtx ctx = ops_testing_open(ops, &limits, 2);
    float *want = guard_new(d.out_len);
    attn_truth(&d, true, want);
    ops->attn(&ctx, &d.args);
    double largest = 0;
    for (int64_t i = 0; i < d.out_len; i++)
        largest = fmax(largest, fabs((double)d.out[i] - (double)want[i]));
    double nmse = testing_nmse(d.out, want, (size_t)d.out_len);
    bool integers = attn_has_integers(ops, c->dtype);
    if (!(nmse <= (integers ? BOUND_ATTN_I8_NMSE : BOUND_ATTN_NMSE)) ||
        !(largest <= (integers ? BOUND_ATTN_I8 : BOUND_ATTN_F32)))
        fail_msg("heads %d/%d of %d, %s, block %d, window %d, cap %g: nmse %.2g, largest %.2g",
                 c->n_heads, c->n_kv_heads, c->head_dim, dtype_info(c->dtype)->name,
                 c->block_tokens, c->window, (double)c->softcap, nmse, largest);
    guard_free(want, d.out_len);
    ops_testing_close(&ctx);
    attn_close(&d);
}

static const DType DTYPES[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I8};

/* Decode, a whole prompt, a chunk behind a prefix, and a draft of three, in one batch. */
static const AttnCase RAGGED = {
    .n_seqs = 5, .n_queries = {1, 23, 10, 3, 1}, .kv_len = {77, 23, 141, 64, 1}};

static void attn_head_dims(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const int32_t dims[] = {1, 7, 8, 20, 64, 80, 96, 128, 256};
    for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
        for (size_t t = 0; t < ARRAY_LEN(DTYPES); t++) {
            AttnCase c = RAGGED;
            c.head_dim = dims[i], c.n_heads = 4, c.n_kv_heads = 2;
            c.dtype = DTYPES[t], c.block_tokens = 16;
            attn_check(ops, &c);
        }
    }
}

static void attn_head_ratios(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const int32_t heads[][2] = {{1, 1}, {8, 8}, {8, 4},  {6, 2},   {8, 2},
                                       {5, 1}, {8, 1}, {14, 2}, {100, 1}, {198, 2}};
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        AttnCase c = RAGGED;
        c.head_dim = 32, c.n_heads = heads[i][0], c.n_kv_heads = heads[i][1];
        c.dtype = DTYPES[i % 4], c.block_tokens = 16;
        attn_check(ops, &c);
    }
}

static void attn_variants(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const int32_t blocks[] = {1, 8, 16, 32, 256};
    for (int32_t bits = 0; bits < 16; bits++) {
        AttnCase c = RAGGED;
        c.head_dim = 40, c.n_heads = 6, c.n_kv_heads = 2, c.dtype = DTYPES[(bits + bits / 4) % 4];
        c.block_tokens = blocks[bits % 5];
        c.window = bits & 1 ? 19 : 0;
        c.softcap = bits & 2 ? 3 : 0;
        c.sinks = bits & 4;
        c.not_causal = bits & 8;
        attn_check(ops, &c);
    }
    static const int32_t windows[] = {1, 2, 63, 64, 65, 128, 1000};
    for (size_t i = 0; i < ARRAY_LEN(windows); i++) {
        AttnCase c = RAGGED;
        c.head_dim = 24, c.n_heads = 2, c.n_kv_heads = 1, c.dtype = DTYPE_F32;
        c.block_tokens = 8, c.window = windows[i];
        attn_check(ops, &c);
    }
}

/* The head sizes of models, in each dtype with each of window, softcap and sinks, over a split's
 * bound. */
static void attn_all_fields(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const int32_t dims[] = {64, 80, 96, 128, 256};
    for (int32_t i = 0; i < (int32_t)(ARRAY_LEN(dims) * ARRAY_LEN(DTYPES) * 8); i++) {
        const int32_t bits = i % 8;
        AttnCase c = {.head_dim = dims[i / 32],
                      .n_heads = 2,
                      .n_kv_heads = 1,
                      .dtype = DTYPES[i / 8 % 4],
                      .block_tokens = 16,
                      .n_seqs = 3,
                      .n_queries = {1, 19, 5},
                      .kv_len = {290, 19, 301},
                      .window = bits & 1 ? 270 : 0,
                      .softcap = bits & 2 ? 3 : 0,
                      .sinks = bits & 4};
        attn_check(ops, &c);
    }
}

/* Several splits, with lengths at and beside their bounds and those of tiles. */
static void attn_long(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const int32_t lengths[] = {63, 64, 65, 255, 256, 257, 511, 513, 1100};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        int32_t n = lengths[i];
        AttnCase c = {.head_dim = 32,
                      .n_heads = 4,
                      .n_kv_heads = 1 + (int32_t)i % 2,
                      .dtype = DTYPES[i % 4],
                      .block_tokens = 16,
                      .n_seqs = 2,
                      .n_queries = {1, MIN(n, 150)},
                      .kv_len = {n, n},
                      .sinks = i % 2,
                      .window = i % 4 == 3 ? 300 : 0};
        attn_check(ops, &c);
    }
    AttnCase whole = {.head_dim = 16,
                      .n_heads = 2,
                      .n_kv_heads = 1,
                      .dtype = DTYPE_BF16,
                      .block_tokens = 32,
                      .n_seqs = 1,
                      .n_queries = {700},
                      .kv_len = {700}};
    attn_check(ops, &whole);
}

/* With f32 keys the error is that of f32; with half keys at most twice what rounding the keys and
 * values costs an otherwise exact attention (FlashAttention-3's rule). */
static void attn_two_times(void **state) {
    const Ops *ops = ops_testing_level(state);
    for (size_t t = 1; t < ARRAY_LEN(DTYPES); t++) {
        AttnCase c = RAGGED;
        c.head_dim = 128, c.n_heads = 8, c.n_kv_heads = 2, c.dtype = DTYPES[t];
        c.block_tokens = 16;
        AttnData d;
        attn_open(&d, &c, 7);
        OpsLimits limits = attn_limits(&c);
        OpCtx ctx = ops_testing_open(ops, &limits, 1);
        float *exact = guard_new(d.out_len), *rounded = guard_new(d.out_len);
        attn_truth(&d, false, exact), attn_truth(&d, true, rounded);
        ops->attn(&ctx, &d.args);
        double cost = testing_error(rounded, exact, (size_t)d.out_len);
        assert_true(cost > 1e-5); /* the comparison means something */
        ASSERT_ERROR_BELOW(testing_error(d.out, exact, (size_t)d.out_len), 2 * cost);
        guard_free(exact, d.out_len), guard_free(rounded, d.out_len);
        ops_testing_close(&ctx);
        attn_close(&d);
    }
}

/* Logits of +-1e4 and beyond: finite, and where one key is far ahead the output is its value. */
static void attn_extreme(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const float scales[] = {1e3f, 1e4f, 1e6f, 1e-20f};
    for (size_t i = 0; i < ARRAY_LEN(scales); i++) {
        AttnCase c = {.head_dim = 64,
                      .n_heads = 4,
                      .n_kv_heads = 2,
                      .dtype = DTYPE_F32,
                      .block_tokens = 16,
                      .n_seqs = 2,
                      .n_queries = {1, 70},
                      .kv_len = {600, 300},
                      .q_scale = scales[i]};
        AttnData d;
        attn_open(&d, &c, 11);
        OpsLimits limits = attn_limits(&c);
        OpCtx ctx = ops_testing_open(ops, &limits, 2);
        ops->attn(&ctx, &d.args);
        for (int64_t x = 0; x < d.out_len; x++) assert_true(isfinite(d.out[x]));
        float *want = guard_new(d.out_len);
        attn_truth(&d, true, want);
        /* An f32 logit of size s is off by s * 2^-22 or so, and so is the log of a weight. */
        ASSERT_ERROR_BELOW(testing_error(d.out, want, (size_t)d.out_len),
                           1e-5 + (double)scales[i] * 3e-6);
        guard_free(want, d.out_len);
        ops_testing_close(&ctx);
        attn_close(&d);
    }
}

/* Weights are positive and sum to 1: values of one constant give that constant; values that mark
 * their position give sums of weights inside the smallest and largest mark. */
static void attn_weights_sum(void **state) {
    const Ops *ops = ops_testing_level(state);
    for (int32_t sinks = 0; sinks < 2; sinks++) {
        AttnCase c = {.head_dim = 16,
                      .n_heads = 4,
                      .n_kv_heads = 1,
                      .dtype = DTYPE_F32,
                      .block_tokens = 8,
                      .n_seqs = 2,
                      .n_queries = {1, 90},
                      .kv_len = {530, 90},
                      .sinks = sinks};
        AttnData d;
        attn_open(&d, &c, 13);
        for (int32_t s = 0; s < c.n_seqs; s++)
            for (int64_t i = 0; i < (int64_t)c.kv_len[s] * 16; i++)
                d.v[s][i] = i % 16 == 0 ? 1.0f : i % 16 == 1 ? (float)(i / 16) : -2.5f;
        attn_cache_fill(&d, NULL, c.kv_len);
        OpsLimits limits = attn_limits(&c);
        OpCtx ctx = ops_testing_open(ops, &limits, 2);
        ops->attn(&ctx, &d.args);
        for (int64_t row = 0; row < d.out_len / 16; row++) {
            const float *out = d.out + row * 16;
            double sum = out[0];
            if (sinks) assert_true(sum > 0 && sum < 1);
            if (!sinks) ASSERT_ERROR_BELOW(fabs(sum - 1), 3e-6);
            ASSERT_ERROR_BELOW(fabs(out[2] + 2.5 * sum), 1e-5);
            assert_true(out[1] >= -1e-5 && out[1] <= 530);
        }
        ops_testing_close(&ctx);
        attn_close(&d);
    }
}

/* NaN in a query, a visible key or value shows in the rows that see it and in no other. */
static void attn_not_finite(void **state) {
    const Ops *ops = ops_testing_level(state);
    AttnCase c = {.head_dim = 20,
                  .n_heads = 2,
                  .n_kv_heads = 1,
                  .dtype = DTYPE_F32,
                  .block_tokens = 16,
                  .n_seqs = 1,
                  .n_queries = {120},
                  .kv_len = {300}};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t b = 0; b < ARRAY_LEN(bad); b++) {
        for (int32_t at = 150; at < 300; at += 37) {
            AttnData d;
            attn_open(&d, &c, 17);
            d.v[0][at * 20 + 3] = bad[b];
            attn_cache_fill(&d, NULL, c.kv_len);
            OpsLimits limits = attn_limits(&c);
            OpCtx ctx = ops_testing_open(ops, &limits, 2);
            ops->attn(&ctx, &d.args);
            for (int32_t i = 0; i < 120 * 2; i++) {
                bool sees = 180 + i / 2 >= at;
                for (int32_t x = 0; x < 20; x++)
                    assert_int_equal(isfinite(d.out[i * 20 + x]) != 0, !(sees && x == 3));
            }
            ops_testing_close(&ctx);
            attn_close(&d);
        }
    }
}

/* Prefill in FLOP/s against the FMA peak: a visible pair of query and key costs 4 * head_dim. */
static void attn_bench_prefill(const Ops *ops, OpCtx *ctx, double peak, AttnCase c) {
    AttnData d;
    attn_open(&d, &c, 1);
    double pairs = 0;
    for (int32_t i = 0; i < c.n_queries[0]; i++) pairs += c.kv_len[0] - c.n_queries[0] + i + 1;
    double flops = pairs * c.n_heads * 4.0 * c.head_dim;
    double seconds = BENCH_SECONDS(ops->attn(ctx, &d.args));
    printf(
        "%-7s prefill %4d at %4d, heads %2d/%d of %3d, %-4s: %9.0f us %7.1f GFLOP/s %5.1f %% of "
        "FMA\n",
        ops->level, c.n_queries[0], c.kv_len[0] - c.n_queries[0], c.n_heads, c.n_kv_heads,
        c.head_dim, dtype_info(c.dtype)->name, seconds * 1e6, flops * 1e-9 / seconds,
        100 * flops / seconds / peak);
    attn_close(&d);
}

/* Decode in bytes of keys and values against the read bandwidth. */
static void attn_bench_decode(const Ops *ops, OpCtx *ctx, double peak, AttnCase c) {
    AttnData d;
    attn_open(&d, &c, 1);
    double bytes = 0;
    for (int32_t s = 0; s < c.n_seqs; s++)
        bytes += 2.0 * c.kv_len[s] * c.n_kv_heads * (double)ops_kv_bytes(c.dtype, c.head_dim);
    double seconds = BENCH_SECONDS(ops->attn(ctx, &d.args));
    printf(
        "%-7s decode %d x %5d, heads %2d/%d of %3d, %-4s: %9.0f us %7.1f GB/s %5.1f %% of read\n",
        ops->level, c.n_seqs, c.kv_len[0], c.n_heads, c.n_kv_heads, c.head_dim,
        dtype_info(c.dtype)->name, seconds * 1e6, bytes * 1e-9 / seconds,
        100 * bytes / seconds / peak);
    attn_close(&d);
}

static void attn_bench(bool with_ref) {
    const Ops *level[OPS_LEVEL_COUNT];
    int32_t n_levels = bench_levels(level, with_ref ? OPS_REF : OPS_AVX2);
    for (int32_t l = 0; l < n_levels; l++) {
        AttnCase widest = {
            .head_dim = 128, .n_heads = 32, .n_kv_heads = 8, .n_seqs = ATTN_SEQS_MAX};
        OpsLimits limits = attn_limits(&widest);
        OpCtx ctx = ops_testing_open(level[l], &limits, 2);
        double fma = bench_fma_peak(level[l], &ctx, 2), read = bench_read_peak(&ctx);
        printf("%-7s FMA %.0f GFLOP/s, read %.1f GB/s on 2 threads\n", level[l]->level, fma * 1e-9,
               read * 1e-9);
        static const int32_t shapes[][3] = {{32, 4, 64}, {8, 8, 64}, {32, 8, 128}, {8, 8, 128}};
        for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
            for (size_t t = 0; t < ARRAY_LEN(DTYPES); t++) {
                AttnCase c = {.head_dim = shapes[i][2],
                              .n_heads = shapes[i][0],
                              .n_kv_heads = shapes[i][1],
                              .dtype = DTYPES[t],
                              .block_tokens = 16,
                              .n_seqs = 1,
                              .n_queries = {512},
                              .kv_len = {512}};
                attn_bench_prefill(level[l], &ctx, fma, c);
                c.kv_len[0] = 2048, c.n_queries[0] = 256;
                attn_bench_prefill(level[l], &ctx, fma, c);
                c.n_queries[0] = 1, c.kv_len[0] = 16384;
                attn_bench_decode(level[l], &ctx, read, c);
                c.n_seqs = 8;
                for (int32_t s = 0; s < 8; s++) c.n_queries[s] = 1, c.kv_len[s] = 2048;
                attn_bench_decode(level[l], &ctx, read, c);
            }
        }
        ops_testing_close(&ctx);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        attn_bench(argc > 2);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        OPS_TEST_ALL(attn_head_dims),  OPS_TEST_ALL(attn_head_ratios),
        OPS_TEST_ALL(attn_variants),   OPS_TEST_ALL(attn_all_fields),
        OPS_TEST_ALL(attn_long),       OPS_TEST_ALL(attn_two_times),
        OPS_TEST_ALL(attn_extreme),    OPS_TEST_ALL(attn_weights_sum),
        OPS_TEST_ALL(attn_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
