#include "model/arch.h"
#include "model/arch_names.h"

const ArchKeys ARCH_COMMON_KEYS = {.dim = "hidden_size",
                                   .n_layers = "num_hidden_layers",
                                   .n_heads = "num_attention_heads",
                                   .n_kv_heads = "num_key_value_heads",
                                   .ff_dim = "intermediate_size",
                                   .context = "max_position_embeddings",
                                   .act = "hidden_act",
                                   .norm_eps = "rms_norm_eps"};

const char *const ARCH_COMMON_PREFIXES[] = {"model.", "", NULL};

static const ArchNames arch_llama_names = {ARCH_NAMES_OUTER, ARCH_NAMES_QKV, ARCH_NAMES_FFN_NORM,
                                           ARCH_NAMES_FFN};

const Arch ARCH_LLAMA = {
    .name = "llama",
    .gguf = "llama",
    .keys = &ARCH_COMMON_KEYS,
    .hf_names = &arch_llama_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_SILU,
    .norm_eps = 1e-6,
    .theta = 10000,
    .context = 2048,
    .gguf_rope = ROPE_INTERLEAVED,
    .attn_bias_key = true,
    .ffn_bias_key = true,
};
