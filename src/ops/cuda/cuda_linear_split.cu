/* cuda_linear_split: tiles too few to occupy the multiprocessors, their segments apart.
 *
 * Neighbouring CTAs make a segment each of a tile, write their sums to global memory, and add up a
 * share of the tokens each. They wait for one another, so they must run at once: CTAs start in
 * order, there are no more than an H200 has multiprocessors, and on a smaller GPU all but the last
 * that found room end without those behind. */
#include "ops/cuda/cuda_linear_large.cuh"

/* What a CTA finishes of a tile that was split. */
template <int N, int SEGMENTS>
struct SplitShape {
    enum {
        SHARE = (N / SEGMENTS + 31) / 32 * 32, /* tokens */
        QUADS = SHARE / 8,                     /* of a thread */
        STRIDE = LARGE_ROW_BLOCKS * N / 8 * 128
    };
};

/* Adds the quads of segment SEGMENT's share over all segments in order: its own from d, the others'
 * from memory, those of a segment STRIDE behind another's. */
template <int N, int SEGMENTS, int SEGMENT>
static __device__ __forceinline__ void split_add(const float4 *sums, const float (&d)[N / 2],
                                                 float *sum) {
    typedef SplitShape<N, SEGMENTS> Shape;
    constexpr int32_t FIRST = SEGMENT * Shape::QUADS;
    constexpr int32_t M = N == 256 && SEGMENTS == 2 ? 8 : Shape::QUADS; /* at a time */
#pragma unroll
    for (int32_t j = 0; j < Shape::QUADS; j += M) {
        if (FIRST + j >= N / 8) break;
        float4 v[SEGMENTS][M];
#pragma unroll
        for (int32_t i = 0; i < SEGMENTS * M; i++) {
            const int32_t q = FIRST + j + i % M;
            v[i / M][i % M] = i / M == SEGMENT
                                  ? make_float4(d[4 * q], d[4 * q + 1], d[4 * q + 2], d[4 * q + 3])
                                  : __ldcg(&sums[i / M * Shape::STRIDE + q * 128]);
        }
#pragma unroll
        for (int32_t i = 0; i < M; i++) {
            float4 a = v[0][i];
#pragma unroll
            for (int32_t s = 1; s < SEGMENTS; s++) {
                a.x = __fadd_rn(a.x, v[s][i].x), a.y = __fadd_rn(a.y, v[s][i].y);
                a.z = __fadd_rn(a.z, v[s][i].z), a.w = __fadd_rn(a.w, v[s][i].w);
            }
            float *to = &sum[(j + i) * 4];
            to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
        }
    }
}

/* Writes d, the sums of one segment of a warpgroup's tile, for the CTAs of the other segments but
 * for a share of the tokens, which it adds over all segments in order and finishes. */
template <int N, int SEGMENTS>
static __device__ __forceinline__ void split_store(const LinearParams &p, LinearUnit unit,
                                                   float *out, const float (&d)[N / 2]) {
    typedef SplitShape<N, SEGMENTS> Shape;
    const int32_t thread = (int32_t)threadIdx.x % 128, group = (int32_t)threadIdx.x / 128 - 1;
    const uint32_t barrier = threadIdx.x / 128;
    const int32_t block = unit.row_tile * LARGE_ROW_BLOCKS + group;
    if (block >= p.row_blocks) return;
    const int32_t segment = (int32_t)blockIdx.x % SEGMENTS, first = (int32_t)blockIdx.x - segment;
    float4 *sums = p.sums + (int64_t)first * Shape::STRIDE + group * (N / 8) * 128 + thread;
    uint32_t *n_arrived = p.n_arrived + first * LARGE_ROW_BLOCKS + group;
    const int32_t n_tokens = min(N, unit.token_end - unit.token);
#pragma unroll
    for (int32_t j = 0; j < N / 8; j++) {
        if (j / Shape::QUADS == segment || j * 8 >= n_tokens) continue;
        __stcg(&sums[segment * Shape::STRIDE + j * 128],
               make_float4(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]));
    }
    cuda_bar_sync(barrier, 128);
    if (thread == 0) {
        cuda_count(n_arrived);
        cuda_count_wait(n_arrived, SEGMENTS);
    }
    cuda_bar_sync(barrier, 128);
    const bool any = segment * Shape::SHARE < n_tokens;
    float sum[Shape::SHARE / 2];
    if (any) {
        if (segment == 0) {
            split_add<N, SEGMENTS, 0>(sums, d, sum);
        } else if (segment == 1) {
            split_add<N, SEGMENTS, 1>(sums, d, sum);
        } else if (segment == 2) {
            split_add<N, SEGMENTS, SEGMENTS == 4 ? 2 : 0>(sums, d, sum);
        } else {
            split_add<N, SEGMENTS, SEGMENTS == 4 ? 3 : 0>(sums, d, sum);
        }
    }
    unit.token += segment * Shape::SHARE;
    if (any) large_store<Shape::SHARE>(p, unit, block, out, sum);
    if (thread == 0) cuda_count_off(n_arrived, 2 * SEGMENTS);
}

/* With 128 tokens the bound of threads leaves registers for a norm's CTA on the same
 * multiprocessor, which then stands ready when this one's sums are there. */
template <int N, int SEGMENTS>
static __global__ void __launch_bounds__(N == 128 ? 512 : LARGE_THREADS, 1)
    split_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ LargeGrid grid,
                 const __grid_constant__ CUtensorMap x) {
    extern __shared__ char dynamic[];
    __shared__ LargeShared shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    const int32_t segment = (int32_t)blockIdx.x % SEGMENTS;
    const int32_t begin = linear_segment(p, segment), end = linear_segment(p, segment + 1);
    const LinearUnit unit = large_unit<N>(p, grid, (int32_t)blockIdx.x / SEGMENTS);
    large_init(p, &x, &shared);
    cuda_launch_next();
    if (threadIdx.x < 128) {
        cuda_regs_lower<40>();
        if (threadIdx.x != 0) return;
        const uint64_t policy =
            grid.token_tiles > 1 ? cuda_l2_evict_normal() : cuda_l2_evict_first();
        LinearStage stage = {0, 1};
        int32_t n_early = large_fetch_early<N>(p, unit, begin, end, smem, &shared, policy);
        cuda_launch_wait();
        large_fetch_blocks<N>(p, &x, unit, begin, end, n_early, smem, &shared, policy, &stage);
    } else {
        cuda_regs_raise<N == 128 ? 168 : 232>();
        cuda_launch_wait();
        LinearStage stage = {0, 0};
        float d[N / 2];
        large_segment<N>(p, smem, &shared, (int32_t)threadIdx.x / 128 - 1, end - begin, &stage, d);
        split_store<N, SEGMENTS>(p, unit, large_out<N, LARGE_SUMS_BYTES>(p, dynamic + skip), d);
    }
}

template <int N, int SEGMENTS>
static cudaError_t split_launch(cudaStream_t stream, const LinearParams *params,
                                const CudaLinearPlan *plan, const CUtensorMap *x, bool dependent) {
    LargeGrid grid = large_grid<N>(params, plan);
    grid.n_ctas = grid.end * SEGMENTS;
    if (grid.n_ctas > CUDA_LINEAR_CTAS_MAX || params->sums == NULL || params->n_arrived == NULL) {
        return cudaErrorInvalidValue;
    }
    return large_launch_grid(stream, split_kernel<N, SEGMENTS>, params, &grid,
                             large_smem_bytes<N, LARGE_SUMS_BYTES>(params), x, dependent);
}

template <int N>
static cudaError_t split_launch_segments(cudaStream_t stream, const LinearParams *params,
                                         const CudaLinearPlan *plan, const CUtensorMap *x,
                                         bool dependent) {
    switch (params->n_segments) {
        case 2: return split_launch<N, 2>(stream, params, plan, x, dependent);
        case 4: return split_launch<N, 4>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}

cudaError_t cuda_linear_split_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent) {
    switch (plan->tile_tokens) {
        case 128: return split_launch_segments<128>(stream, params, plan, x, dependent);
        case 192: return split_launch_segments<192>(stream, params, plan, x, dependent);
        case 256: return split_launch_segments<256>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}
