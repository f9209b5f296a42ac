/* compute: a model with what it computes with, for commands that feed it tokens themselves. */
#pragma once

#include "app/config.h"
#include "model/model_shape.h"
#include "model/single.h"
#include "text/tokenizer.h"

typedef struct Compute {
    const Ops *ops;
    ThreadPool *pool;
    OpCtx ctx;
    Model *model;
    Single *single;
    Tokenizer *tokenizer; /* NULL: not asked for */
    DType kv_dtype;
} Compute;

typedef struct ComputeOptions {
    const char *path;
    const ModelShape *shape;           /* a made-up model instead of the one at path, or NULL */
    DType shape_type;                  /* of its matrices */
    int32_t context_max, n_logits_max; /* of the Single; 0: the model's context, 1 */
    bool with_tokenizer;
} ComputeOptions;

/* Threads, level, chunk, block and KV dtype come from the Config. On failure compute may be
 * closed. */
MUST_USE Status compute_open(Compute *compute, const Config *config, const ComputeOptions *options,
                             Err *err);
void compute_close(Compute *compute);
