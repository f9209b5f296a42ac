/* arch_names: the tensor names that most Hugging Face families share, for their tables. */
#pragma once

#define ARCH_NAMES_OUTER                                                                    \
    [ARCH_EMBED] = "embed_tokens.weight", [ARCH_OUT_NORM] = "norm.weight",                  \
    [ARCH_OUTPUT] = "lm_head.weight", [ARCH_ATTN_NORM] = "layers.#.input_layernorm.weight", \
    [ARCH_O] = "layers.#.self_attn.o_proj.weight"

#define ARCH_NAMES_QKV                                                                            \
    [ARCH_Q] = "layers.#.self_attn.q_proj.weight", [ARCH_K] = "layers.#.self_attn.k_proj.weight", \
    [ARCH_V] = "layers.#.self_attn.v_proj.weight"

#define ARCH_NAMES_QK_NORM                                              \
    [ARCH_Q_NORM] = "layers.#.self_attn.q_norm.weight", [ARCH_K_NORM] = \
                                                            "layers.#.self_attn.k_norm.weight"

#define ARCH_NAMES_FFN_NORM [ARCH_FFN_NORM] = "layers.#.post_attention_layernorm.weight"

#define ARCH_NAMES_FFN                                                                        \
    [ARCH_GATE] = "layers.#.mlp.gate_proj.weight", [ARCH_UP] = "layers.#.mlp.up_proj.weight", \
    [ARCH_DOWN] = "layers.#.mlp.down_proj.weight"
