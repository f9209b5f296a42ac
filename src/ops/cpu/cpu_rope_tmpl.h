/* cpu_rope_tmpl: q/k norm, rotary embedding and the write to the paged cache, a token at a time.
 *
 * moves   n_tokens * (2 * n_heads + 3 * n_kv_heads) * head_dim * 4 bytes and what the cache
 * takes */
#include <string.h>

#include "ops/cpu/cpu_kv_tmpl.h"
#include "ops/cpu/cpu_math_tmpl.h"
#include "ops/cpu/cpu_ops.h"

static void cpu_rope_norm(float *x, const float *w, float eps, int64_t dim) {
    Vec scale = vec_set1(vec_rms_scale(x, dim, eps));
    for (int64_t i = 0; i < dim; i += VEC_LANES) {
        int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
        Vec v = vec_mul(vec_mul(vec_load_n(x + i, n), scale), vec_load_n(w + i, n));
        vec_store_n(x + i, v, n);
    }
}

/* Pairs (i, i + n_pairs). */
static void cpu_rope_neox(float *x, const float *cos_sin, int64_t n_pairs) {
    for (int64_t i = 0; i < n_pairs; i += VEC_LANES) {
        int64_t n = MIN(n_pairs - i, (int64_t)VEC_LANES);
        const float *table = cos_sin + 2 * i;
        Vec low = vec_load_n(table, MIN(2 * n, (int64_t)VEC_LANES));
        Vec high = vec_load_n(table + VEC_LANES, MAX(2 * n - VEC_LANES, (int64_t)0));
        Vec c, s;
        vec_split_pairs(low, high, &c, &s);
        Vec a = vec_load_n(x + i, n), b = vec_load_n(x + i + n_pairs, n);
        vec_store_n(x + i, vec_fnma(b, s, vec_mul(a, c)), n);
        vec_store_n(x + i + n_pairs, vec_fma(a, s, vec_mul(b, c)), n);
    }
}

/* Pairs (2i, 2i + 1): even lanes a c - b s, odd lanes b c + a s. */
static void cpu_rope_interleaved(float *x, const float *cos_sin, int64_t rope_dim) {
    for (int64_t i = 0; i < rope_dim; i += VEC_LANES) {
        int64_t n = MIN(rope_dim - i, (int64_t)VEC_LANES);
        Vec table = vec_load_n(cos_sin + i, n), v = vec_load_n(x + i, n);
        Vec cross = vec_mul(vec_swap_pairs(v), vec_odd_twice(table));
        vec_store_n(x + i, vec_fmaddsub(v, vec_even_twice(table), cross), n);
    }
}

static void cpu_rope_head(const RopeKvArgs *args, float *x, const float *norm, int64_t t) {
    if (norm != NULL) cpu_rope_norm(x, norm, args->norm_eps, args->kv.head_dim);
    if (args->style == ROPE_NONE) return;
    const float *cos_sin = args->cos_sin + (int64_t)args->pos[t] * args->rope_dim;
    if (args->style == ROPE_NEOX)
        cpu_rope_neox(x, cos_sin, args->rope_dim / 2);
    else
        cpu_rope_interleaved(x, cos_sin, args->rope_dim);
}

/* scale * q with bytes q, as KvView says. */
static void cpu_rope_put_i8(const KvView *kv, void *data, int64_t slot, int64_t head,
                            const float *x) {
    Vec largest = vec_zero(), not_finite = vec_zero(); /* 0 * x is NaN for NaN and infinity */
    for (int64_t i = 0; i < kv->head_dim; i += VEC_LANES) {
        Vec v = vec_load_n(x + i, MIN(kv->head_dim - i, (int64_t)VEC_LANES));
        largest = vec_max(largest, vec_abs(v));
        not_finite = vec_fma(v, vec_zero(), not_finite);
    }
    const float scale = vec_sum(not_finite) == 0 ? vec_largest(largest) / 127 : NAN;
    int8_t *to = (int8_t *)data + ops_kv_offset(kv, slot, head);
    memcpy((char *)data + ops_kv_scale_offset(kv, slot, head), &scale, sizeof scale);
    for (int64_t i = 0; i < kv->head_dim; i += VEC_LANES) {
        int64_t n = MIN(kv->head_dim - i, (int64_t)VEC_LANES);
        Vec q = scale > 0 ? vec_div(vec_load_n(x + i, n), vec_set1(scale)) : vec_zero();
        vec_store_i8_n(to + i, vec_max(vec_set1(-127), vec_min(vec_set1(127), q)), n);
    }
}

static void cpu_rope_put(const KvView *kv, void *data, int64_t slot, int64_t head, const float *x) {
    if (kv->dtype == DTYPE_I8) {
        cpu_rope_put_i8(kv, data, slot, head, x);
        return;
    }
    int64_t to = ops_kv_offset(kv, slot, head);
    for (int64_t i = 0; i < kv->head_dim; i += VEC_LANES) {
        int64_t n = MIN(kv->head_dim - i, (int64_t)VEC_LANES);
        vec_store_kv_n(kv->dtype, data, to + i, vec_load_n(x + i, n), n);
    }
}

static void cpu_rope_token(void *context, int64_t t, int32_t thread) {
    (void)thread;
    const RopeKvArgs *args = context;
    const KvView *kv = &args->kv;
    for (int64_t h = 0; h < args->q.shape[1]; h++)
        cpu_rope_head(args, ops_row(&args->q, t) + h * kv->head_dim, args->q_norm, t);
    for (int64_t h = 0; h < kv->n_kv_heads; h++) {
        float *k = ops_row(&args->k, t) + h * kv->head_dim;
        const float *v = ops_row(&args->v, t) + h * kv->head_dim;
        cpu_rope_head(args, k, args->k_norm, t);
        cpu_rope_put(kv, kv->k, args->kv_slot[t], h, k);
        cpu_rope_put(kv, kv->v, args->kv_slot[t], h, v);
    }
}

void CPU_LEVEL(cpu_rope)(OpCtx *ctx, const RopeKvArgs *args) {
    ops_check_rope_kv(args);
    int64_t row_bytes =
        (2 * args->q.shape[1] + 5 * args->k.shape[1]) * args->kv.head_dim * (int64_t)sizeof(float);
    RopeKvArgs copy = *args;
    cpu_rows_run(ctx, args->q.shape[0], row_bytes, cpu_rope_token, &copy);
}
