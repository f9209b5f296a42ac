/* sluice_plan: what an engine's options come to: limits and bytes, before anything is allocated. */
#pragma once

#include "engine/runner.h"
#include "engine/sluice_priv.h"

typedef struct EnginePlan {
    EngineConfig engine; /* without a runner */
    RunnerOptions runner;
    KvDiskOptions disk; /* but for identity and salt_seed; dir NULL: none */
    sluice_engine_plan sum;
} EnginePlan;

/* Checks the options and works out every size. options NULL: all defaults. */
MUST_USE Status sluice_plan_make(EnginePlan *plan, const sluice_model *model,
                                 const sluice_engine_options *options, Err *err);
