/* cpu_rows: shares the rows of a small op over the pool when that pays. */
#include "ops/cpu/cpu_attn_priv.h"
#include "ops/cpu/cpu_ops.h"

void cpu_rows_run(const OpCtx *ctx, int64_t n_rows, int64_t row_bytes, PoolTask task,
                  void *context) {
    bool worth_it = n_rows > 1 && n_rows * row_bytes >= CPU_ROWS_BYTES_MIN;
    pool_run(worth_it ? ctx->pool : NULL, n_rows, task, context);
}

size_t cpu_ops_scratch_bytes(const OpsLimits *limits, int32_t n_threads) {
    /* embed: a learned position's row per thread. */
    int64_t row = MAX(limits->k_max, limits->n_max);
    size_t embed = (size_t)n_threads * ops_scratch_round((size_t)row * sizeof(float));
    return MAX(embed, cpu_attn_scratch_bytes(limits, n_threads));
}
