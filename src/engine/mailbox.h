/* mailbox: the only place where the engine's thread and its callers meet.
 *
 * Callers leave requests and cancellations and take events; the engine's thread takes requests and
 * leaves news. One lock, held for moments. It also knows which ids are alive and keeps finished
 * requests until a caller's thread can free them. */
#pragma once

#include <pthread.h>

#include "engine/request.h"

/* What a caller may ask the engine's thread to do between two steps. */
typedef enum MailboxAsk {
    MAILBOX_AUDIT,
    MAILBOX_BLOCKS, /* fill blocks */
    MAILBOX_CLEAR,  /* drop what is cached and idle */
    MAILBOX_ASKS
} MailboxAsk;

typedef struct Mailbox {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the engine's thread: there is something to do */
    pthread_cond_t news; /* the polling thread, and who waits for an answer */
    int event_fd;        /* readable while news waits */
    int32_t n_slots, n_free_slots;
    Request **slot;     /* [n_slots] the request of id is at (id - 1) % n_slots */
    int32_t *free_slot; /* [n_slots] */
    uint64_t n_ids;
    int32_t n_waiting, n_waiting_max; /* requests that no step has begun yet */
    Request *submitted, *submitted_last, *cancelled;
    Request *dead; /* finished; to be freed by a caller's thread */
    Seq *news_first, *news_last;
    Request *polled; /* its last event is with the caller until the next poll */
    Buf poll_text;
    bool stop;
    int64_t n_asked[MAILBOX_ASKS], n_answered[MAILBOX_ASKS];
    Err answer[MAILBOX_ASKS]; /* status OK: it went well */
    sluice_kv_block *blocks;  /* [n_blocks] as they stood when they were last asked for */
    int32_t n_blocks;
    sluice_stats stats;
} Mailbox;

typedef struct MailboxSizes {
    int32_t n_slots, n_waiting_max, n_blocks;
} MailboxSizes;

int64_t mailbox_bytes(const MailboxSizes *sizes);
MUST_USE Status mailbox_init(Mailbox *mailbox, const MailboxSizes *sizes, Err *err);
/* Frees every request that is still there. No other thread may use it any more. */
void mailbox_free(Mailbox *mailbox);

/* ---- callers' threads ---- */

/* Takes the request, unless it fails: ERR_LIMIT when the queue is full. */
MUST_USE Status mailbox_submit(Mailbox *mailbox, Request *request, uint64_t *id, Err *err);
void mailbox_cancel(Mailbox *mailbox, uint64_t id);
/* As sluice_poll. */
bool mailbox_poll(Mailbox *mailbox, int64_t timeout_us, sluice_event *event);
/* Asks and waits for the answer, timeout_us at most (-1: without end); returns it. ERR_LIMIT: the
 * engine's thread did not come to it in time; ERR_CANCELLED: it is closing. */
MUST_USE Status mailbox_ask(Mailbox *mailbox, MailboxAsk ask, int64_t timeout_us, Err *err);
/* The blocks as last filled, into blocks[0..capacity); returns how many there are. */
int32_t mailbox_get_blocks(Mailbox *mailbox, sluice_kv_block *blocks, int32_t capacity);
void mailbox_get_stats(Mailbox *mailbox, sluice_stats *stats);
void mailbox_stop(Mailbox *mailbox);

/* ---- the engine's thread ---- */

typedef struct MailboxTaken {
    Request *submitted;            /* linked by next, oldest first */
    Request *cancelled;            /* linked by next_cancel */
    int64_t n_asked[MAILBOX_ASKS]; /* so far */
    bool stop;
} MailboxTaken;
MailboxTaken mailbox_take(Mailbox *mailbox);
/* Sleeps until there is something to take or the time (CLOCK_MONOTONIC us; INT64_MAX: none). */
void mailbox_wait(Mailbox *mailbox, int64_t until_us);
/* The lock around changes of a polled sequence's output; then mailbox_tell. */
void mailbox_lock(Mailbox *mailbox);
void mailbox_unlock(Mailbox *mailbox);
/* seq has news: puts it in line for mailbox_poll. Under the lock. */
void mailbox_tell(Mailbox *mailbox, Seq *seq);
/* The request takes no cancellation any more. Under the lock. */
void mailbox_finish(Mailbox *mailbox, Request *request);
/* A request with callbacks is over: a caller's thread frees it. Takes it. */
void mailbox_retire(Mailbox *mailbox, Request *request);
/* Publishes the step's figures; n_left_queue requests do not wait any more. */
void mailbox_publish(Mailbox *mailbox, const sluice_stats *stats, int32_t n_left_queue);
/* What was asked for the n-th time is done, or failed with answer. Under the lock. */
void mailbox_answer(Mailbox *mailbox, MailboxAsk ask, int64_t n, const Err *answer);
