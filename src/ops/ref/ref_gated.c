/* ref_gated: act(x Wg^T) * (x Wu^T), both products summed and multiplied in f64. */
#include "ops/ops_priv.h"

static double ref_gated_dot(const float *x, const float *row, int64_t k, const float *bias) {
    double sum = 0;
    for (int64_t j = 0; j < k; j++) sum += (double)x[j] * row[j];
    return bias != NULL ? sum + *bias : sum;
}

void ref_gated(OpCtx *ctx, const GatedArgs *args) {
    ops_check_gated(args);
    CHECK(args->gate->layout == 0 && args->up->layout == 0);
    OpsScratch scratch = ops_scratch_begin(ctx);
    const Tensor *gate = &args->gate->t, *up = &args->up->t;
    int64_t k = args->x.shape[1];
    float *gate_row = ops_scratch_take(&scratch, (size_t)k * sizeof *gate_row);
    float *up_row = ops_scratch_take(&scratch, (size_t)k * sizeof *up_row);
    for (int64_t i = 0; i < up->shape[0]; i++) {
        dtype_to_f32(gate->dtype, ops_weight_row(gate, i), gate_row, k);
        dtype_to_f32(up->dtype, ops_weight_row(up, i), up_row, k);
        const float *gate_bias = args->gate_bias ? args->gate_bias + i : NULL;
        const float *up_bias = args->up_bias ? args->up_bias + i : NULL;
        for (int64_t t = 0; t < args->x.shape[0]; t++) {
            const float *x = ops_row(&args->x, t);
            double g = ref_gated_dot(x, gate_row, k, gate_bias);
            double u = ref_gated_dot(x, up_row, k, up_bias);
            ops_row(&args->out, t)[i] = (float)(ref_act_value(args->act, g) * u);
        }
    }
}
