/* forward_priv: the state of one pass, which the kinds of layer share. */
#pragma once

#include "model/forward.h"
#include "model/model_priv.h"
#include "model/scratch.h"

/* A step's arrays in the device's memory. */
typedef struct ForwardBatch {
    int32_t *host, *device; /* [len_max] */
    int64_t len_max;
    Batch batch; /* its pointers are the device's */
} ForwardBatch;

/* A recorded decode step of n_seqs sequences with one token each. */
typedef struct ForwardGraph {
    int32_t n_seqs;
    void *graph;
} ForwardGraph;

enum { FORWARD_GRAPHS_MAX = 64 };

struct Forward {
    const Model *model;
    const ModelConfig *config;
    const Ops *ops;
    OpCtx ctx; /* a copy of the caller's with scratch of our own */
    ForwardLimits limits;
    Scratch scratch;
    int32_t n_logits; /* of the last step */
    int64_t begin_us; /* of it, on an accelerator */

    /* Only where the device's memory is not the host's. */
    float *host_logits; /* [n_logits, vocab] */
    ForwardBatch sent;
    ForwardGraph graph[FORWARD_GRAPHS_MAX]; /* by ascending number of sequences */
    int32_t n_graphs;
    const KvStore *recorded; /* the store that the graphs use */
};

/* A step on its way through the layers. n_rows is n_tokens until the last layer keeps only the rows
 * whose logits are wanted; x and h then change places. */
typedef struct ForwardStep {
    Forward *forward;
    const Batch *batch;
    KvStore *store;
    int32_t n_rows;
    int32_t query_max; /* no sequence has more tokens */
    bool all_rows;     /* logits of every token are wanted, in order */
    float *x;
    void *h;
    bool add; /* scratch.add is yet to be added to x: the next norm does it */
} ForwardStep;

/* [n_rows, n] f32, and of the dtype that feeds matrix products. */
Tensor forward_rows(const ForwardStep *step, float *data, int64_t n);
Tensor forward_feed(const ForwardStep *step, void *data, int64_t n);
/* h = norm(x), adding what is pending to x before. */
void forward_norm(ForwardStep *step, const float *w, const float *bias);
/* The same for a product that alone reads h: what to give it as its norm, kept in *norm; NULL where
 * the ops want it to be done before, as it then is. */
typedef struct ForwardNorm {
    NormArgs args;
    Tensor add;
} ForwardNorm;
const NormArgs *forward_norm_for(ForwardStep *step, const float *w, const float *bias,
                                 ForwardNorm *norm);
/* Adds part's output for input [n_rows, k] to the residual stream: at once, or (post norms) as its
 * norm with the weights post_norm when the next norm runs. */
void forward_residual(ForwardStep *step, void *input, int64_t k, const Weight *w, const float *bias,
                      const float *post_norm);

/* The arrays of a step on the device: bytes on either side, the memory for them, and one copy of
 * the batch, filled up to n_seqs sequences of one token (or the batch's own number). */
int64_t forward_batch_bytes(const ForwardLimits *limits, const ModelConfig *config);
MUST_USE Status forward_batch_open(Forward *forward, Err *err);
void forward_batch_close(Forward *forward);
/* Points the batch at the arrays of a step of that size. */
void forward_batch_place(Forward *forward, int32_t n_tokens, int32_t n_seqs, int32_t n_logits);
MUST_USE Status forward_batch_send(Forward *forward, const Batch *batch, int32_t n_seqs, Err *err);

/* How the step's attention is divided, where the ops want to know before the layers. */
void layer_attn_plan(ForwardStep *step);
/* The kinds of layer, each from x to x. */
void layer_attn(ForwardStep *step, int32_t layer);
void layer_ffn(ForwardStep *step, int32_t layer);
void layer_moe(ForwardStep *step, int32_t layer);
