/* cpu_linear_plain_avx512: plain formats with tiles of 6 tokens x 4 rows: 24 accumulators, 24 FMA
 * for 10 loads. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define PLAIN_TILE_TOKENS 6
#define PLAIN_TILE_ROWS   4
#define PLAIN_FEW_TOKENS  4
#define PLAIN_WIDE_ROWS   8
#define PLAIN_ACC_MAX     24

typedef __m512 PlainV;

static inline PlainV plain_v_zero(void) {
    return _mm512_setzero_ps();
}

static inline PlainV plain_v_fma(PlainV a, PlainV b, PlainV c) {
    return _mm512_fmadd_ps(a, b, c);
}

static inline void plain_v_store(float *p, PlainV v) {
    _mm512_storeu_ps(p, v);
}

static inline __m256 plain_v_halves(PlainV v) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

static inline __mmask16 plain_mask(int n) {
    return (__mmask16)((1u << n) - 1);
}

static inline PlainV plain_f32(const void *w, int64_t i, int n) {
    const float *p = (const float *)w + i;
    return n == 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(plain_mask(n), p);
}

static inline __m256i plain_half(const void *w, int64_t i, int n) {
    const uint16_t *p = (const uint16_t *)w + i;
    return n == 16 ? _mm256_loadu_si256((const void *)p)
                   : _mm256_maskz_loadu_epi16(plain_mask(n), p);
}

static inline PlainV plain_f16(const void *w, int64_t i, int n) {
    return _mm512_cvtph_ps(plain_half(w, i, n));
}

static inline PlainV plain_bf16(const void *w, int64_t i, int n) {
    __m512i wide = _mm512_cvtepu16_epi32(plain_half(w, i, n));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

#include "ops/cpu/cpu_linear_plain_tmpl.h"

void cpu_linear_plain_avx512(const LinearUnit *unit) {
    plain_unit(unit);
}
