/* load_plan: which requests a load consists of, and when each leaves. */
#pragma once

#include "app/config.h"
#include "app/load_gen.h"

/* Makes the plan that the options describe: arrivals (all at once, Poisson, bursts, or a trace's
 * times), lengths (given, or a trace's), a shared beginning, or real prompts from a file. Requests
 * and bodies are owned by the plan; free with load_plan_free, also after a failure. */
MUST_USE Status load_plan_make(LoadPlan *plan, const Config *config, Err *err);
void load_plan_free(LoadPlan *plan);
