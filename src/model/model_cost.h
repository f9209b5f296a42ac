/* model_cost: what a step has to read and compute, from a model's dimensions alone, and the time
 * that a machine's limits leave for it.
 *
 * A lower bound, not a model of our kernels: weights are read once per pass and activations never,
 * caches hold nothing from one pass to the next, and a product costs two operations. What is
 * measured beside it is the share of the machine that we use.
 * source: the roofline of Williams, Waterman and Patterson (2009); FLOPs per token as in Kaplan et
 * al. 2001.08361, table 1, with the pairs that causal masks and windows leave. */
#pragma once

#include "model/model_config.h"

/* Of one pass or of a run of them. */
typedef struct ModelCost {
    double weight_bytes; /* of the matrices and vectors that are read, touched experts only */
    double kv_bytes;     /* keys and values of earlier tokens */
    double matrix_flops; /* of matrix products */
    double attend_flops; /* of queries with keys and of probabilities with values */
    double n_runs;       /* times that all threads meet */
} ModelCost;

/* Bytes of an element of the matrices (for files of several formats the mean) and of the cache. */
typedef struct ModelCostFormat {
    double matrix_bytes, kv_bytes;
} ModelCostFormat;

/* n tokens of one prompt in passes of at most `chunk`, the logits of the last. */
ModelCost model_cost_prefill(const ModelConfig *config, ModelCostFormat format, int64_t n,
                             int64_t chunk);
/* One token for each of n_seqs sequences that have `context` tokens after it, and its logits. */
ModelCost model_cost_decode(const ModelConfig *config, ModelCostFormat format, int64_t n_seqs,
                            int64_t context);
ModelCost model_cost_sum(ModelCost a, ModelCost b);

/* Parameters of the model: all, and those that one token passes through (the row of an embedding
 * table that it takes is not counted). */
int64_t model_cost_params(const ModelConfig *config);
int64_t model_cost_params_active(const ModelConfig *config);

/* What a machine can do; 0: not known, and then no bound. */
typedef struct MachineLimits {
    double read_bytes_per_s, matrix_flops_per_s, attend_flops_per_s;
    double run_s; /* for all threads to meet */
} MachineLimits;

/* The least seconds: the longer of reading and computing, and the meetings. */
double model_cost_seconds(ModelCost cost, MachineLimits limits);
