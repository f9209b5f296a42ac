/* cpu_vec_avx512: the vector functions of the templates, 16 lanes of f32.
 *
 * The same names and meanings as in cpu_vec_avx2.h. A function that ends in _n works on the first n
 * lanes, 0 <= n <= VEC_LANES: others load as zero and are not stored. */
#pragma once

#include <immintrin.h>

#include "tensor/half.h"

#define CPU_LEVEL(name) name##_avx512

/* Before a loop of few and constant turns over an array that should live in registers. */
#if defined(__clang__)
#define VEC_UNROLL _Pragma("unroll")
#else
#define VEC_UNROLL _Pragma("GCC unroll 32")
#endif

enum { VEC_LANES = 16 };
typedef __m512 Vec;

static inline Vec vec_zero(void) {
    return _mm512_setzero_ps();
}
static inline Vec vec_set1(float x) {
    return _mm512_set1_ps(x);
}
static inline __mmask16 vec_mask(int64_t n) {
    return (__mmask16)((1u << n) - 1);
}

static inline Vec vec_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline Vec vec_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(vec_mask(n), p);
}
static inline void vec_store(float *p, Vec v) {
    _mm512_storeu_ps(p, v);
}
static inline void vec_store_n(float *p, Vec v, int64_t n) {
    _mm512_mask_storeu_ps(p, vec_mask(n), v);
}
/* v with lanes n and above zeroed. */
static inline Vec vec_keep_n(Vec v, int64_t n) {
    return _mm512_maskz_mov_ps(vec_mask(n), v);
}
/* v with the lanes outside [lo, hi) set to x. */
static inline Vec vec_keep_range(Vec v, int64_t lo, int64_t hi, Vec x) {
    return _mm512_mask_mov_ps(x, (__mmask16)(vec_mask(hi) & ~(uint32_t)vec_mask(lo)), v);
}

static inline Vec vec_add(Vec a, Vec b) {
    return _mm512_add_ps(a, b);
}
static inline Vec vec_sub(Vec a, Vec b) {
    return _mm512_sub_ps(a, b);
}
static inline Vec vec_mul(Vec a, Vec b) {
    return _mm512_mul_ps(a, b);
}
static inline Vec vec_div(Vec a, Vec b) {
    return _mm512_div_ps(a, b);
}
/* a * b + c */
static inline Vec vec_fma(Vec a, Vec b, Vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* c - a * b */
static inline Vec vec_fnma(Vec a, Vec b, Vec c) {
    return _mm512_fnmadd_ps(a, b, c);
}
/* a * b - c in even lanes, a * b + c in odd lanes. */
static inline Vec vec_fmaddsub(Vec a, Vec b, Vec c) {
    return _mm512_fmaddsub_ps(a, b, c);
}
/* The second operand is returned where either is NaN. */
static inline Vec vec_max(Vec a, Vec b) {
    return _mm512_max_ps(a, b);
}
static inline Vec vec_min(Vec a, Vec b) {
    return _mm512_min_ps(a, b);
}
static inline Vec vec_abs(Vec a) {
    return _mm512_abs_ps(a);
}
/* The magnitude of a with the sign of b. */
static inline Vec vec_copysign(Vec a, Vec b) {
    const __m512i sign = _mm512_set1_epi32((int32_t)0x80000000u);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
        sign, _mm512_castps_si512(b), _mm512_castps_si512(a), 0xca)); /* sign ? b : a */
}
/* a < b ? x : y; y where a or b is NaN. */
static inline Vec vec_select_less(Vec a, Vec b, Vec x, Vec y) {
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
}
/* To the nearest integer, ties to even. */
static inline Vec vec_round(Vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for integral n in [-200, 200], rounded once into the subnormals. */
static inline Vec vec_scale2(Vec a, Vec n) {
    return _mm512_scalef_ps(a, n);
}

/* Over the lanes, in a fixed order of halves. */
static inline float vec_sum(Vec v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline float vec_largest(Vec v) {
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* Of 2 * VEC_LANES values (a, then b) those at even and at odd places. */
static inline void vec_split_pairs(Vec a, Vec b, Vec *even, Vec *odd) {
    const __m512i even_index =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd_index = _mm512_add_epi32(even_index, _mm512_set1_epi32(1));
    *even = _mm512_permutex2var_ps(a, even_index, b);
    *odd = _mm512_permutex2var_ps(a, odd_index, b);
}
/* Within each pair of lanes: the even one twice, the odd one twice, the two swapped. */
static inline Vec vec_even_twice(Vec v) {
    return _mm512_moveldup_ps(v);
}
static inline Vec vec_odd_twice(Vec v) {
    return _mm512_movehdup_ps(v);
}
static inline Vec vec_swap_pairs(Vec v) {
    return _mm512_permute_ps(v, 0xb1);
}

/* The middle stages of turning 16 rows r: from a[i], whose quarter q is quarter i / 4 of row
 * 4 q + i % 4, to the columns. */
static inline void vec_turn_quarters(Vec a[VEC_LANES], Vec v[VEC_LANES]) {
    VEC_UNROLL
    for (int g = 0; g < 16; g += 4) {
        __m512 low01 = _mm512_unpacklo_ps(a[g], a[g + 1]);
        __m512 high01 = _mm512_unpackhi_ps(a[g], a[g + 1]);
        __m512 low23 = _mm512_unpacklo_ps(a[g + 2], a[g + 3]);
        __m512 high23 = _mm512_unpackhi_ps(a[g + 2], a[g + 3]);
        __m512d l01 = _mm512_castps_pd(low01), l23 = _mm512_castps_pd(low23);
        __m512d h01 = _mm512_castps_pd(high01), h23 = _mm512_castps_pd(high23);
        v[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(l01, l23));
        v[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(l01, l23));
        v[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(h01, h23));
        v[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(h01, h23));
    }
}

/* The 16 x 16 matrix whose rows are v[0..15], turned. */
static inline void vec_transpose(Vec v[VEC_LANES]) {
    __m512 a[16];
    /* Quarter q of rows i, 4 + i, 8 + i, 12 + i side by side. */
    VEC_UNROLL
    for (int i = 0; i < 4; i++) {
        __m512 even_low = _mm512_shuffle_f32x4(v[i], v[4 + i], 0x88);
        __m512 odd_low = _mm512_shuffle_f32x4(v[i], v[4 + i], 0xdd);
        __m512 even_high = _mm512_shuffle_f32x4(v[8 + i], v[12 + i], 0x88);
        __m512 odd_high = _mm512_shuffle_f32x4(v[8 + i], v[12 + i], 0xdd);
        a[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        a[8 + i] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        a[4 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        a[12 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
    vec_turn_quarters(a, v);
}

/* The 16 x 16 matrix of 32-bit words at row[0..15], turned. The quarters come together in masked
 * loads, which leaves fewer shuffles than vec_transpose needs. */
static inline void vec_load_turned(const void *const row[VEC_LANES], Vec v[VEC_LANES]) {
    __m512 a[16];
    VEC_UNROLL
    for (int i = 0; i < 16; i++) {
        const int r = i % 4, q = i / 4;
        a[i] = _mm512_castps128_ps512(_mm_loadu_ps((const float *)row[r] + 4 * q));
        a[i] = _mm512_mask_broadcast_f32x4(a[i], 0x00f0,
                                           _mm_loadu_ps((const float *)row[4 + r] + 4 * q));
        a[i] = _mm512_mask_broadcast_f32x4(a[i], 0x0f00,
                                           _mm_loadu_ps((const float *)row[8 + r] + 4 * q));
        a[i] = _mm512_mask_broadcast_f32x4(a[i], 0xf000,
                                           _mm_loadu_ps((const float *)row[12 + r] + 4 * q));
    }
    vec_turn_quarters(a, v);
}

/* Lanes that hold two bf16 each: the one in the low half and the one in the high half. */
static inline Vec vec_low_bf16(Vec pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
static inline Vec vec_high_bf16(Vec pairs) {
    const __m512i high = _mm512_set1_epi32((int32_t)0xffff0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), high));
}

static inline Vec vec_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline Vec vec_load_f16_n(const uint16_t *p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_mask(n), p));
}
static inline Vec vec_from_bf16(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
static inline Vec vec_load_bf16(const uint16_t *p) {
    return vec_from_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline Vec vec_load_bf16_n(const uint16_t *p, int64_t n) {
    return vec_from_bf16(_mm256_maskz_loadu_epi16(vec_mask(n), p));
}
static inline Vec vec_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline Vec vec_load_i8_n(const int8_t *p, int64_t n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(vec_mask(n), p)));
}
/* Rounds to nearest even; what is below -128 or above 127 becomes that. */
static inline void vec_store_i8_n(int8_t *p, Vec v, int64_t n) {
    _mm512_mask_cvtsepi32_storeu_epi8(p, vec_mask(n), _mm512_cvtps_epi32(v));
}
/* Lanes that hold four signed bytes each: the one at place c, 0 the lowest. */
static inline Vec vec_byte_i8(Vec fours, int c) {
    __m512i top = _mm512_slli_epi32(_mm512_castps_si512(fours), (unsigned)(24 - 8 * c));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
}
static inline void vec_store_f16_n(uint16_t *p, Vec v, int64_t n) {
    __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(p, vec_mask(n), h);
}
/* Rounds as half.h does; the bf16 instructions would flush subnormals. */
static inline void vec_store_bf16_n(uint16_t *p, Vec v, int64_t n) {
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
    __m256i h = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    _mm256_mask_storeu_epi16(p, vec_mask(n), h);
}
