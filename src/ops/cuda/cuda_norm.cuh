/* cuda_norm: the arithmetic of RMS-norm, rounding by rounding, for all kernels that normalize rows.
 *
 * The sum of squares of a row of CUDA_NORM_WIDE elements or more: thread i of 512 sums the squares
 * of pieces i, i + 512, ... of four elements, a warp adds its threads by halves, and the sums of
 * the 16 warps are added by halves. */
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

enum {
    CUDA_NORM_THREADS = 512,
    CUDA_NORM_WARPS = CUDA_NORM_THREADS / 32,
    CUDA_NORM_WIDE = 1024,
    CUDA_NORM_DIM_MAX = 1 << 15, /* a row stands in shared memory */
    CUDA_NORM_REST_BYTES = 2048  /* beside it, at most */
};

static __device__ __forceinline__ float cuda_norm_squares(float4 v) {
    return __fadd_rn(__fmaf_rn(v.x, v.x, __fmul_rn(v.y, v.y)),
                     __fmaf_rn(v.z, v.z, __fmul_rn(v.w, v.w)));
}

/* By what the row is multiplied. */
static __device__ __forceinline__ float cuda_norm_scale(float sum, int32_t dim, float eps) {
    return __frcp_rn(__fsqrt_rn(__fadd_rn(__fdiv_rn(sum, (float)dim), eps)));
}

static __device__ __forceinline__ float cuda_norm_value(float x, float scale, float w) {
    return __fmul_rn(__fmul_rn(x, scale), w);
}
