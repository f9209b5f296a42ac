/* cpu_linear_half_amx: BF16 and F16 weights times activations as bf16, on AMX tiles.
 *
 * For BF16 weights an activation is rounded to bf16, for F16 weights it is hi + lo: bf16(x) and
 * bf16(x - hi), 16 significant bits in all. A finite F16 weight is exact as two bf16: its first 8
 * significant bits and the other 3; the product of the two lo, 2^-15 of the whole at most, is left
 * out. Of an infinite one the lo is NaN, and so is what it makes. Every output element has one f32
 * accumulator of a tile: run after run of 32 along k it adds the run's products, of F16 hi times
 * lo, hi times hi and lo times hi, each in the order of TDPBF16PS. One row and many take the same
 * instructions in the same order, so that the bits do not depend on the batch.
 *
 * The weights are the left matrix, 16 rows x 32 elements, BF16 in the file's layout, F16 split to
 * two tiles; the activations are the right one: run after run, pair after pair of elements, the
 * pairs of all tokens of the tile side by side. Neighbours are a pair, for F16 elements i and
 * i + 16, which is how its split leaves them without a shuffle.
 *
 *   C [16 rows x 16 tokens] += A [16 rows x 32 of k] * B [16 pairs of k x 16 tokens x 2]
 *
 * Up to AMX_DIRECT_TOKENS the rows are read in the file's place, 16 at a time, F16 split a run
 * ahead of its products; more: k is walked in blocks, whose rows are copied, or split, to L2. The
 * activations of 32 tokens stay in L1 while the rows pass by, whose loads say so, because both do
 * not fit: 2 x 2 tiles use each load twice (4 products for 4 loads, F16 12 for 8), then wait in L2
 * for the next block. The next tokens', the next block's and the outputs' bytes are asked for
 * ahead.
 */
#include <immintrin.h>

#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_tile_amx.h"
#include "ops/cpu/cpu_unroll.h"
#include "ops/cpu/cpu_vec_avx512.h"

#define AMX_INLINE inline __attribute__((always_inline))

enum {
    AMX_ROWS = 16,   /* of a tile */
    AMX_TOKENS = 16, /* of a tile */
    AMX_RUN = 32,    /* elements of k that a tile has */
    AMX_RUN_BYTES = 64,
    AMX_TILE_BYTES = AMX_ROWS * AMX_RUN_BYTES,
    AMX_DIRECT_TOKENS = 32,
    AMX_TOKEN_BYTES = AMX_RUN_BYTES,
    AMX_TOKEN_BYTES_F16 = 2 * AMX_RUN_BYTES, /* hi and lo */
    AMX_PREFETCH_BYTES = 4096,
    AMX_BLOCK_RUNS = 16, /* of a block of k, F16 half as many: 32 KB of activations of 32 tokens */
    AMX_PASS_TOKENS = 512,                /* whose accumulators are kept, [tokens][rows] */
    AMX_UNIT_ROWS = LINEAR_HALF_ROWS_MAX, /* of BF16, half as many of F16 */
    AMX_ACC_FLOATS = 4 * AMX_ROWS * AMX_TOKENS,
    AMX_COPY_BYTES = AMX_UNIT_ROWS * AMX_BLOCK_RUNS * AMX_RUN_BYTES,
};
_Static_assert(AMX_COPY_BYTES + AMX_PASS_TOKENS * AMX_UNIT_ROWS * 4 <= LINEAR_UNIT_BYTES_AMX,
               "scratch");

static bool amx_is_f16(const LinearUnit *unit) {
    return unit->dtype == DTYPE_F16;
}

static int64_t amx_token_bytes(const LinearUnit *unit) {
    return amx_is_f16(unit) ? AMX_TOKEN_BYTES_F16 : AMX_TOKEN_BYTES;
}

static int64_t amx_block_runs(const LinearUnit *unit) {
    return amx_is_f16(unit) ? AMX_BLOCK_RUNS / 2 : AMX_BLOCK_RUNS;
}

/* C of two row tiles times two token tiles: 0 and 1 the first rows, 2 and 3 the second. 4 and 5: A.
 * 6 and 7: B of the first and of the second token tile. */
static void amx_configure(int64_t n_rows, int64_t n_tokens) {
    int64_t rows[2] = {MIN(n_rows, (int64_t)AMX_ROWS), n_rows - AMX_ROWS};
    int64_t tokens[2] = {MIN(n_tokens, (int64_t)AMX_TOKENS), n_tokens - AMX_TOKENS};
    _Alignas(CACHE_LINE) TileConfig config = {.palette = 1};
    for (int i = 0; i < 2; i++) {
        rows[i] = MAX(rows[i], (int64_t)1);
        tokens[i] = MAX(tokens[i], (int64_t)1);
        tile_shape(&config, 4 + i, rows[i], AMX_RUN_BYTES);
        tile_shape(&config, 6 + i, AMX_RUN / 2, 4 * tokens[i]);
    }
    for (int i = 0; i < 4; i++) tile_shape(&config, i, rows[i / 2], 4 * tokens[i % 2]);
    tile_configure(&config);
}

/* C of one row tile times two token tiles: 0 and 1. A: 4, and F16's lo 5. B of the first tokens: 6,
 * and F16's lo 7; of the second: 2, and 3. */
static void amx_configure_direct(int64_t n_rows, int64_t n_tokens) {
    _Alignas(CACHE_LINE) TileConfig config = {.palette = 1};
    for (int i = 0; i < 2; i++) {
        int64_t tokens = MIN(n_tokens - i * AMX_TOKENS, (int64_t)AMX_TOKENS);
        tokens = MAX(tokens, (int64_t)1);
        tile_shape(&config, i, n_rows, 4 * tokens);
        tile_shape(&config, 4 + i, n_rows, AMX_RUN_BYTES);
        tile_shape(&config, i == 0 ? 6 : 2, AMX_RUN / 2, 4 * tokens);
        tile_shape(&config, i == 0 ? 7 : 3, AMX_RUN / 2, 4 * tokens);
    }
    tile_configure(&config);
}

/* Lines that will be needed later: so many with each run. */
typedef struct AmxAsk {
    const uint8_t *next;
    int64_t n_lines;
} AmxAsk;

/* Outputs of two row tiles that will be written: of so many tokens with each run. */
typedef struct AmxOut {
    const float *next;
    int64_t stride, n_tokens;
} AmxOut;

/* Rows of weights, and the rounded tiles of up to 32 tokens. */
typedef struct AmxWalk {
    const uint8_t *w[2]; /* of the row tiles */
    int64_t row_step, run_step;
    const uint8_t *x[2]; /* of the token tiles */
    int64_t x_step[2];   /* bytes of a run; F16: hi, then lo */
    int64_t x_stride[2]; /* bytes of a pair of k */
    int64_t n_runs;
    AmxAsk ask[2]; /* what else to ask for */
    AmxOut out;
} AmxWalk;

/* A run's products; F16: its hi times lo, hi times hi, lo times hi. What the next products need is
 * loaded among those before: two or more of them stand between a load and its use. */
static AMX_INLINE void amx_walk(AmxWalk *walk, bool f16, bool two_rows, bool two_tokens) {
    const uint8_t *w[2] = {walk->w[0], walk->w[1]}, *x[2] = {walk->x[0], walk->x[1]};
    const int64_t stride[2] = {walk->x_stride[0], walk->x_stride[1]};
    const int64_t first[2] = {f16 ? walk->x_step[0] / 2 : 0, f16 ? walk->x_step[1] / 2 : 0};
    TILE_LOAD_PASSING(4, w[0], AMX_RUN_BYTES);
    if (two_rows) TILE_LOAD_PASSING(5, w[1], AMX_RUN_BYTES);
    TILE_LOAD(6, x[0] + first[0], stride[0]);
    if (two_tokens) TILE_LOAD(7, x[1] + first[1], stride[1]);
    for (int64_t left = walk->n_runs - 1; left >= 0; left--) {
        for (int a = 0; a < 2; a++)
            for (int64_t n = 0; n < walk->ask[a].n_lines; n++, walk->ask[a].next += CACHE_LINE)
                _mm_prefetch((const char *)walk->ask[a].next, _MM_HINT_T1);
        for (int64_t n = 0; n < walk->out.n_tokens; n++, walk->out.next += walk->out.stride) {
            __builtin_prefetch(walk->out.next, 1);
            __builtin_prefetch(walk->out.next + AMX_ROWS, 1);
        }
        if (f16) {
            TILE_DOT_BF16(0, 4, 6);
            if (two_rows) TILE_DOT_BF16(2, 5, 6);
            TILE_LOAD(6, x[0], stride[0]);
            if (two_tokens) TILE_DOT_BF16(1, 4, 7);
            if (two_rows && two_tokens) TILE_DOT_BF16(3, 5, 7);
            if (two_tokens) TILE_LOAD(7, x[1], stride[1]);
            TILE_DOT_BF16(0, 4, 6);
            if (two_rows) TILE_DOT_BF16(2, 5, 6);
            if (two_tokens) TILE_DOT_BF16(1, 4, 7);
            TILE_LOAD_PASSING(4, w[0] + AMX_TILE_BYTES, AMX_RUN_BYTES);
            if (two_rows && two_tokens) TILE_DOT_BF16(3, 5, 7);
            if (two_rows) TILE_LOAD_PASSING(5, w[1] + AMX_TILE_BYTES, AMX_RUN_BYTES);
        }
        for (int i = 0; i < 2 && left > 0; i++) { /* the last run is loaded again */
            w[i] += walk->run_step;
            x[i] += walk->x_step[i];
        }
        TILE_DOT_BF16(0, 4, 6);
        if (two_rows) TILE_DOT_BF16(2, 5, 6);
        TILE_LOAD(6, x[0] + first[0], stride[0]);
        if (two_tokens) TILE_DOT_BF16(1, 4, 7);
        TILE_LOAD_PASSING(4, w[0], AMX_RUN_BYTES);
        if (two_rows && two_tokens) TILE_DOT_BF16(3, 5, 7);
        if (two_rows) TILE_LOAD_PASSING(5, w[1], AMX_RUN_BYTES);
        if (two_tokens) TILE_LOAD(7, x[1] + first[1], stride[1]);
    }
}

static AMX_INLINE void amx_walk_tiles(AmxWalk *walk, bool f16, bool two_rows, bool two_tokens) {
    if (two_rows && two_tokens)
        amx_walk(walk, f16, true, true);
    else if (two_rows)
        amx_walk(walk, f16, true, false);
    else if (two_tokens)
        amx_walk(walk, f16, false, true);
    else
        amx_walk(walk, f16, false, false);
}

static void amx_walk_any(AmxWalk *walk, bool f16, bool two_rows, bool two_tokens) {
    if (f16)
        amx_walk_tiles(walk, true, two_rows, two_tokens);
    else
        amx_walk_tiles(walk, false, two_rows, two_tokens);
}

static void amx_zero(void) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

/* A finished tile, [16 rows][16 tokens], to the outputs of n_tokens tokens from `token` and of
 * n_rows rows from `row`. */
static void amx_store(const LinearUnit *unit, const float *c, int64_t token, int64_t n_tokens,
                      int64_t row, int64_t n_rows) {
    Vec v[VEC_LANES];
    for (int r = 0; r < AMX_ROWS; r++) v[r] = vec_load(c + r * AMX_TOKENS);
    vec_transpose(v);
    Vec bias = unit->bias != NULL ? vec_load_n(unit->bias + row, n_rows) : vec_zero();
    for (int64_t t = 0; t < n_tokens; t++) {
        float *out = unit->out + (token + t) * unit->out_stride + row;
        Vec sum = unit->bias != NULL ? vec_add(v[t], bias) : v[t];
        if (unit->accumulate) sum = vec_add(vec_load_n(out, n_rows), sum);
        vec_store_n(out, sum, n_rows);
    }
}

/* All tiles, to and from where they wait. */
static void amx_keep_all(float *acc) {
    TILE_STORE(0, acc, 4 * AMX_TOKENS);
    TILE_STORE(1, acc + AMX_ROWS * AMX_TOKENS, 4 * AMX_TOKENS);
    TILE_STORE(2, acc + 2 * AMX_ROWS * AMX_TOKENS, 4 * AMX_TOKENS);
    TILE_STORE(3, acc + 3 * AMX_ROWS * AMX_TOKENS, 4 * AMX_TOKENS);
}

static void amx_load_all(const float *acc) {
    TILE_LOAD(0, acc, 4 * AMX_TOKENS);
    TILE_LOAD(1, acc + AMX_ROWS * AMX_TOKENS, 4 * AMX_TOKENS);
    TILE_LOAD(2, acc + 2 * AMX_ROWS * AMX_TOKENS, 4 * AMX_TOKENS);
    TILE_LOAD(3, acc + 3 * AMX_ROWS * AMX_TOKENS, 4 * AMX_TOKENS);
}

/* All tiles, of up to 32 rows and 32 tokens, to the outputs. */
static void amx_store_all(const LinearUnit *unit, int64_t token, int64_t n_tokens, int64_t row,
                          int64_t n_rows) {
    _Alignas(CACHE_LINE) float c[4][AMX_ROWS * AMX_TOKENS] = {{0}};
    amx_keep_all(c[0]);
    for (int64_t r = 0; r < n_rows; r += AMX_ROWS)
        for (int64_t t = 0; t < n_tokens; t += AMX_TOKENS)
            amx_store(unit, c[r / AMX_ROWS * 2 + t / AMX_TOKENS], token + t,
                      MIN(n_tokens - t, (int64_t)AMX_TOKENS), row + r,
                      MIN(n_rows - r, (int64_t)AMX_ROWS));
}

/* The tiles of n_tokens <= 32 tokens from `token`, at run 0. */
static void amx_tokens(const LinearUnit *unit, int64_t token, int64_t n_tokens, AmxWalk *walk) {
    int64_t n_runs = DIV_UP(unit->k, AMX_RUN);
    for (int i = 0; i < 2; i++) {
        int64_t n = MIN(n_tokens - i * AMX_TOKENS, (int64_t)AMX_TOKENS);
        walk->x[i] = unit->half + (token + i * AMX_TOKENS) * n_runs * amx_token_bytes(unit);
        walk->x_step[i] = MAX(n, (int64_t)0) * amx_token_bytes(unit);
        walk->x_stride[i] = MAX(n, (int64_t)0) * (AMX_RUN_BYTES / (AMX_RUN / 2));
    }
}

/* n elements of n_rows rows, zeros after them, as a tile. */
static AMX_INLINE void amx_part(const uint8_t *w, int64_t row_step, int64_t n_rows, int64_t n,
                                uint8_t *tile) {
    const __mmask32 mask = (__mmask32)((1ull << n) - 1);
    for (int64_t r = 0; r < n_rows; r++)
        _mm512_store_si512(tile + r * AMX_RUN_BYTES,
                           _mm512_maskz_loadu_epi16(mask, w + r * row_step));
}

/* A row of n F16 elements, zeros after them, as rows of two tiles of bf16: the first 8 significant
 * bits, then the other 3. Elements i and i + 16 are a pair. */
static AMX_INLINE void amx_split_row(const uint8_t *w, int64_t n, uint8_t *tiles) {
    const __m512i top = _mm512_set1_epi32((int)0xffff0000);
    const __mmask32 mask = (__mmask32)((1ull << n) - 1);
    __m512i x[2], rest[2];
    for (int i = 0; i < 2; i++) {
        __m256i half = n == AMX_RUN
                           ? _mm256_loadu_si256((const void *)(w + 32 * i))
                           : _mm256_maskz_loadu_epi16((__mmask16)(mask >> 16 * i), w + 32 * i);
        __m512 v = _mm512_cvtph_ps(half);
        x[i] = _mm512_castps_si512(v);
        __m512 hi = _mm512_castsi512_ps(_mm512_and_si512(x[i], top));
        rest[i] = _mm512_castps_si512(_mm512_sub_ps(v, hi));
    }
    /* top ? the second : the first, moved down. */
    __m512i hi = _mm512_ternarylogic_epi32(top, x[1], _mm512_srli_epi32(x[0], 16), 0xca);
    __m512i lo = _mm512_ternarylogic_epi32(top, rest[1], _mm512_srli_epi32(rest[0], 16), 0xca);
    _mm512_store_si512(tiles, hi);
    _mm512_store_si512(tiles + AMX_TILE_BYTES, lo);
}

static void amx_split(const uint8_t *w, int64_t row_step, int64_t n_rows, int64_t n,
                      uint8_t *tiles) {
    for (int64_t r = 0; r < n_rows; r++)
        amx_split_row(w + r * row_step, n, tiles + r * AMX_RUN_BYTES);
}

/* Rows 4 * part .. of a whole run, and what is asked for with them. */
static AMX_INLINE void amx_split_part(const uint8_t *w, int64_t row_step, int64_t ask, int part,
                                      uint8_t *tiles) {
    CPU_UNROLL(4)
    for (int r = 4 * part; r < 4 * part + 4; r++) {
        _mm_prefetch((const char *)w + r * row_step + ask, _MM_HINT_T1);
        amx_split_row(w + r * row_step, AMX_RUN, tiles + r * AMX_RUN_BYTES);
    }
}

/* amx_run_direct of F16 with one token tile, while another run is split: in turns, so that neither
 * waits for the other. */
static AMX_INLINE void amx_run_split(const AmxWalk *walk, const uint8_t *w, int64_t row_step,
                                     int64_t ask, uint8_t *tiles) {
    const int64_t stride = walk->x_stride[0];
    TILE_LOAD(4, walk->w[0], AMX_RUN_BYTES);
    TILE_LOAD(7, walk->x[0] + walk->x_step[0] / 2, stride);
    amx_split_part(w, row_step, ask, 0, tiles);
    TILE_LOAD(6, walk->x[0], stride);
    TILE_DOT_BF16(0, 4, 7);
    amx_split_part(w, row_step, ask, 1, tiles);
    TILE_LOAD(5, walk->w[0] + AMX_TILE_BYTES, AMX_RUN_BYTES);
    TILE_DOT_BF16(0, 4, 6);
    amx_split_part(w, row_step, ask, 2, tiles);
    TILE_DOT_BF16(0, 5, 6);
    amx_split_part(w, row_step, ask, 3, tiles);
}

/* A run of one row tile: all loads, then all products, in amx_walk's order of additions. */
static AMX_INLINE void amx_run_direct(const AmxWalk *walk, bool f16, bool two_tokens) {
    TILE_LOAD(4, walk->w[0], walk->row_step);
    if (f16) TILE_LOAD(5, walk->w[0] + AMX_TILE_BYTES, walk->row_step);
    TILE_LOAD(6, walk->x[0], walk->x_stride[0]);
    if (f16) TILE_LOAD(7, walk->x[0] + walk->x_step[0] / 2, walk->x_stride[0]);
    if (two_tokens) TILE_LOAD(2, walk->x[1], walk->x_stride[1]);
    if (two_tokens && f16) TILE_LOAD(3, walk->x[1] + walk->x_step[1] / 2, walk->x_stride[1]);
    if (f16) {
        TILE_DOT_BF16(0, 4, 7);
        if (two_tokens) TILE_DOT_BF16(1, 4, 3);
    }
    TILE_DOT_BF16(0, 4, 6);
    if (two_tokens) TILE_DOT_BF16(1, 4, 2);
    if (f16) {
        TILE_DOT_BF16(0, 5, 6);
        if (two_tokens) TILE_DOT_BF16(1, 5, 2);
    }
}

/* Up to 16 rows from `row` in the file's place, all tokens; while they end, the bytes of the next
 * are asked for. F16 is split a run ahead of its products. */
static AMX_INLINE void amx_direct_rows(const LinearUnit *unit, int64_t row, int64_t n_rows,
                                       bool f16, bool two_tokens) {
    enum { AHEAD = 1, SLOTS = 4, SLOT_BYTES = 2 * AMX_TILE_BYTES };
    const int64_t n_runs = DIV_UP(unit->k, AMX_RUN), row_bytes = 2 * unit->k;
    const int64_t ahead = MIN(row_bytes, (int64_t)AMX_PREFETCH_BYTES);
    const uint8_t *w = unit->w + row * unit->w_stride;
    uint8_t *slots = unit->scratch;
    AmxWalk walk = {.row_step = AMX_RUN_BYTES};
    amx_tokens(unit, 0, unit->n_tokens, &walk);
    TILE_ZERO(0);
    TILE_ZERO(1);
    for (int64_t i = f16 ? -AHEAD : 0; i < n_runs; i++) {
        const int64_t run = f16 ? i + AHEAD : i, at = run * AMX_RUN_BYTES;
        const int64_t n = MIN(unit->k - run * AMX_RUN, (int64_t)AMX_RUN);
        const int64_t ask =
            ahead + (at + ahead < row_bytes ? 0 : AMX_ROWS * unit->w_stride - row_bytes);
        uint8_t *slot = slots + run % SLOTS * SLOT_BYTES;
        if (f16 && i >= 0) walk.w[0] = slots + i % SLOTS * SLOT_BYTES;
        if (f16 && !two_tokens && i >= 0 && n == AMX_RUN && n_rows == AMX_ROWS) {
            amx_run_split(&walk, w + at, unit->w_stride, ask, slot);
        } else {
            if (run < n_runs) {
                for (int64_t r = 0; r < AMX_ROWS; r++)
                    _mm_prefetch((const char *)w + at + r * unit->w_stride + ask, _MM_HINT_T1);
                if (f16)
                    amx_split(w + at, unit->w_stride, n_rows, n, slot);
                else if (n < AMX_RUN)
                    amx_part(w + at, unit->w_stride, n_rows, n, slot);
                walk.row_step = !f16 && n == AMX_RUN ? unit->w_stride : AMX_RUN_BYTES;
                if (!f16) walk.w[0] = n == AMX_RUN ? w + at : slot;
            }
            if (i < 0) continue;
            amx_run_direct(&walk, f16, two_tokens);
        }
        walk.x[0] += walk.x_step[0];
        walk.x[1] += walk.x_step[1];
    }
    _Alignas(CACHE_LINE) float c[2][AMX_ROWS * AMX_TOKENS] = {{0}};
    TILE_STORE(0, c[0], 4 * AMX_TOKENS);
    if (two_tokens) TILE_STORE(1, c[1], 4 * AMX_TOKENS);
    for (int64_t t = 0; t < unit->n_tokens; t += AMX_TOKENS)
        amx_store(unit, c[t / AMX_TOKENS], t, MIN(unit->n_tokens - t, (int64_t)AMX_TOKENS), row,
                  n_rows);
}

static void amx_direct(const LinearUnit *unit) {
    const bool f16 = amx_is_f16(unit), two_tokens = unit->n_tokens > AMX_TOKENS;
    for (int64_t row = 0; row < unit->n_rows; row += AMX_ROWS) {
        int64_t n_rows = MIN(unit->n_rows - row, (int64_t)AMX_ROWS);
        if (row == 0 || n_rows < AMX_ROWS) amx_configure_direct(n_rows, unit->n_tokens);
        if (f16 && two_tokens)
            amx_direct_rows(unit, row, n_rows, true, true);
        else if (f16)
            amx_direct_rows(unit, row, n_rows, true, false);
        else if (two_tokens)
            amx_direct_rows(unit, row, n_rows, false, true);
        else
            amx_direct_rows(unit, row, n_rows, false, false);
    }
}

/* n_runs of the unit's rows from a run as [16 rows][run][row], F16 split: [hi, lo][row]. */
static void amx_copy(const LinearUnit *unit, int64_t run, int64_t n_runs, uint8_t *out) {
    const int64_t end = MIN(unit->k, (run + n_runs) * AMX_RUN);
    for (int64_t row = 0; row < unit->n_rows; row += AMX_ROWS) {
        const int64_t n_rows = MIN(unit->n_rows - row, (int64_t)AMX_ROWS);
        const uint8_t *w = unit->w + row * unit->w_stride;
        for (int64_t i = run * AMX_RUN; i < end; i += AMX_RUN, out += AMX_TILE_BYTES) {
            int64_t n = MIN(unit->k - i, (int64_t)AMX_RUN);
            if (amx_is_f16(unit)) {
                amx_split(w + 2 * i, unit->w_stride, n_rows, n, out);
                out += AMX_TILE_BYTES;
                continue;
            }
            amx_part(w + 2 * i, unit->w_stride, n_rows, n, out);
        }
    }
}

/* A block of k times the tokens of a pass. */
typedef struct AmxBlock {
    const LinearUnit *unit;
    int64_t token, n_tokens; /* of the pass */
    int64_t run, n_runs;     /* of the block */
    const uint8_t *copy;
    float *acc; /* [token pair][row pair][4 tiles][16 rows][16 tokens] */
} AmxBlock;

/* Part i of n of the bytes from `from`, in n_runs runs. */
static AmxAsk amx_ask(const uint8_t *from, int64_t bytes, int64_t i, int64_t n, int64_t n_runs) {
    int64_t lines = DIV_UP(bytes / CACHE_LINE, n);
    return (AmxAsk){from + i * lines * CACHE_LINE, DIV_UP(lines, n_runs)};
}

/* Asks for part `turn` of n_turns of the next block's rows: from each the bytes of a block. */
static void amx_ask_rows(const AmxBlock *block, int64_t turn, int64_t n_turns) {
    const LinearUnit *unit = block->unit;
    const int64_t first = (block->run + block->n_runs) * AMX_RUN_BYTES, bytes = 2 * unit->k - first;
    const int64_t n_rows = DIV_UP(unit->n_rows, n_turns),
                  end = MIN((turn + 1) * n_rows, unit->n_rows);
    for (int64_t r = turn * n_rows; r < end; r++)
        for (int64_t at = 0; at < MIN(bytes, amx_block_runs(unit) * AMX_RUN_BYTES);
             at += CACHE_LINE)
            _mm_prefetch((const char *)unit->w + r * unit->w_stride + first + at, _MM_HINT_T1);
}

/* n_tokens <= 32 tokens, the t-th of the pass and those after it: with all rows of the copy, while
 * the block of the next 32 tokens is asked for. */
static void amx_block_tokens(const AmxBlock *block, int64_t t, int64_t n_tokens) {
    const LinearUnit *unit = block->unit;
    const int64_t pair = 2 * AMX_ROWS, n_pairs = DIV_UP(unit->n_rows, pair);
    const int64_t n_turns = n_pairs * DIV_UP(block->n_tokens, 2 * AMX_TOKENS);
    const bool f16 = amx_is_f16(unit);
    const bool is_last = block->run + block->n_runs == DIV_UP(unit->k, AMX_RUN);
    const int64_t run_bytes = f16 ? 2 * AMX_TILE_BYTES : AMX_TILE_BYTES;
    const int64_t x_bytes = AMX_TOKENS * amx_token_bytes(unit); /* of a run of a tile */
    const int64_t tile_bytes = DIV_UP(unit->k, AMX_RUN) * x_bytes;
    float *acc = block->acc + t / (2 * AMX_TOKENS) * n_pairs * AMX_ACC_FLOATS;
    for (int64_t row = 0; row < unit->n_rows; row += pair, acc += AMX_ACC_FLOATS) {
        const int64_t n_rows = MIN(unit->n_rows - row, pair), turn = row / pair;
        AmxWalk walk = {.row_step = AMX_RUN_BYTES, .run_step = run_bytes, .n_runs = block->n_runs};
        walk.w[0] = block->copy + row / AMX_ROWS * block->n_runs * run_bytes;
        walk.w[1] = walk.w[0] + block->n_runs * run_bytes;
        amx_tokens(unit, block->token + t, n_tokens, &walk);
        for (int i = 0; i < 2; i++) {
            walk.x[i] += block->run * walk.x_step[i];
            const uint8_t *next = walk.x[i] + 2 * tile_bytes;
            int64_t left = block->n_tokens - t - (2 + i) * AMX_TOKENS;
            int64_t bytes = left < AMX_TOKENS ? 0 : block->n_runs * x_bytes;
            walk.ask[i] = amx_ask(next, bytes, turn, n_pairs, block->n_runs);
        }
        amx_ask_rows(block, t / (2 * AMX_TOKENS) * n_pairs + turn, n_turns);
        if (is_last)
            walk.out = (AmxOut){unit->out + (block->token + t) * unit->out_stride + row,
                                unit->out_stride, DIV_UP(n_tokens, block->n_runs)};
        if (row == 0 || n_rows < pair) amx_configure(n_rows, n_tokens);
        if (block->run > 0)
            amx_load_all(acc);
        else
            amx_zero();
        amx_walk_any(&walk, f16, n_rows > AMX_ROWS, n_tokens > AMX_TOKENS);
        if (is_last)
            amx_store_all(unit, block->token + t, n_tokens, row, n_rows);
        else
            amx_keep_all(acc);
    }
}

/* Block after block of k: its rows copied to L2, its activations of 32 tokens in L1 while the rows
 * pass by; the accumulators wait in L2. */
static void amx_many(const LinearUnit *unit) {
    const int64_t n_runs = DIV_UP(unit->k, AMX_RUN);
    uint8_t *copy = unit->scratch;
    AmxBlock block = {.unit = unit, .copy = copy};
    block.acc = (float *)(void *)(copy + AMX_COPY_BYTES);
    for (; block.token < unit->n_tokens; block.token += block.n_tokens) {
        block.n_tokens = MIN(unit->n_tokens - block.token, (int64_t)AMX_PASS_TOKENS);
        for (block.run = 0; block.run < n_runs; block.run += block.n_runs) {
            block.n_runs = MIN(n_runs - block.run, amx_block_runs(unit));
            amx_copy(unit, block.run, block.n_runs, copy);
            for (int64_t t = 0; t < block.n_tokens; t += 2 * AMX_TOKENS)
                amx_block_tokens(&block, t, MIN(block.n_tokens - t, 2 * (int64_t)AMX_TOKENS));
        }
    }
}

static void amx_unit(const LinearUnit *unit) {
    if (unit->n_tokens <= AMX_DIRECT_TOKENS)
        amx_direct(unit);
    else
        amx_many(unit);
    tile_release();
}

static int32_t amx_tile(int64_t tokens_left) {
    return (int32_t)MIN(tokens_left, (int64_t)AMX_TOKENS);
}

/* Elements i and i + 16 of a run of bf16 side by side, as F16's split leaves a row. */
static AMX_INLINE __m512i amx_pairs_f16(__m512i v) {
    __m512i second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(v, 1));
    return _mm512_or_si512(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(v)),
                           _mm512_slli_epi32(second, 16));
}

/* The 16 pairs of each of n_tokens tokens as a tile: [pair][token]. */
static AMX_INLINE void amx_put(const __m512i *pairs, int32_t n_tokens, uint8_t *out) {
    if (n_tokens == 1) {
        _mm512_storeu_si512(out, pairs[0]);
        return;
    }
    const void *row[VEC_LANES];
    Vec v[VEC_LANES];
    for (int t = 0; t < AMX_TOKENS; t++) row[t] = &pairs[MIN(t, n_tokens - 1)];
    vec_load_turned(row, v);
    for (int p = 0; p < AMX_RUN / 2; p++, out += 4 * n_tokens)
        vec_store_n((float *)(void *)out, v[p], n_tokens);
}

static AMX_INLINE void amx_round_to(const float *const *x, int32_t n_tokens, int64_t k, bool f16,
                                    uint8_t *out) {
    for (int64_t i = 0; i < k; i += AMX_RUN) {
        int64_t n = MIN(k - i, (int64_t)AMX_RUN);
        __mmask32 mask = (__mmask32)((1ull << n) - 1);
        __m512i hi[AMX_TOKENS], lo[AMX_TOKENS];
        for (int32_t t = 0; t < n_tokens; t++) {
            __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x[t] + i);
            __m512 high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x[t] + i + 16);
            hi[t] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
            if (!f16) continue;
            low = _mm512_sub_ps(low, vec_from_bf16(_mm512_castsi512_si256(hi[t])));
            high = _mm512_sub_ps(high, vec_from_bf16(_mm512_extracti64x4_epi64(hi[t], 1)));
            lo[t] = amx_pairs_f16((__m512i)_mm512_cvtne2ps_pbh(high, low));
            hi[t] = amx_pairs_f16(hi[t]);
        }
        amx_put(hi, n_tokens, out);
        out += n_tokens * AMX_RUN_BYTES;
        if (!f16) continue;
        amx_put(lo, n_tokens, out);
        out += n_tokens * AMX_RUN_BYTES;
    }
}

static void amx_round(const float *const *x, int32_t n_tokens, int64_t k, bool f16, uint8_t *out) {
    if (f16)
        amx_round_to(x, n_tokens, k, true, out);
    else
        amx_round_to(x, n_tokens, k, false, out);
}

const LinearHalf CPU_LINEAR_HALF_AMX = {.token_bytes = AMX_TOKEN_BYTES,
                                        .token_bytes_f16 = AMX_TOKEN_BYTES_F16,
                                        .unit_rows = AMX_UNIT_ROWS,
                                        .unit_bytes = INT32_MAX,
                                        .few_tokens = AMX_DIRECT_TOKENS,
                                        .tile = amx_tile,
                                        .round = amx_round,
                                        .unit = amx_unit};
