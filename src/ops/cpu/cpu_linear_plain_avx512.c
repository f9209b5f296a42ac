/* cpu_linear_plain_avx512: plain formats with tiles of 6 tokens x 4 rows. */
#include "ops/cpu/cpu_linear_rows_avx512.h"

#define ROWS_STEP 16

static inline RowsV rows_fma(RowsV x, RowsV w, RowsV sum) {
    return _mm512_fmadd_ps(x, w, sum);
}

static inline __mmask16 plain_mask(int n) {
    return (__mmask16)((1u << n) - 1);
}

static inline RowsV plain_f32(const uint8_t *w, int64_t i, int n) {
    const float *p = (const float *)(const void *)w + i;
    return n == 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(plain_mask(n), p);
}

static inline __m256i plain_half(const uint8_t *w, int64_t i, int n) {
    const uint8_t *p = w + 2 * i;
    return n == 16 ? _mm256_loadu_si256((const void *)p)
                   : _mm256_maskz_loadu_epi16(plain_mask(n), p);
}

static inline RowsV plain_f16(const uint8_t *w, int64_t i, int n) {
    return _mm512_cvtph_ps(plain_half(w, i, n));
}

static inline RowsV plain_bf16(const uint8_t *w, int64_t i, int n) {
    __m512i wide = _mm512_cvtepu16_epi32(plain_half(w, i, n));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

#include "ops/cpu/cpu_linear_plain_tmpl.h"

void cpu_linear_plain_avx512(const LinearUnit *unit) {
    plain_unit(unit);
}
