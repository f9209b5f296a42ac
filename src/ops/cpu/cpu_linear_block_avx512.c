/* cpu_linear_block_avx512: block formats times int8 activations with VNNI.
 *
 * One step: 32 elements of k of 16 rows (lanes) and 1..8 tokens: 8 vpdpbusd per token, whose
 * activation operand is four bytes broadcast from memory, then one conversion, one product of the
 * scales and one FMA. So at most 8/11 of VNNI's peak.
 *
 * One token: four panels at a time, unpacked in registers; memory-bound. More tokens: a panel is
 * expanded once to bytes and f32 scales in L2 and read by every tile of tokens. Both run
 * block_step, so their bits are the same. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define UNPACK_LANES 16
#include "ops/cpu/cpu_unpack_tmpl.h"

static inline UnpackF unpack_f16(const void *p) {
    return (UnpackF)_mm512_cvtph_ps(_mm256_loadu_si256(p));
}

static inline UnpackU unpack_table(const uint8_t table[16], UnpackU index) {
    __m512i wide = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table));
    return (UnpackU)_mm512_shuffle_epi8(wide, (__m512i)index);
}

typedef void BlockUnpack(const uint8_t *group, int s, int half, UnpackGroup *out);

/* Bytes ahead of the walk that are asked for: 3 KiB measured best of 1..6 (docs/kernels.md). */
enum { BLOCK_PREFETCH_BYTES = 3072 };

UNPACK_INLINE __m512i block_bytes(const LinearQuant *q, int i) {
    int32_t four;
    memcpy(&four, q->q + 4 * i, 4);
    return _mm512_set1_epi32(four);
}

/* acc[t] += the 32 products of each row with token t. n_tokens, min and scale_16 are constants. */
UNPACK_INLINE void block_step(const UnpackGroup *w, const LinearQuant *q, int n_tokens, bool min,
                              bool scale_16, __m512 *acc) {
    __m512i sum[2][8];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++) {
        sum[0][t] = min ? _mm512_setzero_si512() : _mm512_set1_epi32(q[t].extra[0].start);
        if (scale_16)
            sum[1][t] = min ? _mm512_setzero_si512() : _mm512_set1_epi32(q[t].extra[1].start);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        int half = scale_16 ? i / 4 : 0;
#pragma GCC unroll 8
        for (int t = 0; t < n_tokens; t++)
            sum[half][t] =
                _mm512_dpbusd_epi32(sum[half][t], (__m512i)w->u[i], block_bytes(&q[t], i));
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++) {
        __m512 scale = _mm512_set1_ps(q[t].scale), dot = _mm512_cvtepi32_ps(sum[0][t]);
        if (scale_16) {
            dot = _mm512_mul_ps(dot, (__m512)w->scale[0]);
            dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[1][t]), (__m512)w->scale[1], dot);
        } else {
            scale = _mm512_mul_ps((__m512)w->scale[0], scale);
        }
        acc[t] = _mm512_fmadd_ps(dot, scale, acc[t]);
        if (!min) continue;
        acc[t] = _mm512_fmadd_ps((__m512)w->min[0], _mm512_set1_ps(q[t].extra[0].sum), acc[t]);
        if (scale_16)
            acc[t] = _mm512_fmadd_ps((__m512)w->min[1], _mm512_set1_ps(q[t].extra[1].sum), acc[t]);
    }
}

/* Sixteen finished sums to rows row .. row + 15 (those there are) of token t. */
static inline void block_store(const LinearUnit *unit, int64_t t, int64_t row, __m512 sum) {
    int64_t left = MIN(unit->n_rows - row, (int64_t)PACK_ROWS);
    __mmask16 mask = (__mmask16)((1u << left) - 1);
    float *out = unit->out + t * unit->out_stride + row;
    if (unit->bias != NULL) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, unit->bias + row));
    if (unit->accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sum);
    _mm512_mask_storeu_ps(out, mask, sum);
}

/* One token: the unit's panels side by side, a group of each in turn. The last BLOCK_PREFETCH_BYTES
 * of each panel ask for the start of the next unit's. */
UNPACK_INLINE void block_one(const LinearUnit *unit, BlockUnpack *unpack, const LinearFormat *f) {
    const int64_t group_bytes = f->group_bytes * PACK_ROWS;
    int64_t n_groups = unit->k / (32 * f->n_subgroups), n_panels = DIV_UP(unit->n_rows, PACK_ROWS);
    int64_t n_ahead = MIN(DIV_UP(BLOCK_PREFETCH_BYTES, group_bytes), n_groups);
    __m512 acc[LINEAR_PANELS];
    for (int64_t p = 0; p < n_panels; p++) acc[p] = _mm512_setzero_ps();
    for (int64_t g = 0; g < n_groups; g++) {
        const LinearQuant *q = unit->q + g * f->n_subgroups;
        int64_t ahead = n_ahead * group_bytes;
        if (g + n_ahead >= n_groups) ahead += (n_panels - 1) * unit->w_stride;
        for (int64_t p = 0; p < n_panels; p++) {
            const uint8_t *group = unit->w + p * unit->w_stride + g * group_bytes;
#pragma GCC unroll 64
            for (int64_t line = 0; line < group_bytes; line += CACHE_LINE)
                _mm_prefetch((const char *)group + ahead + line, _MM_HINT_T0);
#pragma GCC unroll 8
            for (int s = 0; s < f->n_subgroups; s++) {
                UnpackGroup w;
                unpack(group, s, 0, &w);
                block_step(&w, q + s, 1, f->has_min, f->has_scale_16, &acc[p]);
            }
        }
    }
    for (int64_t p = 0; p < n_panels; p++) block_store(unit, 0, p * PACK_ROWS, acc[p]);
}

/* The expanded form of a panel (cpu_linear_priv.h). */
UNPACK_INLINE void block_expand(const LinearUnit *unit, BlockUnpack *unpack, const LinearFormat *f,
                                const uint8_t *panel, uint8_t *out) {
    int64_t group_bytes = f->group_bytes * PACK_ROWS;
    int64_t n_groups = unit->k / (32 * f->n_subgroups);
    int n_scales = f->has_scale_16 ? 2 : 1;
    for (int64_t g = 0; g < n_groups; g++, panel += group_bytes) {
#pragma GCC unroll 8
        for (int s = 0; s < f->n_subgroups; s++) {
            UnpackGroup w;
            unpack(panel, s, 0, &w);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) memcpy(out + 64 * i, &w.u[i], 64);
#pragma GCC unroll 2
            for (int i = 0; i < n_scales; i++) {
                memcpy(out + 64 * (8 + i), &w.scale[i], 64);
                if (f->has_min) memcpy(out + 64 * (8 + n_scales + i), &w.min[i], 64);
            }
            out += cpu_linear_expanded_bytes(f);
        }
    }
}

/* n_tokens tokens of a tile times one expanded panel. */
UNPACK_INLINE void block_tile(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                              int64_t row, int n_tokens, bool min, bool scale_16) {
    int64_t n_groups = unit->k / 32;
    const LinearQuant *q = unit->q + token * n_groups;
    const LinearFormat shape = {.has_min = min, .has_scale_16 = scale_16};
    int n_scales = scale_16 ? 2 : 1;
    __m512 acc[8];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++) acc[t] = _mm512_setzero_ps();
    for (int64_t g = 0; g < n_groups; g++) {
        UnpackGroup w;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) memcpy(&w.u[i], expanded + 64 * i, 64);
#pragma GCC unroll 2
        for (int i = 0; i < n_scales; i++) {
            memcpy(&w.scale[i], expanded + 64 * (8 + i), 64);
            if (min) memcpy(&w.min[i], expanded + 64 * (8 + n_scales + i), 64);
        }
        block_step(&w, q, n_tokens, min, scale_16, acc);
        expanded += cpu_linear_expanded_bytes(&shape);
        q += n_tokens;
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++) block_store(unit, token + t, row, acc[t]);
}

UNPACK_INLINE void block_tiles(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                               int64_t row, int32_t n_tokens, bool min, bool scale_16) {
    switch (n_tokens) {
        case 8: block_tile(unit, expanded, token, row, 8, min, scale_16); break;
        case 4: block_tile(unit, expanded, token, row, 4, min, scale_16); break;
        case 2: block_tile(unit, expanded, token, row, 2, min, scale_16); break;
        default: block_tile(unit, expanded, token, row, 1, min, scale_16); break;
    }
}

static void block_tiles_0(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                          int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, false, false);
}

static void block_tiles_min(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                            int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, true, false);
}

static void block_tiles_16(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                           int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, false, true);
}

static void block_tiles_16_min(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                               int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, true, true);
}

/* All tokens times the unit's expanded panels: a tile of tokens stays near while panels change. */
static void block_many(const LinearUnit *unit, const LinearFormat *f, int64_t panel_bytes) {
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t n = cpu_linear_tile(unit->n_tokens - token);
        const uint8_t *expanded = unit->scratch;
        for (int64_t row = 0; row < unit->n_rows; row += PACK_ROWS, expanded += panel_bytes) {
            if (f->has_scale_16)
                (f->has_min ? block_tiles_16_min : block_tiles_16)(unit, expanded, token, row, n);
            else
                (f->has_min ? block_tiles_min : block_tiles_0)(unit, expanded, token, row, n);
        }
        token += n;
    }
}

UNPACK_INLINE void block_run(const LinearUnit *unit, BlockUnpack *unpack, const LinearFormat *f) {
    if (unit->n_tokens == 1) {
        block_one(unit, unpack, f);
        return;
    }
    int64_t panel_bytes = unit->k / 32 * cpu_linear_expanded_bytes(f);
    for (int64_t p = 0; p * PACK_ROWS < unit->n_rows; p++)
        block_expand(unit, unpack, f, unit->w + p * unit->w_stride,
                     (uint8_t *)unit->scratch + p * panel_bytes);
    block_many(unit, f, panel_bytes);
}

static void block_q4_0(const LinearUnit *unit) {
    block_run(unit, unpack_q4_0, &LINEAR_FORMAT[DTYPE_Q4_0]);
}

static void block_q4_1(const LinearUnit *unit) {
    block_run(unit, unpack_q4_1, &LINEAR_FORMAT[DTYPE_Q4_1]);
}

static void block_q5_0(const LinearUnit *unit) {
    block_run(unit, unpack_q5_0, &LINEAR_FORMAT[DTYPE_Q5_0]);
}

static void block_q5_1(const LinearUnit *unit) {
    block_run(unit, unpack_q5_1, &LINEAR_FORMAT[DTYPE_Q5_1]);
}

static void block_q8_0(const LinearUnit *unit) {
    block_run(unit, unpack_q8_0, &LINEAR_FORMAT[DTYPE_Q8_0]);
}

static void block_q2_k(const LinearUnit *unit) {
    block_run(unit, unpack_q2_k, &LINEAR_FORMAT[DTYPE_Q2_K]);
}

static void block_q3_k(const LinearUnit *unit) {
    block_run(unit, unpack_q3_k, &LINEAR_FORMAT[DTYPE_Q3_K]);
}

static void block_q4_k(const LinearUnit *unit) {
    block_run(unit, unpack_q4_k, &LINEAR_FORMAT[DTYPE_Q4_K]);
}

static void block_q5_k(const LinearUnit *unit) {
    block_run(unit, unpack_q5_k, &LINEAR_FORMAT[DTYPE_Q5_K]);
}

static void block_q6_k(const LinearUnit *unit) {
    block_run(unit, unpack_q6_k, &LINEAR_FORMAT[DTYPE_Q6_K]);
}

static void block_iq4_nl(const LinearUnit *unit) {
    block_run(unit, unpack_iq4_nl, &LINEAR_FORMAT[DTYPE_IQ4_NL]);
}

static void block_iq4_xs(const LinearUnit *unit) {
    block_run(unit, unpack_iq4_xs, &LINEAR_FORMAT[DTYPE_IQ4_XS]);
}

static void block_mxfp4(const LinearUnit *unit) {
    block_run(unit, unpack_mxfp4, &LINEAR_FORMAT[DTYPE_MXFP4]);
}

void cpu_linear_block_avx512(const LinearUnit *unit) {
    switch (unit->dtype) {
        case DTYPE_Q4_0: block_q4_0(unit); break;
        case DTYPE_Q4_1: block_q4_1(unit); break;
        case DTYPE_Q5_0: block_q5_0(unit); break;
        case DTYPE_Q5_1: block_q5_1(unit); break;
        case DTYPE_Q8_0: block_q8_0(unit); break;
        case DTYPE_Q2_K: block_q2_k(unit); break;
        case DTYPE_Q3_K: block_q3_k(unit); break;
        case DTYPE_Q4_K: block_q4_k(unit); break;
        case DTYPE_Q5_K: block_q5_k(unit); break;
        case DTYPE_Q6_K: block_q6_k(unit); break;
        case DTYPE_IQ4_NL: block_iq4_nl(unit); break;
        case DTYPE_IQ4_XS: block_iq4_xs(unit); break;
        case DTYPE_MXFP4: block_mxfp4(unit); break;
        default: CHECK(false);
    }
}

/* q of 32 values, and what extra wants of their sums. */
UNPACK_INLINE void block_quantize(const LinearFormat *f, const float *x, LinearQuant *out) {
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

void cpu_linear_quantize_avx512(const LinearFormat *f, const float *const *x, int32_t n_tokens,
                                int64_t k, LinearQuant *out) {
    for (int64_t g = 0; g < k / 32; g++)
        for (int32_t t = 0; t < n_tokens; t++) block_quantize(f, x[t] + g * 32, out++);
}
