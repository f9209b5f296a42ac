/* cpu_linear_plain_avx2: plain formats with tiles of 3 tokens x 2 rows. 16 lanes are two registers:
 * 12 accumulators, 12 FMA for 10 loads. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define PLAIN_TILE_TOKENS 3
#define PLAIN_TILE_ROWS   2
#define PLAIN_FEW_TOKENS  2
#define PLAIN_WIDE_ROWS   4
#define PLAIN_ACC_MAX     6

typedef struct PlainV {
    __m256 a, b; /* lanes 0..7, 8..15 */
} PlainV;

static inline PlainV plain_v_zero(void) {
    return (PlainV){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

static inline PlainV plain_v_fma(PlainV a, PlainV b, PlainV c) {
    return (PlainV){_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)};
}

static inline void plain_v_store(float *p, PlainV v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}

static inline __m256 plain_v_halves(PlainV v) {
    return _mm256_add_ps(v.a, v.b);
}

static inline PlainV plain_f32(const void *w, int64_t i, int n) {
    const float *p = (const float *)w + i;
    float part[16] = {0};
    if (n < 16) p = memcpy(part, p, (size_t)n * sizeof *p);
    return (PlainV){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline PlainV plain_f16(const void *w, int64_t i, int n) {
    const uint16_t *p = (const uint16_t *)w + i;
    uint16_t part[16] = {0};
    if (n < 16) p = memcpy(part, p, (size_t)n * sizeof *p);
    return (PlainV){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}

static inline __m256 plain_bf16_half(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline PlainV plain_bf16(const void *w, int64_t i, int n) {
    const uint16_t *p = (const uint16_t *)w + i;
    uint16_t part[16] = {0};
    if (n < 16) p = memcpy(part, p, (size_t)n * sizeof *p);
    return (PlainV){plain_bf16_half(p), plain_bf16_half(p + 8)};
}

#include "ops/cpu/cpu_linear_plain_tmpl.h"

void cpu_linear_plain_avx2(const LinearUnit *unit) {
    plain_unit(unit);
}
