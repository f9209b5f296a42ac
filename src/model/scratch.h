/* scratch: the activation memory of a forward pass, sized once from the limits. */
#pragma once

#include "model/forward.h"

/* One allocation of the device. What is not f32 is of the dtype `feed`, which the ops choose. */
typedef struct Scratch {
    OpsLimits limits; /* the ops' */
    DType feed;
    float *x;             /* [n_tokens, dim] the residual stream */
    void *h;              /* [n_tokens, dim] feed, its norm; has room for f32 */
    float *add;           /* [n_tokens, dim] what the next norm adds to x (post norms only) */
    void *q, *k, *v;      /* [n_tokens, heads * head_dim] feed */
    void *attn;           /* [n_tokens, n_heads * head_dim] feed */
    void *hidden;         /* [n_tokens, ff_dim] feed */
    float *router;        /* [n_tokens, n_experts] */
    float *expert_weight; /* [n_tokens, n_experts_used] */
    int32_t *expert;      /* [n_tokens, n_experts_used] */
    float *logits;        /* [n_logits, vocab] */
    float *cos_sin, *cos_sin_local;       /* rope tables, or empty */
    void *attn_plan[MODEL_KV_GROUPS_MAX]; /* of each KV group, where the ops plan attention */
    void *op;                             /* scratch of the ops */
    size_t op_bytes;
    void *data; /* the allocation */
    int64_t bytes;
} Scratch;

/* The limits of one step in the ops' terms. */
OpsLimits scratch_ops_limits(const ModelConfig *config, const ForwardLimits *limits);
/* Bytes that scratch_open will allocate. */
int64_t scratch_bytes(const ModelConfig *config, const ForwardLimits *limits, const Ops *ops,
                      int32_t n_threads);
/* Allocates on the device and fills the rope tables. */
MUST_USE Status scratch_open(Scratch *out, const ModelConfig *config, const ForwardLimits *limits,
                             const Ops *ops, const OpCtx *ctx, Err *err);
/* Readies the attention plans for the first step. The scratch stays where it is from then on. */
void scratch_open_plans(Scratch *scratch, const ModelConfig *config, const Ops *ops, OpCtx *ctx);
static inline AttnPlan scratch_plan(const Scratch *scratch, int32_t group) {
    return (AttnPlan){scratch->attn_plan[group], &scratch->limits};
}
void scratch_close(Scratch *scratch, Device *device);
