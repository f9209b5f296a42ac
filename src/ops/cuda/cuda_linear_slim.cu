/* cuda_linear_slim: few tokens and few rows, k in segments, bound by the bytes of the weights and
 * by how soon a product follows another.
 *
 * A CTA makes 16 or 32 rows. Each segment has a warpgroup that multiplies and a warp that
 * fetches for it; the segments meet in shared memory. The tensor cores take 64 rows: what they
 * read behind the rows that were fetched is not looked at. */
#include "ops/cuda/cuda_linear_priv.cuh"

enum { SLIM_STAGES_MAX = 16, SLIM_SEGMENTS_MAX = 4 };

template <int N, int SEGMENTS, int ROWS>
struct SlimShape {
    enum {
        MULTIPLIERS = SEGMENTS * 128,
        THREADS = SEGMENTS * 160,
        A_BYTES = ROWS * 128,
        STAGE_BYTES = A_BYTES + N * 128,
        OWNERS = ROWS * 2, /* threads of a warpgroup whose rows count */
        N_QUADS = N / 8 * OWNERS,
        SUMS_BYTES = SEGMENTS * N_QUADS * 16
    };
};

typedef struct SlimShared {
    uint64_t full[SLIM_SEGMENTS_MAX][SLIM_STAGES_MAX], empty[SLIM_SEGMENTS_MAX][SLIM_STAGES_MAX];
} SlimShared;

/* A fetching lane: weights for all stages are on their way before it waits for the kernel
 * before. */
template <int N, int SEGMENTS, int ROWS>
static __device__ __forceinline__ void slim_fetch(const LinearParams &p, const CUtensorMap *x,
                                                  uint32_t stages, SlimShared *shared,
                                                  int32_t segment, int32_t row, int32_t token) {
    typedef SlimShape<N, SEGMENTS, ROWS> Shape;
    const uint64_t policy = cuda_l2_evict_first();
    const int32_t begin = linear_segment(p, segment), end = linear_segment(p, segment + 1);
    const char *w = p.w +
                    (int64_t)(row / CUDA_LINEAR_BLOCK) * p.k_blocks * CUDA_LINEAR_BLOCK_BYTES +
                    row % CUDA_LINEAR_BLOCK * 128;
    const int32_t n_early = min(end - begin, p.n_stages);
    for (int32_t i = 0; i < n_early; i++) {
        uint32_t bar = cuda_smem_addr(&shared->full[segment][i]);
        cuda_mbar_arrive_expect(bar, Shape::STAGE_BYTES);
        cuda_bulk_load(stages + i * Shape::STAGE_BYTES,
                       w + (int64_t)(begin + i) * CUDA_LINEAR_BLOCK_BYTES, Shape::A_BYTES, bar,
                       policy);
    }
    cuda_launch_wait();
    int32_t stage = 0;
    uint32_t parity = 1;
    for (int32_t block = begin; block < end; block++) {
        uint32_t to = stages + stage * Shape::STAGE_BYTES;
        uint32_t bar = cuda_smem_addr(&shared->full[segment][stage]);
        if (block >= begin + n_early) {
            cuda_mbar_wait(cuda_smem_addr(&shared->empty[segment][stage]), parity);
            cuda_mbar_arrive_expect(bar, Shape::STAGE_BYTES);
            cuda_bulk_load(to, w + (int64_t)block * CUDA_LINEAR_BLOCK_BYTES, Shape::A_BYTES, bar,
                           policy);
        }
        cuda_tma_load(to + Shape::A_BYTES, x, block * CUDA_LINEAR_BLOCK, token, bar);
        if (++stage == p.n_stages) stage = 0, parity ^= 1;
    }
}

/* The sums of a segment in the registers of its warpgroup. */
template <int N, int SEGMENTS, int ROWS>
static __device__ __forceinline__ void slim_multiply(const LinearParams &p, uint32_t stages,
                                                     SlimShared *shared, int32_t segment,
                                                     float (&d)[N / 2]) {
    typedef SlimShape<N, SEGMENTS, ROWS> Shape;
    const int32_t lane = (int32_t)threadIdx.x % 32;
    const int32_t n_blocks = linear_segment(p, segment + 1) - linear_segment(p, segment);
    int32_t stage = 0, last = -1;
    uint32_t parity = 0;
    for (int32_t block = 0; block < n_blocks; block++) {
        uint32_t at = stages + stage * Shape::STAGE_BYTES;
        uint64_t a = cuda_mma_desc(at), b = cuda_mma_desc(at + Shape::A_BYTES);
        cuda_mbar_wait(cuda_smem_addr(&shared->full[segment][stage]), parity);
        cuda_mma_fence();
#pragma unroll
        for (int32_t j = 0; j < 4; j++) cuda_mma<N>(d, a + j * 2, b + j * 2, block > 0 || j > 0);
        cuda_mma_commit();
        cuda_mma_wait<1>();
        if (last >= 0 && lane == 0) cuda_mbar_arrive(cuda_smem_addr(&shared->empty[segment][last]));
        last = stage;
        if (++stage == p.n_stages) stage = 0, parity ^= 1;
    }
    cuda_mma_wait<0>();
    cuda_mma_pin(d);
}

template <int N, int SEGMENTS, int ROWS>
static __global__ void __launch_bounds__(SEGMENTS * 160, N <= 32 ? 2 : 1)
    slim_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ CUtensorMap x) {
    typedef SlimShape<N, SEGMENTS, ROWS> Shape;
    extern __shared__ char dynamic[];
    __shared__ SlimShared shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    const int32_t thread = (int32_t)threadIdx.x;
    if (thread < SEGMENTS * 32 && thread % 32 == 0) {
        for (int32_t i = 0; i < p.n_stages; i++) {
            cuda_mbar_init(cuda_smem_addr(&shared.full[thread / 32][i]), 1);
            cuda_mbar_init(cuda_smem_addr(&shared.empty[thread / 32][i]), 4);
        }
        cuda_mbar_init_fence();
        cuda_tma_prefetch_map(&x);
    }
    __syncthreads();
    cuda_launch_next();
    const int32_t token_tiles = (p.n_tokens + N - 1) / N;
    const int32_t row = (int32_t)blockIdx.x / token_tiles * ROWS;
    const int32_t token0 = (int32_t)blockIdx.x % token_tiles * N;
    const uint32_t segment_bytes = p.n_stages * Shape::STAGE_BYTES;
    if (thread >= Shape::MULTIPLIERS) {
        int32_t segment = (thread - Shape::MULTIPLIERS) / 32;
        if (thread % 32 == 0) {
            slim_fetch<N, SEGMENTS, ROWS>(p, &x, smem + segment * segment_bytes, &shared, segment,
                                          row, token0);
        }
        return;
    }
    const int32_t segment = thread / 128, owner = thread % 128;
    float4 *sums = (float4 *)(dynamic + skip + SEGMENTS * segment_bytes);
    float d[N / 2];
    slim_multiply<N, SEGMENTS, ROWS>(p, smem + segment * segment_bytes, &shared, segment, d);
    if (owner < Shape::OWNERS) {
#pragma unroll
        for (int32_t j = 0; j < N / 8; j++) {
            sums[segment * Shape::N_QUADS + j * Shape::OWNERS + owner] =
                make_float4(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]);
        }
    }
    cuda_bar_sync(1, Shape::MULTIPLIERS);
    cuda_launch_wait();
    const LinearTarget target = linear_target(p, row / CUDA_LINEAR_BLOCK);
    for (int32_t q = thread; q < Shape::N_QUADS; q += Shape::MULTIPLIERS) {
        float4 sum = sums[q];
#pragma unroll
        for (int32_t s = 1; s < SEGMENTS; s++) {
            float4 v = sums[s * Shape::N_QUADS + q];
            sum.x = __fadd_rn(sum.x, v.x), sum.y = __fadd_rn(sum.y, v.y);
            sum.z = __fadd_rn(sum.z, v.z), sum.w = __fadd_rn(sum.w, v.w);
        }
        int32_t from = q % Shape::OWNERS, token = token0 + q / Shape::OWNERS * 8 + from % 4 * 2;
        if (token < p.n_tokens) {
            linear_store_quad(p, target, row % CUDA_LINEAR_BLOCK + from / 32 * 16 + from % 32 / 4,
                              token, p.n_tokens, sum);
        }
    }
}

template <int N, int SEGMENTS, int ROWS>
static cudaError_t slim_launch(cudaStream_t stream, const LinearParams *params,
                               const CUtensorMap *x, bool dependent) {
    typedef SlimShape<N, SEGMENTS, ROWS> Shape;
    /* The last stage is read a block's length from its start. */
    size_t bytes = 1024 + (size_t)params->n_stages * SEGMENTS * Shape::STAGE_BYTES +
                   ((int)Shape::SUMS_BYTES > CUDA_LINEAR_BLOCK_BYTES ? (int)Shape::SUMS_BYTES
                                                                     : CUDA_LINEAR_BLOCK_BYTES);
    cudaError_t error = cudaFuncSetAttribute(
        slim_kernel<N, SEGMENTS, ROWS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (error != cudaSuccess) return error;
    int64_t n_units =
        (int64_t)((params->n_tokens + N - 1) / N) * params->row_blocks * (CUDA_LINEAR_BLOCK / ROWS);
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n_units);
    config.blockDim = dim3(Shape::THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, slim_kernel<N, SEGMENTS, ROWS>, *params, *x);
}

template <int N, int SEGMENTS>
static cudaError_t slim_launch_rows(cudaStream_t stream, const LinearParams *params,
                                    const CudaLinearPlan *plan, const CUtensorMap *x,
                                    bool dependent) {
    return plan->tile_rows == 16 ? slim_launch<N, SEGMENTS, 16>(stream, params, x, dependent)
                                 : slim_launch<N, SEGMENTS, 32>(stream, params, x, dependent);
}

template <int N>
static cudaError_t slim_launch_segments(cudaStream_t stream, const LinearParams *params,
                                        const CudaLinearPlan *plan, const CUtensorMap *x,
                                        bool dependent) {
    if (params->n_experts > 0) return cudaErrorInvalidValue;
    switch (params->n_segments) {
        case 2: return slim_launch_rows<N, 2>(stream, params, plan, x, dependent);
        case 4: return slim_launch_rows<N, 4>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}

cudaError_t cuda_linear_slim_launch(cudaStream_t stream, const LinearParams *params,
                                    const CudaLinearPlan *plan, const CUtensorMap *x,
                                    bool dependent) {
    switch (plan->tile_tokens) {
        case 8: return slim_launch_segments<8>(stream, params, plan, x, dependent);
        case 16: return slim_launch_segments<16>(stream, params, plan, x, dependent);
        case 32: return slim_launch_segments<32>(stream, params, plan, x, dependent);
        case 64: return slim_launch_segments<64>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}
