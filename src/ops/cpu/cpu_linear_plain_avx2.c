/* cpu_linear_plain_avx2: plain formats with tiles of 3 tokens x 2 rows. 16 lanes are two registers,
 * one after the other: 12 accumulators, 6 products for 5 loads. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define ROWS_TOKENS 3
#define ROWS_ROWS   2
#define ROWS_FEW    2
#define ROWS_WIDE   4
#define ROWS_SUMS   6
#define ROWS_PARTS  2
#define ROWS_STEP   8

typedef __m256 RowsV;

static inline RowsV rows_zero(void) {
    return _mm256_setzero_ps();
}

static inline RowsV rows_fma(RowsV x, RowsV w, RowsV sum) {
    return _mm256_fmadd_ps(x, w, sum);
}

/* Lane l + lane l + 8, then + 4, a row in each half; then + 2 and + 1. */
static inline void rows_put(const LinearUnit *unit, int64_t row, int32_t n_rows, const RowsV *sum,
                            int part, float *out) {
    __m256 a = _mm256_add_ps(sum[0], sum[part]), b = _mm256_add_ps(sum[1], sum[part + 1]);
    a = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    a = _mm256_add_ps(a, _mm256_permute_ps(a, 0x4e));
    a = _mm256_add_ps(a, _mm256_permute_ps(a, 0xb1));
    float v[ROWS_ROWS] = {_mm256_cvtss_f32(a), _mm_cvtss_f32(_mm256_extractf128_ps(a, 1))};
    for (int32_t r = 0; r < n_rows; r++) {
        if (unit->bias != NULL) v[r] += unit->bias[row + r];
        out[r] = unit->accumulate ? out[r] + v[r] : v[r];
    }
}

static inline RowsV plain_f32(const uint8_t *w, int64_t i, int n) {
    const float *p = (const float *)(const void *)w + i;
    float some[8] = {0};
    if (n < 8) p = memcpy(some, p, (size_t)n * sizeof *p);
    return _mm256_loadu_ps(p);
}

static inline __m128i plain_half(const uint8_t *w, int64_t i, int n) {
    const uint16_t *p = (const uint16_t *)(const void *)w + i;
    uint16_t some[8] = {0};
    if (n < 8) p = memcpy(some, p, (size_t)n * sizeof *p);
    return _mm_loadu_si128((const void *)p);
}

static inline RowsV plain_f16(const uint8_t *w, int64_t i, int n) {
    return _mm256_cvtph_ps(plain_half(w, i, n));
}

static inline RowsV plain_bf16(const uint8_t *w, int64_t i, int n) {
    __m256i wide = _mm256_cvtepu16_epi32(plain_half(w, i, n));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

#include "ops/cpu/cpu_linear_plain_tmpl.h"

void cpu_linear_plain_avx2(const LinearUnit *unit) {
    plain_unit(unit);
}
