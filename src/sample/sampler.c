#include "sample/sampler.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "sample/filter.h"
#include "sample/penalty.h"

struct Sampler {
    int32_t vocab;
    float *logit;        /* [vocab] changed copy */
    PenaltyCount *count; /* [vocab] zero between calls */
    Candidates candidates;
    double histogram[FILTER_BUCKETS];
};

SamplerParams sampler_defaults(void) {
    return (SamplerParams){.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
}

/* Bounds that no model needs to pass and within which no sum or product of floats overflows. */
static const double SAMPLER_BIAS_LIMIT = 1e4, SAMPLER_PENALTY_LIMIT = 1e3;

static Status sampler_check_range(const char *name, double x, double min, double max, Err *err) {
    if (!(x >= min && x <= max)) { /* NaN fails too */
        FAIL(err, ERR_ARG, "%s is %g, expected %g to %g", name, x, min, max);
    }
    return OK;
}

Status sampler_check(const SamplerParams *p, int32_t vocab, Err *err) {
    TRY(sampler_check_range("temperature", p->temperature, 0, 100, err));
    if (p->top_k < 0) FAIL(err, ERR_ARG, "top_k is %d, expected 0 (off) or more", p->top_k);
    TRY(sampler_check_range("top_p", p->top_p, 0, 1, err));
    TRY(sampler_check_range("min_p", p->min_p, 0, 1, err));
    TRY(sampler_check_range("repetition_penalty", p->repetition_penalty, 1e-3,
                            SAMPLER_PENALTY_LIMIT, err));
    TRY(sampler_check_range("presence_penalty", p->presence_penalty, -SAMPLER_PENALTY_LIMIT,
                            SAMPLER_PENALTY_LIMIT, err));
    TRY(sampler_check_range("frequency_penalty", p->frequency_penalty, -SAMPLER_PENALTY_LIMIT,
                            SAMPLER_PENALTY_LIMIT, err));
    if (p->n_logprobs < -1 || p->n_logprobs > SAMPLER_LOGPROBS_MAX) {
        FAIL(err, ERR_ARG, "logprobs is %d, expected -1 (none) to %d", p->n_logprobs,
             SAMPLER_LOGPROBS_MAX);
    }
    if (p->n_bias < 0 || p->n_bias > SAMPLER_BIAS_MAX) {
        FAIL(err, ERR_ARG, "logit_bias has %d entries, expected at most %d", p->n_bias,
             SAMPLER_BIAS_MAX);
    }
    for (int32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token < 0 || p->bias[i].token >= vocab) {
            FAIL(err, ERR_ARG, "logit_bias names token %d, the vocabulary has 0 to %d",
                 p->bias[i].token, vocab - 1);
        }
        TRY(sampler_check_range("logit_bias", p->bias[i].bias, -SAMPLER_BIAS_LIMIT,
                                SAMPLER_BIAS_LIMIT, err));
    }
    return OK;
}

Status sampler_check_bad(const TokenRun *bad, int32_t n_bad, int32_t vocab, Err *err) {
    int64_t n_tokens = 0;
    if (n_bad < 0 || n_bad > SAMPLER_BAD_MAX)
        FAIL(err, ERR_ARG, "%d runs of tokens are banned, expected at most %d", n_bad,
             SAMPLER_BAD_MAX);
    for (int32_t i = 0; i < n_bad; i++) {
        n_tokens += bad[i].n;
        if (bad[i].n < 1 || n_tokens > SAMPLER_BAD_TOKENS_MAX)
            FAIL(err, ERR_ARG, "banned run %d has %d tokens, expected 1 at least and %d in all", i,
                 bad[i].n, SAMPLER_BAD_TOKENS_MAX);
        for (int32_t k = 0; k < bad[i].n; k++) {
            if (bad[i].token[k] < 0 || bad[i].token[k] >= vocab)
                FAIL(err, ERR_ARG, "a banned run holds token %d, the vocabulary has 0 to %d",
                     bad[i].token[k], vocab - 1);
        }
    }
    return OK;
}

int64_t sampler_bytes(int32_t vocab) {
    return (int64_t)sizeof(Sampler) +
           (int64_t)vocab * (int64_t)(sizeof(float) * 2 + sizeof(PenaltyCount) + sizeof(int32_t) +
                                      sizeof(double));
}

Status sampler_open(Sampler **out, int32_t vocab, Err *err) {
    CHECK(vocab > 0);
    const size_t n = (size_t)vocab;
    Sampler *s = mem_alloc(sizeof *s);
    s->vocab = vocab;
    s->logit = mem_try_alloc(n, sizeof *s->logit);
    s->count = mem_try_alloc(n, sizeof *s->count);
    s->candidates.token = mem_try_alloc(n, sizeof *s->candidates.token);
    s->candidates.logit = mem_try_alloc(n, sizeof *s->candidates.logit);
    s->candidates.weight = mem_try_alloc(n, sizeof *s->candidates.weight);
    if (s->logit == NULL || s->count == NULL || s->candidates.token == NULL ||
        s->candidates.logit == NULL || s->candidates.weight == NULL) {
        sampler_close(s);
        FAIL(err, ERR_NOMEM, "no memory to sample from a vocabulary of %d", vocab);
    }
    *out = s;
    return OK;
}

void sampler_close(Sampler *s) {
    if (s == NULL) return;
    mem_free(s->logit);
    mem_free(s->count);
    mem_free(s->candidates.token);
    mem_free(s->candidates.logit);
    mem_free(s->candidates.weight);
    mem_free(s);
}

/* The first of the largest logits; -1 when all are -inf. ERR_DEVICE for NaN and +inf. */
static Status sampler_argmax(const float *logits, int32_t n, int32_t *out, Err *err) {
    int32_t best = -1;
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        const float x = logits[i];
        if (x <= max) continue; /* the common way; NaN does not take it */
        if (!(x < INFINITY)) {
            FAIL(err, ERR_DEVICE, "logit of token %d is %f: the model's output is not finite", i,
                 (double)x);
        }
        max = x;
        best = i;
    }
    if (best < 0) FAIL(err, ERR_DEVICE, "none of the %d logits is finite", n);
    *out = best;
    return OK;
}

/* log(sum(exp(logits))), in float64 and in the order of the ids. */
static double sampler_log_sum(const float *logits, int32_t n, float max) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* Keeps top[0..n) sorted, likeliest first; equal ones in order of id as ids arrive ascending. */
static void sampler_offer(TokenLogprob *top, int32_t *n, int32_t n_max, TokenLogprob offer) {
    if (*n == n_max && offer.logprob <= top[n_max - 1].logprob) return;
    int32_t at = *n < n_max ? (*n)++ : n_max - 1;
    while (at > 0 && top[at - 1].logprob < offer.logprob) {
        top[at] = top[at - 1];
        at--;
    }
    top[at] = offer;
}

static void sampler_logprobs(const float *logits, int32_t vocab, float max, int32_t n_top,
                             SamplerResult *out) {
    const double log_sum = sampler_log_sum(logits, vocab, max);
    out->logprob = (float)(logits[out->token] - log_sum);
    for (int32_t i = 0; i < vocab && n_top > 0; i++) {
        /* Ranked by the logit: rounding a logprob may make different logits equal. */
        sampler_offer(out->top, &out->n_top, n_top, (TokenLogprob){i, logits[i]});
    }
    for (int32_t i = 0; i < out->n_top; i++) {
        out->top[i].logprob = (float)(out->top[i].logprob - log_sum);
    }
}

/* Candidates that have a chance, and their weights. */
static void sampler_gather(Sampler *s, const SamplerParams *params, const float *logits,
                           float max) {
    Candidates *c = &s->candidates;
    c->n = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        c->token[c->n] = i;
        c->logit[c->n] = logits[i];
        c->n += logits[i] != -INFINITY;
    }
    filter_top_k(c, params->top_k, s->histogram);
    const double scale = 1 / (double)params->temperature;
    for (int32_t i = 0; i < c->n; i++) {
        c->weight[i] = exp(((double)c->logit[i] - max) * scale);
    }
    filter_top_p(c, params->top_p, s->histogram);
    filter_min_p(c, params->min_p);
}

static int32_t sampler_draw(const Candidates *c, double u) {
    double total = 0;
    for (int32_t i = 0; i < c->n; i++) total += c->weight[i];
    const double target = u * total;
    double sum = 0;
    int32_t last = -1;
    for (int32_t i = 0; i < c->n; i++) {
        if (c->weight[i] <= 0) continue;
        sum += c->weight[i];
        last = i;
        if (sum > target) break;
    }
    CHECK(last >= 0); /* the likeliest weighs 1 and passes every filter */
    return c->token[last];
}

Status sampler_pick(Sampler *s, const SamplerParams *params, const SamplerInput *input,
                    SamplerResult *out, Err *err) {
    int32_t best, picked;
    TRY(sampler_argmax(input->logits, s->vocab, &best, err));
    const float *changed = input->logits;
    picked = best;
    if (penalty_is_on(params)) {
        memcpy(s->logit, input->logits, (size_t)s->vocab * sizeof *s->logit);
        const PenaltyHistory tokens = {input->history, input->n_history, input->n_prompt};
        penalty_apply(params, &tokens, s->logit, s->vocab, s->count);
        if (sampler_argmax(s->logit, s->vocab, &picked, NULL) != OK)
            FAIL(err, ERR_ARG, "the rules leave none of the %d tokens", s->vocab);
        changed = s->logit;
    }
    if (params->temperature > 0) {
        const double u = rng_uniform(params->seed, params->stream, input->step);
        sampler_gather(s, params, changed, changed[picked]);
        picked = sampler_draw(&s->candidates, u);
    }
    *out = (SamplerResult){.token = picked};
    if (params->n_logprobs >= 0) {
        sampler_logprobs(input->logits, s->vocab, input->logits[best], params->n_logprobs, out);
    }
    return OK;
}

Status sampler_score(Sampler *s, const float *logits, int32_t token, int32_t n_top,
                     SamplerResult *out, Err *err) {
    CHECK(token >= 0 && token < s->vocab && n_top >= 0 && n_top <= SAMPLER_LOGPROBS_MAX);
    int32_t best;
    TRY(sampler_argmax(logits, s->vocab, &best, err));
    *out = (SamplerResult){.token = token};
    sampler_logprobs(logits, s->vocab, logits[best], n_top, out);
    return OK;
}
