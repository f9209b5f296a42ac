#include "engine/runner_device.h"

#include "base/mem.h"
#include "base/rng.h"
#include "sample/penalty.h"

enum { RUNNER_CHANGES_MAX = 1 << 18 }; /* of a step; 4 MB */

struct RunnerDevice {
    Device *device;
    int32_t n_jobs_max;
    SampleSpec *spec; /* [n_jobs_max] of the host, with its twin on the device; so for the others */
    SampleChange *change; /* [RUNNER_CHANGES_MAX] */
    SampleResult *answer; /* [n_jobs_max] */
    SampleSpec *device_spec;
    SampleChange *device_change;
    SampleResult *device_answer;
    int32_t *job, *host_job; /* [n_jobs_max] of each spec; those left */
    int32_t *entry;          /* [vocab] zero between calls */
    int32_t n, n_changes, n_host;
};

static int32_t runner_device_jobs(const EngineLimits *limits) {
    return limits->max_seqs + limits->max_logits;
}

int64_t runner_device_bytes(const EngineLimits *limits) {
    const int64_t job = 2 * (int64_t)(sizeof(SampleSpec) + sizeof(SampleResult) + sizeof(int32_t));
    return runner_device_jobs(limits) * job +
           2 * RUNNER_CHANGES_MAX * (int64_t)sizeof(SampleChange) +
           limits->vocab * (int64_t)sizeof(int32_t);
}

/* Memory of the host that the device copies from, and its twin. */
static Status runner_device_twin(Device *device, size_t bytes, void **host, void **twin, Err *err) {
    TRY(device->vtable->host_alloc(device, bytes, host, err));
    return device->vtable->alloc(device, bytes, twin, err);
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
    TRY(runner_device_twin(d->device, n * sizeof *d->answer, &host, &twin, err));
    d->answer = host;
    d->device_answer = twin;
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
    v->free(d->device, d->device_answer, n * sizeof *d->answer);
    if (d->spec != NULL) v->host_free(d->device, d->spec);
    if (d->change != NULL) v->host_free(d->device, d->change);
    if (d->answer != NULL) v->host_free(d->device, d->answer);
    mem_free(d->job);
    mem_free(d->host_job);
    mem_free(d->entry);
    mem_free(d);
}

/* Whether another job picks from the same row: the jobs of a row follow each other. */
static bool runner_device_shares_row(const StepPlan *plan, int32_t i) {
    const SampleJob *jobs = plan->jobs;
    return (i > 0 && jobs[i - 1].row == jobs[i].row) ||
           (i + 1 < plan->n_jobs && jobs[i + 1].row == jobs[i].row);
}

/* Adds the job's picks to the device's; false: it is the host's. */
static bool runner_device_add(RunnerDevice *d, const StepPlan *plan, int32_t i) {
    const SampleJob *job = &plan->jobs[i];
    const SamplerParams *p = &job->params;
    const Seq *seq = job->seq;
    if (job->target >= 0 || p->n_logprobs >= 0) return false;
    int32_t n_changes = 0;
    if (penalty_is_on(p)) {
        if (runner_device_shares_row(plan, i)) return false;
        const PenaltyHistory history = {seq->token, seq->n_tokens, seq->request->n_prompt};
        n_changes = penalty_list(p, &history, d->entry, d->change + d->n_changes,
                                 RUNNER_CHANGES_MAX - d->n_changes);
        if (n_changes < 0) return false;
    }
    d->spec[d->n] =
        (SampleSpec){.u = rng_uniform(p->seed, p->stream, (uint64_t)request_n_output(seq)),
                     .row = job->row,
                     .temperature = p->temperature,
                     .top_k = p->top_k,
                     .top_p = p->top_p,
                     .min_p = p->min_p,
                     .repetition = p->repetition_penalty,
                     .presence = p->presence_penalty,
                     .frequency = p->frequency_penalty,
                     .first_change = d->n_changes,
                     .n_changes = n_changes};
    d->job[d->n++] = i;
    d->n_changes += n_changes;
    return true;
}

static Status runner_device_ask(RunnerDevice *d, Forward *forward, Err *err) {
    const DeviceVtable *v = d->device->vtable;
    const size_t n = (size_t)d->n;
    TRY(v->send(d->device, d->device_spec, d->spec, n * sizeof *d->spec, err));
    if (d->n_changes > 0)
        TRY(v->send(d->device, d->device_change, d->change,
                    (size_t)d->n_changes * sizeof *d->change, err));
    const SampleArgs args = {.n = d->n,
                             .spec = d->device_spec,
                             .change = d->n_changes > 0 ? d->device_change : NULL,
                             .out = d->device_answer};
    forward_sample(forward, &args);
    return v->receive(d->device, d->answer, d->device_answer, n * sizeof *d->answer, err);
}

Status runner_device_queue(RunnerDevice *d, Forward *forward, const StepPlan *plan, Err *err) {
    d->n = d->n_changes = d->n_host = 0;
    for (int32_t i = 0; i < plan->n_jobs; i++)
        if (!runner_device_add(d, plan, i)) d->host_job[d->n_host++] = i;
    return d->n > 0 ? runner_device_ask(d, forward, err) : OK;
}

Status runner_device_take(RunnerDevice *d, StepResult *result, RunnerJobs *left, Err *err) {
    TRY(d->device->vtable->sync(d->device, err));
    for (int32_t i = 0; i < d->n; i++) {
        const int32_t job = d->job[i];
        result->sample[job] = (SamplerResult){.token = d->answer[i].token};
        result->status[job] = (Status)d->answer[i].status;
    }
    *left = (RunnerJobs){d->host_job, d->n_host};
    return OK;
}
