/* layer_attn: norm, q k v, rotation into the cache, attention, projection back. */
#include "model/forward_priv.h"

static void layer_attn_qkv(ForwardStep *step, const LayerWeights *w) {
    const Forward *f = step->forward;
    const ModelConfig *c = f->config;
    int64_t heads = (int64_t)c->n_heads * c->head_dim;
    int64_t kv_heads = (int64_t)c->n_kv_heads * c->head_dim;
    ForwardNorm norm;
    LinearArgs args = {.x = forward_feed(step, step->h, c->dim),
                       .n_parts = 3,
                       .part = {{&w->q, w->q_bias, forward_feed(step, f->scratch.q, heads)},
                                {&w->k, w->k_bias, forward_feed(step, f->scratch.k, kv_heads)},
                                {&w->v, w->v_bias, forward_feed(step, f->scratch.v, kv_heads)}},
                       .norm = forward_norm_for(step, w->attn_norm, w->attn_norm_bias, &norm)};
    f->ops->linear(&step->forward->ctx, &args);
}

static RopeKvArgs layer_attn_rope(ForwardStep *step, int32_t layer, const LayerWeights *w) {
    const Forward *f = step->forward;
    const ModelConfig *c = f->config;
    bool local = c->layer_kind[layer] == LAYER_WINDOW && c->rope_local.style != ROPE_NONE;
    const RopeConfig *rope = local ? &c->rope_local : &c->rope;
    int32_t n = step->n_rows;
    DType feed = f->scratch.feed;
    return (RopeKvArgs){.q = tensor_3d(f->scratch.q, feed, n, c->n_heads, c->head_dim),
                        .k = tensor_3d(f->scratch.k, feed, n, c->n_kv_heads, c->head_dim),
                        .v = tensor_3d(f->scratch.v, feed, n, c->n_kv_heads, c->head_dim),
                        .q_norm = w->q_norm,
                        .k_norm = w->k_norm,
                        .norm_eps = c->norm_eps,
                        .style = rope->style,
                        .rope_dim = rope->dim,
                        .cos_sin = local ? f->scratch.cos_sin_local : f->scratch.cos_sin,
                        .pos = step->batch->pos,
                        .kv_slot = step->batch->kv[kv_store_layer_group(c, layer)].kv_slot,
                        .kv = kv_store_layer(step->store, layer)};
}

static AttnArgs layer_attn_args(ForwardStep *step, int32_t layer) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    const Batch *batch = step->batch;
    const int32_t group = kv_store_layer_group(c, layer);
    const BatchKv *kv = &batch->kv[group];
    return (AttnArgs){
        .q = tensor_3d(f->scratch.q, f->scratch.feed, step->n_rows, c->n_heads, c->head_dim),
        .out = tensor_3d(f->scratch.attn, f->scratch.feed, step->n_rows, c->n_heads, c->head_dim),
        .kv = kv_store_layer(step->store, layer),
        .n_seqs = batch->n_seqs,
        .query_start = batch->query_start,
        .kv_len = batch->kv_len,
        .table_start = kv->table_start,
        .block_id = kv->block_id,
        .scale = c->attn_scale,
        .softcap = c->attn_softcap,
        .window = c->layer_kind[layer] == LAYER_WINDOW ? c->window : 0,
        .causal = true,
        .query_max = step->query_max,
        .plan = scratch_plan(&f->scratch, group)};
}

/* rope: what comes first. */
static void layer_attn_attend(ForwardStep *step, int32_t layer, const RopeKvArgs *rope) {
    Forward *f = step->forward;
    AttnArgs args = layer_attn_args(step, layer);
    if (f->ops->takes_rope)
        args.rope = rope;
    else
        f->ops->rope_kv(&f->ctx, rope);
    f->ops->attn(&f->ctx, &args);
}

void layer_attn_plan(ForwardStep *step) {
    Forward *f = step->forward;
    if (f->ops->attn_plan == NULL) return;
    int32_t group = 0; /* each by its first layer */
    for (int32_t i = 0; i < f->config->n_layers && group < kv_store_groups(f->config); i++) {
        if (kv_store_layer_group(f->config, i) != group) continue;
        const AttnArgs args = layer_attn_args(step, i);
        f->ops->attn_plan(&f->ctx, &args);
        group++;
        i = -1;
    }
}

/* Behind the last layer's attention only the rows with wanted logits matter: x and the attention's
 * output shrink to them. Returns where the latter now stands. */
static void *layer_attn_keep_rows(ForwardStep *step) {
    Forward *f = step->forward;
    const Batch *batch = step->batch;
    int64_t heads = (int64_t)f->config->n_heads * f->config->head_dim;
    Tensor x = forward_rows(step, step->x, f->config->dim);
    Tensor attn = forward_feed(step, f->scratch.attn, heads);
    step->n_rows = batch->n_logits;
    Tensor kept_x = forward_rows(step, step->h, f->config->dim);
    Tensor kept_attn = forward_feed(step, f->scratch.q, heads);
    f->ops->gather_rows(&f->ctx, &x, batch->logits_row, batch->n_logits, &kept_x);
    f->ops->gather_rows(&f->ctx, &attn, batch->logits_row, batch->n_logits, &kept_attn);
    float *freed = step->x;
    step->x = kept_x.data;
    step->h = freed;
    return f->scratch.q;
}

void layer_attn(ForwardStep *step, int32_t layer) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    const LayerWeights *w = &f->model->weights.layer[layer];
    layer_attn_qkv(step, w);
    const RopeKvArgs rope = layer_attn_rope(step, layer, w);
    bool last = layer == c->n_layers - 1;
    if (last && step->batch->n_logits == 0) {
        f->ops->rope_kv(&f->ctx, &rope);
        step->n_rows = 0; /* the cache has what later steps need */
        return;
    }
    layer_attn_attend(step, layer, &rope);
    bool shrink = last && !step->all_rows;
    void *attn = shrink ? layer_attn_keep_rows(step) : f->scratch.attn;
    forward_residual(step, attn, (int64_t)c->n_heads * c->head_dim, &w->o, w->o_bias,
                     w->post_attn_norm);
}
