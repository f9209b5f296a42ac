/* late_pick: SampleArgs by the rules of sample/sampler.h in plain C, for an accelerator made of the
 * host: changes, masks, filters, the draw, log-probabilities of the unchanged logits. */
#pragma once

#include "../testing.h"

#include <float.h>
#include <math.h>

#include "ops/ops.h"
#include "sample/filter.h"

static inline float late_clamp(double x) {
    return (float)MIN(MAX(x, -(double)FLT_MAX), (double)FLT_MAX);
}

static inline void late_change(const SampleSpec *spec, SampleChange *c, float *logit) {
    float x = c->logit = *logit;
    if (!(x < INFINITY)) return;
    if (c->bias == -INFINITY) x = -INFINITY;
    if (x != -INFINITY && c->bias != 0) x = late_clamp((double)x + (double)c->bias);
    if (x != -INFINITY && c->seen) {
        double y = (double)x;
        const double by = (double)spec->repetition;
        if (spec->repetition != 1) y = y > 0 ? y / by : y * by;
        if (c->n_output > 0)
            y -= (double)spec->frequency * c->n_output, y -= (double)spec->presence;
        x = late_clamp(y);
    }
    *logit = x;
}

static inline int32_t late_best(const float *row, int32_t vocab) {
    int32_t best = -1;
    for (int32_t i = 0; i < vocab; i++) {
        if (!(row[i] < INFINITY)) return -1;
        if (row[i] != -INFINITY && (best < 0 || row[i] > row[best])) best = i;
    }
    return best;
}

static inline int32_t late_draw(const SampleSpec *spec, const float *row, int32_t vocab,
                                float most) {
    const size_t n = (size_t)vocab;
    double *histogram = mem_alloc(FILTER_BUCKETS * sizeof *histogram);
    Candidates c = {.token = mem_alloc(n * sizeof *c.token),
                    .logit = mem_alloc(n * sizeof *c.logit),
                    .weight = mem_alloc(n * sizeof *c.weight)};
    for (int32_t i = 0; i < vocab; i++) {
        c.token[c.n] = i;
        c.logit[c.n] = row[i];
        c.n += row[i] != -INFINITY;
    }
    filter_top_k(&c, spec->top_k, histogram);
    const double scale = 1 / (double)spec->temperature;
    for (int32_t i = 0; i < c.n; i++)
        c.weight[i] = exp(((double)c.logit[i] - (double)most) * scale);
    filter_top_p(&c, (double)spec->top_p, histogram);
    filter_min_p(&c, (double)spec->min_p);
    double total = 0, sum = 0;
    for (int32_t i = 0; i < c.n; i++) total += c.weight[i];
    int32_t token = -1;
    for (int32_t i = 0; i < c.n && (token < 0 || sum <= spec->u * total); i++) {
        if (c.weight[i] <= 0) continue;
        sum += c.weight[i];
        token = c.token[i];
    }
    mem_free(histogram);
    mem_free(c.token);
    mem_free(c.logit);
    mem_free(c.weight);
    return token;
}

/* raw: the row before it was changed. */
static inline void late_logprobs(const SampleArgs *args, int32_t i, const float *raw,
                                 int32_t vocab) {
    const SampleSpec *spec = &args->spec[i];
    const float most = raw[late_best(raw, vocab)];
    double sum = 0;
    for (int32_t t = 0; t < vocab; t++) sum += exp((double)raw[t] - (double)most);
    const double log_sum = (double)most + log(sum);
    args->out[i].logprob = (float)((double)raw[args->out[i].token] - log_sum);
    int32_t last = -1;
    for (int32_t k = 0; k < spec->n_top; k++) {
        int32_t next = -1;
        for (int32_t t = 0; t < vocab; t++) {
            if (last >= 0 && !(raw[t] < raw[last] || (raw[t] == raw[last] && t > last))) continue;
            if (next < 0 || raw[t] > raw[next]) next = t;
        }
        args->top[spec->first_top + k] = (SampleTop){next, (float)((double)raw[next] - log_sum)};
        last = next;
    }
}

static inline void late_sample_one(const SampleArgs *args, int32_t i, float *raw) {
    const SampleSpec *spec = &args->spec[i];
    const int32_t vocab = (int32_t)args->logits.shape[1];
    float *row = (float *)args->logits.data + spec->row * args->logits.stride[0];
    if (!spec->is_changed) memcpy(raw, row, (size_t)vocab * sizeof *raw);
    for (int32_t k = 0; k < spec->n_changes && !spec->is_changed; k++) {
        SampleChange *c = &args->change[spec->first_change + k];
        late_change(spec, c, &row[c->token]);
    }
    const uint64_t *mask = args->mask + (size_t)MAX(spec->mask, 0) * (size_t)DIV_UP(vocab, 64);
    for (int32_t t = 0; t < vocab && spec->mask >= 0; t++)
        if (row[t] < INFINITY && (mask[t / 64] >> (t % 64) & 1) == 0) row[t] = -INFINITY;
    const int32_t best = late_best(row, vocab);
    args->out[i] = (SampleResult){best, best < 0 ? ERR_DEVICE : OK, 0};
    if (best < 0) return;
    if (spec->target < 0 && spec->temperature > 0)
        args->out[i].token = late_draw(spec, row, vocab, row[best]);
    if (spec->target >= 0) args->out[i].token = spec->target;
    if (spec->n_top >= 0) late_logprobs(args, i, raw, vocab);
}

static inline void late_sample_all(const SampleArgs *args) {
    float *raw = mem_alloc((size_t)args->logits.shape[1] * sizeof *raw);
    for (int32_t i = 0; i < args->n; i++) late_sample_one(args, i, raw);
    mem_free(raw);
}
