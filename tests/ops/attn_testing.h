/* attn_testing: attention cases for the tests: keys and values in plain arrays, the same in a paged
 * cache with shuffled blocks and NaN wherever nothing may be read, and a brute-force answer in f64
 * that shares no code with the ops. */
#pragma once

#include "ops/ops_testing.h"

enum { ATTN_SEQS_MAX = 8 };

typedef struct AttnCase {
    int32_t head_dim, n_heads, n_kv_heads;
    DType dtype;
    int32_t block_tokens;
    int32_t n_seqs;
    int32_t n_queries[ATTN_SEQS_MAX], kv_len[ATTN_SEQS_MAX];
    int32_t window;
    float softcap, scale; /* scale 0: 1 / sqrt(head_dim) */
    bool not_causal, sinks;
    float q_scale; /* 0: 1 */
} AttnCase;

typedef struct AttnData {
    AttnCase c;
    AttnArgs args;
    float *q, *out;                             /* [n_tokens, n_heads, head_dim] */
    float *k[ATTN_SEQS_MAX], *v[ATTN_SEQS_MAX]; /* [kv_len, n_kv_heads, head_dim], unrounded */
    float *sink;
    void *cache_k, *cache_v;
    int32_t *block_id;
    int32_t query_start[ATTN_SEQS_MAX + 1], kv_len[ATTN_SEQS_MAX], table_start[ATTN_SEQS_MAX + 1];
    int64_t n_tokens, out_len, cache_len;
} AttnData;

/* The largest magnitude of n numbers over 127; NaN where one is not finite. */
static inline float attn_i8_scale(const float *x, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return NAN;
        largest = fmaxf(largest, fabsf(x[i]));
    }
    return largest / 127;
}

static inline int8_t attn_i8(float x, float scale) {
    return scale > 0 ? (int8_t)nearbyintf(x / scale) : 0;
}

/* The vectors of dim numbers as the cache's dtype holds them. */
static inline void attn_rounded(DType dtype, const float *x, int64_t n, int64_t dim, float *out) {
    float scale = 0;
    for (int64_t i = 0; i < n; i++) {
        if (dtype == DTYPE_I8 && i % dim == 0) scale = attn_i8_scale(x + i, dim);
        out[i] = dtype == DTYPE_F16    ? f16_to_f32(f16_from_f32(x[i]))
                 : dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(x[i]))
                 : dtype == DTYPE_I8   ? scale * attn_i8(x[i], scale)
                                       : x[i];
    }
}

/* The vector of a token and head into the cache: offset is the token's in its block, of which
 * `block` is the first byte of the head's part. */
static inline void attn_cache_put(const AttnCase *c, char *block, int64_t offset, const float *x) {
    float scale = attn_i8_scale(x, c->head_dim);
    char *scales = block + (int64_t)c->block_tokens * c->head_dim;
    if (c->dtype == DTYPE_I8) memcpy(scales + 4 * offset, &scale, sizeof scale);
    for (int64_t i = 0; i < c->head_dim; i++) {
        int64_t at = offset * c->head_dim + i;
        uint16_t half = c->dtype == DTYPE_F16 ? f16_from_f32(x[i]) : bf16_from_f32(x[i]);
        int8_t byte = attn_i8(x[i], scale);
        if (c->dtype == DTYPE_F32)
            memcpy(block + 4 * at, &x[i], 4);
        else if (c->dtype == DTYPE_I8)
            memcpy(block + at, &byte, 1);
        else
            memcpy(block + 2 * at, &half, 2);
    }
}

/* Bytes of a head's part of a block. */
static inline int64_t attn_block_bytes(const AttnCase *c) {
    int64_t dim = c->head_dim;
    int64_t bytes = c->dtype == DTYPE_F32 ? 4 * dim : c->dtype == DTYPE_I8 ? dim + 4 : 2 * dim;
    return c->block_tokens * bytes;
}

/* All NaN, then the first upto[s] positions of each sequence, but those before from[s]. */
static inline void attn_cache_fill(AttnData *d, const int32_t *from, const int32_t *upto) {
    const AttnCase *c = &d->c;
    memset(d->cache_k, 0xff, (size_t)d->cache_len * 4);
    memset(d->cache_v, 0xff, (size_t)d->cache_len * 4);
    for (int32_t s = 0; s < c->n_seqs; s++) {
        for (int32_t j = from ? from[s] : 0; j < upto[s]; j++) {
            int64_t block = d->block_id[d->table_start[s] + j / c->block_tokens];
            for (int64_t h = 0; h < c->n_kv_heads; h++) {
                int64_t at = (block * c->n_kv_heads + h) * attn_block_bytes(c);
                const float *k = d->k[s] + (j * c->n_kv_heads + h) * (int64_t)c->head_dim;
                const float *v = d->v[s] + (j * c->n_kv_heads + h) * (int64_t)c->head_dim;
                attn_cache_put(c, (char *)d->cache_k + at, j % c->block_tokens, k);
                attn_cache_put(c, (char *)d->cache_v + at, j % c->block_tokens, v);
            }
        }
    }
}

/* Blocks in a fixed shuffled order, so that no two of a sequence are neighbours. */
static inline void attn_tables(AttnData *d) {
    const AttnCase *c = &d->c;
    int32_t n_blocks = 0;
    for (int32_t s = 0; s < c->n_seqs; s++) {
        d->table_start[s] = n_blocks;
        n_blocks += DIV_UP(c->kv_len[s], c->block_tokens);
    }
    d->table_start[c->n_seqs] = n_blocks;
    int32_t pool_blocks = n_blocks + 1, step = MAX(pool_blocks * 5 / 8, 1);
    for (bool prime = false; !prime; step++) {
        int32_t a = step, b = pool_blocks;
        while (b != 0) {
            int32_t rest = a % b;
            a = b, b = rest;
        }
        prime = a == 1;
        if (prime) break;
    }
    d->block_id = mem_alloc(sizeof(int32_t) * (size_t)MAX(n_blocks, 1));
    for (int32_t i = 0; i < n_blocks; i++)
        d->block_id[i] = (int32_t)((int64_t)(i + 1) * step % pool_blocks);
    d->args.kv.n_blocks = pool_blocks;
    d->cache_len = DIV_UP(pool_blocks * c->n_kv_heads * attn_block_bytes(c), (int64_t)4);
}

/* The first position that any query of s sees. */
static inline int32_t attn_first_seen(const AttnCase *c, int32_t s) {
    if (c->window == 0) return 0;
    return MAX(c->kv_len[s] - c->n_queries[s] - c->window + 1, 0);
}

/* Random data of unit scale from the seed: a sequence's numbers depend on its index alone. */
static inline void attn_open(AttnData *d, const AttnCase *c, uint64_t seed) {
    memset(d, 0, sizeof *d);
    d->c = *c;
    int64_t kv_width = (int64_t)c->n_kv_heads * c->head_dim;
    for (int32_t s = 0; s < c->n_seqs; s++) {
        d->query_start[s + 1] = d->query_start[s] + c->n_queries[s];
        d->kv_len[s] = c->kv_len[s];
        d->k[s] = random_new(c->kv_len[s] * kv_width, seed + 16 * (uint64_t)s + 1, 1);
        d->v[s] = random_new(c->kv_len[s] * kv_width, seed + 16 * (uint64_t)s + 2, 1);
    }
    d->n_tokens = d->query_start[c->n_seqs];
    d->out_len = d->n_tokens * c->n_heads * c->head_dim;
    d->q = guard_new(d->out_len), d->out = guard_new(d->out_len);
    int64_t width = (int64_t)c->n_heads * c->head_dim;
    for (int32_t s = 0; s < c->n_seqs; s++)
        random_fill(d->q + d->query_start[s] * width, c->n_queries[s] * width,
                    seed + 16 * (uint64_t)s + 3, c->q_scale > 0 ? c->q_scale : 1);
    d->sink = random_new(c->n_heads, seed + 4, 2);
    attn_tables(d);
    d->cache_k = guard_new(d->cache_len), d->cache_v = guard_new(d->cache_len);
    int32_t from[ATTN_SEQS_MAX];
    for (int32_t s = 0; s < c->n_seqs; s++) {
        from[s] = attn_first_seen(c, s);
        for (int32_t b = 0; b < from[s] / c->block_tokens; b++)
            d->block_id[d->table_start[s] + b] = -1;
    }
    attn_cache_fill(d, from, c->kv_len);
    d->args.kv = (KvView){d->cache_k,      d->cache_v,    c->dtype,   d->args.kv.n_blocks,
                          c->block_tokens, c->n_kv_heads, c->head_dim};
    d->args.q = tensor_3d(d->q, DTYPE_F32, d->n_tokens, c->n_heads, c->head_dim);
    d->args.out = tensor_3d(d->out, DTYPE_F32, d->n_tokens, c->n_heads, c->head_dim);
    d->args.n_seqs = c->n_seqs;
    d->args.query_start = d->query_start, d->args.kv_len = d->kv_len;
    d->args.table_start = d->table_start, d->args.block_id = d->block_id;
    d->args.scale = c->scale > 0 ? c->scale : 1.0f / sqrtf((float)c->head_dim);
    d->args.softcap = c->softcap, d->args.window = c->window, d->args.causal = !c->not_causal;
    d->args.sinks = c->sinks ? d->sink : NULL;
}

static inline void attn_close(AttnData *d) {
    int64_t kv_width = (int64_t)d->c.n_kv_heads * d->c.head_dim;
    for (int32_t s = 0; s < d->c.n_seqs; s++) {
        guard_free(d->k[s], d->c.kv_len[s] * kv_width);
        guard_free(d->v[s], d->c.kv_len[s] * kv_width);
    }
    guard_free(d->q, d->out_len), guard_free(d->out, d->out_len);
    guard_free(d->sink, d->c.n_heads);
    guard_free(d->cache_k, d->cache_len), guard_free(d->cache_v, d->cache_len);
    mem_free(d->block_id);
}

static inline OpsLimits attn_limits(const AttnCase *c) {
    int32_t n_tokens = 0;
    for (int32_t s = 0; s < c->n_seqs; s++) n_tokens += c->n_queries[s];
    return (OpsLimits){.n_tokens_max = n_tokens,
                       .n_seqs_max = c->n_seqs,
                       .k_max = c->head_dim,
                       .n_max = c->head_dim,
                       .n_heads = c->n_heads,
                       .n_kv_heads = c->n_kv_heads,
                       .head_dim = c->head_dim};
}

/* Whether the level takes queries and weights as integers for keys of the dtype. */
static inline bool attn_has_integers(const Ops *ops, DType dtype) {
    return dtype == DTYPE_I8 && strcmp(ops->level, "ref") != 0 && strcmp(ops->level, "avx2") != 0;
}

/* Softmax attention by its definition, from the plain arrays, in f64. rounded: with keys and values
 * as the cache holds them. */
static inline void attn_truth(const AttnData *d, bool rounded, float *out) {
    const AttnCase *c = &d->c;
    DType dtype = rounded ? c->dtype : DTYPE_F32;
    double *weight = mem_alloc(sizeof(double) * 65536);
    int64_t dim = c->head_dim, group = c->n_heads / c->n_kv_heads;
    for (int32_t s = 0; s < c->n_seqs; s++) {
        int64_t len = (int64_t)c->kv_len[s] * c->n_kv_heads * dim;
        float *keys = guard_new(len), *values = guard_new(len);
        attn_rounded(dtype, d->k[s], len, dim, keys),
            attn_rounded(dtype, d->v[s], len, dim, values);
        for (int32_t i = 0; i < c->n_queries[s]; i++) {
            int32_t p = c->kv_len[s] - c->n_queries[s] + i;
            for (int64_t h = 0; h < c->n_heads; h++) {
                int64_t row = ((d->query_start[s] + i) * (int64_t)c->n_heads + h) * dim;
                double largest = c->sinks ? d->sink[h] : -1e300, sum = 0;
                for (int32_t j = 0; j < c->kv_len[s]; j++) {
                    bool seen = (c->not_causal || j <= p) && (c->window == 0 || j > p - c->window);
                    const float *k = keys + (j * c->n_kv_heads + h / group) * dim;
                    double dot = 0;
                    for (int64_t x = 0; seen && x < dim; x++) dot += (double)d->q[row + x] * k[x];
                    dot *= d->args.scale;
                    if (c->softcap > 0) dot = c->softcap * tanh(dot / c->softcap);
                    weight[j] = seen ? dot : -INFINITY;
                    largest = fmax(largest, weight[j]);
                }
                for (int32_t j = 0; j < c->kv_len[s]; j++) sum += exp(weight[j] - largest);
                if (c->sinks) sum += exp(d->sink[h] - largest);
                for (int64_t x = 0; x < dim; x++) {
                    double value = 0;
                    for (int32_t j = 0; j < c->kv_len[s]; j++) {
                        if (weight[j] == -INFINITY) continue;
                        float v = values[(j * c->n_kv_heads + h / group) * dim + x];
                        value += exp(weight[j] - largest) * v;
                    }
                    out[row + x] = (float)(value / sum);
                }
            }
        }
        guard_free(keys, len), guard_free(values, len);
    }
    mem_free(weight);
}
