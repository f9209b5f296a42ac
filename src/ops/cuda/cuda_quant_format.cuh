/* cuda_quant_format: a lane's part of a unit of each format (cuda_quant.cuh), and how it turns into
 * bf16 operands of mma.sync and scales. */
#pragma once

#include "ops/cuda/cuda_quant.cuh"

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

/* ---- formats ------------------------------------------------------------------------------ */

/* A step is 32 columns. load: a lane's part of a unit; codes: the two operands of step s; scale: of
 * the lane's two rows, for operand m of step s; least: what q = 0 stands for (formats with MIN). */

template <DType dtype> struct QuantFormat;

struct QuantDefaults {
    static constexpr bool MIN = false, SIXTEEN = false, SUM = false, REST = false;
};

template <> struct QuantFormat<DTYPE_F16> : QuantDefaults {
    static constexpr bool SUM = true, REST = true; /* no scales: codes and rests go to one sum */
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

template <> struct QuantFormat<DTYPE_BF16> : QuantDefaults {
    static constexpr bool SUM = true;
    static constexpr int UNITS = 2;
    uint4 row[2];
    __device__ __forceinline__ void load(const char *p, int lane) {
        row[0] = *(const uint4 *)(p + lane * 16);
        row[1] = *(const uint4 *)(p + 512 + lane * 16);
    }
    __device__ __forceinline__ void codes(int, uint32_t (&a)[2][4], uint32_t (&)[2][4]) const {
        a[0][0] = row[0].x, a[0][1] = row[1].x, a[0][2] = row[0].y, a[0][3] = row[1].y;
        a[1][0] = row[0].z, a[1][1] = row[1].z, a[1][2] = row[0].w, a[1][3] = row[1].w;
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
