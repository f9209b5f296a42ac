/* cpu_ops: the entries of the avx2 and avx512 levels, except the matrix products. */
#pragma once

#include "ops/ops_priv.h"

/* Below this many bytes read and written, a row op runs on the calling thread: sharing it out costs
 * about as much as the 10 us that one core needs for them. */
enum { CPU_ROWS_BYTES_MIN = 128 * 1024 };

/* Runs task(context, row, thread) for all rows, over the pool when the work pays for it. Rows must
 * not depend on each other. */
void cpu_rows_run(const OpCtx *ctx, int64_t n_rows, int64_t row_bytes, PoolTask task,
                  void *context);

/* Scratch of the ops below, of any level. */
size_t cpu_ops_scratch_bytes(const OpsLimits *limits, int32_t n_threads);

#define CPU_OPS_ENTRIES(level)                                                                     \
    void cpu_embed_##level(OpCtx *ctx, const EmbedArgs *args);                                     \
    void cpu_embed_gather_##level(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows, \
                                  Tensor *out);                                                    \
    void cpu_norm_##level(OpCtx *ctx, const NormArgs *args);                                       \
    void cpu_rope_##level(OpCtx *ctx, const RopeKvArgs *args);                                     \
    void cpu_act_##level(OpCtx *ctx, const ActArgs *args);                                         \
    void cpu_act_softcap_##level(OpCtx *ctx, Tensor x, float cap);                                 \
    void cpu_attn_##level(OpCtx *ctx, const AttnArgs *args);

CPU_OPS_ENTRIES(avx2)
CPU_OPS_ENTRIES(avx512)
