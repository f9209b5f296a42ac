/* arch: what tells the model families apart, as tables: names, defaults and switches.
 *
 * No family computes anything of its own: a table says how to read its configuration and what its
 * tensors are called, ModelConfig carries the outcome, and one forward pass serves all. */
#pragma once

#include "model/model_config.h"

/* The parts of a model, by the role they play. Those from ARCH_ATTN_NORM on exist per layer, those
 * from ARCH_EXPERT_GATE to ARCH_EXPERT_DOWN per expert too. */
typedef enum ArchTensor {
    ARCH_EMBED,
    ARCH_POS_EMBED,
    ARCH_OUT_NORM,
    ARCH_OUTPUT,
    ARCH_ATTN_NORM,
    ARCH_Q,
    ARCH_K,
    ARCH_V,
    ARCH_QKV, /* the three above, row after row */
    ARCH_O,
    ARCH_Q_NORM,
    ARCH_K_NORM,
    ARCH_POST_ATTN_NORM,
    ARCH_FFN_NORM,
    ARCH_POST_FFN_NORM,
    ARCH_GATE,
    ARCH_UP,
    ARCH_GATE_UP, /* the two above, row after row */
    ARCH_DOWN,
    ARCH_ROUTER,
    ARCH_EXPERTS_GATE, /* [n_experts, ff, dim] */
    ARCH_EXPERTS_UP,
    ARCH_EXPERTS_GATE_UP, /* [n_experts, 2 * ff, dim] */
    ARCH_EXPERTS_DOWN,    /* [n_experts, dim, ff] */
    ARCH_EXPERT_GATE,
    ARCH_EXPERT_UP,
    ARCH_EXPERT_DOWN,
    ARCH_TENSOR_COUNT
} ArchTensor;

/* Names by role, NULL where the family has no such tensor. '#' stands for the layer and '@' for the
 * expert; alternatives are separated by '|'. A bias has the name of its weight with ".bias" for
 * ".weight". */
typedef const char *ArchNames[ARCH_TENSOR_COUNT];

/* Which layers see a window, where config.json has no layer_types. */
typedef enum ArchWindow {
    ARCH_WINDOW_NONE,
    ARCH_WINDOW_ALL,        /* all, when sliding_window is set */
    ARCH_WINDOW_SWITCH_ALL, /* all, when use_sliding_window */
    ARCH_WINDOW_SWITCH_TOP, /* from layer max_window_layers on, when use_sliding_window */
    ARCH_WINDOW_PATTERN     /* all but each sliding_window_pattern-th */
} ArchWindow;

/* Keys of config.json that not all families spell alike. */
typedef struct ArchKeys {
    const char *dim, *n_layers, *n_heads, *n_kv_heads, *ff_dim, *context, *act, *norm_eps;
} ArchKeys;

typedef struct Arch {
    const char *name;    /* model_type of config.json, and ModelConfig.arch */
    const char *wrapper; /* model_type whose text_config is this family, or NULL */
    const char *gguf;    /* general.architecture */
    const ArchKeys *keys;
    const ArchNames *hf_names;
    const char *const *hf_prefixes; /* that may stand before every name; NULL at the end */

    NormKind norm;
    ActKind act;                         /* when the config names none */
    double norm_eps, theta, theta_local; /* defaults; theta_local 0: windowed layers rotate alike */
    int32_t head_dim;                    /* default, 0: dim / n_heads */
    int32_t n_heads, vocab;              /* defaults, 0: the config must say */
    int32_t n_kv_heads;                  /* default, 0: n_heads */
    int32_t context;                     /* default */
    int32_t window;                      /* default of sliding_window, 0: none */
    int32_t window_pattern;              /* default */
    ArchWindow window_rule;
    RopeStyle gguf_rope; /* how GGUF's rows of q and k are ordered */
    bool tied;           /* default of tie_word_embeddings */
    bool norm_plus_one;  /* in HF files */
    bool qk_norm, post_norms, embed_scaled, learned_pos;
    bool attn_scalar; /* query_pre_attn_scalar sets the scale */
    double attn_scalar_default;
    double attn_softcap, logit_softcap; /* defaults; absent keys take them, null is none */
    bool qkv_bias;                      /* always, whatever the config says */
    bool attn_bias_key, ffn_bias_key;   /* attention_bias, mlp_bias are read */
    bool all_bias;                      /* every linear and norm has one (GPT-2) */
    bool ffn_plain;                     /* act(up) without a gate */
    bool transposed;                    /* HF files hold [in, out] (Conv1D) */
    bool moe;
    bool moe_normalize;       /* default of norm_topk_prob */
    bool gguf_moe_normalize;  /* default of expert_weights_norm */
    int32_t gguf_wide_layers; /* the size (by layers) whose scale is 1/sqrt(dim / n_heads) */
} Arch;

/* The family by HF model_type, by its wrapper's or by GGUF architecture; NULL: not known. */
const Arch *arch_find(Str name);
const Arch *arch_find_wrapper(Str name);
const Arch *arch_find_gguf(Str name, bool moe);
/* "llama, mistral, ..." for error sentences. */
const char *arch_list(char *buf, size_t bytes);

/* The names of a GGUF file, the same for all families. */
extern const ArchNames ARCH_GGUF_NAMES;

enum { ARCH_NAME_BYTES = 128 };
/* prefix + alternative `index` of the pattern with layer and expert filled in. False when there is
 * no such alternative, or it is too long. */
bool arch_tensor_name(char buf[ARCH_NAME_BYTES], const char *prefix, const char *pattern,
                      int32_t index, int32_t layer, int32_t expert);

/* The families, one table per file. */
extern const Arch ARCH_LLAMA, ARCH_MISTRAL, ARCH_MIXTRAL, ARCH_QWEN2, ARCH_QWEN3, ARCH_QWEN3_MOE,
    ARCH_GEMMA2, ARCH_GEMMA3, ARCH_PHI3, ARCH_GPT2;
/* Shared by most of them. */
extern const ArchKeys ARCH_COMMON_KEYS;
extern const char *const ARCH_COMMON_PREFIXES[];
