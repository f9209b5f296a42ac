/* machine: what this machine can do, measured: for sluice bench. */
#pragma once

#include "app/compute.h"
#include "model/model_cost.h"

/* Of the compute's device, threads, level and weight format, now: about half a second. */
MUST_USE Status machine_of(const Compute *compute, MachineLimits *out, Err *err);
MachineLimits machine_mean(MachineLimits a, MachineLimits b);
/* --limits: tables of the machine alone, on standard output, for 1, 2, 4 ... threads or for another
 * device. */
MUST_USE Status machine_print(const Config *config, Err *err);
