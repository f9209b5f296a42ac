/* ref_moe: routing and the experts' gated feed-forward, token by token.
 *
 * source: Mixtral 2401.04088. */
#include <math.h>

#include "ops/ops_priv.h"

/* The best expert not chosen before, lower index on ties; a NaN logit is chosen last. */
static int32_t ref_moe_best(const float *logits, int64_t n_experts, const int32_t *chosen,
                            int32_t n_chosen) {
    int32_t best = -1;
    for (int32_t e = 0; e < n_experts; e++) {
        bool taken = false;
        for (int32_t i = 0; i < n_chosen; i++) taken |= chosen[i] == e;
        if (taken) continue;
        if (best < 0 || logits[e] > logits[best] || (isnan(logits[best]) && !isnan(logits[e])))
            best = e;
    }
    return best;
}

static void ref_moe_route_token(const MoeRouteArgs *args, int64_t t) {
    const float *logits = ops_row(&args->logits, t);
    int64_t n_experts = args->logits.shape[1];
    int32_t *expert = args->expert + t * args->n_used;
    float *weight = args->weight + t * args->n_used;
    for (int32_t i = 0; i < args->n_used; i++)
        expert[i] = ref_moe_best(logits, n_experts, expert, i);
    double largest = logits[expert[0]], sum = 0, chosen = 0;
    for (int64_t e = 0; e < n_experts; e++) sum += exp(logits[e] - largest);
    for (int32_t i = 0; i < args->n_used; i++) chosen += exp(logits[expert[i]] - largest);
    double divisor = args->normalize ? chosen : sum;
    for (int32_t i = 0; i < args->n_used; i++)
        weight[i] = (float)(exp(logits[expert[i]] - largest) / divisor * args->scale);
}

void ref_moe_route(OpCtx *ctx, const MoeRouteArgs *args) {
    (void)ctx;
    ops_check_moe_route(args);
    for (int64_t t = 0; t < args->logits.shape[0]; t++) ref_moe_route_token(args, t);
}

/* Row `row` of an expert's matrix times x; buffer holds the row in f32. */
static double ref_moe_dot(const Weight *w, int64_t row, const float *x, float *buffer) {
    CHECK(w->layout == 0);
    int64_t k = w->t.shape[1];
    double sum = 0;
    dtype_to_f32(w->t.dtype, ops_weight_row(&w->t, row), buffer, k);
    for (int64_t j = 0; j < k; j++) sum += (double)x[j] * buffer[j];
    return sum;
}

void ref_moe(OpCtx *ctx, const MoeArgs *args) {
    ops_check_moe(args);
    int64_t dim = args->x.shape[1], ff = args->gate->t.shape[0];
    OpsScratch scratch = ops_scratch_begin(ctx);
    float *buffer = ops_scratch_take(&scratch, (size_t)MAX(dim, ff) * sizeof *buffer);
    float *hidden = ops_scratch_take(&scratch, (size_t)ff * sizeof *hidden);
    double *sum = ops_scratch_take(&scratch, (size_t)dim * sizeof *sum);
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        const float *x = ops_row(&args->x, t);
        float *out = ops_row(&args->out, t);
        for (int64_t i = 0; i < dim; i++) sum[i] = args->accumulate ? out[i] : 0;
        for (int32_t u = 0; u < args->n_used; u++) {
            int32_t e = args->expert[t * args->n_used + u];
            float weight = args->weight[t * args->n_used + u];
            for (int64_t i = 0; i < ff; i++) {
                double gate = ref_moe_dot(&args->gate[e], i, x, buffer);
                double up = ref_moe_dot(&args->up[e], i, x, buffer);
                hidden[i] = (float)(ref_act_value(args->act, gate) * up);
            }
            for (int64_t i = 0; i < dim; i++)
                sum[i] += weight * ref_moe_dot(&args->down[e], i, hidden, buffer);
        }
        for (int64_t i = 0; i < dim; i++) out[i] = (float)sum[i];
    }
}
