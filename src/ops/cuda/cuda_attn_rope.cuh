/* cuda_attn_rope: attention that begins with the rotation of a step's single tokens.
 *
 * The keys and values so far are on their way before the kernel in front has ended. Then the warps
 * of the rows normalize and rotate the queries of a KV head and the new key, a head each; the new
 * key and value take their places in the last tile, and the CTA that has it writes them to the
 * cache. An item's heads are fetched while the last values of the one before are multiplied.
 *
 * All of it stands in the rows of the queries' tile that no query has, 64 columns in each of its
 * blocks: the new key and value, the angles, the heads as the product made them. */
#pragma once

#include "ops/cuda/cuda_attn_out.cuh"
#include "ops/cuda/cuda_rope.cuh"

/* Rows of the queries' tile; the totals have those from 48 on. */
enum { ATTN_ROPE_ROW_NEW = 16, ATTN_ROPE_ROW_ANGLES = 18, ATTN_ROPE_ROW_HEADS = 20 };

/* Whether the item has the tile of the new key. */
template <typename Shape>
static __device__ __forceinline__ bool attn_rope_is_new(const AttnItem *item) {
    return Shape::ROPE && item->kv_len > 0 && item->tile_hi * Shape::TILE >= item->kv_len;
}

/* Where byte `at` of a block's row r is, the blocks' rows taken for one. */
static __device__ __forceinline__ uint32_t attn_rope_at(uint32_t q, int32_t r, int32_t at) {
    return q + at / 128 * (CUDA_ATTN_ROWS * 128) + r * 128 + at % 128;
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

static __device__ __forceinline__ void attn_rope_copy16(uint32_t to, const void *from,
                                                        bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}

/* Where the cosine and sine of pair i stand, 32 pairs to a block. */
static __device__ __forceinline__ uint32_t attn_rope_angle(uint32_t q, int32_t i) {
    return q + i / 32 * (CUDA_ATTN_ROWS * 128) + ATTN_ROPE_ROW_ANGLES * 128 + i % 32 * 8;
}

/* Queues the copies of the angles of an item's token. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_fetch_angles(const AttnParams *p,
                                                              const AttnItem *item,
                                                              const AttnLane *lane, uint32_t q) {
    const CudaRopeHead *head = &p->rope.head;
    int32_t i = lane->thread, n_pairs = head->style == ROPE_NONE ? 0 : head->rope_dim / 2;
    if (i >= n_pairs) return;
    const float *from = p->rope.cos_sin + (int64_t)max(item->pos, 0) * head->rope_dim + 2 * i;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(attn_rope_angle(q, i)), "l"(from)
                 : "memory");
}

/* Queues the copies of an item's heads. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_fetch_heads(const AttnParams *p,
                                                             const AttnItem *item,
                                                             const AttnLane *lane, uint32_t q) {
    constexpr int PIECES = Shape::DIMS / 8;
    for (int i = lane->thread; i < (p->group + 2) * PIECES; i += 128) {
        int32_t r = i / PIECES, piece = i % PIECES;
        bool is_there = piece * 8 < p->head_dim;
        attn_rope_copy16(attn_rope_at(q, ATTN_ROPE_ROW_HEADS + r, piece * 16),
                         attn_rope_head(p, item, r) + (is_there ? piece * 8 : 0), is_there);
    }
}

/* Queues the copies of what an item's queries and its new key and value are made of. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_fetch(const AttnParams *p, const AttnItem *item,
                                                       const AttnLane *lane, uint32_t q) {
    attn_rope_fetch_angles<Shape>(p, item, lane, q);
    attn_rope_fetch_heads<Shape>(p, item, lane, q);
}

/* The same for a CTA's first item, which waits for the kernel that makes the heads. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_fetch_first(const AttnParams *p,
                                                             const AttnItem *item,
                                                             const AttnLane *lane, uint32_t q) {
    attn_rope_fetch_angles<Shape>(p, item, lane, q);
    cuda_launch_wait();
    attn_rope_fetch_heads<Shape>(p, item, lane, q);
}

/* What a lane does with its elements, 32 apart, of every head that is rotated. */
template <typename Shape>
struct AttnRopeLane {
    static constexpr int N = Shape::DIMS / 32;
    float c[N], s[N];
    int32_t other[N]; /* -1: it is not rotated */
    bool is_second[N];
};

template <typename Shape>
static __device__ __forceinline__ AttnRopeLane<Shape> attn_rope_lane(const AttnParams *p,
                                                                     uint32_t q, int32_t l) {
    AttnRopeLane<Shape> lane;
    const int32_t rope_dim = p->rope.head.style == ROPE_NONE ? 0 : p->rope.head.rope_dim;
#pragma unroll
    for (int j = 0; j < lane.N; j++) {
        const CudaRopeAt at = cuda_rope_at(p->rope.head, l + 32 * j);
        const bool is_on = l + 32 * j < rope_dim;
        lane.other[j] = is_on ? at.other : -1;
        lane.is_second[j] = at.is_second;
        lane.c[j] = lane.s[j] = 0;
        if (is_on)
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                         : "=f"(lane.c[j]), "=f"(lane.s[j])
                         : "r"(attn_rope_angle(q, at.pair)));
    }
    return lane;
}

/* Element i of head r as the product made it. */
static __device__ __forceinline__ float attn_rope_raw(uint32_t q, int32_t r, int32_t i) {
    uint16_t bits;
    asm volatile("ld.shared.u16 %0, [%1];"
                 : "=h"(bits)
                 : "r"(attn_rope_at(q, ATTN_ROPE_ROW_HEADS + r, i * 2)));
    return __uint_as_float((uint32_t)bits << 16);
}

/* Head r: from its elements as they came to what the product or the cache takes. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_one(const AttnParams *p, uint32_t q, int32_t r,
                                                     const AttnRopeLane<Shape> &lane, int32_t l) {
    const bool is_v = r > p->group;
    const float *norm = is_v ? NULL : r < p->group ? p->rope.q_norm : p->rope.k_norm;
    float own[lane.N], other[lane.N], sum = 0;
#pragma unroll
    for (int j = 0; j < lane.N; j++) {
        own[j] = attn_rope_raw(q, r, l + 32 * j);
        other[j] = is_v || lane.other[j] < 0 ? 0.0f : attn_rope_raw(q, r, lane.other[j]);
        if (l + 32 * j < p->head_dim) sum = __fmaf_rn(own[j], own[j], sum);
    }
    if (norm != NULL) {
        const float scale = cuda_rope_norm_scale(p->rope.head, sum);
#pragma unroll
        for (int j = 0; j < lane.N; j++) {
            if (l + 32 * j < p->head_dim)
                own[j] = __fmul_rn(__fmul_rn(own[j], scale), __ldg(norm + l + 32 * j));
            if (lane.other[j] >= 0)
                other[j] = __fmul_rn(__fmul_rn(other[j], scale), __ldg(norm + lane.other[j]));
        }
    }
#pragma unroll
    for (int j = 0; j < lane.N; j++) {
        int32_t i = l + 32 * j;
        float v = is_v || lane.other[j] < 0 ? own[j]
                                            : cuda_rope_element(lane.c[j], lane.s[j], own[j],
                                                                other[j], lane.is_second[j]);
        uint32_t to = r < p->group ? q + i / 64 * (CUDA_ATTN_ROWS * 128) + r * 128 +
                                         ((i % 64 / 8 ^ r % 8) << 4) + i % 8 * 2
                                   : attn_rope_at(q, ATTN_ROPE_ROW_NEW + r - p->group, i * 2);
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(to),
                     "h"(__bfloat16_as_ushort(__float2bfloat16_rn(v)))
                     : "memory");
    }
}

/* Makes the item's queries and its new key and value of what was fetched; attn_queries_wait makes
 * them visible. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_make(const AttnParams *p, const AttnLane *lane,
                                                      uint32_t q) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    cuda_bar_sync(ATTN_BAR_ROWS, 128); /* and no warp needs what stands there any more */
    int32_t warp = lane->thread / 32, l = lane->thread % 32;
    const AttnRopeLane<Shape> own = attn_rope_lane<Shape>(p, q, l);
#pragma unroll 1
    for (int32_t r = warp; r < p->group + 2; r += 4) attn_rope_one<Shape>(p, q, r, own, l);
}

/* The new key and value to the cache. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_write(const AttnParams *p, const AttnItem *item,
                                                       const AttnLane *lane, uint32_t q,
                                                       int32_t slot) {
    if (lane->thread >= p->head_dim / 8) return;
    if (slot < 0) return;
    int64_t block = slot >> p->block_shift, offset = slot & (p->block_tokens - 1);
    int64_t at =
        ((block * p->n_kv_heads + item->kv_head) * p->block_tokens + offset) * p->head_dim +
        lane->thread * 8;
#pragma unroll
    for (int which = 0; which < 2; which++) {
        uint4 v = *(const uint4 *)__cvta_shared_to_generic(
            attn_rope_at(q, ATTN_ROPE_ROW_NEW + which, lane->thread * 16));
        *(uint4 *)((__nv_bfloat16 *)(which == 0 ? p->rope.k_cache : p->rope.v_cache) + at) = v;
    }
}

/* The new key (which = 0) or value to its row of the last tile. */
template <typename Shape>
static __device__ __forceinline__ void attn_rope_insert(const AttnItem *item, const AttnLane *lane,
                                                        uint32_t q, uint32_t tile, int32_t which) {
    int32_t r = item->kv_len - 1 - (item->tile_hi - 1) * Shape::TILE, i = lane->thread;
    if (i >= Shape::DIMS / 8) return;
    uint4 v = *(const uint4 *)__cvta_shared_to_generic(
        attn_rope_at(q, ATTN_ROPE_ROW_NEW + which, i * 16));
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(
                     tile + i / 8 * (Shape::TILE * 128) + r * 128 + ((i % 8 ^ r % 8) << 4)),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
