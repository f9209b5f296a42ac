/* cuda_paged: tiles of a sequence's keys or values out of the blocks of the cache. */
#pragma once

#include "ops/cuda/cuda_tma.cuh"

/* Where the keys of one KV head of one sequence stand. */
typedef struct PagedView {
    const int32_t *block_id; /* the sequence's table */
    int32_t head, n_heads;
    int32_t block_tokens, block_shift;
    int32_t lo, hi; /* positions that are read; the rest of a tile becomes 0 */
} PagedView;

/* The block of position pos, or -1 if nobody sees the run of n keys that starts there. */
static __device__ __forceinline__ int32_t cuda_paged_block(const PagedView *view, int32_t pos,
                                                           int32_t n) {
    if (pos >= view->hi || pos + n <= view->lo) return -1;
    return __ldg(view->block_id + (pos >> view->block_shift));
}

/* Blocks that a copying warp needs for a tile: of its first runs, fetched ahead. */
enum { PAGED_AHEAD = 4, PAGED_WARPS = 2 };
typedef struct PagedBlocks {
    int32_t id[PAGED_AHEAD];
} PagedBlocks;

/* Fetches what warp `warp` of PAGED_WARPS needs for keys [pos, pos + TILE). */
template <int TILE>
static __device__ __forceinline__ PagedBlocks cuda_paged_blocks(const PagedView *view, int32_t pos,
                                                                int32_t warp) {
    PagedBlocks blocks;
    int32_t run = min(view->block_tokens, TILE);
#pragma unroll
    for (int i = 0; i < PAGED_AHEAD; i++) {
        int32_t r = (i * PAGED_WARPS + warp) * run;
        blocks.id[i] = r < TILE ? cuda_paged_block(view, pos + r, run) : -1;
    }
    return blocks;
}

/* Queues the copies of the run of keys that starts r keys into the tile at pos. The cache is a matrix
 * of rows of head_dim elements; a run that nobody sees lies outside it and becomes zeros. */
template <int TILE, int DIMS>
static __device__ __forceinline__ void cuda_paged_run(uint32_t dst, const CUtensorMap *map,
                                                      const PagedView *view, int32_t pos, int32_t r,
                                                      int32_t block, uint32_t bar) {
    int32_t offset = (pos + r) & (view->block_tokens - 1);
    int32_t row = (block * view->n_heads + view->head) * view->block_tokens + offset;
    if (block < 0) row = -TILE;
#pragma unroll
    for (int c = 0; c < DIMS / 64; c++)
        cuda_tma_load(dst + (c * TILE + r) * 128, map, c * 64, row, bar);
}

/* One thread of a copying warp queues its part of keys [pos, pos + TILE), DIMS columns, to dst: column
 * blocks of 64, each TILE rows of 128 bytes with the 128-byte swizzle. */
template <int TILE, int DIMS>
static __device__ __forceinline__ void cuda_paged_load(uint32_t dst, const CUtensorMap *map,
                                                       const PagedView *view, int32_t pos,
                                                       const PagedBlocks *blocks, int32_t warp,
                                                       uint32_t bar) {
    int32_t run = min(view->block_tokens, TILE);
#pragma unroll
    for (int i = 0; i < PAGED_AHEAD; i++) {
        int32_t r = (i * PAGED_WARPS + warp) * run;
        if (r < TILE) cuda_paged_run<TILE, DIMS>(dst, map, view, pos, r, blocks->id[i], bar);
    }
    for (int32_t r = (PAGED_AHEAD * PAGED_WARPS + warp) * run; r < TILE; r += PAGED_WARPS * run)
        cuda_paged_run<TILE, DIMS>(dst, map, view, pos, r, cuda_paged_block(view, pos + r, run),
                                   bar);
}
