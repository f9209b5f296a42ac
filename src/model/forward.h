/* forward: embed -> layers -> norm -> logits, the one pass of every family. Read this first. */
#pragma once

#include "model/kv_store.h"
#include "model/model.h"

/* Sizes the activation memory. */
typedef struct ForwardLimits {
    int32_t n_tokens_max, n_seqs_max, n_logits_max;
    int32_t context_max; /* positions: sizes the rope tables */
} ForwardLimits;

/* Activations, rope tables and op scratch for one stream of steps; made once. */
typedef struct Forward Forward;

/* Bytes that forward_open will allocate. */
int64_t forward_bytes(const Model *model, const ForwardLimits *limits, int32_t n_threads);
/* model and ctx (device, pool) are borrowed. */
MUST_USE Status forward_open(Forward **out, const Model *model, const OpCtx *ctx,
                             const ForwardLimits *limits, Err *err);
void forward_close(Forward *forward);

/* Has the host hand out all pages of the activations now. */
void forward_populate(Forward *forward);

/* One step. Writes K and V of every token to the store and leaves the logits of logits_row in
 * *logits, [n_logits, vocab] f32 in host memory, valid until the next step. */
MUST_USE Status forward_run(Forward *forward, KvStore *store, const Batch *batch,
                            const float **logits, Err *err);
/* The final normed hidden states of logits_row, [n_logits, dim] f32 on the host, instead of logits
 * (embeddings). */
MUST_USE Status forward_hidden(Forward *forward, KvStore *store, const Batch *batch,
                               const float **hidden, Err *err);
