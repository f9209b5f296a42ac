/* Phi-3: q, k, v in one matrix and gate, up in another. */
#include "model/arch.h"
#include "model/arch_names.h"

static const ArchNames arch_phi3_names = {
    ARCH_NAMES_OUTER,
    ARCH_NAMES_FFN_NORM,
    [ARCH_QKV] = "layers.#.self_attn.qkv_proj.weight",
    [ARCH_GATE_UP] = "layers.#.mlp.gate_up_proj.weight",
    [ARCH_DOWN] = "layers.#.mlp.down_proj.weight",
};

const Arch ARCH_PHI3 = {
    .name = "phi3",
    .gguf = "phi3",
    .keys = &ARCH_COMMON_KEYS,
    .hf_names = &arch_phi3_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_SILU,
    .norm_eps = 1e-5,
    .theta = 10000,
    .context = 4096,
    .window_rule = ARCH_WINDOW_ALL,
    .gguf_rope = ROPE_NEOX,
};
