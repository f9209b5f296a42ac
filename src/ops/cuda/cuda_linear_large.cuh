/* cuda_linear_large: what the kernels for many tokens share: the stages of a CTA, how they are filled
 * and multiplied.
 *
 * A CTA has three warpgroups: one fetches, two multiply 64 rows of weights each by a tile of
 * tokens. */
#pragma once

#include "ops/cuda/cuda_linear_out.cuh"

enum {
    LARGE_THREADS = 384,
    LARGE_STAGES_MAX = 8,
    LARGE_ROW_BLOCKS = 2,
    LARGE_GROUP_ROW_TILES = 16 /* tiles of rows that are walked together, so that L2 has them */
};

/* A tile of BLOCKS block rows by N tokens. */
template <int N, int BLOCKS = LARGE_ROW_BLOCKS>
struct LargeShape {
    enum {
        A_BYTES = BLOCKS * CUDA_LINEAR_BLOCK_BYTES,
        B_BYTES = N * 128,
        STAGE_BYTES = A_BYTES + B_BYTES
    };
};

typedef struct LargeShared {
    uint64_t full[LARGE_STAGES_MAX], empty[LARGE_STAGES_MAX];
} LargeShared;

/* The tiles of a grid: 128 rows by a tile of tokens each. By value, so that it takes no registers. */
typedef struct LargeGrid {
    int32_t row_tiles, token_tiles;
    int32_t end; /* how many tiles; of experts not known */
    int32_t first; /* the tile of twice as many tokens whose halves come first; 0: whole tiles */
    int32_t n_ctas;
} LargeGrid;

/* Tile u; rows in groups of tiles, within a group the rows change first. */
template <int N>
static __device__ __forceinline__ LinearUnit large_unit(const LinearParams &p,
                                                        const LargeGrid &grid, int32_t u) {
    const int32_t group_units = LARGE_GROUP_ROW_TILES * grid.token_tiles;
    const int32_t first = u / group_units * LARGE_GROUP_ROW_TILES, local = u % group_units;
    const int32_t n = min(grid.row_tiles - first, (int32_t)LARGE_GROUP_ROW_TILES);
    LinearUnit unit = {p.w, first + local % n, local / n * N, p.n_tokens};
    return unit;
}

/* Announces the bytes of a stage and fetches its weights. */
template <int N, int BLOCKS = LARGE_ROW_BLOCKS>
static __device__ __forceinline__ void large_fetch_weights(const LinearParams &p,
                                                           const LinearUnit &unit, int32_t block,
                                                           uint32_t to, uint32_t bar,
                                                           uint64_t policy) {
    const int32_t row_block = unit.row_tile * BLOCKS;
    cuda_mbar_arrive_expect(bar, LargeShape<N, BLOCKS>::STAGE_BYTES);
#pragma unroll
    for (int32_t i = 0; i < BLOCKS; i++) {
        /* Past the last row the last block is read again; nobody looks at its sums. */
        int64_t row = min(row_block + i, p.row_blocks - 1);
        cuda_bulk_load(to + i * CUDA_LINEAR_BLOCK_BYTES,
                       unit.w + (row * p.k_blocks + block) * CUDA_LINEAR_BLOCK_BYTES,
                       CUDA_LINEAR_BLOCK_BYTES, bar, policy);
    }
}

/* Fetches the weights of the first stages, before the kernel in front has ended; how many stages. */
template <int N, int BLOCKS = LARGE_ROW_BLOCKS>
static __device__ __forceinline__ int32_t large_fetch_early(const LinearParams &p,
                                                            const LinearUnit &unit, int32_t begin,
                                                            int32_t end, uint32_t smem,
                                                            LargeShared *shared, uint64_t policy) {
    const int32_t n = min(end - begin, p.n_stages);
    for (int32_t i = 0; i < n; i++) {
        large_fetch_weights<N, BLOCKS>(p, unit, begin + i,
                                       smem + i * LargeShape<N, BLOCKS>::STAGE_BYTES,
                                       cuda_smem_addr(&shared->full[i]), policy);
    }
    return n;
}

/* Fetches columns begin to end, in blocks; the weights of the first n_early are on their way. */
template <int N, int BLOCKS = LARGE_ROW_BLOCKS>
static __device__ __forceinline__ void large_fetch_blocks(
    const LinearParams &p, const CUtensorMap *x, const LinearUnit &unit, int32_t begin, int32_t end,
    int32_t n_early, uint32_t smem, LargeShared *shared, uint64_t policy, LinearStage *stage) {
    typedef LargeShape<N, BLOCKS> Shape;
    for (int32_t block = begin; block < end; block++) {
        uint32_t to = smem + stage->at * Shape::STAGE_BYTES;
        uint32_t bar = cuda_smem_addr(&shared->full[stage->at]);
        if (block >= begin + n_early) {
            cuda_mbar_wait(cuda_smem_addr(&shared->empty[stage->at]), stage->parity);
            large_fetch_weights<N, BLOCKS>(p, unit, block, to, bar, policy);
        }
        cuda_tma_load(to + Shape::A_BYTES, x, block * CUDA_LINEAR_BLOCK, unit.token, bar);
        linear_next(p, stage);
    }
}

/* Tells the fetching lane that a stage was read. */
static __device__ __forceinline__ void large_release(LargeShared *shared, int32_t stage) {
    if (threadIdx.x % 32 == 0) cuda_mbar_arrive(cuda_smem_addr(&shared->empty[stage]));
}

/* Multiplies the blocks of one segment into d, and gives every stage back. */
template <int N>
static __device__ __forceinline__ void large_segment(const LinearParams &p, uint32_t smem,
                                                     LargeShared *shared, int32_t group,
                                                     int32_t n_blocks, LinearStage *stage,
                                                     float (&d)[N / 2]) {
    typedef LargeShape<N> Shape;
    int32_t last = -1;
    for (int32_t block = 0; block < n_blocks; block++) {
        uint32_t at = smem + stage->at * Shape::STAGE_BYTES;
        uint64_t a = cuda_mma_desc(at + group * CUDA_LINEAR_BLOCK_BYTES);
        uint64_t b = cuda_mma_desc(at + Shape::A_BYTES);
        cuda_mbar_wait(cuda_smem_addr(&shared->full[stage->at]), stage->parity);
        cuda_mma_fence();
#pragma unroll
        for (int32_t j = 0; j < 4; j++) cuda_mma<N>(d, a + j * 2, b + j * 2, block > 0 || j > 0);
        cuda_mma_commit();
        cuda_mma_wait<1>();
        if (last >= 0) large_release(shared, last);
        last = stage->at;
        linear_next(p, stage);
    }
    cuda_mma_wait<0>();
    cuda_mma_pin(d);
    large_release(shared, last);
}

/* Barriers of the stages; called by all threads. */
static __device__ __forceinline__ void large_init(const LinearParams &p, const CUtensorMap *x,
                                                  LargeShared *shared) {
    if (threadIdx.x == 0) {
        for (int32_t i = 0; i < p.n_stages; i++) {
            cuda_mbar_init(cuda_smem_addr(&shared->full[i]), 1);
            cuda_mbar_init(cuda_smem_addr(&shared->empty[i]), 8);
        }
        cuda_mbar_init_fence();
        cuda_tma_prefetch_map(x);
    }
    __syncthreads();
}

/* A warpgroup's place behind the stages, where its sums go on their way out. */
template <int N, int BYTES, int BLOCKS = LARGE_ROW_BLOCKS>
static __device__ __forceinline__ float *large_out(const LinearParams &p, char *stages) {
    const int32_t group = (int32_t)threadIdx.x / 128 - 1;
    return (float *)(stages + p.n_stages * LargeShape<N, BLOCKS>::STAGE_BYTES + group * BYTES);
}

/* All tiles of the product. */
template <int N, int BLOCKS = LARGE_ROW_BLOCKS>
static inline LargeGrid large_grid(const LinearParams *p, const CudaLinearPlan *plan) {
    LargeGrid grid = {};
    grid.row_tiles = (p->row_blocks + BLOCKS - 1) / BLOCKS;
    grid.token_tiles = (p->n_tokens + N - 1) / N;
    grid.end = grid.row_tiles * grid.token_tiles;
    grid.n_ctas = min(plan->n_ctas, (int32_t)CUDA_LINEAR_CTAS_MAX);
    return grid;
}

template <int N, int BYTES, int BLOCKS = LARGE_ROW_BLOCKS>
static inline size_t large_smem_bytes(const LinearParams *p) {
    return 1024 + (size_t)p->n_stages * LargeShape<N, BLOCKS>::STAGE_BYTES + 2 * BYTES;
}

/* Launches a kernel of this family. */
template <typename Kernel>
static cudaError_t large_launch_grid(cudaStream_t stream, Kernel *kernel,
                                     const LinearParams *params, const LargeGrid *grid,
                                     size_t bytes, const CUtensorMap *x, bool dependent) {
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (error != cudaSuccess) return error;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)grid->n_ctas);
    config.blockDim = dim3(LARGE_THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, *params, *grid, *x);
}
