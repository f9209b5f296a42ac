/* cuda_linear_large: many tokens, bound by the tensor cores.
 *
 * Persistent CTAs make whole tiles. Where the last round would leave half of them idle, its tiles of
 * 256 tokens are left to a second launch, which makes them in halves. With more than one segment a
 * second set of registers holds the sums of those finished, and shared memory what finds no
 * registers. */
#include "ops/cuda/cuda_linear_large.cuh"

enum { LARGE_HALF = CUDA_LINEAR_TOKENS_MAX / 2 };

/* Where the sums of finished segments are. */
template <int N>
struct LargeTotal {
    enum {
        KEPT = N == 256 ? 96 : N / 2, /* in a thread's registers */
        PARKED = N / 2 - KEPT,        /* in shared memory */
        PARKED_BYTES = PARKED * 128 * 4
    };
};

/* A warpgroup's place behind the stages: for parked sums, then for sums on their way out. */
template <int N, bool SEGMENTS>
static constexpr int large_out_bytes(void) {
    constexpr int PARKED = LargeTotal<N>::PARKED_BYTES, SUMS = LARGE_SUMS_BYTES;
    return SEGMENTS && PARKED > SUMS ? PARKED : SUMS;
}

/* Tile u of the grid or of the experts. */
template <int N, bool EXPERTS>
static __device__ __forceinline__ LinearUnit large_tile(const LinearParams &p,
                                                        const LargeGrid &grid,
                                                        const int32_t *unit_start, int32_t u) {
    if (EXPERTS) return linear_unit_of_expert(p, N, grid.row_tiles, unit_start, u);
    if (N != LARGE_HALF || grid.first == 0) return large_unit<N>(p, grid, u);
    LinearUnit unit = large_unit<2 * N>(p, grid, grid.first + u / 2);
    unit.token += u % 2 * N;
    return unit;
}

template <bool EXPERTS>
static __device__ __forceinline__ int32_t large_tiles_end(const LinearParams &p,
                                                          const LargeGrid &grid,
                                                          const int32_t *unit_start) {
    return EXPERTS ? unit_start[p.n_experts] : grid.end;
}

/* The fetching lane. Which weights experts read follows from the kernel in front; else as many as
 * the stages hold are on their way before that has ended. */
template <int N, bool EXPERTS>
static __device__ void large_fetch(const LinearParams &p, const CUtensorMap *x, uint32_t smem,
                                   LargeShared *shared, const int32_t *unit_start,
                                   const LargeGrid &grid) {
    const uint64_t policy = grid.token_tiles > 1 ? cuda_l2_evict_normal() : cuda_l2_evict_first();
    const int32_t first = (int32_t)blockIdx.x, end = large_tiles_end<EXPERTS>(p, grid, unit_start);
    LinearStage stage = {0, 1};
    int32_t n_early = 0;
    if (!EXPERTS && first < end) {
        n_early = large_fetch_early<N>(p, large_tile<N, false>(p, grid, unit_start, first), 0,
                                       p.k_blocks, smem, shared, policy);
    }
    cuda_launch_wait();
    cuda_launch_next();
    for (int32_t u = first; u < end; u += grid.n_ctas) {
        large_fetch_blocks<N>(p, x, large_tile<N, EXPERTS>(p, grid, unit_start, u), 0, p.k_blocks,
                              n_early, smem, shared, policy, &stage);
        n_early = 0;
    }
}

/* The sums of a segment, added to those before it; the last one's are left in d. */
template <int N>
static __device__ __forceinline__ void large_add(float (&total)[LargeTotal<N>::KEPT], float4 *parked,
                                                 float (&d)[N / 2], bool is_first, bool is_last) {
    constexpr int32_t KEPT = LargeTotal<N>::KEPT;
    if (!is_first) {
#pragma unroll
        for (int32_t i = 0; i < KEPT; i++) d[i] = __fadd_rn(total[i], d[i]);
#pragma unroll
        for (int32_t i = 0; i < LargeTotal<N>::PARKED; i += 4) {
            const float4 t = parked[i / 4 * 128];
            float *q = &d[KEPT + i];
            q[0] = __fadd_rn(t.x, q[0]), q[1] = __fadd_rn(t.y, q[1]);
            q[2] = __fadd_rn(t.z, q[2]), q[3] = __fadd_rn(t.w, q[3]);
        }
    }
    if (is_last) return;
#pragma unroll
    for (int32_t i = 0; i < KEPT; i++) total[i] = d[i];
    /* The tile before has left from where the sums are parked. */
    if (LargeTotal<N>::PARKED > 0 && is_first) cuda_bar_sync(threadIdx.x / 128, 128);
#pragma unroll
    for (int32_t i = 0; i < LargeTotal<N>::PARKED; i += 4) {
        const float *q = &d[KEPT + i];
        parked[i / 4 * 128] = make_float4(q[0], q[1], q[2], q[3]);
    }
}

/* A multiplying warpgroup. */
template <int N, bool SEGMENTS, bool EXPERTS>
static __device__ void large_multiply(const LinearParams &p, uint32_t smem, float *out,
                                      LargeShared *shared, const int32_t *unit_start,
                                      const LargeGrid &grid) {
    const int32_t group = (int32_t)threadIdx.x / 128 - 1;
    const int32_t end = large_tiles_end<EXPERTS>(p, grid, unit_start);
    float4 *parked = (float4 *)out + threadIdx.x % 128;
    LinearStage stage = {0, 0};
    for (int32_t u = (int32_t)blockIdx.x; u < end; u += grid.n_ctas) {
        float d[N / 2];
        if constexpr (SEGMENTS) {
            /* Zeros, so that no registers hold them while a tile leaves. */
            float total[LargeTotal<N>::KEPT] = {};
            for (int32_t s = 0; s < p.n_segments; s++) {
                large_segment<N>(p, smem, shared, group,
                                 linear_segment(p, s + 1) - linear_segment(p, s), &stage, d);
                large_add<N>(total, parked, d, s == 0, s + 1 == p.n_segments);
            }
        } else {
            large_segment<N>(p, smem, shared, group, p.k_blocks, &stage, d);
        }
        const LinearUnit unit = large_tile<N, EXPERTS>(p, grid, unit_start, u);
        large_store<N>(p, unit, unit.row_tile * LARGE_ROW_BLOCKS + group, out, d);
    }
}

template <int N, bool SEGMENTS, bool EXPERTS>
static __global__ void __launch_bounds__(LARGE_THREADS, 1)
    large_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ LargeGrid grid,
                 const __grid_constant__ CUtensorMap x) {
    extern __shared__ char dynamic[];
    __shared__ LargeShared shared;
    __shared__ int32_t unit_start[EXPERTS ? CUDA_LINEAR_EXPERTS_MAX + 1 : 1];
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    large_init(p, &x, &shared);
    if (EXPERTS) {
        cuda_launch_wait();
        linear_units_of_experts(p, N, grid.row_tiles, unit_start);
    }
    if (threadIdx.x < 128) {
        cuda_regs_lower<24>();
        if (threadIdx.x == 0) large_fetch<N, EXPERTS>(p, &x, smem, &shared, unit_start, grid);
    } else {
        cuda_regs_raise<240>();
        cuda_launch_wait();
        float *out = large_out<N, large_out_bytes<N, SEGMENTS>()>(p, dynamic + skip);
        large_multiply<N, SEGMENTS, EXPERTS>(p, smem, out, &shared, unit_start, grid);
    }
}

template <int N, bool SEGMENTS, bool EXPERTS>
static cudaError_t large_launch(cudaStream_t stream, const LinearParams *params,
                                const CudaLinearPlan *plan, const CUtensorMap *x, bool dependent) {
    LargeGrid grid = large_grid<N>(params, plan);
    if (params->whole_tiles > 0 && N == LARGE_HALF) {
        grid = large_grid<2 * N>(params, plan);
        grid.first = params->whole_tiles;
        grid.end = 2 * (grid.end - grid.first);
    } else if (params->whole_tiles > 0) {
        grid.end = params->whole_tiles;
    }
    if (!EXPERTS) grid.n_ctas = min(grid.n_ctas, grid.end);
    const size_t bytes = large_smem_bytes<N, large_out_bytes<N, SEGMENTS>()>(params);
    return large_launch_grid(stream, large_kernel<N, SEGMENTS, EXPERTS>, params, &grid, bytes, x,
                             dependent);
}

template <int N>
static cudaError_t large_launch_kind(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent) {
    const bool segments = params->n_segments > 1;
    if (params->n_experts > 0) {
        if (segments) return cudaErrorInvalidValue;
        return large_launch<N, false, true>(stream, params, plan, x, dependent);
    }
    return segments ? large_launch<N, true, false>(stream, params, plan, x, dependent)
                    : large_launch<N, false, false>(stream, params, plan, x, dependent);
}

cudaError_t cuda_linear_large_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent) {
    switch (plan->tile_tokens) {
        case 128: return large_launch_kind<128>(stream, params, plan, x, dependent);
        case 192: return large_launch_kind<192>(stream, params, plan, x, dependent);
        case 256: return large_launch_kind<256>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}
