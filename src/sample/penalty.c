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

/* The token that must not come: the last of a run whose others are the output's end; else -1. */
static int32_t penalty_banned(const TokenRun *run, const PenaltyHistory *history) {
    const int32_t before = run->n - 1;
    if (history->n - history->n_prompt < before) return -1;
    const int32_t *end = history->token + history->n - before;
    if (before > 0 && memcmp(end, run->token, (size_t)before * sizeof *end) != 0) return -1;
    return run->token[before];
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
    for (int32_t i = 0; i < params->n_bad; i++) {
        const int32_t token = penalty_banned(&params->bad[i], history);
        if (token >= 0) logits[token] = -INFINITY;
    }
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

/* The list that is being made. */
typedef struct PenaltyList {
    int32_t *entry; /* [vocab] 1 + the token's place in out; 0: none */
    SampleChange *out;
    int32_t n, n_max;
} PenaltyList;

/* The token's change, a new one when it has none; NULL when there is no room. */
static SampleChange *penalty_entry(PenaltyList *list, int32_t token) {
    if (list->entry[token] == 0) {
        if (list->n == list->n_max) return NULL;
        list->out[list->n] = (SampleChange){.token = token};
        list->entry[token] = ++list->n;
    }
    return &list->out[list->entry[token] - 1];
}

/* A second finite bias would be rounded after the first: no change can say that. */
static bool penalty_list_bias(PenaltyList *list, LogitBias bias) {
    const bool again = list->entry[bias.token] != 0;
    SampleChange *change = penalty_entry(list, bias.token);
    if (change == NULL) return false;
    if (again && bias.bias != -INFINITY && change->bias != -INFINITY) return false;
    change->bias = again ? -INFINITY : bias.bias;
    return true;
}

static bool penalty_list_seen(PenaltyList *list, int32_t token, bool in_output) {
    SampleChange *change = penalty_entry(list, token);
    if (change == NULL) return false;
    change->seen = true;
    change->n_output += in_output;
    return true;
}

int32_t penalty_list(const SamplerParams *params, const PenaltyHistory *history, int32_t *entry,
                     SampleChange *out, int32_t n_max) {
    const bool all = params->repetition_penalty != 1;
    const bool any = all || params->presence_penalty != 0 || params->frequency_penalty != 0;
    PenaltyList list = {.entry = entry, .out = out, .n_max = n_max};
    bool fits = true;
    for (int32_t i = 0; i < params->n_bias && fits; i++)
        fits = penalty_list_bias(&list, params->bias[i]);
    for (int32_t i = 0; i < params->n_bad && fits; i++) {
        const int32_t token = penalty_banned(&params->bad[i], history);
        if (token >= 0) fits = penalty_list_bias(&list, (LogitBias){token, -INFINITY});
    }
    for (int32_t i = all ? 0 : history->n_prompt; any && fits && i < history->n; i++)
        fits = penalty_list_seen(&list, history->token[i], i >= history->n_prompt);
    for (int32_t i = 0; i < list.n; i++) entry[out[i].token] = 0;
    return fits ? list.n : -1;
}
