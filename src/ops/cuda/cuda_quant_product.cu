/* cuda_quant_product: products of matrices in units (cuda_quant.cuh) with bf16 rows.
 *
 * Warps ask for their first weights before they wait for the kernel in front, and turn codes into
 * bf16 in registers. With few tokens a CTA makes 16 rows and its eight warps have an eighth of the
 * units each; with many it makes 256 and each warp goes through the eighths of its own rows. */
#include "ops/cuda/cuda_quant.cuh"

enum { QUANT_WARPS = 8 };

/* ---- codes to bf16 ------------------------------------------------------------------------ */

/* Each half of pair is 0x4300 plus a number below 128, which as a bf16 is 128 plus that number;
 * less `less`, two bf16. */
static __device__ __forceinline__ uint32_t quant_less(uint32_t pair, uint32_t less) {
    uint32_t out;
    asm("{.reg .b32 one; mov.b32 one, 0x3f803f80; fma.rn.bf16x2 %0, %1, one, %2;}"
        : "=r"(out)
        : "r"(pair), "r"(less));
    return out;
}

/* Bytes 2 * pair and 2 * pair + 1 of a word of signed ones: its lower seven bits less 128 times the
 * highest: 128 + bits, minus 128 or 256. */
template <int pair>
static __device__ __forceinline__ uint32_t quant_bytes(uint32_t word) {
    const uint32_t two = __byte_perm(word, 0, pair == 0 ? 0x4140 : 0x4342);
    return quant_less((two & 0x007f007f) | 0x43004300, (two & 0x00800080) | 0xc300c300);
}

/* Pair `pair` of a word of nibbles, 128 more than they are. */
template <int pair>
static __device__ __forceinline__ uint32_t quant_nibbles(uint32_t word) {
    return (word >> (4 * pair) & 0x000f000f) | 0x43004300;
}

/* As they are, and eight less. */
template <int pair>
static __device__ __forceinline__ uint32_t quant_plain(uint32_t word) {
    return quant_less(quant_nibbles<pair>(word), 0xc300c300);
}
template <int pair>
static __device__ __forceinline__ uint32_t quant_minus_8(uint32_t word) {
    return quant_less(quant_nibbles<pair>(word), 0xc308c308);
}

/* The values of four-bit floats: as a bf16's lowest exponent bits and highest bit of the mantissa,
 * times 2^126. */
template <int pair>
static __device__ __forceinline__ uint32_t quant_fp4(uint32_t word) {
    const uint32_t two = word >> (4 * pair) & 0x000f000f;
    uint32_t out;
    asm("{.reg .b32 big, zero; mov.b32 big, 0x7e807e80; mov.b32 zero, 0x80008000;\n"
        "fma.rn.bf16x2 %0, %1, big, zero;}"
        : "=r"(out)
        : "r"((two & 0x00070007) << 6 | (two & 0x00080008) << 12));
    return out;
}

/* Two f16 as bf16, and what is left of them as another. */
static __device__ __forceinline__ void quant_halves(uint32_t pair, uint32_t *high, uint32_t *low) {
    const float2 x = __half22float2(*(const __half2 *)&pair);
    const __nv_bfloat162 h = __floats2bfloat162_rn(x.x, x.y);
    const float2 y = __bfloat1622float2(h);
    const __nv_bfloat162 l = __floats2bfloat162_rn(x.x - y.x, x.y - y.y);
    *high = *(const uint32_t *)&h;
    *low = *(const uint32_t *)&l;
}

static __device__ __forceinline__ void quant_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- formats ------------------------------------------------------------------------------ */

/* A step is 32 columns. load: a lane's part of a unit; codes: the two operands of step s; scale: of
 * the lane's two rows, for operand m of step s; least: what q = 0 stands for (formats with MIN). */

template <DType dtype> struct QuantFormat;

struct QuantDefaults {
    static constexpr bool MIN = false, SIXTEEN = false, SUM = false;
};

template <> struct QuantFormat<DTYPE_F16> : QuantDefaults {
    static constexpr bool SUM = true; /* no scales: codes and rests go to one sum */
    static constexpr int UNITS = 2;
    uint4 row[2];
    __device__ __forceinline__ void load(const char *p, int lane) {
        row[0] = *(const uint4 *)(p + lane * 16);
        row[1] = *(const uint4 *)(p + 512 + lane * 16);
    }
    __device__ __forceinline__ void codes(int, uint32_t (&a)[2][4], uint32_t (&rest)[2][4]) const {
        quant_halves(row[0].x, &a[0][0], &rest[0][0]);
        quant_halves(row[1].x, &a[0][1], &rest[0][1]);
        quant_halves(row[0].y, &a[0][2], &rest[0][2]);
        quant_halves(row[1].y, &a[0][3], &rest[0][3]);
        quant_halves(row[0].z, &a[1][0], &rest[1][0]);
        quant_halves(row[1].z, &a[1][1], &rest[1][1]);
        quant_halves(row[0].w, &a[1][2], &rest[1][2]);
        quant_halves(row[1].w, &a[1][3], &rest[1][3]);
    }
    __device__ __forceinline__ float2 scale(int, int) const {
        return float2{1, 1};
    }
};

template <> struct QuantFormat<DTYPE_Q8_0> : QuantDefaults {
    static constexpr int UNITS = 4;
    uint4 q;
    __half2 d;
    __device__ __forceinline__ void load(const char *p, int lane) {
        q = *(const uint4 *)(p + lane * 16);
        d = *(const __half2 *)(p + 512 + lane / 4 * 4);
    }
    __device__ __forceinline__ void codes(int, uint32_t (&a)[2][4], uint32_t (&)[2][4]) const {
        a[0][0] = quant_bytes<0>(q.x), a[0][2] = quant_bytes<1>(q.x);
        a[1][0] = quant_bytes<0>(q.y), a[1][2] = quant_bytes<1>(q.y);
        a[0][1] = quant_bytes<0>(q.z), a[0][3] = quant_bytes<1>(q.z);
        a[1][1] = quant_bytes<0>(q.w), a[1][3] = quant_bytes<1>(q.w);
    }
    __device__ __forceinline__ float2 scale(int, int) const {
        return __half22float2(d);
    }
};

/* A step's operands of two rows' words, each with eight elements that `two` makes in pairs. */
#define QUANT_WORDS(a, w0, w1, two)                          \
    do {                                                     \
        (a)[0][0] = two<0>(w0), (a)[0][2] = two<1>(w0);      \
        (a)[1][0] = two<2>(w0), (a)[1][2] = two<3>(w0);      \
        (a)[0][1] = two<0>(w1), (a)[0][3] = two<1>(w1);      \
        (a)[1][1] = two<2>(w1), (a)[1][3] = two<3>(w1);      \
    } while (0)

template <> struct QuantFormat<DTYPE_Q4_0> : QuantDefaults {
    static constexpr int UNITS = 2;
    uint4 q;
    __half2 d[2];
    __device__ __forceinline__ void load(const char *p, int lane) {
        q = *(const uint4 *)(p + lane * 16);
        d[0] = *(const __half2 *)(p + 512 + lane / 4 * 4);
        d[1] = *(const __half2 *)(p + 544 + lane / 4 * 4);
    }
    __device__ __forceinline__ void codes(int s, uint32_t (&a)[2][4], uint32_t (&)[2][4]) const {
        QUANT_WORDS(a, s == 0 ? q.x : q.z, s == 0 ? q.y : q.w, quant_minus_8);
    }
    __device__ __forceinline__ float2 scale(int s, int) const {
        return __half22float2(d[s]);
    }
};

template <> struct QuantFormat<DTYPE_MXFP4> : QuantDefaults {
    static constexpr int UNITS = 2;
    uint4 q;
    uint32_t e;
    __device__ __forceinline__ void load(const char *p, int lane) {
        q = *(const uint4 *)(p + lane * 16);
        e = *(const uint32_t *)(p + 512 + lane / 4 * 4);
    }
    __device__ __forceinline__ void codes(int s, uint32_t (&a)[2][4], uint32_t (&)[2][4]) const {
        QUANT_WORDS(a, s == 0 ? q.x : q.z, s == 0 ? q.y : q.w, quant_fp4);
    }
    /* 2^(e - 127); 255 is NaN, 0 below the normal numbers. */
    static __device__ __forceinline__ float power(uint32_t e) {
        return e == 255 ? CUDART_NAN_F : __uint_as_float(e == 0 ? 0x00400000u : e << 23);
    }
    __device__ __forceinline__ float2 scale(int s, int) const {
        return float2{power(e >> (16 * s) & 255), power(e >> (16 * s + 8) & 255)};
    }
};

template <> struct QuantFormat<DTYPE_Q4_K> : QuantDefaults {
    static constexpr bool MIN = true;
    static constexpr int UNITS = 1;
    uint4 q[4], scales[2];
    __half2 d[2]; /* d, dmin of the two rows */
    __device__ __forceinline__ void load(const char *p, int lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) q[i] = *(const uint4 *)(p + i * 512 + lane * 16);
        scales[0] = *(const uint4 *)(p + 2048 + lane / 4 * 32);
        scales[1] = *(const uint4 *)(p + 2064 + lane / 4 * 32);
        const uint2 both = *(const uint2 *)(p + 2304 + lane / 4 * 8);
        d[0] = *(const __half2 *)&both.x, d[1] = *(const __half2 *)&both.y;
    }
    __device__ __forceinline__ void codes(int s, uint32_t (&a)[2][4], uint32_t (&)[2][4]) const {
        const uint4 &w = q[s / 2];
        QUANT_WORDS(a, s % 2 == 0 ? w.x : w.z, s % 2 == 0 ? w.y : w.w, quant_plain);
    }
    /* Scale and least of row 0, then of row 1, a byte each. */
    __device__ __forceinline__ uint32_t bytes(int s) const {
        const uint4 &w = scales[s / 4];
        return s % 4 == 0 ? w.x : s % 4 == 1 ? w.y : s % 4 == 2 ? w.z : w.w;
    }
    __device__ __forceinline__ float2 scale(int s, int) const {
        const uint32_t b = bytes(s);
        return float2{__low2float(d[0]) * (float)(b & 255),
                      __low2float(d[1]) * (float)(b >> 16 & 255)};
    }
    __device__ __forceinline__ float2 least(int s) const {
        const uint32_t b = bytes(s);
        return float2{-__high2float(d[0]) * (float)(b >> 8 & 255),
                      -__high2float(d[1]) * (float)(b >> 24)};
    }
};

template <> struct QuantFormat<DTYPE_Q6_K> : QuantDefaults {
    static constexpr bool SIXTEEN = true; /* a scale for 16 columns */
    static constexpr int UNITS = 1;
    uint4 q[4], scales[2];
    uint2 high[4];
    __half2 d;
    __device__ __forceinline__ void load(const char *p, int lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            q[i] = *(const uint4 *)(p + i * 512 + lane * 16);
            high[i] = *(const uint2 *)(p + 2048 + i * 256 + lane * 8);
        }
        scales[0] = *(const uint4 *)(p + 3072 + lane / 4 * 32);
        scales[1] = *(const uint4 *)(p + 3088 + lane / 4 * 32);
        d = *(const __half2 *)(p + 3328 + lane / 4 * 4);
    }
    /* Elements 2 * pair and 2 * pair + 1 of a row. */
    template <int pair>
    static __device__ __forceinline__ uint32_t six(uint32_t word, uint32_t high) {
        const uint32_t two = high >> (4 * pair);
        return quant_less(quant_nibbles<pair>(word) | (two & 3) << 4 | (two & 12) << 18,
                          0xc320c320);
    }
    __device__ __forceinline__ void codes(int s, uint32_t (&a)[2][4], uint32_t (&)[2][4]) const {
        const uint4 &w = q[s / 2];
        const uint32_t w0 = s % 2 == 0 ? w.x : w.z, w1 = s % 2 == 0 ? w.y : w.w;
        const uint32_t h = s % 2 == 0 ? high[s / 2].x : high[s / 2].y;
        const uint32_t h0 = h & 0xffff, h1 = h >> 16;
        a[0][0] = six<0>(w0, h0), a[0][2] = six<1>(w0, h0);
        a[1][0] = six<2>(w0, h0), a[1][2] = six<3>(w0, h0);
        a[0][1] = six<0>(w1, h1), a[0][3] = six<1>(w1, h1);
        a[1][1] = six<2>(w1, h1), a[1][3] = six<3>(w1, h1);
    }
    /* Bytes of sixteen t: row 0, row 1. */
    __device__ __forceinline__ float2 scale(int s, int m) const {
        const uint4 &w = scales[s / 4];
        const uint32_t two = s % 4 == 0 ? w.x : s % 4 == 1 ? w.y : s % 4 == 2 ? w.z : w.w;
        const float2 both = __half22float2(d);
        return float2{both.x * (float)(int8_t)(two >> (16 * m)),
                      both.y * (float)(int8_t)(two >> (16 * m + 8))};
    }
};

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
        quant_mma(sum, a[0], x.x, x.y);
        quant_mma(sum, rest[0], x.x, x.y);
        quant_mma(sum, a[1], x.z, x.w);
        quant_mma(sum, rest[1], x.z, x.w);
        return;
    }
    float t[4] = {};
    quant_mma(t, a[0], x.x, x.y);
    if constexpr (Format::SIXTEEN) {
        quant_add(sum, f.scale(s, 0), t);
        t[0] = t[1] = t[2] = t[3] = 0;
    }
    quant_mma(t, a[1], x.z, x.w);
    quant_add(sum, f.scale(s, 1), t);
    if constexpr (Format::MIN) {
        const uint32_t ones[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
        float of_x[4] = {};
        quant_mma(of_x, ones, x.x, x.y);
        quant_mma(of_x, ones, x.z, x.w);
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
        case DTYPE_Q8_0: return quant_by_output<DTYPE_Q8_0>(ctx, args, p);
        case DTYPE_Q4_0: return quant_by_output<DTYPE_Q4_0>(ctx, args, p);
        case DTYPE_MXFP4: return quant_by_output<DTYPE_MXFP4>(ctx, args, p);
        case DTYPE_Q4_K: return quant_by_output<DTYPE_Q4_K>(ctx, args, p);
        default: CHECK(args->dtype == DTYPE_Q6_K); quant_by_output<DTYPE_Q6_K>(ctx, args, p);
    }
}
