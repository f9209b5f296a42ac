/* thread: the compute pool.
 *
 * A pool has n threads; the caller of pool_run is one of them. Each begins with its share of the
 * tasks, in order, and takes from the others' when it is done, so a slow core does not stall a
 * step. Which thread ran a task must never show in the result. Workers spin for a short while
 * after a run, then sleep; on machines of several nodes (base/numa.h) they are spread over them and
 * stay there. */
#pragma once

#include "base/base.h"
#include "base/status.h"

typedef struct ThreadPool ThreadPool;

/* task: index in [0, n_tasks). thread: index in [0, pool_threads), for scratch memory. */
typedef void (*PoolTask)(void *context, int64_t task, int32_t thread);

#ifdef __cplusplus
extern "C" {
#endif

/* n_threads >= 1; 1 makes no thread at all. */
MUST_USE Status pool_open(ThreadPool **out, int32_t n_threads, Err *err);
void pool_close(ThreadPool *pool);
int32_t pool_threads(const ThreadPool *pool);

/* Runs task(context, i, thread) for every i and returns when all are done. One caller at a time.
 * A NULL pool runs all tasks on the caller. */
void pool_run(ThreadPool *pool, int64_t n_tasks, PoolTask task, void *context);

/* Cores this process may use (affinity and cgroup quota respected), of which a pool takes all. */
int32_t thread_cores(void);

#ifdef __cplusplus
}
#endif
