/* cuda_attend_warp: paged attention in bf16 by the tensor cores of compute capability 8.0. */
#pragma once

#include "ops/cuda/cuda_common.cuh"

/* Of the plan's memory, for partial sums. */
size_t cuda_attend_warp_bytes(const OpsLimits *limits);
/* Queues it for shapes of cuda_attend_is_fast. */
void cuda_attend_warp(OpCtx *ctx, const AttnArgs *args);
