/* ref_rope: q/k norm, rotary embedding, and the write of k and v to the paged cache.
 *
 * source: Su et al. 2104.09864; the two pairings are Hugging Face's (NEOX) and Meta's
 * (interleaved). */
#include <math.h>
#include <string.h>

#include "ops/ops_priv.h"
#include "tensor/half.h"

float ref_rope_kv_get(DType dtype, const void *data, int64_t i) {
    if (dtype == DTYPE_F16) return f16_to_f32(((const uint16_t *)data)[i]);
    if (dtype == DTYPE_BF16) return bf16_to_f32(((const uint16_t *)data)[i]);
    if (dtype == DTYPE_I8) return ((const int8_t *)data)[i];
    return ((const float *)data)[i];
}

float ref_rope_kv_scale(const KvView *kv, const void *data, int64_t slot, int64_t head) {
    float scale = 1;
    if (kv->dtype == DTYPE_I8)
        memcpy(&scale, (const char *)data + ops_kv_scale_offset(kv, slot, head), sizeof scale);
    return scale;
}

static void ref_rope_kv_put(DType dtype, void *data, int64_t i, float x) {
    if (dtype == DTYPE_F16)
        ((uint16_t *)data)[i] = f16_from_f32(x);
    else if (dtype == DTYPE_BF16)
        ((uint16_t *)data)[i] = bf16_from_f32(x);
    else
        ((float *)data)[i] = x;
}

/* The vector of a slot and head as bytes with one scale. */
static void ref_rope_kv_put_i8(const KvView *kv, void *data, int64_t slot, int64_t head,
                               const float *x) {
    int8_t *to = (int8_t *)data + ops_kv_offset(kv, slot, head);
    float largest = 0;
    bool finite = true;
    for (int64_t i = 0; i < kv->head_dim; i++) {
        finite &= isfinite(x[i]) != 0;
        largest = fmaxf(largest, fabsf(x[i]));
    }
    float scale = finite ? largest / 127 : NAN;
    for (int64_t i = 0; i < kv->head_dim; i++)
        to[i] = scale > 0 ? (int8_t)fmaxf(-127, fminf(127, rintf(x[i] / scale))) : 0;
    memcpy((char *)data + ops_kv_scale_offset(kv, slot, head), &scale, sizeof scale);
}

/* The vector of a slot and head. */
static void ref_rope_kv_put_head(const KvView *kv, void *data, int64_t slot, int64_t head,
                                 const float *x) {
    if (kv->dtype == DTYPE_I8) {
        ref_rope_kv_put_i8(kv, data, slot, head, x);
        return;
    }
    int64_t to = ops_kv_offset(kv, slot, head);
    for (int64_t i = 0; i < kv->head_dim; i++) ref_rope_kv_put(kv->dtype, data, to + i, x[i]);
}

static void ref_rope_norm(float *x, const float *w, float eps, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    double scale = 1 / sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(x[i] * scale * w[i]);
}

static void ref_rope_rotate(const RopeKvArgs *args, float *x, int64_t t) {
    int32_t n_pairs = args->rope_dim / 2;
    const float *cos_sin = args->cos_sin + (int64_t)args->pos[t] * args->rope_dim;
    for (int32_t i = 0; i < n_pairs; i++) {
        int32_t first = args->style == ROPE_NEOX ? i : 2 * i;
        int32_t second = args->style == ROPE_NEOX ? i + n_pairs : 2 * i + 1;
        double c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = x[first], b = x[second];
        x[first] = (float)(a * c - b * s);
        x[second] = (float)(b * c + a * s);
    }
}

static void ref_rope_head(const RopeKvArgs *args, float *x, const float *norm, int64_t t) {
    if (norm != NULL) ref_rope_norm(x, norm, args->norm_eps, args->kv.head_dim);
    if (args->style != ROPE_NONE) ref_rope_rotate(args, x, t);
}

void ref_rope_kv(OpCtx *ctx, const RopeKvArgs *args) {
    (void)ctx;
    ops_check_rope_kv(args);
    const KvView *kv = &args->kv;
    for (int64_t t = 0; t < args->q.shape[0]; t++) {
        for (int64_t h = 0; h < args->q.shape[1]; h++)
            ref_rope_head(args, ops_row(&args->q, t) + h * kv->head_dim, args->q_norm, t);
        for (int64_t h = 0; h < kv->n_kv_heads; h++) {
            float *k = ops_row(&args->k, t) + h * kv->head_dim;
            const float *v = ops_row(&args->v, t) + h * kv->head_dim;
            ref_rope_head(args, k, args->k_norm, t);
            ref_rope_kv_put_head(kv, kv->k, args->kv_slot[t], h, k);
            ref_rope_kv_put_head(kv, kv->v, args->kv_slot[t], h, v);
        }
    }
}
