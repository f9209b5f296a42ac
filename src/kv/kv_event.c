#include "kv/kv_event.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

int64_t kv_event_bytes(int32_t n_max, int32_t block_tokens) {
    return n_max * ((int64_t)sizeof(KvEvent) + block_tokens * (int64_t)sizeof(int32_t));
}

Status kv_event_init(KvEventRing *ring, int32_t n_max, int32_t block_tokens, Err *err) {
    *ring = (KvEventRing){.n_max = n_max, .block_tokens = block_tokens};
    if (n_max == 0) return OK;
    ring->event = mem_try_alloc((size_t)n_max, sizeof *ring->event);
    ring->token = mem_try_alloc((size_t)n_max * (size_t)block_tokens, sizeof *ring->token);
    if (ring->event == NULL || ring->token == NULL) {
        mem_free(ring->event);
        mem_free(ring->token);
        *ring = (KvEventRing){0};
        FAIL(err, ERR_NOMEM, "no memory for the last %d events of the prefix cache", n_max);
    }
    pthread_condattr_t attr;
    CHECK(pthread_mutex_init(&ring->lock, NULL) == 0);
    CHECK(pthread_condattr_init(&attr) == 0);
    CHECK(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&ring->news, &attr) == 0);
    pthread_condattr_destroy(&attr);
    return OK;
}

void kv_event_free(KvEventRing *ring) {
    if (ring->n_max > 0) {
        pthread_cond_destroy(&ring->news);
        pthread_mutex_destroy(&ring->lock);
        mem_free(ring->event);
        mem_free(ring->token);
    }
    *ring = (KvEventRing){0};
}

static void kv_event_lock(KvEventRing *ring) {
    CHECK(pthread_mutex_lock(&ring->lock) == 0);
}

static void kv_event_unlock(KvEventRing *ring) {
    CHECK(pthread_mutex_unlock(&ring->lock) == 0);
}

/* The oldest that is still there. */
static uint64_t kv_event_first(const KvEventRing *ring) {
    return ring->n > (uint64_t)ring->n_max ? ring->n - (uint64_t)ring->n_max : 0;
}

static int32_t *kv_event_tokens(const KvEventRing *ring, uint64_t number) {
    return ring->token + (number % (uint64_t)ring->n_max) * (uint64_t)ring->block_tokens;
}

void kv_event_push(KvEventRing *ring, const KvEvent *event, const int32_t *token) {
    if (ring->n_max == 0) return;
    kv_event_lock(ring);
    if (ring->n - ring->n_read >= (uint64_t)ring->n_max) { /* the oldest goes unread */
        ring->n_lost++;
        ring->n_read++;
    }
    KvEvent *own = &ring->event[ring->n % (uint64_t)ring->n_max];
    *own = *event;
    own->number = ring->n;
    if (token != NULL) {
        memcpy(kv_event_tokens(ring, ring->n), token, (size_t)ring->block_tokens * sizeof *token);
    }
    ring->n++;
    if (ring->n_readers_waiting > 0) CHECK(pthread_cond_broadcast(&ring->news) == 0);
    kv_event_unlock(ring);
}

/* Waits under the lock for event `from`. */
static void kv_event_wait(KvEventRing *ring, uint64_t from, int64_t timeout_us) {
    struct timespec until;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    const int64_t us = until.tv_nsec / 1000 + MIN(timeout_us, (int64_t)86400 * 1000000);
    until.tv_sec += us / 1000000;
    until.tv_nsec = us % 1000000 * 1000;
    ring->n_readers_waiting++;
    while (ring->n <= from) {
        if (timeout_us < 0) {
            CHECK(pthread_cond_wait(&ring->news, &ring->lock) == 0);
        } else if (pthread_cond_timedwait(&ring->news, &ring->lock, &until) == ETIMEDOUT) {
            break;
        }
    }
    ring->n_readers_waiting--;
}

bool kv_event_read(KvEventRing *ring, uint64_t from, int64_t timeout_us, KvEvent *event,
                   int32_t *token) {
    if (ring->n_max == 0) return false;
    kv_event_lock(ring);
    if (ring->n <= from && timeout_us != 0) kv_event_wait(ring, from, timeout_us);
    const uint64_t at = MAX(from, kv_event_first(ring));
    const bool some = at < ring->n;
    if (some) {
        *event = ring->event[at % (uint64_t)ring->n_max];
        if (event->kind == KV_EVENT_STORED) {
            memcpy(token, kv_event_tokens(ring, at), (size_t)ring->block_tokens * sizeof *token);
        }
        ring->n_read = MAX(ring->n_read, at + 1);
    }
    kv_event_unlock(ring);
    return some;
}

void kv_event_count(KvEventRing *ring, int64_t *n, int64_t *n_lost) {
    *n = *n_lost = 0;
    if (ring->n_max == 0) return;
    kv_event_lock(ring);
    *n = (int64_t)ring->n;
    *n_lost = (int64_t)ring->n_lost;
    kv_event_unlock(ring);
}
