/* Gemma 2 and the text part of Gemma 3: norms around each block (stored as w - 1 by Hugging Face,
 * as w in GGUF), scaled embeddings, windowed and full layers in turns. */
#include "model/arch.h"
#include "model/arch_names.h"

#define ARCH_GEMMA_NORMS                                                \
    [ARCH_POST_ATTN_NORM] = "layers.#.post_attention_layernorm.weight", \
    [ARCH_FFN_NORM] = "layers.#.pre_feedforward_layernorm.weight",      \
    [ARCH_POST_FFN_NORM] = "layers.#.post_feedforward_layernorm.weight"

static const ArchKeys arch_gemma_keys = {.dim = "hidden_size",
                                         .n_layers = "num_hidden_layers",
                                         .n_heads = "num_attention_heads",
                                         .n_kv_heads = "num_key_value_heads",
                                         .ff_dim = "intermediate_size",
                                         .context = "max_position_embeddings",
                                         .act = "hidden_activation",
                                         .norm_eps = "rms_norm_eps"};

static const ArchNames arch_gemma2_names = {ARCH_NAMES_OUTER, ARCH_NAMES_QKV, ARCH_NAMES_FFN,
                                            ARCH_GEMMA_NORMS};

const Arch ARCH_GEMMA2 = {
    .name = "gemma2",
    .gguf = "gemma2",
    .keys = &arch_gemma_keys,
    .hf_names = &arch_gemma2_names,
    .hf_prefixes = ARCH_COMMON_PREFIXES,
    .norm = NORM_RMS,
    .act = ACT_GELU_TANH,
    .norm_eps = 1e-6,
    .theta = 10000,
    .head_dim = 256,
    .n_heads = 8,
    .vocab = 256000,
    .n_kv_heads = 4,
    .context = 8192,
    .window = 4096,
    .window_pattern = 2,
    .window_rule = ARCH_WINDOW_PATTERN,
    .gguf_rope = ROPE_NEOX,
    .tied = true,
    .norm_plus_one = true,
    .post_norms = true,
    .embed_scaled = true,
    .attn_scalar = true,
    .attn_scalar_default = 256,
    .attn_softcap = 50,
    .logit_softcap = 30,
    .attn_bias_key = true,
    .gguf_wide_layers = 46,
};

static const ArchNames arch_gemma3_names = {ARCH_NAMES_OUTER, ARCH_NAMES_QKV, ARCH_NAMES_QK_NORM,
                                            ARCH_NAMES_FFN, ARCH_GEMMA_NORMS};

static const char *const arch_gemma3_prefixes[] = {"model.", "", "language_model.model.",
                                                   "model.language_model.", NULL};

const Arch ARCH_GEMMA3 = {
    .name = "gemma3_text",
    .wrapper = "gemma3",
    .gguf = "gemma3",
    .keys = &arch_gemma_keys,
    .hf_names = &arch_gemma3_names,
    .hf_prefixes = arch_gemma3_prefixes,
    .norm = NORM_RMS,
    .act = ACT_GELU_TANH,
    .norm_eps = 1e-6,
    .theta = 1e6,
    .theta_local = 10000,
    .head_dim = 256,
    .n_heads = 8, /* published configs leave out what equals the defaults */
    .vocab = 262208,
    .n_kv_heads = 4,
    .context = 131072,
    .window = 4096,
    .window_pattern = 6,
    .window_rule = ARCH_WINDOW_PATTERN,
    .gguf_rope = ROPE_NEOX,
    .tied = true,
    .norm_plus_one = true,
    .qk_norm = true,
    .post_norms = true,
    .embed_scaled = true,
    .attn_scalar = true,
    .attn_scalar_default = 256,
    .attn_bias_key = true,
    .gguf_wide_layers = 62,
};
