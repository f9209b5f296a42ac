#include "engine/engine.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_priv.h"

int64_t engine_now(const Engine *e) {
    return e->config.now_us == NULL ? clock_us() : e->config.now_us(e->config.clock);
}

/* ---- opening ----------------------------------------------------------------------------- */

/* Of the news of one step, beside the longest: more of it goes out in parts. */
enum { ENGINE_TEXT_BYTES = 1 << 16 };

/* Requests that exist at once: waiting, running, and finished but not fetched. */
static int32_t engine_requests_max(const EngineLimits *limits) {
    return limits->max_queue + limits->max_seqs;
}

static SchedConfig engine_sched_config(const EngineConfig *config) {
    return (SchedConfig){
        .limits = config->limits,
        .n_requests_max = engine_requests_max(&config->limits),
        .policy = config->policy,
        .preempt = config->limits.kv.n_flights > 0 ? config->preempt : SLUICE_PREEMPT_RECOMPUTE,
        .chunk_slack = config->chunk_slack};
}

static MailboxSizes engine_mailbox_sizes(const EngineConfig *config) {
    MailboxSizes sizes = {.n_slots = engine_requests_max(&config->limits),
                          .n_waiting_max = config->limits.max_queue};
    for (int32_t g = 0; g < config->limits.kv.n_groups; g++) {
        sizes.n_blocks += config->limits.kv.n_blocks[g];
    }
    return sizes;
}

int64_t engine_bytes(const EngineConfig *config) {
    const SchedConfig sched = engine_sched_config(config);
    const MailboxSizes mail = engine_mailbox_sizes(config);
    return (int64_t)sizeof(Engine) + kv_cache_bytes(&config->limits.kv) + sched_bytes(&sched) +
           step_plan_bytes(&config->limits) + mailbox_bytes(&mail) +
           sched.n_requests_max * (int64_t)sizeof(Request *) +
           config->limits.max_seqs * (int64_t)(sizeof(KvSeq *) + sizeof(EngineSaid));
}

/* The longest text that one token can stand for. */
static int32_t engine_piece_bytes(const Tokenizer *tokenizer) {
    size_t most = 0;
    Buf piece = {0};
    for (int32_t id = 0; tokenizer != NULL && id < tokenizer_vocab(tokenizer); id++) {
        buf_clear(&piece);
        tokenizer_piece(tokenizer, id, true, &piece);
        most = MAX(most, piece.len);
    }
    buf_free(&piece);
    return (int32_t)MIN(most, (size_t)ENGINE_TEXT_PENDING_MAX);
}

/* Makes the plan's moves. */
static Status engine_move(Engine *e, Err *err) {
    const Runner *runner = &e->config.runner;
    if (runner->queue != NULL) TRY(runner->queue(runner->self, &e->plan, &e->result, err));
    return runner->run(runner->self, &e->plan, &e->result, err);
}

/* Takes in the records of the disk, as many at a time as it has buffers; *n_made of them came to
 * the nodes node[]. */
static Status engine_restore_into(Engine *e, const KvDiskFound *found, int32_t n_found,
                                  int32_t *node, int32_t *n_made, Err *err) {
    step_plan_reset(&e->plan, 0, false);
    int32_t buffer = 0;
    for (int32_t i = 0; i < n_found; i++) {
        void *payload;
        const int32_t *token = kv_disk_read(e->config.disk, found[i].number, buffer, &payload);
        if (token == NULL) continue;
        const int32_t made = kv_cache_restore(&e->cache, &found[i].entry, found[i].number, token,
                                              payload, &e->plan.moves);
        if (made < 0) continue;
        node[(*n_made)++] = made;
        if (++buffer < KV_DISK_BUFFERS) continue;
        TRY(engine_move(e, err));
        e->plan.moves.n = buffer = 0;
    }
    return buffer > 0 ? engine_move(e, err) : OK;
}

static Status engine_restore(Engine *e, Err *err) {
    KvDiskFound *found;
    int32_t n_found, n_made = 0;
    TRY(kv_disk_scan(e->config.disk, &found, &n_found, err));
    int32_t *node = mem_try_alloc((size_t)n_found, sizeof *node);
    Status status = OK;
    if (node == NULL) {
        status = err_set(err, ERR_NOMEM, "no memory to restore %d KV blocks", n_found);
    } else {
        status = engine_restore_into(e, found, n_found, node, &n_made, err);
    }
    for (int32_t i = n_made - 1; i >= 0; i--) kv_cache_restored(&e->cache, node[i]);
    const int64_t n_damaged = kv_disk_counts(e->config.disk)->n_damaged;
    if (n_found > 0 || n_damaged > 0) {
        log_line(n_damaged > 0 ? LOG_WARN : LOG_INFO, "kv",
                 "restored=%d records=%d damaged=%lld: what is damaged is not used", n_made,
                 n_found, (long long)n_damaged);
    }
    e->stats.n_disk_restored = n_made;
    mem_free(node);
    mem_free(found);
    return status;
}

static Status engine_init(Engine *e, Err *err) {
    const EngineLimits *limits = &e->config.limits;
    const SchedConfig sched = engine_sched_config(&e->config);
    const MailboxSizes mail = engine_mailbox_sizes(&e->config);
    CHECK(limits->max_logits >= 1 && limits->max_logits <= limits->max_step_tokens);
    TRY(mailbox_init(&e->mail, &mail, err));
    TRY(kv_cache_init(&e->cache, &limits->kv, err));
    TRY(sched_init(&e->sched, &sched, &e->cache, err));
    TRY(step_plan_init(&e->plan, &e->result, limits, err));
    e->live = mem_try_alloc((size_t)e->n_requests_max, sizeof *e->live);
    e->kv_seqs = mem_try_alloc((size_t)limits->max_seqs, sizeof *e->kv_seqs);
    e->piece_bytes_max = engine_piece_bytes(e->config.tokenizer);
    e->said = mem_try_alloc((size_t)limits->max_seqs, sizeof *e->said);
    const size_t text_bytes = engine_say_text_bytes(e) + ENGINE_TEXT_BYTES;
    if (e->live == NULL || e->kv_seqs == NULL || e->said == NULL ||
        !buf_reserve(&e->text, text_bytes)) {
        FAIL(err, ERR_NOMEM, "no memory for a table of %d requests", e->n_requests_max);
    }
    if (e->config.disk == NULL) return OK;
    kv_cache_set_disk(&e->cache, e->config.disk, limits->block_bytes);
    return engine_restore(e, err);
}

static void engine_free(Engine *e) {
    mailbox_free(&e->mail);
    sched_free(&e->sched);
    step_plan_free(&e->plan, &e->result);
    kv_disk_close(e->config.disk);
    kv_cache_free(&e->cache);
    buf_free(&e->text);
    mem_free(e->live);
    mem_free(e->kv_seqs);
    mem_free(e->said);
    e->config.runner.close(e->config.runner.self);
    mem_free(e);
}

Status engine_open(Engine **out, const EngineConfig *config, Err *err) {
    Engine *e = mem_alloc(sizeof *e);
    e->config = *config;
    e->n_requests_max = engine_requests_max(&config->limits);
    e->next_deadline_us = INT64_MAX;
    const Status status = engine_init(e, err);
    if (status != OK) {
        engine_free(e);
        return status;
    }
    *out = e;
    return OK;
}

/* ---- the loop ---------------------------------------------------------------------------- */

/* When the request is to end if it is where it is now. */
static int64_t engine_deadline(const Request *request) {
    return request->started ? request->deadline_us
                            : MIN(request->deadline_us, request->queue_deadline_us);
}

static int64_t engine_point_in_time(int64_t start_us, int64_t us) {
    int64_t point_us;
    const bool never = us == INT64_MAX || __builtin_add_overflow(start_us, us, &point_us);
    return never ? INT64_MAX : point_us;
}

static void engine_take_request(Engine *e, Request *request) {
    request->next = NULL;
    const int64_t start_us = request->submit_us;
    request->deadline_us = engine_point_in_time(start_us, request->deadline_us);
    request->queue_deadline_us = engine_point_in_time(start_us, request->queue_deadline_us);
    e->next_deadline_us = MIN(e->next_deadline_us, engine_deadline(request));
    CHECK(e->n_live < e->n_requests_max);
    e->live[e->n_live++] = request;
    sched_add(&e->sched, request);
}

static void engine_expire(Engine *e) {
    const int64_t now = engine_now(e);
    if (now < e->next_deadline_us) return;
    e->next_deadline_us = INT64_MAX;
    for (int32_t i = e->n_live - 1; i >= 0; i--) { /* ending one moves the last into its place */
        Request *request = e->live[i];
        if (engine_deadline(request) > now) {
            e->next_deadline_us = MIN(e->next_deadline_us, engine_deadline(request));
        } else if (request->deadline_us <= now) {
            engine_commit_end(e, request, SLUICE_FINISH_DEADLINE, ERR_CANCELLED,
                              "the request took longer than it may");
        } else {
            engine_commit_end(e, request, SLUICE_FINISH_DEADLINE, ERR_LIMIT,
                              "the request waited longer in the queue than it may");
        }
    }
}

static Status engine_audit_now(Engine *e, Err *err) {
    const int32_t n = sched_kv_seqs(&e->sched, e->kv_seqs);
    return kv_cache_audit(&e->cache, e->kv_seqs, n, err);
}

/* The blocks as they stand now, all groups one after the other, into the mailbox's list. */
static void engine_fill_blocks(Engine *e) {
    sluice_kv_block *first = e->mail.blocks;
    for (int32_t g = 0; g < e->config.limits.kv.n_groups; g++) {
        const KvPool *pool = &e->cache.pool[g];
        for (int32_t b = 0; b < pool->n_blocks; b++) {
            const sluice_block_state unheld =
                pool->node[b] >= 0 ? SLUICE_BLOCK_CACHED : SLUICE_BLOCK_FREE;
            first[b] = (sluice_kv_block){.group = g, .state = unheld};
        }
        for (int32_t i = 0; i < e->sched.n_running; i++) {
            const Seq *seq = e->sched.running[i];
            const KvTable *table = &seq->kv->table[g];
            for (int32_t k = table->n_dropped; k < table->n_blocks; k++) {
                sluice_kv_block *block = &first[table->block[k]];
                const bool shared = pool->ref[table->block[k]] > 1;
                block->state = shared ? SLUICE_BLOCK_SHARED : SLUICE_BLOCK_USED;
                if (block->request == 0) block->request = seq->request->id;
            }
        }
        first += pool->n_blocks;
    }
}

/* What callers asked for between two steps. */
static void engine_answer(Engine *e, const MailboxTaken *taken) {
    Mailbox *m = &e->mail;
    bool asked[MAILBOX_ASKS];
    Err err[MAILBOX_ASKS] = {0};
    for (MailboxAsk ask = 0; ask < MAILBOX_ASKS; ask++) {
        asked[ask] = taken->n_asked[ask] > m->n_answered[ask]; /* which only this thread writes */
    }
    /* What fails has a sentence. */
    if (asked[MAILBOX_CLEAR]) (void)!kv_cache_clear(&e->cache, &err[MAILBOX_CLEAR]);
    if (asked[MAILBOX_AUDIT]) (void)!engine_audit_now(e, &err[MAILBOX_AUDIT]);
    mailbox_lock(m);
    if (asked[MAILBOX_BLOCKS]) engine_fill_blocks(e);
    for (MailboxAsk ask = 0; ask < MAILBOX_ASKS; ask++) {
        if (asked[ask]) mailbox_answer(m, ask, taken->n_asked[ask], &err[ask]);
    }
    mailbox_unlock(m);
}

/* Submissions, cancellations, deadlines. */
static void engine_take_inbox(Engine *e) {
    const MailboxTaken taken = mailbox_take(&e->mail);
    for (Request *r = taken.submitted, *next; r != NULL; r = next) {
        next = r->next;
        engine_take_request(e, r);
    }
    for (Request *r = taken.cancelled, *next; r != NULL; r = next) {
        next = r->next_cancel;
        engine_commit_end(e, r, SLUICE_FINISH_CANCELLED, OK, NULL);
    }
    engine_expire(e);
    if (memcmp(taken.n_asked, e->mail.n_answered, sizeof taken.n_asked) != 0) {
        engine_answer(e, &taken);
    }
    e->stopping = taken.stop;
}

static int64_t engine_host_bytes(const Engine *e) {
    int64_t bytes = 0;
    for (int32_t g = 0; g < e->config.limits.kv.n_groups; g++) {
        const KvTierGroup *tier = &e->cache.tier.group[g];
        bytes += (tier->n_slots - tier->n_free) * e->config.limits.block_bytes[g];
    }
    return bytes;
}

static void engine_publish(Engine *e, int64_t now_us) {
    const Sched *s = &e->sched;
    sluice_stats *stats = &e->stats;
    const KvPool *pool = &e->cache.pool[0];
    stats->size = sizeof *stats;
    stats->last_step_us = now_us;
    stats->n_running = s->n_running;
    stats->n_blocks = pool->n_blocks;
    stats->n_blocks_free = pool->n_free;
    stats->n_blocks_cached = pool->n_idle;
    stats->n_blocks_used = pool->n_used;
    const int32_t n = sched_kv_seqs(s, e->kv_seqs);
    stats->kv_slots_wasted = kv_cache_slots_wasted(&e->cache, e->kv_seqs, n);
    stats->n_preempted = s->counts.n_preempted;
    stats->prefix_query_tokens = s->counts.prefix_query_tokens;
    stats->prefix_hit_tokens = s->counts.prefix_hit_tokens;
    stats->n_evicted_blocks = e->cache.n_evicted;
    stats->n_swapped = s->n_swapped;
    stats->n_checksum_errors = e->cache.tier.n_checksum_errors;
    stats->host_kv_bytes_used = engine_host_bytes(e);
    if (e->config.disk != NULL) {
        const KvDiskCounts *disk = kv_disk_counts(e->config.disk);
        stats->n_disk_written = disk->n_written;
        stats->n_disk_failed = disk->n_failed;
        stats->n_disk_damaged = disk->n_damaged;
    }
    kv_event_count(&e->cache.events, &stats->n_kv_events, &stats->n_kv_events_lost);
    const int64_t n_left = s->counts.n_started - e->n_started_published + e->n_ended_unstarted;
    e->n_started_published = s->counts.n_started;
    e->n_ended_unstarted = 0;
    mailbox_publish(&e->mail, stats, (int32_t)n_left);
}

/* The place of a step of n tokens in n_steps_by_tokens. */
static int32_t engine_step_size(int32_t n) {
    if (n <= 1) return 0;
    int32_t size = 1;
    while (size < SLUICE_STEP_SIZES - 1 && n > 4 << size) size++;
    return size;
}

/* Computes the plan. While an accelerator does, the last step's news are given out. */
static Status engine_compute(Engine *e, Err *err) {
    const Runner *runner = &e->config.runner;
    e->result.n_moved = 0;
    e->result.move_us = e->result.device_us = 0;
    if (runner->queue != NULL) {
        const Status status = runner->queue(runner->self, &e->plan, &e->result, err);
        engine_say_all(e);
        TRY(status);
    }
    return runner->run(runner->self, &e->plan, &e->result, err);
}

/* Runs the plan: its moves, and its pass if it has one. */
static void engine_run(Engine *e, int64_t start_us) {
    Err err = {0};
    if (engine_compute(e, &err) == OK) {
        for (int32_t i = 0; i < e->result.n_moved; i++) {
            kv_cache_land(&e->cache, &e->result.moved[i]);
        }
        kv_cache_give_up(&e->cache, start_us);
        kv_cache_exported(&e->cache, true);
        engine_commit_step(e, &e->plan, &e->result);
    } else {
        kv_cache_give_up(&e->cache, INT64_MAX); /* nobody knows what was moved */
        kv_cache_exported(&e->cache, false);
        engine_commit_failure(e, &e->plan, &err);
        const Runner *runner = &e->config.runner;
        e->stats.device_lost = runner->lost != NULL && runner->lost(runner->self);
    }
    if (e->config.runner.queue == NULL) engine_say_all(e);
    sched_settle(&e->sched);
    const int64_t took = engine_now(e) - start_us;
    sched_step_took(&e->sched, &e->plan, took, e->result.move_us);
    e->stats.step_us_total += took;
    e->stats.device_us_total += e->result.device_us;
    if (e->plan.batch.n_tokens == 0) return;
    e->stats.n_steps++;
    e->stats.n_steps_by_tokens[engine_step_size(e->plan.batch.n_tokens)]++;
    e->stats.n_step_tokens += e->plan.batch.n_tokens;
}

bool engine_step(Engine *e) {
    engine_take_inbox(e);
    if (e->stopping) return false;
    const int64_t start = engine_now(e);
    sched_plan(&e->sched, &e->plan, start);
    const bool some =
        e->plan.batch.n_tokens > 0 || e->plan.moves.n > 0 || e->cache.tier.n_flights > 0;
    if (some) engine_run(e, start);
    if (!some) engine_say_all(e);
    engine_publish(e, start);
    return some;
}

static void *engine_main(void *arg) {
    Engine *e = arg;
    (void)pthread_setname_np(pthread_self(), "engine");
    while (!e->stopping) {
        if (!engine_step(e))
            mailbox_wait(&e->mail, MIN(e->next_deadline_us, engine_now(e) + ENGINE_HEARTBEAT_US));
    }
    return NULL;
}

Status engine_start(Engine *e, Err *err) {
    if (e->config.disk != NULL) TRY(kv_disk_start(e->config.disk, err));
    if (pthread_create(&e->thread, NULL, engine_main, e) != 0) {
        FAIL(err, ERR_NOMEM, "no thread for the engine");
    }
    e->has_thread = true;
    return OK;
}

void engine_close(Engine *e) {
    if (e == NULL) return;
    mailbox_stop(&e->mail);
    if (e->has_thread) CHECK(pthread_join(e->thread, NULL) == 0);
    engine_take_inbox(e); /* what came in last */
    while (e->n_live > 0) {
        engine_commit_end(e, e->live[e->n_live - 1], SLUICE_FINISH_CANCELLED, OK, NULL);
    }
    engine_say_all(e);
    engine_free(e);
}

/* ---- callers ----------------------------------------------------------------------------- */

Status engine_submit(Engine *e, const sluice_request *asked, uint64_t *id, Err *err) {
    const RequestRules rules = {.limits = &e->config.limits,
                                .tokenizer = e->config.tokenizer,
                                .piece_bytes_max = e->piece_bytes_max,
                                .n_eos = e->config.n_eos,
                                .eos_id = e->config.eos_id,
                                .salt_seed = e->config.salt_seed};
    Request *request = NULL;
    TRY(request_make(&request, asked, &rules, err));
    request->submit_us = engine_now(e);
    const Status status = mailbox_submit(&e->mail, request, id, err);
    if (status != OK) request_free(request);
    return status;
}

void engine_cancel(Engine *e, uint64_t id) {
    mailbox_cancel(&e->mail, id);
}

bool engine_poll(Engine *e, int64_t timeout_us, sluice_event *event) {
    return mailbox_poll(&e->mail, timeout_us, event);
}

int engine_event_fd(const Engine *e) {
    return e->mail.event_fd;
}

void engine_get_stats(const Engine *e, sluice_stats *stats) {
    /* Only the lock inside changes. */
    mailbox_get_stats((Mailbox *)&e->mail, stats);
}

Status engine_audit(Engine *e, Err *err) {
    if (!e->has_thread) return engine_audit_now(e, err);
    return mailbox_ask(&e->mail, MAILBOX_AUDIT, -1, err);
}

Status engine_clear_cache(Engine *e, Err *err) {
    if (e->has_thread) return mailbox_ask(&e->mail, MAILBOX_CLEAR, -1, err);
    return kv_cache_clear(&e->cache, err);
}

Status engine_get_blocks(Engine *e, int64_t timeout_us, sluice_kv_block *blocks, int32_t capacity,
                         int32_t *n, Err *err) {
    if (e->has_thread) {
        TRY(mailbox_ask(&e->mail, MAILBOX_BLOCKS, timeout_us, err));
    } else {
        engine_fill_blocks(e);
    }
    *n = mailbox_get_blocks(&e->mail, blocks, capacity);
    return OK;
}

bool engine_read_kv_event(Engine *e, uint64_t from, int64_t timeout_us, sluice_kv_event *event) {
    KvEvent found;
    const bool some = kv_event_read(&e->cache.events, from, timeout_us, &found, event->tokens);
    if (!some) return false;
    event->number = found.number;
    event->kind = (sluice_kv_event_kind)found.kind;
    event->medium = (sluice_kv_medium)found.medium;
    event->group = found.group;
    event->block_hash = found.hash;
    event->parent_hash = found.parent_hash;
    event->block_tokens = e->config.limits.kv.block_tokens;
    return true;
}
