/* ref_norm: RMS-norm and layer norm, with the residual add before them.
 *
 * source: Zhang & Sennrich 2019 (RMS), Ba et al. 2016 (layer). */
#include <math.h>

#include "ops/ops_priv.h"

static void ref_norm_rms(const NormArgs *args, const float *x, float *out, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++) sum += (double)x[i] * x[i];
    double scale = 1 / sqrt(sum / (double)dim + args->eps);
    for (int64_t i = 0; i < dim; i++) {
        double bias = args->bias ? args->bias[i] : 0;
        out[i] = (float)(x[i] * scale * args->w[i] + bias);
    }
}

static void ref_norm_layer(const NormArgs *args, const float *x, float *out, int64_t dim) {
    double sum = 0, square = 0;
    for (int64_t i = 0; i < dim; i++) sum += x[i];
    double mean = sum / (double)dim;
    for (int64_t i = 0; i < dim; i++) square += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(square / (double)dim + args->eps);
    for (int64_t i = 0; i < dim; i++) {
        double bias = args->bias ? args->bias[i] : 0;
        out[i] = (float)((x[i] - mean) * scale * args->w[i] + bias);
    }
}

void ref_norm(OpCtx *ctx, const NormArgs *args) {
    (void)ctx;
    ops_check_norm(args);
    int64_t dim = args->x.shape[1];
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        float *x = ops_row(&args->x, t);
        const float *add = args->add ? ops_row(args->add, t) : NULL;
        for (int64_t i = 0; add != NULL && i < dim; i++) x[i] += add[i];
        if (args->kind == NORM_RMS)
            ref_norm_rms(args, x, ops_row(&args->out, t), dim);
        else
            ref_norm_layer(args, x, ops_row(&args->out, t), dim);
    }
}
