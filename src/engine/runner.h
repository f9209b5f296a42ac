/* runner: StepPlan -> forward pass -> sampling -> StepResult.
 *
 * A small face, so that the whole engine can be driven with another one: a fake model, a
 * recorder. */
#pragma once

#include "engine/step.h"
#include "model/forward.h"

typedef struct Runner {
    void *self;
    /* Makes the moves, then runs the pass and every job; with an empty batch there is no pass, and
     * with no moves either it waits a moment for those that are on their way. A failed job
     * has its own status, and a move to or from the host too; the call fails when the whole step
     * did. */
    Status (*run)(void *self, const StepPlan *plan, StepResult *result, Err *err);
    /* Of an accelerator's runner: makes the moves and gives it the work; run then waits for the
     * rest. NULL: run does all. */
    Status (*queue)(void *self, const StepPlan *plan, StepResult *result, Err *err);
    /* After a failed step: whether the accelerator answers no more, so that every step would fail.
     * NULL: there is none. */
    bool (*lost)(void *self);
    void (*close)(void *self);
} Runner;

/* What a model's runner is made of. */
typedef struct RunnerOptions {
    const Model *model; /* borrowed */
    Device *device;     /* borrowed */
    int32_t n_threads;  /* of the runner's own pool */
    DType kv_dtype;
    bool populate; /* all pages now, not at their first use */
    bool fast;     /* see OpCtx */
    EngineLimits limits;
} RunnerOptions;

/* Bytes that runner_open allocates: the KV tensors, the host tier, activations and samplers;
 * device: of an accelerator's memory beside KV (parts of the others, and recorded steps). */
typedef struct RunnerBytes {
    int64_t kv, host, activation, sampler, device;
} RunnerBytes;
RunnerBytes runner_bytes(const RunnerOptions *options);
MUST_USE Status runner_open(Runner *out, const RunnerOptions *options, Err *err);
