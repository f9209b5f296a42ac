/* cpu_attn_i8_avx512: attention over int8 keys and values with integer products.
 *
 * A query becomes 16-bit integers, q = 256 hi + lo, with one scale a row; so do a row's weights of
 * the softmax with every tile of keys (times the values' scales), there with unsigned bytes. Both
 * products are then VPDPBUSD, four bytes a lane: keys are made unsigned (128 more, paid back by the
 * sum of q), weights are it. Integer sums are exact in any order: one row and many give the same
 * bits.
 *
 *   work->keys    [4 of head_dim][64 keys] words: the words of 16 keys turned
 *   work->values  [4 keys][64 of head_dim] words: four rows woven together; 128-bit quarter l of
 *                 vector v has elements 16 l + 4 v and on
 *   work->q       [row][hi, lo] of 64 * n_spans bytes
 *
 * Masked keys have weight 0, and bytes are always finite. Sums of up to CPU_ATTN_I8_DIM_MAX
 * products fit 32 bits.
 *
 * bounds  decode: memory up to four heads a KV head, VPDPBUSD beyond; prefill: half VPDPBUSD. */
#include "ops/cpu/cpu_vec_avx512.h"

#include <string.h>

#include "ops/cpu/cpu_attn_soft_tmpl.h"

enum {
    I8_SPAN = 64,      /* elements of a vector of bytes */
    I8_WORD = 4,       /* bytes of a lane */
    I8_ROWS = 6,       /* of a block of scores; times two vectors of keys, hi and lo */
    I8_VALUE_ROWS = 3, /* of a block of sums; times four vectors, hi and lo */
    I8_Q_MAX = 32639,  /* 127 * 256 + 127 */
    I8_WEIGHT_MAX = 65535,
    I8_KEY_VECS = CPU_ATTN_KEYS / VEC_LANES,
    /* Rows of the next tile that are asked for until the keys are turned and until there are
     * scores; the rest while the values are woven. */
    I8_ASK_KEYS = 28,
    I8_ASK_SCORES = 44,
};

typedef struct I8Row {
    float scale; /* of the integers */
    int32_t sum; /* of q, times 128 */
} I8Row;

/* Behind the tiles of the queries: what belongs to each row. */
static I8Row *i8_rows(const CpuAttnTask *task, const CpuAttnWork *work) {
    const int64_t row_bytes = 2 * ALIGN_UP((int64_t)task->args->kv.head_dim, (int64_t)I8_SPAN);
    return (I8Row *)(void *)((char *)work->q + CPU_ATTN_ROWS * row_bytes);
}

static inline __mmask64 i8_mask(int64_t n) {
    return n >= I8_SPAN ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1;
}

/* ---- queries ------------------------------------------------------------------------------- */

static void i8_load_row(const float *q, int64_t dim, float scale, int8_t *hi, int8_t *lo,
                        I8Row *row) {
    Vec largest = vec_zero(), not_finite = vec_zero();
    for (int64_t i = 0; i < dim; i += VEC_LANES) {
        Vec x = vec_load_n(q + i, MIN(dim - i, (int64_t)VEC_LANES));
        largest = vec_max(largest, vec_abs(x));
        not_finite = vec_fma(x, vec_zero(), not_finite); /* NaN for NaN and infinity */
    }
    const float most = MAX(vec_largest(largest), 1e-30f);
    const Vec inverse = vec_set1((float)I8_Q_MAX / most);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < ALIGN_UP(dim, (int64_t)I8_SPAN); i += VEC_LANES) {
        Vec x = vec_load_n(q + i, MAX(MIN(dim - i, (int64_t)VEC_LANES), (int64_t)0));
        __m512i n = _mm512_cvtps_epi32(vec_mul(x, inverse));
        __m512i high = _mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(128)), 8);
        sum = _mm512_add_epi32(sum, n);
        _mm_storeu_si128((__m128i *)(void *)(hi + i), _mm512_cvtepi32_epi8(high));
        _mm_storeu_si128((__m128i *)(void *)(lo + i), _mm512_cvtepi32_epi8(n));
    }
    row->scale = scale * most / I8_Q_MAX + vec_sum(not_finite);
    row->sum = 128 * _mm512_reduce_add_epi32(sum);
}

static void i8_load_queries(const CpuAttnTask *task, const CpuAttnWork *work) {
    const int64_t dim = task->args->kv.head_dim, width = ALIGN_UP(dim, (int64_t)I8_SPAN);
    for (int32_t r = 0; r < task->n_rows; r++) {
        const float *q = ops_row(&task->args->q, task->token + r / task->n_heads) +
                         (task->head + r % task->n_heads) * dim;
        int8_t *to = (int8_t *)work->q + 2 * r * width;
        i8_load_row(q, dim, task->args->scale, to, to + width, &i8_rows(task, work)[r]);
    }
}

/* ---- keys and values ----------------------------------------------------------------------- */

static void i8_load_keys(const KvView *kv, CpuAttnTile *tile, const CpuAttnWork *work) {
    const Vec flip = _mm512_castsi512_ps(_mm512_set1_epi8((char)0x80));
    const int64_t dim = kv->head_dim, n_turns = DIV_UP(dim, (int64_t)I8_SPAN) * I8_KEY_VECS;
    int64_t turn = 0;
    for (int64_t i = 0; i < dim; i += I8_SPAN) {
        const int64_t n = MIN(dim - i, (int64_t)I8_SPAN), n_words = DIV_UP(n, (int64_t)I8_WORD);
        for (int64_t v = 0; v < I8_KEY_VECS; v++) {
            const int64_t *offset = tile->offset + v * VEC_LANES;
            cpu_attn_ask(DTYPE_I8, kv, tile, ++turn * I8_ASK_KEYS / n_turns);
            Vec word[VEC_LANES];
            if (n == I8_SPAN && offset[0] >= 0 && offset[VEC_LANES - 1] >= 0) {
                const void *row[VEC_LANES];
                for (int j = 0; j < VEC_LANES; j++) row[j] = (const char *)kv->k + offset[j] + i;
                vec_load_turned(row, word);
            } else {
                VEC_UNROLL
                for (int j = 0; j < VEC_LANES; j++)
                    word[j] = offset[j] < 0 ? vec_zero()
                                            : _mm512_castsi512_ps(_mm512_maskz_loadu_epi8(
                                                  i8_mask(n), (const char *)kv->k + offset[j] + i));
                vec_transpose(word);
            }
            float *to = work->keys + (i / I8_WORD) * CPU_ATTN_KEYS + v * VEC_LANES;
            VEC_UNROLL
            for (int64_t w = 0; w < VEC_LANES; w++)
                if (w < n_words) vec_store(to + w * CPU_ATTN_KEYS, _mm512_xor_ps(word[w], flip));
        }
    }
}

static void i8_load_values(const KvView *kv, CpuAttnTile *tile, const CpuAttnWork *work) {
    const int64_t dim = kv->head_dim;
    __m512i *to = (__m512i *)(void *)work->values;
    for (int64_t j = 0; j < CPU_ATTN_KEYS; j += I8_WORD) {
        cpu_attn_ask(
            DTYPE_I8, kv, tile,
            I8_ASK_SCORES + (j + I8_WORD) * (CPU_ATTN_KEYS - I8_ASK_SCORES) / CPU_ATTN_KEYS);
        for (int64_t i = 0; i < dim; i += I8_SPAN, to += 4) {
            __m512i row[I8_WORD];
            VEC_UNROLL
            for (int64_t e = 0; e < I8_WORD; e++)
                row[e] = tile->offset[j + e] < 0
                             ? _mm512_setzero_si512()
                             : _mm512_maskz_loadu_epi8(
                                   i8_mask(dim - i), (const char *)kv->v + tile->offset[j + e] + i);
            __m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]);
            __m512i high01 = _mm512_unpackhi_epi8(row[0], row[1]);
            __m512i low23 = _mm512_unpacklo_epi8(row[2], row[3]);
            __m512i high23 = _mm512_unpackhi_epi8(row[2], row[3]);
            _mm512_storeu_si512(to, _mm512_unpacklo_epi16(low01, low23));
            _mm512_storeu_si512(to + 1, _mm512_unpackhi_epi16(low01, low23));
            _mm512_storeu_si512(to + 2, _mm512_unpacklo_epi16(high01, high23));
            _mm512_storeu_si512(to + 3, _mm512_unpackhi_epi16(high01, high23));
        }
    }
}

/* ---- a tile of keys ------------------------------------------------------------------------ */

/* sum + the four products of each lane, u unsigned. In assembly because gcc copies and spills the
 * sums around its own intrinsic. */
static inline __m512i i8_dot(__m512i sum, __m512i u, __m512i s) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
    return sum;
}

static inline __m512i i8_broadcast(const void *four) {
    int32_t word;
    memcpy(&word, four, sizeof word);
    return _mm512_set1_epi32(word);
}

/* The scores of n_rows rows with the keys of two vectors from v on. */
static inline __attribute__((always_inline)) void i8_scores_block(const CpuAttnTask *task,
                                                                  const CpuAttnWork *work,
                                                                  int32_t r0, int n_rows,
                                                                  int64_t v) {
    const int64_t dim = task->args->kv.head_dim, width = ALIGN_UP(dim, (int64_t)I8_SPAN);
    const int8_t *q = (const int8_t *)work->q + 2 * r0 * width;
    const I8Row *row = i8_rows(task, work) + r0;
    __m512i hi[I8_ROWS][2], lo[I8_ROWS][2];
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++)
        hi[r][0] = hi[r][1] = lo[r][0] = lo[r][1] = _mm512_setzero_si512();
    const float *keys = work->keys + v * VEC_LANES;
    for (int64_t i = 0; i < dim; i += I8_WORD, keys += CPU_ATTN_KEYS) {
        const __m512i k0 = _mm512_loadu_si512(keys), k1 = _mm512_loadu_si512(keys + VEC_LANES);
        VEC_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const __m512i high = i8_broadcast(q + 2 * r * width + i);
            const __m512i low = i8_broadcast(q + (2 * r + 1) * width + i);
            hi[r][0] = i8_dot(hi[r][0], k0, high);
            hi[r][1] = i8_dot(hi[r][1], k1, high);
            lo[r][0] = i8_dot(lo[r][0], k0, low);
            lo[r][1] = i8_dot(lo[r][1], k1, low);
        }
    }
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++) {
        VEC_UNROLL
        for (int x = 0; x < 2; x++) {
            __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(hi[r][x], 8), lo[r][x]);
            dot = _mm512_sub_epi32(dot, _mm512_set1_epi32(row[r].sum));
            vec_store(work->scores + (r0 + r) * CPU_ATTN_KEYS + (v + x) * VEC_LANES,
                      vec_mul(_mm512_cvtepi32_ps(dot), vec_set1(row[r].scale)));
        }
    }
}

static void i8_scores(const CpuAttnTask *task, const CpuAttnWork *work, CpuAttnTile *tile) {
    for (int32_t r = 0; r < task->n_rows; r += I8_ROWS) {
        const int32_t n = MIN(task->n_rows - r, (int32_t)I8_ROWS);
        bool any = false;
        for (int32_t i = r; i < r + n; i++) any |= cpu_attn_sees(work, i);
        for (int64_t v = 0; v < I8_KEY_VECS && any; v += 2) {
            if (r == 0)
                cpu_attn_ask(DTYPE_I8, &task->args->kv, tile,
                             I8_ASK_KEYS + (v + 2) * (I8_ASK_SCORES - I8_ASK_KEYS) / I8_KEY_VECS);
            switch (n) {
                case 1: i8_scores_block(task, work, r, 1, v); break;
                case 2: i8_scores_block(task, work, r, 2, v); break;
                case 3: i8_scores_block(task, work, r, 3, v); break;
                case 4: i8_scores_block(task, work, r, 4, v); break;
                case 5: i8_scores_block(task, work, r, 5, v); break;
                default: i8_scores_block(task, work, r, 6, v); break;
            }
        }
    }
}

/* A row's weights, e^(scores - m) times the scale of the value, as 16-bit integers in the place of
 * its scores: high bytes, then low ones; `factor` makes numbers of them again. Those of keys that
 * the row does not see are 0. Returns the sum without scales. */
static float i8_weights_row(const CpuAttnWork *work, int32_t r, float m, float *factor) {
    float *scores = work->scores + r * CPU_ATTN_KEYS;
    const int64_t lo = work->lo[r], hi = work->hi[r];
    Vec w[I8_KEY_VECS], sum = vec_zero(), all = vec_zero(), largest = vec_zero();
    for (int64_t v = 0; v < I8_KEY_VECS; v++) {
        const int64_t i = v * VEC_LANES;
        w[v] = vec_zero();
        if (i + VEC_LANES <= lo || i >= hi) continue;
        Vec e = vec_exp(vec_sub(vec_load(scores + i), vec_set1(m)));
        sum = vec_add(sum, e);
        e = vec_mul(e, vec_load(work->value_scale + i));
        w[v] =
            vec_keep_range(e, MAX(lo - i, (int64_t)0), MIN(hi - i, (int64_t)VEC_LANES), vec_zero());
        all = vec_add(all, w[v]);
        largest = vec_max(largest, w[v]);
    }
    const float most = MAX(vec_largest(largest), 1e-30f), total = vec_sum(all);
    const Vec inverse = vec_set1((float)I8_WEIGHT_MAX / most);
    uint8_t *to = (uint8_t *)scores;
    for (int64_t v = 0; v < I8_KEY_VECS; v++, to += VEC_LANES) {
        __m512i n = _mm512_cvtps_epu32(vec_mul(w[v], inverse));
        n = _mm512_min_epu32(n, _mm512_set1_epi32(I8_WEIGHT_MAX));
        _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8(_mm512_srli_epi32(n, 8)));
        _mm_storeu_si128((__m128i *)(void *)(to + CPU_ATTN_KEYS), _mm512_cvtepi32_epi8(n));
    }
    *factor = isnan(total) ? NAN : most / I8_WEIGHT_MAX;
    return vec_sum(sum);
}

/* acc = alpha * acc + factor * weights . values, of 64 elements from i on. */
static inline __attribute__((always_inline)) void i8_values_block(
    const CpuAttnTask *task, const CpuAttnWork *work, const CpuAttnPart *part, const float *factor,
    const int32_t *row, int n_rows, int64_t i) {
    const int64_t n_spans = DIV_UP((int64_t)task->args->kv.head_dim, (int64_t)I8_SPAN);
    const __m512i *values = (const __m512i *)(const void *)work->values + i / I8_SPAN * 4;
    __m512i hi[I8_VALUE_ROWS][4], lo[I8_VALUE_ROWS][4];
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++) {
        VEC_UNROLL
        for (int v = 0; v < 4; v++) hi[r][v] = lo[r][v] = _mm512_setzero_si512();
    }
    for (int64_t j = 0; j < CPU_ATTN_KEYS; j += I8_WORD, values += 4 * n_spans) {
        VEC_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *weights = (const uint8_t *)(work->scores + row[r] * CPU_ATTN_KEYS) + j;
            const __m512i high = i8_broadcast(weights);
            const __m512i low = i8_broadcast(weights + CPU_ATTN_KEYS);
            VEC_UNROLL
            for (int v = 0; v < 4; v++) {
                hi[r][v] = i8_dot(hi[r][v], high, values[v]);
                lo[r][v] = i8_dot(lo[r][v], low, values[v]);
            }
        }
    }
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++) {
        Vec x[4];
        VEC_UNROLL
        for (int v = 0; v < 4; v++)
            x[v] = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(hi[r][v], 8), lo[r][v]));
        /* Quarter l of vector v to quarter v of vector l. */
        Vec a = _mm512_shuffle_f32x4(x[0], x[1], 0x44), b = _mm512_shuffle_f32x4(x[2], x[3], 0x44);
        Vec c = _mm512_shuffle_f32x4(x[0], x[1], 0xee), d = _mm512_shuffle_f32x4(x[2], x[3], 0xee);
        x[0] = _mm512_shuffle_f32x4(a, b, 0x88), x[1] = _mm512_shuffle_f32x4(a, b, 0xdd);
        x[2] = _mm512_shuffle_f32x4(c, d, 0x88), x[3] = _mm512_shuffle_f32x4(c, d, 0xdd);
        float *acc = part->acc + row[r] * work->stride + i;
        VEC_UNROLL
        for (int64_t v = 0; v < 4; v++) {
            Vec old = vec_mul(vec_load(acc + v * VEC_LANES), vec_set1(work->alpha[row[r]]));
            vec_store(acc + v * VEC_LANES, vec_fma(x[v], vec_set1(factor[row[r]]), old));
        }
    }
}

/* Rows that see some key, a block at a time. */
static void i8_sum_values(const CpuAttnTask *task, const CpuAttnWork *work, const CpuAttnPart *part,
                          const float *factor) {
    for (int32_t r = 0; r < task->n_rows;) {
        int32_t row[I8_VALUE_ROWS], n = 0;
        for (; r < task->n_rows && n < I8_VALUE_ROWS; r++)
            if (cpu_attn_sees(work, r)) row[n++] = r;
        for (int64_t i = 0; i < task->args->kv.head_dim; i += I8_SPAN) {
            switch (n) {
                case 0: break;
                case 1: i8_values_block(task, work, part, factor, row, 1, i); break;
                case 2: i8_values_block(task, work, part, factor, row, 2, i); break;
                default: i8_values_block(task, work, part, factor, row, 3, i); break;
            }
        }
    }
}

static void i8_tile(const CpuAttnTask *task, const CpuAttnWork *work, int32_t first,
                    const CpuAttnPart *part) {
    float base[CPU_ATTN_ROWS], factor[CPU_ATTN_ROWS];
    CpuAttnTile tile;
    cpu_attn_tile_places(task, first, &tile);
    cpu_attn_ranges(task, work, first);
    cpu_attn_scales(task, first, work);
    i8_load_keys(&task->args->kv, &tile, work);
    i8_scores(task, work, &tile);
    cpu_attn_softmax_begin(task, work, part, base);
    for (int32_t r = 0; r < task->n_rows; r++) {
        if (!cpu_attn_sees(work, r)) continue;
        float sum = i8_weights_row(work, r, base[r], &factor[r]);
        part->l[r] = part->l[r] * work->alpha[r] + sum;
    }
    i8_load_values(&task->args->kv, &tile, work);
    i8_sum_values(task, work, part, factor);
}

static void i8_split(const CpuAttnTask *task, const CpuAttnWork *work, int32_t split,
                     const CpuAttnPart *part) {
    cpu_attn_clear(task, work, part);
    OpsRange tiles = cpu_attn_split_tiles(task, split);
    for (int32_t first = tiles.lo; first < tiles.hi; first += CPU_ATTN_KEYS)
        i8_tile(task, work, first, part);
}

const CpuAttnLevel CPU_ATTN_I8_AVX512 = {i8_load_queries, i8_split, cpu_attn_merge,
                                         cpu_attn_finish};
