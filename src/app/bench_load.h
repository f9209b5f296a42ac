/* bench_load: a load played straight to an engine, without a server between: what bench-serve
 * measures, and the host's share of a step. */
#pragma once

#include "app/config.h"
#include "sluice.h"

/* Sends the load of --requests, --concurrency, --input-len, --output-len and --shared-prefix to a
 * fresh engine with these options, and prints what it felt like. */
MUST_USE Status bench_load_run(const Config *config, const sluice_model *model,
                               const sluice_engine_options *options, Err *err);
