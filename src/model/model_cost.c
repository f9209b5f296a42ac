#include "model/model_cost.h"

#include <math.h>

/* Each needs the last one's results whole: q k v, attention, output, gate and up, down. */
enum { MODEL_COST_RUNS = 5 };

/* Parameters of a layer's parts. */
static double model_cost_attn(const ModelConfig *c) {
    double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    return c->dim * (q + 2 * kv) + q * c->dim;
}

static double model_cost_expert(const ModelConfig *c) {
    return 3.0 * c->dim * c->expert_ff_dim;
}

static double model_cost_dense(const ModelConfig *c) {
    return (c->ffn_gated ? 3.0 : 2.0) * c->dim * c->ff_dim;
}

/* Norms and biases. */
static double model_cost_vectors(const ModelConfig *c, bool moe) {
    double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    double norm = (c->norm == NORM_LAYER ? 2.0 : 1.0) * c->dim, n = 2 * norm;
    if (c->post_norms) n += 2.0 * c->dim;
    if (c->qk_norm) n += 2.0 * c->head_dim;
    if (c->qkv_bias) n += q + 2 * kv;
    if (c->out_bias) n += c->dim;
    if (c->ffn_bias && !moe) n += (c->ffn_gated ? 2.0 : 1.0) * c->ff_dim + c->dim;
    return n;
}

/* Experts that n tokens touch when each chooses n_used at random. */
static double model_cost_touched(const ModelConfig *c, double n) {
    double missed = 1 - (double)c->n_experts_used / c->n_experts;
    return c->n_experts * (1 - pow(missed, n));
}

/* Matrix elements and vector elements of all layers that n tokens read. */
static void model_cost_layers(const ModelConfig *c, double n, double *matrix, double *vectors) {
    *matrix = *vectors = 0;
    for (int32_t i = 0; i < c->n_layers; i++) {
        bool moe = c->layer_moe[i] != 0;
        *matrix += model_cost_attn(c);
        *matrix +=
            moe ? (double)c->n_experts * c->dim + model_cost_touched(c, n) * model_cost_expert(c)
                : model_cost_dense(c);
        *vectors += model_cost_vectors(c, moe);
    }
}

/* Matrix elements that one token is multiplied with in all layers. */
static double model_cost_token(const ModelConfig *c) {
    double matrix, vectors;
    model_cost_layers(c, 1, &matrix, &vectors);
    return matrix;
}

static double model_cost_out_vectors(const ModelConfig *c) {
    return (c->norm == NORM_LAYER ? 2.0 : 1.0) * c->dim;
}

static double model_cost_embedding(const ModelConfig *c) {
    return (double)c->vocab * c->dim;
}

/* The window of a layer, or all of n. */
static double model_cost_seen(const ModelConfig *c, int32_t layer, double n) {
    bool windowed = c->layer_kind[layer] == LAYER_WINDOW && c->window > 0;
    return windowed ? fmin(n, c->window) : n;
}

/* Pairs of query and key of `n` queries after `before` tokens: the sum of min(before + i, seen). */
static double model_cost_pairs(double before, double n, double seen) {
    double below = fmin(fmax(seen - before, 0), n); /* queries that see all before them */
    return below * before + below * (below + 1) / 2 + (n - below) * seen;
}

/* A pass of n tokens of one sequence after `before`, with n_logits rows of logits. */
static ModelCost model_cost_pass(const ModelConfig *c, ModelCostFormat f, double before, double n,
                                 double n_logits) {
    double matrix, vectors;
    model_cost_layers(c, n, &matrix, &vectors);
    if (n_logits > 0) matrix += model_cost_embedding(c);
    ModelCost cost = {.n_runs = (double)MODEL_COST_RUNS * c->n_layers};
    cost.weight_bytes = matrix * f.matrix_bytes + n * c->dim * f.matrix_bytes +
                        4 * (vectors + model_cost_out_vectors(c));
    cost.matrix_flops = 2 * (n * model_cost_token(c) + n_logits * model_cost_embedding(c));
    for (int32_t i = 0; i < c->n_layers; i++) {
        double pairs = model_cost_pairs(before, n, model_cost_seen(c, i, before + n));
        cost.attend_flops += 4 * pairs * c->n_heads * c->head_dim;
        cost.kv_bytes +=
            2 * model_cost_seen(c, i, before) * c->n_kv_heads * c->head_dim * f.kv_bytes;
    }
    return cost;
}

ModelCost model_cost_sum(ModelCost a, ModelCost b) {
    return (ModelCost){.weight_bytes = a.weight_bytes + b.weight_bytes,
                       .kv_bytes = a.kv_bytes + b.kv_bytes,
                       .matrix_flops = a.matrix_flops + b.matrix_flops,
                       .attend_flops = a.attend_flops + b.attend_flops,
                       .n_runs = a.n_runs + b.n_runs};
}

ModelCost model_cost_prefill(const ModelConfig *config, ModelCostFormat format, int64_t n,
                             int64_t chunk) {
    ModelCost cost = {0};
    for (int64_t done = 0, step; done < n; done += step) {
        step = MIN(chunk, n - done);
        bool last = done + step == n;
        cost = model_cost_sum(
            cost, model_cost_pass(config, format, (double)done, (double)step, last ? 1 : 0));
    }
    return cost;
}

ModelCost model_cost_decode(const ModelConfig *config, ModelCostFormat format, int64_t n_seqs,
                            int64_t context) {
    double n = (double)n_seqs;
    ModelCost cost = model_cost_pass(config, format, (double)context - 1, 1, 1), all = cost;
    double matrix, vectors;
    model_cost_layers(config, n, &matrix, &vectors);
    all.weight_bytes =
        (matrix + model_cost_embedding(config) + n * config->dim) * format.matrix_bytes +
        4 * (vectors + model_cost_out_vectors(config));
    all.kv_bytes = n * cost.kv_bytes;
    all.matrix_flops = n * cost.matrix_flops;
    all.attend_flops = n * cost.attend_flops;
    return all;
}

int64_t model_cost_params(const ModelConfig *config) {
    double matrix, vectors;
    model_cost_layers(config, INFINITY, &matrix, &vectors);
    double embeddings = (config->tied_embeddings ? 1 : 2) * model_cost_embedding(config);
    if (config->learned_pos) embeddings += (double)config->context * config->dim;
    return llround(matrix + vectors + embeddings + model_cost_out_vectors(config));
}

int64_t model_cost_params_active(const ModelConfig *config) {
    double matrix, vectors;
    model_cost_layers(config, 1, &matrix, &vectors);
    return llround(matrix + vectors + model_cost_embedding(config) +
                   model_cost_out_vectors(config));
}

static double model_cost_time(double amount, double rate) {
    return rate > 0 ? amount / rate : 0;
}

double model_cost_seconds(ModelCost cost, MachineLimits limits) {
    double reading = model_cost_time(cost.weight_bytes + cost.kv_bytes, limits.read_bytes_per_s);
    double computing = model_cost_time(cost.matrix_flops, limits.matrix_flops_per_s) +
                       model_cost_time(cost.attend_flops, limits.attend_flops_per_s);
    return fmax(reading, computing) + cost.n_runs * limits.run_s;
}
