/* cuda_attn_mma: the two products of attention on a warpgroup, S = Q K^T and O += P V, in f32.
 *
 * Tiles in shared memory are column blocks of 64, each `rows` rows of 128 bytes with the 128-byte
 * swizzle (see cuda_mma.cuh). P comes from registers: the accumulators of S, rounded. */
#pragma once

#include "ops/cuda/cuda_mma.cuh"

#include <cuda_bf16.h>

/* A tile [keys, columns] whose columns are the N of the product: the stride between the column blocks
 * takes the place that a tile with K along its rows does not use. */
static __device__ __forceinline__ uint64_t attn_mma_desc_v(uint32_t smem_addr, uint32_t rows) {
    uint64_t addr = (smem_addr & 0x3ffff) >> 4;
    return addr | (uint64_t)(rows * 128 >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* P, A: numbers of the operands that follow d: whether to add, and the first of four registers. */
#define ATTN_MMA_ASM(N, LIST, A0, A1, A2, A3, B, P, ...)                                       \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #P                                          \
                 ", 0;\n"                                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, {%" #A0 \
                 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 1;}"                      \
                 : __VA_ARGS__                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

/* d[64, N] (+)= a[64, 16] b[16, N], a in registers, b with N along its rows. */
template <int N>
static __device__ __forceinline__ void attn_mma_pv(float (&d)[N / 2], const uint32_t *a, uint64_t b,
                                                   uint32_t add) {
    static_assert(N == 64 || N == 128 || N == 256, "");
    if constexpr (N == 64)
        ATTN_MMA_ASM(64, CUDA_MMA_LIST4, 32, 33, 34, 35, 36, 37, CUDA_MMA_D32(0));
    if constexpr (N == 128)
        ATTN_MMA_ASM(128, CUDA_MMA_LIST8, 64, 65, 66, 67, 68, 69, CUDA_MMA_D64(0));
    if constexpr (N == 256)
        ATTN_MMA_ASM(256, CUDA_MMA_LIST16, 128, 129, 130, 131, 132, 133, CUDA_MMA_D64(0),
                     CUDA_MMA_D64(64));
}

/* An address that is the same for all lanes, so that the compiler knows it: what the instructions
 * read then stands in uniform registers, without a move of each lane's between two of them. */
static __device__ __forceinline__ uint32_t attn_mma_uniform(uint32_t addr) {
    return __shfl_sync(0xffffffff, addr, 0);
}

/* Queues s = q k^T over DIMS columns, rising. */
template <int DIMS, int TILE>
static __device__ __forceinline__ void attn_mma_s(float (&s)[TILE / 2], uint32_t q, uint32_t k) {
    uint64_t a = cuda_mma_desc(q), b = cuda_mma_desc(attn_mma_uniform(k));
#pragma unroll
    for (int c = 0; c < DIMS / 64; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            cuda_mma<TILE>(s, a + c * (64 * 128 >> 4) + i * 2, b + c * (TILE * 128 >> 4) + i * 2,
                           c + i > 0);
    }
}

/* Queues o (+)= p v over TILE keys, rising. */
template <int DIMS, int TILE>
static __device__ __forceinline__ void attn_mma_o(float (&o)[DIMS / 2],
                                                  const uint32_t (&p)[TILE / 4], uint32_t v,
                                                  uint32_t add) {
    uint64_t b = attn_mma_desc_v(attn_mma_uniform(v), TILE);
#pragma unroll
    for (int i = 0; i < TILE / 16; i++)
        attn_mma_pv<DIMS>(o, p + 4 * i, b + i * (16 * 128 >> 4), i > 0 ? 1 : add);
}

/* The accumulators of S as the operand P; zeros in those of a thread's two rows behind the first
 * n_rows. */
template <int n>
static __device__ __forceinline__ void attn_mma_pack(uint32_t (&p)[n / 2], const float (&s)[n],
                                                     int32_t n_rows) {
#pragma unroll
    for (int i = 0; i < n / 2; i++) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(p[i]) : "f"(s[2 * i + 1]), "f"(s[2 * i]));
        if (i % 2 >= n_rows) p[i] = 0;
    }
}

/* Keeps the compiler from moving writes of p below the fence that follows this call. */
template <int n>
static __device__ __forceinline__ void attn_mma_pin(uint32_t (&p)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+r"(p[i])::"memory");
}
