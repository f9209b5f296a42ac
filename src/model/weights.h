/* weights: every tensor of a model bound by name, checked and prepared for the ops.
 *
 * Matrices stay where the file is mapped unless the level packs them; norms and biases become f32
 * vectors. Read-only once bound. */
#pragma once

#include "base/mem.h"
#include "base/progress.h"
#include "model/arch.h"

typedef struct LayerWeights {
    const float *attn_norm, *attn_norm_bias;        /* [dim]; the bias NULL for RMS-norms */
    const float *post_attn_norm;                    /* [dim] or NULL */
    const float *ffn_norm, *ffn_norm_bias;          /* [dim] */
    const float *post_ffn_norm;                     /* [dim] or NULL */
    const float *q_norm, *k_norm;                   /* [head_dim] or NULL */
    Weight q, k, v, o;                              /* [heads * head_dim, dim], o transposed */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* or NULL */
    Weight gate, up, down;                          /* [ff, dim], same (gate if gated), [dim, ff] */
    const float *gate_bias, *up_bias, *down_bias;   /* or NULL */
    Weight router;                                  /* [n_experts, dim] of a mixture's layer */
    Weight *expert_gate, *expert_up, *expert_down;  /* [n_experts] each, owned */
} LayerWeights;

typedef struct Weights {
    Weight embed;                          /* [vocab, dim], the file's rows */
    Weight pos_embed;                      /* [context, dim] of learned positions */
    const float *out_norm, *out_norm_bias; /* [dim] */
    Weight output;                         /* [vocab, dim], prepared */
    LayerWeights *layer;                   /* [n_layers], owned */
    int32_t n_layers, n_experts;
    struct WeightsBlock *blocks; /* vectors and transposed copies */
    LargeArena packed;           /* what ops->weight_prepare made on the host */
    int64_t owned_bytes;         /* beside the mapped file */
    int64_t forgotten_bytes;     /* of the file, packed into owned memory and not read again */
    int64_t stored_bytes;        /* of the bound tensors as stored */
    int64_t token_bytes;         /* read per decode step of one sequence */
    int64_t n_params, n_params_active;
} Weights;

/* Binds all weights of the config from the file, which must outlive them. On failure *out is freed;
 * the sentence names the tensor, what it is and what was wanted. progress may be NULL. */
MUST_USE Status weights_bind(Weights *out, const ModelFile *file, const ModelConfig *config,
                             const Ops *ops, OpCtx *ctx, Progress *progress, Err *err);
/* Releases what weights_bind made; a zeroed one is fine. */
void weights_free(Weights *weights, const Ops *ops, OpCtx *ctx);
