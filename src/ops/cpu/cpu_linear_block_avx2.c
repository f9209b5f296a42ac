/* cpu_linear_block_avx2: block formats times int8 activations.
 *
 * The same layout, order and bits as avx512, eight rows (half a panel) at a time. Products of u8
 * and s8 are summed in pairs to i16 (vpmaddubsw, exact: unsigned weights have at most 6 bits), a
 * few of those added in i16, then widened. 8-bit weights are taken as signed: |w| times x with w's
 * sign, exact since |x| <= 127. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define UNPACK_LANES      8
#define EXPAND_SIGNED     0
#define BLOCK_TILE_PANELS 1
#define BLOCK_TILE_TOKENS 4
#include "ops/cpu/cpu_unpack_tmpl.h"
#include "ops/cpu/cpu_vec_avx2.h"

static inline UnpackF unpack_f16(const void *p) {
    return (UnpackF)_mm256_cvtph_ps(_mm_loadu_si128(p));
}

static inline UnpackU unpack_u8(const void *p) {
    return (UnpackU)_mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
}

static inline UnpackU unpack_table(const uint8_t table[16], UnpackU index) {
    __m256i wide = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    return (UnpackU)_mm256_shuffle_epi8(wide, (__m256i)index);
}

#include "ops/cpu/cpu_linear_block_tmpl.h"
#include "ops/cpu/cpu_unroll.h"

static UNPACK_INLINE __m256i block_bytes(const LinearQuant *q, int i) {
    int32_t four;
    memcpy(&four, q->q + 4 * i, 4);
    return _mm256_set1_epi32(four);
}

/* Sums of 4 products each of u[first .. first + n - 1]. */
static UNPACK_INLINE __m256i block_dot(const UnpackGroup *w, const LinearQuant *q, int first, int n,
                                       BlockShape shape) {
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)0x80);
    /* i16 holds 2 pairs of 6-bit products (2 x 2 x 63 x 127), 4 of 5-bit ones. */
    int step = shape.wide ? 1 : shape.scale_16 && !shape.min ? 2 : 4;
    __m256i sum = _mm256_setzero_si256();
    CPU_UNROLL(8)
    for (int i = first; i < first + n; i += step) {
        __m256i pairs = _mm256_setzero_si256();
        CPU_UNROLL(4)
        for (int j = i; j < i + step; j++) {
            __m256i u = (__m256i)w->u[j], x = block_bytes(q, j);
            if (shape.wide) {
                __m256i s = _mm256_xor_si256(u, flip);
                u = _mm256_abs_epi8(s);
                x = _mm256_sign_epi8(x, s);
            }
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(u, x));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
    return sum;
}

/* The f32 operations and their order are those of avx512. */
static UNPACK_INLINE void block_step(const UnpackGroup *w, int n_panels, const LinearQuant *q,
                                     int n_tokens, BlockShape shape, UnpackF *acc) {
    (void)n_panels; /* 1 */
    CPU_UNROLL(4)
    for (int t = 0; t < n_tokens; t++) {
        bool start = !shape.min && !shape.wide;
        __m256i sum = block_dot(w, &q[t], 0, shape.scale_16 ? 4 : 8, shape);
        if (start) sum = _mm256_add_epi32(sum, _mm256_set1_epi32(q[t].extra[0].start));
        __m256 scale = _mm256_set1_ps(q[t].scale), dot = _mm256_cvtepi32_ps(sum);
        if (shape.scale_16) {
            __m256i sum_b = block_dot(w, &q[t], 4, 4, shape);
            if (start) sum_b = _mm256_add_epi32(sum_b, _mm256_set1_epi32(q[t].extra[1].start));
            dot = _mm256_mul_ps(dot, (__m256)w->scale[0]);
            dot = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum_b), (__m256)w->scale[1], dot);
        } else {
            scale = _mm256_mul_ps((__m256)w->scale[0], scale);
        }
        __m256 sum_f = _mm256_fmadd_ps(dot, scale, (__m256)acc[t]);
        if (shape.min) {
            __m256 x = _mm256_set1_ps(q[t].extra[0].sum);
            sum_f = _mm256_fmadd_ps((__m256)w->min[0], x, sum_f);
        }
        if (shape.min && shape.scale_16) {
            __m256 x = _mm256_set1_ps(q[t].extra[1].sum);
            sum_f = _mm256_fmadd_ps((__m256)w->min[1], x, sum_f);
        }
        acc[t] = (UnpackF)sum_f;
    }
}

static inline int32_t block_sum(__m256i v) {
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
}

static inline uint32_t block_max(__m256i v) {
    __m128i a = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_max_epu32(a, _mm_shuffle_epi32(a, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(a, _mm_shuffle_epi32(a, 0xb1)));
}

/* q of 32 values, and what extra wants of their sums. */
static UNPACK_INLINE void block_quantize(const LinearFormat *f, const float *x, LinearQuant *out) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256 v[4];
    __m256i q[4], largest = _mm256_setzero_si256();
    /* As integers, so that infinities and NaNs come out largest. */
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        __m256i bits = _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude);
        largest = _mm256_max_epu32(largest, bits);
    }
    LinearScale scale = cpu_linear_scale(block_max(largest));
    __m256 inverse = _mm256_set1_ps(scale.inverse);
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_setzero_si256();
        if (scale.inverse != 0) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        __m128i words =
            _mm_packs_epi32(_mm256_castsi256_si128(q[i]), _mm256_extracti128_si256(q[i], 1));
        _mm_storel_epi64((void *)(out->q + 8 * i), _mm_packs_epi16(words, words));
    }
    cpu_linear_finish(f, scale.scale, block_sum(_mm256_add_epi32(q[0], q[1])),
                      block_sum(_mm256_add_epi32(q[2], q[3])), out);
}

void cpu_linear_block_avx2_quantize(const LinearFormat *f, const float *const *x, int32_t n_tokens,
                                    int64_t k, LinearQuant *out) {
    for (int64_t g = 0; g < k / 32; g++)
        for (int32_t t = 0; t < n_tokens; t++) block_quantize(f, x[t] + g * 32, out++);
}

void cpu_linear_block_avx2(const LinearUnit *unit) {
    block_unit(unit);
}
