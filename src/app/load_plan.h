/* load_plan: which requests a load consists of, when each leaves, and what came of them. */
#pragma once

#include "app/config.h"
#include "base/buf.h"

/* n tokens that are a function of the load's seed and this stream: equal streams, equal tokens. */
typedef struct LoadPart {
    uint64_t stream;
    int32_t n;
} LoadPart;

typedef struct LoadRequest {
    int64_t at_us;  /* when to send, since the start */
    LoadPart *part; /* [n_parts] the prompt, as tokens; owned by the plan */
    int32_t n_parts;
    Str text;         /* or as text, when n_parts is 0; borrowed from the plan */
    int32_t n_prompt; /* tokens, as planned; -1: not known */
    int32_t n_output_max;
    /* what came of it; times since the start */
    int64_t sent_us, first_us, last_us; /* 0: never */
    int32_t n_output;
    int32_t n_prompt_seen, n_cached; /* -1: not told */
    int32_t http_code;               /* 0: no answer */
    bool good;                       /* the whole answer came */
} LoadRequest;

enum { LOAD_FAILURE_BYTES = 400 };

typedef struct LoadPlan {
    LoadRequest *request;
    int32_t n_requests;
    uint64_t seed;
    bool ignore_eos;                  /* lengths are as planned */
    bool words;                       /* instead of token ids, in completions too */
    Buf text;                         /* of real prompts */
    char failure[LOAD_FAILURE_BYTES]; /* what the first request without a whole answer got */
} LoadPlan;

/* Makes the plan that the options describe: arrivals (all at once, Poisson, bursts, or a trace's
 * times), lengths (given, or a trace's), a shared beginning, or real prompts from a file. Free with
 * load_plan_free, also after a failure. */
MUST_USE Status load_plan_make(LoadPlan *plan, const Config *config, Err *err);
void load_plan_free(LoadPlan *plan);

/* Appends the ids of a request that is planned as tokens; all lie in
 * [LOAD_PLAN_TOKEN_MIN, LOAD_PLAN_TOKEN_MIN + LOAD_PLAN_TOKENS). */
enum { LOAD_PLAN_TOKEN_MIN = 256, LOAD_PLAN_TOKENS = 4096 };
void load_plan_ids(const LoadPlan *plan, const LoadRequest *request, Ints *out);
/* Appends the request as the JSON body of /v1/completions; chat: of /v1/chat/completions, with
 * words in the place of token ids, each about a token long, as with `words`. */
void load_plan_body(const LoadPlan *plan, const LoadRequest *request, const char *model, bool chat,
                    Buf *out);
