/* test_attn_exact: the same-bits rule. A query's output is bitwise the same whether its sequence is
 * alone or among others, however the prompt was cut, on any number of threads, with any block size,
 * and whatever stands in the cache where it may not look. */
#include "ops/attn_testing.h"

/* Long enough for several splits, with a decode, a chunk behind a prefix and whole prompts. */
static const AttnCase MIXED = {.head_dim = 48,
                               .n_heads = 6,
                               .n_kv_heads = 2,
                               .block_tokens = 16,
                               .n_seqs = 6,
                               .n_queries = {1, 70, 33, 1, 130, 3},
                               .kv_len = {700, 70, 533, 1, 256, 300}};

static const DType DTYPES[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I8};

static void exact_run(const Ops *ops, AttnData *d, int32_t n_threads) {
    OpsLimits limits = attn_limits(&d->c);
    OpCtx ctx = ops_testing_open(ops, &limits, n_threads);
    ops->attn(&ctx, &d->args);
    ops_testing_close(&ctx);
}

/* The queries `first` .. `first + n` - 1 of sequence s by themselves, into out. */
static void exact_run_part(const Ops *ops, AttnData *d, int32_t s, int32_t first, int32_t n,
                           int32_t n_threads, float *out) {
    int64_t width = (int64_t)d->c.n_heads * d->c.head_dim;
    int32_t query_start[2] = {0, n};
    int32_t kv_len = d->c.kv_len[s] - d->c.n_queries[s] + first + n;
    int32_t table_start[2] = {0, d->table_start[s + 1] - d->table_start[s]};
    AttnArgs args = d->args;
    args.q = tensor_rows(&args.q, d->query_start[s] + first, n);
    args.out = tensor_3d(out, DTYPE_F32, n, d->c.n_heads, d->c.head_dim);
    args.n_seqs = 1, args.query_start = query_start, args.kv_len = &kv_len;
    args.table_start = table_start, args.block_id += d->table_start[s];
    OpsLimits limits = attn_limits(&d->c);
    OpCtx ctx = ops_testing_open(ops, &limits, n_threads);
    ops->attn(&ctx, &args);
    ops_testing_close(&ctx);
    for (int64_t i = 0; i < n * width; i++) assert_true(isfinite(out[i]));
}

static AttnCase exact_variant(int32_t bits) {
    AttnCase c = MIXED;
    c.dtype = DTYPES[(bits + bits / 4) % 4];
    c.window = bits & 1 ? 90 : 0;
    c.softcap = bits & 2 ? 5 : 0;
    c.sinks = bits & 4;
    return c;
}

/* Batch against alone, one thread against two. */
static void exact_neighbours(void **state) {
    const Ops *ops = ops_testing_level(state);
    for (int32_t bits = 0; bits < 8; bits += 1 + bits % 2) {
        AttnCase c = exact_variant(bits);
        AttnData d;
        attn_open(&d, &c, 50);
        exact_run(ops, &d, 2);
        float *both = copy_new(d.out, d.out_len), *alone = guard_new(d.out_len);
        exact_run(ops, &d, 1);
        assert_true(same_bits(both, d.out, d.out_len));
        int64_t width = (int64_t)c.n_heads * c.head_dim;
        for (int32_t s = 0; s < c.n_seqs; s++) {
            for (int32_t n_threads = 1; n_threads <= 3; n_threads += 2) {
                float *out = alone + d.query_start[s] * width;
                exact_run_part(ops, &d, s, 0, c.n_queries[s], n_threads, out);
                assert_true(
                    same_bits(out, both + d.query_start[s] * width, c.n_queries[s] * width));
            }
        }
        guard_free(both, d.out_len), guard_free(alone, d.out_len);
        attn_close(&d);
    }
}

/* Chunks of 1, 7, 64 and all queries. While a chunk runs, the later tokens' keys and values are
 * usually not there yet (NaN), sometimes they are. */
static void exact_chunks(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const int32_t chunks[] = {1, 7, 64};
    for (int32_t bits = 0; bits < 8; bits += 1 + bits % 2) {
        AttnCase c = exact_variant(bits);
        AttnData d;
        attn_open(&d, &c, 60);
        exact_run(ops, &d, 2);
        int64_t width = (int64_t)c.n_heads * c.head_dim;
        float *out = guard_new(64 * width);
        for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
            for (int32_t s = 1; s < c.n_seqs; s += 1 + bits % 2) {
                for (int32_t first = 0; first < c.n_queries[s]; first += chunks[i]) {
                    int32_t n = MIN(chunks[i], c.n_queries[s] - first);
                    if (n == 1 && first % 5 != 0) continue; /* time */
                    if (first % 3 == 0 || n > 1) {
                        int32_t upto[ATTN_SEQS_MAX] = {0}, from[ATTN_SEQS_MAX] = {0};
                        from[s] = attn_first_seen(&c, s);
                        upto[s] = c.kv_len[s] - c.n_queries[s] + first + n;
                        attn_cache_fill(&d, from, upto);
                    } else {
                        int32_t from[ATTN_SEQS_MAX];
                        for (int32_t x = 0; x < c.n_seqs; x++) from[x] = attn_first_seen(&c, x);
                        attn_cache_fill(&d, from, c.kv_len);
                    }
                    exact_run_part(ops, &d, s, first, n, 2, out);
                    const float *want = d.out + (d.query_start[s] + first) * width;
                    assert_true(same_bits(out, want, n * width));
                }
            }
        }
        guard_free(out, 64 * width);
        attn_close(&d);
    }
}

/* A later token that is NaN or infinite does not change an earlier query of the same chunk. */
static void exact_future(void **state) {
    const Ops *ops = ops_testing_level(state);
    for (int32_t bits = 0; bits < 8; bits += 1 + bits % 2) {
        AttnCase c = exact_variant(bits);
        AttnData d;
        attn_open(&d, &c, 70);
        exact_run(ops, &d, 1);
        float *before = copy_new(d.out, d.out_len);
        int32_t s = 4, query = 101, at = c.kv_len[s] - c.n_queries[s] + query;
        int64_t kv_width = (int64_t)c.n_kv_heads * c.head_dim;
        for (int64_t i = 0; i < kv_width; i++)
            d.k[s][at * kv_width + i] = d.v[s][at * kv_width + i] = bits & 1 ? NAN : INFINITY;
        int32_t from[ATTN_SEQS_MAX];
        for (int32_t x = 0; x < c.n_seqs; x++) from[x] = attn_first_seen(&c, x);
        attn_cache_fill(&d, from, c.kv_len);
        exact_run(ops, &d, 1);
        int64_t width = (int64_t)c.n_heads * c.head_dim, start = d.query_start[s] * width;
        assert_true(same_bits(before, d.out, start + query * width));
        assert_true(isnan(d.out[start + query * width]));
        guard_free(before, d.out_len);
        attn_close(&d);
    }
}

static void exact_block_sizes(void **state) {
    const Ops *ops = ops_testing_level(state);
    static const int32_t blocks[] = {1, 8, 32, 256, 1024};
    for (int32_t bits = 0; bits < 8; bits += 1 + bits % 2) {
        AttnCase c = exact_variant(bits);
        AttnData d;
        attn_open(&d, &c, 80);
        exact_run(ops, &d, 2);
        for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
            AttnCase other = c;
            other.block_tokens = blocks[i];
            AttnData e;
            attn_open(&e, &other, 80);
            exact_run(ops, &e, 2);
            assert_true(same_bits(d.out, e.out, d.out_len));
            attn_close(&e);
        }
        attn_close(&d);
    }
}

/* One KV head and few queries: the splits of a task are shared out, on three threads here, and must
 * give what one thread gives. */
static void exact_shared_splits(void **state) {
    const Ops *ops = ops_testing_level(state);
    for (int32_t bits = 0; bits < 12; bits += 1 + bits % 2) {
        AttnCase c = {.head_dim = 64,
                      .n_heads = bits & 1 ? 8 : 1,
                      .n_kv_heads = 1,
                      .dtype = DTYPES[(bits + bits / 4) % 4],
                      .block_tokens = 16,
                      .n_seqs = 2,
                      .n_queries = {1, bits & 2 ? 40 : 1},
                      .kv_len = {3000, 1111},
                      .window = bits & 4 ? 700 : 0,
                      .sinks = bits & 8};
        AttnData d;
        attn_open(&d, &c, 90);
        exact_run(ops, &d, 1);
        float *one = copy_new(d.out, d.out_len);
        for (int32_t n_threads = 2; n_threads <= 3; n_threads++) {
            memset(d.out, 0xff, (size_t)d.out_len * sizeof *d.out);
            exact_run(ops, &d, n_threads);
            assert_true(same_bits(one, d.out, d.out_len));
        }
        float *want = guard_new(d.out_len);
        attn_truth(&d, true, want);
        ASSERT_ERROR_BELOW(testing_error(one, want, (size_t)d.out_len),
                           attn_has_integers(ops, c.dtype) ? BOUND_ATTN_I8 : BOUND_ATTN_F32);
        guard_free(one, d.out_len), guard_free(want, d.out_len);
        attn_close(&d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        OPS_TEST_ALL(exact_neighbours),    OPS_TEST_ALL(exact_chunks),
        OPS_TEST_ALL(exact_future),        OPS_TEST_ALL(exact_block_sizes),
        OPS_TEST_ALL(exact_shared_splits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
