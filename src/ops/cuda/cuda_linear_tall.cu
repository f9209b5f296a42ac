/* cuda_linear_tall: many rows by tiles of 128 tokens, k in one segment; for up to 128 tokens, bound
 * by the bytes of the weights, and for more where it takes fewer rounds.
 *
 * As the large kernel, with two blocks of 64 rows for each warpgroup: the rows of the tokens are
 * read half as often, which else are as many bytes as the weights. */
#include "ops/cuda/cuda_linear_large.cuh"

enum {
    TALL_TOKENS = 128,
    TALL_ROW_BLOCKS = 4,
    TALL_GROUP_BLOCKS = TALL_ROW_BLOCKS / 2 /* of a warpgroup */
};

/* The fetching lane: as many weights as the stages hold are on their way before the kernel in front
 * has ended. */
static __device__ void tall_fetch(const LinearParams &p, const CUtensorMap *x, uint32_t smem,
                                  LargeShared *shared, const LargeGrid &grid) {
    const uint64_t policy = cuda_l2_evict_first();
    const int32_t first = (int32_t)blockIdx.x;
    LinearStage stage = {0, 1};
    int32_t n_early = large_fetch_early<TALL_TOKENS, TALL_ROW_BLOCKS>(
        p, large_unit<TALL_TOKENS>(p, grid, first), 0, p.k_blocks, smem, shared, policy);
    cuda_launch_wait();
    for (int32_t u = first; u < grid.end; u += grid.n_ctas) {
        large_fetch_blocks<TALL_TOKENS, TALL_ROW_BLOCKS>(p, x, large_unit<TALL_TOKENS>(p, grid, u),
                                                         0, p.k_blocks, n_early, smem, shared,
                                                         policy, &stage);
        n_early = 0;
    }
}

/* The sums of a warpgroup's blocks of rows. */
static __device__ __forceinline__ void tall_sums(const LinearParams &p, uint32_t smem,
                                                 LargeShared *shared, int32_t group,
                                                 LinearStage *stage,
                                                 float (&d)[TALL_GROUP_BLOCKS][TALL_TOKENS / 2]) {
    typedef LargeShape<TALL_TOKENS, TALL_ROW_BLOCKS> Shape;
    constexpr int32_t NEXT = CUDA_LINEAR_BLOCK_BYTES >> 4;
    int32_t last = -1;
    for (int32_t block = 0; block < p.k_blocks; block++) {
        uint32_t at = smem + stage->at * Shape::STAGE_BYTES;
        uint64_t a = cuda_mma_desc(at + group * TALL_GROUP_BLOCKS * CUDA_LINEAR_BLOCK_BYTES);
        uint64_t b = cuda_mma_desc(at + Shape::A_BYTES);
        cuda_mbar_wait(cuda_smem_addr(&shared->full[stage->at]), stage->parity);
        cuda_mma_fence();
#pragma unroll
        for (int32_t j = 0; j < 4; j++) {
#pragma unroll
            for (int32_t i = 0; i < TALL_GROUP_BLOCKS; i++)
                cuda_mma<TALL_TOKENS>(d[i], a + i * NEXT + j * 2, b + j * 2, block > 0 || j > 0);
        }
        cuda_mma_commit();
        cuda_mma_wait<1>();
        if (last >= 0) large_release(shared, last);
        last = stage->at;
        linear_next(p, stage);
    }
    cuda_mma_wait<0>();
#pragma unroll
    for (int32_t i = 0; i < TALL_GROUP_BLOCKS; i++) cuda_mma_pin(d[i]);
    large_release(shared, last);
}

static __device__ void tall_multiply(const LinearParams &p, uint32_t smem, float *out,
                                     LargeShared *shared, const LargeGrid &grid) {
    const int32_t group = (int32_t)threadIdx.x / 128 - 1;
    LinearStage stage = {0, 0};
    for (int32_t u = (int32_t)blockIdx.x; u < grid.end; u += grid.n_ctas) {
        float d[TALL_GROUP_BLOCKS][TALL_TOKENS / 2];
        tall_sums(p, smem, shared, group, &stage, d);
        const LinearUnit unit = large_unit<TALL_TOKENS>(p, grid, u);
#pragma unroll
        for (int32_t i = 0; i < TALL_GROUP_BLOCKS; i++)
            large_store<TALL_TOKENS>(
                p, unit, unit.row_tile * TALL_ROW_BLOCKS + group * TALL_GROUP_BLOCKS + i, out,
                d[i]);
    }
}

static __global__ void __launch_bounds__(LARGE_THREADS, 1)
    tall_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ LargeGrid grid,
                const __grid_constant__ CUtensorMap x) {
    extern __shared__ char dynamic[];
    __shared__ LargeShared shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    large_init(p, &x, &shared);
    cuda_launch_next();
    if (threadIdx.x < 128) {
        cuda_regs_lower<24>();
        if (threadIdx.x == 0) tall_fetch(p, &x, smem, &shared, grid);
    } else {
        cuda_regs_raise<240>();
        cuda_launch_wait();
        float *out = large_out<TALL_TOKENS, LARGE_SUMS_BYTES, TALL_ROW_BLOCKS>(p, dynamic + skip);
        tall_multiply(p, smem, out, &shared, grid);
    }
}

cudaError_t cuda_linear_tall_launch(cudaStream_t stream, const LinearParams *params,
                                    const CudaLinearPlan *plan, const CUtensorMap *x,
                                    bool dependent) {
    if (params->n_segments != 1 || params->n_experts > 0 || plan->tile_tokens != TALL_TOKENS)
        return cudaErrorInvalidValue;
    LargeGrid grid = large_grid<TALL_TOKENS, TALL_ROW_BLOCKS>(params, plan);
    grid.n_ctas = min(grid.n_ctas, grid.end);
    const size_t bytes = large_smem_bytes<TALL_TOKENS, LARGE_SUMS_BYTES, TALL_ROW_BLOCKS>(params);
    return large_launch_grid(stream, tall_kernel, params, &grid, bytes, x, dependent);
}
