/* cpu_embed_tmpl: table rows to activations, and rows of activations to other rows. */
#include <string.h>

#include "ops/cpu/cpu_kv_tmpl.h"
#include "ops/cpu/cpu_ops.h"

typedef struct CpuEmbed {
    const EmbedArgs *args;
    float *learned; /* [n_threads][stride] */
    int64_t stride;
} CpuEmbed;

static bool cpu_embed_plain(DType dtype) {
    return dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16;
}

/* out = row * scale */
static void cpu_embed_scaled(const Tensor *table, int64_t row, float scale, float *out,
                             int64_t dim) {
    const void *from = ops_weight_row(table, row);
    bool plain = cpu_embed_plain(table->dtype);
    if (!plain) dtype_to_f32(table->dtype, from, out, dim);
    DType dtype = plain ? table->dtype : DTYPE_F32;
    const void *data = plain ? from : out;
    Vec factor = vec_set1(scale);
    for (int64_t i = 0; i < dim; i += VEC_LANES) {
        int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
        vec_store_n(out + i, vec_mul(vec_load_kv_n(dtype, data, i, n), factor), n);
    }
}

static void cpu_embed_row(void *context, int64_t t, int32_t thread) {
    const CpuEmbed *embed = context;
    const EmbedArgs *args = embed->args;
    int64_t dim = args->out.shape[1];
    float *out = ops_row(&args->out, t);
    cpu_embed_scaled(&args->table->t, args->token[t], args->scale, out, dim);
    if (args->pos_table == NULL) return;
    float *learned = embed->learned + thread * embed->stride;
    cpu_embed_scaled(&args->pos_table->t, args->pos[t], 1.0f, learned, dim);
    for (int64_t i = 0; i < dim; i += VEC_LANES) {
        int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
        vec_store_n(out + i, vec_add(vec_load_n(out + i, n), vec_load_n(learned + i, n)), n);
    }
}

void CPU_LEVEL(cpu_embed)(OpCtx *ctx, const EmbedArgs *args) {
    ops_check_embed(args);
    OpsScratch scratch = ops_scratch_begin(ctx);
    int64_t stride = ALIGN_UP(args->out.shape[1], (int64_t)(CACHE_LINE / sizeof(float)));
    CpuEmbed embed = {.args = args, .stride = stride};
    if (args->pos_table != NULL)
        embed.learned =
            ops_scratch_take(&scratch, (size_t)ops_threads(ctx) * (size_t)stride * sizeof(float));
    int64_t row_bytes = args->out.shape[1] * (int64_t)sizeof(float) * 2;
    cpu_rows_run(ctx, args->out.shape[0], row_bytes, cpu_embed_row, &embed);
}

typedef struct CpuEmbedGather {
    const Tensor *x, *out;
    const int32_t *row;
} CpuEmbedGather;

static void cpu_embed_gather_row(void *context, int64_t i, int32_t thread) {
    (void)thread;
    const CpuEmbedGather *gather = context;
    memmove(ops_row(gather->out, i), ops_row(gather->x, gather->row[i]),
            (size_t)gather->x->shape[1] * sizeof(float));
}

void CPU_LEVEL(cpu_embed_gather)(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows,
                                 Tensor *out) {
    ops_check_gather_rows(x, row, n_rows, out);
    CpuEmbedGather gather = {x, out, row};
    int64_t row_bytes = x->shape[1] * (int64_t)sizeof(float) * 2;
    cpu_rows_run(ctx, n_rows, row_bytes, cpu_embed_gather_row, &gather);
}
