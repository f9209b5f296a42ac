#include "app/compute.h"

#include "ops/plugin.h"

/* The KV cache's dtype: as asked for, else f32 for f32 models and bf16 for the rest. */
static Status compute_kv_dtype(const Config *config, const Model *model, DType *out, Err *err) {
    *out = model_config(model)->weight_dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;
    if (config->kv_dtype == NULL) return OK;
    if (!dtype_from_name(str_from(config->kv_dtype), out) ||
        (*out != DTYPE_F32 && *out != DTYPE_F16 && *out != DTYPE_BF16))
        FAIL(err, ERR_ARG, "--kv-dtype: got '%s', wanted f32, f16 or bf16", config->kv_dtype);
    return OK;
}

Status compute_open(Compute *compute, const Config *config, const ComputeOptions *options,
                    Err *err) {
    *compute = (Compute){0};
    int32_t n_threads = config->threads > 0 ? (int32_t)config->threads : thread_cores();
    TRY(pool_open(&compute->pool, n_threads, err));
    compute->ctx.pool = compute->pool;
    TRY(plugin_open(config->device, config->level, &compute->ops, &compute->ctx.device, err));
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
    TRY(compute_kv_dtype(config, compute->model, &compute->kv_dtype, err));
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
