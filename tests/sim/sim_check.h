/* sim_check: the invariants, checked from outside: the steps that the scheduler plans, the events
 * that come out, and the state between steps. K and S numbers are those of tests/sim/README.md. */
#pragma once

#include "sim_world.h"

/* ---- a step ------------------------------------------------------------------------------ */

/* K4: what a step writes nobody else holds, nor the tree. K8: what it reads was written for the
 * same tenant and salt. */
static inline void sim_check_blocks(SimWorld *w, const StepPlan *plan, int32_t part) {
    const PlanSeq *p = &plan->seqs[part];
    const SimAsked *a = p->seq->request->user;
    const int32_t size = plan->block_tokens;
    for (int32_t g = 0; g < plan->n_groups; g++) {
        const BatchKv *kv = &plan->batch.kv[g];
        const KvPool *pool = &w->engine->cache.pool[g];
        const int32_t first = plan->batch.pos[p->first_token],
                      window = w->plan->limits.kv.window[g];
        const int32_t from = window == 0 ? 0 : MAX(0, first - window + 1);
        for (int32_t at = from / size; at * size < first; at++) {
            const int32_t block = kv->block_id[kv->table_start[part] + at];
            if (at * size + size <= from) continue;
            SIM_CHECK("K8 a block of another tenant or salt", w->block_salt[g][block] == a->salt);
        }
        for (int32_t i = 0; i < p->n_tokens; i++) {
            const int32_t block = kv->kv_slot[p->first_token + i] / size;
            SIM_CHECK("K4 a shared block is written", kv_pool_is_private(pool, block));
            w->block_salt[g][block] = a->salt;
        }
    }
}

/* S2: positions follow each other; only what was preempted is computed again. */
static inline void sim_check_position(const StepPlan *plan, const PlanSeq *p) {
    const Request *r = p->seq->request;
    SimAsked *a = r->user;
    const int32_t i = p->seq->index, first = plan->batch.pos[p->first_token];
    const bool again = r->n_preempted != a->n_preempted_at[i];
    if (!a->started && r->n_preempted == 0) {
        SIM_CHECK("S8 what came from the cache", first == r->usage.n_cached);
    }
    a->started = true;
    if (a->next_pos[i] > 0 && !again) {
        SIM_CHECK("S2 a token is computed twice or left out", first == a->next_pos[i]);
    } else if (i > 0 && !again && a->ask->beam == 0) {
        SIM_CHECK("S2 a fork goes on after the prompt", first == a->n_prompt);
    }
    a->n_preempted_at[i] = r->n_preempted;
    a->next_pos[i] = first + p->n_tokens;
    SIM_CHECK("S2 a step computes what is not known",
              a->next_pos[i] <= a->n_prompt + MAX(a->ask->n_max - 1, 0));
}

/* Where a block for the disk tells its group and whose it is. */
static inline void *sim_whose(const SimWorld *w, const KvMove *move) {
    return (char *)move->bytes + w->plan->limits.block_bytes[move->group] - sizeof(int32_t);
}

static inline void sim_mark_block(SimWorld *w, const KvMove *move) {
    const int32_t whose = w->block_salt[move->group][move->src] + SIM_SALTS_ALL * move->group;
    memcpy(sim_whose(w, move), &whose, sizeof whose);
    w->file.n_handed++;
}

static inline void sim_take_mark(SimWorld *w, const KvMove *move) {
    int32_t whose;
    memcpy(&whose, sim_whose(w, move), sizeof whose);
    SIM_CHECK("K8 a block of another group", whose / SIM_SALTS_ALL == move->group);
    w->block_salt[move->group][move->dst] = whose % SIM_SALTS_ALL;
}

static inline void sim_check_move(SimWorld *w, const KvMove *move) {
    int32_t *block = w->block_salt[move->group], *host = w->host_salt[move->group];
    switch (move->kind) {
        case KV_MOVE_COPY: block[move->dst] = block[move->src]; break;
        case KV_MOVE_SAVE: host[move->dst] = block[move->src]; return;
        case KV_MOVE_LOAD: block[move->dst] = host[move->src]; break;
        case KV_MOVE_READ: sim_mark_block(w, move); return;
        case KV_MOVE_WRITE: return;
    }
    SIM_CHECK("K4 a copy goes to a shared block",
              w->engine->cache.pool[move->group].ref[move->dst] <= 1);
}

static inline void sim_check_step(SimWorld *w, const StepPlan *plan) {
    for (int32_t i = 0; i < plan->moves.n; i++) sim_check_move(w, &plan->moves.move[i]);
    for (int32_t s = 0; s < plan->n_seqs; s++) {
        const PlanSeq *p = &plan->seqs[s];
        const SimAsked *a = p->seq->request->user;
        SIM_CHECK("S1 only what runs is computed",
                  p->seq->state == SEQ_RUNNING && !a->done[p->seq->index]);
        SIM_CHECK("S6 a cancelled request is computed", !a->cancelled || a->cancel_turn == w->turn);
        for (int32_t k = 0; k < s; k++) {
            SIM_CHECK("S2 a sequence is in a step once", plan->seqs[k].seq != p->seq);
        }
        sim_check_position(plan, p);
        sim_check_blocks(w, plan, s);
    }
    SIM_CHECK("S2 rows and jobs fit",
              plan->n_jobs <= w->plan->limits.max_seqs + w->plan->limits.max_logits);
}

/* ---- an event ---------------------------------------------------------------------------- */

static inline void sim_check_usage(SimWorld *w, SimAsked *a, const sluice_event *event) {
    const sluice_usage *u = event->usage;
    SIM_CHECK("S8 usage", u->n_prompt == a->n_prompt && u->n_output == a->n_got[event->index]);
    SIM_CHECK("S8 cached tokens", u->n_cached >= 0 && u->n_cached < a->n_prompt);
    a->n_cached = u->n_cached;
    if (a->ask->callback) {
        const int64_t us = w->model.now_us - a->submit_us;
        const bool late = w->engine->config.runner.queue != NULL; /* told with the next step */
        SIM_CHECK("S8 total time", late ? u->total_us <= us || w->clock_jumped : u->total_us == us);
    }
    if (!w->clock_jumped && u->n_output > 0) {
        SIM_CHECK("S8 times in order", u->queue_us >= 0 && u->queue_us <= u->first_token_us &&
                                           u->first_token_us <= u->total_us);
    }
    a->n_preempted = MAX(a->n_preempted, u->n_preempted); /* sequences come in any order */
    if (a->ask->pooling == SLUICE_POOL_NONE) w->n_output += u->n_output;
}

/* S7: an error says what happened. */
static inline void sim_check_error(SimWorld *w, SimAsked *a, const sluice_event *event) {
    SIM_CHECK("S7 an error has a sentence", event->error != NULL && event->error[0] != 0);
    SIM_CHECK("S7 the error's status", event->status == SLUICE_ERR_DEVICE);
    if (a->failed) return;
    SIM_CHECK("S7 an error without a reason", w->has_nan);
    bool found = a->ask->beam > 0;
    for (int32_t k = 0; k <= a->n_got[event->index] && !found; k++) {
        found = sim_tag_at(a, event->index, k) == w->model.nonfinite_tag;
    }
    uint64_t tag = 0;
    for (int32_t i = 0; i < a->n_prompt && a->ask->prompt_logprobs && !found; i++) {
        tag = fake_tag(tag, a->prompt[i], i);
        found = tag == w->model.nonfinite_tag;
    }
    SIM_CHECK("S7 logits were finite", found);
}

static inline void sim_check_finish(SimWorld *w, SimAsked *a, const sluice_event *event) {
    const int32_t i = event->index;
    switch (event->finish) {
        case SLUICE_FINISH_STOP:
        case SLUICE_FINISH_LENGTH:
            SIM_CHECK("S7 finish", event->finish == a->want_finish[i]);
            SIM_CHECK("S7 the whole output", a->n_got[i] == a->n_want[i]);
            if (a->ask->pooling != SLUICE_POOL_NONE) {
                SIM_CHECK("S7 embedding", event->n_embedding == 8 &&
                                              memcmp(event->embedding, a->embedding, 32) == 0);
            } else if (event->finish == SLUICE_FINISH_STOP) {
                SIM_CHECK("S7 stop token", event->stop_id == a->want[i][a->n_want[i] - 1]);
            }
            for (int32_t k = 0; w->has_nan && a->ask->beam == 0 && k < a->n_got[i]; k++) {
                SIM_CHECK("S7 a token from logits that were not finite",
                          sim_tag_at(a, i, k) != w->model.nonfinite_tag);
            }
            break;
        case SLUICE_FINISH_CANCELLED: SIM_CHECK("S6", a->cancelled || w->closing); break;
        case SLUICE_FINISH_DEADLINE:
            SIM_CHECK("S1 a deadline too early",
                      w->model.now_us >= a->deadline_us || (w->clock_jumped && !a->ask->callback));
            break;
        default: sim_check_error(w, a, event);
    }
}

static inline void sim_check_prompt_logprobs(const SimAsked *a, const sluice_event *event) {
    uint64_t tag = 0;
    for (int32_t i = 0; i < a->n_prompt; i++) {
        const float want = i == 0 ? 0 : -(float)(tag % 1000) / 100;
        SIM_CHECK("S7 prompt logprobs", event->prompt_chosen[i].logprob == want);
        tag = fake_tag(tag, a->prompt[i], i);
    }
}

static inline void sim_check_event(SimWorld *w, const sluice_event *event) {
    SimAsked *a = event->user;
    const int32_t i = event->index;
    SIM_CHECK("S1 whose event", event->request == a->id && i >= 0 && i < a->n);
    SIM_CHECK("S1 nothing after the last event", a->n_last == 0 && !a->done[i]);
    for (int32_t k = 0; k < event->n_tokens; k++) {
        SIM_CHECK("S7 no token too many", a->n_got[i] < a->n_want[i]);
        SIM_CHECK("S7 the right token", event->tokens[k] == a->want[i][a->n_got[i]]);
        a->n_got[i]++;
    }
    if (event->n_tokens > 0 && event->prompt_chosen != NULL) sim_check_prompt_logprobs(a, event);
    a->n_events++;
    a->n_last += event->last;
    if (event->finish == SLUICE_FINISH_NONE) {
        SIM_CHECK("S1 an event says something", event->n_tokens > 0 && !event->last);
        return;
    }
    a->done[i] = true;
    sim_check_finish(w, a, event);
    sim_check_usage(w, a, event);
    int32_t n_done = 0;
    for (int32_t k = 0; k < a->n; k++) n_done += a->done[k];
    SIM_CHECK("S1 the last event is the last", event->last == (n_done == a->n));
}

/* ---- between steps ----------------------------------------------------------------------- */

/* Whether v may not start while u waits. */
static inline bool sim_overtakes(sluice_policy policy, const Request *v, const Request *u) {
    const bool later = v->id > u->id;
    switch (policy) {
        case SLUICE_POLICY_FCFS: return later;
        case SLUICE_POLICY_PRIORITY:
            return v->priority != u->priority ? v->priority < u->priority : later;
        case SLUICE_POLICY_SHORTEST_PROMPT: return later && u->n_prompt < v->n_prompt;
        default: return false;
    }
}

/* S4: who may start before whom. starters: began in this step; waiters: still wait. */
static inline void sim_check_order(SimWorld *w, Request *const *starters, int32_t n_starters,
                                   Request *const *waiters, int32_t n_waiters) {
    const sluice_policy policy = w->plan->policy;
    if (n_starters == 0) return;
    for (int32_t i = 0; i < n_starters; i++) {
        for (int32_t k = 0; k < n_waiters; k++) {
            SIM_CHECK("S4 overtaken", !sim_overtakes(policy, starters[i], waiters[k]));
        }
    }
    if (policy == SLUICE_POLICY_PRIORITY || policy == SLUICE_POLICY_FAIR || n_waiters == 0) return;
    SimAsked *oldest = waiters[0]->user;
    for (int32_t k = 1; k < n_waiters; k++) {
        if (waiters[k]->id < oldest->id) oldest = waiters[k]->user;
    }
    for (int32_t i = 0; i < n_starters; i++) oldest->n_passed += starters[i]->id > oldest->id;
    SIM_CHECK("S4 starved", oldest->n_passed <= 5 * w->plan->limits.max_seqs);
}

static inline void sim_check_live(SimWorld *w, int64_t now_us) {
    const Engine *e = w->engine;
    Request *starters[SIM_ITEMS_MAX], *waiters[SIM_ITEMS_MAX];
    int32_t n_starters = 0, n_waiters = 0, n_swapped = 0;
    bool preempted_waits = false;
    for (int32_t i = 0; i < e->n_live; i++) {
        Request *r = e->live[i];
        SimAsked *a = r->user;
        SIM_CHECK("S6 cancelled and still there", !a->cancelled || a->cancel_turn == w->turn);
        SIM_CHECK("S1 a deadline has passed", a->deadline_us > now_us);
        SIM_CHECK("S7 a failed step's request goes on", !a->failed);
        SIM_CHECK("S1 over and still there", a->n_last == 0);
        if (!r->started) {
            waiters[n_waiters++] = r;
        } else if (a->n_passed >= 0) {
            starters[n_starters++] = r;
        }
        for (int32_t k = 0; k < r->n_seqs; k++) {
            const Seq *seq = &r->seq[k];
            /* What failed to load waits again after the others were chosen. */
            preempted_waits = preempted_waits ||
                              (seq->state == SEQ_WAITING && r->started && a->load_turn != w->turn);
            n_swapped += seq->swapped;
            SIM_CHECK("S1 swapped and not waiting", !seq->swapped || seq->state == SEQ_WAITING);
            SIM_CHECK("S1 loading and not running", !seq->loading || seq->state == SEQ_RUNNING);
            SIM_CHECK("K2 loads are waited for",
                      seq->kv == NULL || seq->loading == (seq->kv->load.n_flying > 0));
            SIM_CHECK("S1 one that runs has a place", seq->state != SEQ_RUNNING || seq->kv != NULL);
            SIM_CHECK("S1 one that waits has none", seq->state != SEQ_WAITING || seq->kv == NULL);
        }
    }
    w->n_swaps += MAX(0, n_swapped - w->n_swapped);
    w->n_swapped = n_swapped;
    sim_check_order(w, starters, n_starters, waiters, n_waiters);
    if (n_starters > 0 && w->plan->policy != SLUICE_POLICY_PRIORITY) {
        SIM_CHECK("S4 the preempted go first", !preempted_waits);
    }
    for (int32_t i = 0; i < n_starters; i++) ((SimAsked *)starters[i]->user)->n_passed = -1;
    w->n_unstarted_told = n_waiters;
}

/* K3: blocks behind the window are given back, and nothing is held ahead. */
static inline void sim_check_tables(const SimWorld *w) {
    const Sched *s = &w->engine->sched;
    const int32_t size = w->plan->limits.kv.block_tokens;
    for (int32_t i = 0; i < s->n_running; i++) {
        const Seq *seq = s->running[i];
        SIM_CHECK("K3 slots", kv_cache_len(seq->kv) == seq->n_computed);
        for (int32_t g = 0; g < w->plan->limits.kv.n_groups; g++) {
            const KvTable *table = &seq->kv->table[g];
            const int32_t window = w->plan->limits.kv.window[g];
            if (window == 0) continue;
            SIM_CHECK("K3 blocks behind the window are kept",
                      table->n_blocks - table->n_dropped <= DIV_UP(MAX(window, 2), size) + 2);
        }
    }
    SIM_CHECK("S1 places", s->n_running + s->n_free_places <= w->plan->limits.max_seqs);
}

static inline void sim_check_stats(SimWorld *w) {
    sluice_stats now;
    const sluice_stats *was = &w->stats;
    engine_get_stats(w->engine, &now);
    SIM_CHECK("S8 no counter falls",
              now.n_steps >= was->n_steps && now.n_requests >= was->n_requests &&
                  now.n_finished >= was->n_finished && now.n_cancelled >= was->n_cancelled &&
                  now.n_failed >= was->n_failed && now.n_preempted >= was->n_preempted &&
                  now.n_prompt_tokens >= was->n_prompt_tokens &&
                  now.n_output_tokens >= was->n_output_tokens &&
                  now.n_evicted_blocks >= was->n_evicted_blocks);
    SIM_CHECK("S8 requests", now.n_requests == w->n_submitted);
    SIM_CHECK("S8 requests that are over", now.n_finished + now.n_cancelled + now.n_failed ==
                                               w->n_submitted - w->engine->n_live);
    SIM_CHECK("S9 waiting",
              now.n_waiting == w->n_unstarted_told && now.n_waiting <= w->plan->limits.max_queue);
    SIM_CHECK("S8 swapped", now.n_swapped == w->n_swapped);
    SIM_CHECK("S8 no counter of the tier falls",
              now.n_checksum_errors >= was->n_checksum_errors && now.host_kv_bytes_used >= 0);
    SIM_CHECK("S8 no counter of the disk falls",
              now.n_disk_written >= was->n_disk_written && now.n_disk_failed >= was->n_disk_failed);
    SIM_CHECK("K1 blocks",
              now.n_blocks_free + now.n_blocks_cached + now.n_blocks_used == now.n_blocks);
    w->stats = now;
}

/* The link that leads to the cached block, or to 0. */
static inline int32_t *sim_find_cached(SimWorld *w, uint64_t hash, int32_t group, KvMedium medium) {
    int32_t *link = &w->cached_bucket[hash_mix(hash) % SIM_CACHED_BUCKETS];
    for (; *link != 0; link = &w->cached[*link].next) {
        const SimCached *c = &w->cached[*link];
        if (c->hash == hash && c->group == group && c->medium == medium) break;
    }
    return link;
}

/* Applies an event to the consumer's map. */
static inline void sim_apply_event(SimWorld *w, const sluice_kv_event *event) {
    SIM_CHECK("K9 event numbers have a gap", event->number == w->n_events);
    w->n_events++;
    const KvMedium medium = (KvMedium)event->medium;
    int32_t *link = sim_find_cached(w, event->block_hash, event->group, medium);
    int32_t at = *link;
    if (event->kind == SLUICE_KV_STORED) {
        SIM_CHECK("K9 a block is stored twice", at == 0);
        at = w->cached_free != 0 ? w->cached_free : w->n_cached_ever + 1;
        SIM_CHECK("K9 more blocks than there are", at < SIM_CACHED_MAX);
        if (at > w->n_cached_ever) {
            w->n_cached_ever = at;
        } else {
            w->cached_free = w->cached[at].next;
        }
        w->cached[at] = (SimCached){event->block_hash, event->group, medium, 0};
        *link = at;
        w->n_cached++;
    } else if (event->kind == SLUICE_KV_REMOVED) {
        SIM_CHECK("K9 a block is removed that was not there", at != 0);
        *link = w->cached[at].next;
        w->cached[at].next = w->cached_free;
        w->cached_free = at;
        w->n_cached--;
    } else {
        memset(w->cached_bucket, 0, sizeof w->cached_bucket);
        w->cached_free = w->n_cached = w->n_cached_ever = 0;
    }
}

/* K9: the events, replayed, give the prefix map. */
static inline void sim_check_events(SimWorld *w) {
    const KvRadix *radix = &w->engine->cache.radix;
    sluice_kv_event event;
    while (engine_read_kv_event(w->engine, w->n_events, 0, &event)) sim_apply_event(w, &event);
    int32_t n = 0;
    for (int32_t i = 0; i < radix->n_nodes_max; i++) {
        const KvNode *node = &radix->node[i];
        if (node->parent == KV_NODE_FREE) continue;
        for (int32_t g = 0; g < w->plan->limits.kv.n_groups; g++) {
            const KvMedium medium = node->block[g] >= 0 ? KV_MEDIUM_DEVICE : KV_MEDIUM_HOST;
            if (node->block[g] < 0 && node->host[g] < 0) continue;
            n++;
            SIM_CHECK("K9 no event told of a cached block",
                      *sim_find_cached(w, node->prefix, g, medium) != 0);
        }
    }
    SIM_CHECK("K9 cached blocks", n == w->n_cached);
}

static inline void sim_check_turn(SimWorld *w, int64_t now_us) {
    Err err = {0};
    if (engine_audit(w->engine, &err) != OK) sim_failed("audit", 0, err.text);
    sim_check_live(w, now_us);
    sim_check_tables(w);
    sim_check_stats(w);
    sim_check_events(w);
}

/* ---- at the end -------------------------------------------------------------------------- */

static inline void sim_check_end(SimWorld *w) {
    Engine *e = w->engine;
    int64_t n_preempted = 0, n_hit = 0;
    for (int32_t i = 0; i < w->plan->n_items; i++) {
        const SimAsked *a = &w->asked[i];
        if (a->id == 0) continue;
        SIM_CHECK("S1 exactly one last event", a->n_last == 1);
        n_preempted += a->n_preempted;
        n_hit += a->n_cached;
    }
    SIM_CHECK("K7 used", w->stats.n_blocks_used == 0 && e->cache.pool[1].n_used == 0);
    SIM_CHECK("S1 places are free", e->sched.n_free_places == w->plan->limits.max_seqs &&
                                        e->sched.n_waiting == 0 && e->sched.n_running == 0);
    SIM_CHECK("S8 preemptions add up", n_preempted == w->stats.n_preempted);
    SIM_CHECK("S8 cached tokens add up", w->stats.prefix_hit_tokens == n_hit);
    if (w->n_beams == 0) {
        SIM_CHECK("S8 output tokens add up", w->stats.n_output_tokens == w->n_output);
    }
    for (int32_t i = 0; i < e->sched.n_tenants; i++) {
        SIM_CHECK("S8 tenants' books are closed", e->sched.tenant[i].n_live == 0);
    }
    SIM_CHECK("K7 swapped", w->stats.n_swapped == 0);
    kv_cache_give_up(&e->cache, INT64_MAX);
    SIM_CHECK("K7 clearing", kv_cache_clear(&e->cache, NULL) == OK);
    for (int32_t g = 0; g < w->plan->limits.kv.n_groups; g++) {
        const KvPool *pool = &e->cache.pool[g];
        const KvTierGroup *tier = &e->cache.tier.group[g];
        SIM_CHECK("K7 cached", pool->n_free == pool->n_blocks && tier->n_free == tier->n_slots);
    }
    SIM_CHECK("K7 nodes", e->cache.radix.n_nodes == 0);
    sim_check_events(w);
    Err err = {0};
    if (engine_audit(e, &err) != OK) sim_failed("audit", 0, err.text);
}
