/* sched: who runs next, and with how many tokens.
 *
 * Owns the waiting queue, the running sequences and their places in the KV cache. Each call of
 * sched_plan fills one step: first the next token of every running sequence, then chunks of prompts
 * that have begun, then new requests by policy. When blocks run out it preempts the sequence that
 * comes last by policy; its tokens are kept, and their KV is computed again later or comes back
 * from the host, to the same bits. One thread; all memory is allocated by init. */
#pragma once

#include "engine/step.h"

typedef struct SchedConfig {
    EngineLimits limits;
    int32_t n_requests_max; /* that are known at once: sizes queue and tenants */
    sluice_policy policy;
    sluice_preempt preempt;
    double chunk_slack; /* share by which a prompt chunk may lengthen a step of decodes, times
                           1 + waiting / running requests; 0: 0.4, negative: without bound */
} SchedConfig;

/* A place in the queue. What the policies compare is kept here, so that a scan of ten thousand
 * stays within a few pages of memory. */
typedef struct SchedEntry {
    Seq *seq;
    int32_t priority, n_tokens; /* of the request; known tokens of the sequence */
    int32_t tenant_idx;
    uint32_t n_passed : 31; /* requests that overtook it while it was the oldest */
    bool preempted : 1;
} SchedEntry;

/* Service that a tenant got, for SLUICE_POLICY_FAIR (Sheng et al., "Fairness in Serving Large
 * Language Models", OSDI'24: the virtual token counter). */
typedef struct SchedTenant {
    uint64_t id;
    int32_t n_live; /* requests; 0: the entry is free */
    double served;  /* weighted tokens */
} SchedTenant;

typedef struct SchedCounts {
    int64_t n_preempted, n_started; /* n_started: requests, each once */
    int64_t prefix_query_tokens, prefix_hit_tokens;
} SchedCounts;

typedef struct Sched {
    SchedConfig config;
    KvCache *cache; /* borrowed */
    KvSeq *place;   /* [max_seqs] */
    int32_t *place_memory;
    KvSeq **free_place; /* [max_seqs] */
    int32_t n_free_places;
    Seq **running; /* [max_seqs] by precedence */
    int32_t n_running;
    SchedEntry *waiting; /* [n_waiting] oldest first, preempted ones before; in waiting_room */
    int32_t n_waiting;
    SchedEntry *waiting_room; /* [n_requests_max + max_seqs] */
    SchedTenant *tenant;      /* [n_requests_max] */
    int32_t n_tenants;
    bool hidden_turn;       /* embeddings and generations take turns */
    double decode_us;       /* running mean of a step without prompt tokens; 0: none yet */
    double prompt_token_us; /* what a prompt token adds to a step; 0: not known yet */
    double move_us;         /* of one block to or from the host; 0: not known yet */
    int32_t n_swapped;      /* sequences that wait and left blocks with the host */
    int64_t step_id;
    SchedCounts counts;
} Sched;

int64_t sched_bytes(const SchedConfig *config);
MUST_USE Status sched_init(Sched *sched, const SchedConfig *config, KvCache *cache, Err *err);
/* Accepts a zeroed scheduler. */
void sched_free(Sched *sched);

/* A new request waits. */
void sched_add(Sched *sched, Request *request);
/* The request is over: it leaves the tenants' books. */
void sched_forget(Sched *sched, Request *request);
/* Fills the plan for the next step; n_tokens 0: nothing can run. Marks requests that start. */
void sched_plan(Sched *sched, StepPlan *plan, int64_t now_us);
/* The step took that long, move_us of it for its moves: adapts the chunk size and the costs. */
void sched_step_took(Sched *sched, const StepPlan *plan, int64_t us, int64_t move_us);
/* Blocks have arrived from the host, or are lost: their sequences go on, or wait again. Between
 * steps. */
void sched_settle(Sched *sched);
/* Sequence 0 has computed the shared prompt: its siblings run on from here. */
void sched_fork(Sched *sched, Request *request);
/* The sequence is over, wherever it was: its place and its spot in the queue are free. */
void sched_remove(Sched *sched, Seq *seq);
/* All sequences that hold blocks, into seqs[max_seqs]; returns how many. For audits and counts. */
int32_t sched_kv_seqs(const Sched *sched, KvSeq **seqs);
