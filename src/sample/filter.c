#include "sample/filter.h"

#include <string.h>

/* Bits of a float such that unsigned order is the order of the numbers; both zeros are one. */
static uint32_t filter_key(float x) {
    const float y = x + 0.0f;
    uint32_t bits;
    memcpy(&bits, &y, sizeof bits);
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

/* The largest key of an entry such that the entries with at least that key weigh target or more
 * (each weighs 1 where weighted is false). *above: the weight of those with a larger key. When
 * rounding leaves the total below target, the smallest key. */
static uint32_t filter_select(const Candidates *c, bool weighted, double target, double *histogram,
                              double *above) {
    static const struct { int32_t shift, bits; } passes[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t prefix = 0, mask = 0;
    double heavier = 0;
    for (size_t pass = 0; pass < ARRAY_LEN(passes); pass++) {
        const int32_t shift = passes[pass].shift;
        const uint32_t n_buckets = 1u << passes[pass].bits;
        memset(histogram, 0, n_buckets * sizeof *histogram);
        int64_t lowest = -1; /* non-empty bucket */
        for (int32_t i = 0; i < c->n; i++) {
            const uint32_t key = filter_key(c->logit[i]);
            if ((key & mask) != prefix) continue;
            const uint32_t bucket = (key >> shift) & (n_buckets - 1);
            histogram[bucket] += weighted ? c->weight[i] : 1;
            if (lowest < 0 || bucket < lowest) lowest = bucket;
        }
        int64_t bucket = n_buckets - 1;
        while (bucket > lowest &&
               (histogram[bucket] == 0 || heavier + histogram[bucket] < target)) {
            heavier += histogram[bucket];
            bucket--;
        }
        prefix |= (uint32_t)bucket << shift;
        mask |= (n_buckets - 1) << shift;
    }
    *above = heavier;
    return prefix;
}

static void filter_keep(Candidates *c, int32_t from, int32_t to) {
    c->token[to] = c->token[from];
    c->logit[to] = c->logit[from];
    c->weight[to] = c->weight[from];
}

void filter_top_k(Candidates *c, int32_t k, double *histogram) {
    if (k <= 0 || k >= c->n) return;
    double above;
    const uint32_t cut = filter_select(c, false, k, histogram, &above);
    int32_t n = 0;
    for (int32_t i = 0; i < c->n; i++) {
        if (filter_key(c->logit[i]) >= cut) filter_keep(c, i, n++);
    }
    c->n = n;
}

void filter_top_p(Candidates *c, double p, double *histogram) {
    if (p >= 1 || c->n <= 1) return;
    double total = 0;
    for (int32_t i = 0; i < c->n; i++) total += c->weight[i];
    double above;
    const uint32_t cut = filter_select(c, true, p * total, histogram, &above);
    int32_t n = 0;
    bool first = true;
    for (int32_t i = 0; i < c->n; i++) {
        const uint32_t key = filter_key(c->logit[i]);
        if (key < cut) continue;
        if (key == cut) {
            if (!first && above >= p * total) continue;
            first = false;
            above += c->weight[i];
        }
        filter_keep(c, i, n++);
    }
    c->n = n;
}

void filter_min_p(Candidates *c, double min_p) {
    if (min_p <= 0) return;
    int32_t n = 0;
    for (int32_t i = 0; i < c->n; i++) {
        if (c->weight[i] >= min_p) filter_keep(c, i, n++);
    }
    c->n = n;
}
