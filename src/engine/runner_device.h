/* runner_device: picks tokens where the logits lie, and says which jobs are left to the host.
 *
 * Greedy and drawn picks with every filter, bias, penalty, allowed or banned token, and
 * log-probabilities, are made on the device, whose answer is one small copy. The host's are those
 * with more changed logits than there is room for or with two finite biases of one token. */
#pragma once

#include "engine/step.h"
#include "model/forward.h"

typedef struct RunnerDevice RunnerDevice;

/* Bytes that runner_device_open allocates, half of the host's memory and half of the device's. */
int64_t runner_device_bytes(const EngineLimits *limits);
MUST_USE Status runner_device_open(RunnerDevice **out, Device *device, const EngineLimits *limits,
                                   Err *err);
void runner_device_close(RunnerDevice *device);

/* Jobs of a step, ascending; job NULL: the first n. */
typedef struct RunnerJobs {
    const int32_t *job;
    int32_t n;
} RunnerJobs;

/* Queues the picks from the logits of the last step. */
MUST_USE Status runner_device_queue(RunnerDevice *device, Forward *forward, const StepPlan *plan,
                                    Err *err);
/* Waits for them. *left: the host's, borrowed until the next step. */
MUST_USE Status runner_device_take(RunnerDevice *device, Forward *forward, StepResult *result,
                                   RunnerJobs *left, Err *err);
