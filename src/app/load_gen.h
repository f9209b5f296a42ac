/* load_gen: sends requests to an OpenAI server at given times and measures what comes back.
 *
 * Open loop: a request leaves when its time has come, however many are still running. One thread,
 * one connection per request, streamed replies. */
#pragma once

#include "base/buf.h"
#include "base/status.h"

typedef struct LoadRequest {
    int64_t at_us;    /* when to send, since the start */
    char *body;       /* JSON; owned by whoever made the plan */
    int32_t n_prompt; /* tokens, as planned */
    /* what came of it; times since the start */
    int64_t sent_us, first_us, last_us; /* 0: never */
    int32_t n_output;                   /* tokens: from usage, else the pieces counted */
    int32_t n_prompt_seen, n_cached;    /* from usage; -1: not told */
    int32_t http_code;                  /* 0: no answer */
    bool good;                          /* 200, and the stream came to its end */
} LoadRequest;

typedef struct LoadPlan {
    const char *url;     /* http://HOST:PORT */
    const char *path;    /* /v1/completions */
    const char *api_key; /* or NULL */
    LoadRequest *request;
    int32_t n_requests;
    int32_t n_running_max; /* 0: no bound */
    double timeout_s;      /* of one request */
} LoadPlan;

/* Every gap between two pieces of any stream, in microseconds. */
typedef struct LoadGaps {
    int64_t *us; /* owned */
    size_t n, cap;
} LoadGaps;

/* Sends everything and waits for the end. *total_us: from the first request to the last answer. */
MUST_USE Status load_gen_run(LoadPlan *plan, LoadGaps *gaps, int64_t *total_us, Err *err);
