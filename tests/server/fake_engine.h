/* fake_engine: the functions of sluice.h that the server calls, over an engine without a model.
 *
 * A request's prompt is two token ids, which together name it. While it runs, each tick of the
 * clock adds a token whose text is "NAME:K:US " (which of the tokens, and when it was made), so
 * that a client can tell whether everything came, in order, for nobody else, and how late. max_seqs
 * requests run at once, max_queue wait, as in the real engine. Running requests tick in FAKE_PHASES
 * groups, one after the other, so that not all events come in one moment. */
#pragma once

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "sluice.h"

enum { FAKE_VOCAB = 1 << 16, FAKE_PHASES = 16, FAKE_TEXT_BYTES = 64 };

typedef struct FakeRequest {
    uint64_t id;
    void *user;
    int32_t name[2], phase, n_max, n_ready, n_taken;
    bool cancelled, listed, ended; /* ended: no token will come */
    sluice_finish finish;
    int64_t submit_us, start_us, first_us, queue_until_us;
    int64_t made_us;                      /* of the oldest not taken */
    struct FakeRequest *next_news, *next; /* next: in the queue */
} FakeRequest;

struct sluice_model {
    int unused;
};

struct sluice_engine {
    pthread_mutex_t lock;
    pthread_cond_t news;
    pthread_t thread;
    bool stop;
    int32_t max_seqs, max_queue, tick_us, phase;
    FakeRequest **running; /* [max_seqs] */
    FakeRequest *queue, *queue_last, *news_first, *news_last, *polled;
    int64_t n_ids;
    sluice_stats stats;
    char text[FAKE_TEXT_BYTES * 256];
    int32_t tokens[256];
    sluice_usage usage;
};

static inline void fake_tell(sluice_engine *e, FakeRequest *r) {
    if (r->listed) return;
    r->listed = true;
    r->next_news = NULL;
    if (e->news_last != NULL) {
        e->news_last->next_news = r;
    } else {
        e->news_first = r;
    }
    e->news_last = r;
}

static inline void fake_end(sluice_engine *e, FakeRequest *r, sluice_finish finish) {
    r->finish = finish;
    r->ended = true;
    e->stats.n_finished += finish == SLUICE_FINISH_LENGTH;
    e->stats.n_cancelled += finish == SLUICE_FINISH_CANCELLED;
    fake_tell(e, r);
}

/* The queue's head moves up while there is room; those that left or waited too long leave it. */
static inline void fake_start(sluice_engine *e, int64_t now_us) {
    FakeRequest **link = &e->queue, *last = NULL;
    while (*link != NULL) {
        FakeRequest *r = *link;
        bool late = r->queue_until_us != 0 && now_us > r->queue_until_us;
        bool starts = !late && !r->cancelled && e->stats.n_running < e->max_seqs;
        if (!late && !r->cancelled && !starts) {
            last = r;
            link = &r->next;
            continue;
        }
        *link = r->next;
        e->stats.n_waiting--;
        if (starts) {
            r->start_us = now_us;
            r->phase = (int32_t)(r->id % FAKE_PHASES);
            e->running[e->stats.n_running++] = r;
        } else {
            fake_end(e, r, r->cancelled ? SLUICE_FINISH_CANCELLED : SLUICE_FINISH_DEADLINE);
        }
    }
    e->queue_last = last;
}

static inline void fake_tick(sluice_engine *e) {
    int64_t now_us = clock_us();
    e->stats.last_step_us = now_us;
    e->stats.n_steps++;
    fake_start(e, now_us);
    for (int32_t i = e->stats.n_running - 1; i >= 0; i--) {
        FakeRequest *r = e->running[i];
        bool mine = r->phase == e->phase;
        if (!mine && !r->cancelled) continue;
        if (!r->cancelled) {
            if (r->n_ready == 0) r->first_us = now_us;
            if (r->n_ready == r->n_taken) r->made_us = now_us;
            r->n_ready++;
            e->stats.n_output_tokens++;
            fake_tell(e, r);
        }
        if (!r->cancelled && r->n_ready < r->n_max) continue;
        fake_end(e, r, r->cancelled ? SLUICE_FINISH_CANCELLED : SLUICE_FINISH_LENGTH);
        e->running[i] = e->running[--e->stats.n_running];
    }
    e->phase = (e->phase + 1) % FAKE_PHASES;
}

static inline void *fake_main(void *context) {
    sluice_engine *e = context;
    int64_t next_us = clock_us();
    pthread_mutex_lock(&e->lock);
    while (!e->stop) {
        fake_tick(e);
        pthread_cond_broadcast(&e->news);
        pthread_mutex_unlock(&e->lock);
        next_us += e->tick_us / FAKE_PHASES;
        int64_t wait_us = next_us - clock_us();
        struct timespec pause = {.tv_nsec = wait_us > 0 ? wait_us * 1000 : 0};
        nanosleep(&pause, NULL);
        if (wait_us < 0) next_us = clock_us(); /* time lost is not made up for */
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* tick_us: between two tokens of a request, at most a second. */
static inline sluice_engine *fake_open(int32_t max_seqs, int32_t max_queue, int32_t tick_us) {
    sluice_engine *e = mem_alloc(sizeof *e);
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&e->news, &attr);
    pthread_condattr_destroy(&attr);
    e->max_seqs = max_seqs;
    e->max_queue = max_queue;
    e->tick_us = tick_us;
    e->running = mem_alloc((size_t)max_seqs * sizeof(FakeRequest *));
    e->stats.size = sizeof e->stats;
    if (pthread_create(&e->thread, NULL, fake_main, e) != 0) abort();
    return e;
}

static inline void fake_close(sluice_engine *e) {
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    mem_free(e->polled);
    mem_free(e->running);
    mem_free(e);
}

/* ---- sluice.h ---- */

sluice_status sluice_submit(sluice_engine *e, const sluice_request *asked, uint64_t *id,
                            sluice_error *err) {
    pthread_mutex_lock(&e->lock);
    bool full = e->stats.n_waiting >= e->max_queue;
    if (!full) {
        FakeRequest *r = mem_alloc(sizeof *r);
        r->id = *id = (uint64_t)++e->n_ids;
        r->user = asked->user;
        r->name[0] = asked->prompt[0];
        r->name[1] = asked->n_prompt > 1 ? asked->prompt[1] : 0;
        r->n_max = asked->max_tokens;
        r->submit_us = clock_us();
        r->queue_until_us = asked->queue_us_max == 0 ? 0 : r->submit_us + asked->queue_us_max;
        if (e->queue_last != NULL) {
            e->queue_last->next = r;
        } else {
            e->queue = r;
        }
        e->queue_last = r;
        e->stats.n_waiting++;
        e->stats.n_requests++;
    }
    pthread_mutex_unlock(&e->lock);
    if (!full) return SLUICE_OK;
    err->status = SLUICE_ERR_LIMIT;
    snprintf(err->text, sizeof err->text, "the queue is full");
    return SLUICE_ERR_LIMIT;
}

static inline bool fake_cancel_in(FakeRequest *r, uint64_t id) {
    if (r->id == id) r->cancelled = true;
    return r->id == id;
}

void sluice_cancel(sluice_engine *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    bool found = false;
    for (int32_t i = 0; i < e->stats.n_running && !found; i++)
        found = fake_cancel_in(e->running[i], id);
    for (FakeRequest *r = e->queue; r != NULL && !found; r = r->next) found = fake_cancel_in(r, id);
    pthread_mutex_unlock(&e->lock);
}

/* The request's news. One whose last event this is belongs to `polled` then. */
static inline void fake_take(sluice_engine *e, FakeRequest *r, sluice_event *event) {
    int64_t now_us = clock_us();
    int32_t n = MIN(r->n_ready - r->n_taken, (int32_t)ARRAY_LEN(e->tokens));
    size_t len = 0;
    for (int32_t i = 0; i < n; i++) {
        e->tokens[i] = 1;
        len += (size_t)snprintf(e->text + len, sizeof e->text - len, "%d:%d:%lld ",
                                r->name[0] * FAKE_VOCAB + r->name[1], r->n_taken + i,
                                (long long)r->made_us);
    }
    r->n_taken += n;
    *event = (sluice_event){.size = sizeof *event,
                            .request = r->id,
                            .user = r->user,
                            .tokens = e->tokens,
                            .n_tokens = n,
                            .text = e->text,
                            .text_len = len,
                            .stop_index = -1,
                            .stop_id = -1};
    if (r->n_taken < r->n_ready) {
        fake_tell(e, r);
    } else if (r->ended) {
        e->usage =
            (sluice_usage){.n_prompt = 2,
                           .n_output = r->n_taken,
                           .queue_us = (r->start_us != 0 ? r->start_us : now_us) - r->submit_us,
                           .first_token_us = r->first_us != 0 ? r->first_us - r->submit_us : 0,
                           .total_us = now_us - r->submit_us};
        event->finish = r->finish;
        event->last = true;
        event->usage = &e->usage;
        event->status = r->finish == SLUICE_FINISH_DEADLINE ? SLUICE_ERR_LIMIT : SLUICE_OK;
        event->error = r->finish == SLUICE_FINISH_DEADLINE ? "too long in the queue" : NULL;
        e->polled = r;
    }
}

bool sluice_poll(sluice_engine *e, int64_t timeout_us, sluice_event *event) {
    int64_t until_us = clock_us() + timeout_us;
    struct timespec until = {.tv_sec = until_us / 1000000, .tv_nsec = until_us % 1000000 * 1000};
    pthread_mutex_lock(&e->lock);
    mem_free(e->polled);
    e->polled = NULL;
    while (e->news_first == NULL && pthread_cond_timedwait(&e->news, &e->lock, &until) == 0) {
    }
    FakeRequest *r = e->news_first;
    if (r != NULL) {
        e->news_first = r->next_news;
        if (e->news_first == NULL) e->news_last = NULL;
        r->listed = false;
        fake_take(e, r, event);
    }
    pthread_mutex_unlock(&e->lock);
    return r != NULL;
}

void sluice_engine_get_stats(const sluice_engine *engine, sluice_stats *stats) {
    sluice_engine *e = (sluice_engine *)(uintptr_t)engine;
    pthread_mutex_lock(&e->lock);
    *stats = e->stats;
    pthread_mutex_unlock(&e->lock);
}

void sluice_model_get_info(const sluice_model *model, sluice_model_info *info) {
    (void)model;
    *info = (sluice_model_info){.size = sizeof *info,
                                .arch = "fake",
                                .path = "fake",
                                .vocab = FAKE_VOCAB,
                                .context = 1 << 20,
                                .temperature = -1,
                                .top_p = -1};
}

/* The text functions are not part of the play: requests bring token ids. */
static inline sluice_status fake_no_text(sluice_error *err) {
    if (err != NULL) err->status = SLUICE_ERR_UNSUPPORTED;
    return SLUICE_ERR_UNSUPPORTED;
}

sluice_status sluice_tokenize(const sluice_model *model, const char *text, size_t len,
                              bool add_special, bool parse_special, int32_t *ids, size_t capacity,
                              size_t *n, sluice_error *err) {
    (void)model, (void)text, (void)len, (void)add_special, (void)parse_special, (void)ids;
    (void)capacity;
    *n = 0;
    return fake_no_text(err);
}

sluice_status sluice_detokenize(const sluice_model *model, const int32_t *ids, size_t n,
                                bool with_special, char **text, size_t *len, sluice_error *err) {
    (void)model, (void)ids, (void)n, (void)with_special, (void)text, (void)len;
    return fake_no_text(err);
}

sluice_status sluice_token_bytes(const sluice_model *model, int32_t id, bool is_first,
                                 bool with_special, char **bytes, size_t *len, sluice_error *err) {
    (void)model, (void)id, (void)is_first, (void)with_special, (void)bytes, (void)len;
    return fake_no_text(err);
}

sluice_status sluice_chat_tokenize(const sluice_model *model, const char *request_json,
                                   int32_t **ids, size_t *n, sluice_error *err) {
    (void)model, (void)request_json, (void)ids, (void)n;
    return fake_no_text(err);
}

/* What the dashboard asks: nothing is told. */
sluice_status sluice_engine_get_blocks(sluice_engine *engine, int64_t timeout_us,
                                       sluice_kv_block *blocks, size_t capacity, size_t *n,
                                       sluice_error *err) {
    (void)engine, (void)timeout_us, (void)blocks, (void)capacity, (void)n, (void)err;
    return SLUICE_ERR_UNSUPPORTED;
}

bool sluice_engine_read_kv_event(sluice_engine *engine, uint64_t from, int64_t timeout_us,
                                 sluice_kv_event *event) {
    (void)engine, (void)from, (void)timeout_us, (void)event;
    return false;
}

void sluice_free(void *p) {
    free(p);
}
