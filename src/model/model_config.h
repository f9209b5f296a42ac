/* model_config: a model's dimensions and variant switches, whatever file they came from.
 *
 * Variants are data: every family runs through the same forward pass, told apart by these
 * fields. */
#pragma once

#include "format/model_file.h"
#include "ops/ops.h"

enum { MODEL_LAYERS_MAX = 512, MODEL_EOS_MAX = 16, MODEL_KV_GROUPS_MAX = 2 };

typedef enum RopeScaling {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR,
    ROPE_SCALING_YARN,
    ROPE_SCALING_LLAMA3,
    ROPE_SCALING_LONGROPE,
    ROPE_SCALING_FACTORS /* a divisor per dimension, in long_factor (GGUF's rope_freqs) */
} RopeScaling;

typedef struct RopeConfig {
    RopeStyle style;
    int32_t dim; /* elements of a head that rotate */
    double theta;
    RopeScaling scaling;
    double factor;
    int32_t original_context;
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    double attn_factor;                       /* yarn, longrope; 0: from the factor */
    double mscale, mscale_all_dim;            /* yarn (DeepSeek); 0: not given */
    bool truncate;                            /* yarn: round the ramp's ends */
    double *long_factor, *short_factor;       /* longrope [dim/2], owned by the config */
} RopeConfig;

typedef enum LayerKind { LAYER_FULL, LAYER_WINDOW } LayerKind;

typedef struct ModelConfig {
    char arch[32]; /* "llama", "qwen3_moe", ... */
    int32_t n_layers, dim, n_heads, n_kv_heads, head_dim, ff_dim, vocab, context;

    NormKind norm;
    float norm_eps;
    bool norm_plus_one; /* file holds w - 1 (Gemma in HF form); folded in when bound */
    bool qk_norm;       /* RMS-norm of each q and k head */
    bool post_norms;    /* Gemma 2, 3: norms after attention and after the FFN too */
    bool qkv_bias, out_bias, ffn_bias;
    bool ffn_gated; /* act(gate) * up; else act(up) */
    ActKind act;
    bool learned_pos; /* GPT-2 */
    bool tied_embeddings;
    float embed_scale;                 /* 1, or sqrt(dim) for Gemma */
    float attn_scale;                  /* usually 1 / sqrt(head_dim) */
    float attn_softcap, logit_softcap; /* 0: none */

    int32_t window;                       /* of the windowed layers; 0: none */
    uint8_t layer_kind[MODEL_LAYERS_MAX]; /* LayerKind */
    RopeConfig rope;                      /* of full layers (and of all, where there is one) */
    RopeConfig rope_local;                /* of windowed layers (Gemma 3); style NONE: as rope */

    int32_t n_experts, n_experts_used, expert_ff_dim; /* 0: dense */
    bool moe_normalize;
    uint8_t layer_moe[MODEL_LAYERS_MAX]; /* this layer's FFN is a mixture */

    int32_t bos_id; /* -1: none */
    int32_t n_eos;
    int32_t eos_id[MODEL_EOS_MAX]; /* any of these ends a generation */
    DType weight_dtype;            /* of most weight bytes; for reports and KV's default */
} ModelConfig;

/* Reads and checks the configuration of a model file: every value has a type and a range, and the
 * values fit each other. On failure *out is freed and zeroed. */
MUST_USE Status model_config_read(ModelConfig *out, const ModelFile *file, Err *err);
/* The same from the object of a config.json alone. */
MUST_USE Status model_config_from_json(ModelConfig *out, const json_t *json, Err *err);
/* Frees what the config owns; a zeroed one is fine. */
void model_config_free(ModelConfig *config);
