/* sim_world: what the simulator knows of a running world: every request's right answer, who has
 * begun, what was counted. Filled by sim_run.h, compared by sim_check.h. */
#pragma once

#include "sim_heap.h"
#include "sim_plan.h"

enum { SIM_CACHED_MAX = 8192, SIM_CACHED_BUCKETS = 1024 };

typedef struct SimAsked {
    const SimAsk *ask;
    uint64_t id;
    int32_t n, n_prompt, salt; /* sequences that report; index of tenant and salt */
    int32_t prompt[SIM_PROMPT_MAX];
    int32_t want[ENGINE_N_MAX][SIM_OUTPUT_MAX], n_want[ENGINE_N_MAX];
    sluice_finish want_finish[ENGINE_N_MAX];
    float embedding[8];
    int64_t submit_us, deadline_us; /* INT64_MAX: none */
    /* how it stands */
    bool cancelled, failed, started;
    int32_t cancel_turn, n_got[ENGINE_N_MAX], n_events, n_last;
    bool done[ENGINE_N_MAX];
    int32_t next_pos[ENGINE_N_MAX], n_preempted_at[ENGINE_N_MAX];
    int32_t n_cached, n_preempted, n_passed;
    int32_t load_turn; /* the last turn in which a sequence waited for blocks from the host */
} SimAsked;

/* A cached block, as the events tell it. */
typedef struct SimCached {
    uint64_t hash;
    int32_t group;
    KvMedium medium;
    int32_t next; /* in its bucket, or in the list of free ones; 0: none */
} SimCached;

/* What is known of the file that keeps the cache; it outlives the engine. */
typedef struct SimFile {
    Buf old;             /* its bytes some turns ago */
    uint64_t n_drawn;    /* random numbers, for what is lost */
    int32_t n_handed;    /* blocks that were handed to it since it was empty */
    bool may_be_damaged; /* something has gone wrong with it */
    int32_t full_until;  /* the turn */
    int64_t full_bytes;  /* it cannot grow beyond */
    int32_t n_restarts, n_warm;
    uint64_t warm[SIM_CACHED_MAX]; /* prefixes that must come back */
} SimFile;

/* A sequence's path in the tree when its logits were not finite. */
typedef struct SimDoubt {
    KvSalt salt;
    int32_t n;
    uint64_t prefix[SIM_PROMPT_MAX + SIM_OUTPUT_MAX];
    int64_t n_over; /* requests that were over before */
} SimDoubt;

typedef struct SimWorld {
    const SimPlan *plan;
    FakeModel model;
    Engine *engine;
    SimAsked *asked;                    /* [SIM_ITEMS_MAX] by item */
    int32_t *block_salt[KV_GROUPS_MAX]; /* who wrote the block: tenant and salt */
    int32_t *host_salt[KV_GROUPS_MAX];  /* and whose block is in the host's slot */
    int64_t n_swaps;
    int32_t n_swapped; /* at the last step */
    int32_t turn, n_submitted, n_beams, n_released;
    bool last_polled;         /* the next poll gives a request's slot back */
    int32_t n_unstarted_told; /* that the mailbox counts as waiting */
    bool fail_step, fails_memory, closing, has_nan, clock_jumped;
    const SimItem *restart; /* now */
    int64_t slow_us, n_output;
    int32_t paused_until;
    sluice_stats stats;
    uint64_t n_events;                /* of the prefix cache, read so far */
    SimCached cached[SIM_CACHED_MAX]; /* the events, replayed; the first is not used */
    int32_t cached_bucket[SIM_CACHED_BUCKETS], cached_free, n_cached, n_cached_ever;
    SimFile file;
    SimDoubt doubt;
} SimWorld;

/* Told to whoever runs the simulator from outside. */
typedef struct SimTold {
    uint64_t seed;
    int32_t turn;
    int64_t n_steps, n_requests, n_preempted, n_cancelled, n_hit_tokens, n_refused, n_errors;
    int64_t n_saved, n_loaded, n_checksum_errors, n_swaps;
    int64_t n_restarts, n_restored, n_damaged;
} SimTold;

static SimTold *sim_told;

NORETURN static inline void sim_failed(const char *file, int line, const char *what) {
    sim_heap = (SimHeap){0};
    fprintf(stderr, "%s:%d: turn %d: not true: %s\n", file, line, sim_told->turn, what);
    abort();
}

#define SIM_CHECK(what, condition)                                \
    do {                                                          \
        if (!(condition)) {                                       \
            sim_failed(__FILE__, __LINE__, what ": " #condition); \
        }                                                         \
    } while (0)

/* ---- the right answers ------------------------------------------------------------------- */

static inline void sim_fill_prompt(const SimAsk *ask, int32_t *prompt) {
    for (int32_t i = 0; i < ask->n_prompt; i++) {
        const bool shared = i < ask->n_shared;
        prompt[i] = shared ? (ask->base * 17 + i) % FAKE_VOCAB
                           : (int32_t)(rng_bits(ask->own, 3, (uint64_t)i) % FAKE_VOCAB);
    }
}

static inline bool sim_is_stop(const SimAsk *ask, int32_t token) {
    bool is = token == FAKE_EOS && !ask->ignore_eos;
    for (int32_t i = 0; i < ask->n_stops; i++) is = is || token == ask->stop[i];
    return is;
}

/* Before min_tokens the fake model moves on by one from each stop token in turn. */
static inline int32_t sim_bar(const SimAsk *ask, int32_t token) {
    if (token == FAKE_EOS && !ask->ignore_eos) token++;
    for (int32_t i = 0; i < ask->n_stops; i++) {
        if (token == ask->stop[i]) token = (token + 1) % FAKE_VOCAB;
    }
    return token;
}

static inline void sim_expect_one(SimAsked *a, uint64_t tag, int32_t index) {
    const SimAsk *ask = a->ask;
    int32_t *n = &a->n_want[index];
    a->want_finish[index] = SLUICE_FINISH_LENGTH;
    for (*n = 0; *n < ask->n_max;) {
        int32_t token = fake_next(tag, ask->seed, (uint64_t)index);
        if (*n < ask->n_min) token = sim_bar(ask, token);
        a->want[index][(*n)++] = token;
        if (*n > ask->n_min && sim_is_stop(ask, token)) {
            a->want_finish[index] = SLUICE_FINISH_STOP;
            return;
        }
        tag = fake_tag(tag, token, a->n_prompt + *n - 1);
    }
}

static inline void sim_expect_beams(SimAsked *a) {
    PlainBeam best[BEAM_WIDTH_MAX] = {0};
    const int32_t n = plain_search(a->prompt, a->n_prompt, a->ask->beam, a->ask->n_max, 1, best);
    SIM_CHECK("beams", n >= a->n);
    for (int32_t i = 0; i < a->n; i++) {
        memcpy(a->want[i], best[i].token, sizeof a->want[i]);
        a->n_want[i] = best[i].n;
        a->want_finish[i] =
            best[i].token[best[i].n - 1] == FAKE_EOS ? SLUICE_FINISH_STOP : SLUICE_FINISH_LENGTH;
    }
}

static inline void sim_expect_embedding(SimAsked *a) {
    double sum[8] = {0};
    uint64_t tag = 0;
    const sluice_pooling pooling = a->ask->pooling;
    for (int32_t i = 0; i < a->n_prompt; i++) {
        tag = fake_tag(tag, a->prompt[i], i);
        const bool in =
            pooling == SLUICE_POOL_MEAN || i == (pooling == SLUICE_POOL_LAST ? a->n_prompt - 1 : 0);
        for (int32_t d = 0; d < 8 && in; d++) sum[d] += (float)((tag >> d) % 1000) / 1000;
    }
    for (int32_t d = 0; d < 8; d++) {
        a->embedding[d] = (float)(sum[d] / (pooling == SLUICE_POOL_MEAN ? a->n_prompt : 1));
    }
    a->want_finish[0] = SLUICE_FINISH_STOP;
}

static inline void sim_expect(SimAsked *a) {
    uint64_t tag = 0;
    for (int32_t i = 0; i < a->n_prompt; i++) tag = fake_tag(tag, a->prompt[i], i);
    if (a->ask->pooling != SLUICE_POOL_NONE) {
        sim_expect_embedding(a);
    } else if (a->ask->beam > 0) {
        sim_expect_beams(a);
    } else {
        for (int32_t i = 0; i < a->n; i++) sim_expect_one(a, tag, i);
    }
}

/* The hash of everything up to the k-th output token of sequence i. */
static inline uint64_t sim_tag_at(const SimAsked *a, int32_t i, int32_t k) {
    uint64_t tag = 0;
    for (int32_t p = 0; p < a->n_prompt; p++) tag = fake_tag(tag, a->prompt[p], p);
    for (int32_t p = 0; p < k; p++) tag = fake_tag(tag, a->want[i][p], a->n_prompt + p);
    return tag;
}

/* S5: whether the request could run alone in an empty engine, by the rule of the door. */
static inline bool sim_fits(const SimPlan *p, const SimAsk *a) {
    const EngineLimits *l = &p->limits;
    const bool embeds = a->pooling != SLUICE_POOL_NONE;
    const int32_t total = a->n_prompt + (embeds ? 0 : a->n_max);
    const int32_t n_seqs = a->beam > 0 ? a->beam : a->n, n_together = a->beam > 0 ? a->beam : 1;
    if (total > l->max_context || (!embeds && a->n_prompt >= l->max_context)) return false;
    if (n_seqs > l->max_seqs || (a->beam > 0 && a->beam > l->max_logits)) return false;
    for (int32_t g = 0; g < l->kv.n_groups; g++) {
        const int32_t window = l->kv.window[g];
        const int32_t most = window > 0 ? MIN(total, window + l->max_step_tokens) : total;
        /* One more for a window that begins within a block; every beam may copy its last one. */
        const int32_t blocks = DIV_UP(most, l->kv.block_tokens) + (window > 0) + 1;
        if (n_together * blocks > l->kv.n_blocks[g] + 1) return false;
    }
    return true;
}
