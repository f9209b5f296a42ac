/* kv_tier: the host-memory tier: which slot holds which cached block, and what is on its way.
 *
 * A slot is free, or holds the block of a prefix-tree node. What is on its way between a slot and
 * the pool is a flight; it has a ticket, and a time after which it counts as lost, so that nothing
 * waits for ever. News of an unknown ticket (late, or told twice) is counted and changes nothing.
 * A slot that flies to the pool is pinned: it is not given to another block until it has landed.
 * Only numbers live here; the runner moves the bytes. One thread; all memory is allocated by
 * init. */
#pragma once

#include "kv/kv_move.h"
#include "kv/kv_radix.h"

/* Blocks that fly to one sequence. */
typedef struct KvLoad {
    int32_t n_flying;
    bool failed; /* some did not arrive whole */
} KvLoad;

typedef struct KvSlot {
    int32_t node;       /* whose block it holds; -1: none */
    int32_t next, prev; /* in the free list (next only) or by age */
    int32_t n_pins;     /* flights to the pool */
    bool ready;         /* the bytes are there and checksum is theirs */
    int64_t ticket;     /* of the flight that brings or brought them */
    uint64_t checksum;
} KvSlot;

typedef struct KvTierGroup {
    int32_t n_slots, n_free;
    KvSlot *slot; /* [n_slots] */
    int32_t free_head, oldest, newest;
} KvTierGroup;

typedef struct KvFlight {
    int64_t ticket; /* 0: not in use */
    KvMoveKind kind;
    int32_t group, slot;
    int32_t next_free;
    KvLoad *owner; /* of a load; NULL: nobody waits any more */
    int64_t until_us;
} KvFlight;

typedef struct KvTier {
    KvTierGroup group[KV_GROUPS_MAX];
    KvFlight *flight; /* [n_flights_max] ticket t is at t % n_flights_max */
    int32_t n_flights_max, n_flights;
    int32_t n_reserved; /* pinned and not flying yet */
    int32_t free_flight;
    int64_t n_tickets;
    int64_t now_us; /* set by whoever begins a step */
    int64_t n_saved, n_loaded, n_checksum_errors, n_lost, n_late;
} KvTier;

/* Bytes that init allocates; slots per group, flights at once. */
int64_t kv_tier_bytes(const int32_t n_slots[KV_GROUPS_MAX], int32_t n_flights_max);
MUST_USE Status kv_tier_init(KvTier *tier, const int32_t n_slots[KV_GROUPS_MAX],
                             int32_t n_flights_max, Err *err);
/* Accepts a zeroed tier. */
void kv_tier_free(KvTier *tier);

/* Whether n more flights can begin. */
bool kv_tier_can_fly(const KvTier *tier, int32_t n);
/* The slot that was filled the longest ago and is not pinned; -1: none. */
int32_t kv_tier_oldest(const KvTier *tier, int32_t group);
/* A free slot for the node's block, with the move that fills it; -1: no slot is free or nothing
 * more can fly. */
int32_t kv_tier_save(KvTier *tier, KvMoves *moves, int32_t group, int32_t block, int32_t node);
/* Whether the slot's bytes can be loaded. */
bool kv_tier_is_ready(const KvTier *tier, int32_t group, int32_t slot);
/* The slot stays as it is until it was loaded: call kv_tier_load once for each pin. */
void kv_tier_pin(KvTier *tier, int32_t group, int32_t slot);
/* The move of a pinned slot into the block, for whoever waits for load. */
void kv_tier_load(KvTier *tier, KvMoves *moves, int32_t group, int32_t slot, int32_t block,
                  KvLoad *load);
/* The node gives its slot up. */
void kv_tier_drop(KvTier *tier, int32_t group, int32_t slot);
/* Nobody waits for these blocks any more. */
void kv_tier_abandon(KvTier *tier, KvLoad *load);

/* A flight is over. True: the slot of *node in *group is of no use and must be dropped. */
bool kv_tier_land(KvTier *tier, const KvMoved *moved, int32_t *group, int32_t *node);
/* The ticket of a flight whose time is over at now_us; 0: none. A clock that was set back gives
 * none of them more time than a new one has. */
int64_t kv_tier_overdue(KvTier *tier, int64_t now_us);

/* Checks lists, pins and counts. ERR_ARG with a sentence when something is off. */
MUST_USE Status kv_tier_audit(const KvTier *tier, Err *err);
