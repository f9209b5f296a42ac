/* sim_plan: one world of the simulator, drawn from a seed: limits, policies and an explicit list of
 * requests and faults, any of which can be left out. */
#pragma once

#include "../engine/plain_beam.h"

#include "base/rng.h"
#include "engine/engine_priv.h"

enum {
    SIM_ITEMS_MAX = 600,
    SIM_PROMPT_MAX = 150,
    SIM_OUTPUT_MAX = BEAM_OUTPUT_MAX,
    SIM_STOPS_MAX = 2,
    SIM_TENANTS = 3,
    SIM_COLLIDING_MAX = 1000,
    SIM_EVENTS = 16384, /* that the ring keeps: more than one turn brings */
    SIM_SALTS = 2,
    SIM_SALTS_ALL = SIM_TENANTS * SIM_SALTS + 1 /* of all tenants; 0: nobody's */
};

typedef enum SimKind {
    SIM_REQUEST,
    SIM_CANCEL,    /* of request `which`, `n` times */
    SIM_STRANGER,  /* cancels ids that nobody has */
    SIM_FAIL_STEP, /* the next step fails as a whole */
    SIM_NAN,       /* logits after `n` output tokens of request `which` are not finite */
    SIM_CLOCK,     /* the clock jumps by `us` */
    SIM_SLOW,      /* the next step takes `us` */
    SIM_PAUSE,     /* nobody fetches events for `n` turns */
    SIM_NOMEM,     /* the next submission finds no memory */
    SIM_AUDIT,     /* the engine audits itself at a step */
    SIM_CLOSE,     /* the engine closes */
    SIM_RESTART,   /* the process ends as `which` says, and another goes on with its file */
    SIM_FULL,      /* the disk is full for `n` turns */
    SIM_CLEAR      /* the cache is cleared */
} SimKind;

/* How a process ends. */
typedef enum SimEnd {
    SIM_END_QUIET,   /* nothing is lost */
    SIM_END_TORN,    /* the end of the file is missing */
    SIM_END_LOST,    /* some of what was written in the last `n` turns is missing */
    SIM_END_FLIPPED, /* bits of the file are changed */
    SIM_ENDS
} SimEnd;

typedef struct SimAsk {
    int32_t n_prompt, n_shared, base; /* the first n_shared tokens are those of the base */
    uint64_t own;                     /* seed of the others */
    int32_t n_max, n_min, n, beam, priority, tenant, salt;
    int32_t n_stops, stop[SIM_STOPS_MAX];
    sluice_pooling pooling;
    uint64_t seed;
    int64_t deadline_us;
    bool callback, ignore_eos, prompt_logprobs;
    int32_t cancel_at; /* cancels itself in this event's callback; 0: never */
} SimAsk;

typedef struct SimItem {
    SimKind kind;
    int32_t at; /* turn */
    int32_t n, which;
    int64_t us;
    SimAsk ask;
    bool left_out;
    int32_t n_halved;
} SimItem;

typedef struct SimPlan {
    uint64_t seed, counter;
    EngineLimits limits;
    sluice_policy policy;
    sluice_preempt preempt;
    int64_t us_per_step, us_per_token, us_per_move;
    int32_t move_faults; /* one in so many moves to and from the host */
    int32_t n_records;   /* of the file that keeps the cache; 0: none */
    int32_t n_turns, n_items;
    SimItem item[SIM_ITEMS_MAX];
} SimPlan;

static inline int32_t sim_draw(SimPlan *p, int32_t n) {
    return (int32_t)(rng_bits(p->seed, 1, p->counter++) % (uint64_t)MAX(n, 1));
}

static inline bool sim_one_in(SimPlan *p, int32_t n) {
    return sim_draw(p, n) == 0;
}

#define SIM_PICK(plan, ...)                     \
    (((const int32_t[]){__VA_ARGS__})[sim_draw( \
        plan, (int32_t)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))])

static inline void sim_plan_limits(SimPlan *p) {
    EngineLimits *l = &p->limits;
    *l = (EngineLimits){.vocab = FAKE_VOCAB, .dim = 8};
    KvCacheConfig *kv = &l->kv;
    kv->block_tokens = SIM_PICK(p, 1, 2, 4, 8, 16, 32);
    l->max_context = SIM_PICK(p, 40, 120, 200, 200);
    l->max_step_tokens = SIM_PICK(p, 1, 2, 3, 8, 16, 32, 128, 2048);
    l->max_seqs = SIM_PICK(p, 1, 2, 4, 4, 8, 8, 16);
    l->max_queue = SIM_PICK(p, 1, 8, 40, 200, 200);
    l->max_logits = SIM_PICK(p, 1, 4, 16, 16);
    l->max_logits = MIN(l->max_logits, l->max_step_tokens);
    const int32_t tokens = SIM_PICK(p, 10, 60, 100, 150, 200, 300, 600, 1500);
    kv->n_groups = 1;
    kv->n_blocks[0] = DIV_UP(tokens, kv->block_tokens) + sim_draw(p, 3);
    kv->prefix = !sim_one_in(p, 5);
    kv->n_events = SIM_EVENTS;
    const int32_t kind = sim_draw(p, 5), window = SIM_PICK(p, 1, 2, 5, 16, 24, 50);
    if (kind == 0) kv->window[0] = window;
    if (kind <= 2 && kind > 0) {
        kv->n_groups = 2;
        kv->window[kind - 1] = window;
        const int32_t fewer = sim_one_in(p, 2) ? sim_draw(p, 8) : 0;
        kv->n_blocks[1] = MAX(1, kv->n_blocks[0] - fewer);
    }
}

/* A host tier: from nothing to more than the pool has. */
static inline void sim_plan_tier(SimPlan *p) {
    KvCacheConfig *kv = &p->limits.kv;
    p->us_per_move = SIM_PICK(p, 1, 20, 2000);
    p->move_faults = SIM_PICK(p, 0, 0, 30, 4);
    const int32_t tokens = SIM_PICK(p, 4, 40, 150, 500, 1500);
    if (!kv->prefix || sim_one_in(p, 3)) return;
    kv->n_flights = SIM_PICK(p, 2, 20, 300);
    for (int32_t g = 0; g < kv->n_groups; g++) {
        kv->n_host[g] = 1 + tokens / kv->block_tokens;
        p->limits.block_bytes[g] = 100 + g;
    }
}

/* Where the hashes of many blocks all collide, the audits of a world take half a minute. */
static inline uint64_t sim_plan_mask(const SimPlan *p, uint64_t hash_mask) {
    int32_t n = 0;
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) {
        n += p->limits.kv.n_blocks[g] + p->limits.kv.n_host[g];
    }
    return n > SIM_COLLIDING_MAX ? hash_mask | 0xff : hash_mask;
}

static inline SimAsk sim_plan_ask(SimPlan *p) {
    const EngineLimits *l = &p->limits;
    const int32_t most = MIN((int32_t)SIM_PROMPT_MAX, l->max_context);
    const int32_t slots = (l->kv.n_blocks[0] - 2) * l->kv.block_tokens;
    const int32_t room = MIN(most, MAX(slots, 4));
    SimAsk a = {.n_prompt = 1 + sim_draw(p, sim_one_in(p, 12) ? SIM_PROMPT_MAX : MAX(1, room - 2)),
                .base = sim_draw(p, 3),
                .own = (uint64_t)sim_draw(p, sim_one_in(p, 3) ? 3 : 1000),
                .n_max = 1 + sim_draw(p, SIM_OUTPUT_MAX),
                .n = 1,
                .priority = sim_draw(p, 3),
                .tenant = sim_one_in(p, 2) ? 0 : sim_draw(p, SIM_TENANTS),
                .salt = sim_one_in(p, 4) ? 1 : 0,
                .seed = (uint64_t)sim_draw(p, 50),
                .callback = sim_one_in(p, 2),
                .ignore_eos = sim_one_in(p, 6)};
    a.n_shared = sim_one_in(p, 4) ? 0 : sim_draw(p, a.n_prompt + 1);
    if (!sim_one_in(p, 8)) a.n_max = MAX(1, MIN(a.n_max, room - a.n_prompt));
    if (sim_one_in(p, 3)) a.n_min = sim_draw(p, SIM_OUTPUT_MAX);
    if (sim_one_in(p, 4)) a.n = 1 + sim_draw(p, MIN(ENGINE_N_MAX, l->max_seqs + 1));
    if (sim_one_in(p, 8)) a.deadline_us = 1 + sim_draw(p, sim_one_in(p, 2) ? 20000 : 200000);
    a.n_stops = sim_one_in(p, 3) ? sim_draw(p, SIM_STOPS_MAX + 1) : 0;
    for (int32_t i = 0; i < a.n_stops; i++) a.stop[i] = FAKE_EOS + 1 + sim_draw(p, 20);
    a.prompt_logprobs = sim_one_in(p, 12);
    if (a.callback && sim_one_in(p, 8)) a.cancel_at = 1 + sim_draw(p, 8);
    if (sim_one_in(p, 8)) {
        a.pooling = (sluice_pooling)(SLUICE_POOL_MEAN + sim_draw(p, 3));
        a.n = 1;
        a.prompt_logprobs = false;
    } else if (sim_one_in(p, 10)) {
        a.beam = 2 + sim_draw(p, MIN(7, l->max_seqs));
        a.n = 1 + sim_draw(p, a.beam);
        a.n_min = a.n_stops = 0;
        a.prompt_logprobs = a.ignore_eos = false;
    }
    return a;
}

static inline SimItem *sim_plan_add(SimPlan *p, SimKind kind, int32_t at) {
    if (p->n_items == SIM_ITEMS_MAX) return NULL;
    SimItem *item = &p->item[p->n_items++];
    *item = (SimItem){.kind = kind, .at = at, .n = 1};
    return item;
}

/* A fault that has to do with the request at `which`. */
static inline void sim_plan_cancel(SimPlan *p, int32_t which, int32_t n_repeats) {
    const int32_t within = sim_one_in(p, 3) ? 60 : 8;
    SimItem *item = sim_plan_add(p, SIM_CANCEL, p->item[which].at + sim_draw(p, within));
    if (item == NULL) return;
    item->which = which;
    item->n = n_repeats;
}

static inline void sim_plan_fault(SimPlan *p, int32_t turn) {
    static const SimKind kinds[] = {SIM_STRANGER, SIM_FAIL_STEP, SIM_CLOCK, SIM_SLOW,
                                    SIM_PAUSE,    SIM_NOMEM,     SIM_AUDIT};
    const SimKind kind = kinds[sim_draw(p, (int32_t)ARRAY_LEN(kinds))];
    if (kind == SIM_FAIL_STEP && !sim_one_in(p, 3)) return;
    SimItem *item = sim_plan_add(p, kind, turn);
    if (item == NULL) return;
    item->n = 1 + sim_draw(p, 30);
    item->us = kind == SIM_CLOCK
                   ? (sim_one_in(p, 2) ? 1 : -1) * (int64_t)sim_draw(p, 3600) * 1000000
                   : (int64_t)sim_draw(p, 60000) * 1000;
}

/* A file that keeps the cache, and processes that end. */
static inline void sim_plan_disk(SimPlan *p) {
    KvCacheConfig *kv = &p->limits.kv;
    p->n_records = 0;
    if (sim_one_in(p, 6)) (void)sim_plan_add(p, SIM_CLEAR, sim_draw(p, p->n_turns + 10));
    if (!kv->prefix || !sim_one_in(p, 3)) return;
    p->n_records = sim_one_in(p, 3) ? 1 + sim_draw(p, kv->n_blocks[0]) : kv->n_blocks[0];
    for (int32_t g = 0; g < kv->n_groups; g++) { /* the last bytes tell whose block it is */
        p->limits.block_bytes[g] =
            kv->block_tokens * (int64_t)sizeof(FakeSlot) + (int64_t)sizeof(int32_t);
    }
    for (int32_t n = 1 + sim_draw(p, 3); n > 0; n--) {
        SimItem *item = sim_plan_add(p, SIM_RESTART, 1 + sim_draw(p, p->n_turns + 10));
        if (item == NULL) return;
        item->which = sim_one_in(p, 2) ? SIM_END_QUIET : sim_draw(p, SIM_ENDS);
        item->n = 1 + sim_draw(p, 30);
        item->us = sim_draw(p, 1 << 30);
    }
    SimItem *item = sim_one_in(p, 3) ? sim_plan_add(p, SIM_FULL, sim_draw(p, p->n_turns)) : NULL;
    if (item != NULL) item->n = 1 + sim_draw(p, 30), item->us = sim_draw(p, 1 << 30);
}

/* The world of a seed. n_turns: over which requests and faults come; 0: drawn. */
static inline void sim_plan_make(SimPlan *p, uint64_t seed, int32_t n_turns) {
    p->seed = seed;
    p->counter = 0;
    p->n_items = 0;
    p->n_turns = n_turns > 0 ? n_turns : SIM_PICK(p, 3, 10, 40, 80, 150);
    p->policy = (sluice_policy)sim_draw(p, 5);
    p->preempt = (sluice_preempt)sim_draw(p, 3);
    const uint64_t hash_mask = sim_one_in(p, 3) ? (uint64_t)SIM_PICK(p, 0, 3, 0xff) : UINT64_MAX;
    p->us_per_step = SIM_PICK(p, 100, 1000, 1000, 30000);
    p->us_per_token = SIM_PICK(p, 1, 50, 50, 500);
    sim_plan_limits(p);
    sim_plan_tier(p);
    p->limits.kv.hash_ignored = ~sim_plan_mask(p, hash_mask);
    const int32_t often = SIM_PICK(p, 1, 2, 4), faults = SIM_PICK(p, 6, 20, 1000000);
    for (int32_t turn = 0; turn < p->n_turns; turn++) {
        const int32_t n = sim_one_in(p, often) ? 1 + (sim_one_in(p, 10) ? sim_draw(p, 8) : 0) : 0;
        for (int32_t i = 0; i < n; i++) {
            const SimAsk ask = sim_plan_ask(p);
            SimItem *item = sim_plan_add(p, SIM_REQUEST, turn);
            if (item == NULL) break;
            item->ask = ask;
            const int32_t which = p->n_items - 1;
            if (sim_one_in(p, 8)) sim_plan_cancel(p, which, 1 + sim_draw(p, 2));
        }
        if (sim_one_in(p, faults)) sim_plan_fault(p, turn);
    }
    if (sim_one_in(p, 4) && p->n_items > 0) {
        int32_t which = sim_draw(p, p->n_items);
        while (p->item[which].kind != SIM_REQUEST && which > 0) which--;
        const bool is_request = p->item[which].kind == SIM_REQUEST;
        SimItem *item = is_request ? sim_plan_add(p, SIM_NAN, 0) : NULL;
        if (item != NULL) item->which = which, item->n = sim_draw(p, 10);
    }
    if (sim_one_in(p, 10)) (void)sim_plan_add(p, SIM_CLOSE, sim_draw(p, p->n_turns + 20));
    sim_plan_disk(p);
}

static inline void sim_plan_halve(SimItem *item) {
    item->n_halved++;
    item->at /= 2;
    item->us /= 2;
    item->n = MAX(1, item->n / 2);
    SimAsk *a = &item->ask;
    a->n_prompt = MAX(1, a->n_prompt / 2);
    a->n_shared = MIN(a->n_shared, a->n_prompt);
    a->n_max = MAX(1, a->n_max / 2);
    a->n_min /= 2;
}

static inline const char *sim_plan_name(SimKind kind) {
    static const char *const names[] = {
        "request",   "cancel", "cancel of strangers", "failed step", "nan",   "clock",
        "slow step", "pause",  "no memory",           "audit",       "close", "restart",
        "full disk", "clear"};
    return names[kind];
}

static inline void sim_plan_print(const SimPlan *p) {
    const EngineLimits *l = &p->limits;
    printf("  limits: context %d, step %d, seqs %d, queue %d, logits %d, blocks of %d:",
           l->max_context, l->max_step_tokens, l->max_seqs, l->max_queue, l->max_logits,
           l->kv.block_tokens);
    for (int32_t g = 0; g < l->kv.n_groups; g++) {
        printf(" %d (window %d, host %d)", l->kv.n_blocks[g], l->kv.window[g], l->kv.n_host[g]);
    }
    printf(
        ", flights %d, faults %d, prefix %d, records %d, policy %d, preempt %d, hash mask %llx\n",
        l->kv.n_flights, p->move_faults, l->kv.prefix, p->n_records, (int)p->policy,
        (int)p->preempt, (unsigned long long)~l->kv.hash_ignored);
    for (int32_t i = 0; i < p->n_items; i++) {
        const SimItem *item = &p->item[i];
        const SimAsk *a = &item->ask;
        if (item->left_out) continue;
        printf("  turn %3d: [%d] %s", item->at, i, sim_plan_name(item->kind));
        if (item->kind == SIM_REQUEST) {
            printf(
                " prompt %d (%d of base %d), max %d, min %d, n %d, beam %d, pool %d, tenant %d/%d,"
                " stops %d, deadline %lld, callback %d",
                a->n_prompt, a->n_shared, a->base, a->n_max, a->n_min, a->n, a->beam,
                (int)a->pooling, a->tenant, a->salt, a->n_stops, (long long)a->deadline_us,
                a->callback);
        } else {
            printf(" which %d, n %d, us %lld", item->which, item->n, (long long)item->us);
        }
        printf("\n");
    }
}
