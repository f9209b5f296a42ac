#include "engine/sluice_plan.h"

#include <string.h>

/* Defaults. A short sequence is what a chat turn takes. */
enum {
    PLAN_SEQS = 64,
    PLAN_STEP_TOKENS = 512,
    PLAN_DEVICE_SEQS = 256, /* of an accelerator, which wants many rows for its products */
    PLAN_DEVICE_STEP_TOKENS = 2048,
    PLAN_BLOCK_TOKENS = 16,
    PLAN_SHORT_TOKENS = 512,
    PLAN_QUEUE_PER_SEQ = 4,
    /* Code, libraries, stacks and the heap of a server at work (12 MB at its start, 17 MB after
     * hundreds of requests); and what a tokenizer takes for each of its tokens, measured on
     * vocabularies of 8,192 to 151,936 tokens (300 to 330 bytes). */
    PLAN_PROGRAM_BYTES = 14500000,
    PLAN_TOKEN_BYTES = 320,
    PLAN_DISK_FILES = 4, /* of this size that kv_dir holds if not told otherwise */
    PLAN_HOST_BLOCKS_MAX = 1 << 28,
    PLAN_FLIGHTS_MAX = 1 << 16,
    PLAN_LOGITS = 64 /* rows for prompt logprobs and mean pooling, when few sequences run */
};

static Status sluice_plan_range(const char *name, int64_t x, int64_t min, int64_t max, Err *err) {
    if (x >= min && x <= max) return OK;
    FAIL(err, ERR_ARG, "%s is %lld, expected %lld to %lld", name, (long long)x, (long long)min,
         (long long)max);
}

static Status sluice_plan_limits(EngineLimits *limits, const ModelConfig *model, bool on_host,
                                 const sluice_engine_options *o, Err *err) {
    const int32_t context = MIN(model->context, (int32_t)ENGINE_CONTEXT_MAX);
    const int32_t n_seqs = on_host ? PLAN_SEQS : PLAN_DEVICE_SEQS;
    const int32_t n_tokens = on_host ? PLAN_STEP_TOKENS : PLAN_DEVICE_STEP_TOKENS;
    const int32_t max_seqs = o->max_seqs == 0 ? n_seqs : o->max_seqs;
    *limits = (EngineLimits){
        .vocab = model->vocab,
        .dim = model->dim,
        .max_context = o->max_context == 0 ? context : o->max_context,
        .max_seqs = max_seqs,
        .max_step_tokens = o->max_step_tokens == 0 ? MAX(n_tokens, max_seqs) : o->max_step_tokens,
    };
    TRY(sluice_plan_range("max_context", limits->max_context, 2, context, err));
    TRY(sluice_plan_range("max_seqs", limits->max_seqs, 1, ENGINE_SEQS_MAX, err));
    TRY(sluice_plan_range("max_step_tokens", limits->max_step_tokens, 1, ENGINE_STEP_TOKENS_MAX,
                          err));
    limits->max_queue =
        o->max_queue == 0 ? MAX(PLAN_QUEUE_PER_SEQ * limits->max_seqs, 64) : o->max_queue;
    TRY(sluice_plan_range("max_queue", limits->max_queue, 1, ENGINE_QUEUE_MAX, err));
    limits->max_logits = MIN(limits->max_step_tokens, MAX(limits->max_seqs, PLAN_LOGITS));
    return OK;
}

/* Blocks that a windowed group can use at most. */
static int64_t sluice_plan_window_blocks(const EngineLimits *limits, int32_t window) {
    const int64_t span =
        MIN((int64_t)limits->max_context, (int64_t)window + limits->max_step_tokens);
    return limits->max_seqs * (DIV_UP(span, limits->kv.block_tokens) + 2);
}

/* Shares the bytes out: as many blocks of each group, but of a windowed one no more than it can
 * use. */
static Status sluice_plan_blocks(EngineLimits *limits, const ModelConfig *model, DType dtype,
                                 int64_t kv_bytes, Err *err) {
    KvCacheConfig *kv = &limits->kv;
    int64_t bytes[KV_GROUPS_MAX], all = 0;
    for (int32_t g = 0; g < kv->n_groups; g++) {
        bytes[g] = kv_store_block_bytes(model, g, kv->block_tokens, dtype);
        all += bytes[g];
    }
    int64_t n_blocks;
    if (kv_bytes == 0) {
        const int64_t tokens =
            MAX((int64_t)limits->max_seqs * MIN(limits->max_context, (int32_t)PLAN_SHORT_TOKENS),
                (int64_t)limits->max_context);
        n_blocks = DIV_UP(tokens, kv->block_tokens) + kv->n_groups;
    } else {
        n_blocks = kv_bytes / all;
    }
    for (int32_t g = 0; g < kv->n_groups; g++) {
        const int64_t window_blocks = sluice_plan_window_blocks(limits, kv->window[g]);
        int64_t n = n_blocks;
        if (kv->window[g] > 0 && kv->n_groups == 2 && n > window_blocks) {
            n = window_blocks;
            if (kv_bytes > 0) n_blocks = (kv_bytes - n * bytes[g]) / (all - bytes[g]);
        }
        if (n < 1 || n > INT32_MAX / kv->block_tokens) {
            FAIL(err, ERR_ARG, "kv_bytes %lld make %lld blocks of %lld bytes, expected 1 to %d",
                 (long long)kv_bytes, (long long)n, (long long)all, INT32_MAX / kv->block_tokens);
        }
        kv->n_blocks[g] = (int32_t)n;
    }
    /* A windowed group left room for more blocks of the full one. */
    if (kv->n_groups == 2) kv->n_blocks[0] = (int32_t)MIN(n_blocks, INT32_MAX / kv->block_tokens);
    return OK;
}

/* As many slots of each group; as many flights as two whole sequences and a step's worth. */
static Status sluice_plan_host(EngineLimits *limits, const ModelConfig *model, DType dtype,
                               int64_t host_bytes, Err *err) {
    KvCacheConfig *kv = &limits->kv;
    int64_t all = 0;
    for (int32_t g = 0; g < kv->n_groups; g++) {
        limits->block_bytes[g] = kv_store_block_bytes(model, g, kv->block_tokens, dtype);
        all += limits->block_bytes[g];
    }
    if (host_bytes == 0) return OK;
    const int64_t n = host_bytes / all;
    if (n < 1 || n > PLAN_HOST_BLOCKS_MAX) {
        FAIL(err, ERR_ARG, "host_kv_bytes %lld make %lld blocks of %lld bytes, expected 1 to %d",
             (long long)host_bytes, (long long)n, (long long)all, PLAN_HOST_BLOCKS_MAX);
    }
    for (int32_t g = 0; g < kv->n_groups; g++) kv->n_host[g] = (int32_t)n;
    const int64_t per_group = 2 * DIV_UP((int64_t)limits->max_context, kv->block_tokens) +
                              DIV_UP(limits->max_step_tokens, kv->block_tokens) + limits->max_seqs;
    kv->n_flights = (int32_t)MIN(kv->n_groups * per_group, (int64_t)PLAN_FLIGHTS_MAX);
    return OK;
}

static Status sluice_plan_kv(EngineLimits *limits, const ModelConfig *model, DType dtype,
                             const sluice_engine_options *o, Err *err) {
    KvCacheConfig *kv = &limits->kv;
    kv->block_tokens = o->block_tokens == 0 ? PLAN_BLOCK_TOKENS : o->block_tokens;
    TRY(sluice_plan_range("block_tokens", kv->block_tokens, 1, KV_BLOCK_TOKENS_MAX, err));
    if ((kv->block_tokens & (kv->block_tokens - 1)) != 0) {
        FAIL(err, ERR_ARG, "block_tokens is %d, expected a power of two", kv->block_tokens);
    }
    TRY(sluice_plan_range("kv_bytes", o->kv_bytes, 0, INT64_MAX / 4, err));
    TRY(sluice_plan_range("max_kv_events", o->max_kv_events, 0, ENGINE_KV_EVENTS_MAX, err));
    kv->n_events = o->max_kv_events;
    kv->prefix = !o->no_prefix_cache;
    kv->n_groups = kv_store_groups(model);
    for (int32_t g = 0; g < kv->n_groups; g++) kv->window[g] = kv_store_group_window(model, g);
    TRY(sluice_plan_blocks(limits, model, dtype, o->kv_bytes, err));
    return sluice_plan_host(limits, model, dtype, o->host_kv_bytes, err);
}

/* Once everything but KV is known: KV gets the rest of the accelerator's memory. */
static Status sluice_plan_rest(EnginePlan *plan, const ModelConfig *model,
                               const sluice_engine_options *o, Err *err) {
    Device *device = plan->runner.device;
    TRY(sluice_plan_range("gpu_memory", (int64_t)MIN(o->gpu_memory, 1e18), 0, INT64_MAX / 4, err));
    if (device->id == DEVICE_HOST) return OK;
    int64_t all, left;
    device->vtable->memory(device, &all, &left);
    plan->sum.device_bytes_all = all;
    plan->sum.device_bytes = all - left + runner_bytes(&plan->runner).device;
    if (o->kv_bytes > 0 || o->gpu_memory <= 0) return OK;
    const double bound = o->gpu_memory <= 1 ? o->gpu_memory * (double)all : o->gpu_memory;
    const int64_t rest = (int64_t)MIN(bound, (double)all) - plan->sum.device_bytes;
    if (rest <= 0) {
        FAIL(err, ERR_LIMIT,
             "gpu_memory allows %.1f GB, but %.1f of the device's %.1f GB are in use without KV",
             bound / 1e9, (double)plan->sum.device_bytes / 1e9, (double)all / 1e9);
    }
    return sluice_plan_blocks(&plan->runner.limits, model, plan->runner.kv_dtype, rest, err);
}

static Status sluice_plan_features(const sluice_engine_options *o, bool on_host, Err *err) {
    if (o->fast && on_host)
        FAIL(err, ERR_UNSUPPORTED, "fast is for a GPU: on the CPU sums have one order only");
    TRY(sluice_plan_range("policy", o->policy, SLUICE_POLICY_FCFS, SLUICE_POLICY_FAIR, err));
    TRY(sluice_plan_range("preempt", o->preempt, SLUICE_PREEMPT_AUTO, SLUICE_PREEMPT_SWAP, err));
    TRY(sluice_plan_range("host_kv_bytes", o->host_kv_bytes, 0, INT64_MAX / 4, err));
    if (o->host_kv_bytes > 0 && o->no_prefix_cache) {
        FAIL(err, ERR_ARG, "host_kv_bytes is %lld, but without a prefix cache nothing goes there",
             (long long)o->host_kv_bytes);
    }
    if (o->host_kv_bytes == 0 && o->preempt == SLUICE_PREEMPT_SWAP) {
        FAIL(err, ERR_ARG, "preempt is swap, but host_kv_bytes is 0: there is nowhere to swap to");
    }
    if (o->kv_dir != NULL && o->no_prefix_cache) {
        FAIL(err, ERR_ARG, "kv_dir keeps the prefix cache, which is off");
    }
    TRY(sluice_plan_range("kv_dir_bytes", o->kv_dir_bytes, 0, INT64_MAX / 4, err));
    if (o->kv_dir == NULL && o->kv_dir_bytes > 0) {
        FAIL(err, ERR_ARG, "kv_dir_bytes is %lld, but there is no kv_dir",
             (long long)o->kv_dir_bytes);
    }
    return OK;
}

/* A record for each block, or as many as kv_dir may hold. */
static Status sluice_plan_disk(KvDiskOptions *disk, const EngineLimits *limits,
                               const sluice_engine_options *o, Err *err) {
    if (o->kv_dir == NULL) return OK;
    *disk = (KvDiskOptions){.dir = o->kv_dir,
                            .dir_bytes_max = o->kv_dir_bytes,
                            .block_tokens = limits->kv.block_tokens,
                            .payload_bytes = limits->block_bytes[0] + limits->block_bytes[1],
                            .n_records = limits->kv.n_blocks[0]};
    const int64_t bytes = kv_disk_file_bytes(disk, disk->n_records);
    if (o->kv_dir_bytes == 0) {
        disk->dir_bytes_max = PLAN_DISK_FILES * bytes;
    } else if (o->kv_dir_bytes < bytes) {
        const int64_t none = kv_disk_file_bytes(disk, 0), one = kv_disk_file_bytes(disk, 1) - none;
        if (o->kv_dir_bytes < none + one) {
            FAIL(err, ERR_ARG, "kv_dir_bytes is %lld, expected room for a block: %lld or more",
                 (long long)o->kv_dir_bytes, (long long)(none + one));
        }
        disk->n_records = (int32_t)((o->kv_dir_bytes - none) / one);
    }
    return OK;
}

static void sluice_plan_sum(EnginePlan *plan, const sluice_model *model) {
    const EngineLimits *limits = &plan->engine.limits;
    const RunnerBytes runner = runner_bytes(&plan->runner);
    const ModelBytes weights = model_bytes(model->model);
    int64_t kv_tokens = INT64_MAX;
    for (int32_t g = 0; g < limits->kv.n_groups; g++) {
        if (limits->kv.window[g] > 0 && limits->kv.n_groups > 1) continue;
        kv_tokens = (int64_t)limits->kv.n_blocks[g] * limits->kv.block_tokens;
    }
    const int64_t device_bytes = plan->sum.device_bytes, all = plan->sum.device_bytes_all;
    plan->sum = (sluice_engine_plan){
        .size = sizeof plan->sum,
        .device_bytes = all > 0 ? device_bytes + runner.kv : 0,
        .device_bytes_all = all,
        .weight_bytes = weights.resident,
        .kv_bytes = runner.kv,
        .host_kv_bytes = runner.host,
        .activation_bytes = runner.activation,
        .other_bytes = (plan->disk.dir != NULL ? kv_disk_bytes(&plan->disk) : 0) + runner.sampler +
                       engine_bytes(&plan->engine) + PLAN_PROGRAM_BYTES +
                       PLAN_TOKEN_BYTES * (int64_t)limits->vocab,
        .kv_tokens = kv_tokens,
        .block_tokens = limits->kv.block_tokens,
        .n_blocks = limits->kv.n_blocks[0],
        .max_seqs = limits->max_seqs,
        .max_step_tokens = limits->max_step_tokens,
        .max_context = limits->max_context,
        .max_queue = limits->max_queue,
        .kv_dtype = kv_store_dtype_name(plan->runner.kv_dtype),
        .fast = plan->runner.fast,
    };
    if (plan->disk.dir != NULL) {
        plan->sum.kv_dir_bytes = kv_disk_file_bytes(&plan->disk, plan->disk.n_records);
    }
    plan->sum.total_bytes = plan->sum.weight_bytes + plan->sum.kv_bytes + plan->sum.host_kv_bytes +
                            plan->sum.activation_bytes + plan->sum.other_bytes;
}

Status sluice_plan_make(EnginePlan *plan, const sluice_model *model,
                        const sluice_engine_options *options, Err *err) {
    const sluice_engine_options defaults = SLUICE_ENGINE_OPTIONS_INIT;
    const sluice_engine_options *o = options == NULL ? &defaults : options;
    const ModelConfig *config = model_config(model->model);
    EnginePlan made = {.runner = {.model = model->model,
                                  .device = model->ctx.device,
                                  .n_threads = model->n_threads}};
    EngineLimits *limits = &made.engine.limits;
    const bool on_host = model->ctx.device->id == DEVICE_HOST;
    TRY(sluice_plan_features(o, on_host, err));
    TRY(sluice_plan_limits(limits, config, on_host, o, err));
    TRY(kv_store_dtype(o->kv_dtype, config, model->ctx.device, &made.runner.kv_dtype, err));
    TRY(sluice_plan_kv(limits, config, made.runner.kv_dtype, o, err));
    made.runner.limits = *limits;
    TRY(sluice_plan_rest(&made, config, o, err));
    *limits = made.runner.limits;
    made.runner.populate = o->populate;
    made.runner.fast = o->fast;
    made.engine.policy = o->policy;
    made.engine.chunk_slack = o->chunk_slack;
    made.engine.preempt = o->preempt;
    made.engine.tokenizer = model->tokenizer;
    made.engine.n_eos = config->n_eos;
    memcpy(made.engine.eos_id, config->eos_id, sizeof made.engine.eos_id);
    if (config->n_eos == 0 && model->tokenizer != NULL && tokenizer_eos(model->tokenizer) >= 0) {
        made.engine.eos_id[made.engine.n_eos++] = tokenizer_eos(model->tokenizer);
    }
    TRY(sluice_plan_disk(&made.disk, limits, o, err));
    sluice_plan_sum(&made, model);
    *plan = made;
    return OK;
}
