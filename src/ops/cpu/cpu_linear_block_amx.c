/* cpu_linear_block_amx: block formats times int8 activations, for many tokens on AMX tiles.
 *
 * The products are integers and exact, whoever makes them; what follows them in f32 is that of
 * cpu_linear_block_avx512, in its order, so that both give the same bits: few tokens go there.
 *
 *   C [12 tokens x 16 rows of weights] = A [12 tokens x 32 of k] * B [8 fours of k x 16 rows x 4]
 *
 * A is a tile of quantized tokens in its place (LinearQuant); B is a group of an expanded panel,
 * signed. K is 32, half of what a tile holds, because scales change then; formats whose scales
 * change after 16 elements would fill a quarter and go to avx512 as well. A step multiplies one
 * group of two panels: 24 vectors of integers go through L1 to the vector unit, which scales them
 * and adds them to 24 accumulators in registers: 24 cycles of tile products, 24 of stores and 36 of
 * vector operations (a conversion, a product of scales, an FMA). The last stand in parts among the
 * first, since a core sees no farther ahead than a step or two.
 *
 * Where things lie: two panels' chunk of TILES_GROUPS groups, expanded, in L1; a span of the
 * activations, as many groups as fit, and all accumulators in L2 while a unit's panels change. What
 * the next chunk will expand is asked for meanwhile, a few lines with each group. */
#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_tile_amx.h"
#include "ops/cpu/cpu_unpack_avx512.h"
#include "ops/cpu/cpu_vec_avx512.h"

#define EXPAND_SIGNED 1
#include "ops/cpu/cpu_expand_tmpl.h"

enum {
    TILES_FEW_TOKENS = 32,          /* so many are faster with VNNI */
    TILES_PANELS = 2,               /* of a step */
    TILES_PAIR = TILES_PANELS * 16, /* rows */
    TILES_PARTS = 6,                /* in which a step adds its sums up */
    TILES_GROUPS = 16,              /* of a chunk */
    TILES_SPAN_BYTES = 512 << 10,   /* of activations, at most */
    TILES_ROW_BYTES = 64,           /* of B and of C */
    TILES_CHUNK_BYTES = TILES_PANELS * TILES_GROUPS * LINEAR_EXPANDED_BYTES_MAX,
};
_Static_assert(TILES_CHUNK_BYTES + LINEAR_TILES_TOKENS * LINEAR_TILES_ROWS * 4 <= LINEAR_UNIT_BYTES,
               "scratch");

/* Sums of a group, of both panels. */
typedef int32_t TilesSums[TILES_PANELS][LINEAR_TILE_TOKENS][PACK_ROWS];

/* Lines to ask for, so many with each group. */
typedef struct TilesAsk {
    const uint8_t *next;
    int64_t n_lines;
} TilesAsk;

/* Two panels' chunk times a tile of tokens. */
typedef struct TilesWalk {
    const uint8_t *w[TILES_PANELS]; /* expanded */
    const LinearQuant *q;
    int64_t n_groups;
    TilesAsk *ask; /* [TILES_PANELS] */
    float *acc;    /* [token][panel][row] */
} TilesWalk;

/* C: 0 and 1. A: 4. B: 6 and 7. */
static void tiles_configure(int32_t n_tokens) {
    _Alignas(CACHE_LINE) TileConfig config = {.palette = 1};
    for (int p = 0; p < TILES_PANELS; p++) {
        tile_shape(&config, p, n_tokens, TILES_ROW_BYTES);
        tile_shape(&config, 6 + p, 8, TILES_ROW_BYTES);
    }
    tile_shape(&config, 4, n_tokens, 32);
    tile_configure(&config);
}

/* Loads A of a group and B of its panels: what the next products take. */
static UNPACK_INLINE void tiles_load_q(const LinearQuant *q) {
    TILE_LOAD(4, q->q, sizeof *q);
}

static UNPACK_INLINE void tiles_load_w(const uint8_t *w, int panel) {
    if (panel == 0)
        TILE_LOAD(6, w, TILES_ROW_BYTES);
    else
        TILE_LOAD(7, w, TILES_ROW_BYTES);
}

/* The products of a group with a panel. */
static UNPACK_INLINE void tiles_dot(int panel) {
    if (panel == 0) {
        TILE_ZERO(0);
        TILE_DOT_S8(0, 4, 6);
    } else {
        TILE_ZERO(1);
        TILE_DOT_S8(1, 4, 7);
    }
}

/* acc += a group's sums times their scales, of the tokens of a part: the f32 operations of
 * block_step in cpu_linear_block_avx512.c, in its order. part, n_tokens and has_min are
 * constants. */
static UNPACK_INLINE void tiles_add(const TilesWalk *walk, int64_t w_at, const LinearQuant *q,
                                    const TilesSums sums, int part, int n_tokens, bool has_min,
                                    __m512 *acc) {
    const int end = n_tokens * (part + 1) / TILES_PARTS;
    CPU_UNROLL(12)
    for (int t = n_tokens * part / TILES_PARTS; t < end; t++) {
        __m512 x = _mm512_set1_ps(q[t].scale);
        CPU_UNROLL(2)
        for (int p = 0; p < TILES_PANELS; p++) {
            const uint8_t *scale = walk->w[p] + w_at + 64 * 8;
            __m512 *a = &acc[t * TILES_PANELS + p];
            __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(sums[p][t]));
            *a = _mm512_fmadd_ps(dot, _mm512_mul_ps(_mm512_load_ps(scale), x), *a);
            if (has_min) {
                __m512 sum = _mm512_set1_ps(q[t].extra[0].sum);
                *a = _mm512_fmadd_ps(_mm512_load_ps(scale + 64), sum, *a);
            }
        }
    }
}

static UNPACK_INLINE void tiles_ask(TilesAsk *ask) {
    for (int p = 0; p < TILES_PANELS; p++)
        for (int64_t i = 0; i < ask[p].n_lines; i++, ask[p].next += CACHE_LINE)
            _mm_prefetch((const char *)ask[p].next, _MM_HINT_T0);
}

/* Step s stores the sums of group s - 1, multiplies group s and loads group s + 1; the sums are
 * added up in parts between, so that neither half of a core waits for the other. */
static UNPACK_INLINE void tiles_step(const TilesWalk *walk, int64_t s, int64_t w_step,
                                     TilesSums sums, int n_tokens, bool has_min, __m512 *acc) {
    const bool add = s > 0, dot = s < walk->n_groups, load = s + 1 < walk->n_groups;
    const int64_t last = (s - 1) * w_step, next = (s + 1) * w_step;
    const LinearQuant *q = walk->q + s * n_tokens, *last_q = q - n_tokens;
    if (add) {
        TILE_STORE(0, sums[0], TILES_ROW_BYTES);
        TILE_STORE(1, sums[1], TILES_ROW_BYTES);
    }
    if (dot) tiles_dot(0);
    if (add) tiles_add(walk, last, last_q, sums, 0, n_tokens, has_min, acc);
    if (dot) tiles_dot(1);
    if (add) tiles_add(walk, last, last_q, sums, 1, n_tokens, has_min, acc);
    if (load) tiles_load_q(q + n_tokens);
    if (add) tiles_add(walk, last, last_q, sums, 2, n_tokens, has_min, acc);
    if (load) tiles_load_w(walk->w[0] + next, 0);
    if (add) tiles_add(walk, last, last_q, sums, 3, n_tokens, has_min, acc);
    if (load) tiles_load_w(walk->w[1] + next, 1);
    if (add) tiles_add(walk, last, last_q, sums, 4, n_tokens, has_min, acc);
    if (add) tiles_add(walk, last, last_q, sums, 5, n_tokens, has_min, acc);
    tiles_ask(walk->ask);
}

static UNPACK_INLINE void tiles_walk(const TilesWalk *walk, int n_tokens, bool has_min) {
    const LinearFormat f = {.has_min = has_min};
    const int64_t w_step = cpu_linear_expanded_bytes(&f);
    _Alignas(CACHE_LINE) TilesSums sums[2]; /* in turns */
    __m512 acc[LINEAR_TILE_TOKENS * TILES_PANELS];
    CPU_UNROLL(24)
    for (int i = 0; i < n_tokens * TILES_PANELS; i++) acc[i] = _mm512_load_ps(walk->acc + 16 * i);
    tiles_load_q(walk->q);
    for (int p = 0; p < TILES_PANELS; p++) tiles_load_w(walk->w[p], p);
    for (int64_t s = 0; s <= walk->n_groups; s += 2) {
        tiles_step(walk, s, w_step, sums[0], n_tokens, has_min, acc);
        if (s < walk->n_groups) tiles_step(walk, s + 1, w_step, sums[1], n_tokens, has_min, acc);
    }
    CPU_UNROLL(24)
    for (int i = 0; i < n_tokens * TILES_PANELS; i++) _mm512_store_ps(walk->acc + 16 * i, acc[i]);
}

static UNPACK_INLINE void tiles_walk_any(const TilesWalk *walk, int32_t n_tokens, bool has_min) {
    switch (n_tokens) {
        case 12: tiles_walk(walk, 12, has_min); break;
        case 8: tiles_walk(walk, 8, has_min); break;
        case 4: tiles_walk(walk, 4, has_min); break;
        case 2: tiles_walk(walk, 2, has_min); break;
        default: tiles_walk(walk, 1, has_min); break;
    }
}

static void tiles_walk_plain(const TilesWalk *walk, int32_t n_tokens) {
    tiles_walk_any(walk, n_tokens, false);
}

static void tiles_walk_min(const TilesWalk *walk, int32_t n_tokens) {
    tiles_walk_any(walk, n_tokens, true);
}

/* A unit's way through the levels of memory. */
typedef struct TilesUnit {
    const LinearUnit *unit;
    const LinearFormat *f;
    int64_t token, n_tokens; /* of this pass */
    int64_t span, n_groups;  /* of k, in groups */
    uint8_t *expanded;       /* [TILES_PANELS] chunks */
    float *acc;              /* [pair][token][panel][row] */
} TilesUnit;

/* The panel at the place of the pair's p-th; the last one twice where their number is odd. */
static const uint8_t *tiles_panel(const LinearUnit *unit, int64_t pair, int64_t p) {
    int64_t last = DIV_UP(unit->n_rows, PACK_ROWS) - 1;
    return unit->w + MIN(pair * TILES_PANELS + p, last) * unit->w_stride;
}

/* The chunk of n groups from `group` of a pair's panels, times all tokens; meanwhile the bytes from
 * `next` of both are asked for. */
static void tiles_chunk(const TilesUnit *u, int64_t pair, int64_t group, int64_t n,
                        const uint8_t *const next[TILES_PANELS]) {
    const int64_t chunk_bytes = n * cpu_linear_expanded_bytes(u->f);
    const int64_t lines =
        DIV_UP(n, u->f->n_subgroups) * u->f->group_bytes * PACK_ROWS / CACHE_LINE + 1;
    const int64_t n_steps = n * DIV_UP(u->n_tokens, LINEAR_TILE_TOKENS);
    TilesAsk ask[TILES_PANELS];
    TilesWalk walk = {.n_groups = n, .ask = ask};
    for (int p = 0; p < TILES_PANELS; p++) {
        uint8_t *expanded = u->expanded + p * chunk_bytes;
        EXPAND[u->unit->dtype](tiles_panel(u->unit, pair, p), group, n, 0, expanded);
        walk.w[p] = expanded;
        ask[p] = (TilesAsk){next[p], DIV_UP(lines, n_steps)};
    }
    int32_t configured = 0;
    for (int64_t t = 0; t < u->n_tokens;) {
        int32_t n_tokens = cpu_linear_tile(u->n_tokens - t);
        if (n_tokens != configured) tiles_configure(n_tokens);
        configured = n_tokens;
        walk.q = u->unit->q + (u->token + t) * u->n_groups + group * n_tokens;
        walk.acc = u->acc + (pair * u->n_tokens + t) * TILES_PAIR;
        (u->f->has_min ? tiles_walk_min : tiles_walk_plain)(&walk, n_tokens);
        t += n_tokens;
        if (ask[0].next >= next[0] + lines * CACHE_LINE) ask[0].n_lines = ask[1].n_lines = 0;
    }
}

static void tiles_store_out(const TilesUnit *u) {
    const LinearUnit *unit = u->unit;
    for (int64_t row = 0; row < unit->n_rows; row += PACK_ROWS) {
        int64_t n_rows = MIN(unit->n_rows - row, (int64_t)PACK_ROWS);
        const float *acc = u->acc + row / TILES_PAIR * u->n_tokens * TILES_PAIR + row % TILES_PAIR;
        Vec bias = unit->bias != NULL ? vec_load_n(unit->bias + row, n_rows) : vec_zero();
        for (int64_t t = 0; t < u->n_tokens; t++, acc += TILES_PAIR) {
            float *out = unit->out + (u->token + t) * unit->out_stride + row;
            Vec sum = vec_load(acc);
            if (unit->bias != NULL) sum = vec_add(sum, bias);
            if (unit->accumulate) sum = vec_add(vec_load_n(out, n_rows), sum);
            vec_store_n(out, sum, n_rows);
        }
    }
}

/* Span after span of k; in a span pair after pair of panels; of a pair chunk after chunk. */
static void tiles_pass(const TilesUnit *u) {
    const int64_t n_pairs = DIV_UP(u->unit->n_rows, TILES_PAIR);
    memset(u->acc, 0, (size_t)(n_pairs * u->n_tokens) * TILES_PAIR * sizeof *u->acc);
    for (int64_t span = 0; span < u->n_groups; span += u->span) {
        int64_t end = MIN(span + u->span, u->n_groups);
        for (int64_t pair = 0; pair < n_pairs; pair++) {
            for (int64_t group = span, n; group < end; group += n) {
                n = MIN(end - group, (int64_t)TILES_GROUPS);
                bool same = group + n < end, more = pair + 1 < n_pairs;
                int64_t next_pair = same ? pair : more ? pair + 1 : 0;
                int64_t next_group = same ? group + n : more ? span : end;
                if (next_group == u->n_groups) next_pair = n_pairs, next_group = 0;
                const uint8_t *next[TILES_PANELS];
                for (int p = 0; p < TILES_PANELS; p++)
                    next[p] = u->unit->w + (next_pair * TILES_PANELS + p) * u->unit->w_stride +
                              next_group / u->f->n_subgroups * u->f->group_bytes * PACK_ROWS;
                tiles_chunk(u, pair, group, n, next);
            }
        }
    }
    tiles_store_out(u);
}

static void tiles_unit(const LinearUnit *unit) {
    TilesUnit u = {.unit = unit, .f = &LINEAR_FORMAT[unit->dtype], .n_groups = unit->k / 32};
    u.expanded = unit->scratch;
    u.acc = (float *)(void *)(u.expanded + TILES_CHUNK_BYTES);
    for (; u.token < unit->n_tokens; u.token += u.n_tokens) {
        u.n_tokens = MIN(unit->n_tokens - u.token, (int64_t)LINEAR_TILES_TOKENS);
        int64_t span = TILES_SPAN_BYTES / (u.n_tokens * (int64_t)sizeof(LinearQuant));
        u.span = MAX(span / TILES_GROUPS, (int64_t)1) * TILES_GROUPS;
        tiles_pass(&u);
    }
    tile_release();
}

void cpu_linear_block_amx(const LinearUnit *unit) {
    if (unit->n_tokens <= TILES_FEW_TOKENS || LINEAR_FORMAT[unit->dtype].has_scale_16)
        cpu_linear_block_avx512(unit);
    else
        tiles_unit(unit);
}
