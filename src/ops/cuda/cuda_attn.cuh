/* cuda_attn: paged attention on Hopper's tensor cores, for prompts and single tokens alike.
 *
 * Same bits: a row (one token of one head) sees its keys in segments that are cut at fixed positions
 * (multiples of 256 up to 1,024, then of 512, or of 1,024 for up to 64 dims, and of twice that
 * behind 32 of these); a segment is walked in tiles at fixed positions with the same instructions in
 * the same order, and the segments are merged in rising order. Which CTAs walk a row's segments, one or several, shows in the time alone,
 * and so do the other rows of a tile: a key that a row does not see adds an exact zero.
 *
 * A step is one plan (which rows and segments each CTA takes, computed on the device from lengths
 * that stand there) and then an attention per layer. Nothing here allocates or waits for the device;
 * launches depend on the arguments of the host alone, so they can be captured in a graph and
 * replayed with other lengths.
 * source: FlashAttention-3 2407.08608, FlashDecoding, PagedAttention 2309.06180. */
#pragma once

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a plan is sized for. */
typedef struct CudaAttnLimits {
    int32_t n_tokens_max, n_seqs_max;
    int32_t query_len_max, kv_len_max; /* of a sequence */
    int32_t n_heads, n_kv_heads, head_dim;
} CudaAttnLimits;

/* The rotation of single tokens, RopeKvArgs of ops.h with addresses of the device. k is NULL where
 * it was done before; else q, k and v are as the product made them, and the new keys and values go
 * to the cache. */
typedef struct CudaAttnRope {
    const void *k, *v; /* [n_tokens, n_kv_heads, head_dim] bf16 */
    int64_t kv_stride;
    const float *q_norm, *k_norm; /* [head_dim], or NULL */
    float norm_eps;
    int32_t style, rope_dim; /* RopeStyle */
    const float *cos_sin;
    const int32_t *kv_slot;
} CudaAttnRope;

/* AttnArgs of ops.h with addresses of the device. */
typedef struct CudaAttnArgs {
    CudaAttnLimits limits; /* those that the memory was sized for */
    const void *q;         /* [n_tokens, n_heads, head_dim] bf16, or f32 which is rounded to bf16 */
    void *out;             /* [n_tokens, n_heads, head_dim] bf16 or f32 */
    bool q_f32, out_f32;
    int64_t q_stride, out_stride; /* elements from one token to the next; multiples of 8 */
    const void *k, *v;            /* KvView, bf16 */
    int32_t n_blocks, block_tokens;
    int32_t n_tokens, n_seqs;
    int32_t query_len_max; /* no sequence of this step has more queries; may be the limit */
    const int32_t *query_start, *kv_len, *table_start, *block_id; /* in device memory */
    float scale, softcap;                                         /* scale > 0 */
    int32_t window;
    bool causal;
    const float *sinks; /* [n_heads] in device memory, or NULL */
    CudaAttnRope rope;  /* where cuda_attn_can_rope */
    /* Launch as a dependent of the kernel before it in the stream (programmatic dependent launch). */
    bool dependent;
    void *plan;    /* cuda_attn_plan_bytes, written by cuda_attn_plan */
    void *partial; /* cuda_attn_partial_bytes, once cleared by cuda_attn_clear */
} CudaAttnArgs;

/* Bytes of the plan of a step; layers with the same window may share one. */
size_t cuda_attn_plan_bytes(const CudaAttnLimits *limits);
/* Bytes of the partial results that CTAs of one attention hand to each other. */
size_t cuda_attn_partial_bytes(const CudaAttnLimits *limits);
/* Queues the clearing of the partial memory, once before its first use. */
cudaError_t cuda_attn_clear(cudaStream_t stream, const CudaAttnLimits *limits, void *partial);

/* Queues the plan of a step: it reads the lengths, where tables start, the window and the shapes of args. */
cudaError_t cuda_attn_plan(cudaStream_t stream, const CudaAttnArgs *args);
/* Whether the attention can begin with the rotation: sequences of one token, all of which can be
 * split, few heads a group. */
bool cuda_attn_can_rope(const CudaAttnArgs *args);
/* Queues the attention of one layer by the plan. cudaErrorInvalidValue for a shape that it does not
 * take: head_dim over 256 or no multiple of 8, block_tokens no power of two up to 256, addresses that
 * are not multiples of 16 bytes. */
cudaError_t cuda_attn(cudaStream_t stream, const CudaAttnArgs *args);

#ifdef __cplusplus
}
#endif
