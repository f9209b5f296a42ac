/* cuda_linear: packing, the choice of segments and of the kernel, the launch. */
#include "ops/cuda/cuda_linear.cuh"

#include "ops/cuda/cuda_linear_priv.cuh"
#include "ops/cuda/cuda_norm.cuh"

/* One thread a 16-byte piece of a source row; columns past k are left alone but for the last
 * piece. */
static __global__ void linear_pack_kernel(const char *src, int64_t stride, int32_t n, int32_t k,
                                          CudaLinearRows rows, char *dst) {
    int32_t pieces = k / 8;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)n * pieces) return;
    int32_t row = (int32_t)(i / pieces), column = (int32_t)(i % pieces) * 8;
    int32_t to = rows == CUDA_LINEAR_ROWS_PLAIN
                     ? row
                     : row / 8 * 16 + row % 8 + (rows == CUDA_LINEAR_ROWS_UP) * 8;
    *(uint4 *)(dst + cuda_linear_offset(to, column, k)) =
        *(const uint4 *)(src + (row * stride + column) * 2);
}

cudaError_t cuda_linear_pack(cudaStream_t stream, const void *src, int64_t stride, int32_t n,
                             int32_t k, CudaLinearRows rows, void *dst) {
    if (k % 8 != 0 || stride % 8 != 0 || (uintptr_t)src % 16 != 0) return cudaErrorInvalidValue;
    int64_t n_pieces = (int64_t)n * (k / 8);
    if (n_pieces == 0) return cudaSuccess;
    linear_pack_kernel<<<(unsigned)((n_pieces + 255) / 256), 256, 0, stream>>>(
        (const char *)src, stride, n, k, rows, (char *)dst);
    return cudaGetLastError();
}

/* Enough pieces of 128 rows by a segment to occupy three quarters of 132 multiprocessors, as
 * long as a segment has at least 256 columns. */
int32_t cuda_linear_segments(int64_t n, int64_t k) {
    int64_t row_tiles = (n + 127) / 128;
    int32_t n_segments = 1;
    while (n_segments < 4 && row_tiles * n_segments < 96 && k >= 512 * n_segments) n_segments *= 2;
    return n_segments;
}

/* Packed rows of a part: its outputs, or pairs of 16. */
static int64_t linear_part_blocks(const CudaLinearArgs *args, int32_t i) {
    int64_t n = args->part[i].n;
    if (args->out == CUDA_LINEAR_GATED) n = (n + 7) / 8 * 16;
    return (n + CUDA_LINEAR_BLOCK - 1) / CUDA_LINEAR_BLOCK;
}

static int64_t linear_row_blocks(const CudaLinearArgs *args) {
    int64_t n_blocks = 0;
    for (int32_t i = 0; i < args->n_parts; i++) n_blocks += linear_part_blocks(args, i);
    return n_blocks;
}

static int32_t linear_segments(const CudaLinearArgs *args) {
    if (args->n_experts > 0 || args->whole) return 1;
    return cuda_linear_segments(linear_row_blocks(args) * CUDA_LINEAR_BLOCK, args->k);
}

/* Shared memory of a multiprocessor that stages may take, beside barriers and sums. */
enum { LINEAR_STAGES_BYTES = 220 << 10, LINEAR_HALF_STAGES = 6 };

static int64_t linear_div_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Tiles of a plan of the large kernel. */
static int32_t linear_tiles(int64_t row_blocks, int32_t n_tokens, const CudaLinearPlan *plan) {
    return (int32_t)(linear_div_up(row_blocks, plan->tile_rows / CUDA_LINEAR_BLOCK) *
                     linear_div_up(n_tokens, plan->tile_tokens));
}

/* Nanoseconds of a plan of the large kernel, over all rounds of the CTAs. Measured on an H200 at
 * its limit of power: a block of columns; what a tile takes besides, and a segment of it; and a tile
 * that is made by several, whose sums go to memory and back. */
static int64_t linear_nanoseconds(const CudaLinearArgs *args, const CudaLinearPlan *plan,
                                  int32_t n_segments) {
    const int32_t tokens = plan->tile_tokens;
    const bool tall = plan->tile_rows == 256;
    const int64_t block = tall ? 900 : tokens == 128 ? 510 : tokens == 192 ? 590 : 800;
    const int64_t n_blocks = linear_div_up(args->k, CUDA_LINEAR_BLOCK);
    if (plan->split) return linear_div_up(n_blocks, n_segments) * block + 34 * tokens;
    if (plan->twin) return linear_div_up(n_blocks, 2) * block + 60 * tokens;
    const int64_t n_tiles = linear_tiles(linear_row_blocks(args), args->n_tokens, plan);
    const int64_t rest = (tall ? 10 : 5) * tokens + 600 + (n_segments - 1) * 800;
    const int64_t last = plan->halves ? n_blocks * 510 + rest + 2000 : n_blocks * block + rest;
    return (linear_div_up(n_tiles, CUDA_LINEAR_CTAS_MAX) - 1) * (n_blocks * block + rest) + last;
}

/* Whether the tiles of the last round, in halves, fit one. */
static bool linear_halves(int32_t n_tiles) {
    const int32_t n_last = n_tiles % CUDA_LINEAR_CTAS_MAX;
    return n_tiles > n_last && n_last > 0 && 2 * n_last <= CUDA_LINEAR_CTAS_MAX;
}

/* The plan of the large kernel that takes the least time: the tokens of a tile, and whether its
 * segments are apart. */
static CudaLinearPlan linear_plan_large(const CudaLinearArgs *args, int32_t n_segments) {
    CudaLinearPlan best = {};
    int64_t best_ns = INT64_MAX;
    for (int32_t tokens = 128; tokens <= 256; tokens += 64) {
        for (int32_t split = 0; split <= (n_segments > 1 && args->sums != NULL); split++) {
            CudaLinearPlan plan = {true, tokens, 128, 6, CUDA_LINEAR_CTAS_MAX, split == 1, false};
            if (tokens > 128) plan.n_stages = tokens == 256 ? 4 : 5;
            const int32_t n_tiles = linear_tiles(linear_row_blocks(args), args->n_tokens, &plan);
            if (split && n_tiles * n_segments > CUDA_LINEAR_CTAS_MAX) continue;
            plan.halves = tokens == CUDA_LINEAR_TOKENS_MAX && linear_halves(n_tiles);
            const int64_t ns = linear_nanoseconds(args, &plan, n_segments);
            if (ns <= best_ns) best_ns = ns, best = plan;
        }
    }
    CudaLinearPlan twin = {true, 256, 128, 4, CUDA_LINEAR_CTAS_MAX, false, false};
    twin.twin = n_segments == 4 && args->sums != NULL &&
                2 * linear_tiles(linear_row_blocks(args), args->n_tokens, &twin) <=
                    CUDA_LINEAR_CTAS_MAX;
    if (twin.twin && linear_nanoseconds(args, &twin, 4) < best_ns) return twin;
    CudaLinearPlan tall = {true, 128, 256, 4, CUDA_LINEAR_CTAS_MAX, false, false};
    if (n_segments == 1 && linear_nanoseconds(args, &tall, 1) < best_ns) return tall;
    return best;
}

bool cuda_linear_can_norm(int64_t n_tokens, int64_t k) {
    return n_tokens <= CUDA_LINEAR_NORM_TOKENS && k >= CUDA_NORM_WIDE &&
           k <= CUDA_LINEAR_NORM_K_MAX && k % CUDA_LINEAR_BLOCK == 0;
}

/* What the rows of the kernel for few tokens take of shared memory. */
static int32_t linear_few_bytes(const CudaLinearArgs *args) {
    return args->n_tokens * (args->k * 2 + 16);
}

static bool linear_is_few(const CudaLinearArgs *args) {
    if (args->norm.x != NULL) return true;
    return args->n_experts == 0 && args->n_tokens <= CUDA_LINEAR_NORM_TOKENS &&
           linear_few_bytes(args) <= 66 << 10;
}

/* Nearly all shared memory: where two kernels fit beside each other, the weights of the second
 * delay what the first waits for. Few rows of a long k occupy more multiprocessors in smaller
 * tiles. */
static CudaLinearPlan linear_few_plan(const CudaLinearArgs *args) {
    CudaLinearPlan plan = {false, CUDA_LINEAR_FEW_TOKENS, 32, 2, 132, false, true};
    if (linear_row_blocks(args) < 48 && args->k > 4096) plan.tile_rows = 16;
    plan.n_stages = ((200 << 10) - 9216 - linear_few_bytes(args)) / (4 * plan.tile_rows * 128);
    if (plan.n_stages > 32) plan.n_stages = 32;
    return plan;
}

/* The choices below were measured on an H200: docs/gpu.md. */
CudaLinearPlan cuda_linear_plan(const CudaLinearArgs *args) {
    const int32_t n_segments = linear_segments(args);
    const bool experts = args->n_experts > 0;
    if (linear_is_few(args)) return linear_few_plan(args);
    /* Of experts, what one gets on average and as much again. */
    const int32_t n_tokens =
        experts ? (int32_t)((int64_t)args->n_tokens * 2 / args->n_experts) : args->n_tokens;
    CudaLinearPlan plan = {false, 8, 128, 2, 132, false, false};
    while (plan.tile_tokens < n_tokens && plan.tile_tokens < 128) plan.tile_tokens *= 2;
    if (n_tokens > 64) {
        if (!experts) return linear_plan_large(args, n_segments);
        plan.large = true;
        plan.tile_tokens = 128;
        plan.n_stages = 6;
        return plan;
    }
    if (n_segments == 1) {
        int32_t stage = (plan.tile_tokens <= 32 ? 256 : 128) * (128 + plan.tile_tokens);
        plan.n_stages = LINEAR_STAGES_BYTES / stage;
        return plan;
    }
    /* Few rows with a long k occupy more multiprocessors in clusters. */
    const int64_t row_blocks = linear_row_blocks(args);
    const bool clusters =
        (n_tokens > 32 && n_segments == 2) || (row_blocks <= 32 && args->k >= 4096);
    if (clusters) {
        plan.tile_rows = 64;
        plan.n_stages = (LINEAR_STAGES_BYTES / 2 - 8192) /
                        ((plan.tile_tokens <= 32 ? 256 : 128) * (64 + plan.tile_tokens));
        return plan;
    }
    plan.tile_rows = 32;
    plan.n_stages = (LINEAR_STAGES_BYTES / (n_segments == 2 ? 2 : 1) - 8192) /
                    (n_segments * 128 * (plan.tile_rows + plan.tile_tokens));
    if (plan.n_stages > 16) plan.n_stages = 16;
    return plan;
}

typedef CUresult (*LinearEncode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                 const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                 const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function that describes a matrix to the copy engine. */
static LinearEncode linear_encode(void) {
    static LinearEncode encode;
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    if (encode == NULL &&
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                         &found) == cudaSuccess &&
        found == cudaDriverEntryPointSuccess) {
        encode = (LinearEncode)entry;
    }
    return encode;
}

/* Describes boxes of that many tokens. */
static cudaError_t linear_map(const CudaLinearArgs *args, int32_t tokens, CUtensorMap *x) {
    LinearEncode encode = linear_encode();
    if (encode == NULL) return cudaErrorNotSupported;
    cuuint64_t dim[2] = {(cuuint64_t)args->k, (cuuint64_t)args->n_tokens};
    cuuint64_t stride = (cuuint64_t)args->x_stride * 2;
    cuuint32_t box[2] = {CUDA_LINEAR_BLOCK, (cuuint32_t)tokens};
    cuuint32_t step[2] = {1, 1};
    CUresult result = encode(x, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)args->x, dim, &stride,
                             box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* The tiles of the last round in halves, by a launch of their own. */
static cudaError_t linear_run_halves(cudaStream_t stream, const CudaLinearArgs *args,
                                     const CudaLinearPlan *plan, LinearParams *params,
                                     const CUtensorMap *x) {
    CudaLinearPlan half = *plan;
    half.tile_tokens /= 2, half.n_stages = LINEAR_HALF_STAGES;
    CUtensorMap half_x;
    cudaError_t error = linear_map(args, half.tile_tokens, &half_x);
    if (error != cudaSuccess) return error;
    const int32_t n_tiles = linear_tiles(params->row_blocks, args->n_tokens, plan);
    params->whole_tiles = n_tiles / CUDA_LINEAR_CTAS_MAX * CUDA_LINEAR_CTAS_MAX;
    if (plan->tile_tokens != CUDA_LINEAR_TOKENS_MAX || params->whole_tiles == 0)
        return cudaErrorInvalidValue;
    error = cuda_linear_large_launch(stream, params, plan, x, args->dependent);
    params->n_stages = half.n_stages;
    if (error == cudaSuccess && params->whole_tiles < n_tiles)
        error = cuda_linear_large_launch(stream, params, &half, &half_x, args->dependent);
    return error;
}

cudaError_t cuda_linear_run(cudaStream_t stream, const CudaLinearArgs *args,
                            const CudaLinearPlan *plan) {
    if (args->n_tokens <= 0) return cudaSuccess;
    if (plan->few && args->n_tokens > CUDA_LINEAR_FEW_TOKENS) return cudaErrorInvalidValue;
    if (args->norm.x != NULL && (!plan->few || !cuda_linear_can_norm(args->n_tokens, args->k) ||
                                 (uintptr_t)args->norm.x % 16 != 0 || args->norm.stride % 4 != 0 ||
                                 args->n_experts > 0)) {
        return cudaErrorInvalidValue;
    }
    if (args->k < 8 || args->k % 8 != 0 || args->x_stride % 8 != 0 ||
        (uintptr_t)args->x % 16 != 0 || args->n_parts < 1 ||
        args->n_parts > CUDA_LINEAR_PARTS_MAX || args->n_experts > CUDA_LINEAR_EXPERTS_MAX) {
        return cudaErrorInvalidValue;
    }
    LinearParams params = {};
    params.w = (const char *)args->w;
    params.expert_w = (const char *const *)args->expert_w;
    params.expert_start = args->expert_start;
    params.n_experts = args->n_experts;
    params.n_tokens = args->n_tokens;
    params.k_blocks = (args->k + CUDA_LINEAR_BLOCK - 1) / CUDA_LINEAR_BLOCK;
    params.n_segments = linear_segments(args);
    for (int32_t s = 0; s <= params.n_segments; s++) {
        params.segment[s] = (int32_t)((int64_t)s * params.k_blocks / params.n_segments);
    }
    params.n_stages = plan->n_stages;
    params.norm = args->norm;
    params.x = (const char *)args->x;
    params.x_stride = args->x_stride;
    params.k = args->k;
    params.sums = (float4 *)args->sums;
    params.n_arrived = args->n_arrived;
    params.out = args->out;
    params.act = args->act;
    params.n_parts = args->n_parts;
    for (int32_t i = 0; i < args->n_parts; i++) {
        params.part[i] = args->part[i];
        params.part_block[i] = params.row_blocks;
        params.row_blocks += (int32_t)linear_part_blocks(args, i);
    }
    if (plan->few) return cuda_linear_few_launch(stream, &params, plan, args->dependent);
    CUtensorMap x;
    const int32_t box = plan->twin ? plan->tile_tokens / 2 : plan->tile_tokens;
    const cudaError_t error = linear_map(args, box, &x);
    if (error != cudaSuccess) return error;
    if (plan->halves) return linear_run_halves(stream, args, plan, &params, &x);
    if (plan->twin) return cuda_linear_twin_launch(stream, &params, plan, &x, args->dependent);
    if (plan->split) return cuda_linear_split_launch(stream, &params, plan, &x, args->dependent);
    if (plan->large && plan->tile_rows == 256)
        return cuda_linear_tall_launch(stream, &params, plan, &x, args->dependent);
    if (plan->large) return cuda_linear_large_launch(stream, &params, plan, &x, args->dependent);
    if (plan->tile_rows < CUDA_LINEAR_BLOCK) {
        return cuda_linear_slim_launch(stream, &params, plan, &x, args->dependent);
    }
    return cuda_linear_small_launch(stream, &params, plan, &x, args->dependent);
}

/* Whether k in one segment takes less time. */
static bool linear_whole_pays(const CudaLinearArgs *args) {
    CudaLinearArgs apart = *args;
    apart.whole = false;
    const CudaLinearPlan plan = cuda_linear_plan(args), apart_plan = cuda_linear_plan(&apart);
    return linear_nanoseconds(args, &plan, 1) <
           linear_nanoseconds(&apart, &apart_plan, linear_segments(&apart));
}

cudaError_t cuda_linear(cudaStream_t stream, const CudaLinearArgs *args) {
    CudaLinearArgs own = *args;
    own.whole = args->whole && args->n_tokens >= CUDA_LINEAR_WHOLE_TOKENS && linear_whole_pays(args);
    CudaLinearPlan plan = cuda_linear_plan(&own);
    return cuda_linear_run(stream, &own, &plan);
}
