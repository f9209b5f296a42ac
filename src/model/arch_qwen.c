/* Qwen2 (biases on q, k and v, which no key tells), Qwen3 (norms on q and k) and its mixture. */
#include "model/arch.h"
#include "model/arch_names.h"

static const ArchNames arch_qwen2_names = {ARCH_NAMES_OUTER, ARCH_NAMES_QKV, ARCH_NAMES_FFN_NORM,
                                           ARCH_NAMES_FFN};

const Arch ARCH_QWEN2 = {
    .name = "qwen2",
    .gguf = "qwen2",
    .keys = &ARCH_COMMON_KEYS,
    .hf_names = &arch_qwen2_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_SILU,
    .norm_eps = 1e-6,
    .theta = 10000,
    .context = 32768,
    .window = 4096,
    .window_rule = ARCH_WINDOW_SWITCH_TOP,
    .gguf_rope = ROPE_NEOX,
    .qkv_bias = true,
};

static const ArchNames arch_qwen3_names = {ARCH_NAMES_OUTER, ARCH_NAMES_QKV, ARCH_NAMES_QK_NORM,
                                           ARCH_NAMES_FFN_NORM, ARCH_NAMES_FFN};

const Arch ARCH_QWEN3 = {
    .name = "qwen3",
    .gguf = "qwen3",
    .keys = &ARCH_COMMON_KEYS,
    .hf_names = &arch_qwen3_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_SILU,
    .norm_eps = 1e-6,
    .theta = 10000,
    .head_dim = 128,
    .context = 32768,
    .window = 4096,
    .window_rule = ARCH_WINDOW_SWITCH_TOP,
    .gguf_rope = ROPE_NEOX,
    .qk_norm = true,
    .attn_bias_key = true,
};

static const ArchNames arch_qwen3_moe_names = {
    ARCH_NAMES_OUTER,
    ARCH_NAMES_QKV,
    ARCH_NAMES_QK_NORM,
    ARCH_NAMES_FFN_NORM,
    ARCH_NAMES_FFN,
    [ARCH_ROUTER] = "layers.#.mlp.gate.weight",
    [ARCH_EXPERT_GATE] = "layers.#.mlp.experts.@.gate_proj.weight",
    [ARCH_EXPERT_UP] = "layers.#.mlp.experts.@.up_proj.weight",
    [ARCH_EXPERT_DOWN] = "layers.#.mlp.experts.@.down_proj.weight",
    [ARCH_EXPERTS_GATE_UP] = "layers.#.mlp.experts.gate_up_proj",
    [ARCH_EXPERTS_DOWN] = "layers.#.mlp.experts.down_proj",
};

const Arch ARCH_QWEN3_MOE = {
    .name = "qwen3_moe",
    .gguf = "qwen3moe",
    .keys = &ARCH_COMMON_KEYS,
    .hf_names = &arch_qwen3_moe_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_SILU,
    .norm_eps = 1e-6,
    .theta = 10000,
    .n_kv_heads = 4,
    .context = 32768,
    .window = 4096,
    .window_rule = ARCH_WINDOW_SWITCH_ALL,
    .gguf_rope = ROPE_NEOX,
    .qk_norm = true,
    .attn_bias_key = true,
    .moe = true,
    .moe_normalize = false,
    .gguf_moe_normalize = true,
};
