/* cpu_linear_half_avx512: BF16 weights times activations rounded to bf16, with vdpbf16ps.
 *
 * Every output element has one accumulator of 16 lanes: lane l adds the products of the elements
 * 2 l and 2 l + 1 of each run of 32 along k, in order; the last run is filled with zeros; the lanes
 * are summed by a fixed tree. Tiles, tails and threads change none of it. The instruction takes
 * subnormal numbers for zero and rounds to nearest even.
 *
 * Twice the products an FMA does, from half the bytes, and the file's bytes are an operand as they
 * are. One token: row after row, the one stream that reads fastest where this level is the default.
 * More: tiles of 6 tokens x 4 rows, 24 products for 10 loads. A tile's tokens, HALF_BLOCK_RUNS of
 * k, come from L1 while the unit's rows pass by from L2, and sums wait for the next block of k;
 * the rows after the unit are asked for meanwhile, evenly, since a request too many is dropped. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_unroll.h"

enum {
    HALF_RUN = 32,
    HALF_RUN_BYTES = 2 * HALF_RUN,
    HALF_TILE_TOKENS = 6,
    HALF_TILE_ROWS = 4,
    HALF_TILE_SUMS = HALF_TILE_TOKENS * HALF_TILE_ROWS,
    HALF_BLOCK_RUNS = 64, /* 24 KB of tokens; 96, 36 KB, are too many beside the rows */
    HALF_UNIT_ROWS = 64,
    HALF_FEW_TOKENS = 8,
    HALF_FEW_RUNS = 32,
    HALF_PREFETCH_BYTES = 4096,
};

/* 32 activations of one token. */
typedef struct HalfRun {
    _Alignas(CACHE_LINE) uint16_t x[HALF_RUN];
} HalfRun;

#define HALF_INLINE inline __attribute__((always_inline))

/* Four rows' sums of a token, row r in quarter r: lane l + lane l + 8, then + 4. */
static inline __m512 half_quarters(const __m512 *sum) {
    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(sum[0], sum[1], 0x44),
                             _mm512_shuffle_f32x4(sum[0], sum[1], 0xee));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(sum[2], sum[3], 0x44),
                             _mm512_shuffle_f32x4(sum[2], sum[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* Of two tokens, then + 2. */
static inline __m512 half_pairs(__m512 a, __m512 b) {
    __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

/* Of four tokens, then + 1: the rows of token t in quarter t. */
static inline __m512 half_turned(__m512 a, __m512 b) {
    const __m512i turn = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    __m512 sum = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
    return _mm512_permutexvar_ps(turn, sum);
}

/* What is asked for during some runs of a tile: with each so many lines, `step` bytes from one to
 * the next and `run` from those of a run to those of the next. */
typedef struct HalfAsk {
    int64_t n_runs;
    const uint8_t *from;
    int64_t n_lines, step, run;
} HalfAsk;

/* Tokens and four rows side by side, over a block of k. */
typedef struct HalfTile {
    const HalfRun *x; /* [n_runs][n_tokens] */
    const uint8_t *w;
    int64_t row_step;       /* in bytes */
    int64_t n_runs;         /* whole ones */
    __mmask32 tail;         /* the elements of a last run, or 0 */
    bool is_first;          /* block: the sums begin, else they are read */
    bool is_last;           /* block: they are finished, else written */
    __m512 *sum;            /* [n_tokens][HALF_TILE_ROWS] */
    HalfAsk ask[2];         /* one after the other */
    const LinearUnit *unit; /* where they go when finished */
    int64_t token, row;
    int32_t n_rows; /* of the four */
} HalfTile;

/* n_tokens is a constant. */
static HALF_INLINE void half_store(const HalfTile *tile, int n_tokens, const __m512 *sum) {
    const LinearUnit *unit = tile->unit;
    __mmask8 mask = (__mmask8)((1u << tile->n_rows) - 1);
    float *out = unit->out + tile->token * unit->out_stride + tile->row;
    CPU_UNROLL(2)
    for (int first = 0; first < n_tokens; first += 4, sum += 4 * HALF_TILE_ROWS) {
        const int n = n_tokens - first < 4 ? n_tokens - first : 4;
        __m512 quarters[4];
        CPU_UNROLL(4)
        for (int t = 0; t < 4; t++)
            quarters[t] = t < n ? half_quarters(sum + t * HALF_TILE_ROWS) : _mm512_setzero_ps();
        __m512 all =
            half_turned(half_pairs(quarters[0], quarters[1]), half_pairs(quarters[2], quarters[3]));
        CPU_UNROLL(4)
        for (int t = 0; t < n; t++, out += unit->out_stride) {
            __m128 v = _mm512_castps512_ps128(all);
            all = _mm512_shuffle_f32x4(all, all, 0x39);
            if (unit->bias != NULL)
                v = _mm_add_ps(v, _mm_maskz_loadu_ps(mask, unit->bias + tile->row));
            if (unit->accumulate) v = _mm_add_ps(_mm_maskz_loadu_ps(mask, out), v);
            _mm_mask_storeu_ps(out, mask, v);
        }
    }
}

/* n_tokens is a constant; mask: of the elements that are there, or a constant of ones. */
static HALF_INLINE void half_run(const HalfTile *tile, int n_tokens, int64_t run, __mmask32 mask,
                                 __m512 *sum) {
    const HalfRun *x = tile->x + run * n_tokens;
    const uint8_t *w = tile->w + run * HALF_RUN_BYTES;
    __m512bh row[HALF_TILE_ROWS];
    CPU_UNROLL(4)
    for (int r = 0; r < HALF_TILE_ROWS; r++)
        row[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, w + r * tile->row_step);
    CPU_UNROLL(6)
    for (int t = 0; t < n_tokens; t++) {
        __m512bh token = (__m512bh)_mm512_load_si512(&x[t]);
        CPU_UNROLL(4)
        for (int r = 0; r < HALF_TILE_ROWS; r++) {
            __m512 *to = &sum[t * HALF_TILE_ROWS + r];
            *to = _mm512_dpbf16_ps(*to, row[r], token);
        }
    }
}

/* n_tokens is a constant. */
static HALF_INLINE void half_walk(const HalfTile *tile, int n_tokens) {
    const int n_sums = n_tokens * HALF_TILE_ROWS;
    __m512 sum[HALF_TILE_SUMS];
    CPU_UNROLL(24)
    for (int i = 0; i < n_sums; i++) sum[i] = tile->is_first ? _mm512_setzero_ps() : tile->sum[i];
    int64_t run = 0;
    for (const HalfAsk *ask = tile->ask; run < tile->n_runs; ask++) {
        const uint8_t *from = ask->from;
        for (int64_t end = run + ask->n_runs; run < end; run++, from += ask->run) {
            for (int64_t line = 0; line < ask->n_lines; line++)
                _mm_prefetch((const char *)from + line * ask->step, _MM_HINT_T0);
            half_run(tile, n_tokens, run, UINT32_MAX, sum);
        }
    }
    if (tile->tail != 0) half_run(tile, n_tokens, tile->n_runs, tile->tail, sum);
    if (tile->is_last) {
        half_store(tile, n_tokens, sum);
    } else {
        CPU_UNROLL(24)
        for (int i = 0; i < n_sums; i++) tile->sum[i] = sum[i];
    }
}

static void half_tile(const HalfTile *tile, int32_t n_tokens) {
    switch (n_tokens) {
        case 6: half_walk(tile, 6); break;
        case 4: half_walk(tile, 4); break;
        case 2: half_walk(tile, 2); break;
        default: half_walk(tile, 1); break;
    }
}

/* One token: row after row, four sums finished together. */
static void half_one(const LinearUnit *unit) {
    const HalfRun *x = (const HalfRun *)unit->half;
    int64_t n_runs = unit->k / HALF_RUN, tail = unit->k % HALF_RUN;
    for (int64_t row = 0; row < unit->n_rows; row += HALF_TILE_ROWS) {
        int32_t n_rows = (int32_t)MIN(unit->n_rows - row, (int64_t)HALF_TILE_ROWS);
        __m512 sums[HALF_TILE_ROWS] = {{0}};
        __mmask32 mask = (__mmask32)((1ull << tail) - 1);
        for (int32_t r = 0; r < n_rows; r++) {
            const uint8_t *w = unit->w + (row + r) * unit->w_stride;
            __m512 sum = _mm512_setzero_ps();
            for (int64_t i = 0; i < n_runs; i++, w += HALF_RUN_BYTES) {
                _mm_prefetch((const char *)w + HALF_PREFETCH_BYTES, _MM_HINT_T0);
                sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(w),
                                       (__m512bh)_mm512_load_si512(&x[i]));
            }
            if (tail > 0)
                sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(mask, w),
                                       (__m512bh)_mm512_load_si512(&x[n_runs]));
            sums[r] = sum;
        }
        HalfTile done = {.unit = unit, .row = row, .n_rows = n_rows};
        half_store(&done, 1, sums);
    }
}

/* Of the tokens that are left, so many lie side by side and are multiplied together. */
static int32_t half_tile_tokens(int64_t tokens_left) {
    return tokens_left >= HALF_TILE_TOKENS ? HALF_TILE_TOKENS
                                           : cpu_linear_tile(MIN(tokens_left, 4));
}

/* A whole number of tiles of rows, or one row that is multiplied in the place of a tile's four. */
typedef struct HalfRows {
    const LinearUnit *unit;
    int64_t row, n_rows;
    int64_t done, asked; /* tokens times runs of a tile; lines of the rows that follow */
} HalfRows;

/* Few tokens, bound by memory: four streams, in the order in which they are read. More: the rows
 * that follow, as much of them as the tile is of all the work. */
static void half_ask(HalfRows *rows, HalfTile *tile, int32_t n_tokens) {
    const LinearUnit *unit = rows->unit;
    int64_t end = rows->row + rows->n_rows, stride = unit->w_stride;
    if (unit->n_tokens <= HALF_FEW_TOKENS) {
        /* The tile of the rows below; after the last of a block, the first of the next block. */
        int64_t next = HALF_TILE_ROWS * stride;
        if (tile->row + HALF_TILE_ROWS >= end && !tile->is_last)
            next += tile->n_runs * HALF_RUN_BYTES - rows->n_rows * stride;
        int64_t ahead = MIN(tile->n_runs, (int64_t)HALF_FEW_RUNS);
        tile->ask[0] = (HalfAsk){tile->n_runs - ahead, tile->w + ahead * HALF_RUN_BYTES,
                                 HALF_TILE_ROWS, stride, HALF_RUN_BYTES};
        tile->ask[1] = (HalfAsk){ahead, tile->w + next, HALF_TILE_ROWS, stride, HALF_RUN_BYTES};
        return;
    }
    rows->done += n_tokens * tile->n_runs;
    int64_t wanted = HALF_TILE_ROWS * rows->done / unit->n_tokens - rows->asked;
    int64_t n_lines = wanted / MAX(tile->n_runs, 1);
    tile->ask[0] = (HalfAsk){tile->n_runs, unit->w + end * stride + rows->asked * CACHE_LINE,
                             n_lines, CACHE_LINE, n_lines * CACHE_LINE};
    rows->asked += n_lines * tile->n_runs;
}

/* A block of k for the tokens of a tile: n_runs runs, of which the last may be a part. */
static void half_block(HalfRows *rows, int64_t token, int32_t n_tokens, int64_t from,
                       int64_t n_runs) {
    const LinearUnit *unit = rows->unit;
    int64_t x_runs = DIV_UP(unit->k, HALF_RUN), end = rows->row + rows->n_rows;
    HalfTile tile = {.x = (const HalfRun *)unit->half + token * x_runs + from * n_tokens,
                     .row_step = rows->n_rows > 1 ? unit->w_stride : 0,
                     .n_runs = MIN(n_runs, unit->k / HALF_RUN - from),
                     .is_first = from == 0,
                     .is_last = from + n_runs == x_runs,
                     .sum = unit->scratch,
                     .unit = unit,
                     .token = token,
                     .row = rows->row,
                     .n_rows = (int32_t)MIN(rows->n_rows, HALF_TILE_ROWS)};
    if (tile.n_runs < n_runs) tile.tail = (__mmask32)((1ull << unit->k % HALF_RUN) - 1);
    for (; tile.row < end; tile.row += HALF_TILE_ROWS, tile.sum += HALF_TILE_SUMS) {
        tile.w = unit->w + tile.row * unit->w_stride + from * HALF_RUN_BYTES;
        half_ask(rows, &tile, n_tokens);
        half_tile(&tile, n_tokens);
    }
}

static void half_rows(const LinearUnit *unit, int64_t row, int64_t n_rows) {
    HalfRows rows = {.unit = unit, .row = row, .n_rows = n_rows};
    int64_t n_runs = DIV_UP(unit->k, HALF_RUN);
    int64_t block_runs = DIV_UP(n_runs, DIV_UP(n_runs, HALF_BLOCK_RUNS));
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t n_tokens = half_tile_tokens(unit->n_tokens - token);
        for (int64_t from = 0; from < n_runs; from += block_runs)
            half_block(&rows, token, n_tokens, from, MIN(n_runs - from, block_runs));
        token += n_tokens;
    }
}

static void half_unit(const LinearUnit *unit) {
    if (unit->n_tokens == 1) {
        half_one(unit);
        return;
    }
    int64_t whole = unit->n_rows / HALF_TILE_ROWS * HALF_TILE_ROWS;
    if (whole > 0) half_rows(unit, 0, whole);
    for (int64_t row = whole; row < unit->n_rows; row++) half_rows(unit, row, 1);
}

/* Tokens are rounded 12 at a time, as two tiles. */
static int32_t half_round_tokens(int64_t tokens_left) {
    return tokens_left >= 2 * HALF_TILE_TOKENS ? 2 * HALF_TILE_TOKENS
                                               : half_tile_tokens(tokens_left);
}

/* As half.h rounds, without a detour for subnormals: the products take them for zero anyway. */
static void half_round(const float *const *x, int32_t n_tokens, int64_t k, bool f16, uint8_t *out) {
    CHECK(!f16);
    for (int32_t first = 0, last; first < n_tokens; first = last) {
        last = first + half_tile_tokens(n_tokens - first);
        for (int64_t i = 0; i < k; i += HALF_RUN) {
            int64_t n = MIN(k - i, (int64_t)HALF_RUN);
            __mmask32 mask = (__mmask32)((1ull << n) - 1);
            for (int32_t t = first; t < last; t++, out += sizeof(HalfRun)) {
                __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x[t] + i);
                __m512 high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x[t] + i + 16);
                _mm512_store_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
            }
        }
    }
}

_Static_assert(HALF_UNIT_ROWS / HALF_TILE_ROWS * HALF_TILE_SUMS * 64 <= LINEAR_UNIT_BYTES,
               "scratch");

const LinearHalf CPU_LINEAR_HALF_AVX512 = {.token_bytes = sizeof(HalfRun),
                                           .unit_rows = HALF_UNIT_ROWS,
                                           .unit_bytes = LINEAR_UNIT_BYTES,
                                           .few_tokens = 1,
                                           .tile = half_round_tokens,
                                           .round = half_round,
                                           .unit = half_unit};
