#include "kv/kv_table.h"

#include <string.h>

/* Whether the next token goes into a block that must not be written. */
static bool kv_table_must_copy(const KvTable *table, const KvPool *pool, int32_t block_tokens) {
    if (table->n_tokens % block_tokens == 0) return false;
    return !kv_pool_is_private(pool, table->block[table->n_blocks - 1]);
}

int32_t kv_table_need(const KvTable *table, const KvPool *pool, int32_t block_tokens, int32_t n) {
    if (n == 0) return 0;
    const int32_t n_blocks = DIV_UP(table->n_tokens + n, block_tokens);
    return n_blocks - table->n_blocks + kv_table_must_copy(table, pool, block_tokens);
}

bool kv_table_append(KvTable *table, KvPool *pool, int32_t block_tokens, int32_t n, KvMove *move) {
    if (n == 0) return false;
    const bool copy = kv_table_must_copy(table, pool, block_tokens);
    if (copy) {
        int32_t *last = &table->block[table->n_blocks - 1];
        move->src = *last;
        move->dst = kv_pool_take(pool);
        CHECK(move->dst >= 0);
        kv_pool_unref(pool, *last);
        *last = move->dst;
    }
    table->n_tokens += n;
    while (table->n_blocks < DIV_UP(table->n_tokens, block_tokens)) {
        CHECK(table->n_blocks < table->n_blocks_max);
        const int32_t block = kv_pool_take(pool);
        CHECK(block >= 0);
        table->block[table->n_blocks++] = block;
    }
    return copy;
}

void kv_table_truncate(KvTable *table, KvPool *pool, int32_t block_tokens, int32_t n_tokens) {
    CHECK(n_tokens <= table->n_tokens);
    const int32_t n_blocks = DIV_UP(n_tokens, block_tokens);
    CHECK(n_blocks >= table->n_dropped);
    while (table->n_blocks > n_blocks) kv_pool_unref(pool, table->block[--table->n_blocks]);
    table->n_tokens = n_tokens;
}

void kv_table_fork(KvTable *dst, const KvTable *src, KvPool *pool) {
    CHECK(dst->n_blocks == 0 && src->n_blocks <= dst->n_blocks_max);
    memcpy(dst->block, src->block, (size_t)src->n_blocks * sizeof *src->block);
    dst->n_blocks = src->n_blocks;
    dst->n_dropped = src->n_dropped;
    dst->n_tokens = src->n_tokens;
    for (int32_t i = src->n_dropped; i < src->n_blocks; i++) kv_pool_ref(pool, src->block[i]);
}

void kv_table_drop(KvTable *table, KvPool *pool, int32_t block_tokens, int32_t position) {
    const int32_t n = MIN(MAX(position, 0) / block_tokens, table->n_blocks);
    while (table->n_dropped < n) {
        int32_t *block = &table->block[table->n_dropped++];
        kv_pool_unref(pool, *block);
        *block = -1;
    }
}

void kv_table_clear(KvTable *table, KvPool *pool) {
    while (table->n_blocks > table->n_dropped) {
        kv_pool_unref(pool, table->block[--table->n_blocks]);
    }
    table->n_blocks = table->n_dropped = table->n_tokens = 0;
}
