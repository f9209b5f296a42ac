#include "base/histogram.h"

#include "base/status.h"

void histogram_init(Histogram *histogram, const double *bound, int32_t n_bounds) {
    CHECK(n_bounds <= HISTOGRAM_BUCKETS_MAX);
    histogram->bound = bound;
    histogram->n_bounds = n_bounds;
    for (int32_t i = 0; i <= n_bounds; i++) atomic_init(&histogram->count[i], 0);
    atomic_init(&histogram->sum_micro, 0);
}

void histogram_observe(Histogram *histogram, double x) {
    int32_t i = 0;
    while (i < histogram->n_bounds && x > histogram->bound[i]) i++;
    atomic_fetch_add_explicit(&histogram->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_micro, (uint64_t)(x * 1e6), memory_order_relaxed);
}

uint64_t histogram_count(const Histogram *histogram, int32_t bucket) {
    return atomic_load_explicit(&histogram->count[bucket], memory_order_relaxed);
}

double histogram_quantile(const Histogram *histogram, double q) {
    uint64_t total = 0, below = 0;
    for (int32_t i = 0; i <= histogram->n_bounds; i++) total += histogram_count(histogram, i);
    if (total == 0) return 0;
    double rank = q * (double)total, low = 0;
    for (int32_t i = 0; i < histogram->n_bounds; i++) {
        uint64_t here = histogram_count(histogram, i);
        if (here > 0 && (double)(below + here) >= rank)
            return low + (histogram->bound[i] - low) * (rank - (double)below) / (double)here;
        below += here;
        low = histogram->bound[i];
    }
    return low;
}

double histogram_sum(const Histogram *histogram) {
    return (double)atomic_load_explicit(&histogram->sum_micro, memory_order_relaxed) * 1e-6;
}
