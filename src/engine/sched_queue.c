#include <string.h>

#include "engine/sched_priv.h"

/* Candidates that the cache-aware policy compares, oldest first: a match walks the tree. */
enum { SCHED_WARM_CANDIDATES = 16 };
/* The oldest request is overtaken at most so many times per running place. */
enum { SCHED_PASSES_PER_PLACE = 4 };
/* An output token costs more than a prompt token (Sheng et al. 2024, section 5). */
static const double SCHED_OUTPUT_WEIGHT = 2;

static SchedEntry sched_queue_entry(Seq *seq) {
    return (SchedEntry){.seq = seq,
                        .priority = seq->request->priority,
                        .n_tokens = seq->n_tokens,
                        .tenant_idx = seq->request->tenant_idx};
}

static void sched_queue_insert(Sched *s, int32_t at, SchedEntry entry) {
    CHECK(s->n_waiting < s->config.n_requests_max + s->config.limits.max_seqs);
    memmove(&s->waiting[at + 1], &s->waiting[at], (size_t)(s->n_waiting - at) * sizeof *s->waiting);
    s->waiting[at] = entry;
    s->n_waiting++;
}

static void sched_queue_delete(Sched *s, int32_t at) {
    s->n_waiting--;
    memmove(&s->waiting[at], &s->waiting[at + 1], (size_t)(s->n_waiting - at) * sizeof *s->waiting);
}

/* A tenant that comes back does not get what it left unused: it starts at the least served of those
 * that are here (Sheng et al. 2024, algorithm 2). */
static int32_t sched_queue_tenant(Sched *s, uint64_t id) {
    int32_t empty = -1;
    double least = -1;
    for (int32_t i = 0; i < s->n_tenants; i++) {
        const SchedTenant *tenant = &s->tenant[i];
        if (tenant->n_live > 0 && tenant->id == id) return i;
        if (tenant->n_live > 0 && (least < 0 || tenant->served < least)) least = tenant->served;
        /* Its own old entry first: what it was served still counts. */
        if (tenant->n_live == 0 && (empty < 0 || tenant->id == id)) empty = i;
    }
    if (empty < 0) {
        CHECK(s->n_tenants < s->config.n_requests_max);
        empty = s->n_tenants++;
    }
    SchedTenant *tenant = &s->tenant[empty];
    const double before = tenant->id == id ? tenant->served : 0;
    *tenant = (SchedTenant){.id = id, .served = MAX(before, MAX(least, 0.0))};
    return empty;
}

void sched_queue_add(Sched *s, Request *request) {
    request->tenant_idx = sched_queue_tenant(s, request->tenant);
    s->tenant[request->tenant_idx].n_live++;
    sched_queue_insert(s, s->n_waiting, sched_queue_entry(&request->seq[0]));
}

void sched_queue_charge(Sched *s, const Request *request, int32_t n_tokens, int32_t known) {
    const double weight = known > request->n_prompt ? SCHED_OUTPUT_WEIGHT : 1;
    s->tenant[request->tenant_idx].served += weight * n_tokens;
}

void sched_queue_push_front(Sched *s, Seq *seq) {
    SchedEntry entry = sched_queue_entry(seq);
    entry.preempted = true;
    sched_queue_insert(s, 0, entry);
}

/* Smaller goes first. */
static double sched_queue_key(const Sched *s, const SchedEntry *entry) {
    switch (s->config.policy) {
        case SLUICE_POLICY_PRIORITY: return -(double)entry->priority;
        case SLUICE_POLICY_SHORTEST_PROMPT: return entry->n_tokens;
        case SLUICE_POLICY_CACHE_AWARE: return -(double)sched_warm_tokens(s, entry->seq);
        case SLUICE_POLICY_FAIR: return s->tenant[entry->tenant_idx].served;
        case SLUICE_POLICY_FCFS: break;
    }
    return 0;
}

int32_t sched_queue_pick(const Sched *s) {
    const sluice_policy policy = s->config.policy;
    CHECK(s->n_waiting > 0);
    if (policy == SLUICE_POLICY_FCFS) return 0;
    /* Preempted ones are at the front and were picked once; by priority they compete again. */
    if (policy != SLUICE_POLICY_PRIORITY) {
        const bool starved =
            s->waiting[0].n_passed >= SCHED_PASSES_PER_PLACE * s->config.limits.max_seqs &&
            policy != SLUICE_POLICY_FAIR;
        if (s->waiting[0].preempted || starved) return 0;
    }
    const int32_t n = policy == SLUICE_POLICY_CACHE_AWARE
                          ? MIN(s->n_waiting, (int32_t)SCHED_WARM_CANDIDATES)
                          : s->n_waiting;
    int32_t best = 0;
    double least = sched_queue_key(s, &s->waiting[0]);
    for (int32_t i = 1; i < n; i++) {
        const double key = sched_queue_key(s, &s->waiting[i]);
        if (key >= least) continue;
        least = key;
        best = i;
    }
    return best;
}

void sched_queue_take(Sched *s, int32_t at) {
    if (at > 0) s->waiting[0].n_passed++;
    sched_queue_delete(s, at);
}

void sched_queue_remove(Sched *s, Seq *seq) {
    int32_t at = 0;
    while (at < s->n_waiting && s->waiting[at].seq != seq) at++;
    CHECK(at < s->n_waiting);
    sched_queue_delete(s, at);
}
