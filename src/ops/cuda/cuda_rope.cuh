/* cuda_rope: the norm and rotation of one head by a warp, the same instructions wherever it is
 * inlined. */
#pragma once

#include "ops/cuda/cuda_common.cuh"

/* What every head of a step's token is treated with. */
typedef struct CudaRopeHead {
    int head_dim, rope_dim;
    float eps; /* of the norm */
    RopeStyle style;
} CudaRopeHead;

/* Rotates a pair. */
static __device__ __forceinline__ void cuda_rope_pair(float c, float s, float *first,
                                                      float *second) {
    const float a = *first, b = *second;
    *first = __fmaf_rn(a, c, -__fmul_rn(b, s));
    *second = __fmaf_rn(b, c, __fmul_rn(a, s));
}

/* Normalizes (if norm) and rotates one head in shared memory. cos_sin: of the token's position. */
static __device__ __forceinline__ void cuda_rope_head(const CudaRopeHead &r, float *head,
                                                      const float *norm, const float *cos_sin,
                                                      int lane) {
    if (norm != NULL) {
        float sum = 0;
        for (int i = lane; i < r.head_dim; i += CUDA_WARP) sum = __fmaf_rn(head[i], head[i], sum);
        const float mean = __fdiv_rn(cuda_warp_sum(sum), (float)r.head_dim);
        const float scale = __frcp_rn(__fsqrt_rn(__fadd_rn(mean, r.eps)));
        for (int i = lane; i < r.head_dim; i += CUDA_WARP)
            head[i] = __fmul_rn(__fmul_rn(head[i], scale), norm[i]);
        __syncwarp();
    }
    const int n_pairs = r.style == ROPE_NONE ? 0 : r.rope_dim / 2;
    for (int i = lane; i < n_pairs; i += CUDA_WARP) {
        const int first = r.style == ROPE_NEOX ? i : 2 * i;
        const int second = r.style == ROPE_NEOX ? i + n_pairs : 2 * i + 1;
        cuda_rope_pair(cos_sin[2 * i], cos_sin[2 * i + 1], &head[first], &head[second]);
    }
    __syncwarp();
}
