/* single: one sequence fed through the step, for evaluation, benches and golden tests.
 *
 * Owns a KV store with a plain block table, a Forward and the batch arrays. */
#pragma once

#include "model/forward.h"

typedef struct Single Single;

typedef struct SingleOptions {
    int32_t context_max;  /* 0: the model's */
    int32_t chunk;        /* tokens per step at most; 0: 512 */
    int32_t n_logits_max; /* rows of logits a call may ask for; 0: 1 */
    int32_t block_tokens; /* 0: 16 */
    DType kv_dtype;
} SingleOptions;

MUST_USE Status single_open(Single **out, const Model *model, const OpCtx *ctx,
                            const SingleOptions *options, Err *err);
void single_close(Single *single);
/* Forgets all tokens. */
void single_reset(Single *single);
int32_t single_len(const Single *single);
/* Cuts the sequence back to n tokens. */
void single_truncate(Single *single, int32_t n);
/* Feeds n tokens and returns the logits of the last n_logits of them (<= n_logits_max), in
 * *logits [n_logits, vocab], valid until the next call. */
MUST_USE Status single_feed(Single *single, const int32_t *token, int32_t n, int32_t n_logits,
                            const float **logits, Err *err);
