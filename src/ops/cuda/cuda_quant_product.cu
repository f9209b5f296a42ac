/* cuda_quant_product: products of matrices in units (cuda_quant.cuh) with bf16 rows.
 *
 * Warps ask for their first weights before they wait for the kernel in front, and turn codes into
 * bf16 in registers. With few tokens a CTA makes 16 rows and its eight warps have an eighth of the
 * units each; with many it makes 256 and each warp goes through the eighths of its own rows. */
#include "ops/cuda/cuda_mma.cuh"
#include "ops/cuda/cuda_quant_format.cuh"

enum { QUANT_WARPS = 8 };

/* ---- the kernel --------------------------------------------------------------------------- */

/* The four words of x that a lane multiplies in a step of 32 columns. */
template <typename Format>
static __device__ __forceinline__ uint4 quant_x(const char *x, int column, int lane) {
    if constexpr (!Format::SIXTEEN) return *(const uint4 *)(x + (column + lane % 4 * 8) * 2);
    const uint2 a = *(const uint2 *)(x + (column + lane % 4 * 4) * 2);
    const uint2 b = *(const uint2 *)(x + (column + 16 + lane % 4 * 4) * 2);
    return uint4{a.x, a.y, b.x, b.y};
}

static __device__ __forceinline__ void quant_add(float (&sum)[4], float2 scale,
                                                 const float (&t)[4]) {
    sum[0] = fmaf(scale.x, t[0], sum[0]);
    sum[1] = fmaf(scale.x, t[1], sum[1]);
    sum[2] = fmaf(scale.y, t[2], sum[2]);
    sum[3] = fmaf(scale.y, t[3], sum[3]);
}

/* Step s of a unit, for a tile of 8 tokens: sum += W x. */
template <typename Format>
static __device__ __forceinline__ void quant_step(const Format &f, int s,
                                                  const uint32_t (&a)[2][4],
                                                  const uint32_t (&rest)[2][4], uint4 x,
                                                  float (&sum)[4]) {
    if constexpr (Format::SUM) {
        cuda_mma_warp(sum[0], sum[1], sum[2], sum[3], a[0], x.x, x.y);
        if constexpr (Format::REST)
            cuda_mma_warp(sum[0], sum[1], sum[2], sum[3], rest[0], x.x, x.y);
        cuda_mma_warp(sum[0], sum[1], sum[2], sum[3], a[1], x.z, x.w);
        if constexpr (Format::REST)
            cuda_mma_warp(sum[0], sum[1], sum[2], sum[3], rest[1], x.z, x.w);
        return;
    }
    float t[4] = {};
    cuda_mma_warp(t[0], t[1], t[2], t[3], a[0], x.x, x.y);
    if constexpr (Format::SIXTEEN) {
        quant_add(sum, f.scale(s, 0), t);
        t[0] = t[1] = t[2] = t[3] = 0;
    }
    cuda_mma_warp(t[0], t[1], t[2], t[3], a[1], x.z, x.w);
    quant_add(sum, f.scale(s, 1), t);
    if constexpr (Format::MIN) {
        const uint32_t ones[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
        float of_x[4] = {};
        cuda_mma_warp(of_x[0], of_x[1], of_x[2], of_x[3], ones, x.x, x.y);
        cuda_mma_warp(of_x[0], of_x[1], of_x[2], of_x[3], ones, x.z, x.w);
        quant_add(sum, f.least(s), of_x);
    }
}

struct QuantParams {
    CudaQuantPart part[CUDA_QUANT_PARTS_MAX];
    int end[CUDA_QUANT_PARTS_MAX]; /* CTAs of the parts so far */
    const char *x;
    int64_t x_stride; /* bytes */
    int n_tokens, k;
    bool accumulate;
};

static __device__ __forceinline__ int quant_part(const QuantParams &p, int *block) {
    int part = 0;
    while (part + 1 < CUDA_QUANT_PARTS_MAX && *block >= p.end[part]) part++;
    if (part > 0) *block -= p.end[part - 1];
    return part;
}

template <typename Y>
static __device__ __forceinline__ void quant_put(const QuantParams &p, const CudaQuantPart &part,
                                                 int row, int token, float y) {
    if (row >= part.n || token >= p.n_tokens) return;
    Y *to = (Y *)part.out + token * part.out_stride + row;
    if (part.bias != NULL) y += part.bias[row];
    if (p.accumulate) y += cuda_to_f32(*to);
    cuda_put(to, y);
}

/* Adds the warps' sums in rising order and writes them, eight tiles at a time. */
template <typename Y, int ROWS, int TOKENS>
static __device__ __forceinline__ void quant_finish(const QuantParams &p, const CudaQuantPart &part,
                                                    int row, int token,
                                                    float (&sum)[ROWS][TOKENS][4]) {
    constexpr int N = ROWS * TOKENS, BATCH = N < QUANT_WARPS ? N : QUANT_WARPS;
    __shared__ float4 sums[QUANT_WARPS][BATCH][CUDA_WARP];
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
#pragma unroll
    for (int first = 0; first < N; first += BATCH) {
        if (first > 0) __syncthreads();
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const float(&s)[4] = sum[(first + i) / TOKENS][(first + i) % TOKENS];
            sums[warp][i][lane] = float4{s[0], s[1], s[2], s[3]};
        }
        __syncthreads();
        if (warp >= BATCH) continue;
        float4 y = sums[0][warp][lane];
#pragma unroll
        for (int w = 1; w < QUANT_WARPS; w++) {
            const float4 z = sums[w][warp][lane];
            y.x += z.x, y.y += z.y, y.z += z.z, y.w += z.w;
        }
        const int r = row + (first + warp) / TOKENS * CUDA_QUANT_ROWS + lane / 4;
        const int t = token + (first + warp) % TOKENS * 8 + lane % 4 * 2;
        quant_put<Y>(p, part, r, t, y.x);
        quant_put<Y>(p, part, r, t + 1, y.y);
        quant_put<Y>(p, part, r + 8, t, y.z);
        quant_put<Y>(p, part, r + 8, t + 1, y.w);
    }
}

/* Where ROWS tiles of 16 rows and TOKENS tiles of 8 tokens begin, for the calling lane. */
template <DType dtype, int ROWS, int TOKENS> struct QuantTile {
    const char *w[ROWS], *x[TOKENS];
    __device__ __forceinline__ QuantTile(const QuantParams &p, const CudaQuantPart &part, int row,
                                         int token) {
        constexpr CudaQuantUnit UNIT = cuda_quant_unit(dtype);
        const int64_t tile_bytes = (int64_t)(p.k / UNIT.k) * UNIT.bytes;
        /* Beyond the last tile and token those again, whose sums nobody takes. */
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            w[i] = part.w + min(row / CUDA_QUANT_ROWS + i, (part.n - 1) / CUDA_QUANT_ROWS) *
                                tile_bytes;
#pragma unroll
        for (int i = 0; i < TOKENS; i++)
            x[i] = p.x + min(token + i * 8 + (int)threadIdx.x % CUDA_WARP / 4, p.n_tokens - 1) *
                             p.x_stride;
    }
};

/* sum += the products of units [from, to). first: waits for the kernel in front, when the first
 * weights are on their way. */
template <DType dtype, int ROWS, int TOKENS>
static __device__ __forceinline__ void quant_sum(const QuantTile<dtype, ROWS, TOKENS> &tile,
                                                 int from, int to, bool first,
                                                 float (&sum)[ROWS][TOKENS][4]) {
    typedef QuantFormat<dtype> Format;
    constexpr CudaQuantUnit UNIT = cuda_quant_unit(dtype);
    constexpr int UNITS = ROWS == 1 ? Format::UNITS : 1;
    const int lane = threadIdx.x % CUDA_WARP;
    Format f[UNITS][ROWS];
    for (int u = from; u < to || (first && u == from); u += UNITS) {
#pragma unroll
        for (int j = 0; j < UNITS; j++)
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                if (u + j < to) f[j][i].load(tile.w[i] + (int64_t)(u + j) * UNIT.bytes, lane);
        if (first && u == from) cuda_wait();
#pragma unroll
        for (int j = 0; j < UNITS; j++) {
            if (u + j >= to) break;
#pragma unroll
            for (int s = 0; s < UNIT.k / 32; s++) {
                uint4 in[TOKENS];
#pragma unroll
                for (int t = 0; t < TOKENS; t++)
                    in[t] = quant_x<Format>(tile.x[t], (u + j) * UNIT.k + s * 32, lane);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    uint32_t a[2][4], rest[2][4];
                    f[j][i].codes(s, a, rest);
#pragma unroll
                    for (int t = 0; t < TOKENS; t++)
                        quant_step(f[j][i], s, a, rest, in[t], sum[i][t]);
                }
            }
        }
    }
}

/* An eighth of the units. */
static __device__ __forceinline__ int2 quant_share(int n_units, int eighth) {
    const int share = (n_units + QUANT_WARPS - 1) / QUANT_WARPS;
    const int from = min(eighth * share, n_units);
    return int2{from, min(from + share, n_units)};
}

/* Few tokens or few rows: each warp has an eighth of the units. */
template <DType dtype, typename Y, int ROWS, int TOKENS>
static __global__ void __launch_bounds__(QUANT_WARPS *CUDA_WARP, ROWS == 1 && TOKENS <= 2 ? 3 : 1)
    quant_kernel(const __grid_constant__ QuantParams p) {
    int block = blockIdx.y;
    const CudaQuantPart &part = p.part[quant_part(p, &block)];
    const int row = block * ROWS * CUDA_QUANT_ROWS, token = blockIdx.x * TOKENS * 8;
    const QuantTile<dtype, ROWS, TOKENS> tile(p, part, row, token);
    const int2 units = quant_share(p.k / cuda_quant_unit(dtype).k, threadIdx.x / CUDA_WARP);
    float sum[ROWS][TOKENS][4] = {};
    quant_sum(tile, units.x, units.y, true, sum);
    quant_finish<Y, ROWS, TOKENS>(p, part, row, token, sum);
}

/* Many of both: each warp has rows of its own and goes through the eighths, so that all warps meet
 * the same x at a time. */
template <DType dtype, typename Y, int ROWS, int TOKENS>
static __global__ void __launch_bounds__(QUANT_WARPS *CUDA_WARP, 1)
    quant_wide_kernel(const __grid_constant__ QuantParams p) {
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    int block = blockIdx.y;
    const CudaQuantPart &part = p.part[quant_part(p, &block)];
    const int row = (block * QUANT_WARPS + warp) * ROWS * CUDA_QUANT_ROWS;
    const int token = blockIdx.x * TOKENS * 8;
    const QuantTile<dtype, ROWS, TOKENS> tile(p, part, row, token);
    float all[ROWS][TOKENS][4];
    for (int eighth = 0; eighth < QUANT_WARPS; eighth++) {
        const int2 units = quant_share(p.k / cuda_quant_unit(dtype).k, eighth);
        float sum[ROWS][TOKENS][4] = {};
        quant_sum(tile, units.x, units.y, eighth == 0, sum);
#pragma unroll
        for (int i = 0; i < ROWS * TOKENS * 4; i++) {
            float &to = all[i / TOKENS / 4][i / 4 % TOKENS][i % 4];
            const float y = sum[i / TOKENS / 4][i / 4 % TOKENS][i % 4];
            to = eighth == 0 ? y : to + y;
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS * TOKENS * 4; i++) {
        const int r = row + i / TOKENS / 4 * CUDA_QUANT_ROWS + lane / 4 + i % 4 / 2 * 8;
        const int t = token + i / 4 % TOKENS * 8 + lane % 4 * 2 + i % 2;
        quant_put<Y>(p, part, r, t, all[i / TOKENS / 4][i / 4 % TOKENS][i % 4]);
    }
}

/* ---- launches ----------------------------------------------------------------------------- */

/* A kernel whose CTAs make so many rows and tokens. */
static void quant_launch(OpCtx *ctx, QuantParams p, int32_t n_parts, int rows, int tokens,
                         void (*kernel)(QuantParams)) {
    int n = 0;
    for (int32_t i = 0; i < CUDA_QUANT_PARTS_MAX; i++) {
        if (i < n_parts) n += DIV_UP(p.part[i].n, rows);
        p.end[i] = n;
    }
    const dim3 grid((unsigned)DIV_UP(p.n_tokens, tokens), (unsigned)n);
    cuda_launch(ctx, "linear", kernel, grid, dim3(QUANT_WARPS * CUDA_WARP), 0, p);
}

/* Whether the wide kernel's CTAs of 256 rows and 64 tokens fill most of the GPU. */
static bool quant_is_wide(const OpCtx *ctx, const QuantParams &p, int32_t n_parts) {
    int n = 0;
    for (int32_t i = 0; i < n_parts; i++) n += DIV_UP(p.part[i].n, 256);
    return n * DIV_UP(p.n_tokens, 64) * 4 >= cuda_of(ctx)->n_sms * 3;
}

template <DType dtype, typename Y>
static void quant_by_tokens(OpCtx *ctx, const QuantParams &p, int32_t n_parts) {
    if (p.n_tokens <= 8)
        return quant_launch(ctx, p, n_parts, 16, 8, quant_kernel<dtype, Y, 1, 1>);
    if (p.n_tokens <= 16)
        return quant_launch(ctx, p, n_parts, 16, 16, quant_kernel<dtype, Y, 1, 2>);
    if (p.n_tokens <= 32)
        return quant_launch(ctx, p, n_parts, 16, 32, quant_kernel<dtype, Y, 1, 4>);
    if (quant_is_wide(ctx, p, n_parts))
        return quant_launch(ctx, p, n_parts, 256, 64, quant_wide_kernel<dtype, Y, 2, 8>);
    quant_launch(ctx, p, n_parts, 32, 64, quant_kernel<dtype, Y, 2, 8>);
}

template <DType dtype>
static void quant_by_output(OpCtx *ctx, const CudaQuantArgs *args, const QuantParams &p) {
    if (args->out_bf16) return quant_by_tokens<dtype, __nv_bfloat16>(ctx, p, args->n_parts);
    quant_by_tokens<dtype, float>(ctx, p, args->n_parts);
}

void cuda_quant_product(OpCtx *ctx, const CudaQuantArgs *args) {
    QuantParams p = {};
    for (int32_t i = 0; i < args->n_parts; i++) p.part[i] = args->part[i];
    p.x = (const char *)args->x;
    p.x_stride = args->x_stride * 2;
    p.n_tokens = args->n_tokens;
    p.k = args->k;
    p.accumulate = args->accumulate;
    switch (args->dtype) {
        case DTYPE_F16: return quant_by_output<DTYPE_F16>(ctx, args, p);
        case DTYPE_BF16: return quant_by_output<DTYPE_BF16>(ctx, args, p);
        case DTYPE_Q8_0: return quant_by_output<DTYPE_Q8_0>(ctx, args, p);
        case DTYPE_Q4_0: return quant_by_output<DTYPE_Q4_0>(ctx, args, p);
        case DTYPE_MXFP4: return quant_by_output<DTYPE_MXFP4>(ctx, args, p);
        case DTYPE_Q4_K: return quant_by_output<DTYPE_Q4_K>(ctx, args, p);
        default: CHECK(args->dtype == DTYPE_Q6_K); quant_by_output<DTYPE_Q6_K>(ctx, args, p);
    }
}
