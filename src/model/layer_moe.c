/* layer_moe: norm, router, the chosen experts' feed-forward layers. */
#include "model/forward_priv.h"

void layer_moe(ForwardStep *step, int32_t layer) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    const LayerWeights *w = &f->model->weights.layer[layer];
    forward_norm(step, w->ffn_norm, w->ffn_norm_bias);
    Tensor h = forward_feed(step, step->h, c->dim);
    Tensor logits = forward_rows(step, f->scratch.router, c->n_experts);
    LinearArgs router = {.x = h, .n_parts = 1, .part = {{&w->router, NULL, logits}}};
    f->ops->linear(&f->ctx, &router);
    MoeRouteArgs route = {.logits = logits,
                          .n_used = c->n_experts_used,
                          .normalize = c->moe_normalize,
                          .scale = 1,
                          .expert = f->scratch.expert,
                          .weight = f->scratch.expert_weight};
    f->ops->moe_route(&f->ctx, &route);
    MoeArgs moe = {.x = h,
                   .gate = w->expert_gate,
                   .up = w->expert_up,
                   .down = w->expert_down,
                   .act = c->act,
                   .n_experts = c->n_experts,
                   .n_used = c->n_experts_used,
                   .expert = f->scratch.expert,
                   .weight = f->scratch.expert_weight,
                   .out = forward_rows(step, step->x, c->dim),
                   .accumulate = true};
    f->ops->moe(&f->ctx, &moe);
}
