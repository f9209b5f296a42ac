#include "engine/mailbox.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

int64_t mailbox_bytes(const MailboxSizes *sizes) {
    return sizes->n_slots * (int64_t)(sizeof(Request *) + sizeof(int32_t)) +
           sizes->n_blocks * (int64_t)sizeof(sluice_kv_block);
}

static void mailbox_init_cond(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    CHECK(pthread_condattr_init(&attr) == 0);
    CHECK(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(cond, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

Status mailbox_init(Mailbox *m, const MailboxSizes *sizes, Err *err) {
    const int32_t n_slots = sizes->n_slots;
    *m = (Mailbox){.n_slots = n_slots,
                   .n_free_slots = n_slots,
                   .n_waiting_max = sizes->n_waiting_max,
                   .n_blocks = sizes->n_blocks};
    m->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->event_fd < 0) FAIL(err, ERR_IO, "no eventfd: the process has too many files open?");
    m->slot = mem_try_alloc((size_t)n_slots, sizeof *m->slot);
    m->free_slot = mem_try_alloc((size_t)n_slots, sizeof *m->free_slot);
    m->blocks = mem_try_alloc((size_t)sizes->n_blocks, sizeof *m->blocks);
    if (m->slot == NULL || m->free_slot == NULL || m->blocks == NULL) {
        mem_free(m->slot);
        mem_free(m->free_slot);
        mem_free(m->blocks);
        m->slot = NULL; /* mailbox_free has nothing to do */
        close(m->event_fd);
        FAIL(err, ERR_NOMEM, "no memory for a table of %d requests", n_slots);
    }
    for (int32_t i = 0; i < n_slots; i++) m->free_slot[i] = n_slots - 1 - i;
    CHECK(pthread_mutex_init(&m->lock, NULL) == 0);
    mailbox_init_cond(&m->wake);
    mailbox_init_cond(&m->news);
    return OK;
}

void mailbox_free(Mailbox *m) {
    if (m->slot == NULL) return;
    for (int32_t i = 0; i < m->n_slots; i++) request_free(m->slot[i]);
    while (m->dead != NULL) {
        Request *next = m->dead->next;
        request_free(m->dead);
        m->dead = next;
    }
    buf_free(&m->poll_text);
    close(m->event_fd);
    mem_free(m->slot);
    mem_free(m->free_slot);
    mem_free(m->blocks);
    pthread_cond_destroy(&m->wake);
    pthread_cond_destroy(&m->news);
    pthread_mutex_destroy(&m->lock);
    *m = (Mailbox){0};
}

void mailbox_lock(Mailbox *m) {
    CHECK(pthread_mutex_lock(&m->lock) == 0);
}

void mailbox_unlock(Mailbox *m) {
    CHECK(pthread_mutex_unlock(&m->lock) == 0);
}

/* Waits for the condition until the time at the latest. False: the time is over. */
static bool mailbox_wait_until(Mailbox *m, pthread_cond_t *cond, int64_t until_us) {
    if (until_us == INT64_MAX) {
        CHECK(pthread_cond_wait(cond, &m->lock) == 0);
        return true;
    }
    const struct timespec until = {.tv_sec = until_us / 1000000,
                                   .tv_nsec = until_us % 1000000 * 1000};
    return pthread_cond_timedwait(cond, &m->lock, &until) != ETIMEDOUT;
}

static void mailbox_drop_slot(Mailbox *m, Request *request) {
    m->slot[request->slot] = NULL;
    m->free_slot[m->n_free_slots++] = request->slot;
}

/* ---- callers' threads -------------------------------------------------------------------- */

/* Under the lock: the list of requests to free, now the caller's. */
static Request *mailbox_take_dead(Mailbox *m) {
    Request *dead = m->dead;
    m->dead = NULL;
    return dead;
}

static void mailbox_bury(Request *dead) {
    while (dead != NULL) {
        Request *next = dead->next;
        request_free(dead);
        dead = next;
    }
}

Status mailbox_submit(Mailbox *m, Request *request, uint64_t *id, Err *err) {
    mailbox_lock(m);
    Request *dead = mailbox_take_dead(m);
    const int32_t n_waiting = m->n_waiting;
    const bool full = n_waiting >= m->n_waiting_max || m->n_free_slots == 0;
    const bool stop = m->stop;
    if (!full && !stop) {
        request->slot = m->free_slot[--m->n_free_slots];
        m->slot[request->slot] = request;
        request->id = m->n_ids++ * (uint64_t)m->n_slots + (uint64_t)request->slot + 1;
        *id = request->id;
        m->n_waiting++;
        m->stats.n_requests++;
        if (m->submitted == NULL) {
            m->submitted = request;
        } else {
            m->submitted_last->next = request;
        }
        m->submitted_last = request;
        CHECK(pthread_cond_signal(&m->wake) == 0);
    }
    mailbox_unlock(m);
    mailbox_bury(dead);
    if (stop) FAIL(err, ERR_CANCELLED, "the engine is closing");
    if (full && n_waiting < m->n_waiting_max) {
        FAIL(err, ERR_LIMIT, "%d requests are unfinished or their events unfetched, try later",
             m->n_slots);
    }
    if (full) FAIL(err, ERR_LIMIT, "the queue is full: %d requests wait, try later", n_waiting);
    return OK;
}

void mailbox_cancel(Mailbox *m, uint64_t id) {
    mailbox_lock(m);
    Request *request = id == 0 ? NULL : m->slot[(id - 1) % (uint64_t)m->n_slots];
    if (request != NULL && request->id == id && !request->finished && !request->cancelled) {
        request->cancelled = true;
        request->cancel_listed = true;
        request->next_cancel = m->cancelled;
        m->cancelled = request;
        CHECK(pthread_cond_signal(&m->wake) == 0);
    }
    mailbox_unlock(m);
}

/* Under the lock: moves the sequence's news into *event. */
static void mailbox_take_news(Mailbox *m, sluice_event *event) {
    Seq *seq = m->news_first;
    m->news_first = seq->out.next;
    seq->out.next = NULL;
    seq->out.listed = false;
    if (m->news_first == NULL) {
        m->news_last = NULL;
        eventfd_t count;
        (void)eventfd_read(m->event_fd, &count);
    }
    request_take_event(seq, event);
    buf_clear(&m->poll_text);
    buf_append(&m->poll_text, event->text, event->text_len);
    buf_clear(&seq->out.text);
    event->text = event->text_len == 0 ? "" : m->poll_text.data;
    if (m->poll_text.failed) { /* short of memory: say so rather than lose text silently */
        event->text = "";
        event->text_len = 0;
        event->status = SLUICE_ERR_NOMEM;
        event->error = "no memory for the event's text";
        m->poll_text.failed = false;
    }
    if (event->last) m->polled = seq->request;
}

bool mailbox_poll(Mailbox *m, int64_t timeout_us, sluice_event *event) {
    const int64_t until = timeout_us < 0 ? INT64_MAX : clock_us() + timeout_us;
    mailbox_lock(m);
    Request *dead = mailbox_take_dead(m);
    if (m->polled != NULL) {
        mailbox_drop_slot(m, m->polled);
        m->polled->next = dead;
        dead = m->polled;
        m->polled = NULL;
    }
    while (m->news_first == NULL && timeout_us != 0) {
        if (!mailbox_wait_until(m, &m->news, until)) break;
    }
    const bool some = m->news_first != NULL;
    if (some) mailbox_take_news(m, event);
    mailbox_unlock(m);
    mailbox_bury(dead);
    return some;
}

Status mailbox_ask(Mailbox *m, MailboxAsk ask, int64_t timeout_us, Err *err) {
    const int64_t until = timeout_us < 0 ? INT64_MAX : clock_us() + timeout_us;
    mailbox_lock(m);
    const int64_t want = ++m->n_asked[ask];
    CHECK(pthread_cond_signal(&m->wake) == 0);
    while (m->n_answered[ask] < want && !m->stop) {
        if (!mailbox_wait_until(m, &m->news, until)) break;
    }
    const bool done = m->n_answered[ask] >= want, stop = m->stop;
    const Err answer = m->answer[ask];
    mailbox_unlock(m);
    if (done && answer.status != OK) FAIL(err, answer.status, "%s", answer.text);
    if (done) return OK;
    if (stop) FAIL(err, ERR_CANCELLED, "the engine is closing");
    FAIL(err, ERR_LIMIT, "the engine's step takes longer than %lld us", (long long)timeout_us);
}

int32_t mailbox_get_blocks(Mailbox *m, sluice_kv_block *blocks, int32_t capacity) {
    mailbox_lock(m);
    const int32_t n = MIN(capacity, m->n_blocks);
    if (n > 0) memcpy(blocks, m->blocks, (size_t)n * sizeof *blocks);
    mailbox_unlock(m);
    return m->n_blocks;
}

void mailbox_get_stats(Mailbox *m, sluice_stats *stats) {
    mailbox_lock(m);
    *stats = m->stats;
    mailbox_unlock(m);
}

void mailbox_stop(Mailbox *m) {
    mailbox_lock(m);
    m->stop = true;
    CHECK(pthread_cond_broadcast(&m->wake) == 0);
    CHECK(pthread_cond_broadcast(&m->news) == 0);
    mailbox_unlock(m);
}

/* ---- the engine's thread ----------------------------------------------------------------- */

MailboxTaken mailbox_take(Mailbox *m) {
    mailbox_lock(m);
    MailboxTaken taken = {.submitted = m->submitted, .cancelled = m->cancelled, .stop = m->stop};
    memcpy(taken.n_asked, m->n_asked, sizeof taken.n_asked);
    m->submitted = m->submitted_last = m->cancelled = NULL;
    for (Request *r = taken.cancelled; r != NULL; r = r->next_cancel) r->cancel_listed = false;
    mailbox_unlock(m);
    return taken;
}

void mailbox_wait(Mailbox *m, int64_t until_us) {
    mailbox_lock(m);
    while (m->submitted == NULL && m->cancelled == NULL && !m->stop &&
           memcmp(m->n_asked, m->n_answered, sizeof m->n_asked) == 0) {
        if (!mailbox_wait_until(m, &m->wake, until_us)) break;
    }
    mailbox_unlock(m);
}

void mailbox_tell(Mailbox *m, Seq *seq) {
    if (seq->out.listed) return;
    seq->out.listed = true;
    if (m->news_first == NULL) {
        m->news_first = seq;
        (void)eventfd_write(m->event_fd, 1);
        CHECK(pthread_cond_broadcast(&m->news) == 0);
    } else {
        m->news_last->out.next = seq;
    }
    m->news_last = seq;
}

void mailbox_finish(Mailbox *m, Request *request) {
    request->finished = true;
    if (!request->cancel_listed) return;
    Request **link = &m->cancelled;
    while (*link != request) link = &(*link)->next_cancel;
    *link = request->next_cancel;
    request->cancel_listed = false;
}

void mailbox_retire(Mailbox *m, Request *request) {
    mailbox_lock(m);
    mailbox_drop_slot(m, request);
    request->next = m->dead;
    m->dead = request;
    mailbox_unlock(m);
}

void mailbox_publish(Mailbox *m, const sluice_stats *stats, int32_t n_left_queue) {
    mailbox_lock(m);
    const int64_t n_requests = m->stats.n_requests; /* counted where they come in */
    m->stats = *stats;
    m->stats.n_requests = n_requests;
    m->n_waiting -= n_left_queue;
    m->stats.n_waiting = m->n_waiting;
    mailbox_unlock(m);
}

void mailbox_answer(Mailbox *m, MailboxAsk ask, int64_t n, const Err *answer) {
    m->n_answered[ask] = n;
    m->answer[ask] = *answer;
    CHECK(pthread_cond_broadcast(&m->news) == 0);
}
