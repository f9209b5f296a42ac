/* plain_beam: beam search by definition over the fake model, with whole copies of every beam. */
#pragma once

#include "fake_model.h"

enum { BEAM_OUTPUT_MAX = 40, BEAM_WIDTH_MAX = 8 };

typedef struct PlainBeam {
    int32_t token[BEAM_OUTPUT_MAX], n;
    uint64_t tag; /* of the tokens but the last */
    double score;
} PlainBeam;

static inline void plain_offer(PlainBeam *list, int32_t *n, int32_t n_max, const PlainBeam *beam) {
    if (*n == n_max && beam->score <= list[n_max - 1].score) return;
    int32_t at = *n < n_max ? (*n)++ : n_max - 1;
    for (; at > 0 && list[at - 1].score < beam->score; at--) list[at] = list[at - 1];
    list[at] = *beam;
}

static inline double plain_normalised(const PlainBeam *beam, double penalty) {
    return beam->score / pow(beam->n, penalty);
}

/* The definition: at each step all continuations of all beams, sorted. */
static inline int32_t plain_search(const int32_t *prompt, int32_t n_prompt, int32_t width,
                                   int32_t n_max, double penalty, PlainBeam *best) {
    PlainBeam beams[BEAM_WIDTH_MAX] = {0}, next[2 * BEAM_WIDTH_MAX];
    uint64_t tag = 0;
    for (int32_t i = 0; i < n_prompt; i++) tag = fake_tag(tag, prompt[i], i);
    int32_t n_beams = 1, n_best = 0;
    for (int32_t step = 1; step <= n_max; step++) {
        int32_t n_next = 0;
        for (int32_t b = 0; b < n_beams; b++) {
            uint64_t at = tag;
            for (int32_t i = 0; i < beams[b].n; i++) {
                at = fake_tag(at, beams[b].token[i], n_prompt + i);
            }
            SampleJob job = {.target = -1, .params = {.n_logprobs = 2 * width}};
            SamplerResult result;
            Status status;
            const FakeModel model = {0};
            fake_sample(&model, &job, at, &result, &status);
            for (int32_t k = 0; k < 2 * width; k++) {
                PlainBeam grown = beams[b];
                grown.token[grown.n++] = result.top[k].token;
                grown.score += (double)result.top[k].logprob;
                plain_offer(next, &n_next, 2 * width, &grown);
            }
        }
        n_beams = 0;
        for (int32_t i = 0; i < n_next && n_beams < width; i++) {
            if (next[i].token[next[i].n - 1] != FAKE_EOS) {
                beams[n_beams++] = next[i];
            } else if (i < width) {
                PlainBeam done = next[i];
                done.score = plain_normalised(&done, penalty);
                plain_offer(best, &n_best, width, &done);
            }
        }
        if (n_best == width && best[width - 1].score >= plain_normalised(&beams[0], penalty)) {
            return n_best;
        }
    }
    for (int32_t i = 0; i < n_beams; i++) {
        PlainBeam done = beams[i];
        done.score = plain_normalised(&done, penalty);
        plain_offer(best, &n_best, width, &done);
    }
    return n_best;
}
