/* model: an opened model: its file, config and bound weights. Read-only once open, any thread. */
#pragma once

#include "format/model_file.h"
#include "model/model_config.h"
#include "base/progress.h"

typedef struct Model Model;

typedef struct ModelOptions {
    const Ops *ops; /* required */
    OpCtx *ctx;     /* required: device and pool that weights are prepared with; borrowed */
    bool quiet;     /* no progress bar */
} ModelOptions;

/* Reads the config, binds every weight (dtype and shape checked) and prepares it for the ops.
 * Takes the file: it is closed with the model, also on failure. */
MUST_USE Status model_open(Model **out, ModelFile *file, const ModelOptions *options, Err *err);
void model_close(Model *model);

const ModelConfig *model_config(const Model *model);
const ModelFile *model_file(const Model *model);
/* Bytes of weights: as stored, as held in memory beside the mapped file, in memory in all (the
 * pages of the file that stay in use and what is held beside them), and read per decode step of
 * one sequence (touched experts only). */
typedef struct ModelBytes {
    int64_t stored, owned, resident, per_token;
    int64_t n_params, n_params_active;
} ModelBytes;
ModelBytes model_bytes(const Model *model);
