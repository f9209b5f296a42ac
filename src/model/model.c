#include "model/model.h"

#include "base/mem.h"
#include "model/model_priv.h"

static Status model_load(Model *model, bool quiet, Err *err) {
    TRY(model_config_read(&model->config, model->file, err));
    Progress *progress =
        quiet ? NULL : progress_open("loading weights", model_file_bytes(model->file), "B");
    Status status = weights_bind(&model->weights, model->file, &model->config, model->ops,
                                 model->ctx, progress, err);
    if (status == OK && model->ops->weights_ready != NULL)
        status = model->ops->weights_ready(model->ctx, err);
    progress_close(progress); /* which says how long all of it took */
    return status;
}

Status model_open(Model **out, ModelFile *file, const ModelOptions *options, Err *err) {
    Model *model = mem_alloc(sizeof *model);
    model->file = file;
    model->ops = options->ops;
    model->ctx = options->ctx;
    Status status = model_load(model, options->quiet, err);
    if (status != OK) {
        model_close(model);
        return status;
    }
    *out = model;
    return OK;
}

void model_close(Model *model) {
    if (model == NULL) return;
    weights_free(&model->weights, model->ops, model->ctx);
    model_config_free(&model->config);
    model_file_close(model->file);
    mem_free(model);
}

const ModelConfig *model_config(const Model *model) {
    return &model->config;
}

const ModelFile *model_file(const Model *model) {
    return model->file;
}

ModelBytes model_bytes(const Model *model) {
    const Weights *w = &model->weights;
    return (ModelBytes){.stored = w->stored_bytes,
                        .owned = w->owned_bytes,
                        .resident = w->stored_bytes + w->owned_bytes - w->forgotten_bytes,
                        .per_token = w->token_bytes,
                        .n_params = w->n_params,
                        .n_params_active = w->n_params_active};
}
