/* cpu_attn_tile_tmpl: the parts of attention that touch a tile's numbers, the product kernel and
 * the squares of turned keys; include after a cpu_vec_*.h. How they fit together is told in
 * cpu_attn_tmpl.h. */
#pragma once

#include "ops/cpu/cpu_attn_priv.h"
#include "ops/cpu/cpu_kv_tmpl.h"

enum {
    CPU_ATTN_BLOCK_ROWS = 6,
    CPU_ATTN_BLOCK_VECS = VEC_LANES / 4, /* 24 of 32 registers, 12 of 16 */
    CPU_ATTN_WIDE_ROWS = 3,              /* up to so many rows take twice the width */
    CPU_ATTN_WIDE_VECS = 2 * CPU_ATTN_BLOCK_VECS,
    /* So few rows read the cache in place; those beyond a block take fewer vectors. */
    CPU_ATTN_DIRECT_ROWS = VEC_LANES == 16 ? 8 : CPU_ATTN_BLOCK_ROWS,
    CPU_ATTN_NARROW_VECS = 2,
    /* Of the next tile's rows so many are asked for with a tile's keys, at each turn and, where it
     * makes scores, in so many places of that; the others with its values, whose products take a
     * third of the time. */
    CPU_ATTN_ASK_ROWS = CPU_ATTN_KEYS * 3 / 4,
    CPU_ATTN_ASKS = 4,
};

/* c[r][x] = scale[r] * c[r][x] (0 without scale) + sum over i < k, ascending, of
 * a[r][i] * b[i][x]. Row i of b is b + i * b_stride in f32 or, with offset, element offset[i] of b
 * in b_dtype. */
typedef struct CpuAttnProduct {
    const float *a, *scale;
    const void *b;
    const int64_t *offset;
    DType b_dtype;
    float *c;
    int64_t a_stride, b_stride, c_stride, k;
    const KvView *kv;
    CpuAttnTile *tile; /* with offset: asks for the rest of its next */
} CpuAttnProduct;

/* The rows that are asked for while the tile's keys are read, in steps of equal size. */
typedef struct CpuAttnAsk {
    DType dtype;
    const KvView *kv;
    CpuAttnTile *tile;
    uint32_t rows, step; /* times 2^16 */
} CpuAttnAsk;

CPU_ATTN_INLINE void cpu_attn_ask_next(CpuAttnAsk *ask) {
    ask->rows += ask->step;
    cpu_attn_ask(ask->dtype, ask->kv, ask->tile,
                 MIN((int64_t)(ask->rows >> 16), (int64_t)CPU_ATTN_ASK_ROWS));
}

/* While value i of the tile is read. */
CPU_ATTN_INLINE void cpu_attn_ask_value(DType dtype, const KvView *kv, CpuAttnTile *tile,
                                        int64_t i) {
    if (i % 4 == 0) cpu_attn_ask(dtype, kv, tile, CPU_ATTN_ASK_ROWS + i / 4 + 1);
}

CPU_ATTN_INLINE void cpu_attn_kernel(const CpuAttnProduct *p, DType dtype, bool paged, int n_rows,
                                     int n_vecs, int64_t x) {
    Vec sum[CPU_ATTN_DIRECT_ROWS][CPU_ATTN_WIDE_VECS];
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++) {
        VEC_UNROLL
        for (int v = 0; v < n_vecs; v++) {
            const float *c = p->c + r * p->c_stride + x + v * VEC_LANES;
            sum[r][v] = p->scale ? vec_mul(vec_load(c), vec_set1(p->scale[r])) : vec_zero();
        }
    }
    for (int64_t i = 0; i < p->k; i++) {
        int64_t b = x + (paged ? p->offset[i] : i * p->b_stride);
        if (paged && x == 0) cpu_attn_ask_value(dtype, p->kv, p->tile, i);
        Vec column[CPU_ATTN_WIDE_VECS];
        VEC_UNROLL
        for (int v = 0; v < n_vecs; v++) column[v] = vec_load_kv(dtype, p->b, b + v * VEC_LANES);
        VEC_UNROLL
        for (int r = 0; r < n_rows; r++) {
            Vec a = vec_set1(p->a[r * p->a_stride + i]);
            VEC_UNROLL
            for (int v = 0; v < n_vecs; v++) sum[r][v] = vec_fma(a, column[v], sum[r][v]);
        }
    }
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++) {
        VEC_UNROLL
        for (int v = 0; v < n_vecs; v++)
            vec_store(p->c + r * p->c_stride + x + v * VEC_LANES, sum[r][v]);
    }
}

CPU_ATTN_INLINE void cpu_attn_kernel_row(const CpuAttnProduct *p, DType dtype, bool paged,
                                         int n_rows, int64_t n_vecs) {
    int64_t v = 0;
    if (n_rows <= CPU_ATTN_WIDE_ROWS)
        for (; v + CPU_ATTN_WIDE_VECS <= n_vecs; v += CPU_ATTN_WIDE_VECS)
            cpu_attn_kernel(p, dtype, paged, n_rows, CPU_ATTN_WIDE_VECS, v * VEC_LANES);
    const int block = n_rows > CPU_ATTN_BLOCK_ROWS ? CPU_ATTN_NARROW_VECS : CPU_ATTN_BLOCK_VECS;
    for (; v + block <= n_vecs; v += block)
        cpu_attn_kernel(p, dtype, paged, n_rows, block, v * VEC_LANES);
    for (; v < n_vecs; v++) cpu_attn_kernel(p, dtype, paged, n_rows, 1, v * VEC_LANES);
}

CPU_ATTN_INLINE void cpu_attn_kernel_rows(const CpuAttnProduct *p, DType dtype, bool paged,
                                          int64_t n_rows, int64_t n_vecs) {
    switch (n_rows) {
        case 1: cpu_attn_kernel_row(p, dtype, paged, 1, n_vecs); break;
        case 2: cpu_attn_kernel_row(p, dtype, paged, 2, n_vecs); break;
        case 3: cpu_attn_kernel_row(p, dtype, paged, 3, n_vecs); break;
        case 4: cpu_attn_kernel_row(p, dtype, paged, 4, n_vecs); break;
        case 5: cpu_attn_kernel_row(p, dtype, paged, 5, n_vecs); break;
        case 6: cpu_attn_kernel_row(p, dtype, paged, 6, n_vecs); break;
        case 7: cpu_attn_kernel_row(p, dtype, paged, CPU_ATTN_DIRECT_ROWS - 1, n_vecs); break;
        default: cpu_attn_kernel_row(p, dtype, paged, CPU_ATTN_DIRECT_ROWS, n_vecs); break;
    }
}

/* Up to CPU_ATTN_DIRECT_ROWS rows by n_vecs vectors. */
static void cpu_attn_multiply(const CpuAttnProduct *p, int64_t n_rows, int64_t n_vecs) {
    if (p->offset == NULL)
        cpu_attn_kernel_rows(p, DTYPE_F32, false, n_rows, n_vecs);
    else if (p->b_dtype == DTYPE_F16)
        cpu_attn_kernel_rows(p, DTYPE_F16, true, n_rows, n_vecs);
    else if (p->b_dtype == DTYPE_BF16)
        cpu_attn_kernel_rows(p, DTYPE_BF16, true, n_rows, n_vecs);
    else if (p->b_dtype == DTYPE_I8)
        cpu_attn_kernel_rows(p, DTYPE_I8, true, n_rows, n_vecs);
    else
        cpu_attn_kernel_rows(p, DTYPE_F32, true, n_rows, n_vecs);
}

/* A square of the keys turned: VEC_LANES keys, their words (f32, two bf16 or four i8) from element
 * i. */
typedef struct CpuAttnSquare {
    Vec word[VEC_LANES];
} CpuAttnSquare;

/* n elements of each key. Keys that are not needed give zeros. */
CPU_ATTN_INLINE void cpu_attn_turn(DType dtype, const void *k, const int64_t *offset, int64_t i,
                                   int64_t n, CpuAttnSquare *out) {
    VEC_UNROLL
    for (int64_t j = 0; j < VEC_LANES; j++)
        out->word[j] = offset[j] < 0 ? vec_zero() : vec_load_kv_n(dtype, k, offset[j] + i, n);
    vec_transpose(out->word);
}

/* VEC_LANES whole words of each key. */
CPU_ATTN_INLINE void cpu_attn_turn_words(DType dtype, const void *k, const int64_t *offset,
                                         int64_t i, CpuAttnSquare *out) {
    static const float zeros[VEC_LANES];
    const void *row[VEC_LANES];
    int64_t bytes = cpu_attn_bytes(dtype);
    VEC_UNROLL
    for (int64_t j = 0; j < VEC_LANES; j++)
        row[j] = offset[j] < 0 ? (const char *)zeros : (const char *)k + (offset[j] + i) * bytes;
    vec_load_turned(row, out->word);
}

/* The element at place c of a word with `pack` of them. */
CPU_ATTN_INLINE Vec cpu_attn_column(Vec word, int pack, int c) {
    if (pack == 1) return word;
    if (pack == 4) return vec_byte_i8(word, c);
    return c == 0 ? vec_low_bf16(word) : vec_high_bf16(word);
}

/* What becomes of the keys: without queries their elements are stored as rows of `keys`; else they
 * go into n_rows rows of scores, each a chain over the elements. */
typedef struct CpuAttnSink {
    float *keys;    /* + element * CPU_ATTN_KEYS */
    const float *q; /* [dim, CPU_ATTN_DIRECT_ROWS] */
    float *scores;  /* [n_rows, CPU_ATTN_KEYS] */
} CpuAttnSink;

CPU_ATTN_INLINE void cpu_attn_keep(const CpuAttnSink *sink, const CpuAttnSquare *square, int pack,
                                   int64_t v, int64_t i, int64_t n) {
    const int64_t columns = (int64_t)pack * VEC_LANES;
    float *keys = sink->keys + i * CPU_ATTN_KEYS + v * VEC_LANES;
    VEC_UNROLL
    for (int64_t c = 0; c < columns; c++)
        if (c < n)
            vec_store(keys + c * CPU_ATTN_KEYS,
                      cpu_attn_column(square->word[c / pack], pack, (int)(c % pack)));
}

/* n_words words of the squares v and v + 1, from element i on: two chains for each row. */
CPU_ATTN_INLINE void cpu_attn_score(const CpuAttnSink *sink, int n_rows,
                                    const CpuAttnSquare square[2], int pack, int64_t v, int64_t i,
                                    int64_t n_words, CpuAttnAsk *ask) {
    float *scores = sink->scores + v * VEC_LANES;
    const float *q = sink->q + i * CPU_ATTN_DIRECT_ROWS;
    Vec sum[CPU_ATTN_DIRECT_ROWS][2];
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++) {
        VEC_UNROLL
        for (int s = 0; s < 2; s++)
            sum[r][s] = i == 0 ? vec_zero() : vec_load(scores + r * CPU_ATTN_KEYS + s * VEC_LANES);
    }
    for (int64_t w = 0; w < n_words;) {
        cpu_attn_ask_next(ask);
        int64_t end = MIN(w + VEC_LANES / CPU_ATTN_ASKS, n_words);
        for (; w < end; w++) {
            VEC_UNROLL
            for (int c = 0; c < pack; c++, q += CPU_ATTN_DIRECT_ROWS) {
                Vec a = cpu_attn_column(square[0].word[w], pack, c);
                Vec b = cpu_attn_column(square[1].word[w], pack, c);
                VEC_UNROLL
                for (int r = 0; r < n_rows; r++) {
                    Vec x = vec_set1(q[r]);
                    sum[r][0] = vec_fma(x, a, sum[r][0]);
                    sum[r][1] = vec_fma(x, b, sum[r][1]);
                }
            }
        }
    }
    VEC_UNROLL
    for (int r = 0; r < n_rows; r++) {
        VEC_UNROLL
        for (int s = 0; s < 2; s++)
            vec_store(scores + r * CPU_ATTN_KEYS + s * VEC_LANES, sum[r][s]);
    }
}

/* Walks the squares of VEC_LANES keys over all elements, for the vectors v0 .. v1 - 1 (even
 * numbers) of the tile: elements outside, so that the chains of the vectors overlap. */
CPU_ATTN_INLINE void cpu_attn_walk_keys(DType dtype, const KvView *kv, CpuAttnTile *tile,
                                        int64_t v0, int64_t v1, int n_rows,
                                        const CpuAttnSink *sink) {
    const int pack = dtype == DTYPE_I8 ? 4 : dtype == DTYPE_BF16 ? 2 : 1;
    const int64_t step = (int64_t)pack * VEC_LANES;
    const int side = n_rows == 0 ? 1 : 2, n_asks = 1 + (n_rows == 0 ? 0 : CPU_ATTN_ASKS);
    const int64_t n_turns = DIV_UP(kv->head_dim, step) * (v1 - v0) / side;
    CpuAttnAsk ask = {dtype, kv, tile, 0,
                      (uint32_t)((CPU_ATTN_ASK_ROWS << 16) / (n_turns * n_asks))};
    CpuAttnSquare square[2];
    for (int64_t i = 0; i < kv->head_dim;) {
        int64_t n = MIN(kv->head_dim - i, step);
        bool whole = n == step && dtype != DTYPE_F16;
        if (!whole) n = MIN(n, (int64_t)VEC_LANES);
        for (int64_t v = v0; v < v1; v += side) {
            cpu_attn_ask_next(&ask);
            for (int s = 0; s < side; s++) {
                const int64_t *offset = tile->offset + (v + s) * VEC_LANES;
                if (whole)
                    cpu_attn_turn_words(dtype, kv->k, offset, i, &square[s]);
                else
                    cpu_attn_turn(dtype, kv->k, offset, i, n, &square[s]);
            }
            if (n_rows == 0 && whole)
                cpu_attn_keep(sink, &square[0], pack, v, i, step);
            else if (n_rows == 0)
                cpu_attn_keep(sink, &square[0], 1, v, i, n);
            else if (whole)
                cpu_attn_score(sink, n_rows, square, pack, v, i, VEC_LANES, &ask);
            else
                cpu_attn_score(sink, n_rows, square, 1, v, i, n, &ask);
        }
        i += n;
    }
}

CPU_ATTN_INLINE void cpu_attn_walk_rows(const KvView *kv, CpuAttnTile *tile, int64_t v0, int64_t v1,
                                        int n_rows, const CpuAttnSink *sink) {
    if (kv->dtype == DTYPE_F16)
        cpu_attn_walk_keys(DTYPE_F16, kv, tile, v0, v1, n_rows, sink);
    else if (kv->dtype == DTYPE_BF16)
        cpu_attn_walk_keys(DTYPE_BF16, kv, tile, v0, v1, n_rows, sink);
    else if (kv->dtype == DTYPE_I8)
        cpu_attn_walk_keys(DTYPE_I8, kv, tile, v0, v1, n_rows, sink);
    else
        cpu_attn_walk_keys(DTYPE_F32, kv, tile, v0, v1, n_rows, sink);
}

/* The tile's keys, turned, into work->keys. */
static void cpu_attn_load_keys(const CpuAttnTask *task, const CpuAttnWork *work, CpuAttnTile *tile,
                               int64_t v0, int64_t v1) {
    CpuAttnSink sink = {.keys = work->keys, .scores = work->scores};
    cpu_attn_walk_rows(&task->args->kv, tile, v0, v1, 0, &sink);
}

/* The scores of at most CPU_ATTN_DIRECT_ROWS rows, straight from the cache. */
static void cpu_attn_direct_scores(const CpuAttnTask *task, const CpuAttnWork *work,
                                   CpuAttnTile *tile, int64_t v0, int64_t v1) {
    const KvView *kv = &task->args->kv;
    CpuAttnSink sink = {work->keys, work->q, work->scores};
    switch (task->n_rows) {
        case 1: cpu_attn_walk_rows(kv, tile, v0, v1, 1, &sink); break;
        case 2: cpu_attn_walk_rows(kv, tile, v0, v1, 2, &sink); break;
        case 3: cpu_attn_walk_rows(kv, tile, v0, v1, 3, &sink); break;
        case 4: cpu_attn_walk_rows(kv, tile, v0, v1, 4, &sink); break;
        case 5: cpu_attn_walk_rows(kv, tile, v0, v1, 5, &sink); break;
        case 6: cpu_attn_walk_rows(kv, tile, v0, v1, 6, &sink); break;
        case 7: cpu_attn_walk_rows(kv, tile, v0, v1, CPU_ATTN_DIRECT_ROWS - 1, &sink); break;
        default: cpu_attn_walk_rows(kv, tile, v0, v1, CPU_ATTN_DIRECT_ROWS, &sink); break;
    }
}
