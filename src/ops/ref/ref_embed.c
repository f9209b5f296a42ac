/* ref_embed: table rows to activations, and rows of activations to other rows. */
#include <string.h>

#include "ops/ops_priv.h"

void ref_embed(OpCtx *ctx, const EmbedArgs *args) {
    ops_check_embed(args);
    OpsScratch scratch = ops_scratch_begin(ctx);
    int64_t dim = args->out.shape[1];
    float *learned = ops_scratch_take(&scratch, (size_t)dim * sizeof *learned);
    for (int64_t t = 0; t < args->out.shape[0]; t++) {
        float *out = ops_row(&args->out, t);
        dtype_to_f32(args->table->t.dtype, ops_weight_row(&args->table->t, args->token[t]), out,
                     dim);
        for (int64_t i = 0; i < dim; i++) out[i] *= args->scale;
        if (args->pos_table == NULL) continue;
        dtype_to_f32(args->pos_table->t.dtype, ops_weight_row(&args->pos_table->t, args->pos[t]),
                     learned, dim);
        for (int64_t i = 0; i < dim; i++) out[i] += learned[i];
    }
}

void ref_embed_gather_rows(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows,
                           Tensor *out) {
    (void)ctx;
    ops_check_gather_rows(x, row, n_rows, out);
    for (int32_t i = 0; i < n_rows; i++)
        memmove(ops_row(out, i), ops_row(x, row[i]), (size_t)x->shape[1] * sizeof(float));
}
