/* load_gen: sends requests to an OpenAI server at given times and measures what comes back.
 *
 * Open loop: a request leaves when its time has come, however many are still running. One thread,
 * one connection per request, streamed replies. */
#pragma once

#include "app/load_plan.h"

typedef struct LoadTarget {
    const char *url;       /* http://HOST:PORT or https://HOST:PORT */
    const char *ca;        /* file of certificates to trust; NULL: the system's */
    const char *path;      /* /v1/completions */
    const char *model;     /* name to ask for; NULL: the first that the server has */
    const char *api_key;   /* or NULL */
    int32_t n_running_max; /* 0: no bound */
    double timeout_s;      /* of one request */
} LoadTarget;

/* Every gap between two pieces of any stream, in microseconds. */
typedef struct LoadGaps {
    int64_t *us; /* owned */
    size_t n, cap;
} LoadGaps;

void load_gen_gap(LoadGaps *gaps, int64_t us);

/* Sends everything and waits for the end. *total_us: from the first request to the last answer. */
MUST_USE Status load_gen_run(LoadPlan *plan, const LoadTarget *target, LoadGaps *gaps,
                             int64_t *total_us, Err *err);
