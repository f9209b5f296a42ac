/* kv_pool: the blocks of one KV group: who may write them, who may read them, which are free.
 *
 * A block is in exactly one state: free; used (ref > 0 tables hold it); or idle (no table holds it,
 * but the prefix tree does: it may be taken again or evicted). Only numbers live here, no tensors.
 * One thread; all memory is allocated by init. */
#pragma once

#include "base/status.h"

typedef struct KvPool {
    int32_t n_blocks, n_free, n_idle, n_used;
    int32_t *ref;         /* [n_blocks] tables that hold the block */
    int32_t *node;        /* [n_blocks] the prefix-tree node that caches it, -1: none */
    int32_t *next, *prev; /* [n_blocks] links of the free list (next only) and idle list */
    int32_t free_head;
    int32_t idle_head, idle_tail; /* least recently used first */
} KvPool;

/* Bytes that init allocates. */
int64_t kv_pool_bytes(int32_t n_blocks);
MUST_USE Status kv_pool_init(KvPool *pool, int32_t n_blocks, Err *err);
/* Accepts a zeroed pool. */
void kv_pool_free(KvPool *pool);

/* A free block, with one reference; -1 when none is free (idle ones are not taken: evict first). */
int32_t kv_pool_take(KvPool *pool);
/* One more table holds a used or idle block. */
void kv_pool_ref(KvPool *pool, int32_t block);
/* One table less; the last one leaves a cached block idle (most recently used), another free. */
void kv_pool_unref(KvPool *pool, int32_t block);
/* The tree caches a used block at the node, or (node -1) no longer a used or idle one. */
void kv_pool_set_node(KvPool *pool, int32_t block, int32_t node);
/* Whether the block may be written by the one table that holds it. */
bool kv_pool_is_private(const KvPool *pool, int32_t block);
/* The least recently used idle block, -1: none. */
int32_t kv_pool_oldest(const KvPool *pool);

/* Checks states, lists and counts against each other; ref_expected [n_blocks] is what the tables
 * hold. ERR_ARG with a sentence when something is off. */
MUST_USE Status kv_pool_audit(const KvPool *pool, const int32_t *ref_expected, Err *err);
