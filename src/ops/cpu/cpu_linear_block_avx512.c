/* cpu_linear_block_avx512: block formats times int8 activations with VNNI.
 *
 * One step: 32 elements of k of 16 rows (lanes) of 1 or 2 panels and 1..4 tokens. Four bytes of a
 * token are broadcast to a register that both panels' vpdpbusd read: less than one load a product,
 * which the ports for loads would not keep up with. 8 of them, then one conversion, one product of
 * the scales and one FMA: at most 8/11 of VNNI's peak, 8/10 where conversions have ports of their
 * own (AMD).
 *
 * The walk over panels, groups and tokens is cpu_linear_block_tmpl.h's. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define EXPAND_SIGNED     0
#define BLOCK_TILE_PANELS 2
#define BLOCK_TILE_TOKENS 6
#include "ops/cpu/cpu_unpack_avx512.h"
#include "ops/cpu/cpu_vec_avx512.h"
#include "ops/cpu/cpu_linear_block_tmpl.h"

/* sum + the four products of each lane with bytes 4 i .. 4 i + 3 of q. In assembly because gcc's
 * own instruction copies the sum, and spills. */
static UNPACK_INLINE __m512i block_dot(__m512i sum, __m512i u, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(x));
    return sum;
}

/* As block_step; one token's sums of one panel. */
static UNPACK_INLINE __m512 block_add(const UnpackGroup *w, const LinearQuant *q,
                                      const __m512i sum[2], BlockShape shape, __m512 acc) {
    __m512 scale = _mm512_set1_ps(q->scale), dot = _mm512_cvtepi32_ps(sum[0]);
    if (shape.scale_16) {
        dot = _mm512_mul_ps(dot, (__m512)w->scale[0]);
        dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[1]), (__m512)w->scale[1], dot);
    } else {
        scale = _mm512_mul_ps((__m512)w->scale[0], scale);
    }
    acc = _mm512_fmadd_ps(dot, scale, acc);
    if (shape.min) {
        __m512 x = _mm512_set1_ps(q->extra[0].sum);
        acc = _mm512_fmadd_ps((__m512)w->min[0], x, acc);
    }
    if (shape.min && shape.scale_16) {
        __m512 x = _mm512_set1_ps(q->extra[1].sum);
        acc = _mm512_fmadd_ps((__m512)w->min[1], x, acc);
    }
    return acc;
}

/* acc[p * n_tokens + t] += the 32 products of each row of panel p with token t. n_panels, n_tokens
 * and shape are constants. */
static UNPACK_INLINE void block_step(const UnpackGroup *w, int n_panels, const LinearQuant *q,
                                     int n_tokens, BlockShape shape, UnpackF *acc) {
    const int n_sums = shape.scale_16 ? 2 : 1;
    __m512i sum[BLOCK_TILE_PANELS * BLOCK_TILE_TOKENS][2];
    CPU_UNROLL(6)
    for (int t = 0; t < n_tokens; t++) {
        CPU_UNROLL(2)
        for (int s = 0; s < n_sums; s++) {
            __m512i start =
                shape.min ? _mm512_setzero_si512() : _mm512_set1_epi32(q[t].extra[s].start);
            CPU_UNROLL(2)
            for (int p = 0; p < n_panels; p++) sum[p * n_tokens + t][s] = start;
        }
    }
    CPU_UNROLL(8)
    for (int j = 0; j < 8; j++) {
        /* Two sums take turns: more independent chains for vpdpbusd's latency of 5. */
        int s = j % n_sums, i = shape.scale_16 ? j % 2 * 4 + j / 2 : j;
        CPU_UNROLL(6)
        for (int t = 0; t < n_tokens; t++) {
            int32_t four;
            memcpy(&four, q[t].q + 4 * i, 4);
            __m512i x = _mm512_set1_epi32(four);
            CPU_UNROLL(2)
            for (int p = 0; p < n_panels; p++) {
                __m512i *to = &sum[p * n_tokens + t][s];
                *to = block_dot(*to, (__m512i)w[p].u[i], x);
            }
        }
    }
    CPU_UNROLL(2)
    for (int p = 0; p < n_panels; p++) {
        CPU_UNROLL(6)
        for (int t = 0; t < n_tokens; t++) {
            int i = p * n_tokens + t;
            acc[i] = (UnpackF)block_add(&w[p], &q[t], sum[i], shape, (__m512)acc[i]);
        }
    }
}

/* q of 32 values, and what extra wants of their sums. */
static UNPACK_INLINE void block_quantize(const LinearFormat *f, const float *x, LinearQuant *out) {
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    /* As integers, so that infinities and NaNs come out largest. */
    __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                       _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    LinearScale scale = cpu_linear_scale(_mm512_reduce_max_epu32(largest));
    __m512 inverse = _mm512_set1_ps(scale.inverse);
    __m512i qa = _mm512_setzero_si512(), qb = qa;
    if (scale.inverse != 0) {
        qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
        qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    }
    __m256i q = _mm256_set_m128i(_mm512_cvtepi32_epi8(qb), _mm512_cvtepi32_epi8(qa));
    _mm256_storeu_si256((void *)out->q, q);
    /* Sums of four bytes, then of the halves' four such. */
    __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4e));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xb1));
    cpu_linear_finish(f, scale.scale, _mm256_extract_epi32(sum, 0), _mm256_extract_epi32(sum, 4),
                      out);
}

void cpu_linear_block_avx512_quantize(const LinearFormat *f, const float *const *x,
                                      int32_t n_tokens, int64_t k, LinearQuant *out) {
    for (int64_t g = 0; g < k / 32; g++)
        for (int32_t t = 0; t < n_tokens; t++) block_quantize(f, x[t] + g * 32, out++);
}

void cpu_linear_block_avx512(const LinearUnit *unit) {
    block_unit(unit);
}
