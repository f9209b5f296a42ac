/* cuda_linear_large: many tokens, bound by the tensor cores.
 *
 * Persistent CTAs make whole tiles. With more than one segment a second set of registers holds the
 * sum of those finished. */
#include "ops/cuda/cuda_linear_large.cuh"

/* Tile u of the grid or of the experts. */
template <int N, bool EXPERTS>
static __device__ __forceinline__ LinearUnit large_tile(const LinearParams &p,
                                                        const LargeGrid &grid,
                                                        const LargeShared *shared, int32_t u) {
    if (EXPERTS) return linear_unit_of_expert(p, N, grid.row_tiles, shared->unit_start, u);
    return large_unit<N>(p, grid, u);
}

template <bool EXPERTS>
static __device__ __forceinline__ int32_t large_tiles_end(const LinearParams &p,
                                                          const LargeGrid &grid,
                                                          const LargeShared *shared) {
    return EXPERTS ? shared->unit_start[p.n_experts] : grid.end;
}

/* The fetching lane. Which weights experts read follows from the kernel in front; else as many as
 * the stages hold are on their way before that has ended. */
template <int N, bool EXPERTS>
static __device__ void large_fetch(const LinearParams &p, const CUtensorMap *x, uint32_t smem,
                                   LargeShared *shared, const LargeGrid &grid) {
    const uint64_t policy = grid.token_tiles > 1 ? cuda_l2_evict_normal() : cuda_l2_evict_first();
    const int32_t first = (int32_t)blockIdx.x, end = large_tiles_end<EXPERTS>(p, grid, shared);
    LinearStage stage = {0, 1};
    int32_t n_early = 0;
    if (!EXPERTS && first < end) {
        n_early = large_fetch_early<N>(p, large_unit<N>(p, grid, first), 0, p.k_blocks, smem,
                                       shared, policy);
    }
    cuda_launch_wait();
    cuda_launch_next();
    for (int32_t u = first; u < end; u += grid.n_ctas) {
        large_fetch_blocks<N>(p, x, large_tile<N, EXPERTS>(p, grid, shared, u), 0, p.k_blocks,
                              n_early, smem, shared, policy, &stage);
        n_early = 0;
    }
}

/* A multiplying warpgroup. */
template <int N, bool SEGMENTS, bool EXPERTS>
static __device__ void large_multiply(const LinearParams &p, uint32_t smem, float *out,
                                      LargeShared *shared, const LargeGrid &grid) {
    const int32_t group = (int32_t)threadIdx.x / 128 - 1;
    const int32_t end = large_tiles_end<EXPERTS>(p, grid, shared);
    LinearStage stage = {0, 0};
    for (int32_t u = (int32_t)blockIdx.x; u < end; u += grid.n_ctas) {
        LinearUnit unit = large_tile<N, EXPERTS>(p, grid, shared, u);
        float sum[N / 2];
        large_segment<N>(p, smem, shared, group, linear_segment(p, 1), &stage, sum);
        if constexpr (SEGMENTS) {
            for (int32_t s = 1; s < p.n_segments; s++) {
                float d[N / 2];
                large_segment<N>(p, smem, shared, group,
                                 linear_segment(p, s + 1) - linear_segment(p, s), &stage, d);
#pragma unroll
                for (int32_t i = 0; i < N / 2; i++) sum[i] = __fadd_rn(sum[i], d[i]);
            }
        }
        large_store<N>(p, unit, unit.row_tile * LARGE_ROW_BLOCKS + group, out, sum);
    }
}

template <int N, bool SEGMENTS, bool EXPERTS>
static __global__ void __launch_bounds__(LARGE_THREADS, 1)
    large_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ LargeGrid grid,
                 const __grid_constant__ CUtensorMap x) {
    extern __shared__ char dynamic[];
    __shared__ LargeShared shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    large_init(p, &x, &shared);
    if (EXPERTS) {
        cuda_launch_wait();
        linear_units_of_experts(p, N, grid.row_tiles, shared.unit_start);
    }
    if (threadIdx.x < 128) {
        cuda_regs_lower<24>();
        if (threadIdx.x == 0) large_fetch<N, EXPERTS>(p, &x, smem, &shared, grid);
    } else {
        cuda_regs_raise<240>();
        cuda_launch_wait();
        large_multiply<N, SEGMENTS, EXPERTS>(p, smem, large_out<N>(p, dynamic + skip), &shared,
                                             grid);
    }
}

template <int N, bool SEGMENTS, bool EXPERTS>
static cudaError_t large_launch(cudaStream_t stream, const LinearParams *params,
                                const CudaLinearPlan *plan, const CUtensorMap *x, bool dependent) {
    LargeGrid grid = large_grid<N>(params, plan);
    if (!EXPERTS) grid.n_ctas = min(grid.n_ctas, grid.end);
    return large_launch_grid(stream, large_kernel<N, SEGMENTS, EXPERTS>, params, &grid,
                             large_smem_bytes<N>(params), x, dependent);
}

template <int N, bool SEGMENTS>
static cudaError_t large_launch_experts(cudaStream_t stream, const LinearParams *params,
                                        const CudaLinearPlan *plan, const CUtensorMap *x,
                                        bool dependent) {
    if (params->n_experts > 0) {
        if constexpr (SEGMENTS) {
            return cudaErrorInvalidValue;
        } else {
            return large_launch<N, SEGMENTS, true>(stream, params, plan, x, dependent);
        }
    }
    return large_launch<N, SEGMENTS, false>(stream, params, plan, x, dependent);
}

cudaError_t cuda_linear_large_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent) {
    bool segments = params->n_segments > 1;
    switch (plan->tile_tokens) {
        case 128:
            return segments ? large_launch_experts<128, true>(stream, params, plan, x, dependent)
                            : large_launch_experts<128, false>(stream, params, plan, x, dependent);
        case 192:
            return segments ? large_launch_experts<192, true>(stream, params, plan, x, dependent)
                            : large_launch_experts<192, false>(stream, params, plan, x, dependent);
        case 256:
            if (segments) return cudaErrorInvalidValue;
            return large_launch_experts<256, false>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}
