/* histogram: observations counted in buckets. */
#pragma once

#include <stdatomic.h>

#include "base/base.h"

enum { HISTOGRAM_BUCKETS_MAX = 32 };

/* Observations in buckets. Any thread may observe; a reader sees each number whole, and the sum may
 * be an observation ahead of the buckets. */
typedef struct Histogram {
    const double *bound; /* [n_bounds] upper bounds, rising; borrowed */
    int32_t n_bounds;
    atomic_uint_fast64_t count[HISTOGRAM_BUCKETS_MAX + 1]; /* the last: above all bounds */
    atomic_uint_fast64_t sum_micro;                        /* in millionths */
} Histogram;

void histogram_init(Histogram *histogram, const double *bound, int32_t n_bounds);
/* x >= 0 */
void histogram_observe(Histogram *histogram, double x);
/* The q-quantile (0..1), interpolated in its bucket; 0 when there are no observations. */
double histogram_quantile(const Histogram *histogram, double q);
/* Observations in a bucket (n_bounds: above all bounds), and the sum of all. */
uint64_t histogram_count(const Histogram *histogram, int32_t bucket);
double histogram_sum(const Histogram *histogram);
