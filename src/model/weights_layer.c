/* weights_layer: the tensors of one layer, whether apart, fused or stacked. */
#include "model/weights_priv.h"

#include "base/mem.h"

/* q, k and v: three matrices, or the rows of one. */
static Status weights_layer_qkv(WeightsBinder *b, int32_t layer, LayerWeights *w) {
    const ModelConfig *c = b->config;
    int64_t nq = (int64_t)c->n_heads * c->head_dim, nkv = (int64_t)c->n_kv_heads * c->head_dim;
    Weight *const out[] = {&w->q, &w->k, &w->v};
    Tensor t[3], all;
    if ((*b->names)[ARCH_Q] != NULL && !weights_has(b, ARCH_QKV, layer)) {
        const WeightsAt q = {.role = ARCH_Q, .layer = layer};
        const WeightsAt k = {.role = ARCH_K, .layer = layer}, v = {.role = ARCH_V, .layer = layer};
        TRY(weights_matrix_get(b, q, nq, c->dim, &t[0]));
        TRY(weights_matrix_get(b, k, nkv, c->dim, &t[1]));
        TRY(weights_matrix_get(b, v, nkv, c->dim, &t[2]));
        TRY(weights_prepare_parts(b, t, 3, out));
        TRY(weights_bias(b, ARCH_Q, layer, nq, c->qkv_bias, &w->q_bias));
        TRY(weights_bias(b, ARCH_K, layer, nkv, c->qkv_bias, &w->k_bias));
        return weights_bias(b, ARCH_V, layer, nkv, c->qkv_bias, &w->v_bias);
    }
    TRY(weights_matrix_get(b, (WeightsAt){.role = ARCH_QKV, .layer = layer}, nq + 2 * nkv, c->dim,
                           &all));
    t[0] = tensor_rows(&all, 0, nq);
    t[1] = tensor_rows(&all, nq, nkv);
    t[2] = tensor_rows(&all, nq + nkv, nkv);
    TRY(weights_prepare_parts(b, t, 3, out));
    const float *bias = NULL;
    TRY(weights_bias(b, ARCH_QKV, layer, nq + 2 * nkv, c->qkv_bias, &bias));
    if (bias == NULL) return OK;
    w->q_bias = bias;
    w->k_bias = bias + nq;
    w->v_bias = bias + nq + nkv;
    return OK;
}

static Status weights_layer_attn(WeightsBinder *b, int32_t layer, LayerWeights *w) {
    const ModelConfig *c = b->config;
    TRY(weights_norm(b, ARCH_ATTN_NORM, layer, c->dim, &w->attn_norm, &w->attn_norm_bias));
    TRY(weights_layer_qkv(b, layer, w));
    if (c->qk_norm) {
        TRY(weights_norm(b, ARCH_Q_NORM, layer, c->head_dim, &w->q_norm, NULL));
        TRY(weights_norm(b, ARCH_K_NORM, layer, c->head_dim, &w->k_norm, NULL));
    }
    TRY(weights_matrix(b, ARCH_O, layer, c->dim, (int64_t)c->n_heads * c->head_dim, &w->o));
    TRY(weights_bias(b, ARCH_O, layer, c->dim, c->out_bias, &w->o_bias));
    if (!c->post_norms) return OK;
    return weights_norm(b, ARCH_POST_ATTN_NORM, layer, c->dim, &w->post_attn_norm, NULL);
}

/* gate and up: two matrices, the rows of one, or up alone. */
static Status weights_layer_ffn(WeightsBinder *b, int32_t layer, LayerWeights *w) {
    const ModelConfig *c = b->config;
    bool fused =
        c->ffn_gated && (*b->names)[ARCH_GATE_UP] != NULL && !weights_has(b, ARCH_GATE, layer);
    if (c->ffn_gated) {
        Tensor t, gate, up;
        if (fused) {
            TRY(weights_matrix_get(b, (WeightsAt){.role = ARCH_GATE_UP, .layer = layer},
                                   2 * (int64_t)c->ff_dim, c->dim, &t));
            gate = tensor_rows(&t, 0, c->ff_dim);
            up = tensor_rows(&t, c->ff_dim, c->ff_dim);
        } else {
            WeightsAt at = {.role = ARCH_GATE, .layer = layer};
            TRY(weights_matrix_get(b, at, c->ff_dim, c->dim, &gate));
            TRY(weights_bias(b, ARCH_GATE, layer, c->ff_dim, c->ffn_bias, &w->gate_bias));
            at.role = ARCH_UP;
            TRY(weights_matrix_get(b, at, c->ff_dim, c->dim, &up));
            TRY(weights_bias(b, ARCH_UP, layer, c->ff_dim, c->ffn_bias, &w->up_bias));
        }
        TRY(weights_prepare_gated(b, &gate, &up, w));
    } else {
        TRY(weights_matrix(b, ARCH_UP, layer, c->ff_dim, c->dim, &w->up));
        TRY(weights_bias(b, ARCH_UP, layer, c->ff_dim, c->ffn_bias, &w->up_bias));
    }
    TRY(weights_matrix(b, ARCH_DOWN, layer, c->dim, c->ff_dim, &w->down));
    return weights_bias(b, ARCH_DOWN, layer, c->dim, c->ffn_bias, &w->down_bias);
}

/* Expert e of a stacked tensor, n rows from row_first of its [rows, k]. */
static Tensor weights_layer_slice(const Tensor *stack, int64_t expert, int64_t row_first,
                                  int64_t n) {
    Tensor one =
        tensor_2d(stack->data, stack->dtype, stack->shape[0] * stack->shape[1], stack->shape[2]);
    return tensor_rows(&one, expert * stack->shape[1] + row_first, n);
}

/* The three matrices of an expert, as they stand in the file. */
static Status weights_layer_expert_get(WeightsBinder *b, int32_t layer, int32_t expert,
                                       const Tensor stacks[3], Tensor out[3]) {
    const ModelConfig *c = b->config;
    int64_t ff = c->expert_ff_dim;
    if (stacks[2].data == NULL) {
        WeightsAt at = {.role = ARCH_EXPERT_GATE, .layer = layer, .expert = expert};
        TRY(weights_get(b, at, ff, c->dim, 0, &out[0]));
        at.role = ARCH_EXPERT_UP;
        TRY(weights_get(b, at, ff, c->dim, 0, &out[1]));
        at.role = ARCH_EXPERT_DOWN;
        return weights_get(b, at, c->dim, ff, 0, &out[2]);
    }
    bool fused = stacks[1].data == NULL; /* gate and up in the first */
    out[0] = weights_layer_slice(&stacks[0], expert, 0, ff);
    out[1] = weights_layer_slice(&stacks[fused ? 0 : 1], expert, fused ? ff : 0, ff);
    out[2] = weights_layer_slice(&stacks[2], expert, 0, c->dim);
    return OK;
}

static Status weights_layer_stacks(WeightsBinder *b, int32_t layer, Tensor stacks[3]) {
    const ModelConfig *c = b->config;
    int64_t ff = c->expert_ff_dim;
    WeightsAt at = {.layer = layer, .role = ARCH_EXPERTS_GATE_UP};
    if (weights_has(b, ARCH_EXPERTS_GATE_UP, layer)) {
        TRY(weights_get(b, at, c->n_experts, 2 * ff, c->dim, &stacks[0]));
    } else if (weights_has(b, ARCH_EXPERTS_GATE, layer)) {
        at.role = ARCH_EXPERTS_GATE;
        TRY(weights_get(b, at, c->n_experts, ff, c->dim, &stacks[0]));
        at.role = ARCH_EXPERTS_UP;
        TRY(weights_get(b, at, c->n_experts, ff, c->dim, &stacks[1]));
    } else {
        return OK; /* one tensor per expert */
    }
    at.role = ARCH_EXPERTS_DOWN;
    return weights_get(b, at, c->n_experts, c->dim, ff, &stacks[2]);
}

static Status weights_layer_moe(WeightsBinder *b, int32_t layer, LayerWeights *w) {
    const ModelConfig *c = b->config;
    const int32_t n = c->n_experts;
    Tensor stacks[3] = {{0}}, part[3];
    TRY(weights_matrix(b, ARCH_ROUTER, layer, n, c->dim, &w->router));
    w->expert_gate = mem_alloc((size_t)n * sizeof(Weight));
    w->expert_up = mem_alloc((size_t)n * sizeof(Weight));
    w->expert_down = mem_alloc((size_t)n * sizeof(Weight));
    TRY(weights_layer_stacks(b, layer, stacks));
    Tensor *tensors = mem_alloc(3 * (size_t)n * sizeof *tensors);
    const ExpertsFile file = {tensors, tensors + n, tensors + 2 * n};
    Status status = OK;
    for (int32_t e = 0; e < n && status == OK; e++) {
        status = weights_layer_expert_get(b, layer, e, stacks, part);
        for (int32_t i = 0; i < 3 && status == OK; i++) tensors[i * n + e] = part[i];
    }
    if (status == OK) status = weights_prepare_experts(b, &file, w);
    mem_free(tensors);
    return status;
}

Status weights_layer_bind(WeightsBinder *b, int32_t layer, LayerWeights *w) {
    const ModelConfig *c = b->config;
    TRY(weights_layer_attn(b, layer, w));
    TRY(weights_norm(b, ARCH_FFN_NORM, layer, c->dim, &w->ffn_norm, &w->ffn_norm_bias));
    TRY(c->layer_moe[layer] ? weights_layer_moe(b, layer, w) : weights_layer_ffn(b, layer, w));
    if (!c->post_norms) return OK;
    return weights_norm(b, ARCH_POST_FFN_NORM, layer, c->dim, &w->post_ffn_norm, NULL);
}
