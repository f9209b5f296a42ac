/* test_rope: rotation, q/k norm and the paged write. The reference against complex numbers made
 * here; each level against the reference for every style, dtype, block size and odd head size. */
#include <complex.h>

#include "ops/ops_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 64, .k_max = 1024, .n_max = 1024};

typedef struct RopeCase {
    RopeStyle style;
    DType dtype;
    int32_t n_tokens, n_heads, n_kv_heads, head_dim, rope_dim, block_tokens;
    bool norm, fused; /* fused: q, k and v are parts of one row */
} RopeCase;

enum { ROPE_POSITIONS = 300, ROPE_TOKENS_MAX = 64 };

/* One case's arguments and all the memory behind them. */
typedef struct RopeData {
    RopeKvArgs args;
    float *q, *k, *v, *cache_k, *cache_v, *cos_sin, *q_norm, *k_norm;
    int64_t q_len, kv_len, cache_len, n_pairs;
    int32_t pos[ROPE_TOKENS_MAX], slot[ROPE_TOKENS_MAX];
} RopeData;

static Tensor rope_heads(float *data, const RopeCase *c, int32_t n_heads, int64_t stride) {
    Tensor t = tensor_3d(data, DTYPE_F32, c->n_tokens, n_heads, c->head_dim);
    t.stride[0] = stride;
    return t;
}

static void rope_data_open(RopeData *d, const RopeCase *c) {
    memset(d, 0, sizeof *d);
    int64_t q_width = (int64_t)c->n_heads * c->head_dim, kv_width = c->n_kv_heads * c->head_dim;
    int64_t width = q_width + 2 * kv_width;
    d->q_len = c->fused ? c->n_tokens * width : c->n_tokens * q_width;
    d->kv_len = c->n_tokens * kv_width;
    d->q = random_new(d->q_len, 1, 1);
    d->k = c->fused ? d->q + q_width : random_new(d->kv_len, 2, 1);
    d->v = c->fused ? d->q + q_width + kv_width : random_new(d->kv_len, 3, 1);
    int32_t n_blocks = DIV_UP(3 * c->n_tokens, c->block_tokens) + 2;
    d->cache_len = (int64_t)n_blocks * c->block_tokens * (kv_width + c->n_kv_heads);
    d->cache_k = guard_new(d->cache_len), d->cache_v = guard_new(d->cache_len);
    memset(d->cache_k, 0x7b, (size_t)d->cache_len * 4);
    memset(d->cache_v, 0x7b, (size_t)d->cache_len * 4);
    d->n_pairs = c->rope_dim / 2;
    d->cos_sin = guard_new(ROPE_POSITIONS * c->rope_dim);
    for (int64_t p = 0; p < ROPE_POSITIONS; p++) {
        for (int64_t i = 0; i < d->n_pairs; i++) {
            double angle = (double)p * pow(1e4, -(double)i / (double)d->n_pairs);
            d->cos_sin[(p * d->n_pairs + i) * 2] = (float)cos(angle);
            d->cos_sin[(p * d->n_pairs + i) * 2 + 1] = (float)sin(angle);
        }
    }
    d->q_norm = random_new(c->head_dim, 4, 1), d->k_norm = random_new(c->head_dim, 5, 1);
    for (int32_t t = 0; t < c->n_tokens; t++) {
        d->pos[t] = (t * 37 + 5) % ROPE_POSITIONS;
        d->slot[t] = (t * 3 + 1) % (n_blocks * c->block_tokens);
    }
    d->args = (RopeKvArgs){.style = c->style,
                           .rope_dim = c->rope_dim,
                           .cos_sin = d->cos_sin,
                           .pos = d->pos,
                           .kv_slot = d->slot,
                           .norm_eps = 1e-6f,
                           .q_norm = c->norm ? d->q_norm : NULL,
                           .k_norm = c->norm ? d->k_norm : NULL};
    d->args.kv = (KvView){d->cache_k,      d->cache_v,    c->dtype,   n_blocks,
                          c->block_tokens, c->n_kv_heads, c->head_dim};
    d->args.q = rope_heads(d->q, c, c->n_heads, c->fused ? width : q_width);
    d->args.k = rope_heads(d->k, c, c->n_kv_heads, c->fused ? width : kv_width);
    d->args.v = rope_heads(d->v, c, c->n_kv_heads, c->fused ? width : kv_width);
}

static void rope_data_close(RopeData *d, const RopeCase *c) {
    guard_free(d->q, d->q_len);
    if (!c->fused) guard_free(d->k, d->kv_len), guard_free(d->v, d->kv_len);
    guard_free(d->cache_k, d->cache_len), guard_free(d->cache_v, d->cache_len);
    guard_free(d->cos_sin, ROPE_POSITIONS * c->rope_dim);
    guard_free(d->q_norm, c->head_dim), guard_free(d->k_norm, c->head_dim);
}

/* The truth for one head in long double; the rotation is a product of complex numbers. */
static void rope_truth(const RopeCase *c, const RopeData *d, const float *x, const float *norm,
                       int32_t pos, float *out) {
    long double scale = 1, sum = 0;
    for (int32_t i = 0; i < c->head_dim; i++) sum += (long double)x[i] * x[i];
    if (norm) scale = 1 / sqrtl(sum / c->head_dim + 1e-6f);
    for (int32_t i = 0; i < c->head_dim; i++) out[i] = (float)(x[i] * scale * (norm ? norm[i] : 1));
    if (c->style == ROPE_NONE) return;
    for (int32_t i = 0; i < d->n_pairs; i++) {
        int32_t a = c->style == ROPE_NEOX ? i : 2 * i;
        int32_t b = c->style == ROPE_NEOX ? i + (int32_t)d->n_pairs : 2 * i + 1;
        const float *turn = d->cos_sin + (pos * d->n_pairs + i) * 2;
        double complex z = (out[a] + I * out[b]) * ((double)turn[0] + I * (double)turn[1]);
        out[a] = (float)creal(z), out[b] = (float)cimag(z);
    }
}

/* Bytes of a number; i8 has a scale for each token besides, behind a head's part of a block. */
static int64_t rope_bytes(DType dtype) {
    return dtype == DTYPE_F32 ? 4 : dtype == DTYPE_I8 ? 1 : 2;
}

/* Reads a vector from the cache and puts there again what was there before. */
static void rope_cache_take(const RopeCase *c, float *cache, int32_t slot, int32_t head, float *out,
                            float *scale) {
    int64_t dim = c->head_dim, bytes = rope_bytes(c->dtype), block = slot / c->block_tokens;
    int64_t offset = slot % c->block_tokens, token = dim * bytes + (c->dtype == DTYPE_I8 ? 4 : 0);
    char *part = (char *)cache + (block * c->n_kv_heads + head) * c->block_tokens * token;
    char *vector = part + offset * dim * bytes;
    char *scale_at = part + c->block_tokens * dim + 4 * offset;
    *scale = 1;
    if (c->dtype == DTYPE_I8) memcpy(scale, scale_at, 4), memset(scale_at, 0x7b, 4);
    for (int64_t i = 0; i < dim; i++) {
        uint16_t half;
        memcpy(&half, vector + 2 * i, c->dtype == DTYPE_I8 ? 0 : 2);
        if (c->dtype == DTYPE_F32) memcpy(&out[i], vector + 4 * i, 4);
        if (c->dtype == DTYPE_F16) out[i] = f16_to_f32(half);
        if (c->dtype == DTYPE_BF16) out[i] = bf16_to_f32(half);
        if (c->dtype == DTYPE_I8) out[i] = *scale * ((const int8_t *)vector)[i];
    }
    memset(vector, 0x7b, (size_t)(dim * bytes));
}

/* The cache holds every token's heads where ops.h says, and nothing else was written. */
static void rope_check_cache(const RopeCase *c, RopeData *d, const float *k_want,
                             const float *v_want) {
    double error = 0, largest = 0, rounding = c->dtype == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
    if (c->dtype == DTYPE_F32) rounding = 1e-6;
    if (c->dtype == DTYPE_I8) rounding = 1.0 / 254 + 1e-6; /* of the vector's largest */
    float k[256], v[256], k_scale, v_scale;
    for (int32_t t = 0; t < c->n_tokens; t++) {
        for (int32_t h = 0; h < c->n_kv_heads; h++) {
            const float *want = v_want + (t * c->n_kv_heads + h) * (int64_t)c->head_dim;
            const float *k_row = k_want + (t * c->n_kv_heads + h) * (int64_t)c->head_dim;
            double v_largest = 0;
            rope_cache_take(c, d->cache_k, d->slot[t], h, k, &k_scale);
            rope_cache_take(c, d->cache_v, d->slot[t], h, v, &v_scale);
            for (int32_t i = 0; i < c->head_dim; i++)
                v_largest = fmax(v_largest, fabs((double)want[i]));
            if (c->dtype == DTYPE_I8) assert_true(v_scale == (float)v_largest / 127);
            for (int32_t i = 0; i < c->head_dim; i++) {
                double of = c->dtype == DTYPE_I8 ? v_largest : fabs((double)want[i]);
                assert_true(fabs(v[i] - (double)want[i]) <= rounding * of);
                error = fmax(error, fabs(k[i] - (double)k_row[i]));
                largest = fmax(largest, fabs((double)k_row[i]));
            }
        }
    }
    ASSERT_ERROR_BELOW(error, rounding * largest);
    for (int64_t i = 0; i < d->cache_len; i++) {
        assert_int_equal(half_bits_from_f32(d->cache_k[i]), 0x7b7b7b7b);
        assert_int_equal(half_bits_from_f32(d->cache_v[i]), 0x7b7b7b7b);
    }
}

static void rope_case(const Ops *ops, OpCtx *ctx, const RopeCase *c) {
    RopeData d;
    rope_data_open(&d, c);
    int64_t q_n = (int64_t)c->n_tokens * c->n_heads * c->head_dim;
    int64_t kv_n = (int64_t)c->n_tokens * c->n_kv_heads * c->head_dim;
    float *q_want = guard_new(q_n), *k_want = guard_new(kv_n), *v_want = guard_new(kv_n);
    for (int32_t t = 0; t < c->n_tokens; t++) {
        for (int32_t h = 0; h < c->n_heads; h++)
            rope_truth(c, &d, d.q + t * d.args.q.stride[0] + h * c->head_dim, d.args.q_norm,
                       d.pos[t], q_want + (t * c->n_heads + h) * (int64_t)c->head_dim);
        for (int32_t h = 0; h < c->n_kv_heads; h++) {
            int64_t to = (t * c->n_kv_heads + h) * (int64_t)c->head_dim;
            rope_truth(c, &d, d.k + t * d.args.k.stride[0] + h * c->head_dim, d.args.k_norm,
                       d.pos[t], k_want + to);
            memcpy(v_want + to, d.v + t * d.args.v.stride[0] + h * c->head_dim,
                   (size_t)c->head_dim * 4);
        }
    }
    ops->rope_kv(ctx, &d.args);
    int64_t width = (int64_t)c->n_heads * c->head_dim;
    for (int32_t t = 0; t < c->n_tokens; t++)
        ASSERT_ERROR_BELOW(
            testing_nmse(d.q + t * d.args.q.stride[0], q_want + t * width, (size_t)width),
            BOUND_ROPE);
    rope_check_cache(c, &d, k_want, v_want);
    guard_free(q_want, q_n), guard_free(k_want, kv_n), guard_free(v_want, kv_n);
    rope_data_close(&d, c);
}

static void rope_shapes(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    static const int32_t head_dims[] = {2, 8, 10, 64, 80, 96, 128, 256};
    static const DType dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I8};
    static const int32_t blocks[] = {1, 8, 16, 32, 256};
    for (int32_t style = ROPE_NONE; style <= ROPE_INTERLEAVED; style++) {
        for (size_t i = 0; i < ARRAY_LEN(head_dims); i++) {
            for (int32_t bits = 0; bits < 8; bits++) {
                int32_t dim = head_dims[i];
                RopeCase c = {.style = (RopeStyle)style,
                              .dtype = dtypes[(i + (size_t)bits) % 4],
                              .n_tokens = bits & 1 ? 17 : 1,
                              .n_heads = 6,
                              .n_kv_heads = bits & 4 ? 6 : 2,
                              .head_dim = dim,
                              .rope_dim = bits & 2 && dim > 2 ? dim / 4 * 2 : dim,
                              .block_tokens = blocks[(i + (size_t)bits + (size_t)style) % 5],
                              .norm = (bits ^ style) & 1,
                              .fused = bits & 2};
                rope_case(ops, &ctx, &c);
            }
        }
    }
    ops_testing_close(&ctx);
}

/* KV bits of the level and of the reference agree where no arithmetic comes before the rounding,
 * on every value of the upper half of f32: vectors of finite numbers of all sizes, then those with
 * NaN and infinity. */
static void rope_kv_rounding(void **state) {
    const Ops *ops = ops_testing_level(state), *ref = ops_testing_ref();
    enum { DIM = 256, TOKENS = 256 };
    float *q = guard_new(TOKENS * DIM), *v = guard_new(TOKENS * DIM), *k = guard_new(TOKENS * DIM);
    int32_t slot[TOKENS];
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 1);
    static const DType dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8};
    for (size_t type = 0; type < ARRAY_LEN(dtypes); type++) {
        uint16_t *cache[2] = {mem_alloc(4 * TOKENS * DIM), mem_alloc(4 * TOKENS * DIM)};
        memset(cache[0], 0, 4 * TOKENS * DIM), memset(cache[1], 0, 4 * TOKENS * DIM);
        for (uint32_t i = 0; i < TOKENS * DIM; i++) {
            v[i] = half_bits_to_f32(i << 16 | (i % 5 == 0 ? 0x8000 : i * 2654435761u >> 16));
            k[i] = half_bits_to_f32(i << 16 | (i % 3 == 0 ? 0x1000 : 0x7fff));
            q[i] = 0;
        }
        for (int32_t i = 0; i < TOKENS; i++) slot[i] = i;
        for (int32_t l = 0; l < 2; l++) {
            RopeKvArgs args = {.style = ROPE_NONE, .kv_slot = slot};
            args.q = tensor_3d(q, DTYPE_F32, TOKENS, 1, DIM);
            args.k = tensor_3d(k, DTYPE_F32, TOKENS, 1, DIM);
            args.v = tensor_3d(v, DTYPE_F32, TOKENS, 1, DIM);
            args.kv = (KvView){cache[l], cache[l] + TOKENS * DIM, dtypes[type], TOKENS, 1, 1, DIM};
            (l ? ops : ref)->rope_kv(&ctx, &args);
        }
        assert_memory_equal(cache[0], cache[1], 4 * TOKENS * DIM);
        mem_free(cache[0]), mem_free(cache[1]);
    }
    ops_testing_close(&ctx);
    guard_free(q, TOKENS * DIM), guard_free(v, TOKENS * DIM), guard_free(k, TOKENS * DIM);
}

static void rope_same_bits(void **state) {
    const Ops *ops = ops_testing_level(state);
    RopeCase c = {ROPE_NEOX, DTYPE_F16, 48, 6, 2, 80, 80, 16, true, false};
    RopeData all, one;
    for (int32_t n_threads = 1; n_threads <= 2; n_threads++) {
        OpCtx ctx = ops_testing_open(ops, &LIMITS, n_threads);
        rope_data_open(&all, &c), rope_data_open(&one, &c);
        ops->rope_kv(&ctx, &all.args);
        for (int32_t t = 0; t < c.n_tokens; t++) {
            RopeKvArgs args = one.args;
            args.q = tensor_rows(&args.q, t, 1), args.k = tensor_rows(&args.k, t, 1);
            args.v = tensor_rows(&args.v, t, 1), args.pos += t, args.kv_slot += t;
            ops->rope_kv(&ctx, &args);
        }
        assert_true(same_bits(all.q, one.q, all.q_len));
        assert_true(same_bits(all.cache_k, one.cache_k, all.cache_len));
        assert_true(same_bits(all.cache_v, one.cache_v, all.cache_len));
        rope_data_close(&all, &c), rope_data_close(&one, &c);
        ops_testing_close(&ctx);
    }
}

static void rope_bench(void) {
    const Ops *level[OPS_LEVEL_COUNT];
    int32_t n_levels = bench_levels(level, OPS_REF);
    for (int32_t style = ROPE_NEOX; style <= ROPE_INTERLEAVED; style++) {
        for (int32_t n = 1; n <= ROPE_TOKENS_MAX; n *= 8) {
            for (int32_t l = 0; l < n_levels; l++) {
                RopeCase c = {(RopeStyle)style, DTYPE_BF16, n, 32, 8, 128, 128, 16, false, false};
                RopeData d;
                rope_data_open(&d, &c);
                OpCtx ctx = ops_testing_open(level[l], &LIMITS, 2);
                double seconds = BENCH_SECONDS(level[l]->rope_kv(&ctx, &d.args));
                double bytes = (double)n * 128 * (2 * 32 * 4 + 8 * (3 * 4 + 2 * 2));
                printf("rope style %d, %2d tokens, 32/8 heads of 128: %-7s %8.1f us %7.1f GB/s\n",
                       style, n, level[l]->level, seconds * 1e6, bytes * 1e-9 / seconds);
                ops_testing_close(&ctx);
                rope_data_close(&d, &c);
            }
        }
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        rope_bench();
        return 0;
    }
    const struct CMUnitTest tests[] = {OPS_TEST_ALL(rope_shapes), OPS_TEST_FAST(rope_kv_rounding),
                                       OPS_TEST_ALL(rope_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
