/* kv_event: what enters and leaves the prefix cache, in order, for whoever mirrors it.
 *
 * A ring of the last events. Numbers count from 0 without a gap; when nobody reads, the oldest are
 * overwritten and counted. One thread writes, any may read: a lock is held for moments. All memory
 * is allocated by init. */
#pragma once

#include <pthread.h>

#include "base/status.h"

typedef enum KvEventKind {
    KV_EVENT_STORED,  /* the block can be hit from now on */
    KV_EVENT_REMOVED, /* it cannot any more */
    KV_EVENT_CLEARED  /* nothing is cached any more, in any group and medium */
} KvEventKind;

typedef enum KvMedium { KV_MEDIUM_DEVICE, KV_MEDIUM_HOST } KvMedium;

typedef struct KvEvent {
    uint64_t number;
    KvEventKind kind;
    KvMedium medium;
    int32_t group;
    uint64_t hash, parent_hash; /* of salt and tokens from the beginning; parent_hash 0: none */
} KvEvent;

typedef struct KvEventRing {
    int32_t n_max, block_tokens;
    KvEvent *event;  /* [n_max] event i is at i % n_max */
    int32_t *token;  /* [n_max][block_tokens] of stored blocks */
    uint64_t n;      /* events so far */
    uint64_t n_read; /* the first that nobody has read */
    uint64_t n_lost; /* overwritten unread */
    int32_t n_readers_waiting;
    pthread_mutex_t lock;
    pthread_cond_t news;
} KvEventRing;

int64_t kv_event_bytes(int32_t n_max, int32_t block_tokens);
/* n_max 0: nothing is kept and no event is counted. */
MUST_USE Status kv_event_init(KvEventRing *ring, int32_t n_max, int32_t block_tokens, Err *err);
/* Accepts a zeroed ring. */
void kv_event_free(KvEventRing *ring);

/* Appends an event; its number is set here. token: block_tokens of a stored block, else NULL. */
void kv_event_push(KvEventRing *ring, const KvEvent *event, const int32_t *token);

/* Copies event number `from`, or the oldest after it that is still there, and into
 * token[block_tokens] those of a stored block. Waits up to timeout_us (-1: without end); false when
 * there is none. */
bool kv_event_read(KvEventRing *ring, uint64_t from, int64_t timeout_us, KvEvent *event,
                   int32_t *token);
/* Events so far, and how many of them were overwritten unread. */
void kv_event_count(KvEventRing *ring, int64_t *n, int64_t *n_lost);
