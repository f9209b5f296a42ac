/* cpu_vec_avx2: the vector functions of the templates, 8 lanes of f32.
 *
 * The same names and meanings as in cpu_vec_avx512.h. A function that ends in _n works on the first
 * n lanes, 0 <= n <= VEC_LANES: others load as zero and are not stored. */
#pragma once

#include <immintrin.h>
#include <string.h>

#include "tensor/half.h"

#define CPU_LEVEL(name) name##_avx2

/* Before a loop of few and constant turns over an array that should live in registers. */
#if defined(__clang__)
#define VEC_UNROLL _Pragma("unroll")
#else
#define VEC_UNROLL _Pragma("GCC unroll 32")
#endif

enum { VEC_LANES = 8 };
typedef __m256 Vec;

static inline Vec vec_zero(void) {
    return _mm256_setzero_ps();
}
static inline Vec vec_set1(float x) {
    return _mm256_set1_ps(x);
}
static inline __m256i vec_lane(void) {
    return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
}
static inline __m256i vec_mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)n), vec_lane());
}

static inline Vec vec_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline Vec vec_load_n(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, vec_mask(n));
}
static inline void vec_store(float *p, Vec v) {
    _mm256_storeu_ps(p, v);
}
static inline void vec_store_n(float *p, Vec v, int64_t n) {
    _mm256_maskstore_ps(p, vec_mask(n), v);
}
/* v with lanes n and above zeroed. */
static inline Vec vec_keep_n(Vec v, int64_t n) {
    return _mm256_and_ps(v, _mm256_castsi256_ps(vec_mask(n)));
}
/* v with the lanes outside [lo, hi) set to x. */
static inline Vec vec_keep_range(Vec v, int64_t lo, int64_t hi, Vec x) {
    __m256i keep = _mm256_andnot_si256(vec_mask(lo), vec_mask(hi));
    return _mm256_blendv_ps(x, v, _mm256_castsi256_ps(keep));
}

static inline Vec vec_add(Vec a, Vec b) {
    return _mm256_add_ps(a, b);
}
static inline Vec vec_sub(Vec a, Vec b) {
    return _mm256_sub_ps(a, b);
}
static inline Vec vec_mul(Vec a, Vec b) {
    return _mm256_mul_ps(a, b);
}
static inline Vec vec_div(Vec a, Vec b) {
    return _mm256_div_ps(a, b);
}
/* a * b + c */
static inline Vec vec_fma(Vec a, Vec b, Vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
/* c - a * b */
static inline Vec vec_fnma(Vec a, Vec b, Vec c) {
    return _mm256_fnmadd_ps(a, b, c);
}
/* a * b - c in even lanes, a * b + c in odd lanes. */
static inline Vec vec_fmaddsub(Vec a, Vec b, Vec c) {
    return _mm256_fmaddsub_ps(a, b, c);
}
/* The second operand is returned where either is NaN. */
static inline Vec vec_max(Vec a, Vec b) {
    return _mm256_max_ps(a, b);
}
static inline Vec vec_min(Vec a, Vec b) {
    return _mm256_min_ps(a, b);
}
static inline Vec vec_abs(Vec a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
/* The magnitude of a with the sign of b. */
static inline Vec vec_copysign(Vec a, Vec b) {
    return _mm256_blendv_ps(vec_abs(a), _mm256_or_ps(vec_abs(a), _mm256_set1_ps(-0.0f)), b);
}
/* a < b ? x : y; y where a or b is NaN. */
static inline Vec vec_select_less(Vec a, Vec b, Vec x, Vec y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
/* To the nearest integer, ties to even. */
static inline Vec vec_round(Vec a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline Vec vec_power2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/* a * 2^n for integral n in [-200, 200] and a near 1: in two factors, so that the first product is
 * exact and the second rounds once into the subnormals. */
static inline Vec vec_scale2(Vec a, Vec n) {
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(whole, 1);
    Vec scaled = _mm256_mul_ps(a, vec_power2(half));
    return _mm256_mul_ps(scaled, vec_power2(_mm256_sub_epi32(whole, half)));
}

/* Over the lanes, in a fixed order of halves. */
static inline float vec_sum(Vec v) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline float vec_largest(Vec v) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* Of 2 * VEC_LANES values (a, then b) those at even and at odd places. */
static inline void vec_split_pairs(Vec a, Vec b, Vec *even, Vec *odd) {
    __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    __m256d o = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}
/* Within each pair of lanes: the even one twice, the odd one twice, the two swapped. */
static inline Vec vec_even_twice(Vec v) {
    return _mm256_moveldup_ps(v);
}
static inline Vec vec_odd_twice(Vec v) {
    return _mm256_movehdup_ps(v);
}
static inline Vec vec_swap_pairs(Vec v) {
    return _mm256_permute_ps(v, 0xb1);
}

/* The last stages of turning 8 rows: from a[i], whose half q is half i / 4 of row 4 q + i % 4, to
 * the columns. */
static inline void vec_turn_halves(Vec a[VEC_LANES], Vec v[VEC_LANES]) {
    VEC_UNROLL
    for (int g = 0; g < 8; g += 4) {
        __m256 low01 = _mm256_unpacklo_ps(a[g], a[g + 1]);
        __m256 high01 = _mm256_unpackhi_ps(a[g], a[g + 1]);
        __m256 low23 = _mm256_unpacklo_ps(a[g + 2], a[g + 3]);
        __m256 high23 = _mm256_unpackhi_ps(a[g + 2], a[g + 3]);
        v[g] = _mm256_shuffle_ps(low01, low23, 0x44);
        v[g + 1] = _mm256_shuffle_ps(low01, low23, 0xee);
        v[g + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
        v[g + 3] = _mm256_shuffle_ps(high01, high23, 0xee);
    }
}

/* The 8 x 8 matrix whose rows are v[0..7], turned. */
static inline void vec_transpose(Vec v[VEC_LANES]) {
    __m256 a[8];
    VEC_UNROLL
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_permute2f128_ps(v[i], v[4 + i], 0x20);
        a[4 + i] = _mm256_permute2f128_ps(v[i], v[4 + i], 0x31);
    }
    vec_turn_halves(a, v);
}

/* The 8 x 8 matrix of 32-bit words at row[0..7], turned; the halves come together in loads. */
static inline void vec_load_turned(const void *const row[VEC_LANES], Vec v[VEC_LANES]) {
    __m256 a[8];
    VEC_UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = i % 4, q = i / 4;
        a[i] = _mm256_castps128_ps256(_mm_loadu_ps((const float *)row[r] + 4 * q));
        a[i] = _mm256_insertf128_ps(a[i], _mm_loadu_ps((const float *)row[4 + r] + 4 * q), 1);
    }
    vec_turn_halves(a, v);
}

/* Lanes that hold two bf16 each: the one in the low half and the one in the high half. */
static inline Vec vec_low_bf16(Vec pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
}
static inline Vec vec_high_bf16(Vec pairs) {
    return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)0xffff0000u)));
}

static inline __m128i vec_load_half_n(const uint16_t *p, int64_t n) {
    uint16_t h[VEC_LANES] = {0};
    memcpy(h, p, (size_t)n * sizeof *p);
    return _mm_loadu_si128((const __m128i *)(const void *)h);
}
static inline void vec_store_half_n(uint16_t *p, __m128i v, int64_t n) {
    if (n == VEC_LANES) {
        _mm_storeu_si128((__m128i *)(void *)p, v);
        return;
    }
    uint16_t h[VEC_LANES];
    _mm_storeu_si128((__m128i *)(void *)h, v);
    memcpy(p, h, (size_t)n * sizeof *p);
}
static inline Vec vec_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline Vec vec_load_f16_n(const uint16_t *p, int64_t n) {
    return _mm256_cvtph_ps(vec_load_half_n(p, n));
}
static inline Vec vec_from_bf16(__m128i h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline Vec vec_load_bf16(const uint16_t *p) {
    return vec_from_bf16(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline Vec vec_load_bf16_n(const uint16_t *p, int64_t n) {
    return vec_from_bf16(vec_load_half_n(p, n));
}
static inline Vec vec_from_i8(__m128i bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
static inline Vec vec_load_i8(const int8_t *p) {
    return vec_from_i8(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
static inline Vec vec_load_i8_n(const int8_t *p, int64_t n) {
    int8_t bytes[VEC_LANES] = {0};
    memcpy(bytes, p, (size_t)n);
    return vec_load_i8(bytes);
}
/* Rounds to nearest even; what is below -128 or above 127 becomes that. */
static inline void vec_store_i8_n(int8_t *p, Vec v, int64_t n) {
    __m256i words = _mm256_cvtps_epi32(v);
    __m128i halves =
        _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    int8_t bytes[2 * VEC_LANES];
    _mm_storeu_si128((__m128i *)(void *)bytes, _mm_packs_epi16(halves, halves));
    memcpy(p, bytes, (size_t)n);
}
/* Lanes that hold four signed bytes each: the one at place c, 0 the lowest. */
static inline Vec vec_byte_i8(Vec fours, int c) {
    __m256i top = _mm256_slli_epi32(_mm256_castps_si256(fours), 24 - 8 * c);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24));
}
static inline void vec_store_f16_n(uint16_t *p, Vec v, int64_t n) {
    vec_store_half_n(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), n);
}
/* Rounds as half.h does. */
static inline void vec_store_bf16_n(uint16_t *p, Vec v, int64_t n) {
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0xd8);
    vec_store_half_n(p, _mm256_castsi256_si128(packed), n);
}
