/* cpu_linear_block_tmpl: block formats times int8 activations; one source, two levels.
 *
 * One token: the unit's panels side by side, unpacked in registers; memory-bound. Up to
 * BLOCK_FEW_TOKENS: 64 or 128 elements of two panels at a time are expanded to bytes and f32 scales
 * in L1 and multiplied with all tokens, accumulators waiting in L1. In both, panels take turns
 * after 32 to 128 elements: four steady streams. A whole group of 256 at a time reads in bursts,
 * which was 20 to 30 % slower from memory. More tokens: the unit's panels are expanded once in L2
 * and read by every tile of tokens. All three run block_step over the same groups in the same
 * order, so their bits are the same; and so are those of the levels, whose f32 operations are the
 * same too.
 *
 * The includer defines UNPACK_LANES and the rest of cpu_unpack_tmpl.h, includes this, and defines
 *
 *   BLOCK_TILE_PANELS, BLOCK_TILE_TOKENS   the tile in registers: 1 or 2 panels x 4 or 6
 *                                          tokens
 *   block_step   acc[p * n_tokens + t] += the 32 products of each row (lane) of panel p with token
 *                t: in f32, dot and scale as one FMA, then the minimum as another: see avx512's */
#pragma once

#include "ops/cpu/cpu_expand_tmpl.h"
#include "ops/cpu/cpu_linear_priv.h"

/* docs/kernels.md */
enum {
    BLOCK_PREFETCH_BYTES = 3072,
    BLOCK_FEW_TOKENS = 32,
    BLOCK_FEW_SUBGROUPS = 4, /* at most */
    BLOCK_FEW_BYTES = 1280,  /* of a panel, unless 2 subgroups have more */
    BLOCK_MANY_GROUPS = 16
};

/* What the inner loop is compiled for. */
typedef struct BlockShape {
    bool min, scale_16, wide; /* wide: 8-bit weights */
} BlockShape;

/* acc: 16 sums of each panel's rows, or of each token. */
typedef float BlockAcc[PACK_ROWS];

static UNPACK_INLINE void block_step(const UnpackGroup *w, int n_panels, const LinearQuant *q,
                                     int n_tokens, BlockShape shape, UnpackF *acc);

static UNPACK_INLINE BlockShape block_shape(const LinearFormat *f) {
    return (BlockShape){f->has_min, f->has_scale_16, f->bits == 8};
}

/* Where the bytes to ask for stand from group g when n_side panels take turns: a panel's last bytes
 * ask for the start of the panel that takes its turn next. */
static UNPACK_INLINE int64_t block_ahead(const LinearUnit *unit, const LinearFormat *f,
                                         int64_t n_side, int64_t g) {
    int64_t group_bytes = f->group_bytes * PACK_ROWS, n_groups = unit->k / (32 * f->n_subgroups);
    int64_t n_ahead = MIN(DIV_UP(BLOCK_PREFETCH_BYTES, group_bytes), n_groups);
    return n_ahead * group_bytes + (g + n_ahead >= n_groups ? (n_side - 1) * unit->w_stride : 0);
}

static UNPACK_INLINE Vec block_read(const float *p, int64_t n) {
    return n == VEC_LANES ? vec_load(p) : vec_load_n(p, n);
}

/* 16 finished sums to rows row .. row + 15 (those there are) of token t. */
static void block_store(const LinearUnit *unit, int64_t t, int64_t row, const BlockAcc sum) {
    float *out = unit->out + t * unit->out_stride + row;
    int64_t n_rows = MIN(unit->n_rows - row, (int64_t)PACK_ROWS);
    for (int64_t r = 0; r < n_rows; r += VEC_LANES) {
        int64_t n = MIN(n_rows - r, (int64_t)VEC_LANES);
        Vec v = vec_load(sum + r);
        if (unit->bias != NULL) v = vec_add(v, block_read(unit->bias + row + r, n));
        if (unit->accumulate) v = vec_add(block_read(out + r, n), v);
        if (n == VEC_LANES)
            vec_store(out + r, v);
        else
            vec_store_n(out + r, v, n);
    }
}

/* The weights of so many tokens are unpacked in registers, where one stream reads them. */
enum { BLOCK_DIRECT_TOKENS = 2 };

/* Panels first .. first + n - 1 of a unit, times its n_tokens (a constant) tokens, take turns after
 * every subgroup: steady streams, not bursts. */
static UNPACK_INLINE void block_direct_side(const LinearUnit *unit, int64_t first, int64_t n,
                                            int n_tokens, Unpack *unpack, const LinearFormat *f) {
    const int64_t group_bytes = f->group_bytes * PACK_ROWS;
    int64_t n_groups = unit->k / (32 * f->n_subgroups);
    UnpackF acc[LINEAR_PANELS][EXPAND_HALVES][BLOCK_DIRECT_TOKENS] = {{{{0}}}};
    for (int64_t g = 0; g < n_groups; g++) {
        const LinearQuant *q = unit->q + g * f->n_subgroups * n_tokens;
        const uint8_t *from = unit->w + first * unit->w_stride + g * group_bytes;
        /* Of one stream the group's own lines, asked for in their order, may be all that it takes
         * to tell the processor what comes next. */
        int64_t ahead = unit->n_side == 1 ? unit->ahead : block_ahead(unit, f, n, g);
        CPU_UNROLL(8)
        for (int s = 0; s < f->n_subgroups; s++) {
            const uint8_t *group = from;
            for (int64_t p = 0; p < n; p++, group += unit->w_stride) {
                expand_prefetch(group, ahead, f, s, f->n_subgroups);
                /* Else gcc keeps the address of every four bytes of q, on the stack. */
                __asm__ volatile("" : "+r"(q));
                CPU_UNROLL(2)
                for (int half = 0; half < EXPAND_HALVES; half++) {
                    UnpackGroup w;
                    unpack(group, s, half, &w);
                    block_step(&w, 1, q + s * n_tokens, n_tokens, block_shape(f), acc[p][half]);
                }
            }
        }
    }
    for (int64_t p = 0; p < n; p++) {
        for (int t = 0; t < n_tokens; t++) {
            BlockAcc sum;
            for (int half = 0; half < EXPAND_HALVES; half++)
                memcpy(sum + half * UNPACK_LANES, &acc[p][half][t], sizeof acc[p][half][t]);
            block_store(unit, t, (first + p) * PACK_ROWS, sum);
        }
    }
}

/* Whether two tokens are: with 16 registers only where unpacking is short. */
static UNPACK_INLINE bool block_direct_takes_two(const LinearFormat *f) {
    return EXPAND_HALVES == 1 || f->n_subgroups == 1;
}

static UNPACK_INLINE void block_direct(const LinearUnit *unit, Unpack *unpack,
                                       const LinearFormat *f) {
    int64_t n_panels = DIV_UP(unit->n_rows, PACK_ROWS);
    if (unit->n_side != 1)
        block_direct_side(unit, 0, n_panels, 1, unpack, f);
    else if (unit->n_tokens == 1 || !block_direct_takes_two(f))
        for (int64_t p = 0; p < n_panels; p++) block_direct_side(unit, p, 1, 1, unpack, f);
    else
        for (int64_t p = 0; p < n_panels; p++)
            block_direct_side(unit, p, 1, BLOCK_DIRECT_TOKENS, unpack, f);
}

/* n groups of expanded panels, panel_bytes apart, times the tokens of a tile at q. */
typedef struct BlockTile {
    const uint8_t *expanded;
    int64_t panel_bytes, n;
    const LinearQuant *q;
    int32_t tile_tokens;
    BlockAcc *acc;    /* of the first token and panel */
    int64_t acc_step; /* from a panel's to the next's */
} BlockTile;

/* The expanded group at `from` of rows half * 8 and more where a panel has halves. */
static UNPACK_INLINE void block_load(const uint8_t *from, BlockShape shape, UnpackGroup *w) {
    const int n_scales = shape.scale_16 ? 2 : 1;
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) memcpy(&w->u[i], from + 64 * i, sizeof w->u[i]);
    CPU_UNROLL(2)
    for (int i = 0; i < n_scales; i++) {
        memcpy(&w->scale[i], from + 64 * (8 + i), sizeof w->scale[i]);
        if (shape.min) memcpy(&w->min[i], from + 64 * (8 + n_scales + i), sizeof w->min[i]);
    }
}

/* n_panels panels times n_tokens tokens, which are constants. */
static UNPACK_INLINE void block_tile(const BlockTile *tile, int n_panels, int n_tokens,
                                     BlockShape shape) {
    const LinearFormat f = {.has_min = shape.min, .has_scale_16 = shape.scale_16};
    for (int half = 0; half < EXPAND_HALVES; half++) {
        UnpackF sum[BLOCK_TILE_PANELS * BLOCK_TILE_TOKENS];
        CPU_UNROLL(12)
        for (int i = 0; i < n_panels * n_tokens; i++) {
            const BlockAcc *acc = &tile->acc[i / n_tokens * tile->acc_step + i % n_tokens];
            memcpy(&sum[i], *acc + half * 8, sizeof sum[i]);
        }
        const uint8_t *from = tile->expanded + half * 32;
        const LinearQuant *q = tile->q;
        for (int64_t g = 0; g < tile->n; g++) {
            UnpackGroup w[BLOCK_TILE_PANELS];
            CPU_UNROLL(2)
            for (int p = 0; p < n_panels; p++)
                block_load(from + p * tile->panel_bytes, shape, &w[p]);
            block_step(w, n_panels, q, n_tokens, shape, sum);
            from += cpu_linear_expanded_bytes(&f);
            q += tile->tile_tokens;
        }
        CPU_UNROLL(12)
        for (int i = 0; i < n_panels * n_tokens; i++) {
            BlockAcc *acc = &tile->acc[i / n_tokens * tile->acc_step + i % n_tokens];
            memcpy(*acc + half * 8, &sum[i], sizeof sum[i]);
        }
    }
}

/* All tokens of a tile; n_panels as above. */
typedef void BlockTiles(const BlockTile *tile, int64_t n_panels);

/* By value: kept in registers. */
static UNPACK_INLINE void block_parts(BlockTile tile, int n_panels, int n_tokens,
                                      BlockShape shape) {
    for (int32_t t = 0; t < tile.tile_tokens; t += n_tokens) {
        block_tile(&tile, n_panels, n_tokens, shape);
        tile.q += n_tokens;
        tile.acc += n_tokens;
    }
}

/* Scales per 16 elements take two integer sums a token: 6 tokens would spill. */
static UNPACK_INLINE void block_tiles_any(const BlockTile *tile, int n_panels, BlockShape shape) {
    const int most = shape.scale_16 ? 4 : BLOCK_TILE_TOKENS;
    switch (tile->tile_tokens) {
        case 1: block_tile(tile, n_panels, 1, shape); break;
        case 2: block_tile(tile, n_panels, 2, shape); break;
        case 12: block_parts(*tile, n_panels, most, shape); break;
        default: block_parts(*tile, n_panels, 4, shape); break;
    }
}

static UNPACK_INLINE void block_tiles(const BlockTile *tile, int64_t n_panels, BlockShape shape) {
    if (n_panels == BLOCK_TILE_PANELS)
        block_tiles_any(tile, BLOCK_TILE_PANELS, shape);
    else
        block_tiles_any(tile, 1, shape);
}

static void block_tiles_narrow(const BlockTile *tile, int64_t n_panels) {
    block_tiles(tile, n_panels, (BlockShape){.min = false});
}

static void block_tiles_wide(const BlockTile *tile, int64_t n_panels) {
    block_tiles(tile, n_panels, (BlockShape){.wide = true});
}

static void block_tiles_min(const BlockTile *tile, int64_t n_panels) {
    block_tiles(tile, n_panels, (BlockShape){.min = true});
}

static void block_tiles_16(const BlockTile *tile, int64_t n_panels) {
    block_tiles(tile, n_panels, (BlockShape){.scale_16 = true});
}

static void block_tiles_16_min(const BlockTile *tile, int64_t n_panels) {
    block_tiles(tile, n_panels, (BlockShape){.min = true, .scale_16 = true});
}

static BlockTiles *block_tiles_of(const LinearFormat *f) {
    if (f->has_scale_16) return f->has_min ? block_tiles_16_min : block_tiles_16;
    if (f->has_min) return block_tiles_min;
    return f->bits == 8 ? block_tiles_wide : block_tiles_narrow;
}

/* The more at a time, the less is spent between them; but reading comes in bursts, which memory
 * only bears with few bytes and little to compute after them: not the groups of K formats. */
static int64_t block_few_subgroups(const LinearUnit *unit, const LinearFormat *f) {
    int64_t bytes = BLOCK_FEW_SUBGROUPS * f->group_bytes * PACK_ROWS / f->n_subgroups;
    bool many = unit->n_tokens <= 8 && f->n_subgroups == 1 && bytes <= BLOCK_FEW_BYTES;
    return many ? BLOCK_FEW_SUBGROUPS : 2;
}

static void block_few(const LinearUnit *unit, const LinearFormat *f) {
    _Alignas(CACHE_LINE)
        uint8_t expanded[BLOCK_TILE_PANELS * BLOCK_FEW_SUBGROUPS * LINEAR_EXPANDED_BYTES_MAX];
    _Alignas(CACHE_LINE) BlockAcc acc[LINEAR_PANELS][BLOCK_FEW_TOKENS];
    BlockTiles *tiles = block_tiles_of(f);
    Expand *expand = EXPAND[unit->dtype];
    int64_t n_panels = DIV_UP(unit->n_rows, PACK_ROWS), n_subgroups = unit->k / 32;
    int64_t n_max = block_few_subgroups(unit, f);
    for (int64_t p = 0; p < n_panels; p++)
        memset(acc[p], 0, (size_t)unit->n_tokens * sizeof acc[p][0]);
    for (int64_t s = 0, n; s < n_subgroups; s += n) {
        n = MIN(n_subgroups - s, n_max);
        int64_t ahead = block_ahead(unit, f, n_panels, s / f->n_subgroups);
        int64_t panel_bytes = n * cpu_linear_expanded_bytes(f);
        for (int64_t p = 0, n_side; p < n_panels; p += n_side) {
            n_side = MIN(n_panels - p, (int64_t)BLOCK_TILE_PANELS);
            for (int64_t i = 0; i < n_side; i++)
                expand(unit->w + (p + i) * unit->w_stride, s, n, ahead, expanded + i * panel_bytes);
            for (int64_t t = 0; t < unit->n_tokens;) {
                int32_t n_tokens = cpu_linear_tile(unit->n_tokens - t);
                BlockTile tile = {.expanded = expanded,
                                  .panel_bytes = panel_bytes,
                                  .n = n,
                                  .q = unit->q + t * n_subgroups + s * n_tokens,
                                  .tile_tokens = n_tokens,
                                  .acc = &acc[p][t],
                                  .acc_step = BLOCK_FEW_TOKENS};
                tiles(&tile, n_side);
                t += n_tokens;
            }
        }
    }
    for (int64_t p = 0; p < n_panels; p++)
        for (int64_t t = 0; t < unit->n_tokens; t++) block_store(unit, t, p * PACK_ROWS, acc[p][t]);
}

/* A tile of tokens stays near while panels change, and BLOCK_MANY_GROUPS of two panels while the
 * tile's tokens do. */
static void block_many(const LinearUnit *unit, const LinearFormat *f) {
    BlockTiles *tiles = block_tiles_of(f);
    Expand *expand = EXPAND[unit->dtype];
    int64_t n_groups = unit->k / 32, panel_bytes = n_groups * cpu_linear_expanded_bytes(f);
    int64_t n_panels = DIV_UP(unit->n_rows, PACK_ROWS);
    for (int64_t p = 0; p < n_panels; p++)
        expand(unit->w + p * unit->w_stride, 0, n_groups, BLOCK_PREFETCH_BYTES,
               (uint8_t *)unit->scratch + p * panel_bytes);
    for (int64_t token = 0; token < unit->n_tokens;) {
        int32_t n = cpu_linear_tile(unit->n_tokens - token);
        for (int64_t p = 0, n_side; p < n_panels; p += n_side) {
            n_side = MIN(n_panels - p, (int64_t)BLOCK_TILE_PANELS);
            _Alignas(CACHE_LINE) BlockAcc acc[BLOCK_TILE_PANELS][LINEAR_TILE_TOKENS] = {{{0}}};
            for (int64_t g = 0; g < n_groups; g += BLOCK_MANY_GROUPS) {
                BlockTile tile = {.expanded = (uint8_t *)unit->scratch + p * panel_bytes +
                                              g * cpu_linear_expanded_bytes(f),
                                  .panel_bytes = panel_bytes,
                                  .n = MIN(n_groups - g, (int64_t)BLOCK_MANY_GROUPS),
                                  .q = unit->q + token * n_groups + g * n,
                                  .tile_tokens = n,
                                  .acc = acc[0],
                                  .acc_step = LINEAR_TILE_TOKENS};
                tiles(&tile, n_side);
            }
            for (int64_t i = 0; i < n_side; i++)
                for (int32_t t = 0; t < n; t++)
                    block_store(unit, token + t, (p + i) * PACK_ROWS, acc[i][t]);
        }
        token += n;
    }
}

typedef void BlockDirect(const LinearUnit *unit);

#define BLOCK_DIRECT(name, dtype)                                 \
    static void block_direct_##name(const LinearUnit *unit) {     \
        block_direct(unit, unpack_##name, &LINEAR_FORMAT[dtype]); \
    }

BLOCK_DIRECT(q4_0, DTYPE_Q4_0)
BLOCK_DIRECT(q4_1, DTYPE_Q4_1)
BLOCK_DIRECT(q5_0, DTYPE_Q5_0)
BLOCK_DIRECT(q5_1, DTYPE_Q5_1)
BLOCK_DIRECT(q8_0, DTYPE_Q8_0)
BLOCK_DIRECT(q2_k, DTYPE_Q2_K)
BLOCK_DIRECT(q3_k, DTYPE_Q3_K)
BLOCK_DIRECT(q4_k, DTYPE_Q4_K)
BLOCK_DIRECT(q5_k, DTYPE_Q5_K)
BLOCK_DIRECT(q6_k, DTYPE_Q6_K)
BLOCK_DIRECT(iq4_nl, DTYPE_IQ4_NL)
BLOCK_DIRECT(iq4_xs, DTYPE_IQ4_XS)
BLOCK_DIRECT(mxfp4, DTYPE_MXFP4)
#undef BLOCK_DIRECT

static BlockDirect *const BLOCK_DIRECT[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = block_direct_q4_0,     [DTYPE_Q4_1] = block_direct_q4_1,
    [DTYPE_Q5_0] = block_direct_q5_0,     [DTYPE_Q5_1] = block_direct_q5_1,
    [DTYPE_Q8_0] = block_direct_q8_0,     [DTYPE_Q2_K] = block_direct_q2_k,
    [DTYPE_Q3_K] = block_direct_q3_k,     [DTYPE_Q4_K] = block_direct_q4_k,
    [DTYPE_Q5_K] = block_direct_q5_k,     [DTYPE_Q6_K] = block_direct_q6_k,
    [DTYPE_IQ4_NL] = block_direct_iq4_nl, [DTYPE_IQ4_XS] = block_direct_iq4_xs,
    [DTYPE_MXFP4] = block_direct_mxfp4,
};

static bool block_is_direct(const LinearUnit *unit, const LinearFormat *f) {
    bool two = unit->n_side == 1 && block_direct_takes_two(f);
    return unit->n_tokens == 1 || (two && unit->n_tokens == BLOCK_DIRECT_TOKENS);
}

static void block_unit(const LinearUnit *unit) {
    const LinearFormat *f = &LINEAR_FORMAT[unit->dtype];
    if (block_is_direct(unit, f))
        BLOCK_DIRECT[unit->dtype](unit);
    else if (unit->n_tokens <= BLOCK_FEW_TOKENS)
        block_few(unit, f);
    else
        block_many(unit, f);
}
