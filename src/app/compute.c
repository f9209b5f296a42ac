#include "app/compute.h"

#include "model/kv_store.h"
#include "ops/plugin.h"

Status compute_open(Compute *compute, const Config *config, const ComputeOptions *options,
                    Err *err) {
    *compute = (Compute){0};
    int32_t n_threads = config->threads > 0 ? (int32_t)config->threads : thread_cores();
    TRY(pool_open(&compute->pool, n_threads, err));
    compute->ctx.pool = compute->pool;
    TRY(plugin_open(config->device, config->level, &compute->ops, &compute->ctx.device, err));
    compute->ctx.fast = config->fast;
    if (config->fast && compute->ctx.device->id == DEVICE_HOST)
        FAIL(err, ERR_UNSUPPORTED, "--fast is for a GPU: on the CPU sums have one order only");
    ModelFile *file;
    if (options->shape != NULL)
        TRY(model_shape_open(&file, options->shape, options->shape_type, compute->pool, err));
    else
        TRY(model_file_open(&file, options->path, err));
    if (options->with_tokenizer) {
        Status status = tokenizer_open_model(&compute->tokenizer, file, err);
        if (status != OK) {
            model_file_close(file);
            return status;
        }
    }
    ModelOptions model_options = {
        .ops = compute->ops, .ctx = &compute->ctx, .quiet = config->quiet};
    TRY(model_open(&compute->model, file, &model_options, err));
    SingleOptions single_options = {.context_max = options->context_max,
                                    .chunk = (int32_t)config->chunk,
                                    .n_logits_max = options->n_logits_max,
                                    .block_tokens = (int32_t)config->block_tokens};
    TRY(kv_store_dtype(config->kv_dtype, model_config(compute->model), compute->ctx.device,
                       &compute->kv_dtype, err));
    single_options.kv_dtype = compute->kv_dtype;
    return single_open(&compute->single, compute->model, &compute->ctx, &single_options, err);
}

void compute_close(Compute *compute) {
    if (compute->single != NULL) single_close(compute->single);
    if (compute->model != NULL) model_close(compute->model);
    if (compute->tokenizer != NULL) tokenizer_close(compute->tokenizer);
    if (compute->ctx.device != NULL) plugin_close(compute->ctx.device);
    if (compute->pool != NULL) pool_close(compute->pool);
    *compute = (Compute){0};
}
