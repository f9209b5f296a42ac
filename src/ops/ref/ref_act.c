/* ref_act: activation functions, the gated product, and the soft cap.
 *
 * source: Hendrycks & Gimpel 1606.08415 (GELU), Elfwing et al. 1702.03118 (SiLU). */
#include <math.h>

#include "ops/ops_priv.h"

double ref_act_value(ActKind kind, double x) {
    const double sqrt_half = 0.70710678118654752440, sqrt_2_pi = 0.79788456080286535588;
    switch (kind) {
        case ACT_SILU: return x / (1 + exp(-x));
        case ACT_GELU: return 0.5 * x * erfc(-x * sqrt_half);
        case ACT_GELU_TANH:
            /* x/2 (1 + tanh u) as x / (1 + e^-2u), which does not cancel for negative x. */
            return x / (1 + exp(-2 * sqrt_2_pi * (x + 0.044715 * x * x * x)));
        case ACT_RELU: return x < 0 ? 0 : x;
    }
    CHECK(false);
}

void ref_act(OpCtx *ctx, const ActArgs *args) {
    (void)ctx;
    ops_check_act(args);
    for (int64_t t = 0; t < args->gate.shape[0]; t++) {
        const float *gate = ops_row(&args->gate, t);
        const float *up = args->up ? ops_row(args->up, t) : NULL;
        float *out = ops_row(&args->out, t);
        for (int64_t i = 0; i < args->gate.shape[1]; i++) {
            double value = ref_act_value(args->kind, gate[i]);
            out[i] = (float)(up ? value * up[i] : value);
        }
    }
}

void ref_act_softcap(OpCtx *ctx, Tensor x, float cap) {
    (void)ctx;
    ops_check_softcap(&x, cap);
    for (int64_t t = 0; t < x.shape[0]; t++) {
        float *row = ops_row(&x, t);
        for (int64_t i = 0; i < x.shape[1]; i++) row[i] = (float)(cap * tanh(row[i] / (double)cap));
    }
}
