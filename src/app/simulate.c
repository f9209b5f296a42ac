#include "app/simulate.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/map.h"
#include "base/mem.h"
#include "engine/engine.h"

enum { SIM_TOKEN = 1, SIM_VOCAB = LOAD_PLAN_TOKEN_MIN + LOAD_PLAN_TOKENS, SIM_QUEUE_MAX = 1 << 20 };

typedef struct SimReplica {
    Engine *engine;
    const SimCost *cost;
    int64_t now_us, busy_us;
    int64_t n_open; /* prompt and output tokens of its unfinished requests */
    struct Sim *sim;
} SimReplica;

typedef struct SimOpen {
    LoadRequest *request;
    SimReplica *replica;
} SimOpen;

typedef struct Sim {
    const SimOptions *options;
    LoadPlan *plan;
    LoadGaps *gaps;
    SimReplica *replica; /* [n_replicas] */
    SimOpen *open;       /* [n_requests] */
    int32_t *heap;       /* replicas with work, earliest clock first */
    int32_t n_heap, n_done, turn;
    bool *in_heap;     /* [n_replicas] */
    int64_t sample_us; /* between two looks at the pools; doubled when samples run out */
    SimResult *result;
} Sim;

/* ---- the runner: time instead of arithmetic ---- */

static Status simulate_step(void *self, const StepPlan *plan, StepResult *result, Err *err) {
    (void)err;
    SimReplica *replica = self;
    const Batch *b = &plan->batch;
    double kv_tokens = 0;
    for (int32_t s = 0; s < b->n_seqs; s++) kv_tokens += b->kv_len[s];
    double us = MAX(replica->cost->step_us, replica->cost->token_us * b->n_tokens) +
                replica->cost->kv_us_per_token * kv_tokens;
    replica->now_us += (int64_t)(us + 0.5);
    replica->busy_us += (int64_t)(us + 0.5);
    for (int32_t i = 0; i < plan->n_jobs; i++) {
        result->sample[i] = (SamplerResult){.token = SIM_TOKEN};
        result->status[i] = OK;
    }
    return OK;
}

static void simulate_close_runner(void *self) {
    (void)self;
}

static int64_t simulate_now(void *clock) {
    return ((SimReplica *)clock)->now_us;
}

static EngineLimits simulate_limits(const SimOptions *options, int32_t max_context) {
    int64_t block_bytes = options->cost.kv_bytes_per_token * options->block_tokens;
    int64_t n_blocks = MAX(options->kv_bytes / MAX(block_bytes, (int64_t)1), (int64_t)1);
    return (EngineLimits){.vocab = SIM_VOCAB,
                          .dim = 1,
                          .max_context = max_context,
                          .max_seqs = options->max_seqs,
                          .max_step_tokens = options->max_step_tokens,
                          .max_queue = SIM_QUEUE_MAX / options->n_replicas,
                          .max_logits = options->max_seqs,
                          .kv = {.n_groups = 1,
                                 .block_tokens = options->block_tokens,
                                 .n_blocks = {(int32_t)MIN(n_blocks, (int64_t)INT32_MAX / 4)},
                                 .prefix = !options->no_prefix_cache}};
}

/* ---- the replicas' heap ---- */

static bool simulate_earlier(const Sim *sim, int32_t a, int32_t b) {
    return sim->replica[a].now_us < sim->replica[b].now_us;
}

static void simulate_sink(Sim *sim, int32_t at) {
    for (;;) {
        int32_t least = at;
        for (int32_t child = 2 * at + 1; child <= 2 * at + 2 && child < sim->n_heap; child++)
            if (simulate_earlier(sim, sim->heap[child], sim->heap[least])) least = child;
        if (least == at) return;
        int32_t swap = sim->heap[at];
        sim->heap[at] = sim->heap[least];
        sim->heap[least] = swap;
        at = least;
    }
}

static void simulate_push(Sim *sim, int32_t replica) {
    if (sim->in_heap[replica]) return;
    sim->in_heap[replica] = true;
    int32_t at = sim->n_heap++;
    sim->heap[at] = replica;
    while (at > 0 && simulate_earlier(sim, sim->heap[at], sim->heap[(at - 1) / 2])) {
        int32_t swap = sim->heap[at], parent = (at - 1) / 2;
        sim->heap[at] = sim->heap[parent];
        sim->heap[parent] = swap;
        at = parent;
    }
}

/* ---- requests ---- */

static void simulate_event(void *user, const sluice_event *event) {
    SimOpen *open = user;
    Sim *sim = open->replica->sim;
    LoadRequest *r = open->request;
    int64_t now_us = open->replica->now_us;
    if (event->n_tokens > 0) {
        if (r->first_us == 0) {
            r->first_us = now_us;
        } else {
            load_gen_gap(sim->gaps, now_us - r->last_us);
        }
        r->last_us = now_us;
        r->n_output += event->n_tokens;
    }
    if (!event->last) return;
    r->good = event->finish == SLUICE_FINISH_LENGTH;
    r->n_cached = event->usage->n_cached;
    sim->result->n_hit_tokens += event->usage->n_cached;
    sim->result->n_prompt_tokens += event->usage->n_prompt;
    open->replica->n_open -= r->n_prompt + r->n_output_max;
    sim->n_done++;
    if (r->last_us > sim->result->total_us) sim->result->total_us = r->last_us;
}

static int32_t simulate_least_load(const Sim *sim) {
    int32_t best = 0;
    for (int32_t i = 1; i < sim->options->n_replicas; i++)
        if (sim->replica[i].n_open < sim->replica[best].n_open) best = i;
    return best;
}

/* The replica that a prompt's beginning points to, unless it has far more to do than the least. */
static int32_t simulate_affinity(const Sim *sim, const LoadRequest *r) {
    int32_t least = simulate_least_load(sim);
    /* The second part tells conversations apart; the first is often a shared system prompt. */
    uint64_t key = r->part[MIN(1, r->n_parts - 1)].stream;
    int32_t home = (int32_t)(hash_mix(key) % (uint64_t)sim->options->n_replicas);
    bool crowded = sim->replica[home].n_open > 2 * sim->replica[least].n_open + 4 * r->n_prompt;
    return crowded ? least : home;
}

static int32_t simulate_route(Sim *sim, const LoadRequest *r) {
    if (sim->options->n_replicas == 1) return 0;
    if (sim->options->route == SIM_ROUND_ROBIN) return sim->turn++ % sim->options->n_replicas;
    if (sim->options->route == SIM_LEAST_LOAD) return simulate_least_load(sim);
    return simulate_affinity(sim, r);
}

static Status simulate_submit(Sim *sim, LoadRequest *r, Ints *ids, Err *err) {
    int32_t i = simulate_route(sim, r);
    SimReplica *replica = &sim->replica[i];
    SimOpen *open = &sim->open[r - sim->plan->request];
    *open = (SimOpen){r, replica};
    replica->now_us = MAX(replica->now_us, r->at_us);
    r->sent_us = r->at_us;
    r->n_prompt_seen = r->n_prompt;
    ints_clear(ids);
    load_plan_ids(sim->plan, r, ids);
    sluice_request request = SLUICE_REQUEST_INIT;
    request.prompt = ids->data;
    request.n_prompt = ids->len;
    request.max_tokens = r->n_output_max;
    request.ignore_eos = true;
    request.user = open;
    request.on_event = simulate_event;
    uint64_t id;
    Err refused = {0};
    if (engine_submit(replica->engine, &request, &id, &refused) != OK) {
        if (refused.status != ERR_ARG && refused.status != ERR_LIMIT)
            FAIL(err, refused.status, "%s", refused.text);
        r->http_code = refused.status == ERR_ARG ? 400 : 429;
        sim->n_done++;
        return OK;
    }
    r->http_code = 200;
    replica->n_open += r->n_prompt + r->n_output_max;
    simulate_push(sim, i);
    return OK;
}

/* Tokens of each prompt that some earlier prompt began with, in whole blocks: what a cache that
 * forgets nothing would have. */
static void simulate_ideal(Sim *sim) {
    Map seen = {0};
    Arena keys = {0};
    Ints ids = {0};
    int32_t size = sim->options->block_tokens;
    for (int32_t i = 0; i < sim->plan->n_requests; i++) {
        ints_clear(&ids);
        load_plan_ids(sim->plan, &sim->plan->request[i], &ids);
        uint64_t chain = 0;
        bool known = true;
        for (size_t at = 0; at + (size_t)size <= ids.len; at += (size_t)size) {
            chain = hash_bytes(ids.data + at, (size_t)size * sizeof *ids.data, chain);
            uint32_t unused;
            Str key = {(const char *)&chain, sizeof chain};
            known = known && map_find(&seen, key, &unused);
            /* At least the last token is always computed. */
            if (known && at + (size_t)size < ids.len) sim->result->n_ideal_tokens += size;
            if (known) continue;
            key.ptr = arena_strndup(&keys, key.ptr, key.len);
            if (key.ptr == NULL || !map_put(&seen, key, 0)) break;
        }
    }
    ints_free(&ids);
    map_free(&seen);
    arena_free(&keys);
}

/* ---- the run ---- */

/* Looks at the pools each sample_us of simulated time; halves the record when it is full. */
static void simulate_sample(Sim *sim, int64_t now_us) {
    SimResult *out = sim->result;
    if (now_us < (int64_t)out->n_samples * sim->sample_us) return;
    double sum = 0;
    for (int32_t i = 0; i < sim->options->n_replicas; i++) {
        sluice_stats stats = {.size = sizeof stats};
        engine_get_stats(sim->replica[i].engine, &stats);
        double use = (double)stats.n_blocks_used / MAX(stats.n_blocks, 1);
        sum += use;
        out->kv_max = MAX(out->kv_max, use);
    }
    if (out->n_samples == SIM_SAMPLES) {
        for (int32_t i = 0; i < SIM_SAMPLES / 2; i++) out->kv_use[i] = out->kv_use[2 * i];
        out->n_samples = SIM_SAMPLES / 2;
        sim->sample_us *= 2;
    }
    out->kv_use[out->n_samples++] = sum / sim->options->n_replicas;
}

static Status simulate_loop(Sim *sim, Err *err) {
    int32_t next = 0;
    Ints ids = {0};
    Status status = OK;
    Progress *progress = progress_open("simulating", sim->plan->n_requests, "requests");
    int32_t shown = 0;
    while (status == OK && sim->n_done < sim->plan->n_requests) {
        bool arrival = next < sim->plan->n_requests &&
                       (sim->n_heap == 0 ||
                        sim->plan->request[next].at_us <= sim->replica[sim->heap[0]].now_us);
        if (arrival) {
            simulate_sample(sim, sim->plan->request[next].at_us);
            status = simulate_submit(sim, &sim->plan->request[next++], &ids, err);
        } else {
            int32_t i = sim->heap[0];
            simulate_sample(sim, sim->replica[i].now_us);
            if (!engine_step(sim->replica[i].engine)) {
                sim->in_heap[i] = false;
                sim->heap[0] = sim->heap[--sim->n_heap];
            } else {
                sim->result->n_steps++;
            }
            simulate_sink(sim, 0);
        }
        progress_add(progress, sim->n_done - shown);
        shown = sim->n_done;
    }
    progress_close(progress);
    ints_free(&ids);
    return status;
}

static Status simulate_open(Sim *sim, Err *err) {
    const SimOptions *options = sim->options;
    int64_t longest = 1;
    for (int32_t i = 0; i < sim->plan->n_requests; i++) {
        const LoadRequest *r = &sim->plan->request[i];
        longest = MAX(longest, (int64_t)r->n_prompt + r->n_output_max);
    }
    EngineLimits limits = simulate_limits(options, (int32_t)MIN(longest, ENGINE_CONTEXT_MAX));
    size_t n = (size_t)options->n_replicas;
    sim->replica = mem_alloc(n * sizeof *sim->replica);
    sim->heap = mem_alloc(n * sizeof *sim->heap);
    sim->in_heap = mem_alloc(n * sizeof *sim->in_heap);
    sim->open = mem_alloc((size_t)sim->plan->n_requests * sizeof *sim->open);
    for (size_t i = 0; i < n; i++) {
        SimReplica *replica = &sim->replica[i];
        replica->cost = &options->cost;
        replica->sim = sim;
        EngineConfig config = {
            .limits = limits,
            .policy = options->policy,
            .runner = {.self = replica, .run = simulate_step, .close = simulate_close_runner},
            .now_us = simulate_now,
            .clock = replica};
        TRY(engine_open(&replica->engine, &config, err));
    }
    return OK;
}

static void simulate_total(Sim *sim) {
    SimResult *out = sim->result;
    double busy_us = 0, use = 0;
    for (int32_t i = 0; i < sim->options->n_replicas; i++) {
        sluice_stats stats = {.size = sizeof stats};
        engine_get_stats(sim->replica[i].engine, &stats);
        out->n_preempted += stats.n_preempted;
        busy_us += (double)sim->replica[i].busy_us;
    }
    for (int32_t i = 0; i < out->n_samples; i++) use += out->kv_use[i];
    out->kv_mean = use / MAX(out->n_samples, 1);
    out->busy = busy_us / (double)MAX(out->total_us, (int64_t)1) / sim->options->n_replicas;
}

Status simulate_run(const SimOptions *options, LoadPlan *plan, LoadGaps *gaps, SimResult *out,
                    Err *err) {
    *out = (SimResult){0};
    Sim sim = {.options = options, .plan = plan, .gaps = gaps, .sample_us = 1000, .result = out};
    int64_t start_us = clock_us();
    Status status = simulate_open(&sim, err);
    if (status == OK) status = simulate_loop(&sim, err);
    if (status == OK) {
        simulate_total(&sim);
        simulate_ideal(&sim);
    }
    for (int32_t i = 0; i < options->n_replicas && sim.replica != NULL; i++)
        if (sim.replica[i].engine != NULL) engine_close(sim.replica[i].engine);
    out->wall_s = (double)(clock_us() - start_us) / 1e6;
    mem_free(sim.replica);
    mem_free(sim.heap);
    mem_free(sim.in_heap);
    mem_free(sim.open);
    return status;
}
