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

static void sched_queue_push_back(Sched *s, SchedEntry entry) {
    const int32_t n_max = s->config.n_requests_max + s->config.limits.max_seqs;
    CHECK(s->n_waiting < n_max);
    if (s->waiting + s->n_waiting == s->waiting_room + n_max) {
        memmove(s->waiting_room, s->waiting, (size_t)s->n_waiting * sizeof *s->waiting);
        s->waiting = s->waiting_room;
    }
    s->waiting[s->n_waiting++] = entry;
}

/* The shorter side closes the gap. */
static void sched_queue_delete(Sched *s, int32_t at) {
    SchedEntry *entry = &s->waiting[at];
    const int32_t n_after = s->n_waiting - at - 1;
    if (at < n_after) {
        memmove(s->waiting + 1, s->waiting, (size_t)at * sizeof *entry);
        s->waiting++;
    } else {
        memmove(entry, entry + 1, (size_t)n_after * sizeof *entry);
    }
    s->n_waiting--;
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
    sched_queue_push_back(s, sched_queue_entry(&request->seq[0]));
}

void sched_queue_charge(Sched *s, const Request *request, int32_t n_tokens, int32_t known) {
    const double weight = known > request->n_prompt ? SCHED_OUTPUT_WEIGHT : 1;
    s->tenant[request->tenant_idx].served += weight * n_tokens;
}

void sched_queue_push_front(Sched *s, Seq *seq) {
    SchedEntry entry = sched_queue_entry(seq);
    entry.preempted = true;
    CHECK(s->n_waiting < s->config.n_requests_max + s->config.limits.max_seqs);
    if (s->waiting > s->waiting_room) {
        s->waiting--;
    } else {
        memmove(s->waiting + 1, s->waiting, (size_t)s->n_waiting * sizeof *s->waiting);
    }
    s->waiting[0] = entry;
    s->n_waiting++;
}

/* The branch is rarely taken; a conditional move would make each entry wait for the one before. */
static int32_t sched_queue_highest(const SchedEntry *entry, int32_t n) {
    int32_t best = 0, most = entry[0].priority;
    for (int32_t i = 1; i < n; i++) {
        if (__builtin_expect(entry[i].priority <= most, true)) continue;
        most = entry[i].priority;
        best = i;
    }
    return best;
}

static int32_t sched_queue_shortest(const SchedEntry *entry, int32_t n) {
    int32_t best = 0, least = entry[0].n_tokens;
    for (int32_t i = 1; i < n; i++) {
        if (__builtin_expect(entry[i].n_tokens >= least, true)) continue;
        least = entry[i].n_tokens;
        best = i;
    }
    return best;
}

static int32_t sched_queue_warmest(const Sched *s, int32_t n) {
    int32_t best = 0, most = sched_warm_tokens(s, s->waiting[0].seq);
    for (int32_t i = 1; i < n; i++) {
        const int32_t warm = sched_warm_tokens(s, s->waiting[i].seq);
        if (warm > most) most = warm, best = i;
    }
    return best;
}

static int32_t sched_queue_least_served(const Sched *s) {
    const SchedTenant *tenant = s->tenant;
    int32_t best = 0, whose = s->waiting[0].tenant_idx;
    for (int32_t i = 1; i < s->n_waiting; i++) {
        const int32_t other = s->waiting[i].tenant_idx;
        if (other == whose || tenant[other].served >= tenant[whose].served) continue;
        whose = other;
        best = i;
    }
    return best;
}

int32_t sched_queue_pick(const Sched *s) {
    const sluice_policy policy = s->config.policy;
    CHECK(s->n_waiting > 0);
    if (policy == SLUICE_POLICY_FCFS) return 0;
    /* Preempted ones are at the front and were picked once; by priority they compete again. */
    if (policy != SLUICE_POLICY_PRIORITY) {
        const bool starved = (int64_t)s->waiting[0].n_passed >=
                                 (int64_t)SCHED_PASSES_PER_PLACE * s->config.limits.max_seqs &&
                             policy != SLUICE_POLICY_FAIR;
        if (s->waiting[0].preempted || starved) return 0;
    }
    switch (policy) {
        case SLUICE_POLICY_PRIORITY: return sched_queue_highest(s->waiting, s->n_waiting);
        case SLUICE_POLICY_SHORTEST_PROMPT: return sched_queue_shortest(s->waiting, s->n_waiting);
        case SLUICE_POLICY_CACHE_AWARE:
            return sched_queue_warmest(s, MIN(s->n_waiting, (int32_t)SCHED_WARM_CANDIDATES));
        case SLUICE_POLICY_FAIR: return sched_queue_least_served(s);
        case SLUICE_POLICY_FCFS: break;
    }
    return 0;
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
