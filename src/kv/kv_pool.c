#include "kv/kv_pool.h"

#include "base/mem.h"

enum { KV_POOL_ARRAYS = 4 };

int64_t kv_pool_bytes(int32_t n_blocks) {
    return (int64_t)KV_POOL_ARRAYS * n_blocks * (int64_t)sizeof(int32_t);
}

Status kv_pool_init(KvPool *pool, int32_t n_blocks, Err *err) {
    CHECK(n_blocks >= 0);
    *pool = (KvPool){.n_blocks = n_blocks,
                     .n_free = n_blocks,
                     .free_head = -1,
                     .idle_head = -1,
                     .idle_tail = -1};
    int32_t *memory = mem_try_alloc((size_t)n_blocks * KV_POOL_ARRAYS, sizeof *memory);
    if (memory == NULL) FAIL(err, ERR_NOMEM, "no memory for the table of %d KV blocks", n_blocks);
    pool->ref = memory;
    pool->node = memory + n_blocks;
    pool->next = memory + 2 * (size_t)n_blocks;
    pool->prev = memory + 3 * (size_t)n_blocks;
    for (int32_t b = n_blocks - 1; b >= 0; b--) { /* block 0 is taken first */
        pool->node[b] = -1;
        pool->prev[b] = -1;
        pool->next[b] = pool->free_head;
        pool->free_head = b;
    }
    return OK;
}

void kv_pool_free(KvPool *pool) {
    mem_free(pool->ref);
    *pool = (KvPool){0};
}

static void kv_pool_push_free(KvPool *pool, int32_t block) {
    pool->next[block] = pool->free_head;
    pool->free_head = block;
    pool->n_free++;
}

static void kv_pool_push_idle(KvPool *pool, int32_t block) {
    pool->next[block] = -1;
    pool->prev[block] = pool->idle_tail;
    if (pool->idle_tail >= 0) {
        pool->next[pool->idle_tail] = block;
    } else {
        pool->idle_head = block;
    }
    pool->idle_tail = block;
    pool->n_idle++;
}

static void kv_pool_pull_idle(KvPool *pool, int32_t block) {
    const int32_t next = pool->next[block], prev = pool->prev[block];
    if (prev >= 0) {
        pool->next[prev] = next;
    } else {
        pool->idle_head = next;
    }
    if (next >= 0) {
        pool->prev[next] = prev;
    } else {
        pool->idle_tail = prev;
    }
    pool->n_idle--;
}

int32_t kv_pool_take(KvPool *pool) {
    const int32_t block = pool->free_head;
    if (block < 0) return -1;
    CHECK(pool->ref[block] == 0 && pool->node[block] < 0);
    pool->free_head = pool->next[block];
    pool->n_free--;
    pool->n_used++;
    pool->ref[block] = 1;
    return block;
}

void kv_pool_ref(KvPool *pool, int32_t block) {
    CHECK(block >= 0 && block < pool->n_blocks);
    if (pool->ref[block] == 0) {
        CHECK(pool->node[block] >= 0); /* idle, not free */
        kv_pool_pull_idle(pool, block);
        pool->n_used++;
    }
    pool->ref[block]++;
}

void kv_pool_unref(KvPool *pool, int32_t block) {
    CHECK(block >= 0 && block < pool->n_blocks && pool->ref[block] > 0);
    if (--pool->ref[block] > 0) return;
    pool->n_used--;
    if (pool->node[block] >= 0) {
        kv_pool_push_idle(pool, block);
    } else {
        kv_pool_push_free(pool, block);
    }
}

void kv_pool_set_node(KvPool *pool, int32_t block, int32_t node) {
    CHECK(block >= 0 && block < pool->n_blocks);
    const bool idle = pool->ref[block] == 0;
    if (node >= 0) {
        CHECK(!idle && pool->node[block] < 0);
    } else {
        CHECK(pool->node[block] >= 0);
    }
    pool->node[block] = node;
    if (!idle) return;
    kv_pool_pull_idle(pool, block);
    kv_pool_push_free(pool, block);
}

bool kv_pool_is_private(const KvPool *pool, int32_t block) {
    return pool->ref[block] == 1 && pool->node[block] < 0;
}

int32_t kv_pool_oldest(const KvPool *pool) {
    return pool->idle_head;
}

Status kv_pool_audit(const KvPool *pool, const int32_t *ref_expected, Err *err) {
    if (pool->n_free + pool->n_idle + pool->n_used != pool->n_blocks) {
        FAIL(err, ERR_ARG, "KV pool: %d free + %d idle + %d used is not %d blocks", pool->n_free,
             pool->n_idle, pool->n_used, pool->n_blocks);
    }
    int32_t n_used = 0;
    for (int32_t b = 0; b < pool->n_blocks; b++) {
        if (pool->ref[b] != ref_expected[b]) {
            FAIL(err, ERR_ARG, "KV block %d has %d references, %d tables hold it", b, pool->ref[b],
                 ref_expected[b]);
        }
        n_used += pool->ref[b] > 0;
    }
    if (n_used != pool->n_used) {
        FAIL(err, ERR_ARG, "KV pool: %d blocks are held, %d are counted", n_used, pool->n_used);
    }
    int32_t n_free = 0, n_idle = 0;
    for (int32_t b = pool->free_head; b >= 0 && n_free <= pool->n_blocks; b = pool->next[b]) {
        if (pool->ref[b] != 0 || pool->node[b] >= 0) {
            FAIL(err, ERR_ARG, "KV block %d is free and in use", b);
        }
        n_free++;
    }
    int32_t prev = -1;
    for (int32_t b = pool->idle_head; b >= 0 && n_idle <= pool->n_blocks; b = pool->next[b]) {
        if (pool->ref[b] != 0 || pool->node[b] < 0 || pool->prev[b] != prev) {
            FAIL(err, ERR_ARG, "KV block %d is idle but not cached, or its links are off", b);
        }
        prev = b;
        n_idle++;
    }
    if (n_free != pool->n_free || n_idle != pool->n_idle || prev != pool->idle_tail) {
        FAIL(err, ERR_ARG, "KV pool: lists hold %d free and %d idle blocks, counted are %d and %d",
             n_free, n_idle, pool->n_free, pool->n_idle);
    }
    return OK;
}
