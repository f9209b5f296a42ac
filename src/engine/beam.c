#include "engine/beam.h"

#include <math.h>
#include <string.h>

enum { BEAM_CANDIDATES_MAX = ENGINE_N_MAX * 2 * ENGINE_N_MAX };

/* A way to go on. */
typedef struct BeamStep {
    int32_t parent; /* beam */
    int32_t token;
    double score; /* sum of logprobs */
} BeamStep;

static double beam_normalised(const Request *r, double score, int32_t length) {
    return score / pow(length, (double)r->length_penalty);
}

/* Keeps steps[0..n) sorted, best first; equal ones stay in order of arrival. */
static void beam_offer(BeamStep *steps, int32_t *n, BeamStep step) {
    int32_t at = (*n)++;
    for (; at > 0 && steps[at - 1].score < step.score; at--) steps[at] = steps[at - 1];
    steps[at] = step;
}

static int32_t beam_candidates(const Request *r, const PlanSeq *part, const StepResult *result,
                               BeamStep *steps) {
    const int32_t n_parts = r->forked ? r->n_seqs : 1;
    int32_t n = 0;
    for (int32_t i = 0; i < n_parts; i++) {
        const SamplerResult *sample = &result->sample[part[i].first_job];
        const Seq *seq = part[i].seq;
        for (int32_t k = 0; k < sample->n_top; k++) {
            const TokenLogprob *top = &sample->top[k];
            const bool barred =
                request_n_output(seq) < r->n_output_min && request_is_stop_id(r, top->token);
            if (barred || top->logprob == -INFINITY) continue;
            beam_offer(steps, &n,
                       (BeamStep){seq->index, top->token, seq->score + (double)top->logprob});
        }
    }
    return n;
}

/* Keeps the n_seqs best hypotheses, best first. tail: a last token that seq does not have yet, or
 * -1. */
static void beam_finish_one(Request *r, const Seq *seq, double score, int32_t tail,
                            sluice_finish finish) {
    const int32_t n_output = request_n_output(seq);
    const double normalised = beam_normalised(r, score, n_output + (tail >= 0));
    if (r->n_hypotheses == r->n_seqs && normalised <= r->hypothesis[r->n_seqs - 1].score) return;
    int32_t at = r->n_hypotheses < r->n_seqs ? r->n_hypotheses++ : r->n_seqs - 1;
    Hypothesis made = r->hypothesis[at]; /* whose memory is free now */
    for (; at > 0 && r->hypothesis[at - 1].score < normalised; at--) {
        r->hypothesis[at] = r->hypothesis[at - 1];
    }
    memcpy(made.token, seq->token + r->n_prompt, (size_t)n_output * sizeof *made.token);
    if (tail >= 0) made.token[n_output] = tail;
    made.n_tokens = n_output + (tail >= 0);
    made.score = normalised;
    made.finish = finish;
    made.stop_id = finish == SLUICE_FINISH_STOP ? tail : -1;
    r->hypothesis[at] = made;
}

/* Beam `to` becomes a copy of beam `from`. */
static void beam_copy(Engine *e, Request *r, int32_t from, int32_t to) {
    Seq *src = &r->seq[from], *dst = &r->seq[to];
    kv_cache_end(&e->cache, dst->kv);
    kv_cache_fork(&e->cache, dst->kv, src->kv);
    memcpy(dst->token, src->token, (size_t)src->n_tokens * sizeof *src->token);
    dst->n_tokens = src->n_tokens;
    dst->n_computed = src->n_computed;
}

/* The beams become next[0..n_seqs): the first child of a parent stays where the parent is, further
 * ones take over beams that nothing continues. */
static void beam_advance(Engine *e, Request *r, const BeamStep *next) {
    int32_t child_of[ENGINE_N_MAX]; /* which of next sits at each beam, -1: none */
    bool placed[ENGINE_N_MAX] = {false};
    for (int32_t i = 0; i < r->n_seqs; i++) child_of[i] = -1;
    for (int32_t i = 0; i < r->n_seqs; i++) {
        if (child_of[next[i].parent] >= 0) continue;
        child_of[next[i].parent] = i;
        placed[i] = true;
    }
    for (int32_t i = 0, to = 0; i < r->n_seqs; i++) {
        if (placed[i]) continue;
        while (child_of[to] >= 0) to++;
        child_of[to] = i;
        beam_copy(e, r, next[i].parent, to);
    }
    for (int32_t i = 0; i < r->n_seqs; i++) {
        Seq *seq = &r->seq[i];
        seq->token[seq->n_tokens++] = next[child_of[i]].token;
        seq->score = next[child_of[i]].score;
    }
}

/* Reports the best hypotheses. The request may be gone afterwards. */
static void beam_end(Engine *e, Request *r) {
    for (int32_t i = r->n_seqs - 1; i >= 0; i--) {
        Seq *seq = &r->seq[i];
        if (i >= r->n_return) {
            engine_commit_end_seq(e, seq, &(EngineNews){0});
            continue;
        }
        const Hypothesis *best = &r->hypothesis[i];
        memcpy(seq->token + r->n_prompt, best->token, (size_t)best->n_tokens * sizeof(int32_t));
        seq->n_tokens = r->n_prompt + best->n_tokens;
        /* Nobody else sees the output before its only event. */
        for (int32_t k = 0; k < best->n_tokens && seq->detok.tokenizer != NULL; k++) {
            if (best->token[k] == best->stop_id && k + 1 == best->n_tokens) break;
            (void)detok_feed(&seq->detok, best->token[k], &seq->out.text);
        }
        if (seq->detok.tokenizer != NULL) detok_finish(&seq->detok, &seq->out.text);
        const EngineNews news = {.n_tokens = best->n_tokens,
                                 .finish = best->finish,
                                 .stop_index = -1,
                                 .stop_id = best->stop_id};
        const bool last = i == 0;
        engine_commit_end_seq(e, seq, &news);
        if (last) return;
    }
}

/* Whether no running beam can still come among the best. Hugging Face's early_stopping = False. */
static bool beam_is_done(const Request *r, double best_running, int32_t length) {
    if (r->n_hypotheses < r->n_seqs) return false;
    return r->hypothesis[r->n_seqs - 1].score >= beam_normalised(r, best_running, length);
}

void beam_commit(Engine *e, const PlanSeq *part, const StepResult *result) {
    Request *r = part->seq->request;
    BeamStep steps[BEAM_CANDIDATES_MAX], next[ENGINE_N_MAX];
    const int32_t n = beam_candidates(r, part, result, steps);
    if (!r->forked) sched_fork(&e->sched, r);
    const int32_t length = request_n_output(part->seq) + 1;
    int32_t n_next = 0;
    for (int32_t i = 0; i < n && n_next < r->n_seqs; i++) {
        if (request_is_stop_id(r, steps[i].token)) {
            if (i < r->n_seqs) {
                beam_finish_one(r, &r->seq[steps[i].parent], steps[i].score, steps[i].token,
                                SLUICE_FINISH_STOP);
            }
        } else {
            next[n_next++] = steps[i];
        }
    }
    if (r->usage.first_token_us == 0) r->usage.first_token_us = engine_now(e) - r->submit_us;
    e->stats.n_output_tokens += r->n_seqs;
    const bool ended = n_next < r->n_seqs; /* a vocabulary too small for so many beams */
    if (!ended && !beam_is_done(r, next[0].score, length)) {
        beam_advance(e, r, next);
        if (length < r->n_output_max) return;
        for (int32_t i = 0; i < r->n_seqs; i++) {
            beam_finish_one(r, &r->seq[i], r->seq[i].score, -1, SLUICE_FINISH_LENGTH);
        }
    }
    if (r->n_hypotheses < r->n_return) {
        engine_commit_end(e, r, SLUICE_FINISH_ERROR, ERR_LIMIT,
                          "the vocabulary is too small for so many beams");
        return;
    }
    beam_end(e, r);
}
