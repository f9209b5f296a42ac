/* penalty: logit bias and the penalties that depend on the tokens so far. */
#pragma once

#include "ops/ops.h"
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

/* What penalty_apply would change, a token once, for ops->sample, but for what params->allowed
 * leaves out. entry [vocab] must be zero and is left so. Returns how many; -1 when out has no room
 * or a token has several finite biases. */
int32_t penalty_list(const SamplerParams *params, const PenaltyHistory *history, int32_t *entry,
                     SampleChange *out, int32_t n_max);

/* Changes logits[vocab] in place: bias, what is allowed and what is banned, then the repetition
 * penalty (Keskar et al. 2019, section 4.1: positive logits are divided, others multiplied), then
 * frequency and presence (OpenAI, on the output only). counts [vocab] must be zero and is left so.
 * Time: vocab-independent unless only some tokens are allowed. */
void penalty_apply(const SamplerParams *params, const PenaltyHistory *history, float *logits,
                   int32_t vocab, PenaltyCount *counts);
