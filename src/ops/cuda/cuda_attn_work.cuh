/* cuda_attn_work: what a CTA of the attention works on, its shared memory, and the warps that feed the
 * rows' warpgroups: one that takes items from the plan's lists, two that copy tiles.
 *
 * CTAs take items from a common count as they get free. */
#pragma once

#include "ops/cuda/cuda_attn_priv.cuh"
#include "ops/cuda/cuda_mask.cuh"
#include "ops/cuda/cuda_paged.cuh"

/* The compile-time shape of a kernel. */
template <int DIMS_, bool SPLIT_>
struct AttnShape {
    static constexpr int DIMS = DIMS_;
    static constexpr bool SPLIT = SPLIT_;
    static constexpr int TILE = DIMS <= 128 ? 128 : 64; /* keys: the same in both forms */
    static constexpr int N_WG = SPLIT || DIMS > 128 ? 1 : 2;
    static constexpr int N_ROWS = N_WG * CUDA_ATTN_ROWS;
    static constexpr int N_STAGES = SPLIT ? (DIMS == 64 ? 6 : DIMS == 128 ? 3 : 6) : 4;
    static constexpr int CTAS_PER_SM = SPLIT && DIMS <= 128 ? 2 : 1;
    static constexpr int N_THREADS = N_WG * 128 + 128;
    static constexpr int REGS = N_WG == 2 ? 224 : CTAS_PER_SM == 2 ? 200 : 0; /* 0: as they come */
    static constexpr int SEGMENT_TILES = CUDA_ATTN_SEGMENT / TILE;
    static constexpr int Q_BYTES = N_ROWS * DIMS * 2;
    static constexpr int STAGE_BYTES = TILE * DIMS * 2;
    static constexpr int TOTAL_BYTES = SPLIT ? 0 : N_ROWS * DIMS * 4;
    static constexpr int SMEM_BYTES = Q_BYTES + N_STAGES * STAGE_BYTES + TOTAL_BYTES + 512;
};

/* Warps of the warpgroup behind those of the rows. */
enum { ATTN_COPY_WARPS = PAGED_WARPS, ATTN_ITEM_WARP = 3, ATTN_ITEMS = 2 };

/* What a CTA works on at a time. */
typedef struct AttnItem {
    int32_t seq, kv_head;     /* seq -1: nothing is left */
    int32_t row, n_rows;      /* of the sequence's rows */
    int32_t query, pos;       /* the sequence's first token in the batch, and its position */
    int32_t kv_len, table;    /* table: where the sequence's blocks start in block_id */
    int32_t lo, hi;           /* keys that any of the rows sees */
    int32_t tile_lo, tile_hi; /* tiles to walk */
    int32_t segment, n_segments, partial; /* split form */
    int32_t unused;
} AttnItem;

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
        cuda_mbar_init(smem->item_full + i * 8, 1);
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

/* ---- items ---- */

template <typename Shape>
static __device__ __forceinline__ AttnItem attn_item(const AttnParams *p, int32_t index) {
    AttnItem item;
    int32_t tile, segment = 0;
    item.kv_head = index % p->n_kv_heads;
    if constexpr (Shape::SPLIT) {
        int4 entry = __ldg((const int4 *)p->split + index / p->n_kv_heads);
        item.seq = entry.x, tile = entry.y, segment = entry.z, item.partial = entry.w;
    } else {
        int2 entry = __ldg((const int2 *)p->whole + index / p->n_kv_heads);
        item.seq = entry.x, tile = entry.y, item.partial = -1;
    }
    item.query = __ldg(p->query_start + item.seq);
    int32_t n_queries = __ldg(p->query_start + item.seq + 1) - item.query;
    item.kv_len = __ldg(p->kv_len + item.seq);
    item.table = __ldg(p->table_start + item.seq);
    item.pos = item.kv_len - n_queries;
    item.row = tile * Shape::N_ROWS;
    item.n_rows = min(Shape::N_ROWS, n_queries * p->group - item.row);
    int32_t last = item.pos + (item.row + item.n_rows - 1) / p->group;
    item.lo = cuda_mask_range(item.pos + item.row / p->group, item.kv_len, p->window, p->causal).lo;
    item.hi = cuda_mask_range(last, item.kv_len, p->window, p->causal).hi;
    item.tile_lo = item.lo / Shape::TILE;
    item.tile_hi = attn_ceil_div(item.hi, Shape::TILE);
    int32_t first = item.lo / CUDA_ATTN_SEGMENT;
    item.n_segments = attn_ceil_div(item.hi, CUDA_ATTN_SEGMENT) - first;
    item.segment = segment - first;
    if constexpr (Shape::SPLIT) {
        item.tile_lo = max(item.tile_lo, segment * Shape::SEGMENT_TILES);
        item.tile_hi = min(item.tile_hi, (segment + 1) * Shape::SEGMENT_TILES);
    }
    item.unused = 0;
    return item;
}

/* The warp that takes items. The last CTA to find nothing left sets the count back for the next
 * launch. */
template <typename Shape>
static __device__ __forceinline__ void attn_take_items(const AttnParams *p, const AttnSmem *smem,
                                                       uint32_t lane) {
    uint32_t *taken = p->taken + (Shape::SPLIT ? 0 : 2), *ended = taken + 1;
    int32_t n_items =
        (Shape::SPLIT ? __ldg(&p->plan->n_split) : __ldg(&p->plan->n_whole)) * p->n_kv_heads;
    AttnRing ring = {0, 0};
    int32_t index = blockIdx.x;
    for (bool is_left = true; is_left;) {
        AttnItem item;
        is_left = index < n_items;
        if (is_left)
            item = attn_item<Shape>(p, index);
        else
            item.seq = -1;
        cuda_mbar_wait(smem->item_empty + ring.at * 8, ring.parity ^ 1);
        if (lane == 0) {
            smem->item[ring.at] = item;
            cuda_mbar_arrive(smem->item_full + ring.at * 8);
            if (is_left) index = gridDim.x + atomicAdd(taken, 1);
        }
        index = __shfl_sync(0xffffffff, index, 0);
        attn_ring_next<ATTN_ITEMS>(&ring);
    }
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
        PagedBlocks now = cuda_paged_blocks<TILE>(&view, t * TILE, warp), before = now;
        PagedBlocks next = cuda_paged_blocks<TILE>(&view, (t + 1) * TILE, warp);
        attn_copy_tile<Shape>(smem, &ring, &p->k_map, &view, t, &now, warp);
        for (t++; t < end; t++) {
            before = now, now = next;
            next = cuda_paged_blocks<TILE>(&view, (t + 1) * TILE, warp);
            attn_copy_tile<Shape>(smem, &ring, &p->k_map, &view, t, &now, warp);
            attn_copy_tile<Shape>(smem, &ring, &p->v_map, &view, t - 1, &before, warp);
        }
        attn_copy_tile<Shape>(smem, &ring, &p->v_map, &view, end - 1, &now, warp);
        attn_item_done(smem, &items);
    }
}
