/* recent: the last observations of something, for quantiles of now rather than since the start. */
#pragma once

#include <pthread.h>

#include "base/base.h"

enum { RECENT_MAX = 2048 };

/* Any thread may add and read; each call holds the lock for a moment. */
typedef struct Recent {
    pthread_mutex_t lock;
    uint64_t n; /* observations so far; the last RECENT_MAX are kept */
    int64_t at_us[RECENT_MAX];
    float value[RECENT_MAX];
} Recent;

void recent_init(Recent *recent);
void recent_free(Recent *recent);
void recent_add(Recent *recent, int64_t now_us, double value);
/* out[i]: the q[i]-quantile (0..1, the nearest rank) of those kept that are not older than
 * since_us. Returns how many these are; with none, out is 0. */
int32_t recent_quantiles(Recent *recent, int64_t since_us, const double *q, int32_t n_q,
                         double *out);
