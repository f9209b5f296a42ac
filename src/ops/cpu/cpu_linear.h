/* cpu_linear: ops->linear and ops->moe of the CPU levels.
 *
 * Activations of block formats are quantized once per op to int8 groups of 32; then all parts'
 * rows are one list of units that the pool's threads take. k is never split. */
#pragma once

#include "ops/ops.h"

void cpu_linear_avx2(OpCtx *ctx, const LinearArgs *args);
void cpu_linear_avx512(OpCtx *ctx, const LinearArgs *args);
void cpu_linear_avx512bf16(OpCtx *ctx, const LinearArgs *args);
void cpu_linear_amx(OpCtx *ctx, const LinearArgs *args);
void cpu_moe_avx2(OpCtx *ctx, const MoeArgs *args);
void cpu_moe_avx512(OpCtx *ctx, const MoeArgs *args);
void cpu_moe_avx512bf16(OpCtx *ctx, const MoeArgs *args);
void cpu_moe_amx(OpCtx *ctx, const MoeArgs *args);

/* Scratch that the ops above use within the limits. */
size_t cpu_linear_scratch_bytes(const OpsLimits *limits, int32_t n_threads);
size_t cpu_moe_scratch_bytes(const OpsLimits *limits, int32_t n_threads);
