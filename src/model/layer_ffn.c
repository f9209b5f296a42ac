/* layer_ffn: norm, up and gate, activation, down. */
#include "model/forward_priv.h"

void layer_ffn(ForwardStep *step, int32_t layer) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    const LayerWeights *w = &f->model->weights.layer[layer];
    Tensor hidden = forward_feed(step, f->scratch.hidden, c->ff_dim);
    ForwardNorm own;
    const NormArgs *norm = forward_norm_for(step, w->ffn_norm, w->ffn_norm_bias, &own);
    Tensor h = forward_feed(step, step->h, c->dim);
    if (c->ffn_gated) {
        GatedArgs gated = {.x = h,
                           .gate = &w->gate,
                           .up = &w->up,
                           .gate_bias = w->gate_bias,
                           .up_bias = w->up_bias,
                           .act = c->act,
                           .out = hidden,
                           .norm = norm};
        f->ops->gated(&f->ctx, &gated);
    } else {
        LinearArgs linear = {
            .x = h, .n_parts = 1, .part = {{&w->up, w->up_bias, hidden}}, .norm = norm};
        f->ops->linear(&f->ctx, &linear);
        ActArgs act = {.kind = c->act, .gate = hidden, .out = hidden};
        f->ops->act(&f->ctx, &act);
    }
    forward_residual(step, hidden.data, c->ff_dim, &w->down, w->down_bias, w->post_ffn_norm);
}
