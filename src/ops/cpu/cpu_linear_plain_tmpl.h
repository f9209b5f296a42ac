/* cpu_linear_plain_tmpl: F32, F16 and BF16 weights times f32 activations; one source, two levels.
 *
 * Every output element has one accumulator of 16 lanes: lane l sums the elements j = l (mod 16) of
 * k in order with FMA; a last partial vector is filled with zeros. The lanes are summed by a fixed
 * tree. Weights are converted exactly, so where and when that happens cannot change a bit, and both
 * levels have the same bits (avx2 keeps 16 lanes in two registers).
 *
 * Up to PLAIN_DIRECT_TOKENS: rows of the file side by side, converted in registers. More: 32 rows
 * are converted to f32 in L2 once and read by tiles of PLAIN_TILE_TOKENS x PLAIN_TILE_ROWS. k is
 * walked in blocks of 512 so that a tile's activations and weights come from L1; accumulators wait
 * in memory between blocks.
 *
 * The includer defines the tile:
 *
 *   PLAIN_TILE_TOKENS, PLAIN_TILE_ROWS   of many tokens
 *   PLAIN_FEW_TOKENS                     2 or 4: the tile of the tokens that are left
 *   PLAIN_WIDE_ROWS                      rows side by side of one token, where n_side is not 1
 *   PLAIN_ACC_MAX                        accumulators of the largest of these
 *
 * and PlainV, 16 floats, with plain_v_zero, plain_v_fma(a, b, c) = a * b + c, plain_v_store(p, v),
 * plain_v_halves(v) = lanes 0..7 + lanes 8..15, and the loads plain_f32, plain_f16 and plain_bf16
 * as PlainLoad says. */
#pragma once

#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_unroll.h"

enum { PLAIN_LANES = 16, PLAIN_BLOCK_K = 512, PLAIN_PREFETCH_BYTES = 2048 };
enum { PLAIN_DIRECT_TOKENS = 48 };

#define PLAIN_INLINE inline __attribute__((always_inline))

/* Weights w[i] .. w[i + n - 1] as f32, zeros after them; n is 1..16, and the constant 16 when they
 * are all there. */
typedef PlainV PlainLoad(const void *w, int64_t i, int n);

/* Tokens and rows side by side, over len elements of k. */
typedef struct PlainTile {
    const float *x;
    int64_t x_stride; /* elements */
    const uint8_t *w;
    int64_t w_stride; /* bytes */
    int64_t len;
    int64_t ahead; /* bytes from a row's place to what is asked for; 0: nothing */
    PlainV *acc;   /* [n_tokens][n_rows], read and written */
} PlainTile;

static PLAIN_INLINE void plain_step(const PlainTile *tile, PlainLoad *load, int n_tokens,
                                    int n_rows, int64_t i, int n, PlainV *acc) {
    PlainV w[PLAIN_WIDE_ROWS];
    CPU_UNROLL(8)
    for (int r = 0; r < n_rows; r++) w[r] = load(tile->w + r * tile->w_stride, i, n);
    CPU_UNROLL(8)
    for (int t = 0; t < n_tokens; t++) {
        PlainV x = plain_f32(tile->x + t * tile->x_stride, i, n);
        CPU_UNROLL(8)
        for (int r = 0; r < n_rows; r++)
            acc[t * n_rows + r] = plain_v_fma(x, w[r], acc[t * n_rows + r]);
    }
}

/* load, bytes, n_tokens and n_rows are constants. */
static PLAIN_INLINE void plain_walk(const PlainTile *tile, PlainLoad *load, int bytes, int n_tokens,
                                    int n_rows) {
    PlainV acc[PLAIN_ACC_MAX];
    int64_t i = 0;
    CPU_UNROLL(24)
    for (int a = 0; a < n_tokens * n_rows; a++) acc[a] = tile->acc[a];
    for (; tile->ahead != 0 && i + 32 <= tile->len; i += 32) {
        CPU_UNROLL(8)
        for (int r = 0; r < n_rows; r++) {
            const char *p = (const char *)tile->w + r * tile->w_stride + i * bytes + tile->ahead;
            _mm_prefetch(p, _MM_HINT_T0);
            if (bytes == 4) _mm_prefetch(p + CACHE_LINE, _MM_HINT_T0);
        }
        plain_step(tile, load, n_tokens, n_rows, i, PLAIN_LANES, acc);
        plain_step(tile, load, n_tokens, n_rows, i + PLAIN_LANES, PLAIN_LANES, acc);
    }
    for (; i + PLAIN_LANES <= tile->len; i += PLAIN_LANES)
        plain_step(tile, load, n_tokens, n_rows, i, PLAIN_LANES, acc);
    if (i < tile->len) plain_step(tile, load, n_tokens, n_rows, i, (int)(tile->len - i), acc);
    CPU_UNROLL(24)
    for (int a = 0; a < n_tokens * n_rows; a++) tile->acc[a] = acc[a];
}

/* n_rows, a constant, is one or PLAIN_TILE_ROWS. */
static PLAIN_INLINE void plain_rows(const PlainTile *tile, PlainLoad *load, int bytes,
                                    int32_t n_tokens, int n_rows) {
    switch (n_tokens) {
        case 1: plain_walk(tile, load, bytes, 1, n_rows); break;
        case 2: plain_walk(tile, load, bytes, 2, n_rows); break;
        case PLAIN_TILE_TOKENS: plain_walk(tile, load, bytes, PLAIN_TILE_TOKENS, n_rows); break;
        default: plain_walk(tile, load, bytes, PLAIN_FEW_TOKENS, n_rows); break;
    }
}

static PLAIN_INLINE void plain_shapes(const PlainTile *tile, PlainLoad *load, int bytes,
                                      int32_t n_tokens, int32_t n_rows) {
    if (n_rows == PLAIN_WIDE_ROWS)
        plain_walk(tile, load, bytes, 1, PLAIN_WIDE_ROWS);
    else if (n_rows == PLAIN_TILE_ROWS)
        plain_rows(tile, load, bytes, n_tokens, PLAIN_TILE_ROWS);
    else
        plain_rows(tile, load, bytes, n_tokens, 1);
}

static void plain_tile_f32(const PlainTile *tile, int32_t n_tokens, int32_t n_rows) {
    plain_shapes(tile, plain_f32, 4, n_tokens, n_rows);
}

static void plain_tile_f16(const PlainTile *tile, int32_t n_tokens, int32_t n_rows) {
    plain_shapes(tile, plain_f16, 2, n_tokens, n_rows);
}

static void plain_tile_bf16(const PlainTile *tile, int32_t n_tokens, int32_t n_rows) {
    plain_shapes(tile, plain_bf16, 2, n_tokens, n_rows);
}

static void plain_tile(DType dtype, const PlainTile *tile, int32_t n_tokens, int32_t n_rows) {
    switch (dtype) {
        case DTYPE_F32: plain_tile_f32(tile, n_tokens, n_rows); break;
        case DTYPE_F16: plain_tile_f16(tile, n_tokens, n_rows); break;
        case DTYPE_BF16: plain_tile_bf16(tile, n_tokens, n_rows); break;
        default: CHECK(false);
    }
}

/* Lane l + lane l + 8, then + 4, + 2, + 1. */
static inline float plain_sum(PlainV v) {
    __m256 a = plain_v_halves(v);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* The finished sums of a tile; acc has row stride n_acc_rows, of which n_rows are there. */
static void plain_store(const LinearUnit *unit, int64_t token, int32_t n_tokens, int64_t row,
                        int32_t n_rows, int32_t n_acc_rows, const PlainV *acc) {
    for (int32_t t = 0; t < n_tokens; t++) {
        float *out = unit->out + (token + t) * unit->out_stride + row;
        for (int32_t r = 0; r < n_rows; r++) {
            float sum = plain_sum(acc[t * n_acc_rows + r]);
            if (unit->bias != NULL) sum += unit->bias[row + r];
            if (unit->accumulate) sum += out[r];
            out[r] = sum;
        }
    }
}

static void plain_zero(PlainV *acc, int32_t n) {
    for (int32_t a = 0; a < n; a++) acc[a] = plain_v_zero();
}

static int32_t plain_tile_tokens(int64_t tokens_left) {
    if (tokens_left >= PLAIN_TILE_TOKENS) return PLAIN_TILE_TOKENS;
    return MIN(cpu_linear_tile(tokens_left), PLAIN_FEW_TOKENS);
}

/* n_tokens tokens times n_rows rows in the file's place; while one tile's rows end, the next's
 * first bytes are asked for. */
static void plain_direct_tile(const LinearUnit *unit, int64_t token, int32_t n_tokens, int64_t row,
                              int32_t n_rows) {
    int32_t bytes = unit->dtype == DTYPE_F32 ? 4 : 2;
    PlainV acc[PLAIN_ACC_MAX];
    plain_zero(acc, n_tokens * n_rows);
    PlainTile tile = {.x = unit->x + token * unit->x_stride,
                      .x_stride = unit->x_stride,
                      .w = unit->w + row * unit->w_stride,
                      .w_stride = unit->w_stride,
                      .acc = acc};
    int64_t row_bytes = unit->k * bytes, ahead = MIN(row_bytes, (int64_t)PLAIN_PREFETCH_BYTES);
    tile.len = (row_bytes - ahead) / bytes / 32 * 32;
    tile.ahead = token == 0 ? ahead : 0;
    plain_tile(unit->dtype, &tile, n_tokens, n_rows);
    tile.x += tile.len;
    tile.w += tile.len * bytes;
    tile.len = unit->k - tile.len;
    tile.ahead = token == 0 ? n_rows * unit->w_stride + ahead - row_bytes : 0;
    plain_tile(unit->dtype, &tile, n_tokens, n_rows);
    plain_store(unit, token, n_tokens, row, n_rows, n_rows, acc);
}

/* One token, one stream: row after row. load and bytes are constants. */
static PLAIN_INLINE void plain_one_any(const LinearUnit *unit, PlainLoad *load, int bytes) {
    for (int64_t row = 0; row < unit->n_rows; row++) {
        PlainV acc = plain_v_zero();
        PlainTile tile = {.x = unit->x,
                          .w = unit->w + row * unit->w_stride,
                          .len = unit->k,
                          .ahead = unit->ahead,
                          .acc = &acc};
        plain_walk(&tile, load, bytes, 1, 1);
        plain_store(unit, 0, 1, row, 1, 1, &acc);
    }
}

static void plain_one(const LinearUnit *unit) {
    switch (unit->dtype) {
        case DTYPE_F32: plain_one_any(unit, plain_f32, 4); break;
        case DTYPE_F16: plain_one_any(unit, plain_f16, 2); break;
        case DTYPE_BF16: plain_one_any(unit, plain_bf16, 2); break;
        default: CHECK(false);
    }
}

/* Few tokens: all of them for a few rows before the next rows, which so are read once. */
static void plain_direct(const LinearUnit *unit) {
    for (int64_t row = 0; row < unit->n_rows;) {
        int64_t left = unit->n_rows - row;
        int32_t n_rows = left >= PLAIN_TILE_ROWS ? PLAIN_TILE_ROWS : 1;
        if (unit->n_tokens == 1 && left >= PLAIN_WIDE_ROWS) n_rows = PLAIN_WIDE_ROWS;
        for (int64_t token = 0; token < unit->n_tokens;) {
            int32_t n = plain_tile_tokens(unit->n_tokens - token);
            plain_direct_tile(unit, token, n, row, n_rows);
            token += n;
        }
        row += n_rows;
    }
}

static PLAIN_INLINE PlainV plain_any(DType dtype, const void *w, int64_t i, int n) {
    switch (dtype) {
        case DTYPE_F32: return plain_f32(w, i, n);
        case DTYPE_F16: return plain_f16(w, i, n);
        case DTYPE_BF16: return plain_bf16(w, i, n);
        default: CHECK(false);
    }
}

/* Rows to f32: [block of k][row][PLAIN_BLOCK_K], rows rounded up to whole tiles with zeros. */
static void plain_expand(const LinearUnit *unit, int64_t n_rows, float *out) {
    for (int64_t from = 0; from < unit->k; from += PLAIN_BLOCK_K) {
        int64_t len = MIN(unit->k - from, (int64_t)PLAIN_BLOCK_K);
        for (int64_t r = 0; r < n_rows; r++, out += PLAIN_BLOCK_K) {
            const uint8_t *w = unit->w + r * unit->w_stride;
            for (int64_t i = 0; i < len; i += PLAIN_LANES) {
                int n = r < unit->n_rows ? (int)MIN(len - i, (int64_t)PLAIN_LANES) : 0;
                PlainV v = plain_v_zero();
                if (n > 0) v = plain_any(unit->dtype, w, from + i, n);
                plain_v_store(out + i, v);
            }
        }
    }
}

static void plain_many(const LinearUnit *unit) {
    int64_t n_rows = ALIGN_UP(unit->n_rows, (int64_t)PLAIN_TILE_ROWS);
    PlainV *acc = unit->scratch;
    float *expanded = (float *)(acc + LINEAR_PLAIN_ROWS * PLAIN_TILE_TOKENS);
    plain_expand(unit, n_rows, expanded);
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t n = plain_tile_tokens(unit->n_tokens - token);
        PlainTile tile = {.x_stride = unit->x_stride,
                          .w = (const uint8_t *)expanded,
                          .w_stride = PLAIN_BLOCK_K * 4};
        plain_zero(acc, n * (int32_t)n_rows);
        for (int64_t from = 0; from < unit->k; from += PLAIN_BLOCK_K) {
            tile.x = unit->x + token * unit->x_stride + from;
            tile.len = MIN(unit->k - from, (int64_t)PLAIN_BLOCK_K);
            for (int64_t row = 0; row < n_rows; row += PLAIN_TILE_ROWS) {
                tile.acc = acc + row * n;
                plain_tile_f32(&tile, n, PLAIN_TILE_ROWS);
                tile.w += PLAIN_TILE_ROWS * tile.w_stride;
            }
        }
        for (int64_t row = 0; row < unit->n_rows; row += PLAIN_TILE_ROWS)
            plain_store(unit, token, n, row,
                        (int32_t)MIN(unit->n_rows - row, (int64_t)PLAIN_TILE_ROWS), PLAIN_TILE_ROWS,
                        acc + row * n);
        token += n;
    }
}

static void plain_unit(const LinearUnit *unit) {
    if (unit->n_tokens == 1 && unit->n_side == 1)
        plain_one(unit);
    else if (unit->n_tokens <= PLAIN_DIRECT_TOKENS)
        plain_direct(unit);
    else
        plain_many(unit);
}
