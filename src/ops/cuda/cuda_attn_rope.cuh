/* cuda_attn_rope: attention that begins with the rotation of a step's single tokens.
 *
 * The keys and values so far are on their way before the kernel in front has ended. Then the warps
 * of the rows normalize and rotate the queries of a KV head and the new key, a head each; the new
 * key and value take their places in the last tile, and the CTA that has it writes them to the
 * cache.
 *
 * What is made stands in the rows of the queries' tile that no query has: the new key and value
 * behind 16, the warps' scratch behind 32. */
#pragma once

#include "ops/cuda/cuda_attn_out.cuh"
#include "ops/cuda/cuda_rope.cuh"

enum { ATTN_ROPE_TURNS = 3, ATTN_ROPE_GROUP_MAX = ATTN_ROPE_TURNS * 4 - 2 };

static __device__ __forceinline__ bool attn_rope_is_on(const AttnParams *p) {
    return p->rope.k != NULL;
}

/* Whether the item has the tile of the new key. */
static __device__ __forceinline__ bool attn_rope_is_new(const AttnParams *p, const AttnItem *item,
                                                        int32_t tile_keys) {
    return attn_rope_is_on(p) && item->kv_len > 0 && item->tile_hi * tile_keys >= item->kv_len;
}

/* The new key (which = 0) or value. */
template <typename Shape>
static __device__ __forceinline__ uint32_t attn_rope_new(uint32_t q, int32_t which) {
    return q + 16 * 128 + which * Shape::DIMS * 2;
}

/* A warp's head and its angles, DIMS floats each. */
template <typename Shape>
static __device__ __forceinline__ float *attn_rope_scratch(uint32_t q, int32_t warp) {
    constexpr int PER_BLOCK = 512 / Shape::DIMS; /* of the 4 KiB behind 32 rows of 64 columns */
    uint32_t at = q + warp / PER_BLOCK * (CUDA_ATTN_ROWS * 128) + 32 * 128 +
                  warp % PER_BLOCK * (Shape::DIMS * 8);
    return (float *)__cvta_shared_to_generic(at);
}

/* Where head r of the item stands: queries, then the key, then the value. */
static __device__ __forceinline__ const __nv_bfloat16 *attn_rope_head(const AttnParams *p,
                                                                      const AttnItem *item,
                                                                      int32_t r) {
    int64_t token = item->query;
    if (r < p->group)
        return (const __nv_bfloat16 *)p->q + token * p->q_stride +
               (int64_t)(item->kv_head * p->group + r) * p->head_dim;
    const void *from = r == p->group ? p->rope.k : p->rope.v;
    return (const __nv_bfloat16 *)from + token * p->rope.kv_stride +
           (int64_t)item->kv_head * p->head_dim;
}

/* A lane's share of a head, WORDS pairs of elements. */
template <int WORDS>
static __device__ __forceinline__ void attn_rope_load(uint32_t (&u)[WORDS],
                                                      const __nv_bfloat16 *from) {
    if constexpr (WORDS == 1) u[0] = __ldcg((const uint32_t *)from);
    if constexpr (WORDS == 2) {
        uint2 v = __ldcg((const uint2 *)from);
        u[0] = v.x, u[1] = v.y;
    }
    if constexpr (WORDS == 4) {
        uint4 v = __ldcg((const uint4 *)from);
        u[0] = v.x, u[1] = v.y, u[2] = v.z, u[3] = v.w;
    }
}

/* Head r: from its elements as they came to what the product or the cache takes. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_one(const AttnParams *p, uint32_t q, int32_t r,
                                                     float *head,
                                                     const uint32_t (&u)[Shape::DIMS / 64]) {
    constexpr int WORDS = Shape::DIMS / 64;
    int32_t lane = threadIdx.x % 32, at = lane * WORDS * 2;
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        ((float2 *)(head + at))[i] = __bfloat1622float2(*(const __nv_bfloat162 *)&u[i]);
    __syncwarp();
    if (r <= p->group)
        cuda_rope_head(p->rope.head, head, r < p->group ? p->rope.q_norm : p->rope.k_norm,
                       head + Shape::DIMS, lane);
    uint32_t to = r < p->group ? q + at / 64 * (CUDA_ATTN_ROWS * 128) + r * 128 +
                                     ((at % 64 / 8 ^ r % 8) << 4) + at % 8 * 2
                               : attn_rope_new<Shape>(q, r - p->group) + at * 2;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        float2 f = ((const float2 *)(head + at))[i];
        __nv_bfloat162 b = __floats2bfloat162_rn(f.x, f.y);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + i * 4), "r"(*(const uint32_t *)&b)
                     : "memory");
    }
    __syncwarp();
}

/* Makes the item's queries and its new key and value; attn_queries_wait makes them visible. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_make(const AttnParams *p, const AttnItem *item,
                                                      const AttnLane *lane, uint32_t q) {
    constexpr int WORDS = Shape::DIMS / 64;
    int32_t warp = lane->thread / 32, l = lane->thread % 32;
    float *head = attn_rope_scratch<Shape>(q, warp), *cos_sin = head + Shape::DIMS;
    const float *turn_by = p->rope.cos_sin + (int64_t)max(item->pos, 0) * p->rope.head.rope_dim;
    float angle[Shape::DIMS / 32] = {};
    const int32_t n_angles = p->rope.head.style == ROPE_NONE ? 0 : p->rope.head.rope_dim;
#pragma unroll
    for (int i = 0; i < Shape::DIMS / 32; i++)
        if (l + 32 * i < n_angles) angle[i] = __ldg(turn_by + l + 32 * i);
    cuda_launch_wait();
    uint32_t u[ATTN_ROPE_TURNS][WORDS] = {};
#pragma unroll
    for (int turn = 0; turn < ATTN_ROPE_TURNS; turn++) {
        int32_t r = warp + 4 * turn, at = l * WORDS * 2;
        if (r < p->group + 2 && at < p->head_dim)
            attn_rope_load<WORDS>(u[turn], attn_rope_head(p, item, r) + at);
    }
    cuda_bar_sync(ATTN_BAR_ROWS, 128); /* no warp needs what stands there any more */
#pragma unroll
    for (int i = 0; i < Shape::DIMS / 32; i++)
        if (l + 32 * i < n_angles) cos_sin[l + 32 * i] = angle[i];
#pragma unroll
    for (int turn = 0; turn < ATTN_ROPE_TURNS; turn++) {
        int32_t r = warp + 4 * turn;
        if (r < p->group + 2) attn_rope_one<Shape>(p, q, r, head, u[turn]);
    }
}

/* The new key and value to the cache. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_write(const AttnParams *p, const AttnItem *item,
                                                       const AttnLane *lane, uint32_t q,
                                                       int32_t slot) {
    if (lane->thread >= p->head_dim / 8) return;
    if (slot < 0) return;
    int64_t block = slot >> p->block_shift, offset = slot & (p->block_tokens - 1);
    int64_t at = ((block * p->n_kv_heads + item->kv_head) * p->block_tokens + offset) *
                     p->head_dim +
                 lane->thread * 8;
#pragma unroll
    for (int which = 0; which < 2; which++) {
        uint4 v = *(const uint4 *)__cvta_shared_to_generic(attn_rope_new<Shape>(q, which) +
                                                           lane->thread * 16);
        *(uint4 *)((__nv_bfloat16 *)(which == 0 ? p->rope.k_cache : p->rope.v_cache) + at) = v;
    }
}

/* The new key or value to its row of the last tile. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_insert(const AttnItem *item, const AttnLane *lane,
                                                        uint32_t q, uint32_t tile, int32_t which) {
    int32_t r = item->kv_len - 1 - (item->tile_hi - 1) * Shape::TILE, i = lane->thread;
    if (i < Shape::DIMS / 8) {
        uint4 v = *(const uint4 *)__cvta_shared_to_generic(attn_rope_new<Shape>(q, which) + i * 16);
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(
                         tile + i / 8 * (Shape::TILE * 128) + r * 128 + ((i % 8 ^ r % 8) << 4)),
                     "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                     : "memory");
    }
    cuda_fence_async();
    cuda_bar_sync(ATTN_BAR_ROWS, 128);
}
