/* ref_attn: softmax attention over paged keys, two passes per query and head, sums in f64.
 *
 * The first pass finds the largest logit, the second sums; q.k is computed twice so that no memory
 * grows with the context. */
#include <math.h>

#include "ops/ops_priv.h"

/* One query of one head and the sequence that it looks at. */
typedef struct RefAttnRow {
    const AttnArgs *args;
    const int32_t *block_id; /* the sequence's table */
    const float *q;
    int64_t kv_head;
} RefAttnRow;

static int64_t ref_attn_slot(const RefAttnRow *row, int32_t j) {
    const KvView *kv = &row->args->kv;
    return (int64_t)row->block_id[j / kv->block_tokens] * kv->block_tokens + j % kv->block_tokens;
}

static double ref_attn_score(const RefAttnRow *row, int32_t j) {
    const KvView *kv = &row->args->kv;
    int64_t slot = ref_attn_slot(row, j), at = ops_kv_offset(kv, slot, row->kv_head);
    double sum = 0;
    for (int64_t i = 0; i < kv->head_dim; i++)
        sum += (double)row->q[i] * ref_rope_kv_get(kv->dtype, kv->k, at + i);
    sum *= (double)row->args->scale * ref_rope_kv_scale(kv, kv->k, slot, row->kv_head);
    double cap = row->args->softcap;
    return cap > 0 ? cap * tanh(sum / cap) : sum;
}

static void ref_attn_row(const RefAttnRow *row, OpsRange range, const float *sink, double *acc,
                         float *out) {
    const KvView *kv = &row->args->kv;
    double largest = sink ? *sink : -INFINITY, sum = 0;
    for (int32_t j = range.lo; j < range.hi; j++) {
        double score = ref_attn_score(row, j);
        if (!(score <= largest)) largest = score; /* takes a NaN too */
    }
    if (sink != NULL) sum = exp(*sink - largest);
    for (int64_t i = 0; i < kv->head_dim; i++) acc[i] = 0;
    for (int32_t j = range.lo; j < range.hi; j++) {
        double p = exp(ref_attn_score(row, j) - largest);
        int64_t slot = ref_attn_slot(row, j), at = ops_kv_offset(kv, slot, row->kv_head);
        sum += p;
        p *= ref_rope_kv_scale(kv, kv->v, slot, row->kv_head);
        for (int64_t i = 0; i < kv->head_dim; i++)
            acc[i] += p * ref_rope_kv_get(kv->dtype, kv->v, at + i);
    }
    for (int64_t i = 0; i < kv->head_dim; i++) out[i] = (float)(acc[i] / sum);
}

void ref_attn(OpCtx *ctx, const AttnArgs *args) {
    ops_check_attn(args);
    OpsScratch scratch = ops_scratch_begin(ctx);
    int64_t n_heads = args->q.shape[1], head_dim = args->kv.head_dim;
    double *acc = ops_scratch_take(&scratch, (size_t)head_dim * sizeof *acc);
    for (int32_t s = 0; s < args->n_seqs; s++) {
        int32_t end = args->query_start[s + 1];
        for (int32_t t = args->query_start[s]; t < end; t++) {
            OpsRange range = ops_attn_range(args, args->kv_len[s] - (end - t), args->kv_len[s]);
            for (int64_t h = 0; h < n_heads; h++) {
                RefAttnRow row = {args, args->block_id + args->table_start[s],
                                  ops_row(&args->q, t) + h * head_dim,
                                  h / (n_heads / args->kv.n_kv_heads)};
                ref_attn_row(&row, range, args->sinks ? args->sinks + h : NULL, acc,
                             ops_row(&args->out, t) + h * head_dim);
            }
        }
    }
}
