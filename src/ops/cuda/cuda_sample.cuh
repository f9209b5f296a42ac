/* cuda_sample: what picking tokens and reporting log-probabilities share.
 *
 * Sums of weights are whole numbers: a weight counts as floor(w * 2^40) and the rest times 2^40
 * again, so the order in which threads add cannot show, and a sum is closer to the true one than
 * the CPU's in f64. */
#pragma once

#include "ops/cuda/cuda_common.cuh"

enum { CUDA_SAMPLE_SPLIT = 32 }; /* parts of a row; a warp merges them */

/* The best logit of a part of a row. */
struct CudaBest {
    float logit;
    int32_t token; /* -1: all are -inf */
    int32_t bad;   /* NaN or +inf was met */
};

/* A sum of weights; hi * 2^-40 + lo * 2^-80. */
struct CudaMass {
    unsigned long long hi, lo;
};

static __device__ __forceinline__ CudaMass cuda_sample_mass(double w) {
    const double scaled = w * 0x1p40, whole = floor(scaled);
    return CudaMass{(unsigned long long)whole, (unsigned long long)((scaled - whole) * 0x1p40)};
}

static __device__ __forceinline__ double cuda_sample_value(CudaMass m) {
    return (double)m.hi * 0x1p-40 + (double)m.lo * 0x1p-80;
}

static __device__ __forceinline__ CudaMass cuda_sample_add(CudaMass a, CudaMass b) {
    return CudaMass{a.hi + b.hi, a.lo + b.lo};
}

static __device__ __forceinline__ uint32_t cuda_sample_key(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ CudaBest cuda_sample_better(CudaBest a, CudaBest b) {
    const bool first = b.token < 0 || (a.token >= 0 && (a.logit > b.logit ||
                                                        (a.logit == b.logit && a.token < b.token)));
    CudaBest best = first ? a : b;
    best.bad = a.bad | b.bad;
    return best;
}

static __device__ __forceinline__ CudaBest cuda_sample_warp_best(CudaBest best) {
    for (int i = 16; i > 0; i >>= 1) {
        CudaBest other;
        other.logit = __shfl_xor_sync(~0u, best.logit, i);
        other.token = __shfl_xor_sync(~0u, best.token, i);
        other.bad = __shfl_xor_sync(~0u, best.bad, i);
        best = cuda_sample_better(best, other);
    }
    return best;
}

/* The best of a block of at most 32 warps, for its first warp. */
static __device__ __forceinline__ CudaBest cuda_sample_block_best(CudaBest best) {
    __shared__ CudaBest part[32];
    const int lane = threadIdx.x % CUDA_WARP, n = blockDim.x / CUDA_WARP;
    best = cuda_sample_warp_best(best);
    __syncthreads();
    if (lane == 0) part[threadIdx.x / CUDA_WARP] = best;
    __syncthreads();
    return cuda_sample_warp_best(lane < n ? part[lane] : CudaBest{-CUDART_INF_F, -1, 0});
}

/* Parts of n rows in the scratch of the log-probabilities. */
size_t cuda_logprob_bytes(int64_t n);
/* Before the logits change: what the log-probabilities need of them; after the picks: the rest. */
void cuda_logprob_begin(OpCtx *ctx, const SampleArgs *args, void *scratch);
void cuda_logprob_end(OpCtx *ctx, const SampleArgs *args, void *scratch);
