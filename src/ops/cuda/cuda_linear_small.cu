/* cuda_linear_small: few tokens, bound by the bytes of the weights.
 *
 * A CTA has one or two warpgroups that multiply, 64 rows each, and a warp that fetches. With
 * more than one segment a cluster has a CTA for each, with one unit of work; they push their
 * sums to each other, and each adds a share of the quads over all segments in order. */
#include "ops/cuda/cuda_linear_priv.cuh"

enum { SMALL_STAGES_MAX = 16 };

template <int N, int WGS>
struct SmallShape {
    enum {
        STAGE_BLOCKS = N <= 32 ? 2 : 1,
        THREADS = WGS * 128,
        N_QUADS = N / 8 * THREADS,
        A_WG_BYTES = STAGE_BLOCKS * CUDA_LINEAR_BLOCK_BYTES,
        A_BYTES = WGS * A_WG_BYTES,
        B_BLOCK_BYTES = N * 128,
        STAGE_BYTES = A_BYTES + STAGE_BLOCKS * B_BLOCK_BYTES
    };
};

/* The shared memory beside the stages. */
typedef struct SmallShared {
    uint64_t full[SMALL_STAGES_MAX], empty[SMALL_STAGES_MAX];
    uint64_t sums_full;
    int32_t unit_start[CUDA_LINEAR_EXPERTS_MAX + 1];
} SmallShared;

/* What both roles walk through. */
typedef struct SmallWork {
    int32_t row_tiles, n_units;
    int32_t first, step; /* units of this CTA */
    int32_t begin, end;  /* blocks of its segment */
} SmallWork;

template <int N, bool EXPERTS>
static __device__ __forceinline__ LinearUnit small_unit(const LinearParams &p,
                                                        const SmallWork &work,
                                                        const SmallShared *shared, int32_t u) {
    if (EXPERTS) return linear_unit_of_expert(p, N, work.row_tiles, shared->unit_start, u);
    int32_t token_tiles = (p.n_tokens + N - 1) / N;
    LinearUnit unit = {p.w, u / token_tiles, u % token_tiles * N, p.n_tokens};
    return unit;
}

/* Announces the bytes of a stage and fetches its weights. */
template <int N, int WGS>
static __device__ __forceinline__ void small_fetch_weights(const LinearParams &p,
                                                           const LinearUnit &unit, int32_t block,
                                                           int32_t n, uint32_t to, uint32_t bar,
                                                           uint64_t policy) {
    typedef SmallShape<N, WGS> Shape;
    cuda_mbar_arrive_expect(bar, n * (WGS * CUDA_LINEAR_BLOCK_BYTES + Shape::B_BLOCK_BYTES));
    for (int32_t g = 0; g < WGS; g++) {
        /* Past the last row the last block is read again; nobody looks at its sums. */
        int32_t row_block = min(unit.row_tile * WGS + g, p.row_blocks - 1);
        const char *from =
            unit.w + ((int64_t)row_block * p.k_blocks + block) * CUDA_LINEAR_BLOCK_BYTES;
        cuda_bulk_load(to + g * Shape::A_WG_BYTES, from, n * CUDA_LINEAR_BLOCK_BYTES, bar, policy);
    }
}

/* The fetching lane. As many weights as the stages hold are on their way before it waits for the
 * kernel before this one. */
template <int N, int WGS, bool EXPERTS>
static __device__ void small_fetch(const LinearParams &p, const CUtensorMap *x, uint32_t smem,
                                   SmallShared *shared, const SmallWork &work) {
    typedef SmallShape<N, WGS> Shape;
    const uint64_t policy = cuda_l2_evict_first();
    int32_t n_early = 0;
    if (!EXPERTS && work.first < work.n_units) {
        LinearUnit unit = small_unit<N, EXPERTS>(p, work, shared, work.first);
        for (int32_t block = work.begin; block < work.end && n_early < p.n_stages; n_early++) {
            int32_t n = min(work.end - block, (int32_t)Shape::STAGE_BLOCKS);
            small_fetch_weights<N, WGS>(p, unit, block, n, smem + n_early * Shape::STAGE_BYTES,
                                        cuda_smem_addr(&shared->full[n_early]), policy);
            block += n;
        }
        cuda_launch_wait();
    }
    int32_t stage = 0;
    uint32_t parity = 1;
    for (int32_t u = work.first; u < work.n_units; u += work.step) {
        LinearUnit unit = small_unit<N, EXPERTS>(p, work, shared, u);
        for (int32_t block = work.begin; block < work.end; block += Shape::STAGE_BLOCKS) {
            int32_t n = min(work.end - block, (int32_t)Shape::STAGE_BLOCKS);
            uint32_t to = smem + stage * Shape::STAGE_BYTES;
            uint32_t bar = cuda_smem_addr(&shared->full[stage]);
            if (n_early > 0) {
                n_early--;
            } else {
                cuda_mbar_wait(cuda_smem_addr(&shared->empty[stage]), parity);
                small_fetch_weights<N, WGS>(p, unit, block, n, to, bar, policy);
            }
            for (int32_t b = 0; b < n; b++) {
                cuda_tma_load(to + Shape::A_BYTES + b * Shape::B_BLOCK_BYTES, x,
                              (block + b) * CUDA_LINEAR_BLOCK, unit.token, bar);
            }
            if (++stage == p.n_stages) stage = 0, parity ^= 1;
        }
    }
}

/* Adds the sums of all segments: every CTA of the cluster pushes each quad to the one that adds
 * it up, and finishes its share. The sums stand where the stages were. */
template <int N, int WGS>
static __device__ __forceinline__ void small_reduce(const LinearParams &p, const LinearUnit &unit,
                                                    SmallShared *shared, uint32_t sums_addr,
                                                    const float4 *sums, const float (&d)[N / 2]) {
    typedef SmallShape<N, WGS> Shape;
    const int32_t thread = (int32_t)threadIdx.x, rank = (int32_t)cuda_cluster_rank();
    const int32_t share = Shape::N_QUADS / p.n_segments;
    const uint32_t bar = cuda_smem_addr(&shared->sums_full);
    /* All have read their stages; the fetching warps have left. */
    cuda_cluster_arrive();
    cuda_cluster_wait();
#pragma unroll
    for (int32_t j = 0; j < N / 8; j++) {
        int32_t q = j * Shape::THREADS + thread;
        cuda_cluster_push(sums_addr + (rank * share + q % share) * 16, bar, q / share,
                          make_float4(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]));
    }
    cuda_mbar_wait(bar, 0);
    for (int32_t i = thread; i < share; i += Shape::THREADS) {
        float4 sum = sums[i];
        for (int32_t s = 1; s < p.n_segments; s++) {
            float4 v = sums[s * share + i];
            sum.x = __fadd_rn(sum.x, v.x), sum.y = __fadd_rn(sum.y, v.y);
            sum.z = __fadd_rn(sum.z, v.z), sum.w = __fadd_rn(sum.w, v.w);
        }
        int32_t q = rank * share + i, owner = q % Shape::THREADS;
        int32_t token = unit.token + q / Shape::THREADS * 8 + owner % 4 * 2;
        int32_t block = unit.row_tile * WGS + owner / 128;
        if (block < p.row_blocks && token < unit.token_end) {
            linear_store_quad(p, linear_target(p, block), owner % 128 / 32 * 16 + owner % 32 / 4,
                              token, unit.token_end, sum);
        }
    }
}

/* A multiplying warpgroup. */
template <int N, int WGS, bool EXPERTS>
static __device__ void small_multiply(const LinearParams &p, char *stages, uint32_t smem,
                                      SmallShared *shared, const SmallWork &work) {
    typedef SmallShape<N, WGS> Shape;
    const int32_t thread = (int32_t)threadIdx.x, lane = thread % 32, group = thread / 128;
    int32_t stage = 0;
    uint32_t parity = 0;
    float d[N / 2];
    cuda_launch_wait();
    for (int32_t u = work.first; u < work.n_units; u += work.step) {
        LinearUnit unit = small_unit<N, EXPERTS>(p, work, shared, u);
        int32_t last = -1;
        for (int32_t block = work.begin; block < work.end; block += Shape::STAGE_BLOCKS) {
            int32_t n = min(work.end - block, (int32_t)Shape::STAGE_BLOCKS);
            uint32_t at = smem + stage * Shape::STAGE_BYTES;
            uint64_t a = cuda_mma_desc(at + group * Shape::A_WG_BYTES);
            uint64_t b = cuda_mma_desc(at + Shape::A_BYTES);
            cuda_mbar_wait(cuda_smem_addr(&shared->full[stage]), parity);
            for (int32_t i = 0; i < n; i++) {
                cuda_mma_fence();
#pragma unroll
                for (int32_t j = 0; j < 4; j++) {
                    cuda_mma<N>(d, a + j * 2 + i * (CUDA_LINEAR_BLOCK_BYTES >> 4),
                                b + j * 2 + i * (Shape::B_BLOCK_BYTES >> 4),
                                block > work.begin || i > 0 || j > 0);
                }
                cuda_mma_commit();
            }
            cuda_mma_wait<1>();
            if (last >= 0 && lane == 0) cuda_mbar_arrive(cuda_smem_addr(&shared->empty[last]));
            last = stage;
            if (++stage == p.n_stages) stage = 0, parity ^= 1;
        }
        cuda_mma_wait<0>();
        cuda_mma_pin(d);
        if (lane == 0) cuda_mbar_arrive(cuda_smem_addr(&shared->empty[last]));
        if (p.n_segments > 1) {
            small_reduce<N, WGS>(p, unit, shared, smem, (const float4 *)stages, d);
            break;
        }
        int32_t block = unit.row_tile * WGS + group;
        if (block >= p.row_blocks) continue;
        LinearTarget target = linear_target(p, block);
#pragma unroll
        for (int32_t j = 0; j < N / 8; j++) {
            int32_t token = unit.token + j * 8 + lane % 4 * 2;
            if (token >= unit.token_end) continue;
            linear_store_quad(p, target, thread % 128 / 32 * 16 + lane / 4, token, unit.token_end,
                              make_float4(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]));
        }
    }
}

template <int N, int WGS, bool EXPERTS>
static __global__ void __launch_bounds__(WGS * 128 + 32)
    small_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ CUtensorMap x) {
    typedef SmallShape<N, WGS> Shape;
    extern __shared__ char dynamic[];
    __shared__ SmallShared shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    if (threadIdx.x == 0) {
        for (int32_t i = 0; i < p.n_stages; i++) {
            cuda_mbar_init(cuda_smem_addr(&shared.full[i]), 1);
            cuda_mbar_init(cuda_smem_addr(&shared.empty[i]), WGS * 4);
        }
        cuda_mbar_init(cuda_smem_addr(&shared.sums_full), 1);
        if (p.n_segments > 1) {
            cuda_mbar_arrive_expect(cuda_smem_addr(&shared.sums_full), Shape::N_QUADS * 16);
        }
        cuda_mbar_init_fence();
        cuda_tma_prefetch_map(&x);
    }
    __syncthreads();
    cuda_launch_next();
    /* Nobody pushes to a CTA before the wait. */
    if (p.n_segments > 1) cuda_cluster_arrive();
    SmallWork work;
    work.row_tiles = (p.row_blocks + WGS - 1) / WGS;
    work.first = (int32_t)blockIdx.x / p.n_segments;
    work.step = (int32_t)gridDim.x / p.n_segments;
    work.begin = linear_segment(p, (int32_t)blockIdx.x % p.n_segments);
    work.end = linear_segment(p, (int32_t)blockIdx.x % p.n_segments + 1);
    if (EXPERTS) {
        cuda_launch_wait();
        linear_units_of_experts(p, N, work.row_tiles, shared.unit_start);
        work.n_units = shared.unit_start[p.n_experts];
    } else {
        work.n_units = (p.n_tokens + N - 1) / N * work.row_tiles;
    }
    if (threadIdx.x >= Shape::THREADS) {
        if (threadIdx.x == Shape::THREADS) {
            small_fetch<N, WGS, EXPERTS>(p, &x, smem, &shared, work);
        }
        __syncwarp();
        if (p.n_segments > 1) cuda_cluster_wait();
    } else {
        if (p.n_segments > 1) cuda_cluster_wait();
        small_multiply<N, WGS, EXPERTS>(p, dynamic + skip, smem, &shared, work);
    }
}

template <int N, int WGS, bool EXPERTS>
static cudaError_t small_launch(cudaStream_t stream, const LinearParams *params, int32_t n_ctas,
                                const CUtensorMap *x, bool dependent) {
    typedef SmallShape<N, WGS> Shape;
    if (params->n_segments > 1 && params->n_stages * Shape::STAGE_BYTES < Shape::N_QUADS * 16) {
        return cudaErrorInvalidValue;
    }
    size_t bytes = 1024 + (size_t)params->n_stages * Shape::STAGE_BYTES;
    cudaError_t error = cudaFuncSetAttribute(
        small_kernel<N, WGS, EXPERTS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (error != cudaSuccess) return error;
    cudaLaunchAttribute attribute[2];
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = (unsigned)params->n_segments;
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n_ctas);
    config.blockDim = dim3(WGS * 128 + 32);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = dependent ? 2 : 1;
    return cudaLaunchKernelEx(&config, small_kernel<N, WGS, EXPERTS>, *params, *x);
}

template <int N, int WGS>
static cudaError_t small_launch_units(cudaStream_t stream, const LinearParams *params,
                                      const CudaLinearPlan *plan, const CUtensorMap *x,
                                      bool dependent) {
    int64_t n_ctas = plan->n_ctas / params->n_segments;
    if (params->n_experts > 0) {
        return small_launch<N, WGS, true>(stream, params, (int32_t)n_ctas, x, dependent);
    }
    int64_t n_units =
        (int64_t)((params->n_tokens + N - 1) / N) * ((params->row_blocks + WGS - 1) / WGS);
    if (n_units < n_ctas || params->n_segments > 1) n_ctas = n_units;
    n_ctas *= params->n_segments;
    return small_launch<N, WGS, false>(stream, params, (int32_t)n_ctas, x, dependent);
}

template <int N>
static cudaError_t small_launch_rows(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent) {
    if (plan->tile_rows == 128) {
        return small_launch_units<N, 2>(stream, params, plan, x, dependent);
    }
    return small_launch_units<N, 1>(stream, params, plan, x, dependent);
}

cudaError_t cuda_linear_small_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent) {
    switch (plan->tile_tokens) {
        case 8: return small_launch_rows<8>(stream, params, plan, x, dependent);
        case 16: return small_launch_rows<16>(stream, params, plan, x, dependent);
        case 32: return small_launch_rows<32>(stream, params, plan, x, dependent);
        case 64: return small_launch_rows<64>(stream, params, plan, x, dependent);
        case 128: return small_launch_rows<128>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}
