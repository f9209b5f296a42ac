/* cuda_linear_priv: what the small and the large kernel of cuda_linear share: their parameters, the
 * mapping of units to tiles, and what becomes of a finished sum. */
#pragma once

#include <cuda_bf16.h>

#include "ops/cuda/cuda_linear.cuh"
#include "ops/cuda/cuda_mma.cuh"
#include "ops/cuda/cuda_tma.cuh"

enum { LINEAR_SEGMENTS_MAX = 4 };

/* What a kernel gets by value. */
typedef struct LinearParams {
    const char *w;
    const char *const *expert_w;
    const int32_t *expert_start;
    int32_t n_experts;
    const char *x; /* where the kernel takes no tensor map */
    int64_t x_stride;
    int32_t n_tokens, row_blocks, k, k_blocks, n_segments, n_stages;
    int32_t segment[LINEAR_SEGMENTS_MAX + 1]; /* the first block of each; the end */
    int32_t whole_tiles; /* of 256 tokens, the others in halves; 0: all */
    CudaLinearNorm norm;
    float4 *sums;        /* CudaLinearArgs.sums */
    uint32_t *n_arrived; /* and its n_arrived */
    int32_t out, act;    /* CudaLinearOut, CudaLinearAct */
    int32_t n_parts;
    CudaLinearPart part[CUDA_LINEAR_PARTS_MAX];
    int32_t part_block[CUDA_LINEAR_PARTS_MAX]; /* first block row of each part */
} LinearParams;

/* Where a role stands in its walk through the stages. */
typedef struct LinearStage {
    int32_t at;
    uint32_t parity;
} LinearStage;

static __device__ __forceinline__ void linear_next(const LinearParams &p, LinearStage *stage) {
    if (++stage->at == p.n_stages) stage->at = 0, stage->parity ^= 1;
}

/* The work of a CTA at a time: some rows of one matrix for some tokens. */
typedef struct LinearUnit {
    const char *w;
    int32_t row_tile;
    int32_t token, token_end; /* first token; end of those that may be written */
} LinearUnit;

/* The first block of segment s. */
static __device__ __forceinline__ int32_t linear_segment(const LinearParams &p, int32_t s) {
    return p.segment[s];
}

/* unit_start[e]: the first unit of expert e; called by all threads of the CTA. */
static __device__ void linear_units_of_experts(const LinearParams &p, int32_t tile_tokens,
                                               int32_t row_tiles, int32_t *unit_start) {
    if (threadIdx.x < 32) {
        int32_t base = 0;
        for (int32_t e0 = 0; e0 < p.n_experts; e0 += 32) {
            int32_t e = e0 + (int32_t)threadIdx.x, n = 0;
            if (e < p.n_experts) {
                int32_t n_tokens = p.expert_start[e + 1] - p.expert_start[e];
                n = (n_tokens + tile_tokens - 1) / tile_tokens * row_tiles;
            }
            int32_t sum = n;
            for (int32_t d = 1; d < 32; d *= 2) {
                int32_t left = __shfl_up_sync(0xffffffff, sum, d);
                if ((int32_t)threadIdx.x >= d) sum += left;
            }
            if (e < p.n_experts) unit_start[e] = base + sum - n;
            base += __shfl_sync(0xffffffff, sum, 31);
        }
        if (threadIdx.x == 0) unit_start[p.n_experts] = base;
    }
    __syncthreads();
}

/* Unit u of the experts: an expert's tiles of tokens innermost, so that they share its weights. */
static __device__ __forceinline__ LinearUnit linear_unit_of_expert(const LinearParams &p,
                                                                   int32_t tile_tokens,
                                                                   int32_t row_tiles,
                                                                   const int32_t *unit_start,
                                                                   int32_t u) {
    int32_t lo = 0, hi = p.n_experts - 1;
    while (lo < hi) {
        int32_t mid = (lo + hi + 1) / 2;
        if (unit_start[mid] <= u) {
            lo = mid;
        } else {
            hi = mid - 1;
        }
    }
    int32_t local = u - unit_start[lo];
    int32_t token_tiles = (unit_start[lo + 1] - unit_start[lo]) / row_tiles;
    LinearUnit unit;
    unit.w = p.expert_w[lo];
    unit.row_tile = local / token_tiles;
    unit.token = p.expert_start[lo] + local % token_tiles * tile_tokens;
    unit.token_end = p.expert_start[lo + 1];
    return unit;
}

/* x / (1 + exp(-y)), by the machine's own approximations, 2^-21 of it at most: an epilogue runs once
 * and waits for its instructions, so few of them. */
static __device__ __forceinline__ float linear_sigmoid(float x, float y) {
    float power, share;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(__fmul_rn(y, -1.4426950408889634f)));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(share) : "f"(__fadd_rn(1.0f, power)));
    return __fmul_rn(x, share);
}

template <int ACT>
static __device__ __forceinline__ float linear_act_of(float x) {
    if constexpr (ACT == CUDA_LINEAR_SILU) return linear_sigmoid(x, x);
    if constexpr (ACT == CUDA_LINEAR_GELU)
        return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, erff(x * 0.70710678118654752f)));
    if constexpr (ACT == CUDA_LINEAR_GELU_TANH) {
        float cube = __fmul_rn(__fmul_rn(x, x), x);
        return linear_sigmoid(x, __fmul_rn(1.5957691216057308f, fmaf(0.044715f, cube, x)));
    }
    return fmaxf(x, 0.0f);
}

/* act(x), the same instructions wherever it is inlined. */
static __device__ __forceinline__ float linear_act(int32_t act, float x) {
    if (act == CUDA_LINEAR_SILU) return linear_act_of<CUDA_LINEAR_SILU>(x);
    if (act == CUDA_LINEAR_GELU) return linear_act_of<CUDA_LINEAR_GELU>(x);
    if (act == CUDA_LINEAR_GELU_TANH) return linear_act_of<CUDA_LINEAR_GELU_TANH>(x);
    return linear_act_of<CUDA_LINEAR_RELU>(x);
}

/* The gated values of quads, two of each: in their first two places. */
template <int ACT, int n>
static __device__ __forceinline__ void linear_gate_quads(float (&d)[n]) {
#pragma unroll
    for (int32_t i = 0; i < n; i += 4) {
        d[i] = __fmul_rn(linear_act_of<ACT>(d[i]), d[i + 2]);
        d[i + 1] = __fmul_rn(linear_act_of<ACT>(d[i + 1]), d[i + 3]);
    }
}

/* Where the rows of a block go. */
typedef struct LinearTarget {
    char *out;
    int64_t stride;
    const float *bias;
    int32_t row;    /* of the block's first row in its part */
    int32_t n;      /* outputs of the part */
    int32_t n_rows; /* packed rows that have a bias */
} LinearTarget;

static __device__ __forceinline__ LinearTarget linear_target(const LinearParams &p, int32_t block) {
    int32_t i = 0;
    if (p.n_parts > 1 && block >= p.part_block[1]) i = 1;
    if (p.n_parts > 2 && block >= p.part_block[2]) i = 2;
    LinearTarget target;
    target.out = (char *)p.part[i].out;
    target.stride = p.part[i].out_stride;
    target.bias = p.part[i].bias;
    target.row = (block - p.part_block[i]) * CUDA_LINEAR_BLOCK;
    target.n = p.part[i].n;
    target.n_rows = p.out == CUDA_LINEAR_GATED ? (target.n + 7) / 8 * 16 : target.n;
    return target;
}

/* Adds the bias of rows `row` and `row + 8` of the part to the four sums of a quad. */
static __device__ __forceinline__ float4 linear_quad_bias(const LinearTarget &target, int32_t row,
                                                          float4 v) {
    if (target.bias == NULL) return v;
    float b0 = row < target.n_rows ? target.bias[row] : 0;
    float b1 = row + 8 < target.n_rows ? target.bias[row + 8] : 0;
    return make_float4(__fadd_rn(v.x, b0), __fadd_rn(v.y, b0), __fadd_rn(v.z, b1),
                       __fadd_rn(v.w, b1));
}

/* Every kernel adds to memory with this one instruction: it may treat subnormals in its own way. */
static __device__ __forceinline__ void linear_store_f32(const LinearParams &p, float *out,
                                                        float v) {
    if (p.out == CUDA_LINEAR_F32_ADD) {
        atomicAdd(out, v);
    } else {
        *out = v;
    }
}

static __device__ __forceinline__ void linear_store_one(const LinearParams &p,
                                                        const LinearTarget &target, int32_t row,
                                                        int32_t token, int32_t token_end, float v) {
    if (row >= target.n || token >= token_end) return;
    int64_t at = token * target.stride + row;
    if (p.out == CUDA_LINEAR_F32 || p.out == CUDA_LINEAR_F32_ADD) {
        linear_store_f32(p, (float *)target.out + at, v);
    } else {
        ((__nv_bfloat16 *)target.out)[at] = __float2bfloat16_rn(v);
    }
}

/* Finishes a quad: x, y are row `row` of the block for tokens `token`, `token + 1`; z, w are row
 * `row + 8`. */
static __device__ __forceinline__ void linear_store_quad(const LinearParams &p,
                                                         const LinearTarget &target, int32_t row,
                                                         int32_t token, int32_t token_end,
                                                         float4 v) {
    int32_t at = target.row + row;
    v = linear_quad_bias(target, at, v);
    if (p.out == CUDA_LINEAR_GATED) {
        int32_t i = at / 16 * 8 + at % 8;
        linear_store_one(p, target, i, token, token_end, __fmul_rn(linear_act(p.act, v.x), v.z));
        linear_store_one(p, target, i, token + 1, token_end,
                         __fmul_rn(linear_act(p.act, v.y), v.w));
        return;
    }
    linear_store_one(p, target, at, token, token_end, v.x);
    linear_store_one(p, target, at, token + 1, token_end, v.y);
    linear_store_one(p, target, at + 8, token, token_end, v.z);
    linear_store_one(p, target, at + 8, token + 1, token_end, v.w);
}

cudaError_t cuda_linear_small_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent);
cudaError_t cuda_linear_large_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent);
cudaError_t cuda_linear_tall_launch(cudaStream_t stream, const LinearParams *params,
                                    const CudaLinearPlan *plan, const CUtensorMap *x,
                                    bool dependent);
cudaError_t cuda_linear_split_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent);
cudaError_t cuda_linear_twin_launch(cudaStream_t stream, const LinearParams *params,
                                    const CudaLinearPlan *plan, const CUtensorMap *x,
                                    bool dependent);
cudaError_t cuda_linear_slim_launch(cudaStream_t stream, const LinearParams *params,
                                    const CudaLinearPlan *plan, const CUtensorMap *x,
                                    bool dependent);
cudaError_t cuda_linear_few_launch(cudaStream_t stream, const LinearParams *params,
                                   const CudaLinearPlan *plan, bool dependent);
