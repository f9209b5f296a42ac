/* ref_linear: matrix times vector for every readable format, and weights borrowed from the file. */
#include "ops/ops_priv.h"

/* A row of the longest reduction, the hidden vector of an expert, and f64 sums of the widest
 * vector: no reference op needs more. */
size_t ref_linear_scratch_bytes(const OpsLimits *limits) {
    int64_t k = MAX(MAX(limits->k_max, limits->n_max), (int64_t)limits->expert_ff);
    int64_t wide = MAX(k, (int64_t)limits->head_dim);
    return 2 * ops_scratch_round((size_t)k * sizeof(float)) +
           ops_scratch_round((size_t)wide * sizeof(double));
}

Status ref_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err) {
    (void)ctx;
    char text[TENSOR_TEXT_BYTES];
    if (!dtype_can_read(file->dtype))
        FAIL(err, ERR_UNSUPPORTED, "weight %s: this format cannot be multiplied",
             tensor_text(file, text));
    *out = (Weight){.t = *file};
    return OK;
}

void ref_weight_release(OpCtx *ctx, Weight *weight) {
    (void)ctx;
    *weight = (Weight){0};
}

static void ref_linear_part(const LinearArgs *args, const LinearPart *part, float *row) {
    int64_t n = part->w->t.shape[0], k = part->w->t.shape[1];
    for (int64_t i = 0; i < n; i++) {
        dtype_to_f32(part->w->t.dtype, ops_weight_row(&part->w->t, i), row, k);
        for (int64_t t = 0; t < args->x.shape[0]; t++) {
            const float *x = ops_row(&args->x, t);
            float *out = ops_row(&part->out, t) + i;
            double sum = 0;
            for (int64_t j = 0; j < k; j++) sum += (double)x[j] * row[j];
            if (part->bias != NULL) sum += part->bias[i];
            if (args->accumulate) sum += *out;
            *out = (float)sum;
        }
    }
}

void ref_linear(OpCtx *ctx, const LinearArgs *args) {
    ops_check_linear(args);
    OpsScratch scratch = ops_scratch_begin(ctx);
    float *row = ops_scratch_take(&scratch, (size_t)args->x.shape[1] * sizeof *row);
    for (int32_t i = 0; i < args->n_parts; i++) {
        CHECK(args->part[i].w->layout == 0);
        ref_linear_part(args, &args->part[i], row);
    }
}
