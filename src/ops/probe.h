/* probe: measures the limits of this machine that a bench holds its figures against. */
#pragma once

#include "base/thread.h"
#include "ops/ops.h"

/* How a thread walks memory. */
typedef enum ProbeWalk {
    PROBE_ONE_STREAM,
    PROBE_FOUR_STREAMS,
    PROBE_FOUR_PREFETCHED, /* and asks for lines 3 KiB ahead: what our kernels do */
    PROBE_WALK_COUNT
} ProbeWalk;

/* Bytes per second that the pool's threads read from memory: the median of `rounds` passes over a
 * buffer that no cache holds. 0 when memory is short. */
double probe_read_bandwidth(ThreadPool *pool, ProbeWalk walk, int32_t rounds);

/* Operations per second of independent multiply-adds in registers (2 operations each): the best of
 * `rounds`. 0 for a level without such instructions or that the CPU lacks: f32 and int8 have avx2
 * and avx512, bf16 has avx512bf16 and amx, int8 amx too. */
double probe_f32_fma(ThreadPool *pool, OpsLevel level, int32_t rounds);
double probe_bf16_dot(ThreadPool *pool, OpsLevel level, int32_t rounds);
double probe_int8_dot(ThreadPool *pool, OpsLevel level, int32_t rounds);
/* The same on AMX with operands from L2, each used twice: 2 x 2 tiles. 0 without AMX. */
double probe_bf16_fed(ThreadPool *pool, int32_t rounds);
double probe_int8_fed(ThreadPool *pool, int32_t rounds);
/* The one of these that bounds the level's products with weights of that dtype. On amx those fed
 * from L2: a product of F16 is three of bf16, and one of a block format fills half of a tile's k,
 * since its scales change after 32 elements. */
double probe_products(ThreadPool *pool, OpsLevel level, DType weights, int32_t rounds);

/* Seconds that a pool_run with 4 us of work for each thread takes beside the work: what it costs to
 * share work out and to meet again. */
double probe_pool_run(ThreadPool *pool, int32_t rounds);

/* A data cache as the system describes it. */
typedef struct ProbeCache {
    int32_t level, n_cpus; /* cores that share it */
    int64_t bytes;
} ProbeCache;
enum { PROBE_CACHES_MAX = 8 };
/* Those of the first core; returns how many. None where the system does not tell. */
int32_t probe_caches(ProbeCache out[PROBE_CACHES_MAX]);
