#include <string.h>

#include "kv/kv_cache.h"

/* Adds what the table holds to audit_ref. */
static Status kv_cache_audit_table(const KvCache *cache, const KvSeq *seq, int32_t group,
                                   Err *err) {
    const KvTable *table = &seq->table[group];
    const KvPool *pool = &cache->pool[group];
    if (table->n_blocks != DIV_UP(table->n_tokens, cache->config.block_tokens)) {
        FAIL(err, ERR_ARG, "KV table: %d blocks for %d tokens", table->n_blocks, table->n_tokens);
    }
    int32_t node = seq->node;
    for (int32_t i = table->n_blocks - 1; i >= 0; i--) {
        const int32_t block = table->block[i];
        if ((block < 0) != (i < table->n_dropped) || block >= pool->n_blocks) {
            FAIL(err, ERR_ARG, "KV table: entry %d is block %d, %d are dropped", i, block,
                 table->n_dropped);
        }
        if (block >= 0) cache->audit_ref[block]++;
        if (i >= seq->n_cached) continue;
        const KvNode *at = &cache->radix.node[node];
        if (node < 0 || at->depth != i + 1) {
            FAIL(err, ERR_ARG, "KV sequence: block %d has no node of its depth", i);
        }
        if (cache->config.window[group] == 0 && at->block[group] != block) {
            FAIL(err, ERR_ARG, "KV sequence: block %d is %d, the tree's is %d", i, block,
                 at->block[group]);
        }
        node = at->parent;
    }
    return OK;
}

/* In the pool or in the tier, not in both; in a full group no parent is farther than its child. */
static Status kv_cache_audit_node(const KvCache *cache, int32_t group, int32_t i, Err *err) {
    const KvNode *node = &cache->radix.node[i];
    const int32_t block = node->block[group], slot = node->host[group];
    const KvTierGroup *tier = &cache->tier.group[group];
    if (slot >= 0 && (block >= 0 || slot >= tier->n_slots || tier->slot[slot].node != i)) {
        FAIL(err, ERR_ARG, "prefix tree: node %d has block %d and host slot %d, which names %d", i,
             block, slot, slot < tier->n_slots ? tier->slot[slot].node : -1);
    }
    if (cache->config.window[group] > 0) return OK;
    if (block < 0 && slot < 0 && node->first_child < 0) {
        FAIL(err, ERR_ARG, "prefix tree: node %d has no block of group %d", i, group);
    }
    if (block >= 0 && node->parent >= 0 && cache->radix.node[node->parent].block[group] < 0) {
        FAIL(err, ERR_ARG, "prefix tree: node %d is in the pool, its parent is not", i);
    }
    return OK;
}

static Status kv_cache_audit_slots(const KvCache *cache, int32_t group, Err *err) {
    const KvTierGroup *tier = &cache->tier.group[group];
    for (int32_t i = 0; i < tier->n_slots; i++) {
        const int32_t node = tier->slot[i].node;
        if (node < 0) continue;
        if (node >= cache->radix.n_nodes_max || cache->radix.node[node].parent == KV_NODE_FREE ||
            cache->radix.node[node].host[group] != i) {
            FAIL(err, ERR_ARG, "host slot %d holds node %d, which does not name it", i, node);
        }
    }
    return OK;
}

static Status kv_cache_audit_nodes(const KvCache *cache, int32_t group, Err *err) {
    const KvPool *pool = &cache->pool[group];
    int32_t n_cached = 0;
    for (int32_t b = 0; b < pool->n_blocks; b++) {
        if (pool->node[b] < 0) continue;
        n_cached++;
        const KvNode *node = &cache->radix.node[pool->node[b]];
        if (pool->node[b] >= cache->radix.n_nodes_max || node->parent == KV_NODE_FREE ||
            node->block[group] != b) {
            FAIL(err, ERR_ARG, "KV block %d is cached at node %d, which does not name it", b,
                 pool->node[b]);
        }
    }
    for (int32_t i = 0; i < cache->radix.n_nodes_max; i++) {
        const KvNode *node = &cache->radix.node[i];
        if (node->parent == KV_NODE_FREE) continue;
        n_cached -= node->block[group] >= 0;
        TRY(kv_cache_audit_node(cache, group, i, err));
    }
    if (n_cached != 0) {
        FAIL(err, ERR_ARG, "KV group %d: blocks and nodes disagree by %d", group, n_cached);
    }
    return OK;
}

Status kv_cache_audit(const KvCache *cache, KvSeq *const *seqs, int32_t n_seqs, Err *err) {
    TRY(kv_radix_audit(&cache->radix, err));
    TRY(kv_tier_audit(&cache->tier, err));
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        memset(cache->audit_ref, 0, (size_t)cache->pool[g].n_blocks * sizeof(int32_t));
        for (int32_t i = 0; i < n_seqs; i++) TRY(kv_cache_audit_table(cache, seqs[i], g, err));
        TRY(kv_pool_audit(&cache->pool[g], cache->audit_ref, err));
        TRY(kv_cache_audit_nodes(cache, g, err));
        TRY(kv_cache_audit_slots(cache, g, err));
    }
    return OK;
}
