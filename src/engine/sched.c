#include "engine/sched.h"

#include <string.h>

#include "base/mem.h"
#include "engine/sched_priv.h"

/* The default of chunk_slack: the pace of decodes stays within 1.5 times of what it was. */
static const double SCHED_CHUNK_SLACK = 0.4;
/* Below this a chunk is not worth its overhead. */
enum { SCHED_CHUNK_MIN = 16 };

int64_t sched_bytes(const SchedConfig *config) {
    const int64_t n_seqs = config->limits.max_seqs, n_requests = config->n_requests_max;
    return n_seqs *
               (int64_t)(sizeof(KvSeq) + sizeof(KvSeq *) + sizeof(Seq *) + sizeof(SchedEntry)) +
           n_seqs * (int64_t)(kv_cache_seq_ints(&config->limits.kv, config->limits.max_context) *
                              sizeof(int32_t)) +
           n_requests * (int64_t)(sizeof(SchedEntry) + sizeof(SchedTenant));
}

Status sched_init(Sched *sched, const SchedConfig *config, KvCache *cache, Err *err) {
    const size_t n_seqs = (size_t)config->limits.max_seqs;
    const size_t n_requests = (size_t)config->n_requests_max;
    const size_t ints = kv_cache_seq_ints(&config->limits.kv, config->limits.max_context);
    Sched made = {.config = *config, .cache = cache};
    if (made.config.chunk_slack == 0) made.config.chunk_slack = SCHED_CHUNK_SLACK;
    made.place = mem_try_alloc(n_seqs, sizeof *made.place);
    made.place_memory = mem_try_alloc(n_seqs, ints * sizeof *made.place_memory);
    made.free_place = mem_try_alloc(n_seqs, sizeof *made.free_place);
    made.running = mem_try_alloc(n_seqs, sizeof *made.running);
    made.waiting_room = mem_try_alloc(n_requests + n_seqs, sizeof *made.waiting_room);
    made.waiting = made.waiting_room;
    made.tenant = mem_try_alloc(n_requests, sizeof *made.tenant);
    if (made.place == NULL || made.place_memory == NULL || made.free_place == NULL ||
        made.running == NULL || made.waiting_room == NULL || made.tenant == NULL) {
        sched_free(&made);
        FAIL(err, ERR_NOMEM, "no memory for a scheduler of %zu sequences and %zu requests", n_seqs,
             n_requests);
    }
    for (size_t i = 0; i < n_seqs; i++) {
        kv_cache_seq_init(cache, &made.place[i], made.place_memory + i * ints,
                          config->limits.max_context);
        made.free_place[n_seqs - 1 - i] = &made.place[i];
    }
    made.n_free_places = (int32_t)n_seqs;
    *sched = made;
    return OK;
}

void sched_free(Sched *sched) {
    mem_free(sched->place);
    mem_free(sched->place_memory);
    mem_free(sched->free_place);
    mem_free(sched->running);
    mem_free(sched->waiting_room);
    mem_free(sched->tenant);
    *sched = (Sched){0};
}

void sched_add(Sched *s, Request *request) {
    sched_queue_add(s, request);
}

void sched_forget(Sched *s, Request *request) {
    s->tenant[request->tenant_idx].n_live--;
}

/* ---- places and states ------------------------------------------------------------------- */

static bool sched_is_hidden(const Seq *seq) {
    return seq->request->pooling != SLUICE_POOL_NONE;
}

/* Whether a goes before b when memory is short. */
static bool sched_precedes(const Sched *s, const Seq *a, const Seq *b) {
    const Request *x = a->request, *y = b->request;
    if (s->config.policy == SLUICE_POLICY_PRIORITY && x->priority != y->priority) {
        return x->priority > y->priority;
    }
    return x->id != y->id ? x->id < y->id : a->index < b->index;
}

static void sched_take_place(Sched *s, Seq *seq) {
    CHECK(s->n_free_places > 0 && seq->kv == NULL);
    seq->kv = s->free_place[--s->n_free_places];
}

static void sched_drop_place(Sched *s, Seq *seq) {
    if (seq->kv == NULL) return;
    kv_cache_end(s->cache, seq->kv);
    seq->loading = false;
    seq->n_hit_loading = 0;
    s->free_place[s->n_free_places++] = seq->kv;
    seq->kv = NULL;
    seq->n_computed = 0;
}

static void sched_unset_swapped(Sched *s, Seq *seq) {
    s->n_swapped -= seq->swapped;
    seq->swapped = false;
}

static void sched_set_running(Sched *s, Seq *seq) {
    int32_t at = s->n_running++;
    for (; at > 0 && sched_precedes(s, seq, s->running[at - 1]); at--) {
        s->running[at] = s->running[at - 1];
    }
    s->running[at] = seq;
    seq->state = SEQ_RUNNING;
    sched_unset_swapped(s, seq);
}

static void sched_unset_running(Sched *s, Seq *seq) {
    int32_t at = 0;
    while (s->running[at] != seq) at++;
    CHECK(at < s->n_running);
    s->n_running--;
    memmove(&s->running[at], &s->running[at + 1], (size_t)(s->n_running - at) * sizeof *s->running);
}

/* Sequences that are admitted and preempted together with this one: the siblings that have not
 * forked yet, or all beams. */
static int32_t sched_group(const Seq *seq) {
    const Request *request = seq->request;
    return seq->index == 0 && (!request->forked || request->beam) ? request->n_seqs : 1;
}

void sched_fork(Sched *s, Request *request) {
    CHECK(!request->forked);
    request->forked = true;
    Seq *first = &request->seq[0];
    for (int32_t i = 1; i < request->n_seqs; i++) {
        Seq *seq = &request->seq[i];
        if (seq->state != SEQ_SIBLING) continue;
        kv_cache_fork(s->cache, seq->kv, first->kv);
        seq->n_computed = first->n_computed;
        sched_set_running(s, seq);
    }
}

void sched_remove(Sched *s, Seq *seq) {
    if (seq->state == SEQ_RUNNING) sched_unset_running(s, seq);
    if (seq->state == SEQ_WAITING) sched_queue_remove(s, seq);
    sched_unset_swapped(s, seq);
    sched_drop_place(s, seq);
    seq->state = SEQ_DONE;
}

static void sched_preempt_one(Sched *s, Seq *seq) {
    if (seq->state == SEQ_RUNNING) sched_unset_running(s, seq);
    if (seq->state != SEQ_DONE) seq->state = SEQ_SIBLING;
    sched_drop_place(s, seq);
}

/* Whether the sequence's blocks are better moved to the host and back than computed again. */
static bool sched_wants_swap(const Sched *s, const Seq *seq) {
    const sluice_preempt preempt = s->config.preempt;
    if (preempt != SLUICE_PREEMPT_AUTO) return preempt == SLUICE_PREEMPT_SWAP;
    int64_t n_blocks = 0;
    for (int32_t g = 0; g < s->config.limits.kv.n_groups; g++) {
        n_blocks += seq->kv->table[g].n_blocks - seq->kv->table[g].n_dropped;
    }
    return 2 * (double)n_blocks * s->move_us < s->prompt_token_us * seq->n_computed;
}

/* Gives up the sequence's blocks, and those of its group. moves: where a single sequence may list
 * what goes to the host; NULL: nothing does. */
static void sched_preempt(Sched *s, Seq *seq, KvMoves *moves) {
    Request *request = seq->request;
    if (request->beam) seq = &request->seq[0];
    const int32_t n = sched_group(seq);
    if (moves != NULL && n == 1 && !seq->loading && sched_wants_swap(s, seq)) {
        seq->swapped = kv_cache_swap(s->cache, seq->kv, moves) > 0;
        s->n_swapped += seq->swapped;
    }
    for (int32_t i = 0; i < n; i++) sched_preempt_one(s, seq + i);
    seq->state = SEQ_WAITING;
    sched_queue_push_front(s, seq);
    request->n_preempted++;
    s->counts.n_preempted++;
}

/* ---- one step ---------------------------------------------------------------------------- */

static bool sched_append(Sched *s, StepPlan *plan, Seq *seq, int32_t n) {
    return kv_cache_append(s->cache, seq->kv, n, &plan->moves);
}

/* The last sequence by precedence that comes after seq and is not part of the plan yet. */
static Seq *sched_victim(const Sched *s, const Seq *seq) {
    for (int32_t i = s->n_running - 1; i >= 0 && s->running[i] != seq; i--) {
        Seq *other = s->running[i];
        if (!other->planned && other->request != seq->request) return other;
        if (!other->planned && !seq->request->beam) return other;
    }
    return NULL;
}

/* Makes slots for n tokens of seq, at the cost of those that come after it. */
static bool sched_force_append(Sched *s, StepPlan *plan, Seq *seq, int32_t n) {
    while (!sched_append(s, plan, seq, n)) {
        Seq *victim = sched_victim(s, seq);
        if (victim == NULL) return false;
        sched_preempt(s, victim, &plan->moves);
    }
    return true;
}

static int32_t sched_left(const Seq *seq) {
    return seq->n_tokens - seq->n_computed;
}

/* The most of the next n tokens of seq that the rows of logits left allow. */
static int32_t sched_clip_rows(const StepPlan *plan, const Seq *seq, int32_t n) {
    const int32_t rows = plan->max_logits - plan->batch.n_logits;
    /* A chunk asks for a row for each token (prompt logprobs, mean pooling) or for one at most. */
    if (step_plan_rows(seq, n) <= rows) return n;
    return MIN(n, rows);
}

/* The most of the next n tokens of seq that the blocks left allow. */
static int32_t sched_clip_blocks(const Sched *s, const Seq *seq, int32_t n) {
    const int32_t size = s->config.limits.kv.block_tokens;
    for (int32_t g = 0; g < s->config.limits.kv.n_groups; g++) {
        const int64_t lacking =
            (int64_t)kv_cache_need(s->cache, seq->kv, g, n) - kv_cache_room(s->cache, g);
        if (lacking <= 0) continue;
        const int64_t end = (int64_t)DIV_UP(kv_cache_len(seq->kv) + n, size) - lacking;
        n = (int32_t)MAX(0, MIN((int64_t)n, end * size - kv_cache_len(seq->kv)));
    }
    return n;
}

/* The beams of a request advance together or not at all. */
static bool sched_plan_beams(Sched *s, StepPlan *plan, Request *request) {
    for (int32_t i = 0; i < request->n_seqs; i++) {
        /* Some still computes its past. */
        if (sched_left(&request->seq[i]) != 1 || request->seq[i].loading) return true;
    }
    const int32_t n = request->n_seqs;
    if (plan->batch.n_tokens + n > plan->max_tokens ||
        plan->batch.n_logits + n > plan->max_logits) {
        return true;
    }
    for (int32_t i = 0; i < request->n_seqs; i++) {
        if (!sched_force_append(s, plan, &request->seq[i], 1)) {
            sched_preempt(s, &request->seq[0], NULL);
            return false;
        }
    }
    for (int32_t i = 0; i < request->n_seqs; i++) step_plan_add(plan, &request->seq[i], 1);
    return true;
}

/* The next token of every sequence that has computed all others. */
static void sched_plan_decodes(Sched *s, StepPlan *plan) {
    for (int32_t i = 0; i < s->n_running;) {
        Seq *seq = s->running[i];
        if (sched_left(seq) != 1 || seq->planned || seq->loading ||
            sched_is_hidden(seq) != plan->hidden || plan->batch.n_tokens >= plan->max_tokens ||
            sched_clip_rows(plan, seq, 1) < 1) {
            i++;
        } else if (seq->request->beam && seq->request->forked) {
            i += seq->index != 0 || sched_plan_beams(s, plan, seq->request);
        } else if (sched_force_append(s, plan, seq, 1)) {
            step_plan_add(plan, seq, 1);
            i++;
        } else {
            sched_preempt(s, seq, &plan->moves); /* its successor is at i now */
        }
    }
}

/* Prompt tokens that this step may take beside the decodes in it. */
static int32_t sched_prompt_budget(const Sched *s, const StepPlan *plan) {
    const int32_t left = plan->max_tokens - plan->batch.n_tokens;
    const double slack = s->config.chunk_slack;
    if (plan->batch.n_tokens == 0 || slack < 0) return left;
    if (s->decode_us <= 0 || s->prompt_token_us <= 0) return MIN(left, plan->max_tokens / 4 + 1);
    /* Many that wait for few that run: what delays the few a little lets the many begin. */
    const double crowd = 1 + (double)s->n_waiting / MAX(s->n_running, 1);
    const double fits = crowd * slack * s->decode_us / s->prompt_token_us;
    return (int32_t)MIN((double)left, MAX(fits, (double)SCHED_CHUNK_MIN));
}

/* Plans the next chunk of seq, of at most *budget tokens. False: there was no room for any. */
static bool sched_plan_chunk(Sched *s, StepPlan *plan, Seq *seq, int32_t *budget) {
    int32_t n = MIN(sched_left(seq), *budget);
    /* The last token of a beam waits for those of the others. */
    if (seq->request->beam && seq->request->forked) n = MIN(n, sched_left(seq) - 1);
    if (n < 1) return true;
    n = sched_clip_rows(plan, seq, n);
    n = sched_clip_blocks(s, seq, n);
    if (n < 1 && plan->batch.n_tokens == 0 && plan->max_logits > 0) {
        if (!sched_force_append(s, plan, seq, 1)) return false;
        n = 1;
    } else if (n < 1 || !sched_append(s, plan, seq, n)) {
        return false;
    }
    step_plan_add(plan, seq, n);
    *budget -= n;
    return true;
}

/* Prompts that have begun, and what was preempted and is computed again. */
static void sched_plan_prompts(Sched *s, StepPlan *plan, int32_t *budget) {
    for (int32_t i = 0; i<s->n_running && * budget> 0; i++) {
        Seq *seq = s->running[i];
        if (seq->planned || seq->loading || sched_left(seq) < 2 ||
            sched_is_hidden(seq) != plan->hidden)
            continue;
        (void)sched_plan_chunk(s, plan, seq, budget);
    }
}

/* What of the cache the sequence may use: what must be computed anyway is not looked for. */
static void sched_match(const Sched *s, const Seq *seq, KvMatch *match) {
    const Request *request = seq->request;
    const bool all = (request->want_prompt_logprobs && seq->index == 0 &&
                      request->n_prompt_logprobs < request->n_prompt) ||
                     request->pooling == SLUICE_POOL_MEAN || request->pooling == SLUICE_POOL_CLS;
    if (all) {
        *match = (KvMatch){.node = -1, .miss = KV_MISS_OFF};
        return;
    }
    kv_cache_match(s->cache, request->salt, seq->token, seq->n_tokens, match);
}

int32_t sched_warm_tokens(const Sched *s, const Seq *seq) {
    KvMatch match;
    sched_match(s, seq, &match);
    return match.n_tokens;
}

/* Whether the blocks for all that seq has to compute are there, and one more for each that runs. */
static bool sched_has_room(const Sched *s, const Seq *seq, const KvMatch *match) {
    const EngineLimits *limits = &s->config.limits;
    const int32_t size = limits->kv.block_tokens, n_group = sched_group(seq);
    if (s->n_running == 0) return true; /* what fits an empty engine was checked at the door */
    for (int32_t g = 0; g < limits->kv.n_groups; g++) {
        const int32_t window = limits->kv.window[g];
        int64_t n = seq->n_tokens - match->n_tokens;
        if (window > 0) n = MIN(n, (int64_t)window + limits->max_step_tokens);
        int64_t need = DIV_UP(n, size) + match->n_load[g];
        if (seq->request->beam && seq->request->forked) need *= n_group;
        need += s->n_running + n_group;
        if (need > (int64_t)kv_cache_room(s->cache, g) - match->n_idle[g]) return false;
    }
    return true;
}

static void sched_note_start(Sched *s, Request *request, const KvMatch *match, int64_t now_us) {
    if (request->started) return;
    request->started = true;
    s->counts.n_started++;
    request->usage.queue_us = now_us - request->submit_us;
    request->usage.n_cached = match->n_tokens_here;
    request->usage.miss = (sluice_miss)match->miss;
    request->usage.miss_at = match->miss_at;
    s->counts.prefix_query_tokens += request->n_prompt;
    s->counts.prefix_hit_tokens += match->n_tokens_here;
    request->seq[0].n_hit_loading = match->n_tokens - match->n_tokens_here;
}

static void sched_start(Sched *s, StepPlan *plan, Seq *seq, const KvMatch *match) {
    kv_cache_begin(s->cache, seq->kv, seq->request->salt, match, &plan->moves);
    seq->n_computed = match->n_tokens;
    seq->loading = match->n_tokens_here < match->n_tokens;
    sched_set_running(s, seq);
}

/* Gives the group of seq its places; what is computed alone starts. */
static void sched_start_group(Sched *s, StepPlan *plan, Seq *seq, const KvMatch *match) {
    const int32_t n = sched_group(seq);
    for (int32_t i = 0; i < n; i++) {
        if (seq[i].state != SEQ_DONE) sched_take_place(s, &seq[i]);
    }
    sched_start(s, plan, seq, match);
    for (int32_t i = 1; i < n && seq->request->forked; i++) {
        KvMatch own;
        sched_match(s, &seq[i], &own);
        sched_start(s, plan, &seq[i], &own);
    }
}

static void sched_admit(Sched *s, StepPlan *plan, int32_t *budget, int64_t now_us) {
    while (s->n_waiting > 0 && s->n_free_places > 0 && *budget > 0) {
        const int32_t at = sched_queue_pick(s);
        Seq *seq = s->waiting[at].seq;
        KvMatch match;
        sched_match(s, seq, &match);
        /* Nobody overtakes the one whose turn it is: it would never find room. */
        if (sched_group(seq) > s->n_free_places || !sched_has_room(s, seq, &match)) return;
        sched_queue_take(s, at);
        sched_note_start(s, seq->request, &match, now_us);
        sched_start_group(s, plan, seq, &match);
        if (sched_is_hidden(seq) != plan->hidden || seq->loading) continue;
        if (!sched_plan_chunk(s, plan, seq, budget)) return;
    }
}

/* Embeddings and generations need passes of their own; when both are there they take turns. */
static bool sched_choose_kind(Sched *s) {
    bool has[2] = {false, false};
    for (int32_t i = 0; i < s->n_running; i++) has[sched_is_hidden(s->running[i])] = true;
    if (!has[0] && !has[1] && s->n_waiting > 0) {
        return sched_is_hidden(s->waiting[sched_queue_pick(s)].seq);
    }
    if (has[0] && has[1]) s->hidden_turn = !s->hidden_turn;
    return has[1] && (!has[0] || s->hidden_turn);
}

static void sched_plan_kind(Sched *s, StepPlan *plan, bool hidden, int64_t now_us) {
    const int64_t n_preempted = s->counts.n_preempted;
    step_plan_reset(plan, s->step_id++, hidden);
    sched_plan_decodes(s, plan);
    int32_t budget = sched_prompt_budget(s, plan);
    sched_plan_prompts(s, plan, &budget);
    if (s->counts.n_preempted == n_preempted) sched_admit(s, plan, &budget, now_us);
}

void sched_plan(Sched *s, StepPlan *plan, int64_t now_us) {
    const bool hidden = sched_choose_kind(s);
    s->cache->tier.now_us = now_us;
    plan->moves.n = 0;
    kv_cache_export(s->cache, &plan->moves);
    sched_plan_kind(s, plan, hidden, now_us);
    /* All of this kind wait for blocks that the other kind holds. */
    if (plan->batch.n_tokens == 0 && s->n_running > 0) sched_plan_kind(s, plan, !hidden, now_us);
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const PlanSeq *part = &plan->seqs[i];
        part->seq->planned = false;
        sched_queue_charge(s, part->seq->request, part->n_tokens, part->seq->n_tokens);
    }
}

static void sched_learn(double *mean, double us) {
    const double keep = 0.8;
    *mean = *mean <= 0 ? us : keep * *mean + (1 - keep) * us;
}

void sched_step_took(Sched *s, const StepPlan *plan, int64_t us, int64_t move_us) {
    if (plan->moves.n > 0) sched_learn(&s->move_us, (double)move_us / plan->moves.n);
    const double took = (double)MAX(us - move_us, (int64_t)1);
    if (plan->batch.n_tokens == 0) return;
    if (plan->n_prompt_tokens == 0) {
        sched_learn(&s->decode_us, took);
        return;
    }
    const bool mixed = plan->batch.n_tokens > plan->n_prompt_tokens;
    sched_learn(&s->prompt_token_us,
                MAX(took - (mixed ? s->decode_us : 0), 0.0) / plan->n_prompt_tokens);
}

void sched_settle(Sched *s) {
    for (int32_t i = s->n_running - 1; i >= 0; i--) {
        Seq *seq = s->running[i];
        if (!seq->loading || seq->kv->load.n_flying > 0) continue;
        if (seq->kv->load.failed) {
            sched_preempt(s, seq, NULL);
            i = s->n_running; /* a group may have left */
            continue;
        }
        seq->loading = false;
        kv_cache_commit(s->cache, seq->kv, seq->token, seq->n_computed);
        seq->request->usage.n_cached += seq->n_hit_loading;
        s->counts.prefix_hit_tokens += seq->n_hit_loading;
        seq->n_hit_loading = 0;
    }
}

int32_t sched_kv_seqs(const Sched *s, KvSeq **seqs) {
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_running; i++) seqs[n++] = s->running[i]->kv;
    return n;
}
