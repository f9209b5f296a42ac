/* GPT-2: learned positions, LayerNorm, biases everywhere, matrices stored [in, out]. */
#include "model/arch.h"

static const ArchKeys arch_gpt2_keys = {.dim = "n_embd",
                                        .n_layers = "n_layer",
                                        .n_heads = "n_head",
                                        .ff_dim = "n_inner",
                                        .context = "n_positions",
                                        .act = "activation_function",
                                        .norm_eps = "layer_norm_epsilon"};

static const ArchNames arch_gpt2_names = {
    [ARCH_EMBED] = "wte.weight",          [ARCH_POS_EMBED] = "wpe.weight",
    [ARCH_OUT_NORM] = "ln_f.weight",      [ARCH_OUTPUT] = "lm_head.weight",
    [ARCH_ATTN_NORM] = "h.#.ln_1.weight", [ARCH_QKV] = "h.#.attn.c_attn.weight",
    [ARCH_O] = "h.#.attn.c_proj.weight",  [ARCH_FFN_NORM] = "h.#.ln_2.weight",
    [ARCH_UP] = "h.#.mlp.c_fc.weight",    [ARCH_DOWN] = "h.#.mlp.c_proj.weight",
};

static const char *const arch_gpt2_prefixes[] = {"transformer.", "", NULL};

const Arch ARCH_GPT2 = {
    .name = "gpt2",
    .gguf = "gpt2",
    .keys = &arch_gpt2_keys,
    .hf_names = &arch_gpt2_names,
    .hf_prefixes = arch_gpt2_prefixes,
    .norm = NORM_LAYER,
    .act = ACT_GELU_TANH,
    .norm_eps = 1e-5,
    .theta = 10000,
    .context = 1024,
    .gguf_rope = ROPE_NONE,
    .tied = true,
    .learned_pos = true,
    .qkv_bias = true,
    .all_bias = true,
    .ffn_plain = true,
    .transposed = true,
};
