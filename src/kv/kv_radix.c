#include "kv/kv_radix.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

/* Siblings that an explanation looks at. */
enum { KV_RADIX_EXPLAIN_MAX = 64 };

static uint32_t kv_radix_buckets(int32_t n_nodes_max) {
    uint32_t n = 16;
    while (n < 2 * (uint32_t)n_nodes_max && n < (1u << 30)) n *= 2;
    return n;
}

int64_t kv_radix_bytes(int32_t n_nodes_max, int32_t block_tokens) {
    const int64_t per_node = (int64_t)sizeof(KvNode) + block_tokens * (int64_t)sizeof(int32_t);
    const int64_t per_bucket = (int64_t)(sizeof(uint64_t) + 2 * sizeof(int32_t));
    return n_nodes_max * per_node + kv_radix_buckets(n_nodes_max) * per_bucket;
}

Status kv_radix_init(KvRadix *radix, int32_t n_nodes_max, int32_t block_tokens, Err *err) {
    CHECK(n_nodes_max >= 0 && n_nodes_max <= (1 << 29) && block_tokens >= 1);
    *radix = (KvRadix){.block_tokens = block_tokens,
                       .n_nodes_max = n_nodes_max,
                       .free_head = -1,
                       .root_child = -1,
                       .n_buckets = kv_radix_buckets(n_nodes_max),
                       .hash_mask = UINT64_MAX};
    const size_t n = (size_t)n_nodes_max, n_buckets = radix->n_buckets;
    radix->node = mem_try_alloc(n, sizeof *radix->node);
    radix->token = mem_try_alloc(n * (size_t)block_tokens, sizeof *radix->token);
    radix->bucket = mem_try_alloc(n_buckets, sizeof *radix->bucket);
    radix->evicted = mem_try_alloc(n_buckets, sizeof *radix->evicted);
    radix->root_node = mem_try_alloc(n_buckets, sizeof *radix->root_node);
    if (radix->node == NULL || radix->token == NULL || radix->bucket == NULL ||
        radix->evicted == NULL || radix->root_node == NULL) {
        kv_radix_free(radix);
        FAIL(err, ERR_NOMEM, "no memory for a prefix tree of %d blocks", n_nodes_max);
    }
    memset(radix->bucket, 0xff, n_buckets * sizeof *radix->bucket);
    memset(radix->root_node, 0xff, n_buckets * sizeof *radix->root_node);
    for (int32_t i = n_nodes_max - 1; i >= 0; i--) {
        radix->node[i].parent = KV_NODE_FREE;
        radix->node[i].next_hash = radix->free_head;
        radix->free_head = i;
    }
    return OK;
}

void kv_radix_free(KvRadix *radix) {
    mem_free(radix->node);
    mem_free(radix->token);
    mem_free(radix->bucket);
    mem_free(radix->evicted);
    mem_free(radix->root_node);
    *radix = (KvRadix){0};
}

static size_t kv_radix_block_bytes(const KvRadix *radix) {
    return (size_t)radix->block_tokens * sizeof(int32_t);
}

const int32_t *kv_radix_tokens(const KvRadix *radix, int32_t node) {
    return radix->token + (size_t)node * (size_t)radix->block_tokens;
}

static uint64_t kv_radix_hash(const KvRadix *radix, KvSalt salt, int32_t parent,
                              const int32_t *token) {
    const uint64_t above =
        parent >= 0 ? radix->node[parent].prefix : hash_mix(salt.word[0]) ^ salt.word[1];
    /* Never 0, which means "nothing" in the table of what was evicted. */
    return hash_bytes(token, kv_radix_block_bytes(radix), above) | 1;
}

static bool kv_radix_salt_equal(KvSalt a, KvSalt b) {
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static uint32_t kv_radix_bucket(const KvRadix *radix, uint64_t hash) {
    return (uint32_t)((hash & radix->hash_mask) >> 1) & (radix->n_buckets - 1);
}

static bool kv_radix_hash_equal(const KvRadix *radix, uint64_t a, uint64_t b) {
    return ((a ^ b) & radix->hash_mask) == 0;
}

int32_t kv_radix_find(const KvRadix *radix, KvSalt salt, int32_t parent, const int32_t *token) {
    const uint64_t hash = kv_radix_hash(radix, salt, parent, token);
    int32_t i = radix->bucket[kv_radix_bucket(radix, hash)];
    for (; i >= 0; i = radix->node[i].next_hash) {
        const KvNode *node = &radix->node[i];
        if (kv_radix_hash_equal(radix, node->prefix, hash) && node->parent == parent &&
            kv_radix_salt_equal(node->salt, salt) &&
            memcmp(kv_radix_tokens(radix, i), token, kv_radix_block_bytes(radix)) == 0) {
            return i;
        }
    }
    return -1;
}

int32_t kv_radix_find_prefix(const KvRadix *radix, KvSalt salt, uint64_t prefix) {
    int32_t i = radix->bucket[kv_radix_bucket(radix, prefix)];
    while (i >= 0 &&
           (radix->node[i].prefix != prefix || !kv_radix_salt_equal(radix->node[i].salt, salt))) {
        i = radix->node[i].next_hash;
    }
    return i;
}

static uint32_t kv_radix_root_slot(const KvRadix *radix, const int32_t *token) {
    return (uint32_t)hash_bytes(token, kv_radix_block_bytes(radix), 0) & (radix->n_buckets - 1);
}

/* The head of the list of children; parent -1: the root's. */
static int32_t *kv_radix_children(KvRadix *radix, int32_t parent) {
    return parent >= 0 ? &radix->node[parent].first_child : &radix->root_child;
}

int32_t kv_radix_insert(KvRadix *radix, KvSalt salt, int32_t parent, const int32_t *token) {
    const int32_t i = radix->free_head;
    if (i < 0) return -1;
    KvNode *node = &radix->node[i];
    CHECK(node->parent == KV_NODE_FREE);
    radix->free_head = node->next_hash;
    radix->n_nodes++;
    memcpy(radix->token + (size_t)i * (size_t)radix->block_tokens, token,
           kv_radix_block_bytes(radix));
    *node = (KvNode){.prefix = kv_radix_hash(radix, salt, parent, token),
                     .salt = salt,
                     .parent = parent,
                     .first_child = -1,
                     .next_sibling = -1,
                     .prev_sibling = -1,
                     .depth = 1,
                     .block = {-1, -1},
                     .host = {-1, -1},
                     .disk = -1};
    int32_t *bucket = &radix->bucket[kv_radix_bucket(radix, node->prefix)];
    node->next_hash = *bucket;
    *bucket = i;
    if (parent >= 0) {
        node->depth = radix->node[parent].depth + 1;
    } else {
        radix->root_node[kv_radix_root_slot(radix, token)] = i;
    }
    int32_t *head = kv_radix_children(radix, parent);
    node->next_sibling = *head;
    if (*head >= 0) radix->node[*head].prev_sibling = i;
    *head = i;
    return i;
}

void kv_radix_remove(KvRadix *radix, int32_t i, bool evicted) {
    KvNode *node = &radix->node[i];
    CHECK(node->parent != KV_NODE_FREE && node->first_child < 0);
    const uint32_t slot = kv_radix_bucket(radix, node->prefix);
    int32_t *link = &radix->bucket[slot];
    while (*link != i) link = &radix->node[*link].next_hash;
    *link = node->next_hash;
    if (evicted) radix->evicted[slot] = node->prefix;
    if (node->prev_sibling >= 0) {
        radix->node[node->prev_sibling].next_sibling = node->next_sibling;
    } else {
        *kv_radix_children(radix, node->parent) = node->next_sibling;
    }
    if (node->next_sibling >= 0) {
        radix->node[node->next_sibling].prev_sibling = node->prev_sibling;
    }
    node->parent = KV_NODE_FREE;
    node->next_hash = radix->free_head;
    radix->free_head = i;
    radix->n_nodes--;
}

/* Whether the first block is cached under another salt. */
static bool kv_radix_has_other_salt(const KvRadix *radix, KvSalt salt, const int32_t *token) {
    const int32_t i = radix->root_node[kv_radix_root_slot(radix, token)];
    return i >= 0 && radix->node[i].parent == -1 &&
           !kv_radix_salt_equal(radix->node[i].salt, salt) &&
           memcmp(kv_radix_tokens(radix, i), token, kv_radix_block_bytes(radix)) == 0;
}

/* Tokens that the likeliest child of parent has in common with token[]. */
static int32_t kv_radix_common(const KvRadix *radix, KvSalt salt, int32_t parent,
                               const int32_t *token) {
    int32_t best = 0;
    int32_t child = parent >= 0 ? radix->node[parent].first_child : radix->root_child;
    for (int32_t n = 0; child >= 0 && n < KV_RADIX_EXPLAIN_MAX; n++) {
        const KvNode *node = &radix->node[child];
        const int32_t *other = kv_radix_tokens(radix, child);
        int32_t equal = 0;
        if (kv_radix_salt_equal(node->salt, salt)) {
            while (equal < radix->block_tokens && other[equal] == token[equal]) equal++;
        }
        best = MAX(best, equal);
        child = node->next_sibling;
    }
    return best;
}

KvMiss kv_radix_explain(const KvRadix *radix, KvSalt salt, int32_t parent, const int32_t *token,
                        int32_t *n_equal) {
    *n_equal = 0;
    const uint64_t hash = kv_radix_hash(radix, salt, parent, token);
    const uint64_t evicted = radix->evicted[kv_radix_bucket(radix, hash)];
    if (evicted != 0 && kv_radix_hash_equal(radix, evicted, hash)) return KV_MISS_EVICTED;
    if (parent < 0 && kv_radix_has_other_salt(radix, salt, token)) return KV_MISS_SALT;
    *n_equal = kv_radix_common(radix, salt, parent, token);
    if (*n_equal > 0) return KV_MISS_DIFFERENT;
    if (parent < 0) return KV_MISS_NEW;
    /* Nothing goes on from here: what was cached was all used. */
    return radix->node[parent].first_child < 0 ? KV_MISS_NONE : KV_MISS_DIFFERENT;
}

static Status kv_radix_audit_node(const KvRadix *radix, int32_t i, int32_t *n_linked, Err *err) {
    const KvNode *node = &radix->node[i];
    const int32_t *token = kv_radix_tokens(radix, i);
    if (kv_radix_find(radix, node->salt, node->parent, token) != i) {
        FAIL(err, ERR_ARG, "prefix tree: node %d is not found under its own key", i);
    }
    if (node->parent >= 0) {
        const KvNode *parent = &radix->node[node->parent];
        if (parent->parent == KV_NODE_FREE || parent->depth + 1 != node->depth ||
            !kv_radix_salt_equal(parent->salt, node->salt)) {
            FAIL(err, ERR_ARG, "prefix tree: node %d has parent %d of another path", i,
                 node->parent);
        }
    }
    int32_t prev = -1;
    for (int32_t c = node->first_child; c >= 0; c = radix->node[c].next_sibling) {
        if (radix->node[c].parent != i || radix->node[c].prev_sibling != prev) {
            FAIL(err, ERR_ARG, "prefix tree: child %d of node %d is linked wrongly", c, i);
        }
        prev = c;
        (*n_linked)++;
    }
    return OK;
}

Status kv_radix_audit(const KvRadix *radix, Err *err) {
    int32_t n_nodes = 0, n_linked = 0;
    for (int32_t i = 0; i < radix->n_nodes_max; i++) {
        if (radix->node[i].parent == KV_NODE_FREE) continue;
        n_nodes++;
        TRY(kv_radix_audit_node(radix, i, &n_linked, err));
    }
    for (int32_t i = radix->root_child; i >= 0; i = radix->node[i].next_sibling) n_linked++;
    if (n_nodes != radix->n_nodes || n_linked != n_nodes) {
        FAIL(err, ERR_ARG, "prefix tree: %d nodes are in use, %d are counted, %d are linked",
             n_nodes, radix->n_nodes, n_linked);
    }
    return OK;
}
