/* simulate: a load on the real engine - scheduler, block pool, prefix tree, queues - with a clock
 * driven by a cost model instead of a model, on any number of replicas.
 *
 * A step takes max(weights read once, operations of its tokens) + the keys and values read: the
 * roofline of decode and prefill together. Each replica has its own clock; a router gives each
 * request to one of them when it arrives. */
#pragma once

#include "app/load_gen.h"
#include "sluice.h"

typedef struct SimCost {
    double step_us;         /* a step of one token: reading the weights */
    double token_us;        /* a token among many: its operations */
    double kv_us_per_token; /* reading one earlier token's keys and values */
    int64_t kv_bytes_per_token;
} SimCost;

typedef enum SimRoute { SIM_ROUND_ROBIN, SIM_LEAST_LOAD, SIM_AFFINITY } SimRoute;

typedef struct SimOptions {
    SimCost cost;
    int32_t n_replicas;
    int64_t kv_bytes; /* of one replica */
    int32_t block_tokens, max_seqs, max_step_tokens;
    sluice_policy policy;
    SimRoute route;
    bool no_prefix_cache;
} SimOptions;

enum { SIM_SAMPLES = 240 };

/* What the engines did; requests and gaps are in the plan, as for a real load. */
typedef struct SimResult {
    int64_t total_us; /* simulated, to the last token */
    double wall_s;    /* what it took to simulate */
    int64_t n_steps, n_preempted;
    int64_t n_prompt_tokens, n_hit_tokens;
    int64_t n_ideal_tokens; /* that an infinite cache would have had */
    double busy;            /* share of the replicas' time spent in steps */
    double kv_mean, kv_max; /* share of blocks in use */
    int32_t n_samples;
    double kv_use[SIM_SAMPLES]; /* over time, mean of the replicas */
} SimResult;

/* Runs the plan. The requests' sent/first/last times, outputs and cached tokens are filled in. */
MUST_USE Status simulate_run(const SimOptions *options, LoadPlan *plan, LoadGaps *gaps,
                             SimResult *out, Err *err);
