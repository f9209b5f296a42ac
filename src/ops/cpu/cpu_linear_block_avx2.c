/* cpu_linear_block_avx2: block formats times int8 activations.
 *
 * The same layout, order and bits as avx512, eight rows (half a panel) at a time. Products of u8
 * and s8 are summed in pairs to i16 (vpmaddubsw, exact: unsigned weights have at most 6 bits), a
 * few of those added in i16, then widened. 8-bit weights are taken as signed: |w| times x with w's
 * sign, exact since |x| <= 127. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"

#define UNPACK_LANES 8
#include "ops/cpu/cpu_unpack_tmpl.h"

static inline UnpackF unpack_f16(const void *p) {
    return (UnpackF)_mm256_cvtph_ps(_mm_loadu_si128(p));
}

static inline UnpackU unpack_table(const uint8_t table[16], UnpackU index) {
    __m256i wide = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    return (UnpackU)_mm256_shuffle_epi8(wide, (__m256i)index);
}

typedef void BlockUnpack(const uint8_t *group, int s, int half, UnpackGroup *out);

enum { BLOCK_PREFETCH_BYTES = 3072, BLOCK_TOKENS = 4 };

/* What the inner loop is compiled for. */
typedef struct BlockShape {
    bool min, scale_16, wide; /* wide: 8-bit weights */
} BlockShape;

UNPACK_INLINE BlockShape block_shape(const LinearFormat *f) {
    return (BlockShape){f->has_min, f->has_scale_16, f->bits == 8};
}

UNPACK_INLINE __m256i block_bytes(const LinearQuant *q, int i) {
    int32_t four;
    memcpy(&four, q->q + 4 * i, 4);
    return _mm256_set1_epi32(four);
}

/* Sums of 4 products each of u[first .. first + n - 1]. */
UNPACK_INLINE __m256i block_dot(const UnpackGroup *w, const LinearQuant *q, int first, int n,
                                BlockShape shape) {
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)0x80);
    /* i16 holds 2 pairs of 6-bit products (2 x 2 x 63 x 127), 4 of 5-bit ones. */
    int step = shape.wide ? 1 : shape.scale_16 && !shape.min ? 2 : 4;
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = first; i < first + n; i += step) {
        __m256i pairs = _mm256_setzero_si256();
#pragma GCC unroll 4
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
UNPACK_INLINE void block_step(const UnpackGroup *w, const LinearQuant *q, int n_tokens,
                              BlockShape shape, __m256 *acc) {
#pragma GCC unroll 4
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
        acc[t] = _mm256_fmadd_ps(dot, scale, acc[t]);
        if (!shape.min) continue;
        acc[t] = _mm256_fmadd_ps((__m256)w->min[0], _mm256_set1_ps(q[t].extra[0].sum), acc[t]);
        if (shape.scale_16)
            acc[t] = _mm256_fmadd_ps((__m256)w->min[1], _mm256_set1_ps(q[t].extra[1].sum), acc[t]);
    }
}

/* Eight finished sums to rows row .. row + 7 (those there are) of token t. */
static inline void block_store(const LinearUnit *unit, int64_t t, int64_t row, __m256 sum) {
    int64_t left = MIN(unit->n_rows - row, (int64_t)8);
    if (left <= 0) return;
    float part[8], *out = unit->out + t * unit->out_stride + row;
    if (unit->bias != NULL) {
        memset(part, 0, sizeof part);
        memcpy(part, unit->bias + row, (size_t)left * sizeof *part);
        sum = _mm256_add_ps(sum, _mm256_loadu_ps(part));
    }
    if (unit->accumulate) {
        memset(part, 0, sizeof part);
        memcpy(part, out, (size_t)left * sizeof *part);
        sum = _mm256_add_ps(_mm256_loadu_ps(part), sum);
    }
    _mm256_storeu_ps(part, sum);
    memcpy(out, part, (size_t)left * sizeof *part);
}

/* One token: the unit's panels side by side, a group of each in turn. The last BLOCK_PREFETCH_BYTES
 * of each panel ask for the start of the next unit's. */
UNPACK_INLINE void block_one(const LinearUnit *unit, BlockUnpack *unpack, const LinearFormat *f) {
    const int64_t group_bytes = f->group_bytes * PACK_ROWS;
    int64_t n_groups = unit->k / (32 * f->n_subgroups), n_panels = DIV_UP(unit->n_rows, PACK_ROWS);
    int64_t n_ahead = MIN(DIV_UP(BLOCK_PREFETCH_BYTES, group_bytes), n_groups);
    __m256 acc[2 * LINEAR_PANELS];
    for (int64_t p = 0; p < 2 * n_panels; p++) acc[p] = _mm256_setzero_ps();
    for (int64_t g = 0; g < n_groups; g++) {
        const LinearQuant *q = unit->q + g * f->n_subgroups;
        int64_t ahead = n_ahead * group_bytes;
        if (g + n_ahead >= n_groups) ahead += (n_panels - 1) * unit->w_stride;
        for (int64_t p = 0; p < 2 * n_panels; p++) {
            const uint8_t *group = unit->w + p / 2 * unit->w_stride + g * group_bytes;
#pragma GCC unroll 64
            for (int64_t line = 0; line < group_bytes / 2; line += CACHE_LINE)
                _mm_prefetch((const char *)group + ahead + p % 2 * (group_bytes / 2) + line,
                             _MM_HINT_T0);
#pragma GCC unroll 8
            for (int s = 0; s < f->n_subgroups; s++) {
                UnpackGroup w;
                unpack(group, s, (int)(p % 2), &w);
                block_step(&w, q + s, 1, block_shape(f), &acc[p]);
            }
        }
    }
    for (int64_t p = 0; p < 2 * n_panels; p++) block_store(unit, 0, p * 8, acc[p]);
}

/* The expanded form of a panel (cpu_linear_priv.h). */
UNPACK_INLINE void block_expand(const LinearUnit *unit, BlockUnpack *unpack, const LinearFormat *f,
                                const uint8_t *panel, uint8_t *expanded) {
    int64_t group_bytes = f->group_bytes * PACK_ROWS;
    int64_t n_groups = unit->k / (32 * f->n_subgroups);
    int n_scales = f->has_scale_16 ? 2 : 1;
    for (int64_t g = 0; g < 2 * n_groups; g++) {
        int half = (int)(g % 2);
        uint8_t *out = expanded + half * 32;
#pragma GCC unroll 8
        for (int s = 0; s < f->n_subgroups; s++) {
            UnpackGroup w;
            unpack(panel, s, half, &w);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) memcpy(out + 64 * i, &w.u[i], 32);
#pragma GCC unroll 2
            for (int i = 0; i < n_scales; i++) {
                memcpy(out + 64 * (8 + i), &w.scale[i], 32);
                if (f->has_min) memcpy(out + 64 * (8 + n_scales + i), &w.min[i], 32);
            }
            out += cpu_linear_expanded_bytes(f);
        }
        if (half == 0) continue;
        panel += group_bytes;
        expanded = out - 32;
    }
}

/* n_tokens (a constant, at most 4) tokens from q, of a tile of tile_tokens, times half a panel. */
UNPACK_INLINE void block_tile(const LinearUnit *unit, const uint8_t *expanded, const LinearQuant *q,
                              int32_t tile_tokens, int64_t token, int64_t row, int n_tokens,
                              BlockShape shape) {
    const LinearFormat f = {.has_min = shape.min, .has_scale_16 = shape.scale_16};
    int n_scales = shape.scale_16 ? 2 : 1;
    __m256 acc[BLOCK_TOKENS];
#pragma GCC unroll 4
    for (int t = 0; t < n_tokens; t++) acc[t] = _mm256_setzero_ps();
    for (int64_t g = 0; g < unit->k / 32; g++) {
        UnpackGroup w;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) memcpy(&w.u[i], expanded + 64 * i, 32);
#pragma GCC unroll 2
        for (int i = 0; i < n_scales; i++) {
            memcpy(&w.scale[i], expanded + 64 * (8 + i), 32);
            if (shape.min) memcpy(&w.min[i], expanded + 64 * (8 + n_scales + i), 32);
        }
        block_step(&w, q, n_tokens, shape, acc);
        expanded += cpu_linear_expanded_bytes(&f);
        q += tile_tokens;
    }
#pragma GCC unroll 4
    for (int t = 0; t < n_tokens; t++) block_store(unit, token + t, row, acc[t]);
}

/* A tile of tokens times one expanded panel. */
UNPACK_INLINE void block_tiles(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                               int64_t row, int32_t n_tokens, BlockShape shape) {
    const LinearQuant *q = unit->q + token * (unit->k / 32);
    for (int half = 0; half < 2; half++, expanded += 32, row += 8) {
        int32_t t = 0;
        for (; t + 4 <= n_tokens; t += 4)
            block_tile(unit, expanded, q + t, n_tokens, token + t, row, 4, shape);
        if (n_tokens == 2) block_tile(unit, expanded, q, 2, token, row, 2, shape);
        if (n_tokens == 1) block_tile(unit, expanded, q, 1, token, row, 1, shape);
    }
}

typedef void BlockTiles(const LinearUnit *unit, const uint8_t *expanded, int64_t token, int64_t row,
                        int32_t n_tokens);

static void block_tiles_narrow(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                               int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, (BlockShape){.min = false});
}

static void block_tiles_wide(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                             int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, (BlockShape){.wide = true});
}

static void block_tiles_min(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                            int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, (BlockShape){.min = true});
}

static void block_tiles_16(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                           int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, (BlockShape){.scale_16 = true});
}

static void block_tiles_16_min(const LinearUnit *unit, const uint8_t *expanded, int64_t token,
                               int64_t row, int32_t n_tokens) {
    block_tiles(unit, expanded, token, row, n_tokens, (BlockShape){.min = true, .scale_16 = true});
}

/* All tokens times the unit's expanded panels: a tile of tokens stays near while panels change. */
static void block_many(const LinearUnit *unit, const LinearFormat *f, int64_t panel_bytes) {
    BlockTiles *tiles = f->has_scale_16 ? (f->has_min ? block_tiles_16_min : block_tiles_16)
                        : f->has_min    ? block_tiles_min
                        : f->bits == 8  ? block_tiles_wide
                                        : block_tiles_narrow;
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t n = cpu_linear_tile(unit->n_tokens - token);
        const uint8_t *expanded = unit->scratch;
        for (int64_t row = 0; row < unit->n_rows; row += PACK_ROWS, expanded += panel_bytes)
            tiles(unit, expanded, token, row, n);
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

void cpu_linear_block_avx2(const LinearUnit *unit) {
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
UNPACK_INLINE void block_quantize(const LinearFormat *f, const float *x, LinearQuant *out) {
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

void cpu_linear_quantize_avx2(const LinearFormat *f, const float *const *x, int32_t n_tokens,
                              int64_t k, LinearQuant *out) {
    for (int64_t g = 0; g < k / 32; g++)
        for (int32_t t = 0; t < n_tokens; t++) block_quantize(f, x[t] + g * 32, out++);
}
