/* cuda_attn_work: what a CTA of the attention works on, its shared memory, and the warps that feed the
 * rows' warpgroups: one that takes items from the plan's lists, two that copy tiles.
 *
 * CTAs take items from a common count as they get free. */
#pragma once

#include "ops/cuda/cuda_attn_priv.cuh"
#include "ops/cuda/cuda_paged.cuh"

/* The compile-time shape of a kernel. */
template <int DIMS_, bool SPLIT_, bool ROPE_ = false>
struct AttnShape {
    static constexpr int DIMS = DIMS_;
    static constexpr bool SPLIT = SPLIT_;
    static constexpr bool ROPE = ROPE_;         /* begins with the rotation of single tokens */
    static constexpr int HALVES = ROPE ? 1 : 2; /* of a thread's two rows, those that can be rows */
    static constexpr int TILE = attn_tile(DIMS); /* keys: the same in all forms */
    static constexpr int N_WG = SPLIT || DIMS > 128 ? 1 : 2;
    static constexpr int N_ROWS = N_WG * CUDA_ATTN_ROWS;
    static constexpr int N_STAGES = SPLIT ? (DIMS == 64 ? 6 : DIMS == 128 ? 3 : 6) : 4;
    static constexpr int CTAS_PER_SM = SPLIT ? attn_split_ctas(DIMS) : 1;
    static constexpr int N_THREADS = N_WG * 128 + 128;
    static constexpr int REGS = N_WG == 2 ? 224 : CTAS_PER_SM == 2 ? 208 : 0; /* 0: as they come */
    static constexpr int COPY_REGS = N_WG == 2 ? 56 : 48;
    static constexpr bool TURNS = N_WG == 2 && DIMS == 64;
    static constexpr int Q_BYTES = N_ROWS * DIMS * 2;
    static constexpr int STAGE_BYTES = TILE * DIMS * 2;
    static constexpr int TOTAL_BYTES = SPLIT ? 0 : N_ROWS * DIMS * 4;
    static constexpr int SMEM_BYTES = Q_BYTES + N_STAGES * STAGE_BYTES + TOTAL_BYTES + 512;
};

/* Warps of the warpgroup behind those of the rows. */
enum { ATTN_COPY_WARPS = PAGED_WARPS, ATTN_ITEM_WARP = 3, ATTN_ITEMS = 2 };

/* A CTA's shared memory: tiles of keys and values, queries, totals, and the barriers of the rings. */
typedef struct AttnSmem {
    uint32_t stage, q, full, empty, item_full, item_empty;
    float4 *total;
    AttnItem *item;
    uint32_t *last;
} AttnSmem;

template <typename Shape>
static __device__ __forceinline__ AttnSmem attn_smem(void) {
    extern __shared__ __align__(1024) uint8_t at_start[];
    uint8_t *at = at_start;
    AttnSmem smem;
    smem.stage = cuda_smem_addr(at);
    at += Shape::N_STAGES * Shape::STAGE_BYTES;
    smem.q = cuda_smem_addr(at);
    at += Shape::Q_BYTES;
    smem.total = (float4 *)at;
    at += Shape::TOTAL_BYTES;
    smem.item = (AttnItem *)at;
    at += ATTN_ITEMS * sizeof(AttnItem);
    smem.full = cuda_smem_addr(at);
    smem.empty = smem.full + Shape::N_STAGES * 8;
    smem.item_full = smem.empty + Shape::N_STAGES * 8;
    smem.item_empty = smem.item_full + ATTN_ITEMS * 8;
    smem.last = (uint32_t *)(at + (Shape::N_STAGES + ATTN_ITEMS) * 16);
    return smem;
}

template <typename Shape>
static __device__ __forceinline__ void attn_smem_init(const AttnSmem *smem) {
    static_assert(ATTN_ITEMS * sizeof(AttnItem) + (Shape::N_STAGES + ATTN_ITEMS) * 16 + 4 <= 512,
                  "");
    for (int i = 0; i < Shape::N_STAGES; i++) {
        cuda_mbar_init(smem->full + i * 8, 1);
        cuda_mbar_init(smem->empty + i * 8, Shape::N_WG * 4);
    }
    for (int i = 0; i < ATTN_ITEMS; i++) {
        cuda_mbar_init(smem->item_full + i * 8, 32);
        cuda_mbar_init(smem->item_empty + i * 8, Shape::N_WG * 4 + ATTN_COPY_WARPS);
    }
    cuda_mbar_init_fence();
}

/* The place in a ring. */
typedef struct AttnRing {
    int32_t at;
    uint32_t parity;
} AttnRing;

template <int N>
static __device__ __forceinline__ void attn_ring_next(AttnRing *ring) {
    if (++ring->at == N) ring->at = 0, ring->parity ^= 1;
}

/* The place n steps back. */
template <int N>
static __device__ __forceinline__ int32_t attn_ring_before(const AttnRing *ring, int32_t n) {
    int32_t at = ring->at - n;
    return at < 0 ? at + N : at;
}

/* ---- items ---- */

/* The warp that takes items. The last CTA to find nothing left sets the count back for the next
 * launch. */
template <typename Shape>
static __device__ __forceinline__ void attn_take_items(const AttnParams *p, const AttnSmem *smem,
                                                       uint32_t lane) {
    static_assert(sizeof(AttnItem) == CUDA_ATTN_ITEM_WORDS * 4, "");
    uint32_t *taken = p->taken + (Shape::SPLIT ? 0 : 2), *ended = taken + 1;
    const int32_t *list = (const int32_t *)(Shape::SPLIT ? p->split : p->whole);
    AttnRing ring = {0, 0};
    int32_t index = blockIdx.x;
    const int4 lists = __ldcg((const int4 *)p->plan); /* AttnLists */
    int32_t n_items = (Shape::SPLIT ? lists.y : lists.x) * p->n_kv_heads;
    for (bool is_left = true; is_left;) {
        int32_t entry = index / p->n_kv_heads, word = lane % CUDA_ATTN_ITEM_WORDS;
        /* the memory has room for one entry behind the longest list */
        int32_t v = __ldcg(list + (int64_t)entry * CUDA_ATTN_ITEM_WORDS + word);
        int32_t behind = entry - lists.z; /* the long ones */
        if (Shape::SPLIT && behind >= 0)
            v = __ldcg(list + (int64_t)(lists.w - behind) * CUDA_ATTN_ITEM_WORDS + word);
        is_left = index < n_items;
        if (word == 0 && !is_left) v = -1;
        if (word == 1) v = index - entry * p->n_kv_heads;
        cuda_mbar_wait(smem->item_empty + ring.at * 8, ring.parity ^ 1);
        if (lane == word) ((int32_t *)(smem->item + ring.at))[word] = v;
        cuda_mbar_arrive(smem->item_full + ring.at * 8);
        if (is_left && n_items > (int32_t)gridDim.x) {
            cuda_launch_wait(); /* behind the first item: the counts may be in use before */
            if (lane == 0) index = min(gridDim.x + atomicAdd(taken, 1), (uint32_t)n_items);
            index = __shfl_sync(0xffffffff, index, 0);
        } else {
            index = n_items;
        }
        attn_ring_next<ATTN_ITEMS>(&ring);
    }
    cuda_launch_wait();
    if (lane == 0 && atomicInc(ended, gridDim.x - 1) == gridDim.x - 1) atomicExch(taken, 0);
}

/* The item that comes next, or NULL; attn_item_done gives its place back. */
static __device__ __forceinline__ const AttnItem *attn_item_wait(const AttnSmem *smem,
                                                                 const AttnRing *items) {
    cuda_mbar_wait(smem->item_full + items->at * 8, items->parity);
    const AttnItem *item = smem->item + items->at;
    return item->seq < 0 ? NULL : item;
}

static __device__ __forceinline__ void attn_item_done(const AttnSmem *smem, AttnRing *items) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) cuda_mbar_arrive(smem->item_empty + items->at * 8);
    attn_ring_next<ATTN_ITEMS>(items);
}

/* ---- copies ---- */

template <typename Shape>
static __device__ __forceinline__ void attn_copy_tile(const AttnSmem *smem, AttnRing *ring,
                                                      const CUtensorMap *map, const PagedView *view,
                                                      int32_t tile, const PagedBlocks *blocks,
                                                      int32_t warp) {
    uint32_t full = smem->full + ring->at * 8;
    cuda_mbar_wait(smem->empty + ring->at * 8, ring->parity ^ 1);
    if (cuda_elect()) {
        if (warp == 0) cuda_mbar_arrive_expect(full, Shape::STAGE_BYTES);
        cuda_paged_load<Shape::TILE, Shape::DIMS>(smem->stage + ring->at * Shape::STAGE_BYTES, map,
                                                  view, tile * Shape::TILE, blocks, warp, full);
    }
    attn_ring_next<Shape::N_STAGES>(ring);
}

/* A copying warp's share of all tiles, in the order in which they are used: K0 K1 V0 K2 V1 ... The
 * block ids are fetched a tile ahead. */
template <typename Shape>
static __device__ __forceinline__ void attn_copy(const AttnParams *p, const AttnSmem *smem,
                                                 int32_t warp) {
    constexpr int TILE = Shape::TILE;
    AttnRing ring = {0, 0}, items = {0, 0};
    for (const AttnItem *item; (item = attn_item_wait(smem, &items)) != NULL;) {
        PagedView view = {p->block_id + item->table,
                          item->kv_head,
                          p->n_kv_heads,
                          p->block_tokens,
                          p->block_shift,
                          item->lo,
                          item->hi};
        int32_t t = item->tile_lo, end = item->tile_hi;
        PagedBlocks blocks = cuda_paged_blocks<TILE>(&view, t * TILE, warp), other = blocks;
        PagedBlocks next = cuda_paged_blocks<TILE>(&view, (t + 1) * TILE, warp);
        for (; t <= end; t++) {
            const int n = t > item->tile_lo ? 2 : 1;
#pragma unroll 1 /* little code: what runs once is fetched from far */
            for (int is_v = t < end ? 0 : 1; is_v < n; is_v++) {
                if (is_v) {
                    PagedBlocks keys = blocks;
                    blocks = other, other = keys;
                }
                attn_copy_tile<Shape>(smem, &ring, is_v ? &p->v_map : &p->k_map, &view, t - is_v,
                                      &blocks, warp);
            }
            if (n == 1) other = blocks;
            blocks = next;
            next = cuda_paged_blocks<TILE>(&view, (t + 2) * TILE, warp);
        }
        attn_item_done(smem, &items);
    }
}
