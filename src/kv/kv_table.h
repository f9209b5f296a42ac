/* kv_table: the blocks of one sequence in one KV group.
 *
 * Token i of the sequence lives in block[i / block_tokens] at offset i % block_tokens. Only the
 * last block is ever written, and only while no other table and no cache holds it: a shared one is
 * copied first. One thread. */
#pragma once

#include "kv/kv_move.h"
#include "kv/kv_pool.h"

typedef struct KvTable {
    int32_t *block; /* [n_blocks_max] -1: freed behind the window; memory is the owner's */
    int32_t n_blocks, n_blocks_max;
    int32_t n_dropped; /* leading entries that are -1 */
    int32_t n_tokens;  /* slots that hold, or are about to hold, a token */
} KvTable;

/* Blocks that an append of n tokens would take, the copy of a shared last block included. */
int32_t kv_table_need(const KvTable *table, const KvPool *pool, int32_t block_tokens, int32_t n);
/* Makes room for n more tokens; kv_table_need blocks must be free and fit the table (CHECKed).
 * Returns whether a block has to be copied; then src and dst of *move are set. */
bool kv_table_append(KvTable *table, KvPool *pool, int32_t block_tokens, int32_t n, KvMove *move);
/* Cuts back to n_tokens. */
void kv_table_truncate(KvTable *table, KvPool *pool, int32_t block_tokens, int32_t n_tokens);
/* dst (empty) shares all blocks of src. */
void kv_table_fork(KvTable *dst, const KvTable *src, KvPool *pool);
/* Frees the blocks that hold only tokens before `position`. */
void kv_table_drop(KvTable *table, KvPool *pool, int32_t block_tokens, int32_t position);
/* Gives back every block, the last first, so that a cached child always becomes idle before its
 * parent. */
void kv_table_clear(KvTable *table, KvPool *pool);
