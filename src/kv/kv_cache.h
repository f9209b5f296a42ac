/* kv_cache: the KV memory of all sequences: pools, tables and the prefix tree as one.
 *
 * Each KV group (full layers, windowed layers) has its own pool. A full block is put into the tree
 * as soon as it is computed, so requests that run at the same time share too; when the tree has the
 * block already, the sequence takes the tree's and gives its own back (equal tokens mean equal
 * bits). Hence a sequence that holds a cached block of a full group holds all its parents, and the
 * least recently used idle block never has children in the pool. Blocks of a windowed group may
 * leave at any time; the node stays for the other group.
 *
 * With a host tier a block that leaves the pool moves there, and comes back when a prompt begins
 * with it: the sequence takes fresh blocks and waits until they have arrived whole. A node's block
 * is in the pool or in the tier, never in both. One thread; all memory is allocated by init. */
#pragma once

#include "kv/kv_disk.h"
#include "kv/kv_event.h"
#include "kv/kv_radix.h"
#include "kv/kv_table.h"
#include "kv/kv_tier.h"

typedef struct KvCacheConfig {
    int32_t n_groups, block_tokens;
    int32_t n_blocks[KV_GROUPS_MAX];
    int32_t window[KV_GROUPS_MAX]; /* 0: none */
    bool prefix;                   /* keep a prefix tree */
    int32_t n_host[KV_GROUPS_MAX]; /* slots of the host tier */
    int32_t n_flights;             /* blocks on their way to and from it at once */
    int32_t n_events;              /* of the tree that are kept for readers; 0: none */
    uint64_t hash_ignored;         /* bits of a prefix hash that a lookup ignores; tests set some */
} KvCacheConfig;

enum { KV_CACHE_PATHS_MAX = 256 };

/* The end of a path of the tree that may have to be written to disk. */
typedef struct KvPath {
    int32_t node;
    uint64_t prefix; /* of the node, which may be another by now */
} KvPath;

typedef struct KvCache {
    KvCacheConfig config;
    KvPool pool[KV_GROUPS_MAX];
    KvRadix radix;
    KvEventRing events;
    KvTier tier;
    KvDisk *disk;                       /* borrowed; NULL: none */
    int64_t disk_offset[KV_GROUPS_MAX]; /* of a group's block in a record's payload */
    KvPath path[KV_CACHE_PATHS_MAX];    /* to be written, the oldest first */
    int32_t n_paths, n_reading;         /* records whose blocks this step reads */
    int32_t *audit_ref;                 /* scratch of the audit */
    int64_t n_evicted;                  /* blocks that left the tree for want of room */
} KvCache;

/* The KV of one sequence. */
typedef struct KvSeq {
    KvTable table[KV_GROUPS_MAX];
    KvSalt salt;
    int32_t node;     /* of the last block that is in the tree, -1: none yet */
    int32_t n_cached; /* leading blocks that are in the tree */
    bool keep_out;    /* no further blocks go into the tree */
    KvLoad load;      /* blocks that are on their way from the host */
} KvSeq;

int64_t kv_cache_bytes(const KvCacheConfig *config);
MUST_USE Status kv_cache_init(KvCache *cache, const KvCacheConfig *config, Err *err);
void kv_cache_free(KvCache *cache);

/* An empty sequence with room for n_tokens_max; memory: kv_cache_seq_ints of int32. */
size_t kv_cache_seq_ints(const KvCacheConfig *config, int32_t n_tokens_max);
void kv_cache_seq_init(const KvCache *cache, KvSeq *seq, int32_t *memory, int32_t n_tokens_max);
/* Tokens that the sequence has slots for. */
int32_t kv_cache_len(const KvSeq *seq);

typedef struct KvMatch {
    int32_t n_tokens;              /* that are cached: whole blocks */
    int32_t n_tokens_here;         /* those before the first that the host tier has */
    int32_t node;                  /* of the last of them, -1: none */
    int32_t n_idle[KV_GROUPS_MAX]; /* idle blocks that taking the match would hold */
    int32_t n_load[KV_GROUPS_MAX]; /* blocks that would come from the host tier */
    KvMiss miss;
    int32_t miss_at; /* first token that is not cached, or that differs */
} KvMatch;

/* The longest cached beginning of token[0..n); at most n - 1 tokens, as the last must be computed.
 * Changes nothing. */
void kv_cache_match(const KvCache *cache, KvSalt salt, const int32_t *token, int32_t n,
                    KvMatch *out);
/* seq (empty) takes what was matched; nothing may have changed since, and the pool must have room
 * for what comes from the host. That has arrived when load.n_flying is 0: then kv_cache_commit, or
 * kv_cache_end if load.failed. */
void kv_cache_begin(KvCache *cache, KvSeq *seq, KvSalt salt, const KvMatch *match, KvMoves *moves);

/* Blocks of the group that are free or can be made so. */
int32_t kv_cache_room(const KvCache *cache, int32_t group);
/* Blocks of the group that n more tokens take. */
int32_t kv_cache_need(const KvCache *cache, const KvSeq *seq, int32_t group, int32_t n);
/* Makes slots for n more tokens, evicting what is idle. False, and nothing changed, when some group
 * lacks blocks. Block copies to make (at most one per group) and what moves to the host are
 * appended to moves. */
MUST_USE bool kv_cache_append(KvCache *cache, KvSeq *seq, int32_t n, KvMoves *moves);
/* The KV of token[0..n) is computed: full blocks go into the tree, blocks behind the window go. */
void kv_cache_commit(KvCache *cache, KvSeq *seq, const int32_t *token, int32_t n);
/* dst (empty) shares all blocks of src. */
void kv_cache_fork(KvCache *cache, KvSeq *dst, const KvSeq *src);
/* Cuts back to n tokens; blocks that a window freed do not come back. */
void kv_cache_truncate(KvCache *cache, KvSeq *seq, int32_t n);
/* Gives everything back. */
void kv_cache_end(KvCache *cache, KvSeq *seq);
/* As kv_cache_end; cached blocks that nobody else holds then move to the host tier at once, the
 * last first, as far as it takes them. Returns how many. */
int32_t kv_cache_swap(KvCache *cache, KvSeq *seq, KvMoves *moves);

/* From now on cached blocks are written to disk. block_bytes: of each group. */
void kv_cache_set_disk(KvCache *cache, KvDisk *disk, const int64_t block_bytes[KV_GROUPS_MAX]);
/* Has what is new in the tree read for the disk, as far as it takes it; before a step's plan. */
void kv_cache_export(KvCache *cache, KvMoves *moves);
/* The step's moves were made, or (ok false) failed. */
void kv_cache_exported(KvCache *cache, bool ok);
/* Puts a record's blocks into the tree; they are held until kv_cache_restored. Parents come first.
 * Returns the node; -1: no room, no parent, nothing new, or not what its hash says. */
int32_t kv_cache_restore(KvCache *cache, const KvDiskEntry *entry, int32_t number,
                         const int32_t *token, void *payload, KvMoves *moves);
/* The bytes are there. Children before parents, any of them several times; a path that leads to no
 * block is removed. */
void kv_cache_restored(KvCache *cache, int32_t node);

/* A move to or from the host is over. */
void kv_cache_land(KvCache *cache, const KvMoved *moved);
/* Gives up what has been on its way for too long at now_us (INT64_MAX: everything). */
void kv_cache_give_up(KvCache *cache, int64_t now_us);
/* Takes the sequence's blocks out of the tree, and off the disk, as far as no other sequence holds
 * them: their content is not to be trusted. Call before kv_cache_end. */
void kv_cache_forget(KvCache *cache, KvSeq *seq);
/* Drops all idle blocks, what the host tier holds and what is on disk. */
MUST_USE Status kv_cache_clear(KvCache *cache, Err *err);

/* Slots of used blocks that hold no token, summed over the sequences' last blocks. */
int64_t kv_cache_slots_wasted(const KvCache *cache, KvSeq *const *seqs, int32_t n_seqs);
/* Checks every invariant of pools, tables and tree; seqs are all that hold blocks. */
MUST_USE Status kv_cache_audit(const KvCache *cache, KvSeq *const *seqs, int32_t n_seqs, Err *err);
