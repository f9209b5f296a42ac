#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "engine/beam.h"
#include "engine/engine_priv.h"

/* Everything of a finished request that others look at goes before its last event: from then on it
 * belongs to the client. */
static void engine_commit_forget_request(Engine *e, Request *r, sluice_finish finish) {
    int32_t at = 0;
    while (e->live[at] != r) at++;
    e->live[at] = e->live[--e->n_live];
    sched_forget(&e->sched, r);
    e->n_ended_unstarted += !r->started;
    e->stats.n_finished += finish == SLUICE_FINISH_STOP || finish == SLUICE_FINISH_LENGTH;
    e->stats.n_cancelled += finish == SLUICE_FINISH_CANCELLED;
    e->stats.n_failed += finish == SLUICE_FINISH_ERROR || finish == SLUICE_FINISH_DEADLINE;
}

static void engine_commit_fill_usage(Engine *e, Seq *seq, const EngineNews *news) {
    Request *r = seq->request;
    sluice_usage *usage = &seq->out.usage;
    *usage = r->usage;
    usage->n_output = seq->out.n_ready + news->n_tokens; /* of a cut-off beam nothing is reported */
    usage->total_us = engine_now(e) - r->submit_us;
    if (!r->started) usage->queue_us = usage->total_us;
    usage->n_preempted = r->n_preempted;
}

/* The sequence ends with this news. */
void engine_commit_end_seq(Engine *e, Seq *seq, const EngineNews *news) {
    Request *r = seq->request;
    sched_remove(&e->sched, seq);
    if (seq->index >= r->n_return) return; /* a beam that is not reported */
    engine_commit_fill_usage(e, seq, news);
    r->n_done++;
    if (r->n_done == r->n_return) engine_commit_forget_request(e, r, news->finish);
    engine_say(e, seq, news);
}

/* The text that was held back. */
static Str engine_commit_last_text(Engine *e, Seq *seq) {
    const size_t from = engine_say_begin(e);
    if (seq->detok.tokenizer != NULL) detok_finish(&seq->detok, &e->text);
    return engine_say_text(e, from);
}

void engine_commit_end(Engine *e, Request *r, sluice_finish finish, Status status,
                       const char *error) {
    engine_say_all(e); /* of each sequence one thing at a time */
    if (error != NULL && error != r->error) snprintf(r->error, sizeof r->error, "%s", error);
    /* Beams that are not reported first: with the last of the others the request is gone. */
    for (int32_t i = r->n_seqs - 1; i >= r->n_return; i--) sched_remove(&e->sched, &r->seq[i]);
    const int32_t n = r->n_return;
    int32_t n_left = 0;
    for (int32_t i = 0; i < n; i++) n_left += r->seq[i].state != SEQ_DONE;
    for (int32_t i = 0; i < n && n_left > 0; i++) {
        Seq *seq = &r->seq[i];
        if (seq->state == SEQ_DONE) continue;
        n_left--; /* before the last one's event, which ends the request */
        EngineNews news = {.text = engine_commit_last_text(e, seq),
                           .finish = finish,
                           .stop_index = -1,
                           .stop_id = -1,
                           .status = status,
                           .error = error == NULL ? NULL : r->error};
        engine_commit_end_seq(e, seq, &news);
    }
    engine_say_all(e);
}

/* Appends the picked token and finds out whether the sequence ends with it. */
static void engine_commit_append(Engine *e, Seq *seq, const SamplerResult *sample) {
    Request *r = seq->request;
    EngineNews news = {.n_tokens = 1, .sample = sample, .stop_index = -1, .stop_id = -1};
    CHECK(request_n_output(seq) < r->n_output_max);
    seq->token[seq->n_tokens++] = sample->token;
    const int32_t n_output = request_n_output(seq);
    const bool may_stop = n_output > r->n_output_min;
    e->stats.n_output_tokens++;
    if (r->usage.first_token_us == 0) r->usage.first_token_us = engine_now(e) - r->submit_us;
    const size_t from = engine_say_begin(e);
    if (may_stop && request_is_stop_id(r, sample->token)) {
        news.finish = SLUICE_FINISH_STOP;
        news.stop_id = sample->token;
    } else if (seq->detok.tokenizer != NULL) {
        seq->detok.n_stops = may_stop ? r->n_stops : 0;
        news.stop_index = detok_feed(&seq->detok, sample->token, &e->text);
        if (news.stop_index >= 0) news.finish = SLUICE_FINISH_STOP;
    }
    if (news.finish == SLUICE_FINISH_NONE && n_output == r->n_output_max) {
        news.finish = SLUICE_FINISH_LENGTH;
    }
    if (news.finish != SLUICE_FINISH_NONE && news.stop_index < 0 && seq->detok.tokenizer != NULL) {
        detok_finish(&seq->detok, &e->text);
    }
    news.text = engine_say_text(e, from);
    /* What overflowed is lost: this cannot go on (see engine_say.c). */
    if (seq->out.overflowed) news.finish = SLUICE_FINISH_ERROR;
    if (news.finish == SLUICE_FINISH_NONE) {
        engine_say(e, seq, &news);
    } else {
        engine_commit_end_seq(e, seq, &news);
    }
}

static void engine_commit_note_prompt_logprob(Request *r, const SampleJob *job,
                                              const SamplerResult *sample, int32_t at) {
    if (at != r->n_prompt_logprobs || at >= r->n_prompt) return;
    r->prompt_logprob[at] = (sluice_logprob){job->target, sample->logprob};
    for (int32_t i = 0; i < r->n_prompt_top; i++) {
        /* As for the output: a vocabulary smaller than that repeats its last. */
        const TokenLogprob *top = &sample->top[MIN(i, sample->n_top - 1)];
        r->prompt_top[(size_t)at * (size_t)r->n_prompt_top + (size_t)i] =
            (sluice_logprob){top->token, top->logprob};
    }
    r->n_prompt_logprobs++;
}

/* ---- embeddings -------------------------------------------------------------------------- */

/* Takes in the rows of a part that began at position `before`. Sums go in order of position: the
 * same for any chunking. */
static void engine_commit_pool(Request *r, const PlanSeq *part, const float *hidden,
                               int32_t before) {
    const int32_t dim = r->n_embedding;
    const bool sum = r->pooling == SLUICE_POOL_MEAN;
    for (int32_t row = 0; row < part->n_rows; row++) {
        const float *x = hidden + (int64_t)(part->first_row + row) * dim;
        if (!sum || (before == 0 && row == 0)) memset(r->pool_sum, 0, (size_t)dim * sizeof(double));
        for (int32_t i = 0; i < dim; i++) r->pool_sum[i] += (double)x[i];
    }
}

static void engine_commit_hidden(Engine *e, const PlanSeq *part, const float *hidden,
                                 int32_t before) {
    Seq *seq = part->seq;
    Request *r = seq->request;
    engine_commit_pool(r, part, hidden, before);
    if (seq->n_computed < seq->n_tokens) return;
    const double n = r->pooling == SLUICE_POOL_MEAN ? r->n_prompt : 1;
    bool finite = true;
    for (int32_t i = 0; i < r->n_embedding; i++) {
        r->embedding[i] = (float)(r->pool_sum[i] / n);
        finite = finite && r->embedding[i] - r->embedding[i] == 0;
    }
    if (!finite) {
        e->stats.n_nonfinite++;
        kv_cache_forget(&e->cache, seq->kv);
        engine_commit_end(e, r, SLUICE_FINISH_ERROR, ERR_DEVICE,
                          "the model's hidden states are not finite");
        return;
    }
    EngineNews news = {.finish = SLUICE_FINISH_STOP, .stop_index = -1, .stop_id = -1};
    engine_commit_end_seq(e, seq, &news);
}

/* ---- a step's outcome -------------------------------------------------------------------- */

/* No token could be picked: whoever wanted one fails. Blocks behind a logit that was not finite are
 * not kept for others; that a request's own rules leave no token says nothing about them. */
static void engine_commit_unpicked(Engine *e, const PlanSeq *part, Status status) {
    Seq *seq = part->seq;
    Request *r = seq->request;
    const char *text = "the request's rules leave no token that may come next";
    if (status != ERR_ARG) {
        text = "the model's logits are not finite";
        e->stats.n_nonfinite++;
        log_line(LOG_ERROR, "engine", "request=%llu index=%d pos=%d logits are not finite",
                 (unsigned long long)r->id, seq->index, seq->n_computed);
        kv_cache_forget(&e->cache, seq->kv);
    }
    if (r->beam || !r->forked) {
        engine_commit_end(e, r, SLUICE_FINISH_ERROR, status, text);
        return;
    }
    snprintf(r->error, sizeof r->error, "%s", text);
    EngineNews news = {.text = engine_commit_last_text(e, seq),
                       .finish = SLUICE_FINISH_ERROR,
                       .stop_index = -1,
                       .stop_id = -1,
                       .status = status,
                       .error = r->error};
    engine_commit_end_seq(e, seq, &news);
}

/* Of the first of its picks that failed; OK when none has. */
static Status engine_commit_picked(const PlanSeq *part, const StepResult *result) {
    for (int32_t i = 0; i < part->n_jobs; i++) {
        if (result->status[part->first_job + i] != OK) return result->status[part->first_job + i];
    }
    return OK;
}

/* Books the KV of a part; n_computed is where it ends now. */
static void engine_commit_kv(Engine *e, const PlanSeq *part) {
    Seq *seq = part->seq;
    const int32_t before = seq->n_computed;
    seq->n_computed += part->n_tokens;
    e->stats.n_prompt_tokens += MAX(0, MIN(seq->n_computed, seq->request->n_prompt) - before);
    kv_cache_commit(&e->cache, seq->kv, seq->token, seq->n_computed);
}

static void engine_commit_part(Engine *e, const StepPlan *plan, const StepResult *result,
                               const PlanSeq *part) {
    Seq *seq = part->seq;
    Request *r = seq->request;
    const Status picked = engine_commit_picked(part, result);
    if (picked != OK) {
        engine_commit_unpicked(e, part, picked);
        return;
    }
    const int32_t before = seq->n_computed;
    engine_commit_kv(e, part);
    if (plan->hidden) {
        engine_commit_hidden(e, part, result->hidden, before);
        return;
    }
    const int32_t first_pos = seq->n_computed - part->n_rows;
    for (int32_t i = 0; i < part->n_jobs; i++) {
        const SampleJob *job = &plan->jobs[part->first_job + i];
        if (job->target < 0) continue;
        engine_commit_note_prompt_logprob(r, job, &result->sample[part->first_job + i],
                                          first_pos + i + 1);
    }
    if (seq->n_computed < seq->n_tokens) return;
    if (r->beam) {
        beam_commit(e, part, result);
        return;
    }
    if (!r->forked) sched_fork(&e->sched, r);
    for (int32_t i = 0; i < part->n_jobs; i++) {
        const SampleJob *job = &plan->jobs[part->first_job + i];
        if (job->target < 0)
            engine_commit_append(e, job->seq, &result->sample[part->first_job + i]);
    }
}

/* The beams of a request are next to each other in the plan; its number of parts. */
static int32_t engine_commit_beams(Engine *e, const StepResult *result, const PlanSeq *part) {
    const int32_t n = part->seq->request->n_seqs;
    for (int32_t i = 0; i < n; i++) {
        CHECK(part[i].seq->request == part->seq->request);
        const Status picked = engine_commit_picked(&part[i], result);
        if (picked == OK) continue;
        engine_commit_unpicked(e, &part[i], picked);
        return n;
    }
    for (int32_t i = 0; i < n; i++) engine_commit_kv(e, &part[i]);
    beam_commit(e, part, result);
    return n;
}

void engine_commit_step(Engine *e, const StepPlan *plan, const StepResult *result) {
    for (int32_t i = 0; i < plan->n_seqs;) {
        const PlanSeq *part = &plan->seqs[i];
        const Request *r = part->seq->request;
        if (r->beam && r->forked && part->n_jobs > 0) {
            i += engine_commit_beams(e, result, part);
        } else {
            engine_commit_part(e, plan, result, part);
            i++;
        }
    }
}

void engine_commit_failure(Engine *e, const StepPlan *plan, const Err *err) {
    log_line(LOG_ERROR, "engine", "step=%lld failed: %s", (long long)plan->id, err->text);
    for (int32_t i = 0; i < plan->n_seqs; i++) plan->seqs[i].seq->request->failing = true;
    for (int32_t i = e->n_live - 1; i >= 0; i--) { /* ending one moves the last into its place */
        if (!e->live[i]->failing) continue;
        engine_commit_end(e, e->live[i], SLUICE_FINISH_ERROR, err->status, err->text);
    }
}
