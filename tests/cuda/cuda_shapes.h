/* cuda_shapes: made-up bf16 models of each kind that the GPU's fast kernels serve. */
#pragma once

#include "../golden/golden.h"
#include "model/model_shape.h"

#define SIZES                                                                     \
    "'num_hidden_layers': 3, 'num_attention_heads': 8, 'num_key_value_heads': 2," \
    "'vocab_size': 1000, 'max_position_embeddings': 1024, "

static const ModelShape shapes[] = {
    {"dense64",
     "{'model_type': 'llama', 'hidden_size': 512, 'head_dim': 64,"
     " 'intermediate_size': 1408, 'tie_word_embeddings': true, " SIZES "'rope_theta': 10000}"},
    {"dense128",
     "{'model_type': 'qwen3', 'hidden_size': 768, 'head_dim': 128,"
     " 'intermediate_size': 1024, " SIZES "'rope_theta': 10000}"},
    {"dense1024",
     "{'model_type': 'llama', 'hidden_size': 1024, 'head_dim': 64,"
     " 'intermediate_size': 1536, 'tie_word_embeddings': true, " SIZES "'rope_theta': 10000}"},
    {"mixture",
     "{'model_type': 'qwen3_moe', 'hidden_size': 256, 'head_dim': 128, 'num_experts': 16,"
     " 'num_experts_per_tok': 4, 'moe_intermediate_size': 192, 'norm_topk_prob': true,"
     " 'intermediate_size': 512, " SIZES "'rope_theta': 10000}"},
    {"windowed",
     "{'model_type': 'gemma3_text', 'hidden_size': 512, 'head_dim': 256,"
     " 'intermediate_size': 1024, 'sliding_window': 64, 'query_pre_attn_scalar': 256,"
     " 'rope_local_base_freq': 10000, " SIZES "'rope_theta': 1000000}"}};

static inline void open_shape(GoldenModel *m, const ModelShape *shape, int32_t level) {
    Err err = {0};
    ModelFile *file = NULL;
    const bool gpu = level == GOLDEN_CUDA;
    memset(m, 0, sizeof *m);
    ASSERT_OK(plugin_open(gpu ? "cuda" : NULL, NULL, &m->ops, &m->ctx.device, &err), err);
    ASSERT_OK(pool_open(&m->pool, 2, &err), err);
    m->ctx.pool = m->pool;
    ASSERT_OK(model_shape_open(&file, shape, DTYPE_BF16, m->pool, &err), err);
    ModelOptions options = {.ops = m->ops, .ctx = &m->ctx, .quiet = true};
    ASSERT_OK(model_open(&m->model, file, &options, &err), err);
}
