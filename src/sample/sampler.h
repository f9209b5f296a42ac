/* sampler: logits -> token.
 *
 * The order of the steps is that of Hugging Face and vLLM: logit bias and penalties, temperature,
 * top-k, top-p, min-p, then a draw by the counter-based generator: the token is a function of the
 * logits, the parameters, the seed and the position alone. */
#pragma once

#include "base/status.h"

enum {
    SAMPLER_BIAS_MAX = 1024,
    SAMPLER_LOGPROBS_MAX = 20,
    SAMPLER_BAD_MAX = 512,         /* runs of tokens that may not come */
    SAMPLER_BAD_TOKENS_MAX = 65536 /* in all of them */
};

/* A run of tokens. */
typedef struct TokenRun {
    const int32_t *token; /* [n] borrowed */
    int32_t n;
} TokenRun;

typedef struct LogitBias {
    int32_t token;
    float bias;
} LogitBias;

typedef struct SamplerParams {
    float temperature;                         /* 0: greedy */
    int32_t top_k;                             /* 0: off */
    float top_p;                               /* 1: off */
    float min_p;                               /* 0: off */
    float repetition_penalty;                  /* 1: off; prompt and output (Keskar et al. 2019) */
    float presence_penalty, frequency_penalty; /* 0: off; output only (OpenAI) */
    uint64_t seed;
    uint64_t stream; /* which of the sequences that share the seed */
    int32_t n_bias;
    const LogitBias *bias;   /* borrowed */
    const uint64_t *allowed; /* bit t: token t may be picked; borrowed; NULL: every token may */
    int32_t n_bad;
    const TokenRun *bad; /* borrowed: the output never holds one of them */
    int32_t n_logprobs;  /* most likely tokens to report; -1: none, 0: the chosen one */
} SamplerParams;

/* Greedy, everything else off. */
SamplerParams sampler_defaults(void);
/* ERR_ARG with a sentence that names the field; NaN is refused too. */
MUST_USE Status sampler_check(const SamplerParams *params, int32_t vocab, Err *err);

/* ERR_ARG when a run is empty, too long with the others, or holds no token. */
MUST_USE Status sampler_check_bad(const TokenRun *bad, int32_t n_bad, int32_t vocab, Err *err);

typedef struct TokenLogprob {
    int32_t token;
    float logprob; /* log-softmax of the raw logits */
} TokenLogprob;

typedef struct SamplerResult {
    int32_t token;
    float logprob; /* 0 when none were asked for */
    int32_t n_top;
    TokenLogprob top[SAMPLER_LOGPROBS_MAX]; /* most likely first; ties: lower id */
} SamplerResult;

/* Bytes that sampler_open will allocate. */
int64_t sampler_bytes(int32_t vocab);
/* Memory for one thread's sampling over a vocabulary; made once. */
typedef struct Sampler Sampler;
MUST_USE Status sampler_open(Sampler **out, int32_t vocab, Err *err);
void sampler_close(Sampler *sampler);

/* What a token is picked from. */
typedef struct SamplerInput {
    const float *logits;    /* [vocab], not changed */
    const int32_t *history; /* [n_history] the prompt, then the output so far: valid tokens */
    int32_t n_history, n_prompt;
    uint64_t step; /* tokens drawn before: the generator's counter */
} SamplerInput;

/* Picks. A token whose logit (or bias) is -inf is never picked. ERR_DEVICE when a logit is NaN or
 * +inf or none is finite: never a token out of garbage. ERR_ARG when the parameters leave no
 * token. */
MUST_USE Status sampler_pick(Sampler *sampler, const SamplerParams *params,
                             const SamplerInput *input, SamplerResult *out, Err *err);
/* The logprob of a given token under the raw logits, and the n_top likeliest. */
MUST_USE Status sampler_score(Sampler *sampler, const float *logits, int32_t token, int32_t n_top,
                              SamplerResult *out, Err *err);
