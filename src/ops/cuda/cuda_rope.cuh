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

/* An element's place in its pair. */
typedef struct CudaRopeAt {
    int other, pair; /* the pair's other element, and which angle turns it */
    bool is_second;
} CudaRopeAt;

/* Of element i, which is below rope_dim. */
static __device__ __forceinline__ CudaRopeAt cuda_rope_at(const CudaRopeHead &r, int i) {
    const int n_pairs = r.rope_dim / 2;
    const bool is_second = r.style == ROPE_NEOX ? i >= n_pairs : i % 2 != 0;
    const int other = r.style == ROPE_NEOX ? (is_second ? i - n_pairs : i + n_pairs) : i ^ 1;
    const int first = is_second ? other : i;
    return CudaRopeAt{other, r.style == ROPE_NEOX ? first : first / 2, is_second};
}

/* One element of a pair rotated, as cuda_rope_pair does. */
static __device__ __forceinline__ float cuda_rope_element(float c, float s, float own, float other,
                                                          bool is_second) {
    const float turned = __fmul_rn(other, s);
    return __fmaf_rn(own, c, is_second ? turned : -turned);
}

/* By what a head's elements are multiplied before their weights; sum: a lane's share of the squares,
 * of elements lane, lane + 32 and so on in rising order. */
static __device__ __forceinline__ float cuda_rope_norm_scale(const CudaRopeHead &r, float sum) {
    const float mean = __fdiv_rn(cuda_warp_sum(sum), (float)r.head_dim);
    return __frcp_rn(__fsqrt_rn(__fadd_rn(mean, r.eps)));
}

/* Normalizes (if norm) and rotates one head in shared memory. cos_sin: of the token's position. */
static __device__ __forceinline__ void cuda_rope_head(const CudaRopeHead &r, float *head,
                                                      const float *norm, const float *cos_sin,
                                                      int lane) {
    if (norm != NULL) {
        float sum = 0;
        for (int i = lane; i < r.head_dim; i += CUDA_WARP) sum = __fmaf_rn(head[i], head[i], sum);
        const float scale = cuda_rope_norm_scale(r, sum);
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
