/* cuda_linear_large: many tokens, bound by the tensor cores.
 *
 * Persistent CTAs of three warpgroups: one fetches, two multiply 64 rows of weights each by a
 * tile of tokens. With more than one segment a second set of registers holds the sum of those
 * finished. Two CTAs of a cluster may share a tile of tokens: each fetches half of it for both. */
#include "ops/cuda/cuda_linear_priv.cuh"

enum {
    LARGE_THREADS = 384,
    LARGE_STAGES_MAX = 8,
    LARGE_ROW_BLOCKS = 2,
    LARGE_SUMS_TOKENS = 32,                    /* of a warpgroup, on their way out */
    LARGE_SUMS_STRIDE = CUDA_LINEAR_BLOCK + 4, /* floats; banks 8 apart for tokens 2 apart */
    LARGE_SUMS_BYTES = LARGE_SUMS_TOKENS * LARGE_SUMS_STRIDE * 4,
    LARGE_GROUP_ROW_TILES = 16 /* tiles of rows that are walked together, so that L2 has them */
};

template <int N>
struct LargeShape {
    enum {
        A_BYTES = LARGE_ROW_BLOCKS * CUDA_LINEAR_BLOCK_BYTES,
        B_BYTES = N * 128,
        STAGE_BYTES = A_BYTES + B_BYTES
    };
};

typedef struct LargeShared {
    uint64_t full[LARGE_STAGES_MAX], empty[LARGE_STAGES_MAX];
    int32_t unit_start[CUDA_LINEAR_EXPERTS_MAX + 1];
} LargeShared;

/* What all roles walk through; a unit is a cluster's: CL tiles of 128 rows. */
typedef struct LargeWork {
    int32_t row_tiles, token_tiles, n_units;
    int32_t first, step;
} LargeWork;

/* The unit of the cluster; rows in groups of tiles, within a group the rows change first. */
template <int N, int CL, bool EXPERTS>
static __device__ __forceinline__ LinearUnit large_unit(const LinearParams &p,
                                                        const LargeWork &work,
                                                        const LargeShared *shared, int32_t u) {
    if (EXPERTS) return linear_unit_of_expert(p, N, work.row_tiles, shared->unit_start, u);
    const int32_t group_tiles = LARGE_GROUP_ROW_TILES / CL;
    int32_t group = u / (group_tiles * work.token_tiles);
    int32_t local = u - group * group_tiles * work.token_tiles;
    int32_t n = min(work.row_tiles - group * group_tiles, group_tiles);
    LinearUnit unit = {p.w, group * group_tiles + local % n, local / n * N, p.n_tokens};
    return unit;
}

template <int N, int CL, bool EXPERTS>
static __device__ void large_fetch(const LinearParams &p, const CUtensorMap *x, uint32_t smem,
                                   LargeShared *shared, const LargeWork &work) {
    typedef LargeShape<N> Shape;
    const uint64_t policy = cuda_l2_evict_last();
    const int32_t rank = CL > 1 ? (int32_t)cuda_cluster_rank() : 0;
    int32_t stage = 0;
    uint32_t parity = 1;
    for (int32_t u = work.first; u < work.n_units; u += work.step) {
        LinearUnit unit = large_unit<N, CL, EXPERTS>(p, work, shared, u);
        int32_t row_block = (unit.row_tile * CL + rank) * LARGE_ROW_BLOCKS;
        /* Past the last row the last block is read again; nobody looks at its sums. */
        const char *w0 = unit.w + (int64_t)min(row_block, p.row_blocks - 1) * p.k_blocks *
                                      CUDA_LINEAR_BLOCK_BYTES;
        const char *w1 = unit.w + (int64_t)min(row_block + 1, p.row_blocks - 1) * p.k_blocks *
                                      CUDA_LINEAR_BLOCK_BYTES;
        for (int32_t block = 0; block < p.k_blocks; block++) {
            uint32_t to = smem + stage * Shape::STAGE_BYTES;
            uint32_t bar = cuda_smem_addr(&shared->full[stage]);
            cuda_mbar_wait(cuda_smem_addr(&shared->empty[stage]), parity);
            cuda_mbar_arrive_expect(bar, Shape::STAGE_BYTES);
            cuda_bulk_load(to, w0, CUDA_LINEAR_BLOCK_BYTES, bar, policy);
            cuda_bulk_load(to + CUDA_LINEAR_BLOCK_BYTES, w1, CUDA_LINEAR_BLOCK_BYTES, bar, policy);
            w0 += CUDA_LINEAR_BLOCK_BYTES, w1 += CUDA_LINEAR_BLOCK_BYTES;
            if (CL == 1) {
                cuda_tma_load(to + Shape::A_BYTES, x, block * CUDA_LINEAR_BLOCK, unit.token, bar);
            } else {
                cuda_tma_load_multicast(to + Shape::A_BYTES + rank * (Shape::B_BYTES / CL), x,
                                        block * CUDA_LINEAR_BLOCK, unit.token + rank * (N / CL),
                                        bar, (uint16_t)((1 << CL) - 1));
            }
            if (++stage == p.n_stages) stage = 0, parity ^= 1;
        }
    }
    /* The others' copies and arrivals must find this CTA alive. */
    if (CL > 1) {
        for (int32_t i = 0; i < p.n_stages; i++) {
            cuda_mbar_wait(cuda_smem_addr(&shared->empty[stage]), parity);
            if (++stage == p.n_stages) stage = 0, parity ^= 1;
        }
    }
}

/* Tells the fetching lanes of all CTAs whose copies fill the stage that it was read. */
template <int CL>
static __device__ __forceinline__ void large_release(LargeShared *shared, int32_t stage) {
    uint32_t bar = cuda_smem_addr(&shared->empty[stage]);
    if (CL == 1) {
        if (threadIdx.x % 32 == 0) cuda_mbar_arrive(bar);
    } else {
        if (threadIdx.x % 32 < CL) cuda_mbar_arrive_cta(bar, threadIdx.x % 32);
    }
}

/* Eight finished values of one token, from row `row` of the target on; all of them, or those below
 * its n. */
static __device__ __forceinline__ void large_put8(const LinearParams &p, const LinearTarget &target,
                                                  int32_t row, int64_t token, const float (&v)[8]) {
    const bool f32 = p.out == CUDA_LINEAR_F32 || p.out == CUDA_LINEAR_F32_ADD;
    const int64_t at = token * target.stride + row;
    if (f32) {
        float *out = (float *)target.out + at;
        const bool add = p.out == CUDA_LINEAR_F32_ADD;
        if (row + 8 <= target.n && (uintptr_t)out % 16 == 0) {
#pragma unroll
            for (int32_t i = 0; i < 8; i += 4) {
                float4 o = add ? *(const float4 *)(out + i) : make_float4(0, 0, 0, 0);
                o = add ? make_float4(__fadd_rn(o.x, v[i]), __fadd_rn(o.y, v[i + 1]),
                                      __fadd_rn(o.z, v[i + 2]), __fadd_rn(o.w, v[i + 3]))
                        : make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
                *(float4 *)(out + i) = o;
            }
            return;
        }
#pragma unroll
        for (int32_t i = 0; i < 8; i++) {
            if (row + i < target.n) out[i] = add ? __fadd_rn(out[i], v[i]) : v[i];
        }
        return;
    }
    __nv_bfloat16 *out = (__nv_bfloat16 *)target.out + at;
    if (row + 8 <= target.n && (uintptr_t)out % 16 == 0) {
        uint4 packed;
        __nv_bfloat162 *pair = (__nv_bfloat162 *)&packed;
#pragma unroll
        for (int32_t i = 0; i < 4; i++) pair[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        *(uint4 *)out = packed;
        return;
    }
#pragma unroll
    for (int32_t i = 0; i < 8; i++) {
        if (row + i < target.n) out[i] = __float2bfloat16_rn(v[i]);
    }
}

/* Eight sums of one token with their bias, from shared memory; `odd` threads read the second half
 * first, so that eight threads meet all banks once. */
static __device__ __forceinline__ void large_take8(const LinearTarget &target, int32_t row,
                                                   const float *sums, bool odd, float (&v)[8]) {
    float4 first = *(const float4 *)(sums + 4 * odd), second = *(const float4 *)(sums + 4 * !odd);
    float4 lo = odd ? second : first, hi = odd ? first : second;
    v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w;
    v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
    if (target.bias == NULL) return;
#pragma unroll
    for (int32_t i = 0; i < 8; i++)
        v[i] = __fadd_rn(v[i], row + i < target.n_rows ? target.bias[row + i] : 0);
}

/* Finishes the 64 rows of a warpgroup: some tokens at a time go through shared memory, so that a
 * token's rows leave together. */
template <int N>
static __device__ __forceinline__ void large_store(const LinearParams &p, const LinearUnit &unit,
                                                   int32_t block, float *sums,
                                                   const float (&d)[N / 2]) {
    const int32_t thread = (int32_t)threadIdx.x % 128, lane = thread % 32;
    const uint32_t barrier = threadIdx.x / 128;
    const bool gated = p.out == CUDA_LINEAR_GATED;
    const int32_t pieces = gated ? 4 : 8; /* of eight outputs, in 64 rows */
    if (block >= p.row_blocks) return;
    const LinearTarget target = linear_target(p, block);
    float *mine = sums + lane % 4 * 2 * LARGE_SUMS_STRIDE + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int32_t j0 = 0; j0 < N / 8; j0 += LARGE_SUMS_TOKENS / 8) {
        cuda_bar_sync(barrier, 128);
#pragma unroll
        for (int32_t j = 0; j < LARGE_SUMS_TOKENS / 8; j++) {
            float *to = mine + j * 8 * LARGE_SUMS_STRIDE;
            to[0] = d[4 * (j0 + j)], to[LARGE_SUMS_STRIDE] = d[4 * (j0 + j) + 1];
            to[8] = d[4 * (j0 + j) + 2], to[LARGE_SUMS_STRIDE + 8] = d[4 * (j0 + j) + 3];
        }
        cuda_bar_sync(barrier, 128);
        for (int32_t i = thread; i < LARGE_SUMS_TOKENS * pieces; i += 128) {
            int32_t t = i / pieces, piece = i % pieces, token = unit.token + j0 * 8 + t;
            if (token >= unit.token_end) break;
            float v[8];
            if (gated) {
                float up[8];
                int32_t row = target.row + piece * 16;
                const float *from = sums + t * LARGE_SUMS_STRIDE + piece * 16;
                large_take8(target, row, from, piece & 2, v);
                large_take8(target, row + 8, from + 8, piece & 2, up);
#pragma unroll
                for (int32_t e = 0; e < 8; e++) v[e] = __fmul_rn(linear_act(p.act, v[e]), up[e]);
                large_put8(p, target, row / 2, token, v);
            } else {
                int32_t row = target.row + piece * 8;
                large_take8(target, row, sums + t * LARGE_SUMS_STRIDE + piece * 8, piece & 4, v);
                large_put8(p, target, row, token, v);
            }
        }
    }
}

/* Multiplies the blocks of one segment into d, and gives every stage back. */
template <int N, int CL>
static __device__ __forceinline__ void large_segment(const LinearParams &p, uint32_t smem,
                                                     LargeShared *shared, int32_t group,
                                                     int32_t n_blocks, int32_t *stage,
                                                     uint32_t *parity, float (&d)[N / 2]) {
    typedef LargeShape<N> Shape;
    int32_t last = -1;
    for (int32_t block = 0; block < n_blocks; block++) {
        uint32_t at = smem + *stage * Shape::STAGE_BYTES;
        uint64_t a = cuda_mma_desc(at + group * CUDA_LINEAR_BLOCK_BYTES);
        uint64_t b = cuda_mma_desc(at + Shape::A_BYTES);
        cuda_mbar_wait(cuda_smem_addr(&shared->full[*stage]), *parity);
        cuda_mma_fence();
#pragma unroll
        for (int32_t j = 0; j < 4; j++) cuda_mma<N>(d, a + j * 2, b + j * 2, block > 0 || j > 0);
        cuda_mma_commit();
        cuda_mma_wait<1>();
        if (last >= 0) large_release<CL>(shared, last);
        last = *stage;
        if (++*stage == p.n_stages) *stage = 0, *parity ^= 1;
    }
    cuda_mma_wait<0>();
    cuda_mma_pin(d);
    large_release<CL>(shared, last);
}

template <int N, bool SEGMENTS, int CL, bool EXPERTS>
static __device__ void large_multiply(const LinearParams &p, char *dynamic, uint32_t smem,
                                      LargeShared *shared, const LargeWork &work) {
    const int32_t group = (int32_t)threadIdx.x / 128 - 1;
    const int32_t rank = CL > 1 ? (int32_t)cuda_cluster_rank() : 0;
    float *sums =
        (float *)(dynamic + p.n_stages * LargeShape<N>::STAGE_BYTES + group * LARGE_SUMS_BYTES);
    int32_t stage = 0;
    uint32_t parity = 0;
    for (int32_t u = work.first; u < work.n_units; u += work.step) {
        LinearUnit unit = large_unit<N, CL, EXPERTS>(p, work, shared, u);
        int32_t block = (unit.row_tile * CL + rank) * LARGE_ROW_BLOCKS + group;
        float d[N / 2];
        if constexpr (SEGMENTS) {
            float sum[N / 2];
            large_segment<N, CL>(p, smem, shared, group, linear_segment(p, 1), &stage, &parity,
                                 sum);
            for (int32_t s = 1; s < p.n_segments; s++) {
                large_segment<N, CL>(p, smem, shared, group,
                                     linear_segment(p, s + 1) - linear_segment(p, s), &stage,
                                     &parity, d);
#pragma unroll
                for (int32_t i = 0; i < N / 2; i++) sum[i] = __fadd_rn(sum[i], d[i]);
            }
            large_store<N>(p, unit, block, sums, sum);
        } else {
            large_segment<N, CL>(p, smem, shared, group, p.k_blocks, &stage, &parity, d);
            large_store<N>(p, unit, block, sums, d);
        }
    }
}

template <int N, bool SEGMENTS, int CL, bool EXPERTS>
static __global__ void __launch_bounds__(LARGE_THREADS, 1)
    large_kernel(const __grid_constant__ LinearParams p, const __grid_constant__ CUtensorMap x) {
    extern __shared__ char dynamic[];
    __shared__ LargeShared shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t smem = cuda_smem_addr(dynamic) + skip;
    if (threadIdx.x == 0) {
        for (int32_t i = 0; i < p.n_stages; i++) {
            cuda_mbar_init(cuda_smem_addr(&shared.full[i]), 1);
            cuda_mbar_init(cuda_smem_addr(&shared.empty[i]), 8 * CL);
        }
        cuda_mbar_init_fence();
        cuda_tma_prefetch_map(&x);
    }
    if (CL > 1) {
        cuda_cluster_arrive();
        cuda_cluster_wait();
    } else {
        __syncthreads();
    }
    cuda_launch_next();
    cuda_launch_wait();
    LargeWork work;
    work.row_tiles = (p.row_blocks + LARGE_ROW_BLOCKS * CL - 1) / (LARGE_ROW_BLOCKS * CL);
    work.token_tiles = (p.n_tokens + N - 1) / N;
    work.first = (int32_t)blockIdx.x / CL;
    work.step = (int32_t)gridDim.x / CL;
    if (EXPERTS) {
        linear_units_of_experts(p, N, work.row_tiles, shared.unit_start);
        work.n_units = shared.unit_start[p.n_experts];
    } else {
        work.n_units = work.token_tiles * work.row_tiles;
    }
    if (threadIdx.x < 128) {
        cuda_regs_lower<24>();
        if (threadIdx.x == 0) large_fetch<N, CL, EXPERTS>(p, &x, smem, &shared, work);
    } else {
        cuda_regs_raise<240>();
        large_multiply<N, SEGMENTS, CL, EXPERTS>(p, dynamic + skip, smem, &shared, work);
    }
}

template <int N, bool SEGMENTS, int CL, bool EXPERTS>
static cudaError_t large_launch(cudaStream_t stream, const LinearParams *params,
                                const CudaLinearPlan *plan, const CUtensorMap *x, bool dependent) {
    size_t bytes =
        1024 + (size_t)params->n_stages * LargeShape<N>::STAGE_BYTES + 2 * LARGE_SUMS_BYTES;
    cudaError_t error =
        cudaFuncSetAttribute(large_kernel<N, SEGMENTS, CL, EXPERTS>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (error != cudaSuccess) return error;
    int64_t n_units = (int64_t)((params->n_tokens + N - 1) / N) *
                      ((params->row_blocks + LARGE_ROW_BLOCKS * CL - 1) / (LARGE_ROW_BLOCKS * CL));
    cudaLaunchAttribute attribute[2];
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = CL;
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(n_units * CL));
    config.blockDim = dim3(LARGE_THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = dependent ? 2 : 1;
    /* As many as run at once: a cluster has to find its place within a part of the chip. */
    static int n_resident;
    if (n_resident == 0) {
        error = cudaOccupancyMaxActiveClusters(&n_resident, large_kernel<N, SEGMENTS, CL, EXPERTS>,
                                               &config);
        if (error != cudaSuccess) return error;
    }
    int64_t n_clusters = plan->n_ctas / CL < n_resident ? plan->n_ctas / CL : n_resident;
    if (!EXPERTS && n_units < n_clusters) n_clusters = n_units;
    config.gridDim = dim3((unsigned)(n_clusters * CL));
    return cudaLaunchKernelEx(&config, large_kernel<N, SEGMENTS, CL, EXPERTS>, *params, *x);
}

template <int N, bool SEGMENTS>
static cudaError_t large_launch_cluster(cudaStream_t stream, const LinearParams *params,
                                        const CudaLinearPlan *plan, const CUtensorMap *x,
                                        bool dependent) {
    if (params->n_experts > 0) {
        if constexpr (SEGMENTS) {
            return cudaErrorInvalidValue;
        } else {
            return large_launch<N, SEGMENTS, 1, true>(stream, params, plan, x, dependent);
        }
    }
    if (plan->cluster == 2) {
        return large_launch<N, SEGMENTS, 2, false>(stream, params, plan, x, dependent);
    }
    return large_launch<N, SEGMENTS, 1, false>(stream, params, plan, x, dependent);
}

cudaError_t cuda_linear_large_launch(cudaStream_t stream, const LinearParams *params,
                                     const CudaLinearPlan *plan, const CUtensorMap *x,
                                     bool dependent) {
    bool segments = params->n_segments > 1;
    switch (plan->tile_tokens) {
        case 128:
            return segments ? large_launch_cluster<128, true>(stream, params, plan, x, dependent)
                            : large_launch_cluster<128, false>(stream, params, plan, x, dependent);
        case 192:
            return segments ? large_launch_cluster<192, true>(stream, params, plan, x, dependent)
                            : large_launch_cluster<192, false>(stream, params, plan, x, dependent);
        case 256:
            if (segments) return cudaErrorInvalidValue;
            return large_launch_cluster<256, false>(stream, params, plan, x, dependent);
        default: return cudaErrorInvalidValue;
    }
}
