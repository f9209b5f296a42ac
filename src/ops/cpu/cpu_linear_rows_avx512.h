/* cpu_linear_rows_avx512: tiles of 6 tokens x 4 rows for cpu_linear_rows_tmpl.h: 24 accumulators,
 * 24 products for 10 loads. */
#pragma once

#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define ROWS_TOKENS 6
#define ROWS_ROWS   4
#define ROWS_FEW    4
#define ROWS_WIDE   8
#define ROWS_SUMS   24
#define ROWS_PARTS  1

typedef __m512 RowsV;

static inline RowsV rows_zero(void) {
    return _mm512_setzero_ps();
}

/* Lane l + lane l + 8, then + 4, row r in quarter r; then + 2 and + 1. */
static inline __m128 rows_sums(const RowsV *sum) {
    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(sum[0], sum[1], 0x44),
                             _mm512_shuffle_f32x4(sum[0], sum[1], 0xee));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(sum[2], sum[3], 0x44),
                             _mm512_shuffle_f32x4(sum[2], sum[3], 0xee));
    a = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    a = _mm512_add_ps(a, _mm512_permute_ps(a, 0x4e));
    a = _mm512_add_ps(a, _mm512_permute_ps(a, 0xb1));
    const __m512i first = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(first, a));
}

static inline void rows_put(const LinearUnit *unit, int64_t row, int32_t n_rows, const RowsV *sum,
                            int part, float *out) {
    (void)part;
    __mmask8 mask = (__mmask8)((1u << n_rows) - 1);
    __m128 v = rows_sums(sum);
    if (unit->bias != NULL) v = _mm_add_ps(v, _mm_maskz_loadu_ps(mask, unit->bias + row));
    if (unit->accumulate) v = _mm_add_ps(_mm_maskz_loadu_ps(mask, out), v);
    _mm_mask_storeu_ps(out, mask, v);
}
