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
    const uint64_t policy = cuda_l2_evict_normal();
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

/* Eight bf16 of one token from row `row` of the outputs on; those below n. */
static __device__ __forceinline__ void large_put_bf16(const LinearTarget &target, bool vector,
                                                      int32_t row, int64_t token, uint4 v) {
    __nv_bfloat16 *out = (__nv_bfloat16 *)target.out + token * target.stride + row;
    if (vector && row + 8 <= target.n) {
        *(uint4 *)out = v;
        return;
    }
    const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int32_t i = 0; i < 8; i++) {
        if (row + i < target.n) {
            ((uint16_t *)out)[i] = (uint16_t)(i % 2 == 0 ? pair[i / 2] : pair[i / 2] >> 16);
        }
    }
}

static __device__ __forceinline__ uint32_t large_pair(float lo, float hi) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&pair;
}

/* Finishes 64 rows as bf16, or as half as many gated values: 64 tokens at a time are transposed
 * through shared memory, so that the values of a token leave together. */
template <int N, bool GATED>
static __device__ __forceinline__ void large_store_bf16(const LinearParams &p,
                                                        const LinearTarget &target,
                                                        const LinearUnit &unit, uint32_t sums,
                                                        const float (&d)[N / 2]) {
    const int32_t thread = (int32_t)threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const uint32_t barrier = threadIdx.x / 128;
    const bool vector = ((uintptr_t)target.out | (uintptr_t)(target.stride * 2)) % 16 == 0;
    const int32_t row = target.row + warp * 16 + lane / 4;
    /* Where this lane's row of the four 8 x 8 matrices of an stmatrix goes. */
    const int32_t matrix = lane / 8, line = lane % 8;
#pragma unroll
    for (int32_t j0 = 0; j0 < N / 8; j0 += 8) {
        cuda_bar_sync(barrier, 128);
#pragma unroll
        for (int32_t j = 0; j < 8; j += GATED ? 4 : 2) {
            uint32_t r[4], to;
            if (GATED) {
#pragma unroll
                for (int32_t m = 0; m < 4; m++) {
                    const float *q = &d[4 * (j0 + j + m)];
                    float4 v = linear_quad_bias(target, row, make_float4(q[0], q[1], q[2], q[3]));
                    r[m] = large_pair(__fmul_rn(linear_act(p.act, v.x), v.z),
                                      __fmul_rn(linear_act(p.act, v.y), v.w));
                }
                int32_t token = (j + matrix) * 8 + line;
                to = sums + token * 64 + ((warp ^ (token / 2 & 3)) * 16);
            } else {
#pragma unroll
                for (int32_t m = 0; m < 2; m++) {
                    const float *q = &d[4 * (j0 + j + m)];
                    float4 v = linear_quad_bias(target, row, make_float4(q[0], q[1], q[2], q[3]));
                    r[2 * m] = large_pair(v.x, v.y), r[2 * m + 1] = large_pair(v.z, v.w);
                }
                int32_t token = (j + matrix / 2) * 8 + line;
                to = sums + token * 128 + (((warp * 2 + matrix % 2) ^ line) * 16);
            }
            asm volatile(
                "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                : "memory");
        }
        cuda_bar_sync(barrier, 128);
        const int32_t pieces = GATED ? 4 : 8; /* of a token */
        const int32_t piece = thread % pieces;
#pragma unroll
        for (int32_t i = 0; i < 64; i += 128 / pieces) {
            int32_t t = thread / pieces + i, token = unit.token + j0 * 8 + t;
            uint32_t from = GATED ? sums + t * 64 + ((piece ^ (t / 2 & 3)) * 16)
                                  : sums + t * 128 + ((piece ^ t % 8) * 16);
            uint4 v;
            asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                         : "r"(from)
                         : "memory");
            if (token < unit.token_end) {
                large_put_bf16(target, vector, target.row / (GATED ? 2 : 1) + piece * 8, token, v);
            }
        }
    }
}

/* Finishes 64 rows as f32, 32 tokens at a time. */
template <int N>
static __device__ __forceinline__ void large_store_f32(const LinearParams &p,
                                                       const LinearTarget &target,
                                                       const LinearUnit &unit, float *sums,
                                                       const float (&d)[N / 2]) {
    const int32_t thread = (int32_t)threadIdx.x % 128, lane = thread % 32;
    const uint32_t barrier = threadIdx.x / 128;
    const bool add = p.out == CUDA_LINEAR_F32_ADD;
    const int32_t row = target.row + thread % 16 * 4;
    const bool vector =
        ((uintptr_t)target.out | (uintptr_t)(target.stride * 4)) % 16 == 0 && row + 4 <= target.n;
    float bias[4] = {};
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        if (target.bias != NULL && row + i < target.n) bias[i] = target.bias[row + i];
    }
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
#pragma unroll
        for (int32_t i = 0; i < LARGE_SUMS_TOKENS; i += 8) {
            int32_t t = thread / 16 + i, token = unit.token + j0 * 8 + t;
            if (token >= unit.token_end) continue;
            float4 v = *(const float4 *)(sums + t * LARGE_SUMS_STRIDE + thread % 16 * 4);
            if (target.bias != NULL) {
                v = make_float4(__fadd_rn(v.x, bias[0]), __fadd_rn(v.y, bias[1]),
                                __fadd_rn(v.z, bias[2]), __fadd_rn(v.w, bias[3]));
            }
            float *out = (float *)target.out + token * target.stride + row;
            if (vector && add) {
                cuda_red_add(out, v);
            } else if (vector) {
                *(float4 *)out = v;
            } else {
                const float one[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int32_t e = 0; e < 4; e++) {
                    if (row + e < target.n) linear_store_f32(p, out + e, one[e]);
                }
            }
        }
    }
}

/* Finishes the 64 rows of a warpgroup. */
template <int N>
static __device__ __forceinline__ void large_store(const LinearParams &p, const LinearUnit &unit,
                                                   int32_t block, float *sums,
                                                   const float (&d)[N / 2]) {
    if (block >= p.row_blocks) return;
    const LinearTarget target = linear_target(p, block);
    if (p.out == CUDA_LINEAR_BF16) {
        large_store_bf16<N, false>(p, target, unit, cuda_smem_addr(sums), d);
    } else if (p.out == CUDA_LINEAR_GATED) {
        large_store_bf16<N, true>(p, target, unit, cuda_smem_addr(sums), d);
    } else {
        large_store_f32<N>(p, target, unit, sums, d);
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
