#include "sample/penalty.h"

#include <float.h>
#include <math.h>
#include <string.h>

bool penalty_is_on(const SamplerParams *params) {
    return params->n_bias > 0 || params->repetition_penalty != 1 || params->presence_penalty != 0 ||
           params->frequency_penalty != 0 || params->allowed != NULL || params->n_bad > 0;
}

/* A finite logit stays finite: only a bias of -inf may take a token out. */
static float penalty_clamp(double x) {
    return (float)MIN(MAX(x, -(double)FLT_MAX), (double)FLT_MAX);
}

static float penalty_one(const SamplerParams *params, PenaltyCount count, float logit) {
    if (logit == -INFINITY) return logit;
    double x = logit;
    if (params->repetition_penalty != 1) {
        x = x > 0 ? x / params->repetition_penalty : x * params->repetition_penalty;
    }
    if (count.n_output > 0) {
        x -= (double)params->frequency_penalty * count.n_output;
        x -= (double)params->presence_penalty;
    }
    return penalty_clamp(x);
}

static void penalty_keep_allowed(const uint64_t *allowed, int32_t vocab, float *logits) {
    for (int32_t i = 0; i < vocab; i++)
        if ((allowed[i / 64] >> (i % 64) & 1) == 0) logits[i] = -INFINITY;
}

/* The last token of a run whose others are the output's end must not come. */
static void penalty_ban(const TokenRun *run, const PenaltyHistory *history, float *logits) {
    const int32_t before = run->n - 1;
    if (history->n - history->n_prompt < before) return;
    const int32_t *end = history->token + history->n - before;
    if (before > 0 && memcmp(end, run->token, (size_t)before * sizeof *end) != 0) return;
    logits[run->token[before]] = -INFINITY;
}

void penalty_apply(const SamplerParams *params, const PenaltyHistory *history, float *logits,
                   int32_t vocab, PenaltyCount *counts) {
    for (int32_t i = 0; i < params->n_bias; i++) {
        const LogitBias bias = params->bias[i];
        float *logit = &logits[bias.token];
        if (bias.bias == -INFINITY) *logit = -INFINITY;
        if (*logit != -INFINITY) *logit = penalty_clamp((double)*logit + bias.bias);
    }
    if (params->allowed != NULL) penalty_keep_allowed(params->allowed, vocab, logits);
    for (int32_t i = 0; i < params->n_bad; i++) penalty_ban(&params->bad[i], history, logits);
    const bool all = params->repetition_penalty != 1;
    if (!all && params->presence_penalty == 0 && params->frequency_penalty == 0) return;
    const int32_t first = all ? 0 : history->n_prompt;
    for (int32_t i = first; i < history->n; i++) {
        PenaltyCount *count = &counts[history->token[i]];
        count->seen = true;
        if (i >= history->n_prompt) count->n_output++;
    }
    for (int32_t i = first; i < history->n; i++) {
        const int32_t token = history->token[i];
        if (!counts[token].seen) continue; /* an earlier occurrence did it */
        logits[token] = penalty_one(params, counts[token], logits[token]);
        counts[token] = (PenaltyCount){0};
    }
}

/* The entry of the token, a new one when it has none; NULL when there is no room. */
static SampleChange *penalty_entry(int32_t token, int32_t *entry, SampleChange *out, int32_t *n,
                                   int32_t n_max) {
    if (entry[token] == 0) {
        if (*n == n_max) return NULL;
        out[*n] = (SampleChange){.token = token};
        entry[token] = ++*n;
    }
    return &out[entry[token] - 1];
}

int32_t penalty_list(const SamplerParams *params, const PenaltyHistory *history, int32_t *entry,
                     SampleChange *out, int32_t n_max) {
    const bool all = params->repetition_penalty != 1;
    const bool any = all || params->presence_penalty != 0 || params->frequency_penalty != 0;
    int32_t n = 0;
    bool fits = params->allowed == NULL && params->n_bad == 0;
    for (int32_t i = 0; i < params->n_bias && fits; i++) {
        fits = entry[params->bias[i].token] == 0;
        SampleChange *change = penalty_entry(params->bias[i].token, entry, out, &n, n_max);
        fits = fits && change != NULL;
        if (fits) change->bias = params->bias[i].bias;
    }
    for (int32_t i = all ? 0 : history->n_prompt; any && fits && i < history->n; i++) {
        SampleChange *change = penalty_entry(history->token[i], entry, out, &n, n_max);
        fits = change != NULL;
        if (!fits) break;
        change->seen = true;
        change->n_output += i >= history->n_prompt;
    }
    for (int32_t i = 0; i < n; i++) entry[out[i].token] = 0;
    return fits ? n : -1;
}
