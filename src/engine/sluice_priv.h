/* sluice_priv: the insides of the public handles. */
#pragma once

#include <stdatomic.h>

#include "engine/engine.h"
#include "text/chat.h"

struct sluice_model {
    Model *model;
    const Ops *ops;
    ThreadPool *pool; /* for preparing weights; engines have their own */
    OpCtx ctx;
    int32_t n_threads;
    Tokenizer *tokenizer; /* NULL: the model came without */
    Chat *chat;           /* NULL: no template */
    char *path;
    atomic_bool taken; /* by an engine: an accelerator has one owner (ops/device.h) */
};

struct sluice_engine {
    Engine *engine;
    sluice_model *taken;  /* on an accelerator; else NULL */
    int64_t device_bytes; /* of an accelerator's memory, in use when it was ready */
};

/* Copies a failure into the caller's struct (may be NULL). Returns the status. */
sluice_status sluice_model_error(Status status, const Err *from, sluice_error *err);
