/* cpu_linear_priv: what the levels' matrix kernels share: the work of one task, the quantized
 * activations, and the table of a level's kernels.
 *
 * Same bits. Plain formats: an output element is the fixed tree sum of one vector accumulator that
 * walked k in vector steps. Block formats: an output element is one lane; it takes the groups of k
 * in order, and inside a group integers add up exactly. Neither depends on the tile that the
 * element falls into, so one row and many, a tail and a full tile give the same bits. */
#pragma once

#include <math.h>
#include <string.h>

#include "ops/cpu/cpu_pack.h"
#include "ops/ops_priv.h"
#include "tensor/quant.h"

/* What the kernels must know of a block format beyond its layout. Elements are u - offset, with
 * unsigned u of at most `bits` bits, times a scale, less or plus a minimum. */
typedef struct LinearFormat {
    int32_t group_bytes, n_subgroups; /* of the file's group; subgroups have 32 elements */
    int32_t offset, bits;
    bool has_min;      /* a minimum per scale instead of an offset */
    bool has_scale_16; /* scales (and minima) per 16 elements, not 32 */
} LinearFormat;

static const LinearFormat LINEAR_FORMAT[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = {sizeof(GroupQ4_0), 1, .offset = 8, .bits = 4},
    [DTYPE_Q4_1] = {sizeof(GroupQ4_1), 1, .has_min = true, .bits = 4},
    [DTYPE_Q5_0] = {sizeof(GroupQ5_0), 1, .offset = 16, .bits = 5},
    [DTYPE_Q5_1] = {sizeof(GroupQ5_1), 1, .has_min = true, .bits = 5},
    [DTYPE_Q8_0] = {sizeof(GroupQ8_0), 1, .offset = 128, .bits = 8},
    [DTYPE_Q2_K] = {sizeof(GroupQ2_K), 8, .has_min = true, .has_scale_16 = true, .bits = 2},
    [DTYPE_Q3_K] = {sizeof(GroupQ3_K), 8, .offset = 4, .has_scale_16 = true, .bits = 3},
    [DTYPE_Q4_K] = {sizeof(GroupQ4_K), 8, .has_min = true, .bits = 4},
    [DTYPE_Q5_K] = {sizeof(GroupQ5_K), 8, .has_min = true, .bits = 5},
    [DTYPE_Q6_K] = {sizeof(GroupQ6_K), 8, .offset = 32, .has_scale_16 = true, .bits = 6},
    [DTYPE_IQ4_NL] = {sizeof(GroupIQ4_NL), 1, .offset = 128, .bits = 8},
    [DTYPE_IQ4_XS] = {sizeof(GroupIQ4_XS), 8, .offset = 128, .bits = 8},
    [DTYPE_MXFP4] = {sizeof(GroupMXFP4), 1, .offset = 16, .bits = 5},
};

/* 32 activations of one token: x = scale * q. extra serves the format's offset or minimum:
 * -offset * sum(q), the start of the integer sums, or scale * sum(q), the minimum's factor; of all
 * 32 in extra[0], or of 16 each. A group with a NaN or an infinity has scale NaN and zeros. */
typedef struct LinearQuant {
    float scale;
    union {
        int32_t start;
        float sum;
    } extra[2];
    int32_t unused;
    int8_t q[32];
} LinearQuant;
_Static_assert(sizeof(LinearQuant) == 48, "LinearQuant");

/* Tokens are quantized in tiles of 12, then 8, 4, 2, 1 for the rest: group-major in a
 * tile, so that a tile is read in one run. The tile of token t starts at t * n_groups whatever its
 * size. */
enum { LINEAR_TILE_TOKENS = 12 };

static inline int32_t cpu_linear_tile(int64_t tokens_left) {
    return tokens_left >= 12  ? 12
           : tokens_left >= 8 ? 8
           : tokens_left >= 4 ? 4
           : tokens_left >= 2 ? 2
                              : 1;
}

/* Of 32 activations whose largest magnitude has these bits; inverse 0: all q are 0. Below 2^-120
 * the inverse would overflow: such a group counts as zeros. */
typedef struct LinearScale {
    float scale, inverse;
} LinearScale;

static inline LinearScale cpu_linear_scale(uint32_t largest_bits) {
    if (largest_bits >= 0x7f800000u) return (LinearScale){NAN, 0};
    float largest;
    memcpy(&largest, &largest_bits, sizeof largest);
    if (largest < 0x1p-120f) return (LinearScale){0, 0};
    return (LinearScale){largest / 127, 127 / largest};
}

/* Writes scale and extra, given the sums of q[0..15] and q[16..31]. */
static inline void cpu_linear_finish(const LinearFormat *format, float scale, int32_t sum_a,
                                     int32_t sum_b, LinearQuant *out) {
    out->scale = scale;
    int32_t sum[2] = {format->has_scale_16 ? sum_a : sum_a + sum_b, sum_b};
    for (int i = 0; i < 2; i++) {
        if (format->has_min)
            out->extra[i].sum = scale * (float)sum[i];
        else
            out->extra[i].start = -format->offset * sum[i];
    }
}

/* Elements to quantize below which waking threads costs more than it saves. */
enum { LINEAR_ALONE_QUANT = 16 << 10 };

/* The rows that one task makes, of a block format at most LINEAR_PANELS panels. */
enum { LINEAR_PANELS = 4 };

typedef struct LinearUnit {
    DType dtype;
    int64_t k;
    const uint8_t *w; /* the first panel, or row */
    int64_t w_stride; /* bytes from one panel or row to the next */
    int64_t n_rows;
    int64_t n_tokens;
    const LinearQuant *q; /* block formats: the tiles of these tokens */
    const uint8_t *half;  /* BF16 (F16) times bf16: their rounded tiles; else NULL */
    const float *x;       /* other plain formats: their rows */
    int64_t x_stride;     /* in elements */
    const float *bias;    /* of the first row, or NULL */
    float *out;           /* of the first token and row */
    int64_t out_stride;   /* in elements */
    bool accumulate;
    /* How this processor reads memory fastest; no bit depends on it. n_side: panels, or half as
     * many rows of a plain matrix, that one token reads side by side: Intel's cores like 4 streams
     * with prefetches, AMD's 1. ahead: from where that one reads to what it asks for, in bytes; 0:
     * the group's own lines, and of a plain matrix nothing. */
    int32_t n_side;
    int64_t ahead;
    void *scratch; /* the thread's, cpu_linear_thread_bytes(k) */
} LinearUnit;

/* The expanded form that tiles of many tokens read: per 32 elements of k eight vectors of
 * 16 rows x 4 unsigned bytes, then one or two vectors of 16 f32 scales, then as many minima. */
static inline int64_t cpu_linear_expanded_bytes(const LinearFormat *format) {
    int64_t n_scales = format->has_scale_16 ? 2 : 1;
    return 64 * (8 + n_scales * (format->has_min ? 2 : 1));
}

enum { LINEAR_EXPANDED_BYTES_MAX = 64 * 12 };

/* What a task keeps in its scratch in L2, at most and where its k allows it: expanded or copied
 * weights, sums that wait; room for activations is left. Processors with AMX have 2 MB of L2. */
enum { LINEAR_UNIT_BYTES = 640 << 10, LINEAR_UNIT_BYTES_AMX = 768 << 10 };

/* Of a block unit on AMX: tokens of a pass (a whole number of tiles), rows. */
enum { LINEAR_TILES_TOKENS = 516, LINEAR_TILES_ROWS = 128 };

/* How a level multiplies BF16 weights with activations as bf16 numbers. Tokens are rounded in
 * tiles; the tile of token t starts at t * runs * token_bytes, runs of 32 along k, whatever its
 * size. */
typedef struct LinearHalf {
    /* Of a token's run of 32, for BF16 weights; for F16 weights, in half as many rows (0: the level
     * has not these). */
    int32_t token_bytes, token_bytes_f16;
    int32_t unit_rows, unit_bytes;        /* of a task, at most: what L2 holds beside activations */
    int32_t few_tokens;                   /* so many take units of LINEAR_PLAIN_ROWS at most */
    int32_t (*tile)(int64_t tokens_left); /* tokens of the next tile */
    /* Rounds a tile's rows of k elements, for BF16 or for F16 weights; zeros where k ends. */
    void (*round)(const float *const *x, int32_t n_tokens, int64_t k, bool f16, uint8_t *out);
    void (*unit)(const LinearUnit *unit); /* the file's rows */
} LinearHalf;

enum { LINEAR_HALF_TOKENS_MAX = 16, LINEAR_HALF_BYTES_MAX = 128, LINEAR_HALF_ROWS_MAX = 256 };

/* A level. */
typedef struct LinearKernels {
    /* Quantizes n_tokens <= 12 rows of k elements to one tile. */
    void (*quantize)(const LinearFormat *format, const float *const *x, int32_t n_tokens, int64_t k,
                     LinearQuant *out);
    void (*block)(const LinearUnit *unit); /* block formats, panels */
    /* Rows of a unit of a block format with a scale per 32 elements and many tokens, at most. */
    int32_t many_rows;
    void (*plain)(const LinearUnit *unit); /* F32, F16, BF16, the file's rows */
    /* For levels that multiply BF16 weights with bf16; NULL: BF16 goes through plain. */
    const struct LinearHalf *half;
} LinearKernels;

/* A plain unit's rows of the file, at most: of few tokens, of more, and (but no fewer than
 * LINEAR_PLAIN_LEAST_ROWS) in bytes, which L2 keeps beside those that are asked for. */
enum {
    LINEAR_PLAIN_FEW_TOKENS = 8,
    LINEAR_PLAIN_LEAST_ROWS = 24,
    LINEAR_PLAIN_ROWS = 32,
    LINEAR_PLAIN_MANY_ROWS = 64,
    LINEAR_PLAIN_BYTES = 384 << 10,
};

void cpu_linear_block_avx2_quantize(const LinearFormat *format, const float *const *x,
                                    int32_t n_tokens, int64_t k, LinearQuant *out);
void cpu_linear_block_avx2(const LinearUnit *unit);
void cpu_linear_plain_avx2(const LinearUnit *unit);
void cpu_linear_block_avx512_quantize(const LinearFormat *format, const float *const *x,
                                      int32_t n_tokens, int64_t k, LinearQuant *out);
void cpu_linear_block_avx512(const LinearUnit *unit);
void cpu_linear_plain_avx512(const LinearUnit *unit);
void cpu_linear_block_amx(const LinearUnit *unit);
extern const LinearHalf CPU_LINEAR_HALF_AVX512, CPU_LINEAR_HALF_AMX;
extern const LinearKernels CPU_LINEAR_AVX2, CPU_LINEAR_AVX512, CPU_LINEAR_AVX512BF16,
    CPU_LINEAR_AMX;

/* The format of a weight's quantized activations; NULL for plain weights. */
const LinearFormat *cpu_linear_format(const Weight *w);
/* Whether two weights can read the same quantized activations. */
bool cpu_linear_same_quant(const LinearFormat *a, const LinearFormat *b);
/* Whether the level multiplies this weight with rounded activations. */
bool cpu_linear_is_half(const LinearKernels *kernels, const Weight *w);
/* Bytes of n_tokens quantized, or (at most) rounded, rows. */
size_t cpu_linear_quant_bytes(int64_t n_tokens, int64_t k);
size_t cpu_linear_half_bytes(int64_t n_tokens, int64_t k);
/* Where the rounded tile of token t stands, of activations for F16 weights or for BF16. */
int64_t cpu_linear_half_offset(const LinearKernels *kernels, bool f16, int64_t t, int64_t k);

/* Rows first .. first + n_tokens - 1, quantized to one tile. */
typedef struct LinearTile {
    int64_t first;
    int32_t n_tokens;
} LinearTile;

/* The tiles of n_tokens rows from `first`, appended at tiles; returns how many. `tile` says how
 * many tokens the next has: cpu_linear_tile, or a LinearHalf's. */
int64_t cpu_linear_tiles(int64_t first, int64_t n_tokens, int32_t (*tile)(int64_t tokens_left),
                         LinearTile *tiles);

/* One matrix product of a run; unit describes the whole of it. The rest is cpu_linear_run's. */
typedef struct LinearPlan {
    LinearUnit unit;
    int64_t unit_rows, n_units, chunk_tokens, n_chunks;
    int64_t first_task;
} LinearPlan;

/* A product's unit without activations: weights, k and rows. */
LinearUnit cpu_linear_unit(const Weight *w);

/* Runs all products in one pool_run; thread_scratch has cpu_linear_thread_bytes(longest k) for each
 * thread of the pool. */
void cpu_linear_run(OpCtx *ctx, const LinearKernels *kernels, LinearPlan *plan, int64_t n_plans,
                    void *thread_scratch, size_t thread_bytes);
/* Scratch of one thread for units with rows of up to k elements. */
size_t cpu_linear_thread_bytes(int64_t k);
