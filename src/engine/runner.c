#include "engine/runner.h"

#include "base/available.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/runner_device.h"

/* Of an accelerator's memory, that recorded steps and kernels take at their first use. */
enum { RUNNER_RECORDED_BYTES = 64 << 20 };

typedef struct RunnerModel {
    const Model *model;
    ThreadPool *pool;
    OpCtx ctx;
    Forward *forward;
    KvStore *store;
    int32_t n_samplers;
    Sampler **sampler;         /* one per thread */
    char *host[KV_GROUPS_MAX]; /* [n_host][block_bytes] the host tier */
    int64_t block_bytes[KV_GROUPS_MAX], host_bytes[KV_GROUPS_MAX];
    RunnerDevice *picks; /* NULL on the host */
} RunnerModel;

static ForwardLimits runner_forward_limits(const EngineLimits *limits) {
    return (ForwardLimits){
        .n_tokens_max = limits->max_step_tokens,
        .n_seqs_max = limits->max_seqs,
        .n_logits_max = limits->max_logits,
        .context_max = limits->max_context,
        .table_blocks_max = DIV_UP(limits->max_context, limits->kv.block_tokens)};
}

RunnerBytes runner_bytes(const RunnerOptions *options) {
    const ModelConfig *config = model_config(options->model);
    const EngineLimits *limits = &options->limits;
    const ForwardLimits forward = runner_forward_limits(limits);
    RunnerBytes bytes = {
        .activation = forward_bytes(options->model, &forward, options->n_threads),
        .sampler = options->n_threads * sampler_bytes(config->vocab),
    };
    if (options->device->id != DEVICE_HOST) {
        bytes.sampler += runner_device_bytes(limits);
        bytes.device = bytes.activation + runner_device_bytes(limits) / 2 + RUNNER_RECORDED_BYTES;
    }
    for (int32_t g = 0; g < limits->kv.n_groups; g++) {
        const int64_t block_bytes =
            kv_store_block_bytes(config, g, limits->kv.block_tokens, options->kv_dtype);
        bytes.kv += limits->kv.n_blocks[g] * block_bytes;
        bytes.host += limits->kv.n_host[g] * block_bytes;
    }
    return bytes;
}

static void runner_free_host(RunnerModel *r, int32_t group) {
    Device *device = r->ctx.device;
    if (r->host[group] == NULL) return;
    if (device->id == DEVICE_HOST) {
        mem_free_large(r->host[group], (size_t)r->host_bytes[group]);
    } else {
        device->vtable->host_free(device, r->host[group]);
    }
}

static void runner_close(void *self) {
    RunnerModel *r = self;
    for (int32_t i = 0; i < r->n_samplers; i++) sampler_close(r->sampler[i]);
    mem_free(r->sampler);
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) {
        runner_free_host(r, g);
    }
    runner_device_close(r->picks);
    if (r->store != NULL) kv_store_close(r->store);
    if (r->forward != NULL) forward_close(r->forward);
    if (r->pool != NULL) pool_close(r->pool);
    mem_free(r);
}

static char *runner_slot(const RunnerModel *r, int32_t group, int32_t slot) {
    return r->host[group] + slot * r->block_bytes[group];
}

static uint64_t runner_checksum(const RunnerModel *r, int32_t group, int32_t slot) {
    return hash_bytes(runner_slot(r, group, slot), (size_t)r->block_bytes[group], 0);
}

/* Where a walk over the moves stands: those up to `move` that were saved have their checksums. */
typedef struct RunnerMoves {
    const StepPlan *plan;
    StepResult *result;
    int32_t move, moved;
    bool saved; /* some behind it */
} RunnerMoves;

/* Waits for the copies that were queued, and sums up what was saved by the moves before `to`. */
static Status runner_land(RunnerModel *r, RunnerMoves *m, int32_t to, Err *err) {
    TRY(r->ctx.device->vtable->sync(r->ctx.device, err));
    m->saved = false;
    for (; m->move < to; m->move++) {
        const KvMove *move = &m->plan->moves.move[m->move];
        if (move->kind == KV_MOVE_SAVE)
            m->result->moved[m->moved].checksum = runner_checksum(r, move->group, move->dst);
        m->moved += move->kind == KV_MOVE_SAVE || move->kind == KV_MOVE_LOAD;
    }
    return OK;
}

static Status runner_load(RunnerModel *r, const KvMove *move, KvMoved *moved, Err *err) {
    if (runner_checksum(r, move->group, move->src) != move->checksum) {
        moved->status = ERR_FORMAT;
        return OK;
    }
    return kv_store_write_block(r->store, move->group, move->dst,
                                runner_slot(r, move->group, move->src), err);
}

static Status runner_move_one(RunnerModel *r, RunnerMoves *m, int32_t i, Err *err) {
    const KvMove *move = &m->plan->moves.move[i];
    StepResult *result = m->result;
    switch (move->kind) {
        case KV_MOVE_COPY:
            return kv_store_copy_block(r->store, move->group, move->src, move->dst, err);
        case KV_MOVE_SAVE:
            m->saved = true;
            result->moved[result->n_moved++] = (KvMoved){.ticket = move->ticket};
            return kv_store_read_block(r->store, move->group, move->src,
                                       runner_slot(r, move->group, move->dst), err);
        case KV_MOVE_LOAD:
            if (m->saved) TRY(runner_land(r, m, i, err)); /* its slot may be among them */
            result->moved[result->n_moved++] = (KvMoved){.ticket = move->ticket};
            return runner_load(r, move, &result->moved[result->n_moved - 1], err);
        case KV_MOVE_READ:
            return kv_store_read_block(r->store, move->group, move->src, move->bytes, err);
        case KV_MOVE_WRITE:
            return kv_store_write_block(r->store, move->group, move->dst, move->bytes, err);
    }
    return OK;
}

static Status runner_move(RunnerModel *r, const StepPlan *plan, StepResult *result, Err *err) {
    if (plan->moves.n == 0) return OK;
    const int64_t start = clock_us();
    RunnerMoves moves = {.plan = plan, .result = result, .moved = result->n_moved};
    bool copies = true; /* nothing but: the pass may follow them in the queue */
    for (int32_t i = 0; i < plan->moves.n; i++) {
        copies = copies && plan->moves.move[i].kind == KV_MOVE_COPY;
        TRY(runner_move_one(r, &moves, i, err));
    }
    if (!copies) TRY(runner_land(r, &moves, plan->moves.n, err));
    result->move_us = clock_us() - start;
    return OK;
}

/* What the sampling threads share. */
typedef struct RunnerSampling {
    RunnerModel *runner;
    const StepPlan *plan;
    StepResult *result;
    const float *logits;
    int32_t vocab;
    const int32_t *job; /* those to do; NULL: all */
} RunnerSampling;

static void runner_sample_one(void *context, int64_t task, int32_t thread) {
    const RunnerSampling *s = context;
    const int64_t i = s->job != NULL ? s->job[task] : task;
    const SampleJob *job = &s->plan->jobs[i];
    const Seq *seq = job->seq;
    const float *logits = s->logits + (int64_t)job->row * s->vocab;
    Sampler *sampler = s->runner->sampler[thread];
    SamplerResult *out = &s->result->sample[i];
    if (job->target >= 0) {
        s->result->status[i] =
            sampler_score(sampler, logits, job->target, seq->request->n_prompt_top, out, NULL);
        return;
    }
    const SamplerInput input = {.logits = logits,
                                .history = seq->token,
                                .n_history = seq->n_tokens,
                                .n_prompt = seq->request->n_prompt,
                                .step = (uint64_t)request_n_output(seq)};
    s->result->status[i] = sampler_pick(sampler, &job->params, &input, out, NULL);
}

/* What the host has to pick or score of the step's jobs. */
static Status runner_sample(RunnerModel *r, const StepPlan *plan, StepResult *result,
                            RunnerJobs jobs, Err *err) {
    RunnerSampling sampling = {.runner = r,
                               .plan = plan,
                               .result = result,
                               .vocab = model_config(r->model)->vocab,
                               .job = jobs.job};
    if (jobs.n == 0) return OK;
    TRY(forward_fetch(r->forward, &sampling.logits, err));
    pool_run(r->pool, jobs.n, runner_sample_one, &sampling);
    return OK;
}

static Status runner_hidden(RunnerModel *r, const StepPlan *plan, StepResult *result, Err *err) {
    return forward_hidden(r->forward, r->store, &plan->batch, &result->hidden, err);
}

static Status runner_run(void *self, const StepPlan *plan, StepResult *result, Err *err) {
    RunnerModel *r = self;
    TRY(runner_move(r, plan, result, err));
    if (plan->batch.n_tokens == 0) return OK;
    if (plan->hidden) return runner_hidden(r, plan, result, err);
    TRY(forward_queue(r->forward, r->store, &plan->batch, err));
    return runner_sample(r, plan, result, (RunnerJobs){.n = plan->n_jobs}, err);
}

/* ---- an accelerator ----------------------------------------------------------------------- */

static Status runner_queue(void *self, const StepPlan *plan, StepResult *result, Err *err) {
    RunnerModel *r = self;
    TRY(runner_move(r, plan, result, err));
    if (plan->batch.n_tokens == 0 || plan->hidden) return OK;
    TRY(forward_queue(r->forward, r->store, &plan->batch, err));
    return runner_device_queue(r->picks, r->forward, plan, err);
}

static Status runner_wait(void *self, const StepPlan *plan, StepResult *result, Err *err) {
    RunnerModel *r = self;
    RunnerJobs left = {0};
    if (plan->batch.n_tokens == 0) return OK;
    if (plan->hidden) return runner_hidden(r, plan, result, err);
    TRY(runner_device_take(r->picks, r->forward, result, &left, err));
    result->device_us = clock_us() - forward_begin_us(r->forward);
    return runner_sample(r, plan, result, left, err);
}

static bool runner_lost(void *self) {
    const RunnerModel *r = self;
    return r->ctx.device->vtable->lost(r->ctx.device);
}

/* Whether the system lets us touch so many bytes more. */
static Status runner_must_fit(const char *what_takes, int64_t bytes, Err *err) {
    const int64_t left = available_memory("");
    if (bytes > left)
        FAIL(err, ERR_NOMEM, "%s %.1f MB, but %.1f MB of memory are left", what_takes,
             (double)bytes / 1e6, (double)left / 1e6);
    return OK;
}

/* Memory of the host tier; an accelerator's is page-locked. */
static Status runner_alloc_host(RunnerModel *r, int32_t group, Err *err) {
    Device *device = r->ctx.device;
    const size_t bytes = (size_t)r->host_bytes[group];
    if (device->id != DEVICE_HOST) {
        void *memory = NULL;
        TRY(runner_must_fit("the host tier takes", (int64_t)bytes, err)); /* all pages at once */
        TRY(device->vtable->host_alloc(device, bytes, &memory, err));
        r->host[group] = memory;
        return OK;
    }
    r->host[group] = mem_try_alloc_large(bytes);
    if (r->host[group] == NULL)
        FAIL(err, ERR_NOMEM, "no memory for %zu bytes of KV blocks in the host tier", bytes);
    return OK;
}

static Status runner_open_host(RunnerModel *r, const RunnerOptions *options, Err *err) {
    const KvCacheConfig *kv = &options->limits.kv;
    for (int32_t g = 0; g < kv->n_groups; g++) {
        r->block_bytes[g] = kv_store_block_bytes(model_config(options->model), g, kv->block_tokens,
                                                 options->kv_dtype);
        r->host_bytes[g] = kv->n_host[g] * r->block_bytes[g];
        if (r->host_bytes[g] == 0) continue;
        TRY(runner_alloc_host(r, g, err));
    }
    return OK;
}

/* Touches what was allocated of the host's memory, unless the system would end us for it. */
static Status runner_populate(RunnerModel *r, const RunnerOptions *options, Err *err) {
    const RunnerBytes bytes = runner_bytes(options);
    const bool on_host = options->device->id == DEVICE_HOST;
    const int64_t wanted = on_host ? bytes.kv + bytes.host + bytes.activation : 0;
    TRY(runner_must_fit("KV cache and activations take", wanted, err));
    for (int32_t g = 0; g < options->limits.kv.n_groups; g++)
        if (r->host[g] != NULL) mem_populate(r->host[g], (size_t)r->host_bytes[g]);
    kv_store_populate(r->store, r->pool);
    forward_populate(r->forward);
    return OK;
}

static Status runner_init(RunnerModel *r, const RunnerOptions *options, Err *err) {
    const ModelConfig *config = model_config(options->model);
    const EngineLimits *limits = &options->limits;
    const ForwardLimits forward = runner_forward_limits(limits);
    TRY(pool_open(&r->pool, options->n_threads, err));
    r->ctx = (OpCtx){.device = options->device, .pool = r->pool, .fast = options->fast};
    TRY(kv_store_open(&r->store, config, options->device, options->kv_dtype,
                      limits->kv.block_tokens, limits->kv.n_blocks, err));
    TRY(runner_open_host(r, options, err));
    TRY(forward_open(&r->forward, options->model, &r->ctx, &forward, err));
    if (options->populate) TRY(runner_populate(r, options, err));
    if (options->device->id != DEVICE_HOST) {
        TRY(runner_device_open(&r->picks, options->device, limits, err));
        TRY(forward_record(r->forward, r->store, err));
    }
    r->sampler = mem_alloc((size_t)options->n_threads * sizeof(Sampler *));
    for (; r->n_samplers < options->n_threads; r->n_samplers++) {
        TRY(sampler_open(&r->sampler[r->n_samplers], config->vocab, err));
    }
    return OK;
}

Status runner_open(Runner *out, const RunnerOptions *options, Err *err) {
    RunnerModel *r = mem_alloc(sizeof *r);
    r->model = options->model;
    const Status status = runner_init(r, options, err);
    if (status != OK) {
        runner_close(r);
        return status;
    }
    const bool queues = options->device->id != DEVICE_HOST;
    *out = (Runner){.self = r,
                    .run = queues ? runner_wait : runner_run,
                    .queue = queues ? runner_queue : NULL,
                    .lost = queues ? runner_lost : NULL,
                    .close = runner_close};
    return OK;
}
