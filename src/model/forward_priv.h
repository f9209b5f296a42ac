/* forward_priv: the state of one pass, which the kinds of layer share. */
#pragma once

#include "model/forward.h"
#include "model/model_priv.h"
#include "model/scratch.h"

struct Forward {
    const Model *model;
    const ModelConfig *config;
    const Ops *ops;
    OpCtx ctx; /* a copy of the caller's with scratch of our own */
    ForwardLimits limits;
    Scratch scratch;
    float *host_logits; /* [n_logits, vocab], where the device's memory is not the host's */
};

/* A step on its way through the layers. n_rows is n_tokens until the last layer keeps only the rows
 * whose logits are wanted; x and h then change places. */
typedef struct ForwardStep {
    Forward *forward;
    const Batch *batch;
    KvStore *store;
    int32_t n_rows;
    float *x, *h;
    bool add; /* scratch.add is yet to be added to x: the next norm does it */
} ForwardStep;

/* [n_rows, n] f32 */
Tensor forward_rows(const ForwardStep *step, float *data, int64_t n);
/* h = norm(x), adding what is pending to x before. */
void forward_norm(ForwardStep *step, const float *w, const float *bias);
/* Adds part's output for input [n_rows, k] to the residual stream: at once, or (post norms) as its
 * norm with the weights post_norm when the next norm runs. */
void forward_residual(ForwardStep *step, float *input, int64_t k, const Weight *w,
                      const float *bias, const float *post_norm);

/* The kinds of layer, each from x to x. */
void layer_attn(ForwardStep *step, int32_t layer);
void layer_ffn(ForwardStep *step, int32_t layer);
void layer_moe(ForwardStep *step, int32_t layer);
