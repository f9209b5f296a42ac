/* forward: embed -> layers -> norm -> logits, the one pass of every family. Read this first. */
#pragma once

#include "model/kv_store.h"
#include "model/model.h"

/* Sizes the activation memory. */
typedef struct ForwardLimits {
    int32_t n_tokens_max, n_seqs_max, n_logits_max;
    int32_t context_max;      /* positions: sizes the rope tables */
    int32_t table_blocks_max; /* of one sequence; 0: context_max */
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

/* On an accelerator: records the pass of a decode step for a row of batch sizes, so that
 * forward_queue has it in one call. Such steps take this store from then on. Does nothing on the
 * host. */
MUST_USE Status forward_record(Forward *forward, KvStore *store, Err *err);

/* Queues one step: K and V of every token go to the store; the logits of logits_row are left where
 * forward_logits says. On the host it is done when the call returns. */
MUST_USE Status forward_queue(Forward *forward, KvStore *store, const Batch *batch, Err *err);
/* When an accelerator got the last step's work (CLOCK_MONOTONIC us). */
int64_t forward_begin_us(const Forward *forward);
/* The logits of the last step, [n_logits, vocab] f32 in the device's memory. */
Tensor forward_logits(const Forward *forward);
/* Picks from them (args->logits is filled in) on a device that samples; queued. */
void forward_sample(Forward *forward, const SampleArgs *args);
/* Row `row` of them, or all n_logits, on the host; valid until the next fetch or step. */
MUST_USE Status forward_fetch_row(Forward *forward, int32_t row, const float **logits, Err *err);
MUST_USE Status forward_fetch(Forward *forward, const float **logits, Err *err);

/* forward_queue and forward_fetch in one: *logits is [n_logits, vocab] f32 on the host, valid until
 * the next step. */
MUST_USE Status forward_run(Forward *forward, KvStore *store, const Batch *batch,
                            const float **logits, Err *err);
/* The final normed hidden states of logits_row, [n_logits, dim] f32 on the host, instead of logits
 * (embeddings). */
MUST_USE Status forward_hidden(Forward *forward, KvStore *store, const Batch *batch,
                               const float **hidden, Err *err);
