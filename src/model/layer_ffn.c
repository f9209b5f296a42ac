/* layer_ffn: norm, up and gate, activation, down. */
#include "model/forward_priv.h"

void layer_ffn(ForwardStep *step, int32_t layer) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    const LayerWeights *w = &f->model->weights.layer[layer];
    Tensor up = forward_rows(step, f->scratch.up, c->ff_dim);
    Tensor gate = c->ffn_gated ? forward_rows(step, f->scratch.gate, c->ff_dim) : up;
    forward_norm(step, w->ffn_norm, w->ffn_norm_bias);
    LinearArgs linear = {.x = forward_rows(step, step->h, c->dim),
                         .n_parts = c->ffn_gated ? 2 : 1,
                         .part = {{&w->up, w->up_bias, up}, {&w->gate, w->gate_bias, gate}}};
    f->ops->linear(&f->ctx, &linear);
    ActArgs act = {.kind = c->act, .gate = gate, .up = c->ffn_gated ? &up : NULL, .out = gate};
    f->ops->act(&f->ctx, &act);
    forward_residual(step, gate.data, c->ff_dim, &w->down, w->down_bias, w->post_ffn_norm);
}
