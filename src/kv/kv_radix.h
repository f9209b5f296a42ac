/* kv_radix: the prefix tree: which cached blocks hold the KV of which beginnings.
 *
 * A node is one full block of tokens after its parent's; the path from the root is the prompt. A
 * child is found by hash and verified by parent, salt and token ids, so a collision is a miss.
 * Trees of different salts share nothing. It also remembers what left and what is near, to explain
 * a miss. Blocks are numbers here; who holds them is kv_cache's business. One thread; all memory is
 * allocated by init. */
#pragma once

#include "base/status.h"

enum { KV_GROUPS_MAX = 2, KV_BLOCK_TOKENS_MAX = 256 };

/* Separates tenants: nodes match only under an equal salt. */
typedef struct KvSalt {
    uint64_t word[2];
} KvSalt;

typedef struct KvNode {
    uint64_t prefix; /* hash of salt and tokens from the root to here */
    KvSalt salt;
    int32_t parent; /* -1: first block of a prompt; KV_NODE_FREE: not in use */
    int32_t first_child, next_sibling, prev_sibling; /* -1: none */
    int32_t next_hash;            /* in its bucket, or in the list of free nodes */
    int32_t depth;                /* blocks from the root, this one included */
    int32_t block[KV_GROUPS_MAX]; /* of the pool; -1: this group's block is gone */
    int32_t host[KV_GROUPS_MAX];  /* slot of the host tier; -1: none */
    int32_t disk;                 /* the record that was last written for it; -1: none */
} KvNode;

enum { KV_NODE_FREE = -2 };

typedef struct KvRadix {
    int32_t block_tokens, n_nodes_max, n_nodes;
    KvNode *node;   /* [n_nodes_max] */
    int32_t *token; /* [n_nodes_max][block_tokens] */
    int32_t free_head;
    int32_t root_child; /* first blocks of all salts, linked as siblings */
    uint32_t n_buckets; /* a power of two */
    int32_t *bucket;    /* [n_buckets] first node, -1 */
    uint64_t *evicted;  /* [n_buckets] prefix hashes that left lately; direct-mapped */
    int32_t *root_node; /* [n_buckets] a node by the saltless hash of its first block, -1 */
    uint64_t hash_mask; /* bits compared: all ones; fewer force collisions */
} KvRadix;

int64_t kv_radix_bytes(int32_t n_nodes_max, int32_t block_tokens);
MUST_USE Status kv_radix_init(KvRadix *radix, int32_t n_nodes_max, int32_t block_tokens, Err *err);
/* Accepts a zeroed tree. */
void kv_radix_free(KvRadix *radix);

/* The child of parent (-1: the root of the salt) with these block_tokens tokens; -1: none. */
int32_t kv_radix_find(const KvRadix *radix, KvSalt salt, int32_t parent, const int32_t *token);
/* The node of that hash; -1: none. */
int32_t kv_radix_find_prefix(const KvRadix *radix, KvSalt salt, uint64_t prefix);
/* Adds that child, which must not exist, with no blocks. -1 when there is no node left. */
int32_t kv_radix_insert(KvRadix *radix, KvSalt salt, int32_t parent, const int32_t *token);
/* The block_tokens tokens of a node. */
const int32_t *kv_radix_tokens(const KvRadix *radix, int32_t node);
/* Removes a node without children. evicted: remember that it was there. */
void kv_radix_remove(KvRadix *radix, int32_t node, bool evicted);

/* Why the walk ended where the next block of tokens was not found. */
typedef enum KvMiss {
    KV_MISS_NONE,      /* everything that could be cached was */
    KV_MISS_NEW,       /* nothing with this beginning was seen */
    KV_MISS_DIFFERENT, /* a cached prompt differs at the token */
    KV_MISS_EVICTED,   /* it was cached and had to leave */
    KV_MISS_SHORT,     /* the rest is below one block */
    KV_MISS_SALT,      /* cached under another salt */
    KV_MISS_WINDOW,    /* blocks behind the sliding window are gone */
    KV_MISS_OFF        /* nothing is cached at all */
} KvMiss;

/* Explains that kv_radix_find(salt, parent, token) found nothing. *n_equal: how many of the tokens
 * a cached block has in common. Looks at a bounded number of siblings. */
KvMiss kv_radix_explain(const KvRadix *radix, KvSalt salt, int32_t parent, const int32_t *token,
                        int32_t *n_equal);

/* Checks links, hashes and counts. ERR_ARG with a sentence when something is off. */
MUST_USE Status kv_radix_audit(const KvRadix *radix, Err *err);
