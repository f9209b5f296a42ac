/* probe: measures the limits of this machine that a bench holds its figures against. */
#pragma once

#include "base/thread.h"
#include "ops/ops.h"

/* Bytes per second that the pool's threads read from memory: the median of `rounds` passes over a
 * buffer that no cache holds, four streams a thread with software prefetch. 0 when memory is
 * short. */
double probe_read_bandwidth(ThreadPool *pool, int32_t rounds);

/* Operations per second of independent multiply-adds in registers (2 operations each): the best of
 * `rounds`. 0 for a level without such instructions or that the CPU lacks. */
double probe_f32_fma(ThreadPool *pool, OpsLevel level, int32_t rounds);
double probe_int8_dot(ThreadPool *pool, OpsLevel level, int32_t rounds);
