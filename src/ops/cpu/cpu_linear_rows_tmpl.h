/* cpu_linear_rows_tmpl: rows of a plain matrix, in the file's place, times tokens; one source for
 * several numerics and levels.
 *
 * Every output element has one accumulator of 16 lanes that walks k in steps, in order; the lanes
 * are summed by a fixed tree (8, 4, 2, 1). Tiles, blocks, tails and threads change none of it.
 *
 * One token: row after row, or a few rows side by side, as the processor likes to read. More: tiles
 * of ROWS_TOKENS x ROWS_ROWS. The tokens of a tile, ROWS_BLOCK elements of each, come from L1 while
 * the unit's rows pass by from L2, and sums wait in memory for the next block of k; the rows that
 * follow the unit's are asked for meanwhile.
 *
 * The includer defines the tile:
 *
 *   ROWS_TOKENS, ROWS_ROWS   of many tokens
 *   ROWS_FEW                 tokens that are left: 4 or 2, then 2 and 1
 *   ROWS_WIDE                rows side by side of one token, where n_side is not 1
 *   ROWS_SUMS                sums of the largest of these
 *   ROWS_BLOCK               elements in L1, at most, of each of so many tokens
 *   ROWS_STEP, ROWS_PARTS    elements of a step; steps that lanes 0..15 take, 1 or 2
 *
 * and RowsV, a vector of sums: of all lanes, or of a half of them, with
 *
 *   rows_zero()              zeros
 *   rows_fma(x, w, sum)      sum and a step's products
 *   rows_x_at(unit, token, n_tokens, from)
 *                            the address of the element `from` of the token, the first of a tile
 *   rows_x(x, stride, n_tokens, t, i, n)
 *                            a step of token t of the tile whose address x is: n elements from i,
 *                            zeros after them; stride: the unit's x_stride
 *   rows_put(unit, row, n_rows, sum, part, out)
 *                            the sums of ROWS_ROWS rows, summed, n_rows of them written; the second
 *                            halves are `part` behind the first */
#pragma once

#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_unroll.h"

enum {
    ROWS_ASK_BYTES = 2048, /* of each row, that few tokens ask for ahead */
};

#define ROWS_INLINE inline __attribute__((always_inline))

/* n weights from w[i], zeros after them; n is 1..ROWS_STEP, and that constant when they are all
 * there. */
typedef RowsV RowsLoad(const uint8_t *w, int64_t i, int n);

/* What is asked for during some lines of a tile's rows: with each so many lines, `step` bytes from
 * one to the next and `run` from those of one line to those of the next. */
typedef struct RowsAsk {
    int64_t n_runs;
    const uint8_t *from;
    int64_t n_lines, step, run;
} RowsAsk;

/* Tokens and rows side by side, over a block of k. */
typedef struct RowsTile {
    const LinearUnit *unit;
    const void *x; /* as rows_x_at says */
    int64_t x_stride;
    const uint8_t *w;
    int64_t row_step; /* in bytes */
    int64_t len;      /* of the block, in elements */
    RowsAsk ask[2];   /* one after the other */
    bool is_first;    /* block: the sums begin, else they are read */
    bool is_last;     /* block: they are finished, else written */
    RowsV *sum;       /* [ROWS_PARTS][n_tokens][rows] */
    int64_t token, row;
    int32_t n_rows; /* that are there */
} RowsTile;

/* Multiplies a tile of ROWS_ROWS or ROWS_WIDE rows side by side, or, where n_rows is 1, one token
 * by the tile's rows one after the other. */
typedef void RowsKernel(const RowsTile *tile, int32_t n_tokens, int32_t n_rows);

/* n_tokens, n_rows and, in loops over whole runs, n are constants. sum: [n_tokens][n_rows]. */
static ROWS_INLINE void rows_step(const RowsTile *tile, RowsLoad *load, int n_tokens, int n_rows,
                                  int64_t i, int n, RowsV *sum) {
    RowsV w[ROWS_WIDE];
    CPU_UNROLL(8)
    for (int r = 0; r < n_rows; r++) w[r] = load(tile->w + r * tile->row_step, i, n);
    CPU_UNROLL(8)
    for (int t = 0; t < n_tokens; t++) {
        RowsV x = rows_x(tile->x, tile->x_stride, n_tokens, t, i, n);
        if (n_rows > 1) __asm__("" : "+v"(x)); /* gcc would load it for each row */
        CPU_UNROLL(8)
        for (int r = 0; r < n_rows; r++)
            sum[t * n_rows + r] = rows_fma(x, w[r], sum[t * n_rows + r]);
    }
}

/* The elements from i, a multiple of 16, to the end. */
static void rows_tail(const RowsTile *tile, RowsLoad *load, int n_tokens, int n_rows, int64_t i,
                      RowsV *sum) {
    for (int part = 0; i < tile->len; i += ROWS_STEP, part = (part + 1) % ROWS_PARTS) {
        int n = (int)MIN(tile->len - i, (int64_t)ROWS_STEP);
        RowsV *to = sum + part * n_tokens * n_rows;
        for (int t = 0; t < n_tokens; t++) {
            RowsV x = rows_x(tile->x, tile->x_stride, n_tokens, t, i, n);
            for (int r = 0; r < n_rows; r++, to++)
                *to = rows_fma(x, load(tile->w + r * tile->row_step, i, n), *to);
        }
    }
}

static void rows_put_all(const RowsTile *tile, int n_tokens, const RowsV *sum) {
    float *out = tile->unit->out + tile->token * tile->unit->out_stride + tile->row;
    for (int t = 0; t < n_tokens; t++, sum += ROWS_ROWS, out += tile->unit->out_stride)
        rows_put(tile->unit, tile->row, tile->n_rows, sum, n_tokens * ROWS_ROWS, out);
}

/* load, bytes (of a weight), n_tokens and n_rows are constants. */
static ROWS_INLINE void rows_walk(const RowsTile *tile, RowsLoad *load, int bytes, int n_tokens,
                                  int n_rows) {
    const int n_sums = n_tokens * n_rows, run_len = CACHE_LINE / bytes;
    RowsV sum[ROWS_SUMS * ROWS_PARTS];
    CPU_UNROLL(24)
    for (int s = 0; s < n_sums * ROWS_PARTS; s++)
        sum[s] = tile->is_first ? rows_zero() : tile->sum[s];
    int64_t i = 0;
    for (const RowsAsk *ask = tile->ask; i + run_len <= tile->len; ask++) {
        const uint8_t *from = ask->from;
        for (int64_t run = 0; run < ask->n_runs; run++, i += run_len, from += ask->run) {
            const int64_t n_lines = n_rows == ROWS_WIDE ? n_rows : ask->n_lines;
            CPU_UNROLL(8)
            for (int64_t line = 0; line < n_lines; line++)
                _mm_prefetch((const char *)from + line * ask->step, _MM_HINT_T0);
            CPU_UNROLL(4)
            for (int s = 0; s < run_len; s += ROWS_STEP)
                rows_step(tile, load, n_tokens, n_rows, i + s, ROWS_STEP,
                          sum + s / ROWS_STEP % ROWS_PARTS * n_sums);
        }
    }
    if (tile->is_last && i == tile->len && n_rows == ROWS_ROWS) {
        float *out = tile->unit->out + tile->token * tile->unit->out_stride + tile->row;
        CPU_UNROLL(8)
        for (int t = 0; t < n_tokens; t++, out += tile->unit->out_stride)
            rows_put(tile->unit, tile->row, tile->n_rows, sum + t * ROWS_ROWS, n_sums, out);
        return;
    }
    CPU_UNROLL(24)
    for (int s = 0; s < n_sums * ROWS_PARTS; s++) tile->sum[s] = sum[s];
    if (i < tile->len) rows_tail(tile, load, n_tokens, n_rows, i, tile->sum);
    if (tile->is_last && n_rows == ROWS_ROWS) rows_put_all(tile, n_tokens, tile->sum);
}

/* 32 elements of one token and one row from i. */
static ROWS_INLINE void rows_run(const RowsTile *tile, RowsLoad *load, int64_t i, RowsV *part) {
    CPU_UNROLL(4)
    for (int s = 0; s < 32; s += ROWS_STEP)
        rows_step(tile, load, 1, 1, i + s, ROWS_STEP, &part[s / ROWS_STEP % ROWS_PARTS]);
}

/* One token times a row. load and bytes are constants; sum: its parts, ROWS_ROWS apart. */
static ROWS_INLINE void rows_row(const RowsTile *tile, RowsLoad *load, int bytes, RowsV *sum) {
    RowsV part[ROWS_PARTS];
    CPU_UNROLL(2)
    for (int p = 0; p < ROWS_PARTS; p++) part[p] = rows_zero();
    int64_t i = 0, ahead = tile->unit->ahead;
    for (; ahead != 0 && i + 32 <= tile->len; i += 32) {
        const char *from = (const char *)tile->w + i * bytes + ahead;
        _mm_prefetch(from, _MM_HINT_T0);
        if (bytes == 4) _mm_prefetch(from + CACHE_LINE, _MM_HINT_T0);
        rows_run(tile, load, i, part);
    }
    for (; i + 32 <= tile->len; i += 32) rows_run(tile, load, i, part);
    if (i < tile->len) {
        CPU_UNROLL(2)
        for (int p = 0; p < ROWS_PARTS; p++) tile->sum[p] = part[p];
        rows_tail(tile, load, 1, 1, i, tile->sum);
        CPU_UNROLL(2)
        for (int p = 0; p < ROWS_PARTS; p++) part[p] = tile->sum[p];
    }
    CPU_UNROLL(2)
    for (int p = 0; p < ROWS_PARTS; p++) sum[p * ROWS_ROWS] = part[p];
}

/* One token, row after row. */
static ROWS_INLINE void rows_one(const RowsTile *tile, RowsLoad *load, int bytes) {
    RowsTile row = *tile;
    RowsV sum[ROWS_ROWS * ROWS_PARTS];
    CPU_UNROLL(4)
    for (int r = 0; r < ROWS_ROWS; r++) {
        if (r < tile->n_rows) row.w = tile->w + r * tile->row_step;
        rows_row(&row, load, bytes, sum + r);
    }
    rows_put(tile->unit, tile->row, tile->n_rows, sum, ROWS_ROWS, tile->unit->out + tile->row);
}

static ROWS_INLINE void rows_kernel(const RowsTile *tile, RowsLoad *load, int bytes,
                                    int32_t n_tokens, int32_t n_rows) {
    if (n_rows == ROWS_WIDE)
        rows_walk(tile, load, bytes, 1, ROWS_WIDE);
    else if (n_rows == 1)
        rows_one(tile, load, bytes);
    else if (n_tokens == ROWS_TOKENS)
        rows_walk(tile, load, bytes, ROWS_TOKENS, ROWS_ROWS);
    else if (n_tokens == ROWS_FEW)
        rows_walk(tile, load, bytes, ROWS_FEW, ROWS_ROWS);
    else if (n_tokens == 2)
        rows_walk(tile, load, bytes, 2, ROWS_ROWS);
    else
        rows_walk(tile, load, bytes, 1, ROWS_ROWS);
}

/* Of the tokens that are left, so many are multiplied together. */
static int32_t rows_tokens(int64_t tokens_left) {
    if (tokens_left >= ROWS_TOKENS) return ROWS_TOKENS;
    return cpu_linear_tile(MIN(tokens_left, (int64_t)ROWS_FEW));
}

/* Work under way: some rows, a whole number of tiles, or one that is multiplied in the place of all
 * rows of a tile; all tokens. */
typedef struct RowsWork {
    const LinearUnit *unit;
    RowsKernel *kernel;
    int64_t bytes; /* of a weight */
    int64_t row, n_rows;
    int64_t done, asked; /* tokens times lines of a row; lines of the rows that follow */
} RowsWork;

/* A tile's rows ROWS_ASK_BYTES ahead, then the first of the rows at `next`. */
static void rows_ask_ahead(RowsTile *tile, int64_t n_runs, int32_t n_rows, const uint8_t *next) {
    int64_t ahead = MIN(n_runs, (int64_t)(ROWS_ASK_BYTES / CACHE_LINE));
    tile->ask[0] =
        (RowsAsk){n_runs - ahead, tile->w + ahead * CACHE_LINE, n_rows, tile->row_step, CACHE_LINE};
    tile->ask[1] = (RowsAsk){ahead, next, n_rows, tile->row_step, CACHE_LINE};
}

/* Few tokens: the rows are asked for in the order in which they are read. More: those that follow,
 * as much of them as the tile is of the work, because a processor drops requests that come too
 * fast. */
static void rows_ask(RowsWork *work, RowsTile *tile, int32_t n_tokens) {
    const LinearUnit *unit = work->unit;
    int64_t n_runs = tile->len * work->bytes / CACHE_LINE, end = work->row + work->n_rows;
    if (unit->n_tokens <= LINEAR_PLAIN_FEW_TOKENS) {
        const uint8_t *next = tile->w + ROWS_ROWS * unit->w_stride;
        if (tile->row + ROWS_ROWS >= end && !tile->is_last) /* the first rows, the next block */
            next += tile->len * work->bytes - work->n_rows * unit->w_stride;
        rows_ask_ahead(tile, n_runs, ROWS_ROWS, next);
        return;
    }
    work->done += n_tokens * n_runs;
    int64_t n_lines = (ROWS_ROWS * work->done / unit->n_tokens - work->asked) / MAX(n_runs, 1);
    tile->ask[0] = (RowsAsk){n_runs, unit->w + end * unit->w_stride + work->asked * CACHE_LINE,
                             n_lines, CACHE_LINE, n_lines * CACHE_LINE};
    work->asked += n_lines * n_runs;
}

static void rows_block(RowsWork *work, int64_t token, int32_t n_tokens, int64_t from, int64_t len) {
    const LinearUnit *unit = work->unit;
    RowsTile tile = {.unit = unit,
                     .x = rows_x_at(unit, token, n_tokens, from),
                     .x_stride = unit->x_stride,
                     .row_step = work->n_rows > 1 ? unit->w_stride : 0,
                     .len = len,
                     .is_first = from == 0,
                     .is_last = from + len == unit->k,
                     .sum = unit->scratch,
                     .token = token,
                     .row = work->row,
                     .n_rows = (int32_t)MIN(work->n_rows, (int64_t)ROWS_ROWS)};
    for (; tile.row < work->row + work->n_rows; tile.row += ROWS_ROWS) {
        tile.w = unit->w + tile.row * unit->w_stride + from * work->bytes;
        rows_ask(work, &tile, n_tokens);
        work->kernel(&tile, n_tokens, ROWS_ROWS);
        tile.sum += ROWS_PARTS * n_tokens * ROWS_ROWS;
    }
}

static void rows_many(RowsWork work) {
    const LinearUnit *unit = work.unit;
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t n_tokens = rows_tokens(unit->n_tokens - token);
        int64_t n_blocks = DIV_UP(unit->k * n_tokens, (int64_t)ROWS_BLOCK * ROWS_TOKENS);
        int64_t block = ALIGN_UP(DIV_UP(unit->k, n_blocks), (int64_t)32);
        for (int64_t from = 0; from < unit->k; from += block)
            rows_block(&work, token, n_tokens, from, MIN(unit->k - from, block));
        token += n_tokens;
    }
}

/* One token, one stream. */
static void rows_row_by_row(const LinearUnit *unit, RowsKernel *kernel) {
    RowsTile tile = {.unit = unit,
                     .x = rows_x_at(unit, 0, 1, 0),
                     .w = unit->w,
                     .row_step = unit->w_stride,
                     .len = unit->k,
                     .sum = unit->scratch};
    for (; tile.row < unit->n_rows; tile.row += ROWS_ROWS, tile.w += ROWS_ROWS * unit->w_stride) {
        tile.n_rows = (int32_t)MIN(unit->n_rows - tile.row, (int64_t)ROWS_ROWS);
        kernel(&tile, 1, 1);
    }
}

/* One token, several streams: returns how many of the rows were multiplied. */
static int64_t rows_wide(const LinearUnit *unit, RowsKernel *kernel, int64_t bytes) {
    int64_t row = 0;
    for (; row + ROWS_WIDE <= unit->n_rows; row += ROWS_WIDE) {
        RowsV sum[ROWS_WIDE * ROWS_PARTS];
        RowsTile tile = {.x = rows_x_at(unit, 0, 1, 0),
                         .w = unit->w + row * unit->w_stride,
                         .row_step = unit->w_stride,
                         .len = unit->k,
                         .is_first = true,
                         .sum = sum};
        rows_ask_ahead(&tile, unit->k * bytes / CACHE_LINE, ROWS_WIDE,
                       tile.w + ROWS_WIDE * unit->w_stride);
        kernel(&tile, 1, ROWS_WIDE);
        for (int32_t r = 0; r < ROWS_WIDE; r += ROWS_ROWS)
            rows_put(unit, row + r, ROWS_ROWS, sum + r, ROWS_WIDE, unit->out + row + r);
    }
    return row;
}

static void rows_unit(const LinearUnit *unit, RowsKernel *kernel, int64_t bytes) {
    if (unit->n_tokens == 1 && unit->n_side == 1) {
        rows_row_by_row(unit, kernel);
        return;
    }
    int64_t row = unit->n_tokens == 1 ? rows_wide(unit, kernel, bytes) : 0;
    for (int64_t n_rows; row < unit->n_rows; row += n_rows) {
        int64_t left = unit->n_rows - row;
        n_rows = left >= ROWS_ROWS ? left / ROWS_ROWS * ROWS_ROWS : 1;
        rows_many((RowsWork){
            .unit = unit, .kernel = kernel, .bytes = bytes, .row = row, .n_rows = n_rows});
    }
}

_Static_assert(LINEAR_PLAIN_MANY_ROWS *ROWS_TOKENS *(int)sizeof(RowsV) <= LINEAR_UNIT_BYTES,
               "scratch");
