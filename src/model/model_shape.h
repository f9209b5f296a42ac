/* model_shape: models of well-known shapes with made-up weights, in memory, for benches.
 *
 * What a step costs depends on the shapes and the number format of the weights, not on their
 * values: a bench needs no file. The values are a short pattern, repeated, of about the size
 * that trained weights have, so that activations stay finite. */
#pragma once

#include "model/model_config.h"

typedef struct ModelShape {
    const char *name;   /* "llama-3.1-8b" */
    const char *config; /* what its config.json says */
} ModelShape;

/* The shapes by name; *n of them. */
const ModelShape *model_shape_table(int32_t *n);
/* The one of that name; ERR_ARG for another, with all names in the sentence. */
MUST_USE Status model_shape_find(Str name, const ModelShape **out, Err *err);

/* A model of that shape whose matrices are of `type` (f32, f16, bf16 or any block format); norms,
 * and the routers of block formats, are f32. The pool (or NULL) fills the memory. ERR_ARG when rows
 * do not divide into the type's groups, ERR_UNSUPPORTED for a family with biases, ERR_NOMEM. */
MUST_USE Status model_shape_open(ModelFile **out, const ModelShape *shape, DType type,
                                 ThreadPool *pool, Err *err);
