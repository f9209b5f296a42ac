/* cuda_attn_priv: what the plan and the kernel of attention share.
 *
 * Rows: a sequence's queries and the query heads of one KV head form its rows, row = token * group +
 * head of the group, so that every key is read once for all heads that share it. */
#pragma once

#include "ops/cuda/cuda_attn.cuh"

#include <cuda.h>

enum {
    CUDA_ATTN_SEGMENT = 512,
    CUDA_ATTN_ROWS = 64,            /* of a warpgroup */
    CUDA_ATTN_PARTIAL_ROWS = 131072 /* 256 sequences of 8k tokens, 32 heads: 68 MB for 128 dims */
};

/* Rows [tile * 64 * warpgroups, ...) of a sequence, all their segments. */
typedef struct AttnWhole {
    int32_t seq, tile;
} AttnWhole;

/* Rows [tile * 64, ...) of a sequence and one segment. partial: the first of the row tile's partial
 * rows, which stand as [segment][kv head][row]; -1: the only segment. */
typedef struct AttnSplit {
    int32_t seq, tile, segment, partial;
} AttnSplit;

/* At the start of the plan's memory; the lists follow. */
typedef struct AttnPlan {
    int32_t n_whole, n_split;
} AttnPlan;

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

typedef struct AttnParams {
    CUtensorMap k_map, v_map;
    const void *q;
    void *out;
    int64_t q_stride, out_stride;
    const int32_t *query_start, *kv_len, *table_start, *block_id;
    const float *sinks;
    const AttnPlan *plan;
    const AttnWhole *whole;
    const AttnSplit *split;
    float *partial_o; /* [row][head dim of the kernel] */
    float2 *partial_ml;
    uint32_t *partial_count; /* [row]: segments that are done; the first rows of a tile count */
    uint32_t *taken;         /* items and CTAs that ended, of the split and of the whole form */
    int32_t n_kv_heads, group, head_dim;
    int32_t block_tokens, block_shift;
    int32_t window;
    float scale_log2; /* exponents of two per unit of what cuda_mask leaves in the tile */
    float cap_in;     /* scale / softcap, or 0 */
    bool causal, q_f32, out_f32;
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

/* Warpgroups of the kernel that walks all segments. */
static inline __host__ __device__ int32_t attn_warpgroups(int32_t head_dim) {
    return head_dim <= 128 ? 2 : 1;
}
