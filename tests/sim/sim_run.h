/* sim_run: lets a world happen, turn by turn: its requests and faults, a step of the engine, the
 * checks, and somebody who fetches the events. */
#pragma once

#include "sim_disk.h"
#include "sim_forget.h"

static SimWorld sim_world;

/* ---- the model --------------------------------------------------------------------------- */

static inline Status sim_model_run(void *self, const StepPlan *plan, StepResult *result, Err *err) {
    SimWorld *w = self;
    if (w->engine == NULL) { /* it opens, and takes in its file */
        for (int32_t i = 0; i < plan->moves.n; i++) sim_take_mark(w, &plan->moves.move[i]);
        return fake_run(&w->model, plan, result, err);
    }
    sim_check_step(w, plan);
    for (int32_t i = 0; i < w->engine->n_live; i++) {
        const Request *r = w->engine->live[i];
        SimAsked *a = r->user;
        for (int32_t k = 0; k < r->n_seqs; k++) {
            if (r->seq[k].loading) a->load_turn = w->turn;
        }
    }
    if (w->fail_step) {
        w->model.fail_step = w->model.n_steps + 1;
        w->fail_step = false;
        for (int32_t i = 0; i < plan->n_seqs; i++) {
            ((SimAsked *)plan->seqs[i].seq->request->user)->failed = true;
        }
    }
    w->model.now_us += w->slow_us;
    w->slow_us = 0;
    const Status status = fake_run(&w->model, plan, result, err);
    if (status == OK) sim_forget_note(w, plan, result);
    return status;
}

/* In a third of the worlds the runner is an accelerator's: the news of a step come while the next
 * one is computed. */
static inline Status sim_model_queue(void *self, const StepPlan *plan, StepResult *result,
                                     Err *err) {
    const SimWorld *w = self;
    (void)plan, (void)result, (void)err;
    SIM_CHECK("S3 no news wait for the next step",
              w->engine == NULL || w->engine->n_said <= w->plan->limits.max_seqs);
    return OK;
}

static inline void sim_model_close(void *self) {
    SimWorld *w = self;
    fake_close(&w->model);
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) {
        free(w->block_salt[g]);
        free(w->host_salt[g]);
    }
}

/* ---- clients ----------------------------------------------------------------------------- */

static inline void sim_on_event(void *user, const sluice_event *event) {
    SimWorld *w = &sim_world;
    SimAsked *a = user;
    sim_check_event(w, event);
    w->n_released += event->last;
    if (a->ask->cancel_at == a->n_events && !a->cancelled) {
        a->cancelled = true;
        a->cancel_turn = w->turn;
        engine_cancel(w->engine, event->request);
    }
}

static inline bool sim_poll(SimWorld *w) {
    sluice_event event;
    const bool some = engine_poll(w->engine, 0, &event);
    w->n_released += w->last_polled;
    w->last_polled = some && event.last;
    if (some) sim_check_event(w, &event);
    return some;
}

static inline sluice_request sim_request(SimAsked *a) {
    static const char *const tenants[SIM_TENANTS] = {NULL, "a", "b"};
    static const char *const salts[SIM_SALTS] = {NULL, "s"};
    const SimAsk *ask = a->ask;
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = a->prompt;
    r.n_prompt = (size_t)a->n_prompt;
    r.max_tokens = ask->n_max;
    r.min_tokens = ask->n_min;
    r.n = ask->n;
    r.beam_width = ask->beam;
    r.sampling.seed = ask->seed;
    r.sampling.temperature = ask->beam > 0 ? 0 : 1;
    r.stop_ids = ask->stop;
    r.n_stop_ids = ask->n_stops;
    r.ignore_eos = ask->ignore_eos;
    if (ask->prompt_logprobs) r.prompt_logprobs = 0;
    r.pooling = ask->pooling;
    r.tenant = tenants[ask->tenant];
    r.cache_salt = salts[ask->salt];
    r.priority = ask->priority;
    r.deadline_us = ask->deadline_us;
    r.user = a;
    if (ask->callback) r.on_event = sim_on_event;
    return r;
}

static inline void sim_submit(SimWorld *w, const SimItem *item, SimAsked *a) {
    const EngineLimits *l = &w->plan->limits;
    memset(a, 0, sizeof *a);
    a->ask = &item->ask;
    a->load_turn = -1;
    a->n = item->ask.n;
    a->n_prompt = item->ask.n_prompt;
    a->salt = 1 + item->ask.tenant * SIM_SALTS + item->ask.salt;
    a->submit_us = w->model.now_us;
    a->deadline_us = item->ask.deadline_us == 0 ? INT64_MAX : a->submit_us + item->ask.deadline_us;
    sim_fill_prompt(&item->ask, a->prompt);
    Status want = OK;
    if (w->n_unstarted_told >= l->max_queue ||
        w->n_submitted - w->n_released >= l->max_queue + l->max_seqs) {
        want = ERR_LIMIT;
    }
    if (w->fails_memory) want = ERR_NOMEM;
    if (!sim_fits(w->plan, &item->ask)) want = ERR_ARG;
    const sluice_request r = sim_request(a);
    uint64_t id = 0;
    Err err = {0};
    sim_heap.fails = w->fails_memory;
    const Status status = engine_submit(w->engine, &r, &id, &err);
    sim_heap.fails = w->fails_memory = false;
    SIM_CHECK("S5 what the door says", status == want);
    SIM_CHECK("S5 a refusal has a sentence", (status == OK) == (err.text[0] == 0));
    sim_told->n_refused += status != OK;
    if (status != OK) return;
    SIM_CHECK("S1 ids", id != 0);
    for (int32_t i = 0; i < w->plan->n_items; i++) {
        SIM_CHECK("S1 an id is used again", w->asked[i].id != id);
    }
    a->id = id;
    sim_expect(a);
    w->n_submitted++;
    w->n_unstarted_told++;
    w->n_beams += item->ask.beam > 0;
}

static inline void sim_cancel(SimWorld *w, const SimItem *item) {
    SimAsked *a = &w->asked[item->which];
    if (a->id == 0) return;
    if (!a->cancelled) {
        a->cancelled = true;
        a->cancel_turn = w->turn - 1;
    }
    for (int32_t i = 0; i < item->n; i++) engine_cancel(w->engine, a->id);
}

/* Ids that nobody has, in slots that somebody may have. */
static inline void sim_cancel_strangers(SimWorld *w) {
    const uint64_t n_slots = (uint64_t)w->engine->mail.n_slots;
    engine_cancel(w->engine, 0);
    for (uint64_t i = 1; i <= MIN(n_slots, (uint64_t)20); i++) {
        engine_cancel(w->engine, i + n_slots * 1000000);
    }
}

static inline void sim_do_item(SimWorld *w, const SimItem *item, int32_t i) {
    switch (item->kind) {
        case SIM_REQUEST: sim_submit(w, item, &w->asked[i]); break;
        case SIM_CANCEL: sim_cancel(w, item); break;
        case SIM_STRANGER: sim_cancel_strangers(w); break;
        case SIM_FAIL_STEP: w->fail_step = true; break;
        case SIM_CLOCK:
            w->model.now_us += item->us;
            w->clock_jumped = true;
            break;
        case SIM_SLOW: w->slow_us = item->us; break;
        case SIM_PAUSE: w->paused_until = w->turn + item->n; break;
        case SIM_NOMEM: w->fails_memory = sim_heap_works; break;
        case SIM_CLOSE: w->closing = true; break;
        case SIM_RESTART: w->restart = w->plan->n_records > 0 ? item : NULL; break;
        case SIM_FULL: sim_disk_full(w, item); break;
        case SIM_CLEAR: sim_disk_clear(w); break;
        case SIM_AUDIT:
        case SIM_NAN: break;
    }
}

/* ---- a world ----------------------------------------------------------------------------- */

/* Not finite are the logits after what request `which` has said by then. */
static inline void sim_arm_nan(SimWorld *w, const SimItem *item) {
    static SimAsked a;
    a = (SimAsked){.ask = &w->plan->item[item->which].ask};
    if (w->plan->item[item->which].left_out || a.ask->pooling != SLUICE_POOL_NONE) return;
    a.n = 1;
    a.n_prompt = a.ask->n_prompt;
    sim_fill_prompt(a.ask, a.prompt);
    if (a.ask->beam == 0) sim_expect(&a);
    w->model.nonfinite_tag = sim_tag_at(&a, 0, MIN(item->n - 1, MAX(0, a.n_want[0] - 1)));
    w->has_nan = true;
}

/* An engine without any requests, in this turn of the world. */
static inline void sim_open(SimWorld *w) {
    const SimPlan *plan = w->plan;
    const int64_t now_us = w->model.now_us;
    for (int32_t i = 0; i < plan->n_items; i++) w->asked[i].id = 0;
    EngineConfig config = {.limits = plan->limits,
                           .policy = plan->policy,
                           .preempt = plan->preempt,
                           .n_eos = 1,
                           .eos_id = {FAKE_EOS},
                           .salt_seed = plan->seed,
                           .now_us = fake_now,
                           .clock = &w->model};
    (void)fake_open(&w->model, &plan->limits);
    w->model.now_us = MAX(w->model.now_us, now_us);
    w->model.us_per_step = plan->us_per_step;
    w->model.us_per_token = plan->us_per_token;
    w->model.us_per_move = plan->us_per_move;
    w->model.move_faults = plan->move_faults;
    w->model.fault_seed = plan->seed;
    config.runner = (Runner){.self = w,
                             .run = sim_model_run,
                             .queue = plan->seed % 3 == 0 ? sim_model_queue : NULL,
                             .close = sim_model_close};
    for (int32_t g = 0; g < plan->limits.kv.n_groups; g++) {
        w->block_salt[g] = calloc((size_t)plan->limits.kv.n_blocks[g], sizeof(int32_t));
        w->host_salt[g] = calloc((size_t)plan->limits.kv.n_host[g] + 1, sizeof(int32_t));
    }
    for (int32_t i = 0; i < plan->n_items; i++) {
        const SimItem *item = &plan->item[i];
        if (item->kind == SIM_NAN && !item->left_out) sim_arm_nan(w, item);
    }
    sim_disk_open(w, &config);
    Err err = {0};
    Engine *engine;
    if (engine_open(&engine, &config, &err) != OK) sim_failed("open", 0, err.text);
    w->engine = engine;
}

static inline void sim_turn(SimWorld *w) {
    sim_told->turn = w->turn;
    for (int32_t i = 0; i < w->plan->n_items; i++) {
        const SimItem *item = &w->plan->item[i];
        if (item->left_out) continue;
        if (item->kind == SIM_RESTART) sim_disk_remember(w, item);
        if (item->at == w->turn) sim_do_item(w, item, i);
    }
    const int64_t now_us = w->model.now_us;
    sim_heap.n_calls = 0;
    sim_heap.watching = true;
    sim_disk_limit(w, true);
    const bool some = engine_step(w->engine);
    sim_disk_limit(w, false);
    sim_heap.watching = false;
    SIM_CHECK("S9 the heap is used in a step", sim_heap.n_calls == 0);
    SIM_CHECK("S3 nothing is computed", some || w->engine->n_live == 0);
    sim_forget_check(w);
    sim_check_turn(w, now_us);
    sim_told->n_steps++;
    while (w->turn >= w->paused_until && sim_poll(w)) continue;
}

/* Turns that everything asked takes at most, preempted over and over. */
static inline int64_t sim_bound(const SimPlan *plan) {
    int64_t n = 1000;
    for (int32_t i = 0; i < plan->n_items; i++) {
        const SimAsk *a = &plan->item[i].ask;
        if (plan->item[i].kind != SIM_REQUEST) continue;
        n += 30 * (int64_t)(a->n_prompt + a->n_max) * MAX(a->n, a->beam);
    }
    return n;
}

static inline void sim_count(const SimWorld *w) {
    sim_told->n_requests += w->n_submitted;
    sim_told->n_preempted += w->stats.n_preempted;
    sim_told->n_cancelled += w->stats.n_cancelled;
    sim_told->n_errors += w->stats.n_failed;
    sim_told->n_hit_tokens += w->stats.prefix_hit_tokens;
    sim_told->n_saved += w->engine->cache.tier.n_saved;
    sim_told->n_loaded += w->engine->cache.tier.n_loaded;
    sim_told->n_checksum_errors += w->stats.n_checksum_errors;
    sim_told->n_swaps += w->n_swaps;
}

/* Whatever the caller had not fetched by then is lost with the engine; callbacks hear all. */
static inline void sim_close_early(SimWorld *w) {
    engine_close(w->engine);
    for (int32_t i = 0; i < w->plan->n_items; i++) {
        const SimAsked *a = &w->asked[i];
        if (a->id != 0 && a->ask->callback) {
            SIM_CHECK("S1 one last event when closing", a->n_last == 1);
        }
    }
}

/* The process ends, whatever its requests are at, and another goes on with its file. */
static inline void sim_restart(SimWorld *w) {
    const SimItem *item = w->restart;
    const bool clock_jumped = w->clock_jumped;
    sim_disk_note_warm(w);
    sim_count(w);
    w->closing = true;
    sim_close_early(w);
    sim_disk_spoil(w, item);
    w->file.n_restarts++;
    w->file.may_be_damaged = w->file.may_be_damaged || item->which != SIM_END_QUIET;
    *w = (SimWorld){.plan = w->plan,
                    .asked = w->asked,
                    .turn = w->turn,
                    .clock_jumped = clock_jumped,
                    .model = {.now_us = w->model.now_us},
                    .file = w->file};
    sim_open(w);
    sim_disk_check_restored(w, (SimEnd)item->which);
}

static inline void sim_run(const SimPlan *plan) {
    SimWorld *w = &sim_world;
    buf_free(&w->file.old);
    sim_disk_begin();
    *w = (SimWorld){.plan = plan, .asked = w->asked};
    sim_open(w);
    const int64_t bound = sim_bound(plan);
    int32_t last = 0;
    for (int32_t i = 0; i < plan->n_items; i++) last = MAX(last, plan->item[i].at);
    for (w->turn = 0; w->turn <= last || w->engine->n_live > 0 || w->engine->n_said > 0;
         w->turn++) {
        sim_turn(w);
        if (w->closing) {
            sim_count(w);
            sim_close_early(w);
            return;
        }
        if (w->restart != NULL) sim_restart(w);
        SIM_CHECK("S3 it never ends", w->turn < last + bound);
    }
    while (sim_poll(w)) continue;
    sim_check_end(w);
    sim_count(w);
    engine_close(w->engine);
}
