#include "engine/runner_device.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "sample/penalty.h"

enum { RUNNER_CHANGES_MAX = 1 << 18 }; /* of a step; 4 MB */

struct RunnerDevice {
    Device *device;
    int32_t n_jobs_max;
    SampleSpec *spec; /* [n_jobs_max] of the host, with its twin on the device; so for the others */
    SampleChange *change; /* [RUNNER_CHANGES_MAX] */
    uint64_t *mask;       /* [n_masks_max, n_words] */
    SampleResult *answer; /* [n_jobs_max] */
    SampleTop *top;       /* [n_jobs_max * SAMPLE_TOP_MAX] */
    SampleSpec *device_spec;
    SampleChange *device_change;
    uint64_t *device_mask;
    SampleResult *device_answer;
    SampleTop *device_top;
    int32_t *job, *host_job; /* [n_jobs_max] of each spec; those left */
    int32_t *entry;          /* [vocab] zero between calls */
    int32_t vocab, n_masks_max;
    size_t n_words; /* of a mask: a bit for each token */
    int32_t n, n_changes, n_masks, n_tops, n_host;
    bool logprobs;
};

_Static_assert((int)SAMPLE_TOP_MAX == (int)SAMPLER_LOGPROBS_MAX, "the same bound");

static int32_t runner_device_jobs(const EngineLimits *limits) {
    return limits->max_seqs + limits->max_logits;
}

static int64_t runner_device_words(int32_t vocab) {
    return DIV_UP(vocab, 64);
}

int64_t runner_device_bytes(const EngineLimits *limits) {
    const int64_t job = (int64_t)(sizeof(SampleSpec) + sizeof(SampleResult)) +
                        SAMPLE_TOP_MAX * (int64_t)sizeof(SampleTop);
    const int64_t masks = (int64_t)limits->max_seqs * runner_device_words(limits->vocab) * 8;
    return 2 * (runner_device_jobs(limits) * job +
                RUNNER_CHANGES_MAX * (int64_t)sizeof(SampleChange) + masks);
}

/* Memory of the host that the device copies from, and its twin. */
static Status runner_device_twin(Device *device, size_t bytes, void **host, void **twin, Err *err) {
    TRY(device->vtable->host_alloc(device, bytes, host, err));
    const Status status = device->vtable->alloc(device, bytes, twin, err);
    if (status != OK) device->vtable->host_free(device, *host);
    return status;
}

static size_t runner_device_mask_bytes(const RunnerDevice *d, int32_t n) {
    return (size_t)n * d->n_words * sizeof *d->mask;
}

static Status runner_device_alloc(RunnerDevice *d, const EngineLimits *limits, Err *err) {
    const size_t n = (size_t)d->n_jobs_max;
    void *host = NULL, *twin = NULL;
    TRY(runner_device_twin(d->device, n * sizeof *d->spec, &host, &twin, err));
    d->spec = host;
    d->device_spec = twin;
    TRY(runner_device_twin(d->device, RUNNER_CHANGES_MAX * sizeof *d->change, &host, &twin, err));
    d->change = host;
    d->device_change = twin;
    TRY(runner_device_twin(d->device, runner_device_mask_bytes(d, d->n_masks_max), &host, &twin,
                           err));
    d->mask = host;
    d->device_mask = twin;
    TRY(runner_device_twin(d->device, n * sizeof *d->answer, &host, &twin, err));
    d->answer = host;
    d->device_answer = twin;
    TRY(runner_device_twin(d->device, n * SAMPLE_TOP_MAX * sizeof *d->top, &host, &twin, err));
    d->top = host;
    d->device_top = twin;
    d->job = mem_try_alloc(n, sizeof *d->job);
    d->host_job = mem_try_alloc(n, sizeof *d->host_job);
    d->entry = mem_try_alloc((size_t)limits->vocab, sizeof *d->entry);
    if (d->job == NULL || d->host_job == NULL || d->entry == NULL)
        FAIL(err, ERR_NOMEM, "no memory for the picks of %d jobs", d->n_jobs_max);
    return OK;
}

Status runner_device_open(RunnerDevice **out, Device *device, const EngineLimits *limits,
                          Err *err) {
    RunnerDevice *d = mem_alloc(sizeof *d);
    d->device = device;
    d->n_jobs_max = runner_device_jobs(limits);
    d->vocab = limits->vocab;
    d->n_masks_max = limits->max_seqs;
    d->n_words = (size_t)runner_device_words(limits->vocab);
    const Status status = runner_device_alloc(d, limits, err);
    if (status != OK) {
        runner_device_close(d);
        return status;
    }
    *out = d;
    return OK;
}

void runner_device_close(RunnerDevice *d) {
    if (d == NULL) return;
    const DeviceVtable *v = d->device->vtable;
    const size_t n = (size_t)d->n_jobs_max;
    v->free(d->device, d->device_spec, n * sizeof *d->spec);
    v->free(d->device, d->device_change, RUNNER_CHANGES_MAX * sizeof *d->change);
    v->free(d->device, d->device_mask, runner_device_mask_bytes(d, d->n_masks_max));
    v->free(d->device, d->device_answer, n * sizeof *d->answer);
    v->free(d->device, d->device_top, n * SAMPLE_TOP_MAX * sizeof *d->top);
    if (d->spec != NULL) v->host_free(d->device, d->spec);
    if (d->change != NULL) v->host_free(d->device, d->change);
    if (d->mask != NULL) v->host_free(d->device, d->mask);
    if (d->answer != NULL) v->host_free(d->device, d->answer);
    if (d->top != NULL) v->host_free(d->device, d->top);
    mem_free(d->job);
    mem_free(d->host_job);
    mem_free(d->entry);
    mem_free(d);
}

/* The spec of the job before when both pick from one row: siblings that take their first token,
 * with the same parameters and history. NULL: there is none. */
static const SampleSpec *runner_device_sibling(const RunnerDevice *d, const StepPlan *plan,
                                               int32_t i) {
    if (d->n == 0 || d->job[d->n - 1] != i - 1) return NULL;
    const SampleJob *job = &plan->jobs[i], *before = job - 1;
    if (before->row != job->row) return NULL;
    CHECK(before->seq->request == job->seq->request && before->seq->n_tokens == job->seq->n_tokens);
    return &d->spec[d->n - 1];
}

/* Fills in what changes the job's logits; false: the host has to do it. */
static bool runner_device_change(RunnerDevice *d, const SampleJob *job, SampleSpec *spec) {
    const Seq *seq = job->seq;
    if (job->target >= 0 || !penalty_is_on(&job->params)) return true;
    const PenaltyHistory history = {seq->token, seq->n_tokens, seq->request->n_prompt};
    spec->n_changes = penalty_list(&job->params, &history, d->entry, d->change + d->n_changes,
                                   RUNNER_CHANGES_MAX - d->n_changes);
    if (spec->n_changes < 0) return false;
    d->n_changes += spec->n_changes;
    if (job->params.allowed == NULL) return true;
    CHECK(d->n_masks < d->n_masks_max);
    spec->mask = d->n_masks++;
    memcpy(d->mask + (size_t)spec->mask * d->n_words, job->params.allowed,
           d->n_words * sizeof *d->mask);
    return true;
}

/* Adds the job to the device's; false: it is the host's. */
static bool runner_device_add(RunnerDevice *d, const StepPlan *plan, int32_t i) {
    const SampleJob *job = &plan->jobs[i];
    const SamplerParams *p = &job->params;
    const bool scores = job->target >= 0;
    const int32_t n_top = MIN(scores ? job->seq->request->n_prompt_top : p->n_logprobs, d->vocab);
    SampleSpec spec = {.u = rng_uniform(p->seed, p->stream, (uint64_t)request_n_output(job->seq)),
                       .row = job->row,
                       .temperature = p->temperature,
                       .top_k = p->top_k,
                       .top_p = p->top_p,
                       .min_p = p->min_p,
                       .repetition = p->repetition_penalty,
                       .presence = p->presence_penalty,
                       .frequency = p->frequency_penalty,
                       .first_change = d->n_changes,
                       .mask = -1,
                       .target = job->target,
                       .n_top = n_top,
                       .first_top = d->n_tops};
    const SampleSpec *sibling = runner_device_sibling(d, plan, i);
    if (sibling != NULL) {
        spec.first_change = sibling->first_change;
        spec.n_changes = sibling->n_changes;
        spec.mask = sibling->mask;
        spec.is_changed = true;
    } else if (!runner_device_change(d, job, &spec)) {
        return false;
    }
    d->spec[d->n] = spec;
    d->job[d->n++] = i;
    d->n_tops += MAX(n_top, 0);
    d->logprobs = d->logprobs || n_top >= 0;
    return true;
}

static Status runner_device_ask(RunnerDevice *d, Forward *forward, Err *err) {
    const DeviceVtable *v = d->device->vtable;
    const size_t n = (size_t)d->n;
    TRY(v->send(d->device, d->device_spec, d->spec, n * sizeof *d->spec, err));
    if (d->n_changes > 0)
        TRY(v->send(d->device, d->device_change, d->change,
                    (size_t)d->n_changes * sizeof *d->change, err));
    if (d->n_masks > 0)
        TRY(v->send(d->device, d->device_mask, d->mask, runner_device_mask_bytes(d, d->n_masks),
                    err));
    const SampleArgs args = {.n = d->n,
                             .spec = d->device_spec,
                             .mask = d->device_mask,
                             .change = d->n_changes > 0 ? d->device_change : NULL,
                             .out = d->device_answer,
                             .top = d->device_top,
                             .logprobs = d->logprobs};
    forward_sample(forward, &args);
    if (d->n_tops > 0)
        TRY(v->receive(d->device, d->top, d->device_top, (size_t)d->n_tops * sizeof *d->top, err));
    return v->receive(d->device, d->answer, d->device_answer, n * sizeof *d->answer, err);
}

Status runner_device_queue(RunnerDevice *d, Forward *forward, const StepPlan *plan, Err *err) {
    d->n = d->n_changes = d->n_masks = d->n_tops = d->n_host = 0;
    d->logprobs = false;
    for (int32_t i = 0; i < plan->n_jobs; i++)
        if (!runner_device_add(d, plan, i)) d->host_job[d->n_host++] = i;
    return d->n > 0 ? runner_device_ask(d, forward, err) : OK;
}

static void runner_device_answer(const RunnerDevice *d, int32_t i, SamplerResult *out) {
    const SampleSpec *spec = &d->spec[i];
    out->token = d->answer[i].token;
    out->logprob = spec->n_top >= 0 ? d->answer[i].logprob : 0;
    out->n_top = MAX(spec->n_top, 0);
    for (int32_t k = 0; k < out->n_top; k++) {
        const SampleTop *top = &d->top[spec->first_top + k];
        out->top[k] = (TokenLogprob){top->token, top->logprob};
    }
}

/* The device has one word for a pick that failed. Rules that leave no token leave -inf alone in the
 * row, and are the request's fault; what is not finite stays where it was. */
static Status runner_device_blame(Forward *forward, const SampleSpec *spec, int32_t vocab,
                                  Status *status, Err *err) {
    const float *logits;
    if (*status == OK || (spec->n_changes == 0 && spec->mask < 0)) return OK;
    TRY(forward_fetch_row(forward, spec->row, &logits, err));
    for (int32_t i = 0; i < vocab; i++)
        if (logits[i] != -INFINITY) return OK;
    *status = ERR_ARG;
    return OK;
}

Status runner_device_take(RunnerDevice *d, Forward *forward, StepResult *result, RunnerJobs *left,
                          Err *err) {
    TRY(d->device->vtable->sync(d->device, err));
    for (int32_t i = 0; i < d->n; i++) {
        const int32_t job = d->job[i];
        runner_device_answer(d, i, &result->sample[job]);
        result->status[job] = (Status)d->answer[i].status;
        TRY(runner_device_blame(forward, &d->spec[i], d->vocab, &result->status[job], err));
    }
    *left = (RunnerJobs){d->host_job, d->n_host};
    return OK;
}
