/* Mistral and Mixtral. In GGUF both call themselves llama. */
#include "model/arch.h"
#include "model/arch_names.h"

static const ArchNames arch_mistral_names = {ARCH_NAMES_OUTER, ARCH_NAMES_QKV, ARCH_NAMES_FFN_NORM,
                                             ARCH_NAMES_FFN};

const Arch ARCH_MISTRAL = {
    .name = "mistral",
    .gguf = "llama",
    .keys = &ARCH_COMMON_KEYS,
    .hf_names = &arch_mistral_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_SILU,
    .norm_eps = 1e-6,
    .theta = 10000,
    .n_kv_heads = 8,
    .context = 131072,
    .window = 4096,
    .window_rule = ARCH_WINDOW_ALL,
    .gguf_rope = ROPE_INTERLEAVED,
};

/* The first alternatives are the published files', the second those of transformers 5. */
static const ArchNames arch_mixtral_names = {
    ARCH_NAMES_OUTER,
    ARCH_NAMES_QKV,
    ARCH_NAMES_FFN_NORM,
    [ARCH_ROUTER] = "layers.#.block_sparse_moe.gate.weight|layers.#.mlp.gate.weight",
    [ARCH_EXPERT_GATE] = "layers.#.block_sparse_moe.experts.@.w1.weight",
    [ARCH_EXPERT_UP] = "layers.#.block_sparse_moe.experts.@.w3.weight",
    [ARCH_EXPERT_DOWN] = "layers.#.block_sparse_moe.experts.@.w2.weight",
    [ARCH_EXPERTS_GATE_UP] = "layers.#.mlp.experts.gate_up_proj",
    [ARCH_EXPERTS_DOWN] = "layers.#.mlp.experts.down_proj",
};

const Arch ARCH_MIXTRAL = {
    .name = "mixtral",
    .gguf = "llama",
    .keys = &ARCH_COMMON_KEYS,
    .hf_names = &arch_mixtral_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_SILU,
    .norm_eps = 1e-5,
    .theta = 1e6,
    .n_kv_heads = 8,
    .context = 131072,
    .window_rule = ARCH_WINDOW_ALL,
    .gguf_rope = ROPE_INTERLEAVED,
    .moe = true,
    .moe_normalize = true,
    .gguf_moe_normalize = true,
};
