#include "base/recent.h"

#include <math.h>
#include <stdlib.h>

#include "base/status.h"

void recent_init(Recent *recent) {
    recent->n = 0;
    CHECK(pthread_mutex_init(&recent->lock, NULL) == 0);
}

void recent_free(Recent *recent) {
    pthread_mutex_destroy(&recent->lock);
}

void recent_add(Recent *recent, int64_t now_us, double value) {
    pthread_mutex_lock(&recent->lock);
    recent->at_us[recent->n % RECENT_MAX] = now_us;
    recent->value[recent->n % RECENT_MAX] = (float)value;
    recent->n++;
    pthread_mutex_unlock(&recent->lock);
}

static int recent_compare(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int32_t recent_quantiles(Recent *recent, int64_t since_us, const double *q, int32_t n_q,
                         double *out) {
    float value[RECENT_MAX];
    int32_t n = 0;
    pthread_mutex_lock(&recent->lock);
    const int32_t n_kept = (int32_t)MIN(recent->n, (uint64_t)RECENT_MAX);
    for (int32_t i = 0; i < n_kept; i++)
        if (recent->at_us[i] >= since_us) value[n++] = recent->value[i];
    pthread_mutex_unlock(&recent->lock);
    qsort(value, (size_t)n, sizeof *value, recent_compare);
    for (int32_t i = 0; i < n_q; i++) {
        const int32_t rank = MAX((int32_t)ceil(q[i] * n), 1);
        out[i] = n == 0 ? 0 : (double)value[MIN(rank, n) - 1];
    }
    return n;
}
