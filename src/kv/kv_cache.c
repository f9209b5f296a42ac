#include "kv/kv_cache.h"

#include <string.h>

#include "base/mem.h"

/* A model whose layers all have windows keeps nodes whose blocks are gone: paths to those that are
 * not. With a full group there is a block for every node. */
enum { KV_CACHE_NODES_PER_WINDOW_BLOCK = 4, KV_CACHE_NODES_MAX = 1 << 29 };

static int32_t kv_cache_nodes(const KvCacheConfig *config) {
    if (!config->prefix) return 0;
    int64_t n_host = 0, n = 0;
    for (int32_t g = 0; g < config->n_groups; g++) {
        n_host += config->n_host[g];
        if (config->window[g] == 0) n = config->n_blocks[g];
    }
    if (n == 0) n = config->n_blocks[0] * (int64_t)KV_CACHE_NODES_PER_WINDOW_BLOCK;
    return (int32_t)MIN(n + n_host, (int64_t)KV_CACHE_NODES_MAX);
}

int64_t kv_cache_bytes(const KvCacheConfig *config) {
    int64_t bytes = kv_radix_bytes(kv_cache_nodes(config), config->block_tokens) +
                    kv_event_bytes(config->n_events, config->block_tokens) +
                    kv_tier_bytes(config->n_host, config->n_flights);
    int32_t most = 0;
    for (int32_t g = 0; g < config->n_groups; g++) {
        bytes += kv_pool_bytes(config->n_blocks[g]);
        most = MAX(most, config->n_blocks[g]);
    }
    return bytes + most * (int64_t)sizeof(int32_t);
}

Status kv_cache_init(KvCache *cache, const KvCacheConfig *config, Err *err) {
    CHECK(config->n_groups >= 1 && config->n_groups <= KV_GROUPS_MAX);
    CHECK(config->block_tokens >= 1 && config->block_tokens <= KV_BLOCK_TOKENS_MAX);
    *cache = (KvCache){.config = *config};
    Status status = kv_radix_init(&cache->radix, kv_cache_nodes(config), config->block_tokens, err);
    cache->radix.hash_mask = ~config->hash_ignored;
    if (status == OK) {
        status = kv_event_init(&cache->events, config->n_events, config->block_tokens, err);
    }
    if (status == OK) {
        status = kv_tier_init(&cache->tier, config->n_host, config->n_flights, err);
    }
    int32_t most = 0;
    for (int32_t g = 0; g < config->n_groups && status == OK; g++) {
        status = kv_pool_init(&cache->pool[g], config->n_blocks[g], err);
        most = MAX(most, config->n_blocks[g]);
    }
    cache->audit_ref = mem_try_alloc((size_t)most, sizeof(int32_t));
    if (status == OK && cache->audit_ref == NULL) {
        status = err_set(err, ERR_NOMEM, "no memory for the table of %d KV blocks", most);
    }
    if (status != OK) kv_cache_free(cache);
    return status;
}

void kv_cache_free(KvCache *cache) {
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) kv_pool_free(&cache->pool[g]);
    kv_radix_free(&cache->radix);
    kv_event_free(&cache->events);
    kv_tier_free(&cache->tier);
    mem_free(cache->audit_ref);
    *cache = (KvCache){0};
}

size_t kv_cache_seq_ints(const KvCacheConfig *config, int32_t n_tokens_max) {
    return (size_t)config->n_groups * (size_t)DIV_UP(n_tokens_max, config->block_tokens);
}

void kv_cache_seq_init(const KvCache *cache, KvSeq *seq, int32_t *memory, int32_t n_tokens_max) {
    const int32_t n_blocks_max = DIV_UP(n_tokens_max, cache->config.block_tokens);
    *seq = (KvSeq){.node = -1};
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        seq->table[g].block = memory + (size_t)g * (size_t)n_blocks_max;
        seq->table[g].n_blocks_max = n_blocks_max;
    }
}

int32_t kv_cache_len(const KvSeq *seq) {
    return seq->table[0].n_tokens;
}

/* The first position that must be there for the token at `position` to be computed. The token
 * before it always is, whatever the window, so that a sequence holds the block of its last node. */
static int32_t kv_cache_window_start(const KvCache *cache, int32_t group, int32_t position) {
    const int32_t window = cache->config.window[group];
    return window == 0 ? 0 : MAX(0, position - MAX(window, 2) + 1);
}

/* Follows the walk of a match: per group the start of the run of blocks that are all present. */
typedef struct KvWalk {
    int32_t run_start[KV_GROUPS_MAX];
} KvWalk;

/* Whether the group's block of a node is in the pool, or (host) can be had from the tier. */
static bool kv_cache_has(const KvCache *cache, const KvNode *node, int32_t group, bool host) {
    if (node->block[group] >= 0) return true;
    return host && node->host[group] >= 0 &&
           kv_tier_is_ready(&cache->tier, group, node->host[group]);
}

/* Whether the sequence could go on at position, right after the node's block. */
static bool kv_cache_walk_step(const KvCache *cache, KvWalk *walk, const KvNode *node,
                               int32_t position, bool host) {
    bool whole = true;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (!kv_cache_has(cache, node, g, host)) walk->run_start[g] = node->depth;
        const int32_t present = walk->run_start[g] * cache->config.block_tokens;
        whole = whole && present <= kv_cache_window_start(cache, g, position);
    }
    return whole;
}

/* First block of the group that a match of n_tokens must hold. */
static int32_t kv_cache_first_block(const KvCache *cache, int32_t group, int32_t n_tokens) {
    return kv_cache_window_start(cache, group, n_tokens) / cache->config.block_tokens;
}

/* Which of the matched blocks are idle, and which are to be loaded. Returns how many of these. */
static int32_t kv_cache_count_match(const KvCache *cache, KvMatch *match) {
    const int32_t size = cache->config.block_tokens, n_blocks = match->n_tokens / size;
    int32_t n_load = 0;
    match->n_tokens_here = match->n_tokens;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        const int32_t first = kv_cache_first_block(cache, g, match->n_tokens);
        int32_t node = match->node;
        for (int32_t i = n_blocks - 1; i >= first; i--, node = cache->radix.node[node].parent) {
            const int32_t block = cache->radix.node[node].block[g];
            if (block >= 0) {
                match->n_idle[g] += cache->pool[g].ref[block] == 0;
            } else {
                match->n_load[g]++;
                match->n_tokens_here = MIN(match->n_tokens_here, i * size);
            }
        }
        n_load += match->n_load[g];
    }
    return n_load;
}

/* The longest cached beginning; host: with what the tier has. */
static void kv_cache_walk(const KvCache *cache, KvSalt salt, const int32_t *token, int32_t n,
                          bool host, KvMatch *out) {
    const int32_t size = cache->config.block_tokens;
    *out = (KvMatch){.node = -1};
    KvWalk walk = {{0}};
    int32_t node = -1, at = 0;
    const int32_t end = MAX(n - 1, 0) / size * size;
    while (at < end) {
        const int32_t child = kv_radix_find(&cache->radix, salt, node, token + at);
        if (child < 0) break;
        node = child;
        at += size;
        if (kv_cache_walk_step(cache, &walk, &cache->radix.node[node], at, host)) {
            out->n_tokens = at;
            out->node = node;
        }
    }
    out->miss_at = at;
    if (out->n_tokens < at) {
        out->miss = KV_MISS_WINDOW;
        out->miss_at = out->n_tokens;
    } else if (at == end) {
        out->miss = n - at > 1 ? KV_MISS_SHORT : KV_MISS_NONE;
    } else {
        int32_t n_equal;
        out->miss = kv_radix_explain(&cache->radix, salt, node, token + at, &n_equal);
        out->miss_at += n_equal;
    }
}

void kv_cache_match(const KvCache *cache, KvSalt salt, const int32_t *token, int32_t n,
                    KvMatch *out) {
    *out = (KvMatch){.node = -1, .miss = KV_MISS_OFF};
    if (!cache->config.prefix) return;
    kv_cache_walk(cache, salt, token, n, true, out);
    if (kv_tier_can_fly(&cache->tier, kv_cache_count_match(cache, out))) return;
    kv_cache_walk(cache, salt, token, n, false, out);
    (void)kv_cache_count_match(cache, out);
}

int32_t kv_cache_room(const KvCache *cache, int32_t group) {
    return cache->pool[group].n_free + cache->pool[group].n_idle;
}

int32_t kv_cache_need(const KvCache *cache, const KvSeq *seq, int32_t group, int32_t n) {
    return kv_table_need(&seq->table[group], &cache->pool[group], cache->config.block_tokens, n);
}

/* Tells of the group's block of a node. */
static void kv_cache_tell(KvCache *cache, KvEventKind kind, KvMedium medium, int32_t group,
                          int32_t node) {
    const KvNode *at = &cache->radix.node[node];
    const KvEvent event = {
        .kind = kind,
        .medium = medium,
        .group = group,
        .hash = at->prefix,
        .parent_hash = at->parent >= 0 ? cache->radix.node[at->parent].prefix : 0};
    kv_event_push(&cache->events, &event,
                  kind == KV_EVENT_STORED ? kv_radix_tokens(&cache->radix, node) : NULL);
}

/* Removes nodes that hold no block and lead nowhere, from here up. */
static void kv_cache_prune(KvCache *cache, int32_t node, bool evicted) {
    while (node >= 0) {
        const KvNode *at = &cache->radix.node[node];
        if (at->first_child >= 0) return;
        for (int32_t g = 0; g < cache->config.n_groups; g++) {
            if (at->block[g] >= 0 || at->host[g] >= 0) return;
        }
        const int32_t parent = at->parent;
        kv_radix_remove(&cache->radix, node, evicted);
        node = parent;
    }
}

static void kv_cache_uncache(KvCache *cache, int32_t group, int32_t node) {
    int32_t *block = &cache->radix.node[node].block[group];
    if (*block < 0) return;
    kv_pool_set_node(&cache->pool[group], *block, -1);
    *block = -1;
    kv_cache_tell(cache, KV_EVENT_REMOVED, KV_MEDIUM_DEVICE, group, node);
}

static void kv_cache_unhost(KvCache *cache, int32_t group, int32_t node) {
    int32_t *slot = &cache->radix.node[node].host[group];
    if (*slot < 0) return;
    kv_tier_drop(&cache->tier, group, *slot);
    *slot = -1;
    kv_cache_tell(cache, KV_EVENT_REMOVED, KV_MEDIUM_HOST, group, node);
}

/* The node's block of the group is gone for good. */
static void kv_cache_lost(KvCache *cache, int32_t group, int32_t node) {
    if (cache->config.window[group] == 0) {
        /* Nothing can go on from here, whatever the other group has. */
        for (int32_t g = 0; g < cache->config.n_groups; g++) {
            kv_cache_uncache(cache, g, node);
            kv_cache_unhost(cache, g, node);
        }
    }
    kv_cache_prune(cache, node, true);
}

/* The group's block that has been in the tier for the longest leaves it. */
static void kv_cache_evict_host(KvCache *cache, int32_t group) {
    const int32_t slot = kv_tier_oldest(&cache->tier, group);
    CHECK(slot >= 0);
    const int32_t node = cache->tier.group[group].slot[slot].node;
    kv_cache_unhost(cache, group, node);
    kv_cache_lost(cache, group, node);
    cache->n_evicted++;
}

static bool kv_cache_can_save(const KvCache *cache, int32_t group, const KvMoves *moves) {
    const KvTier *tier = &cache->tier;
    return moves != NULL && kv_tier_can_fly(tier, 1) &&
           (tier->group[group].n_free > 0 || kv_tier_oldest(tier, group) >= 0);
}

/* The node's block moves from the pool to the tier, where there must be room to be had. */
static void kv_cache_save(KvCache *cache, int32_t group, int32_t node, KvMoves *moves) {
    KvNode *at = &cache->radix.node[node];
    if (cache->tier.group[group].n_free == 0) kv_cache_evict_host(cache, group);
    at->host[group] = kv_tier_save(&cache->tier, moves, group, at->block[group], node);
    CHECK(at->host[group] >= 0);
    kv_cache_tell(cache, KV_EVENT_STORED, KV_MEDIUM_HOST, group, node);
    kv_cache_uncache(cache, group, node);
}

/* The group's least recently used idle block leaves the pool and becomes free. moves NULL: it
 * cannot go to the tier now. */
static void kv_cache_evict(KvCache *cache, int32_t group, KvMoves *moves) {
    const int32_t block = kv_pool_oldest(&cache->pool[group]);
    CHECK(block >= 0);
    const int32_t node = cache->pool[group].node[block];
    if (kv_cache_can_save(cache, group, moves)) {
        kv_cache_save(cache, group, node, moves);
        return;
    }
    kv_cache_uncache(cache, group, node);
    kv_cache_lost(cache, group, node);
    cache->n_evicted++;
}

/* The sequence's path may have to be written to disk; of too many, the newest are not. */
static void kv_cache_note_path(KvCache *cache, const KvSeq *seq) {
    if (cache->disk == NULL || seq->node < 0 || cache->n_paths == KV_CACHE_PATHS_MAX) return;
    cache->path[cache->n_paths++] = (KvPath){seq->node, cache->radix.node[seq->node].prefix};
}

/* Table entries of blocks that are to come from a host slot: below -1. */
static int32_t kv_cache_awaited(int32_t slot) {
    return -2 - slot;
}

static void kv_cache_begin_group(KvCache *cache, KvSeq *seq, int32_t group, const KvMatch *match) {
    KvTable *table = &seq->table[group];
    const int32_t n_blocks = match->n_tokens / cache->config.block_tokens;
    const int32_t first = kv_cache_first_block(cache, group, match->n_tokens);
    CHECK(n_blocks <= table->n_blocks_max);
    int32_t node = match->node;
    for (int32_t i = n_blocks - 1; i >= 0; i--, node = cache->radix.node[node].parent) {
        const KvNode *at = &cache->radix.node[node];
        table->block[i] = -1;
        if (i < first) continue;
        if (at->block[group] >= 0) {
            table->block[i] = at->block[group];
            kv_pool_ref(&cache->pool[group], table->block[i]);
        } else {
            table->block[i] = kv_cache_awaited(at->host[group]);
            kv_tier_pin(&cache->tier, group, at->host[group]);
        }
    }
    table->n_blocks = n_blocks;
    table->n_dropped = MIN(first, n_blocks);
    table->n_tokens = match->n_tokens;
}

/* Takes a block for each awaited one and has it loaded. */
static void kv_cache_load(KvCache *cache, KvSeq *seq, int32_t group, KvMoves *moves) {
    KvTable *table = &seq->table[group];
    KvPool *pool = &cache->pool[group];
    for (int32_t i = table->n_dropped; i < table->n_blocks; i++) {
        if (table->block[i] >= 0) continue;
        const int32_t slot = kv_cache_awaited(table->block[i]); /* its own inverse */
        if (pool->n_free == 0) kv_cache_evict(cache, group, moves);
        table->block[i] = kv_pool_take(pool);
        CHECK(table->block[i] >= 0);
        kv_tier_load(&cache->tier, moves, group, slot, table->block[i], &seq->load);
    }
}

void kv_cache_begin(KvCache *cache, KvSeq *seq, KvSalt salt, const KvMatch *match, KvMoves *moves) {
    const int32_t size = cache->config.block_tokens;
    CHECK(kv_cache_len(seq) == 0);
    seq->salt = salt;
    seq->node = match->node;
    seq->n_cached = match->n_tokens / size;
    seq->keep_out = !cache->config.prefix;
    seq->load = (KvLoad){0};
    for (int32_t g = 0; g < cache->config.n_groups; g++) kv_cache_begin_group(cache, seq, g, match);
    for (; seq->n_cached > match->n_tokens_here / size; seq->n_cached--) {
        seq->node = cache->radix.node[seq->node].parent;
    }
    for (int32_t g = 0; g < cache->config.n_groups; g++) kv_cache_load(cache, seq, g, moves);
    kv_cache_note_path(cache, seq); /* its beginning may have left the disk since */
}

bool kv_cache_append(KvCache *cache, KvSeq *seq, int32_t n, KvMoves *moves) {
    const int32_t size = cache->config.block_tokens;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (kv_cache_need(cache, seq, g, n) > kv_cache_room(cache, g)) return false;
    }
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        KvPool *pool = &cache->pool[g];
        while (pool->n_free < kv_cache_need(cache, seq, g, n)) kv_cache_evict(cache, g, moves);
        KvMove copy = {.kind = KV_MOVE_COPY, .group = g};
        if (!kv_table_append(&seq->table[g], pool, size, n, &copy)) continue;
        CHECK(moves->n < moves->n_max);
        moves->move[moves->n++] = copy;
    }
    return true;
}

/* Drops the oldest block of the tier, else of a pool. False: all are in use. */
static bool kv_cache_evict_any(KvCache *cache) {
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (kv_tier_oldest(&cache->tier, g) < 0) continue;
        kv_cache_evict_host(cache, g);
        return true;
    }
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (kv_pool_oldest(&cache->pool[g]) < 0) continue;
        kv_cache_evict(cache, g, NULL);
        return true;
    }
    return false;
}

/* A node for the sequence's next full block, evicting for it if all nodes are taken; -1: no
 * room. */
static int32_t kv_cache_make_node(KvCache *cache, const KvSeq *seq, const int32_t *token) {
    for (;;) {
        const int32_t node = kv_radix_insert(&cache->radix, seq->salt, seq->node, token);
        if (node >= 0) return node;
        if (!kv_cache_evict_any(cache)) return -1;
    }
}

/* Node and table come to name the same block. */
static void kv_cache_share(KvCache *cache, int32_t group, int32_t node, int32_t *held) {
    KvPool *pool = &cache->pool[group];
    int32_t *block = &cache->radix.node[node].block[group];
    if (*held < 0 || *block == *held) return;
    if (*block < 0) {
        if (pool->node[*held] < 0) {
            kv_pool_set_node(pool, *held, node);
            *block = *held;
            kv_cache_tell(cache, KV_EVENT_STORED, KV_MEDIUM_DEVICE, group, node);
            kv_cache_unhost(cache, group, node);
        }
        return;
    }
    kv_pool_ref(pool, *block);
    kv_pool_unref(pool, *held);
    *held = *block;
}

static void kv_cache_insert(KvCache *cache, KvSeq *seq, const int32_t *token, int32_t n) {
    const int32_t size = cache->config.block_tokens;
    while (!seq->keep_out && (seq->n_cached + 1) * size <= n) {
        const int32_t at = seq->n_cached;
        const int32_t *block_token = token + (size_t)at * (size_t)size;
        int32_t node = kv_radix_find(&cache->radix, seq->salt, seq->node, block_token);
        if (node < 0) node = kv_cache_make_node(cache, seq, block_token);
        if (node < 0) {
            /* Nor does it hold on to where it was, which may be behind the window soon. */
            seq->keep_out = true;
            seq->node = -1;
            seq->n_cached = 0;
            return;
        }
        for (int32_t g = 0; g < cache->config.n_groups; g++) {
            kv_cache_share(cache, g, node, &seq->table[g].block[at]);
        }
        seq->node = node;
        seq->n_cached++;
    }
}

void kv_cache_commit(KvCache *cache, KvSeq *seq, const int32_t *token, int32_t n) {
    CHECK(n <= kv_cache_len(seq));
    const int32_t n_cached = seq->n_cached;
    kv_cache_insert(cache, seq, token, n);
    if (seq->n_cached > n_cached) kv_cache_note_path(cache, seq);
    /* The block of its last node stays, so that the node does; without one nothing ties it. */
    const int32_t end = seq->node < 0 ? n : MAX(seq->n_cached - 1, 0) * cache->config.block_tokens;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        kv_table_drop(&seq->table[g], &cache->pool[g], cache->config.block_tokens,
                      MIN(kv_cache_window_start(cache, g, n), end));
    }
}

void kv_cache_fork(KvCache *cache, KvSeq *dst, const KvSeq *src) {
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        kv_table_fork(&dst->table[g], &src->table[g], &cache->pool[g]);
    }
    dst->salt = src->salt;
    dst->node = src->node;
    dst->n_cached = src->n_cached;
    dst->keep_out = src->keep_out;
}

void kv_cache_truncate(KvCache *cache, KvSeq *seq, int32_t n) {
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        kv_table_truncate(&seq->table[g], &cache->pool[g], cache->config.block_tokens, n);
    }
    while (seq->n_cached > n / cache->config.block_tokens) {
        seq->node = cache->radix.node[seq->node].parent;
        seq->n_cached--;
    }
}

void kv_cache_end(KvCache *cache, KvSeq *seq) {
    kv_tier_abandon(&cache->tier, &seq->load);
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        kv_table_clear(&seq->table[g], &cache->pool[g]);
    }
    seq->node = -1;
    seq->n_cached = 0;
}

static bool kv_cache_has_child_here(const KvCache *cache, int32_t node, int32_t group) {
    int32_t child = cache->radix.node[node].first_child;
    while (child >= 0 && cache->radix.node[child].block[group] < 0) {
        child = cache->radix.node[child].next_sibling;
    }
    return child >= 0;
}

/* Whether the group's block of the node may leave the pool, and there is one. */
static bool kv_cache_can_leave(const KvCache *cache, int32_t group, int32_t node) {
    const int32_t block = cache->radix.node[node].block[group];
    return block >= 0 && cache->pool[group].ref[block] == 0 &&
           (cache->config.window[group] > 0 || !kv_cache_has_child_here(cache, node, group));
}

int32_t kv_cache_swap(KvCache *cache, KvSeq *seq, KvMoves *moves) {
    int32_t n = 0;
    int32_t node = seq->node;
    kv_cache_end(cache, seq);
    for (; node >= 0; node = cache->radix.node[node].parent) {
        for (int32_t g = 0; g < cache->config.n_groups; g++) {
            if (!kv_cache_can_leave(cache, g, node)) {
                if (cache->config.window[g] == 0) return n;
                continue;
            }
            if (!kv_cache_can_save(cache, g, moves)) return n;
            kv_cache_save(cache, g, node, moves);
            n++;
        }
    }
    return n;
}

/* ---- disk -------------------------------------------------------------------------------- */

void kv_cache_set_disk(KvCache *cache, KvDisk *disk, const int64_t block_bytes[KV_GROUPS_MAX]) {
    int64_t offset = 0;
    cache->disk = disk;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        cache->disk_offset[g] = offset;
        offset += block_bytes[g];
    }
}

/* Whether a full group's block of the node is not in the pool: it cannot be read now. */
static bool kv_cache_is_away(const KvCache *cache, const KvNode *node) {
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (cache->config.window[g] == 0 && node->block[g] < 0) return true;
    }
    return false;
}

static void kv_cache_export_node(KvCache *cache, int32_t buffer, int32_t i, KvMoves *moves) {
    KvNode *node = &cache->radix.node[i];
    KvDiskEntry entry = {.prefix = node->prefix,
                         .parent = node->parent >= 0 ? cache->radix.node[node->parent].prefix : 0,
                         .salt = node->salt,
                         .depth = node->depth};
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        entry.groups |= (uint32_t)(node->block[g] >= 0) << g;
    }
    char *payload =
        kv_disk_fill(cache->disk, buffer, &entry, kv_radix_tokens(&cache->radix, i), &node->disk);
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (node->block[g] < 0) continue;
        CHECK(moves->n < moves->n_max);
        moves->move[moves->n++] = (KvMove){.kind = KV_MOVE_READ,
                                           .group = g,
                                           .src = node->block[g],
                                           .bytes = payload + cache->disk_offset[g]};
    }
    cache->n_reading++;
}

/* Has the path's blocks that are not on disk read, the first ones first. False: not all. */
static bool kv_cache_export_path(KvCache *cache, const KvPath *path, KvMoves *moves) {
    int32_t missing[KV_DISK_BUFFERS], n = 0;
    int32_t i = path->node;
    if (cache->radix.node[i].parent == KV_NODE_FREE ||
        cache->radix.node[i].prefix != path->prefix) {
        return true; /* it is gone */
    }
    for (; i >= 0; i = cache->radix.node[i].parent) {
        if (kv_disk_has(cache->disk, &cache->radix.node[i])) continue;
        if (kv_cache_is_away(cache, &cache->radix.node[i])) return true;
        missing[n++ % KV_DISK_BUFFERS] = i;
    }
    /* The ring holds the last ones seen: those nearest to the root. */
    for (int32_t k = n - 1; k >= MAX(0, n - (int32_t)KV_DISK_BUFFERS); k--) {
        const int32_t buffer = kv_disk_take(cache->disk);
        if (buffer < 0) return false;
        kv_cache_export_node(cache, buffer, missing[k % KV_DISK_BUFFERS], moves);
    }
    return n <= KV_DISK_BUFFERS;
}

void kv_cache_export(KvCache *cache, KvMoves *moves) {
    int32_t n = 0;
    if (cache->disk == NULL) return;
    kv_disk_settle(cache->disk);
    while (n < cache->n_paths && kv_cache_export_path(cache, &cache->path[n], moves)) n++;
    cache->n_paths -= n;
    memmove(cache->path, cache->path + n, (size_t)cache->n_paths * sizeof *cache->path);
}

void kv_cache_exported(KvCache *cache, bool ok) {
    if (cache->n_reading > 0) kv_disk_submit(cache->disk, ok);
    cache->n_reading = 0;
}

/* The groups whose block is to be taken over from a record for the node (-1: there is none yet).
 * False: some of them have no room, or a block that the node needs is not in the record. */
static bool kv_cache_plan_restore(const KvCache *cache, const KvDiskEntry *entry, int32_t node,
                                  uint32_t *groups) {
    *groups = 0;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (node >= 0 && cache->radix.node[node].block[g] >= 0) continue;
        const bool has = (entry->groups >> g & 1) != 0;
        if (has ? cache->pool[g].n_free == 0 : cache->config.window[g] == 0) return false;
        *groups |= (uint32_t)has << g;
    }
    return true;
}

int32_t kv_cache_restore(KvCache *cache, const KvDiskEntry *entry, int32_t number,
                         const int32_t *token, void *payload, KvMoves *moves) {
    KvRadix *radix = &cache->radix;
    uint32_t groups;
    int32_t parent = -1;
    if (entry->parent != 0) {
        parent = kv_radix_find_prefix(radix, entry->salt, entry->parent);
        if (parent < 0) return -1;
    }
    /* What was written twice may have different groups' blocks each time. */
    int32_t node = kv_radix_find(radix, entry->salt, parent, token);
    if (!kv_cache_plan_restore(cache, entry, node, &groups) || (node >= 0 && groups == 0))
        return -1;
    if (node < 0) node = kv_radix_insert(radix, entry->salt, parent, token);
    if (node < 0) return -1;
    if (radix->node[node].prefix != entry->prefix) {
        kv_radix_remove(radix, node, false);
        return -1;
    }
    radix->node[node].disk = number;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if ((groups >> g & 1) == 0) continue;
        const int32_t block = kv_pool_take(&cache->pool[g]);
        kv_pool_set_node(&cache->pool[g], block, node);
        radix->node[node].block[g] = block;
        kv_cache_tell(cache, KV_EVENT_STORED, KV_MEDIUM_DEVICE, g, node);
        CHECK(moves->n < moves->n_max);
        moves->move[moves->n++] = (KvMove){.kind = KV_MOVE_WRITE,
                                           .group = g,
                                           .dst = block,
                                           .bytes = (char *)payload + cache->disk_offset[g]};
    }
    return node;
}

void kv_cache_restored(KvCache *cache, int32_t node) {
    if (cache->radix.node[node].parent == KV_NODE_FREE) return; /* it went with its last child */
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        const int32_t block = cache->radix.node[node].block[g];
        if (block >= 0 && cache->pool[g].ref[block] > 0) kv_pool_unref(&cache->pool[g], block);
    }
    /* A windowed path whose blocks are gone and that leads nowhere. */
    kv_cache_prune(cache, node, false);
}

/* ---- host tier --------------------------------------------------------------------------- */

void kv_cache_land(KvCache *cache, const KvMoved *moved) {
    int32_t group, node;
    if (!kv_tier_land(&cache->tier, moved, &group, &node)) return;
    kv_cache_unhost(cache, group, node);
    kv_cache_lost(cache, group, node);
}

void kv_cache_give_up(KvCache *cache, int64_t now_us) {
    for (int64_t ticket; (ticket = kv_tier_overdue(&cache->tier, now_us)) != 0;) {
        const KvMoved lost = {.ticket = ticket, .status = ERR_DEVICE};
        cache->tier.n_lost++;
        kv_cache_land(cache, &lost);
    }
}

/* Whether no other sequence holds a block of seq's last node. */
static bool kv_cache_is_alone(const KvCache *cache, const KvSeq *seq) {
    const KvNode *node = &cache->radix.node[seq->node];
    if (node->first_child >= 0) return false;
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        if (node->block[g] < 0) continue;
        const bool own = seq->table[g].block[node->depth - 1] == node->block[g];
        if (cache->pool[g].ref[node->block[g]] > own) return false;
    }
    return true;
}

void kv_cache_forget(KvCache *cache, KvSeq *seq) {
    while (seq->node >= 0 && kv_cache_is_alone(cache, seq)) {
        const int32_t node = seq->node;
        seq->node = cache->radix.node[node].parent;
        seq->n_cached--;
        for (int32_t g = 0; g < cache->config.n_groups; g++) {
            kv_cache_uncache(cache, g, node);
            kv_cache_unhost(cache, g, node);
        }
        if (cache->disk != NULL) kv_disk_erase(cache->disk, cache->radix.node[node].prefix);
        kv_radix_remove(&cache->radix, node, false);
    }
    seq->keep_out = true;
}

Status kv_cache_clear(KvCache *cache, Err *err) {
    for (int32_t g = 0; g < cache->config.n_groups; g++) {
        while (kv_tier_oldest(&cache->tier, g) >= 0) kv_cache_evict_host(cache, g);
        while (kv_pool_oldest(&cache->pool[g]) >= 0) kv_cache_evict(cache, g, NULL);
    }
    if (cache->radix.n_nodes == 0) { /* else sequences that run hold the rest */
        const KvEvent cleared = {.kind = KV_EVENT_CLEARED};
        kv_event_push(&cache->events, &cleared, NULL);
    }
    return cache->disk == NULL ? OK : kv_disk_clear(cache->disk, err);
}

int64_t kv_cache_slots_wasted(const KvCache *cache, KvSeq *const *seqs, int32_t n_seqs) {
    int64_t n = 0;
    for (int32_t i = 0; i < n_seqs; i++) {
        const KvTable *table = &seqs[i]->table[0];
        n += (int64_t)table->n_blocks * cache->config.block_tokens - table->n_tokens;
    }
    return n;
}
