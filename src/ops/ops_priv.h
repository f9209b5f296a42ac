/* ops_priv: what the files of ops share: addressing, scratch, argument checks, and the entries of
 * every level from which ops.c puts the tables together. */
#pragma once

#include "ops/ops.h"

/* Row i of an f32 activation of any number of dimensions whose rows are runs of dimension 0. */
static inline float *ops_row(const Tensor *t, int64_t i) {
    return (float *)t->data + i * t->stride[0];
}

/* Row `row` of a weight in its file's layout. Strides count elements, so groups divide them. */
static inline const void *ops_weight_row(const Tensor *t, int64_t row) {
    const DTypeInfo *info = dtype_info(t->dtype);
    return (const char *)t->data + row * t->stride[0] / info->group_len * info->group_bytes;
}

/* The element at which a slot's vector of a head begins in kv.k and kv.v. */
static inline int64_t ops_kv_offset(const KvView *kv, int64_t slot, int64_t head) {
    int64_t block = slot / kv->block_tokens, offset = slot % kv->block_tokens;
    int64_t width = kv->head_dim + (kv->dtype == DTYPE_I8 ? (int64_t)sizeof(float) : 0);
    return (block * kv->n_kv_heads + head) * kv->block_tokens * width + offset * kv->head_dim;
}

/* The byte at which the scale of a slot's vector stands, where vectors have one (i8). */
static inline int64_t ops_kv_scale_offset(const KvView *kv, int64_t slot, int64_t head) {
    int64_t offset = slot % kv->block_tokens;
    return ops_kv_offset(kv, slot - offset, head) + (int64_t)kv->block_tokens * kv->head_dim +
           offset * (int64_t)sizeof(float);
}

/* Carves an op's scratch; every piece starts on a cache line. */
typedef struct OpsScratch {
    char *next;
    size_t left_bytes;
} OpsScratch;

static inline OpsScratch ops_scratch_begin(const OpCtx *ctx) {
    return (OpsScratch){ctx->scratch, ctx->scratch_bytes};
}

static inline size_t ops_scratch_round(size_t bytes) {
    return ALIGN_UP(bytes, (size_t)CACHE_LINE);
}

static inline void *ops_scratch_take(OpsScratch *scratch, size_t bytes) {
    size_t rounded = ops_scratch_round(bytes);
    CHECK(rounded <= scratch->left_bytes);
    void *p = scratch->next;
    scratch->next += rounded;
    scratch->left_bytes -= rounded;
    return p;
}

static inline int32_t ops_threads(const OpCtx *ctx) {
    return ctx->pool ? pool_threads(ctx->pool) : 1;
}

/* The positions that a query at position pos of a sequence of kv_len tokens sees: [lo, hi). */
typedef struct OpsRange {
    int32_t lo, hi;
} OpsRange;

static inline OpsRange ops_attn_range(const AttnArgs *args, int32_t pos, int32_t kv_len) {
    int32_t lo = args->window > 0 && pos >= args->window ? pos - args->window + 1 : 0;
    return (OpsRange){lo, args->causal ? pos + 1 : kv_len};
}

/* Argument checks, the same for every level: they CHECK shapes, dtypes and places. */
void ops_check_embed(const EmbedArgs *args);
void ops_check_norm(const NormArgs *args);
void ops_check_linear(const LinearArgs *args);
void ops_check_gated(const GatedArgs *args);
void ops_check_rope_kv(const RopeKvArgs *args);
void ops_check_attn(const AttnArgs *args);
void ops_check_act(const ActArgs *args);
void ops_check_moe_route(const MoeRouteArgs *args);
void ops_check_moe(const MoeArgs *args);
void ops_check_softcap(const Tensor *x, float cap);
void ops_check_gather_rows(const Tensor *x, const int32_t *row, int32_t n_rows, const Tensor *out);

/* gated as two ops of a level: both products, then the activation. `up` lies in scratch for it. */
size_t ops_gated_scratch_bytes(const OpsLimits *limits);
void ops_gated(OpCtx *ctx, const GatedArgs *args, void (*linear)(OpCtx *, const LinearArgs *),
               void (*act)(OpCtx *, const ActArgs *));

/* The reference: plain loops, sums in f64 in index order, one rounding per output element. */
size_t ref_linear_scratch_bytes(const OpsLimits *limits);
Status ref_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err);
void ref_weight_release(OpCtx *ctx, Weight *weight);
void ref_embed(OpCtx *ctx, const EmbedArgs *args);
void ref_norm(OpCtx *ctx, const NormArgs *args);
void ref_linear(OpCtx *ctx, const LinearArgs *args);
void ref_gated(OpCtx *ctx, const GatedArgs *args);
void ref_rope_kv(OpCtx *ctx, const RopeKvArgs *args);
void ref_attn(OpCtx *ctx, const AttnArgs *args);
void ref_act(OpCtx *ctx, const ActArgs *args);
void ref_act_softcap(OpCtx *ctx, Tensor x, float cap);
void ref_moe_route(OpCtx *ctx, const MoeRouteArgs *args);
void ref_moe(OpCtx *ctx, const MoeArgs *args);
void ref_embed_gather_rows(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows,
                           Tensor *out);
/* One activation value, as ref_act computes it. */
double ref_act_value(ActKind kind, double x);
/* Element i of k or v without its scale, and the scale of a slot's vector (1: there is none). */
float ref_rope_kv_get(DType dtype, const void *data, int64_t i);
float ref_rope_kv_scale(const KvView *kv, const void *data, int64_t slot, int64_t head);
