/* cuda_linear_twin: tiles of 256 tokens whose four segments are made by two CTAs, two each.
 *
 * For tiles that occupy half of the multiprocessors: as the split kernel, with half as many CTAs a
 * tile. Each finishes half of the tokens, which come first in its tile, and passes the sums of the
 * other half on through memory; those of its first segment leave before it makes the second. */
#include "ops/cuda/cuda_linear_large.cuh"

enum {
    TWIN_TOKENS = 256,
    TWIN_SHARE = TWIN_TOKENS / 2, /* tokens that a CTA finishes */
    TWIN_SUMS = TWIN_SHARE / 2,   /* of a thread */
    TWIN_QUADS = TWIN_SUMS / 4,
    TWIN_QUADS_AT_ONCE = 4,
    TWIN_STRIDE = TWIN_QUADS * 128 /* quads of a warpgroup */
};

/* Which half of the segments and of the tokens is the CTA's. */
static __device__ __forceinline__ int32_t twin_rank(void) {
    return (int32_t)blockIdx.x % 2;
}

/* Where a warpgroup's sums of a segment are passed on. */
static __device__ __forceinline__ float4 *twin_place(const LinearParams &p, int32_t segment) {
    const int32_t thread = large_thread(), tile = (int32_t)blockIdx.x / 2;
    const int32_t part = (tile * 4 + segment) * LARGE_ROW_BLOCKS + thread / 128 - 1;
    return p.sums + (int64_t)part * TWIN_STRIDE + thread % 128;
}

/* Passes the other CTA's tokens on. */
static __device__ __forceinline__ void twin_pass(const LinearParams &p, int32_t segment,
                                                 const float (&d)[TWIN_TOKENS / 2]) {
    float4 *to = twin_place(p, segment);
#pragma unroll
    for (int32_t i = 0; i < TWIN_QUADS; i++) {
        const float *q = &d[TWIN_SUMS + 4 * i];
        __stcg(&to[i * 128], make_float4(q[0], q[1], q[2], q[3]));
    }
}

/* a, b: the sums of the CTA's segments; the others' lie between or behind them. Into a. */
static __device__ __forceinline__ void twin_add(const LinearParams &p, float *a, const float *b) {
    const int32_t rank = twin_rank();
    const float4 *c = twin_place(p, 2 - rank * 2), *d = twin_place(p, 3 - rank * 2);
#pragma unroll
    for (int32_t at = 0; at < TWIN_QUADS; at += TWIN_QUADS_AT_ONCE) {
        float4 v[2][TWIN_QUADS_AT_ONCE];
#pragma unroll
        for (int32_t i = 0; i < TWIN_QUADS_AT_ONCE; i++) {
            v[0][i] = __ldcg(&c[(at + i) * 128]);
            v[1][i] = __ldcg(&d[(at + i) * 128]);
        }
#pragma unroll
        for (int32_t i = 0; i < 4 * TWIN_QUADS_AT_ONCE; i++) {
            const float4 *q[2] = {&v[0][i / 4], &v[1][i / 4]};
            const float other[2] = {
                i % 4 == 0 ? q[0]->x : i % 4 == 1 ? q[0]->y : i % 4 == 2 ? q[0]->z : q[0]->w,
                i % 4 == 0 ? q[1]->x : i % 4 == 1 ? q[1]->y : i % 4 == 2 ? q[1]->z : q[1]->w};
            const int32_t j = 4 * at + i;
            const float sum = rank == 0 ? __fadd_rn(a[j], b[j]) : __fadd_rn(other[0], other[1]);
            a[j] = rank == 0 ? __fadd_rn(__fadd_rn(sum, other[0]), other[1])
                             : __fadd_rn(__fadd_rn(sum, a[j]), b[j]);
        }
        asm volatile("" ::: "memory"); /* no more of them in registers */
    }
}

/* Finishes the CTA's tokens. */
static __device__ __forceinline__ void twin_finish(const LinearParams &p, const LargeGrid &grid,
                                                   float *out, float (&sum)[TWIN_SUMS],
                                                   const float (&d)[TWIN_TOKENS / 2]) {
    const uint32_t barrier = (uint32_t)large_thread() / 128;
    uint32_t *n_arrived = p.n_arrived + blockIdx.x / 2 * LARGE_ROW_BLOCKS + barrier - 1;
    const bool counts = large_thread() % 128 == 0;
    cuda_bar_sync(barrier, 128);
    if (counts) {
        cuda_count(n_arrived);
        cuda_count_wait(n_arrived, 2);
    }
    cuda_bar_sync(barrier, 128);
    twin_add(p, sum, d);
    LinearUnit unit = large_unit<TWIN_TOKENS>(p, grid, (int32_t)blockIdx.x / 2);
    unit.token += twin_rank() * TWIN_SHARE;
    large_store<TWIN_SHARE>(p, unit, unit.row_tile * LARGE_ROW_BLOCKS + (int32_t)barrier - 1, out,
                            sum);
    if (counts) cuda_count_off(n_arrived, 4);
}

/* A multiplying warpgroup. */
static __device__ __forceinline__ void twin_multiply(const LinearParams &p, const LargeGrid &grid,
                                                     uint32_t smem, LargeShared *shared,
                                                     float *out) {
    const int32_t group = (int32_t)threadIdx.x / 128 - 1, first = twin_rank() * 2;
    LinearStage stage = {0, 0};
    float d[TWIN_TOKENS / 2], sum[TWIN_SUMS] = {};
    for (int32_t s = first; s < first + 2; s++) {
        large_segment<TWIN_TOKENS>(p, smem, shared, group,
                                   linear_segment(p, s + 1) - linear_segment(p, s), &stage, d);
        twin_pass(p, s, d);
        if (s > first) break;
#pragma unroll
        for (int32_t i = 0; i < TWIN_SUMS; i++) sum[i] = d[i];
    }
    twin_finish(p, grid, out, sum, d);
}

/* The fetching lane. */
static __device__ __forceinline__ void twin_fetch(const LinearParams &p, const LargeGrid &grid,
                                                  const CUtensorMap *x, uint32_t smem,
                                                  LargeShared *shared) {
    typedef LargeShape<TWIN_TOKENS> Shape;
    const int32_t rank = twin_rank();
    const int32_t begin = linear_segment(p, rank * 2), end = linear_segment(p, rank * 2 + 2);
    const LinearUnit unit = large_unit<TWIN_TOKENS>(p, grid, (int32_t)blockIdx.x / 2);
    const uint64_t policy = grid.token_tiles > 1 ? cuda_l2_evict_normal() : cuda_l2_evict_first();
    const int32_t n_early =
        large_fetch_early<TWIN_TOKENS>(p, unit, begin, end, smem, shared, policy);
    cuda_launch_wait();
    LinearStage stage = {0, 1};
    for (int32_t block = begin; block < end; block++) {
        const uint32_t to = smem + stage.at * Shape::STAGE_BYTES;
        const uint32_t bar = cuda_smem_addr(&shared->full[stage.at]);
        if (block >= begin + n_early) {
            cuda_mbar_wait(cuda_smem_addr(&shared->empty[stage.at]), stage.parity);
            large_fetch_weights<TWIN_TOKENS>(p, unit, block, to, bar, policy);
        }
#pragma unroll
        for (int32_t half = 0; half < 2; half++) {
            cuda_tma_load(to + Shape::A_BYTES + half * (Shape::B_BYTES / 2), x,
                          block * CUDA_LINEAR_BLOCK, unit.token + (half ^ rank) * TWIN_SHARE, bar);
        }
        linear_next(p, &stage);
    }
}

static __global__ void __launch_bounds__(LARGE_THREADS, 1)
    twin_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ LargeGrid grid,
                const __grid_constant__ CUtensorMap x) {
    extern __shared__ char dynamic[];
    __shared__ LargeShared shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    large_init(p, &x, &shared);
    cuda_launch_next();
    if (threadIdx.x < 128) {
        cuda_regs_lower<24>();
        if (threadIdx.x == 0) twin_fetch(p, grid, &x, smem, &shared);
    } else {
        cuda_regs_raise<240>();
        cuda_launch_wait();
        twin_multiply(p, grid, smem, &shared,
                      large_out<TWIN_TOKENS, LARGE_SUMS_BYTES>(p, dynamic + skip));
    }
}

cudaError_t cuda_linear_twin_launch(cudaStream_t stream, const LinearParams *params,
                                    const CudaLinearPlan *plan, const CUtensorMap *x,
                                    bool dependent) {
    LargeGrid grid = large_grid<TWIN_TOKENS>(params, plan);
    grid.n_ctas = 2 * grid.end;
    if (params->n_segments != 4 || plan->tile_tokens != TWIN_TOKENS ||
        grid.n_ctas > CUDA_LINEAR_CTAS_MAX || params->sums == NULL || params->n_arrived == NULL) {
        return cudaErrorInvalidValue;
    }
    return large_launch_grid(stream, twin_kernel, params, &grid,
                             large_smem_bytes<TWIN_TOKENS, LARGE_SUMS_BYTES>(params), x, dependent);
}
