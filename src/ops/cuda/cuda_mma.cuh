/* cuda_mma: Hopper's warpgroup matrix product, D[64, N] += A[64, 16] B[N, 16]^T in f32, and a
 * warp's.
 *
 * A and B stand in shared memory as tiles of 64 columns (128 bytes a row) with the 128-byte
 * swizzle: the 16-byte piece c of row r is at r * 128 + ((c ^ r % 8) * 16), tiles at multiples
 * of 1,024 bytes. D is spread over the 128 threads of the warpgroup: d[4 * j + 2 * h + e] of
 * thread t is row 16 * (t / 32) + t % 32 / 4 + 8 * h, column 8 * j + t % 4 * 2 + e. source: PTX
 * ISA 9.0, "Asynchronous Warpgroup Level Matrix Instructions". */
#pragma once

#include <stdint.h>

/* The descriptor of a tile at this address of shared memory; adding 2 moves it by 16 columns. */
static __device__ __forceinline__ uint64_t cuda_mma_desc(uint32_t smem_addr) {
    uint64_t addr = (smem_addr & 0x3ffff) >> 4;
    return addr | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

static __device__ __forceinline__ void cuda_mma_fence(void) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void cuda_mma_commit(void) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most n of the committed groups still run. */
template <int n>
static __device__ __forceinline__ void cuda_mma_wait(void) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

/* Keeps the compiler from moving reads of d above the wait that precedes this call. */
template <int n>
static __device__ __forceinline__ void cuda_mma_pin(float (&d)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/* The operand list of the instruction, eight registers at a time. */
#define CUDA_MMA_L0     "%0, %1, %2, %3, %4, %5, %6, %7"
#define CUDA_MMA_L1     ", %8, %9, %10, %11, %12, %13, %14, %15"
#define CUDA_MMA_L2     ", %16, %17, %18, %19, %20, %21, %22, %23"
#define CUDA_MMA_L3     ", %24, %25, %26, %27, %28, %29, %30, %31"
#define CUDA_MMA_L4     ", %32, %33, %34, %35, %36, %37, %38, %39"
#define CUDA_MMA_L5     ", %40, %41, %42, %43, %44, %45, %46, %47"
#define CUDA_MMA_L6     ", %48, %49, %50, %51, %52, %53, %54, %55"
#define CUDA_MMA_L7     ", %56, %57, %58, %59, %60, %61, %62, %63"
#define CUDA_MMA_L8     ", %64, %65, %66, %67, %68, %69, %70, %71"
#define CUDA_MMA_L9     ", %72, %73, %74, %75, %76, %77, %78, %79"
#define CUDA_MMA_L10    ", %80, %81, %82, %83, %84, %85, %86, %87"
#define CUDA_MMA_L11    ", %88, %89, %90, %91, %92, %93, %94, %95"
#define CUDA_MMA_L12    ", %96, %97, %98, %99, %100, %101, %102, %103"
#define CUDA_MMA_L13    ", %104, %105, %106, %107, %108, %109, %110, %111"
#define CUDA_MMA_L14    ", %112, %113, %114, %115, %116, %117, %118, %119"
#define CUDA_MMA_L15    ", %120, %121, %122, %123, %124, %125, %126, %127"
#define CUDA_MMA_LIST2  CUDA_MMA_L0 CUDA_MMA_L1
#define CUDA_MMA_LIST4  CUDA_MMA_LIST2 CUDA_MMA_L2 CUDA_MMA_L3
#define CUDA_MMA_LIST8  CUDA_MMA_LIST4 CUDA_MMA_L4 CUDA_MMA_L5 CUDA_MMA_L6 CUDA_MMA_L7
#define CUDA_MMA_LIST12 CUDA_MMA_LIST8 CUDA_MMA_L8 CUDA_MMA_L9 CUDA_MMA_L10 CUDA_MMA_L11
#define CUDA_MMA_LIST16 CUDA_MMA_LIST12 CUDA_MMA_L12 CUDA_MMA_L13 CUDA_MMA_L14 CUDA_MMA_L15

#define CUDA_MMA_D4(i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CUDA_MMA_D8(i)  CUDA_MMA_D4(i), CUDA_MMA_D4(i + 4)
#define CUDA_MMA_D16(i) CUDA_MMA_D8(i), CUDA_MMA_D8(i + 8)
#define CUDA_MMA_D32(i) CUDA_MMA_D16(i), CUDA_MMA_D16(i + 16)
#define CUDA_MMA_D64(i) CUDA_MMA_D32(i), CUDA_MMA_D32(i + 32)

/* P, A, B: the numbers of the operands that follow d: whether to add to d, and the descriptors. */
#define CUDA_MMA_ASM(N, LIST, A, B, P, ...)                                                  \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #P                                        \
                 ", 0;\n"                                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, %" #A \
                 ", %" #B ", p, 1, 1, 0, 0;}"                                                \
                 : __VA_ARGS__                                                               \
                 : "l"(a), "l"(b), "r"(add))

/* Issues one product of a warpgroup; add = 0 forgets what d held. */
template <int N>
static __device__ __forceinline__ void cuda_mma(float (&d)[N / 2], uint64_t a, uint64_t b,
                                                uint32_t add) {
    static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128 || N == 192 || N == 256, "");
    if constexpr (N == 8) CUDA_MMA_ASM(8, "%0, %1, %2, %3", 4, 5, 6, CUDA_MMA_D4(0));
    if constexpr (N == 16) CUDA_MMA_ASM(16, CUDA_MMA_L0, 8, 9, 10, CUDA_MMA_D8(0));
    if constexpr (N == 32) CUDA_MMA_ASM(32, CUDA_MMA_LIST2, 16, 17, 18, CUDA_MMA_D16(0));
    if constexpr (N == 64) CUDA_MMA_ASM(64, CUDA_MMA_LIST4, 32, 33, 34, CUDA_MMA_D32(0));
    if constexpr (N == 128) CUDA_MMA_ASM(128, CUDA_MMA_LIST8, 64, 65, 66, CUDA_MMA_D64(0));
    if constexpr (N == 192)
        CUDA_MMA_ASM(192, CUDA_MMA_LIST12, 96, 97, 98, CUDA_MMA_D64(0), CUDA_MMA_D32(64));
    if constexpr (N == 256)
        CUDA_MMA_ASM(256, CUDA_MMA_LIST16, 128, 129, 130, CUDA_MMA_D64(0), CUDA_MMA_D64(64));
}

/* A warp's product, D[16, 8] += A[16, 16] B[8, 16]^T in f32, operands in registers. Lane l has of D
 * rows l / 4 and l / 4 + 8, columns l % 4 * 2 and on. source: PTX ISA 9.0, "Matrix Fragments for
 * mma.m16n8k16". */
static __device__ __forceinline__ void cuda_mma_warp(float &d0, float &d1, float &d2, float &d3,
                                                     const uint32_t (&a)[4], uint32_t b0,
                                                     uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
