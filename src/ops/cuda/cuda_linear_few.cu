/* cuda_linear_few: up to eight tokens, bound by the bytes of the weights and by how soon a product
 * follows another.
 *
 * A CTA has four streams of weights: the segments of k of some rows, or fewer segments of more
 * rows. A stream has a lane that fetches, and a warp for each 16 rows that multiplies with
 * mma.sync.m16n8k16, which adds as wgmma does and waits less for the sums before. Weights are on
 * their way before the kernel in front has ended.
 *
 * Every CTA keeps the rows of all tokens in shared memory. With a norm it makes them there, so
 * that no kernel stands between the residual stream and the product. */
#include "ops/cuda/cuda_linear_priv.cuh"
#include "ops/cuda/cuda_norm.cuh"

enum {
    FEW_STREAMS = 4,
    FEW_STAGES_MAX = 32
};

/* PIECES: with a norm, how many times 2,048 columns k has at most; else 0. */
template <int SEGMENTS_, int ROWS_, int PIECES_>
struct FewShape {
    static constexpr int SEGMENTS = SEGMENTS_, ROWS = ROWS_, PIECES = PIECES_;
    static constexpr int TEAMS = FEW_STREAMS / SEGMENTS; /* of streams that work on the same rows */
    static constexpr int STREAM_WARPS = ROWS / 16;
    static constexpr int WARPS = FEW_STREAMS * STREAM_WARPS; /* that multiply */
    static constexpr int THREADS = (WARPS + FEW_STREAMS) * 32;
    static constexpr int STAGE_BYTES = ROWS * 128;
    /* A token is normalized by four warps, which stand for four of the norm's each. */
    static constexpr int GROUPS = WARPS / 4, TURNS = CUDA_NORM_WARPS / 4;
};

template <typename Shape>
struct FewShared {
    uint64_t full[FEW_STREAMS][FEW_STAGES_MAX], empty[FEW_STREAMS][FEW_STAGES_MAX];
    uint64_t rows_full;
    float4 sums[Shape::WARPS][32];
    float part[Shape::GROUPS][2][CUDA_NORM_WARPS];
};

/* The weights of a tile of rows in a block of columns. */
template <typename Shape>
static __device__ __forceinline__ const char *few_weights(const LinearParams &p, int32_t tile,
                                                          int32_t block) {
    const int32_t row = tile * Shape::ROWS;
    return p.w +
           ((int64_t)(row / CUDA_LINEAR_BLOCK) * p.k_blocks + block) * CUDA_LINEAR_BLOCK_BYTES +
           row % CUDA_LINEAR_BLOCK * 128;
}

/* The tiles of a stream: of its team. */
template <typename Shape>
static __device__ __forceinline__ int32_t few_first_tile(int32_t stream) {
    return (int32_t)blockIdx.x + stream / Shape::SEGMENTS * (int32_t)gridDim.x;
}

/* A fetching lane. */
template <typename Shape>
static __device__ __forceinline__ void few_fetch(const LinearParams &p, uint32_t stages,
                                                 FewShared<Shape> *shared, int32_t stream,
                                                 int32_t n_tiles) {
    const uint64_t policy = cuda_l2_evict_first();
    const int32_t begin = linear_segment(p, stream % Shape::SEGMENTS);
    const int32_t end = linear_segment(p, stream % Shape::SEGMENTS + 1);
    const int32_t step = Shape::TEAMS * (int32_t)gridDim.x;
    LinearStage ring = {0, 1};
    for (int32_t tile = few_first_tile<Shape>(stream); tile < n_tiles; tile += step) {
        for (int32_t block = begin; block < end; block++) {
            const uint32_t bar = cuda_smem_addr(&shared->full[stream][ring.at]);
            cuda_mbar_wait(cuda_smem_addr(&shared->empty[stream][ring.at]), ring.parity);
            cuda_mbar_arrive_expect(bar, Shape::STAGE_BYTES);
            cuda_bulk_load(stages + ring.at * Shape::STAGE_BYTES,
                           few_weights<Shape>(p, tile, block), Shape::STAGE_BYTES, bar, policy);
            linear_next(p, &ring);
        }
    }
}

/* ---- rows --------------------------------------------------------------------------------- */

/* From one row to the next: eight of them start in different banks. */
static __device__ __forceinline__ uint32_t few_row_bytes(const LinearParams &p) {
    return p.k_blocks * 128 + 16;
}

/* The rows as they are. Columns behind the last become zeros. */
template <typename Shape>
static __device__ __forceinline__ void few_copy_rows(const LinearParams &p, uint32_t rows,
                                                     FewShared<Shape> *shared) {
    const uint32_t bar = cuda_smem_addr(&shared->rows_full), bytes = p.k * 2;
    const int32_t n_left = p.k_blocks * 8 - p.k / 8;
    if ((int32_t)threadIdx.x < n_left * p.n_tokens)
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                         rows + (int32_t)threadIdx.x / n_left * few_row_bytes(p) + bytes +
                         (int32_t)threadIdx.x % n_left * 16),
                     "r"(0)
                     : "memory");
    if (threadIdx.x == 0) {
        cuda_launch_wait();
        cuda_mbar_arrive_expect(bar, p.n_tokens * bytes);
        for (int32_t t = 0; t < p.n_tokens; t++)
            cuda_bulk_load(rows + t * few_row_bytes(p), p.x + t * p.x_stride * 2, bytes, bar,
                           cuda_l2_evict_normal());
    }
    cuda_bar_sync(1, Shape::WARPS * 32);
    cuda_mbar_wait(bar, 0);
}

/* The pieces of four elements that a thread has, by turn and place. */
static __device__ __forceinline__ int32_t few_piece(int32_t turn, int32_t i) {
    const int32_t thread = (int32_t)threadIdx.x % 128;
    return i * CUDA_NORM_THREADS + (thread / 32 + 4 * turn) * 32 + thread % 32;
}

template <int TURNS, int PIECES>
static __device__ __forceinline__ void few_load(const float *row, int32_t n_pieces,
                                                float4 (&v)[TURNS][PIECES]) {
#pragma unroll
    for (int32_t turn = 0; turn < TURNS; turn++) {
#pragma unroll
        for (int32_t i = 0; i < PIECES; i++) {
            const int32_t piece = few_piece(turn, i);
            v[turn][i] = make_float4(0, 0, 0, 0);
            if (piece < n_pieces) v[turn][i] = __ldcg((const float4 *)row + piece);
        }
    }
}

/* The sum of squares of a row that four warps hold, in the order of cuda_norm. */
template <int TURNS, int PIECES>
static __device__ __forceinline__ float few_squares(const float4 (&v)[TURNS][PIECES], float *part) {
    const int32_t lane = (int32_t)threadIdx.x % 32;
#pragma unroll
    for (int32_t turn = 0; turn < TURNS; turn++) {
        float sum = 0;
#pragma unroll
        for (int32_t i = 0; i < PIECES; i++) sum = __fadd_rn(sum, cuda_norm_squares(v[turn][i]));
#pragma unroll
        for (int32_t d = 16; d > 0; d /= 2)
            sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffff, sum, d));
        if (lane == 0) part[(int32_t)threadIdx.x % 128 / 32 + 4 * turn] = sum;
    }
    cuda_bar_sync(2 + threadIdx.x / 128, 128);
    float sum = lane < CUDA_NORM_WARPS ? part[lane] : 0;
#pragma unroll
    for (int32_t d = 16; d > 0; d /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffff, sum, d));
    return sum;
}

template <int TURNS, int PIECES>
static __device__ __forceinline__ void few_store(uint32_t row, int32_t n_pieces, float scale,
                                                 const float4 (&v)[TURNS][PIECES],
                                                 const float4 (&w)[TURNS][PIECES]) {
#pragma unroll
    for (int32_t turn = 0; turn < TURNS; turn++) {
#pragma unroll
        for (int32_t i = 0; i < PIECES; i++) {
            const int32_t piece = few_piece(turn, i);
            if (piece >= n_pieces) continue;
            const float4 x = v[turn][i], by = w[turn][i];
            const __nv_bfloat162 a = __floats2bfloat162_rn(cuda_norm_value(x.x, scale, by.x),
                                                           cuda_norm_value(x.y, scale, by.y));
            const __nv_bfloat162 b = __floats2bfloat162_rn(cuda_norm_value(x.z, scale, by.z),
                                                           cuda_norm_value(x.w, scale, by.w));
            asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(row + piece * 8),
                         "r"(*(const uint32_t *)&a), "r"(*(const uint32_t *)&b)
                         : "memory");
        }
    }
}

/* The rows of the norm. */
template <typename Shape>
static __device__ __forceinline__ void few_norm_rows(const LinearParams &p, uint32_t rows,
                                                     FewShared<Shape> *shared) {
    const int32_t group = (int32_t)threadIdx.x / 128, n_pieces = p.k_blocks * 16;
    float4 w[Shape::TURNS][Shape::PIECES], v[Shape::TURNS][Shape::PIECES];
    few_load(p.norm.w, n_pieces, w);
    cuda_launch_wait();
    for (int32_t t = group; t < p.n_tokens; t += Shape::GROUPS) {
        few_load(p.norm.x + t * p.norm.stride, n_pieces, v);
        const float sum = few_squares(v, shared->part[group][t / Shape::GROUPS % 2]);
        const float scale = cuda_norm_scale(sum, 4 * n_pieces, p.norm.eps);
        few_store(rows + t * few_row_bytes(p), n_pieces, scale, v, w);
    }
    cuda_bar_sync(1, Shape::WARPS * 32);
}

/* ---- products ----------------------------------------------------------------------------- */

/* A warp's operands of a block of 64 columns. */
typedef struct FewBlock {
    uint32_t w[4][4], x[4][2];
} FewBlock;

static __device__ __forceinline__ void few_ldmatrix(uint32_t (&r)[4], uint32_t addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr)
                 : "memory");
}

/* w: the 16 rows of the warp with the 128-byte swizzle; x: where the lane's row starts (lanes of
 * tokens that are not there read another's). */
static __device__ __forceinline__ void few_read(FewBlock *b, uint32_t w, uint32_t x) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        few_ldmatrix(b->w[j], w + lane % 16 * 128 + (((2 * j + lane / 16) ^ lane % 8) << 4));
#pragma unroll
    for (uint32_t j = 0; j < 4; j += 2) {
        uint32_t r[4];
        few_ldmatrix(r, x + j * 32 + lane / 8 * 16);
        b->x[j][0] = r[0], b->x[j][1] = r[1], b->x[j + 1][0] = r[2], b->x[j + 1][1] = r[3];
    }
}

static __device__ __forceinline__ void few_multiply(float4 *d, const FewBlock &b) {
#pragma unroll
    for (int32_t j = 0; j < 4; j++)
        cuda_mma_warp(d->x, d->y, d->z, d->w, b.w[j], b.x[j][0], b.x[j][1]);
}

/* Waits for a block of a warp's stream, reads it and gives its stage back. */
template <typename Shape>
static __device__ __forceinline__ void few_take(const LinearParams &p, uint32_t stages,
                                                uint32_t rows, FewShared<Shape> *shared,
                                                int32_t stream, int32_t block, LinearStage *ring,
                                                FewBlock *b) {
    const int32_t warp = (int32_t)threadIdx.x / 32 % Shape::STREAM_WARPS;
    cuda_mbar_wait(cuda_smem_addr(&shared->full[stream][ring->at]), ring->parity);
    few_read(b, stages + ring->at * Shape::STAGE_BYTES + warp * 16 * 128, rows + block * 128);
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        cuda_mbar_arrive(cuda_smem_addr(&shared->empty[stream][ring->at]));
    linear_next(p, ring);
}

/* The sums of a stream's segment of a tile: a block is read while the one before is multiplied. */
template <typename Shape>
static __device__ __forceinline__ float4 few_sums(const LinearParams &p, uint32_t stages,
                                                  uint32_t rows, FewShared<Shape> *shared,
                                                  int32_t stream, LinearStage *ring) {
    const int32_t begin = linear_segment(p, stream % Shape::SEGMENTS);
    const int32_t end = linear_segment(p, stream % Shape::SEGMENTS + 1);
    float4 d = make_float4(0, 0, 0, 0);
    FewBlock a, b;
    few_take<Shape>(p, stages, rows, shared, stream, begin, ring, &a);
    int32_t block = begin + 1;
    for (; block + 1 < end; block += 2) {
        few_take<Shape>(p, stages, rows, shared, stream, block, ring, &b);
        few_multiply(&d, a);
        few_take<Shape>(p, stages, rows, shared, stream, block + 1, ring, &a);
        few_multiply(&d, b);
    }
    if (block < end) few_take<Shape>(p, stages, rows, shared, stream, block, ring, &b);
    few_multiply(&d, a);
    if (block < end) few_multiply(&d, b);
    return d;
}

/* Adds the segments' sums and finishes the tile. */
template <typename Shape>
static __device__ __forceinline__ void few_finish(const LinearParams &p, int32_t tile,
                                                  FewShared<Shape> *shared, float4 sum) {
    constexpr int TEAM_WARPS = Shape::SEGMENTS * Shape::STREAM_WARPS;
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    const int32_t first = warp / TEAM_WARPS * TEAM_WARPS, row = tile * Shape::ROWS;
    if (Shape::SEGMENTS > 1) {
        shared->sums[warp][lane] = sum;
        cuda_bar_sync(4 + first / TEAM_WARPS, TEAM_WARPS * 32);
    }
    const int32_t own = warp - first, token = lane % 4 * 2;
    if (own < Shape::STREAM_WARPS && token < p.n_tokens) {
#pragma unroll
        for (int32_t s = 1; s < Shape::SEGMENTS; s++) {
            const float4 v = shared->sums[warp + s * Shape::STREAM_WARPS][lane];
            sum.x = __fadd_rn(sum.x, v.x), sum.y = __fadd_rn(sum.y, v.y);
            sum.z = __fadd_rn(sum.z, v.z), sum.w = __fadd_rn(sum.w, v.w);
        }
        linear_store_quad(p, linear_target(p, row / CUDA_LINEAR_BLOCK),
                          row % CUDA_LINEAR_BLOCK + own * 16 + lane / 4, token, p.n_tokens, sum);
    }
    /* The sums have been read. */
    if (Shape::SEGMENTS > 1) cuda_bar_sync(4 + first / TEAM_WARPS, TEAM_WARPS * 32);
}

template <typename Shape>
static __global__ void __launch_bounds__(Shape::THREADS, 2)
    few_kernel(const __grid_constant__ LinearParams p) {
    extern __shared__ char dynamic[];
    __shared__ FewShared<Shape> shared;
    const uint32_t skip = -cuda_smem_addr(dynamic) & 1023;
    const uint32_t stages = cuda_smem_addr(dynamic) + skip;
    const uint32_t stream_bytes = p.n_stages * Shape::STAGE_BYTES;
    const uint32_t rows = stages + FEW_STREAMS * stream_bytes;
    const int32_t warp = (int32_t)threadIdx.x / 32;
    const int32_t n_tiles = p.row_blocks * (CUDA_LINEAR_BLOCK / Shape::ROWS);
    if (warp < FEW_STREAMS && threadIdx.x % 32 == 0) {
        for (int32_t i = 0; i < p.n_stages; i++) {
            cuda_mbar_init(cuda_smem_addr(&shared.full[warp][i]), 1);
            cuda_mbar_init(cuda_smem_addr(&shared.empty[warp][i]), Shape::STREAM_WARPS);
        }
        if (warp == 0) cuda_mbar_init(cuda_smem_addr(&shared.rows_full), 1);
        cuda_mbar_init_fence();
    }
    __syncthreads();
    cuda_launch_next();
    if (warp >= Shape::WARPS) {
        const int32_t stream = warp - Shape::WARPS;
        if (threadIdx.x % 32 == 0)
            few_fetch<Shape>(p, stages + stream * stream_bytes, &shared, stream, n_tiles);
        return;
    }
    const int32_t stream = warp / Shape::STREAM_WARPS;
    const int32_t step = Shape::TEAMS * (int32_t)gridDim.x;
    const uint32_t own_row =
        rows + min((int32_t)threadIdx.x % 8, p.n_tokens - 1) * few_row_bytes(p);
    LinearStage ring = {0, 0};
    if constexpr (Shape::PIECES > 0)
        few_norm_rows<Shape>(p, rows, &shared);
    else
        few_copy_rows<Shape>(p, rows, &shared);
    for (int32_t tile = few_first_tile<Shape>(stream); tile < n_tiles; tile += step) {
        const float4 sum =
            few_sums<Shape>(p, stages + stream * stream_bytes, own_row, &shared, stream, &ring);
        cuda_launch_wait();
        few_finish<Shape>(p, tile, &shared, sum);
    }
}

/* ---- launches ----------------------------------------------------------------------------- */

template <typename Shape>
static cudaError_t few_launch(cudaStream_t stream, const LinearParams *params,
                              const CudaLinearPlan *plan, bool dependent) {
    const size_t bytes = 1024 + (size_t)params->n_stages * FEW_STREAMS * Shape::STAGE_BYTES +
                         (size_t)params->n_tokens * (params->k_blocks * 128 + 16);
    cudaError_t error = cudaFuncSetAttribute(
        few_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (error != cudaSuccess) return error;
    const int32_t n_tiles = params->row_blocks * (CUDA_LINEAR_BLOCK / Shape::ROWS);
    const int32_t n_units = (n_tiles + Shape::TEAMS - 1) / Shape::TEAMS;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(n_units < plan->n_ctas ? n_units : plan->n_ctas));
    config.blockDim = dim3(Shape::THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, few_kernel<Shape>, *params);
}

template <int SEGMENTS, int ROWS>
static cudaError_t few_launch_norm(cudaStream_t stream, const LinearParams *params,
                                   const CudaLinearPlan *plan, bool dependent) {
    static_assert(CUDA_LINEAR_NORM_K_MAX == 2 * 4 * CUDA_NORM_THREADS, "");
    if (params->norm.x == NULL)
        return few_launch<FewShape<SEGMENTS, ROWS, 0>>(stream, params, plan, dependent);
    return params->k_blocks * CUDA_LINEAR_BLOCK <= 4 * CUDA_NORM_THREADS
               ? few_launch<FewShape<SEGMENTS, ROWS, 1>>(stream, params, plan, dependent)
               : few_launch<FewShape<SEGMENTS, ROWS, 2>>(stream, params, plan, dependent);
}

template <int SEGMENTS>
static cudaError_t few_launch_rows(cudaStream_t stream, const LinearParams *params,
                                   const CudaLinearPlan *plan, bool dependent) {
    return plan->tile_rows == 16
               ? few_launch_norm<SEGMENTS, 16>(stream, params, plan, dependent)
               : few_launch_norm<SEGMENTS, 32>(stream, params, plan, dependent);
}

cudaError_t cuda_linear_few_launch(cudaStream_t stream, const LinearParams *params,
                                   const CudaLinearPlan *plan, bool dependent) {
    if (params->n_experts > 0 || plan->n_stages > FEW_STAGES_MAX) return cudaErrorInvalidValue;
    switch (params->n_segments) {
        case 1: return few_launch_rows<1>(stream, params, plan, dependent);
        case 2: return few_launch_rows<2>(stream, params, plan, dependent);
        default: return few_launch_rows<4>(stream, params, plan, dependent);
    }
}
