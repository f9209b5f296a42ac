/* cpu_linear_half_avx512: BF16 weights times activations rounded to bf16, with vdpbf16ps.
 *
 * Every output element has one accumulator of 16 lanes: lane l adds the products of the elements
 * 2 l and 2 l + 1 of each run of 32 along k, in order; the last run is filled with zeros; the lanes
 * are summed by a fixed tree. Tiles, tails and threads change none of it. The instruction takes
 * subnormal numbers for zero and rounds to nearest even.
 *
 * Twice the products an FMA does, from half the bytes, and the file's bytes are an operand as they
 * are. One token: row after row, the one stream that reads fastest where this level is the default;
 * up to HALF_DIRECT_TOKENS: four rows of the file side by side; more: the unit's rows are copied to
 * L2, four rows in turns, so that a tile reads two runs of memory. */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_unroll.h"

enum {
    HALF_TILE_TOKENS = 6, /* 6 x 4: 24 accumulators, 24 products for 10 loads */
    HALF_TILE_ROWS = 4,
    HALF_DIRECT_TOKENS = 48,
    HALF_PREFETCH_BYTES = 4096,
    HALF_RUN = 32,
};

/* 32 activations of one token. */
typedef struct HalfRun {
    _Alignas(CACHE_LINE) uint16_t x[HALF_RUN];
} HalfRun;

#define HALF_INLINE inline __attribute__((always_inline))

/* Tokens and rows side by side, over whole runs of k. */
typedef struct HalfTile {
    const HalfRun *x;
    int64_t x_step; /* from a run to the next, in HalfRun */
    const uint8_t *w;
    int64_t row_step, run_step; /* in bytes */
    int64_t n_runs;
    int64_t ahead; /* bytes from a row's place to what is asked for; 0: nothing */
    __m512 *acc;   /* [n_tokens][n_rows], read and written */
} HalfTile;

/* n_tokens and n_rows are constants. */
static HALF_INLINE void half_walk(const HalfTile *tile, int n_tokens, int n_rows) {
    __m512 acc[HALF_TILE_TOKENS * HALF_TILE_ROWS];
    const HalfRun *x = tile->x;
    const uint8_t *w = tile->w;
    CPU_UNROLL(24)
    for (int a = 0; a < n_tokens * n_rows; a++) acc[a] = tile->acc[a];
    for (int64_t i = 0; i < tile->n_runs; i++, x += tile->x_step, w += tile->run_step) {
        __m512bh row[HALF_TILE_ROWS];
        CPU_UNROLL(4)
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *from = w + r * tile->row_step;
            if (tile->ahead != 0) _mm_prefetch((const char *)from + tile->ahead, _MM_HINT_T0);
            row[r] = (__m512bh)_mm512_loadu_si512(from);
        }
        CPU_UNROLL(6)
        for (int t = 0; t < n_tokens; t++) {
            __m512bh token = (__m512bh)_mm512_load_si512(&x[t]);
            CPU_UNROLL(4)
            for (int r = 0; r < n_rows; r++)
                acc[t * n_rows + r] = _mm512_dpbf16_ps(acc[t * n_rows + r], row[r], token);
        }
    }
    CPU_UNROLL(24)
    for (int a = 0; a < n_tokens * n_rows; a++) tile->acc[a] = acc[a];
}

static void half_tile(const HalfTile *tile, int32_t n_tokens, int32_t n_rows) {
    bool one = n_rows == 1;
    switch (n_tokens) {
        case 6: one ? half_walk(tile, 6, 1) : half_walk(tile, 6, HALF_TILE_ROWS); break;
        case 4: one ? half_walk(tile, 4, 1) : half_walk(tile, 4, HALF_TILE_ROWS); break;
        case 2: one ? half_walk(tile, 2, 1) : half_walk(tile, 2, HALF_TILE_ROWS); break;
        default: one ? half_walk(tile, 1, 1) : half_walk(tile, 1, HALF_TILE_ROWS); break;
    }
}

/* The elements of k after the last whole run. */
static void half_tail(const HalfTile *tile, int32_t n_tokens, int32_t n_rows, int64_t n) {
    __mmask32 mask = (__mmask32)((1ull << n) - 1);
    for (int32_t r = 0; r < n_rows; r++) {
        __m512i row = _mm512_maskz_loadu_epi16(mask, tile->w + r * tile->row_step);
        for (int32_t t = 0; t < n_tokens; t++) {
            __m512 *acc = &tile->acc[t * n_rows + r];
            __m512i token = _mm512_load_si512(&tile->x[t]);
            *acc = _mm512_dpbf16_ps(*acc, (__m512bh)row, (__m512bh)token);
        }
    }
}

/* Lane l + lane l + 8, then + 4. */
static inline __m128 half_quarter(__m512 v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

/* Then + 2 and + 1, of two vectors: their sums are in lanes 0 and 1. */
static inline __m128 half_sums(__m128 a, __m128 b) {
    __m128 pair = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    return _mm_add_ps(pair, _mm_movehl_ps(pair, pair));
}

static void half_finish(const LinearUnit *unit, int64_t row, int32_t n_rows, const float *sum,
                        float *out) {
    for (int32_t r = 0; r < n_rows; r++) {
        float v = sum[r];
        if (unit->bias != NULL) v += unit->bias[row + r];
        out[r] = unit->accumulate ? out[r] + v : v;
    }
}

/* The finished sums of a tile; acc has row stride n_acc_rows, of which n_rows are there. */
static void half_store(const LinearUnit *unit, int64_t token, int32_t n_tokens, int64_t row,
                       int32_t n_rows, int32_t n_acc_rows, const __m512 *acc) {
    float sum[HALF_TILE_ROWS];
    for (int32_t t = 0; t < n_tokens; t++, acc += n_acc_rows) {
        for (int32_t r = 0; r < n_acc_rows; r += 2) {
            __m128 a = half_quarter(acc[r]);
            __m128 b = r + 1 < n_acc_rows ? half_quarter(acc[r + 1]) : a;
            _mm_storel_pi((__m64 *)(void *)(sum + r), half_sums(a, b));
        }
        half_finish(unit, row, n_rows, sum, unit->out + (token + t) * unit->out_stride + row);
    }
}

/* A tile of LINEAR_TILE_TOKENS or less in memory is computed in parts of 6, 4, 2 or 1. */
static int32_t half_part(int32_t tile_tokens) {
    return tile_tokens == 12 ? 6 : MIN(tile_tokens, 4);
}

/* The rows row .. row + n_rows - 1 in the file's place; while they end, the bytes of the next are
 * asked for. */
static void half_direct_rows(const LinearUnit *unit, int64_t row, int32_t n_rows) {
    int64_t n_runs = unit->k / HALF_RUN, tail = unit->k % HALF_RUN, x_runs = DIV_UP(unit->k, 32);
    int64_t row_bytes = 2 * unit->k, ahead = MIN(row_bytes, (int64_t)HALF_PREFETCH_BYTES / 2);
    int64_t first = MAX(n_runs - ahead / (2 * HALF_RUN), (int64_t)0);
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t in_tile = cpu_linear_tile(unit->n_tokens - token), n = half_part(in_tile);
        for (int32_t part = 0; part < in_tile; part += n) {
            bool ask = token + part == 0;
            __m512 acc[HALF_TILE_TOKENS * HALF_TILE_ROWS] = {{0}};
            HalfTile tile = {.x = (const HalfRun *)unit->half + token * x_runs + part,
                             .x_step = in_tile,
                             .w = unit->w + row * unit->w_stride,
                             .row_step = unit->w_stride,
                             .run_step = 2 * HALF_RUN,
                             .n_runs = first,
                             .ahead = ask ? ahead : 0,
                             .acc = acc};
            half_tile(&tile, n, n_rows);
            tile.x += first * in_tile;
            tile.w += first * tile.run_step;
            tile.n_runs = n_runs - first;
            tile.ahead = ask ? n_rows * unit->w_stride + ahead - row_bytes : 0;
            half_tile(&tile, n, n_rows);
            tile.x += tile.n_runs * in_tile;
            tile.w += tile.n_runs * tile.run_step;
            if (tail > 0) half_tail(&tile, n, n_rows, tail);
            half_store(unit, token + part, n, row, n_rows, n_rows, acc);
        }
        token += in_tile;
    }
}

/* One token: row after row, four sums finished together. */
static void half_one(const LinearUnit *unit) {
    const HalfRun *x = (const HalfRun *)unit->half;
    int64_t n_runs = unit->k / HALF_RUN, tail = unit->k % HALF_RUN;
    for (int64_t row = 0; row < unit->n_rows; row += HALF_TILE_ROWS) {
        int32_t n_rows = (int32_t)MIN(unit->n_rows - row, (int64_t)HALF_TILE_ROWS);
        __m512 acc[HALF_TILE_ROWS] = {{0}};
        for (int32_t r = 0; r < n_rows; r++) {
            const uint8_t *w = unit->w + (row + r) * unit->w_stride;
            __m512 sum = _mm512_setzero_ps();
            for (int64_t i = 0; i < n_runs; i++, w += 2 * HALF_RUN) {
                _mm_prefetch((const char *)w + HALF_PREFETCH_BYTES, _MM_HINT_T0);
                sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(w),
                                       (__m512bh)_mm512_load_si512(&x[i]));
            }
            acc[r] = sum;
            HalfTile last = {.x = x + n_runs, .w = w, .acc = &acc[r]};
            if (tail > 0) half_tail(&last, 1, 1, tail);
        }
        half_store(unit, 0, 1, row, n_rows, HALF_TILE_ROWS, acc);
    }
}

/* All tokens for a few rows before the next rows, which so are read once. */
static void half_direct(const LinearUnit *unit) {
    for (int64_t row = 0; row < unit->n_rows;) {
        int64_t left = unit->n_rows - row;
        int32_t n_rows = left >= HALF_TILE_ROWS ? HALF_TILE_ROWS : 1;
        half_direct_rows(unit, row, n_rows);
        row += n_rows;
    }
}

/* The unit's rows as [4 rows in turns][run][row], zeros where rows or elements end. */
static void half_copy(const LinearUnit *unit, uint8_t *out) {
    for (int64_t row = 0; row < unit->n_rows; row += HALF_TILE_ROWS) {
        for (int64_t i = 0; i < unit->k; i += HALF_RUN) {
            int64_t n = MIN(unit->k - i, (int64_t)HALF_RUN);
            __mmask32 mask = (__mmask32)((1ull << n) - 1);
            for (int64_t r = row; r < row + HALF_TILE_ROWS; r++, out += 2 * HALF_RUN) {
                __m512i v = _mm512_setzero_si512();
                if (r < unit->n_rows)
                    v = _mm512_maskz_loadu_epi16(mask, unit->w + r * unit->w_stride + 2 * i);
                _mm512_store_si512(out, v);
            }
        }
    }
}

static void half_many(const LinearUnit *unit) {
    int64_t n_runs = DIV_UP(unit->k, HALF_RUN);
    half_copy(unit, unit->scratch);
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t in_tile = cpu_linear_tile(unit->n_tokens - token), n = half_part(in_tile);
        for (int32_t part = 0; part < in_tile; part += n) {
            HalfTile tile = {.x = (const HalfRun *)unit->half + token * n_runs + part,
                             .x_step = in_tile,
                             .w = unit->scratch,
                             .row_step = 2 * HALF_RUN,
                             .run_step = 2 * HALF_RUN * HALF_TILE_ROWS,
                             .n_runs = n_runs};
            for (int64_t row = 0; row < unit->n_rows; row += HALF_TILE_ROWS) {
                __m512 acc[HALF_TILE_TOKENS * HALF_TILE_ROWS] = {{0}};
                tile.acc = acc;
                half_tile(&tile, n, HALF_TILE_ROWS);
                int32_t n_rows = (int32_t)MIN(unit->n_rows - row, (int64_t)HALF_TILE_ROWS);
                half_store(unit, token + part, n, row, n_rows, HALF_TILE_ROWS, acc);
                tile.w += n_runs * tile.run_step;
            }
        }
        token += in_tile;
    }
}

static void half_unit(const LinearUnit *unit) {
    if (unit->n_tokens == 1)
        half_one(unit);
    else if (unit->n_tokens <= HALF_DIRECT_TOKENS)
        half_direct(unit);
    else
        half_many(unit);
}

/* As half.h rounds, without a detour for subnormals: the products take them for zero anyway. */
static void half_round(const float *const *x, int32_t n_tokens, int64_t k, bool f16, uint8_t *out) {
    CHECK(!f16);
    for (int64_t i = 0; i < k; i += HALF_RUN) {
        int64_t n = MIN(k - i, (int64_t)HALF_RUN);
        __mmask32 mask = (__mmask32)((1ull << n) - 1);
        for (int32_t t = 0; t < n_tokens; t++, out += sizeof(HalfRun)) {
            __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x[t] + i);
            __m512 high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x[t] + i + 16);
            _mm512_store_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

const LinearHalf CPU_LINEAR_HALF_AVX512 = {.token_bytes = sizeof(HalfRun),
                                           .unit_rows = LINEAR_PLAIN_ROWS,
                                           .unit_bytes = LINEAR_UNIT_BYTES,
                                           .few_tokens = HALF_DIRECT_TOKENS,
                                           .tile = cpu_linear_tile,
                                           .round = half_round,
                                           .unit = half_unit};
