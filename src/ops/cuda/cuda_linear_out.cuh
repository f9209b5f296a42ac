/* cuda_linear_out: how the large kernel's sums leave: a warpgroup's 64 rows by 32 or more tokens,
 * through shared memory, so that the values of a token are written together. */
#pragma once

#include "ops/cuda/cuda_linear_priv.cuh"

enum {
    LARGE_SUMS_TOKENS = 32,                    /* of a warpgroup, on their way out */
    LARGE_SUMS_STRIDE = CUDA_LINEAR_BLOCK + 4, /* floats; banks 8 apart for tokens 2 apart */
    LARGE_SUMS_BYTES = LARGE_SUMS_TOKENS * LARGE_SUMS_STRIDE * 4
};

/* The thread, read where it is needed: what follows from it is not kept over the products, which
 * leave no registers for it. */
static __device__ __forceinline__ int32_t large_thread(void) {
    int32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

/* Eight bf16 of one token from row `row` of the outputs on; those below n. */
static __device__ __forceinline__ void large_put_bf16(const LinearTarget &target, bool vector,
                                                      int32_t row, int64_t token, uint4 v) {
    __nv_bfloat16 *out = (__nv_bfloat16 *)target.out + token * target.stride + row;
    if (vector && row + 8 <= target.n) {
        *(uint4 *)out = v;
        return;
    }
    const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int32_t i = 0; i < 8; i++) {
        if (row + i < target.n) {
            ((uint16_t *)out)[i] = (uint16_t)(i % 2 == 0 ? pair[i / 2] : pair[i / 2] >> 16);
        }
    }
}

static __device__ __forceinline__ uint32_t large_pair(float lo, float hi) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&pair;
}

/* The bias of rows `row` and `row + 8` of the part to all quads of a thread. */
template <int n>
static __device__ __forceinline__ void large_bias(const LinearTarget &target, int32_t row,
                                                  float (&d)[n]) {
    const float b0 = row < target.n_rows ? target.bias[row] : 0;
    const float b1 = row + 8 < target.n_rows ? target.bias[row + 8] : 0;
#pragma unroll
    for (int32_t i = 0; i < n; i++) d[i] = __fadd_rn(d[i], i % 4 < 2 ? b0 : b1);
}

template <int n>
static __device__ __forceinline__ void large_gate(int32_t act, float (&d)[n]) {
    switch (act) {
        case CUDA_LINEAR_SILU: linear_gate_quads<CUDA_LINEAR_SILU>(d); break;
        case CUDA_LINEAR_GELU: linear_gate_quads<CUDA_LINEAR_GELU>(d); break;
        case CUDA_LINEAR_GELU_TANH: linear_gate_quads<CUDA_LINEAR_GELU_TANH>(d); break;
        default: linear_gate_quads<CUDA_LINEAR_RELU>(d);
    }
}

/* Finishes 64 rows as bf16, or as half as many gated values: 64 or 32 tokens at a time are
 * transposed through shared memory, so that the values of a token leave together. */
template <int N, bool GATED>
static __device__ __forceinline__ void large_store_bf16(const LinearParams &p,
                                                        const LinearTarget &target,
                                                        const LinearUnit &unit, uint32_t sums,
                                                        const float (&d)[N / 2]) {
    constexpr int32_t TOKENS = N % 64 == 0 ? 64 : 32; /* at a time */
    const int32_t tid = large_thread();
    const int32_t thread = tid % 128, warp = thread / 32, lane = thread % 32;
    const uint32_t barrier = (uint32_t)tid / 128;
    const bool vector = ((uintptr_t)target.out | (uintptr_t)(target.stride * 2)) % 16 == 0;
    const int32_t row = target.row + warp * 16 + lane / 4;
    /* Where this lane's row of the four 8 x 8 matrices of an stmatrix goes. */
    const int32_t matrix = lane / 8, line = lane % 8;
#pragma unroll
    for (int32_t j0 = 0; j0 < N / 8; j0 += TOKENS / 8) {
        /* A copy: the sums themselves belong to the tensor cores, whose next ones would wait. */
        float v[TOKENS / 2];
#pragma unroll
        for (int32_t i = 0; i < TOKENS / 2; i++) v[i] = d[4 * j0 + i];
        if (target.bias != NULL) large_bias(target, row, v);
        if (GATED) large_gate(p.act, v);
        cuda_bar_sync(barrier, 128);
#pragma unroll
        for (int32_t j = 0; j < TOKENS / 8; j += GATED ? 4 : 2) {
            uint32_t r[4], to;
            if (GATED) {
#pragma unroll
                for (int32_t m = 0; m < 4; m++) {
                    const float *q = &v[4 * (j + m)];
                    r[m] = large_pair(q[0], q[1]);
                }
                int32_t token = (j + matrix) * 8 + line;
                to = sums + token * 64 + ((warp ^ (token / 2 & 3)) * 16);
            } else {
#pragma unroll
                for (int32_t m = 0; m < 2; m++) {
                    const float *q = &v[4 * (j + m)];
                    r[2 * m] = large_pair(q[0], q[1]), r[2 * m + 1] = large_pair(q[2], q[3]);
                }
                int32_t token = (j + matrix / 2) * 8 + line;
                to = sums + token * 128 + (((warp * 2 + matrix % 2) ^ line) * 16);
            }
            asm volatile(
                "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                : "memory");
        }
        cuda_bar_sync(barrier, 128);
        const int32_t pieces = GATED ? 4 : 8; /* of a token */
        const int32_t piece = thread % pieces;
#pragma unroll
        for (int32_t i = 0; i < TOKENS; i += 128 / pieces) {
            int32_t t = thread / pieces + i, token = unit.token + j0 * 8 + t;
            uint32_t from = GATED ? sums + t * 64 + ((piece ^ (t / 2 & 3)) * 16)
                                  : sums + t * 128 + ((piece ^ t % 8) * 16);
            uint4 out;
            asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
                         : "r"(from)
                         : "memory");
            if (token < unit.token_end) {
                large_put_bf16(target, vector, target.row / (GATED ? 2 : 1) + piece * 8, token,
                               out);
            }
        }
    }
}

/* Finishes 64 rows as f32, 32 tokens at a time. */
template <int N>
static __device__ __forceinline__ void large_store_f32(const LinearParams &p,
                                                       const LinearTarget &target,
                                                       const LinearUnit &unit, float *sums,
                                                       const float (&d)[N / 2]) {
    const int32_t tid = large_thread();
    const int32_t thread = tid % 128, lane = thread % 32;
    const uint32_t barrier = (uint32_t)tid / 128;
    const bool add = p.out == CUDA_LINEAR_F32_ADD;
    const int32_t row = target.row + thread % 16 * 4;
    const bool vector =
        ((uintptr_t)target.out | (uintptr_t)(target.stride * 4)) % 16 == 0 && row + 4 <= target.n;
    float bias[4] = {};
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        if (target.bias != NULL && row + i < target.n) bias[i] = target.bias[row + i];
    }
    float *mine = sums + lane % 4 * 2 * LARGE_SUMS_STRIDE + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int32_t j0 = 0; j0 < N / 8; j0 += LARGE_SUMS_TOKENS / 8) {
        cuda_bar_sync(barrier, 128);
#pragma unroll
        for (int32_t j = 0; j < LARGE_SUMS_TOKENS / 8; j++) {
            float *to = mine + j * 8 * LARGE_SUMS_STRIDE;
            to[0] = d[4 * (j0 + j)], to[LARGE_SUMS_STRIDE] = d[4 * (j0 + j) + 1];
            to[8] = d[4 * (j0 + j) + 2], to[LARGE_SUMS_STRIDE + 8] = d[4 * (j0 + j) + 3];
        }
        cuda_bar_sync(barrier, 128);
#pragma unroll
        for (int32_t i = 0; i < LARGE_SUMS_TOKENS; i += 8) {
            int32_t t = thread / 16 + i, token = unit.token + j0 * 8 + t;
            if (token >= unit.token_end) continue;
            float4 v = *(const float4 *)(sums + t * LARGE_SUMS_STRIDE + thread % 16 * 4);
            if (target.bias != NULL) {
                v = make_float4(__fadd_rn(v.x, bias[0]), __fadd_rn(v.y, bias[1]),
                                __fadd_rn(v.z, bias[2]), __fadd_rn(v.w, bias[3]));
            }
            float *out = (float *)target.out + token * target.stride + row;
            if (vector && add) {
                cuda_red_add(out, v);
            } else if (vector) {
                *(float4 *)out = v;
            } else {
                const float one[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int32_t e = 0; e < 4; e++) {
                    if (row + e < target.n) linear_store_f32(p, out + e, one[e]);
                }
            }
        }
    }
}

/* Finishes the 64 rows of a warpgroup. */
template <int N>
static __device__ __forceinline__ void large_store(const LinearParams &p, const LinearUnit &unit,
                                                   int32_t block, float *sums,
                                                   const float (&d)[N / 2]) {
    if (block >= p.row_blocks) return;
    const LinearTarget target = linear_target(p, block);
    if (p.out == CUDA_LINEAR_BF16) {
        large_store_bf16<N, false>(p, target, unit, cuda_smem_addr(sums), d);
    } else if (p.out == CUDA_LINEAR_GATED) {
        large_store_bf16<N, true>(p, target, unit, cuda_smem_addr(sums), d);
    } else {
        large_store_f32<N>(p, target, unit, sums, d);
    }
}
