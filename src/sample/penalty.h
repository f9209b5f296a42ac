/* penalty: logit bias and the penalties that depend on the tokens so far. */
#pragma once

#include "sample/sampler.h"

/* Whether the parameters change any logit. */
bool penalty_is_on(const SamplerParams *params);

/* What was counted of one token; zero between calls. */
typedef struct PenaltyCount {
    int32_t n_output;
    bool seen; /* in prompt or output */
} PenaltyCount;

/* The tokens so far, for the penalties. */
typedef struct PenaltyHistory {
    const int32_t *token; /* [n] the prompt, then the output */
    int32_t n, n_prompt;
} PenaltyHistory;

/* Changes logits[vocab] in place: bias, what is allowed and what is banned, then the repetition
 * penalty (Keskar et al. 2019, section 4.1: positive logits are divided, others multiplied), then
 * frequency and presence (OpenAI, on the output only). counts [vocab] must be zero and is left so.
 * Time: vocab-independent unless only some tokens are allowed. */
void penalty_apply(const SamplerParams *params, const PenaltyHistory *history, float *logits,
                   int32_t vocab, PenaltyCount *counts);
