/* cuda_attn_priv: what the plan and the kernel of attention share.
 *
 * Rows: a sequence's queries and the query heads of one KV head form its rows, row = token * group +
 * head of the group, so that every key is read once for all heads that share it. */
#pragma once

#include "ops/cuda/cuda_attn.cuh"
#include "ops/cuda/cuda_rope.cuh"

#include <cuda.h>

enum {
    CUDA_ATTN_ROWS = 64,             /* of a warpgroup */
    CUDA_ATTN_FEW_ROWS = 8,          /* at most, of an item of the split form with all segments */
    CUDA_ATTN_FIRST_SEGMENTS = 4,    /* shorter ones: one sequence fills more CTAs */
    CUDA_ATTN_SHORT_SEGMENTS = 32,   /* so many fit in front of those that are twice as long */
    CUDA_ATTN_PARTIAL_ROWS = 147456, /* 256 sequences of 8k tokens, 32 heads: 76 MB for 128 dims */
    CUDA_ATTN_ITEM_WORDS = 16
};

/* What a CTA works on at a time, for every KV head: some rows of a sequence and all keys that they
 * see (whole form, and the split form where n_items is 1), or those of some segments. */
typedef struct AttnItem {
    int32_t seq, kv_head;        /* seq -1: nothing is left; the CTA fills in kv_head */
    int32_t row, n_rows;         /* of the sequence's rows */
    int32_t query, pos;          /* the sequence's first token in the batch, and its position */
    int32_t kv_len, table;       /* table: where the sequence's blocks start in block_id */
    int32_t lo, hi;              /* keys that any of the rows sees */
    int32_t tile_lo, tile_hi;    /* tiles to walk, at least one */
    int32_t segment, n_segments; /* its first, and how many the rows see, for the split form */
    int32_t partial;             /* first of the rows' partial rows, [segment][kv head][row] */
    int32_t n_items;             /* of the rows, in the split form */
} AttnItem;

/* At the start of the plan's memory; the lists follow. */
typedef struct AttnLists {
    int32_t n_whole, n_split;
    /* Of the split ones n_long stand at the start of their list; the others, in short segments, stand
     * from its last place on downwards, and come last. */
    int32_t n_long, split_last;
} AttnLists;

/* Where the parts of a plan and of the partial results stand, and how long they can get. */
typedef struct AttnPlaces {
    int64_t split, whole, is_split; /* offsets in the plan's memory */
    int32_t split_max, whole_max;
    int64_t plan_bytes;
    int64_t ml, count; /* offsets in the partial memory, which begins with the sums over values */
    int64_t count_bytes;
    int32_t n_partial_rows;
    int64_t partial_bytes;
} AttnPlaces;

typedef struct AttnRope {
    const void *k, *v; /* NULL: the rotation was done before */
    int64_t kv_stride;
    const float *q_norm, *k_norm, *cos_sin;
    const int32_t *kv_slot;
    void *k_cache, *v_cache;
    CudaRopeHead head;
} AttnRope;

typedef struct AttnParams {
    CUtensorMap k_map, v_map;
    const void *q;
    void *out;
    int64_t q_stride, out_stride;
    const int32_t *block_id;
    const float *sinks;
    const AttnLists *plan;
    const AttnItem *whole, *split;
    float *partial_o; /* [row][head dim of the kernel] */
    float2 *partial_ml;
    uint32_t *partial_count; /* [row]: entries that are done; the first rows of a tile count */
    uint32_t *taken;         /* items and CTAs that ended, of the split and of the whole form */
    int32_t n_kv_heads, group, head_dim;
    int32_t block_tokens, block_shift;
    int32_t window;
    float scale_log2; /* exponents of two per unit of what cuda_mask leaves in the tile */
    float cap_in;     /* scale / softcap, or 0 */
    bool causal, q_f32, out_f32;
    AttnRope rope;
} AttnParams;

/* Fixed by the limits. */
AttnPlaces cuda_attn_places(const CudaAttnLimits *limits);
/* Entries that a step's lists can have at most, for the size of the grid; n_whole may be 0. */
typedef struct AttnBounds {
    int32_t n_split, n_whole;
} AttnBounds;
AttnBounds cuda_attn_bounds(const CudaAttnArgs *args);
/* Multiprocessors of the current device. */
cudaError_t cuda_attn_n_sms(int32_t *out);

/* Launches a kernel of one parameter block. */
template <typename Params>
static inline cudaError_t attn_launch_kernel(cudaStream_t stream, void (*kernel)(Params),
                                             int32_t n_ctas, int32_t n_threads, int32_t smem_bytes,
                                             bool dependent, const Params &params) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n_ctas);
    config.blockDim = dim3((unsigned)n_threads);
    config.dynamicSmemBytes = (size_t)smem_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, params);
}

static inline __host__ __device__ int32_t attn_ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

/* The head dim of the kernel that serves head_dim. */
static inline __host__ __device__ int32_t attn_dims(int32_t head_dim) {
    return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}

/* Keys of a tile. */
static inline __host__ __device__ constexpr int32_t attn_tile(int32_t head_dim) {
    return head_dim <= 128 ? 128 : 64;
}

/* Tiles of a segment: of the first ones, and of the short ones behind them. The first have 256
 * positions, the others 512, or 1,024 of 64 dims. Shorter ones would fill more multiprocessors with
 * few sequences, longer ones have less to merge. */
typedef struct AttnCuts {
    int32_t first, n_tiles; /* powers of two; the first segments end where a short one ends too */
} AttnCuts;

static inline __host__ __device__ constexpr AttnCuts attn_cuts(int32_t head_dim) {
    return AttnCuts{256 / attn_tile(head_dim), (head_dim <= 64 ? 1024 : 512) / attn_tile(head_dim)};
}

/* The segment that a tile belongs to, and the tile at which a segment starts. */
static inline __host__ __device__ int32_t attn_segment_of(int32_t tile, AttnCuts cuts) {
    int32_t first_end = CUDA_ATTN_FIRST_SEGMENTS * cuts.first, n = cuts.n_tiles;
    if (tile < first_end) return tile / cuts.first;
    int32_t behind = tile - CUDA_ATTN_SHORT_SEGMENTS * n;
    int32_t segment = behind < 0 ? tile / n : CUDA_ATTN_SHORT_SEGMENTS + behind / (2 * n);
    return segment - first_end / n + CUDA_ATTN_FIRST_SEGMENTS;
}

static inline __host__ __device__ int32_t attn_segment_start(int32_t segment, AttnCuts cuts) {
    if (segment < CUDA_ATTN_FIRST_SEGMENTS) return segment * cuts.first;
    segment += CUDA_ATTN_FIRST_SEGMENTS * cuts.first / cuts.n_tiles - CUDA_ATTN_FIRST_SEGMENTS;
    int32_t n_long = segment - CUDA_ATTN_SHORT_SEGMENTS;
    return (segment + (n_long > 0 ? n_long : 0)) * cuts.n_tiles;
}

/* CTAs of a multiprocessor that walk parts of sequences. */
static inline __host__ __device__ constexpr int32_t attn_split_ctas(int32_t head_dim) {
    return head_dim <= 128 ? 2 : 1;
}

/* Warpgroups of the kernel that walks all segments. */
static inline __host__ __device__ int32_t attn_warpgroups(int32_t head_dim) {
    return head_dim <= 128 ? 2 : 1;
}
