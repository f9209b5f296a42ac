/* cpu_linear_block_avx512: block formats times int8 activations with VNNI.
 *
 * One step: 32 elements of k of 16 rows (lanes) and 1..12 tokens: 8 vpdpbusd per token, whose
 * activation operand is four bytes broadcast from memory, then one conversion, one product of the
 * scales and one FMA. So at most 8/11 of VNNI's peak.
 *
 * The walk over panels, groups and tokens is cpu_linear_block_tmpl.h's. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define EXPAND_SIGNED     0
#define BLOCK_TILE_TOKENS 12
#include "ops/cpu/cpu_unpack_avx512.h"
#include "ops/cpu/cpu_linear_block_tmpl.h"

/* sum + the four products of each lane with bytes 4 i .. 4 i + 3 of q. In assembly because gcc does
 * not fold the broadcast into the instruction, which costs a tenth of the speed. */
static UNPACK_INLINE __m512i block_dot(__m512i sum, __m512i u, const LinearQuant *q, int i) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(u), "m"(*(const int8_t(*)[4])(q->q + 4 * i)));
    return sum;
}

/* acc[t] += the 32 products of each row with token t. n_tokens and shape are constants. */
static UNPACK_INLINE void block_step(const UnpackGroup *w, const LinearQuant *q, int n_tokens,
                                     BlockShape shape, UnpackF *acc) {
    __m512i sum[2][BLOCK_TILE_TOKENS];
    CPU_UNROLL(12)
    for (int t = 0; t < n_tokens; t++) {
        sum[0][t] = shape.min ? _mm512_setzero_si512() : _mm512_set1_epi32(q[t].extra[0].start);
        if (shape.scale_16)
            sum[1][t] = shape.min ? _mm512_setzero_si512() : _mm512_set1_epi32(q[t].extra[1].start);
    }
    CPU_UNROLL(8)
    for (int j = 0; j < 8; j++) {
        /* Two sums take turns: more independent chains for vpdpbusd's latency of 5. */
        int half = shape.scale_16 ? j % 2 : 0, i = shape.scale_16 ? j % 2 * 4 + j / 2 : j;
        CPU_UNROLL(12)
        for (int t = 0; t < n_tokens; t++)
            sum[half][t] = block_dot(sum[half][t], (__m512i)w->u[i], &q[t], i);
    }
    CPU_UNROLL(12)
    for (int t = 0; t < n_tokens; t++) {
        __m512 scale = _mm512_set1_ps(q[t].scale), dot = _mm512_cvtepi32_ps(sum[0][t]);
        if (shape.scale_16) {
            dot = _mm512_mul_ps(dot, (__m512)w->scale[0]);
            dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[1][t]), (__m512)w->scale[1], dot);
        } else {
            scale = _mm512_mul_ps((__m512)w->scale[0], scale);
        }
        __m512 sum_f = _mm512_fmadd_ps(dot, scale, (__m512)acc[t]);
        if (shape.min) {
            __m512 x = _mm512_set1_ps(q[t].extra[0].sum);
            sum_f = _mm512_fmadd_ps((__m512)w->min[0], x, sum_f);
        }
        if (shape.min && shape.scale_16) {
            __m512 x = _mm512_set1_ps(q[t].extra[1].sum);
            sum_f = _mm512_fmadd_ps((__m512)w->min[1], x, sum_f);
        }
        acc[t] = (UnpackF)sum_f;
    }
}

/* q of 32 values, and what extra wants of their sums. */
static UNPACK_INLINE void block_quantize(const LinearFormat *f, const float *x, LinearQuant *out) {
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    /* As integers, so that infinities and NaNs come out largest. */
    __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                       _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    uint32_t bits = _mm512_reduce_max_epu32(largest);
    LinearScale scale = cpu_linear_scale(bits);
    __m512 inverse = _mm512_set1_ps(scale.inverse);
    __m512i qa = _mm512_setzero_si512(), qb = qa;
    if (scale.inverse != 0) {
        qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
        qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    }
    _mm_storeu_si128((void *)out->q, _mm512_cvtepi32_epi8(qa));
    _mm_storeu_si128((void *)(out->q + 16), _mm512_cvtepi32_epi8(qb));
    cpu_linear_finish(f, scale.scale, _mm512_reduce_add_epi32(qa), _mm512_reduce_add_epi32(qb),
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
