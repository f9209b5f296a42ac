/* config.json of a Hugging Face directory, as transformers 4 and 5 write it. */
#include <math.h>

#include "model/config_priv.h"

/* An integer field that has to be there, unless *out holds the family's default. */
static Status config_hf_int(const json_t *json, const char *key, int64_t max, int32_t *out,
                            Err *err) {
    int64_t value = *out;
    TRY(json_get_int(json, key, 1, max, &value, err));
    if (value == 0) FAIL(err, ERR_FORMAT, "config.json: '%s' is missing", key);
    *out = (int32_t)value;
    return OK;
}

/* One that keeps the value it has when the field is absent, null or has no name here. */
static Status config_hf_int_or(const json_t *json, const char *key, int64_t min, int64_t max,
                               int32_t *out, Err *err) {
    if (key == NULL) return OK;
    int64_t value = *out;
    TRY(json_get_int(json, key, min, max, &value, err));
    *out = (int32_t)value;
    return OK;
}

static Status config_hf_dims(ModelConfig *c, const json_t *json, const Arch *arch, Err *err) {
    const ArchKeys *keys = arch->keys;
    c->n_heads = arch->n_heads;
    c->vocab = arch->vocab;
    TRY(config_hf_int(json, keys->dim, CONFIG_DIM_MAX, &c->dim, err));
    TRY(config_hf_int(json, keys->n_layers, MODEL_LAYERS_MAX, &c->n_layers, err));
    TRY(config_hf_int(json, keys->n_heads, CONFIG_HEADS_MAX, &c->n_heads, err));
    TRY(config_hf_int(json, "vocab_size", CONFIG_VOCAB_MAX, &c->vocab, err));
    c->n_kv_heads = arch->n_kv_heads > 0 ? arch->n_kv_heads : c->n_heads;
    TRY(config_hf_int_or(json, keys->n_kv_heads, 1, CONFIG_HEADS_MAX, &c->n_kv_heads, err));
    c->context = arch->context;
    TRY(config_hf_int_or(json, keys->context, 1, CONFIG_CONTEXT_MAX, &c->context, err));
    c->ff_dim = arch->all_bias ? 4 * c->dim : 0; /* GPT-2's n_inner may be null */
    TRY(config_hf_int_or(json, keys->ff_dim, 1, CONFIG_FF_MAX, &c->ff_dim, err));
    if (c->ff_dim == 0) FAIL(err, ERR_FORMAT, "config.json: '%s' is missing", keys->ff_dim);
    c->head_dim = arch->head_dim;
    TRY(config_hf_int_or(json, "head_dim", 1, CONFIG_HEAD_DIM_MAX, &c->head_dim, err));
    if (c->head_dim > 0) return OK;
    if (c->dim % c->n_heads != 0)
        FAIL(err, ERR_FORMAT, "config.json: '%s' %d does not divide into %d heads", keys->dim,
             c->dim, c->n_heads);
    c->head_dim = c->dim / c->n_heads;
    if (c->head_dim > CONFIG_HEAD_DIM_MAX)
        FAIL(err, ERR_FORMAT, "config.json: a head has %d elements, wanted at most %d", c->head_dim,
             CONFIG_HEAD_DIM_MAX);
    return OK;
}

static Status config_hf_act(ModelConfig *c, const json_t *json, const Arch *arch, Err *err) {
    static const struct {
        const char *name;
        ActKind kind;
    } acts[] = {{"silu", ACT_SILU},
                {"swish", ACT_SILU},
                {"gelu", ACT_GELU},
                {"gelu_new", ACT_GELU_TANH},
                {"gelu_fast", ACT_GELU_TANH},
                {"gelu_pytorch_tanh", ACT_GELU_TANH},
                {"relu", ACT_RELU}};
    Str name = {NULL, 0};
    TRY(json_get_str(json, arch->keys->act, &name, err));
    /* Gemma's files carry a stale hidden_act beside hidden_activation; it is never read. */
    if (name.len == 0) return OK;
    for (size_t i = 0; i < ARRAY_LEN(acts); i++) {
        if (!str_is(name, acts[i].name)) continue;
        c->act = acts[i].kind;
        return OK;
    }
    FAIL(err, ERR_UNSUPPORTED, "config.json: the activation '%.*s' is not supported",
         STR_ARG(name));
}

static Status config_hf_token_id(ModelConfig *c, const json_t *id, const char *what, Err *err) {
    if (!json_is_integer(id) || json_integer_value(id) < -1 || json_integer_value(id) >= c->vocab)
        FAIL(err, ERR_FORMAT, "%s: an eos_token_id is not a token of the vocabulary (%d)", what,
             c->vocab);
    if (json_integer_value(id) < 0) return OK; /* some files write -1 for none */
    if (c->n_eos == MODEL_EOS_MAX)
        FAIL(err, ERR_LIMIT, "%s: more than %d eos_token_id", what, MODEL_EOS_MAX);
    c->eos_id[c->n_eos++] = (int32_t)json_integer_value(id);
    return OK;
}

Status config_hf_token_ids(ModelConfig *c, const json_t *json, const char *what, Err *err) {
    int64_t bos = c->bos_id;
    if (json_is_integer(json_object_get(json, "bos_token_id")))
        TRY(json_get_int(json, "bos_token_id", -1, c->vocab - 1, &bos, err));
    c->bos_id = (int32_t)bos;
    const json_t *eos = json_object_get(json, "eos_token_id");
    if (eos == NULL || json_is_null(eos)) return OK;
    c->n_eos = 0;
    if (!json_is_array(eos)) return config_hf_token_id(c, eos, what, err);
    for (size_t i = 0; i < json_array_size(eos); i++)
        TRY(config_hf_token_id(c, json_array_get(eos, i), what, err));
    return OK;
}

/* layer_types, when given, wins over the family's rule. */
static Status config_hf_layer_types(ModelConfig *c, const json_t *types, Err *err) {
    if (!json_is_array(types) || json_array_size(types) != (size_t)c->n_layers)
        FAIL(err, ERR_FORMAT, "config.json: 'layer_types' is not a list of %d strings",
             c->n_layers);
    for (int32_t i = 0; i < c->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        if (type != NULL && strcmp(type, "full_attention") == 0)
            c->layer_kind[i] = LAYER_FULL;
        else if (type != NULL && strcmp(type, "sliding_attention") == 0)
            c->layer_kind[i] = LAYER_WINDOW;
        else
            FAIL(err, ERR_UNSUPPORTED,
                 "config.json: layer %d has the type '%.60s'; known are "
                 "full_attention and sliding_attention",
                 i, type != NULL ? type : "(no string)");
    }
    return OK;
}

static Status config_hf_window(ModelConfig *c, const json_t *json, const Arch *arch, Err *err) {
    const json_t *given = json_object_get(json, "sliding_window");
    c->window = given == NULL ? arch->window : 0; /* null: none */
    TRY(config_hf_int_or(json, "sliding_window", 1, CONFIG_CONTEXT_MAX, &c->window, err));
    ArchWindow rule = arch->window_rule;
    int32_t top = 28, pattern = arch->window_pattern;
    TRY(config_hf_int_or(json, "max_window_layers", 0, INT32_MAX, &top, err));
    TRY(config_hf_int_or(json, "sliding_window_pattern", 1, MODEL_LAYERS_MAX, &pattern, err));
    if (rule == ARCH_WINDOW_SWITCH_ALL || rule == ARCH_WINDOW_SWITCH_TOP) {
        bool use = false;
        TRY(json_get_bool(json, "use_sliding_window", &use, err));
        if (!use) c->window = 0;
    }
    if (rule == ARCH_WINDOW_NONE) c->window = 0;
    if (c->window == 0) return OK;
    const json_t *types = json_object_get(json, "layer_types");
    bool typed = rule == ARCH_WINDOW_PATTERN || rule == ARCH_WINDOW_SWITCH_TOP;
    if (typed && types != NULL && !json_is_null(types)) return config_hf_layer_types(c, types, err);
    for (int32_t i = 0; i < c->n_layers; i++) {
        bool full = (rule == ARCH_WINDOW_PATTERN && (i + 1) % pattern == 0) ||
                    (rule == ARCH_WINDOW_SWITCH_TOP && i < top);
        c->layer_kind[i] = full ? LAYER_FULL : LAYER_WINDOW;
    }
    return OK;
}

static Status config_hf_experts(ModelConfig *c, const json_t *json, const Arch *arch, Err *err) {
    if (!arch->moe) return OK;
    int32_t step = 1;
    TRY(config_hf_int_or(json, "num_experts", 0, CONFIG_EXPERTS_MAX, &c->n_experts, err));
    TRY(config_hf_int_or(json, "num_local_experts", 0, CONFIG_EXPERTS_MAX, &c->n_experts, err));
    if (c->n_experts == 0)
        FAIL(err, ERR_FORMAT, "config.json: 'num_experts' (or 'num_local_experts') is missing");
    TRY(config_hf_int(json, "num_experts_per_tok", CONFIG_EXPERTS_MAX, &c->n_experts_used, err));
    c->expert_ff_dim = c->ff_dim;
    TRY(config_hf_int_or(json, "moe_intermediate_size", 1, CONFIG_FF_MAX, &c->expert_ff_dim, err));
    c->moe_normalize = arch->moe_normalize;
    TRY(json_get_bool(json, "norm_topk_prob", &c->moe_normalize, err));
    TRY(config_hf_int_or(json, "decoder_sparse_step", 1, MODEL_LAYERS_MAX, &step, err));
    for (int32_t i = 0; i < c->n_layers; i++) c->layer_moe[i] = (i + 1) % step == 0;
    const json_t *dense = json_object_get(json, "mlp_only_layers");
    if (dense == NULL || json_is_null(dense)) return OK;
    if (!json_is_array(dense))
        FAIL(err, ERR_FORMAT, "config.json: 'mlp_only_layers' is not a list");
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *layer = json_array_get(dense, i);
        if (!json_is_integer(layer) || json_integer_value(layer) < 0 ||
            json_integer_value(layer) >= c->n_layers)
            FAIL(err, ERR_FORMAT,
                 "config.json: 'mlp_only_layers' names a layer that is not one "
                 "of %d",
                 c->n_layers);
        c->layer_moe[json_integer_value(layer)] = 0;
    }
    return OK;
}

/* A soft cap: absent takes the family's value, null is none. */
static Status config_hf_softcap(const json_t *json, const char *key, double fallback, float *out,
                                Err *err) {
    double cap = json_object_get(json, key) == NULL ? fallback : 0;
    TRY(json_get_number(json, key, 0, 1e6, &cap, err));
    *out = (float)cap;
    return OK;
}

static Status config_hf_variants(ModelConfig *c, const json_t *json, const Arch *arch, Err *err) {
    c->norm_plus_one = arch->norm_plus_one;
    if (arch->attn_bias_key) {
        TRY(json_get_bool(json, "attention_bias", &c->qkv_bias, err));
        c->out_bias = c->qkv_bias;
    }
    if (arch->ffn_bias_key) TRY(json_get_bool(json, "mlp_bias", &c->ffn_bias, err));
    double eps = arch->norm_eps, scalar = c->head_dim;
    TRY(json_get_number(json, arch->keys->norm_eps, 0, 1, &eps, err));
    c->norm_eps = (float)eps;
    if (arch->embed_scaled) c->embed_scale = sqrtf((float)c->dim);
    if (arch->attn_scalar) {
        scalar = arch->attn_scalar_default;
        TRY(json_get_number(json, "query_pre_attn_scalar", 1e-3, 1e6, &scalar, err));
    }
    c->attn_scale = (float)(1 / sqrt(scalar));
    TRY(config_hf_softcap(json, "attn_logit_softcapping", arch->attn_softcap, &c->attn_softcap,
                          err));
    TRY(config_hf_softcap(json, "final_logit_softcapping", arch->logit_softcap, &c->logit_softcap,
                          err));
    bool by_layer = false, bidirectional = false;
    TRY(json_get_bool(json, "scale_attn_by_inverse_layer_idx", &by_layer, err));
    TRY(json_get_bool(json, "use_bidirectional_attention", &bidirectional, err));
    if (by_layer || bidirectional)
        FAIL(err, ERR_UNSUPPORTED, "config.json: '%s' is not supported",
             by_layer ? "scale_attn_by_inverse_layer_idx" : "use_bidirectional_attention");
    return OK;
}

/* The family, and the object with the text model's keys. */
static Status config_hf_family(const json_t *json, const Arch **arch, const json_t **text,
                               Err *err) {
    if (!json_is_object(json)) FAIL(err, ERR_FORMAT, "config.json: not an object");
    char known[256];
    Str type = {NULL, 0};
    TRY(json_get_str(json, "model_type", &type, err));
    if (type.len == 0) FAIL(err, ERR_FORMAT, "config.json: 'model_type' is missing");
    *text = json;
    *arch = arch_find(type);
    if (*arch == NULL && (*arch = arch_find_wrapper(type)) != NULL) {
        *text = json_object_get(json, "text_config");
        if (!json_is_object(*text))
            FAIL(err, ERR_FORMAT, "config.json: model_type %.*s wants an object 'text_config'",
                 STR_ARG(type));
    }
    if (*arch == NULL)
        FAIL(err, ERR_UNSUPPORTED, "config.json: the model_type '%.*s' is not known; known are %s",
             (int)MIN(type.len, (size_t)64), type.ptr, arch_list(known, sizeof known));
    if (json_is_object(json_object_get(json, "quantization_config")))
        FAIL(err, ERR_UNSUPPORTED,
             "config.json: quantized checkpoints (quantization_config) are "
             "not supported; use the float model or a GGUF file");
    return OK;
}

Status config_hf_read(ModelConfig *c, const json_t *json, Err *err) {
    const Arch *arch;
    const json_t *text;
    TRY(config_hf_family(json, &arch, &text, err));
    config_set_arch(c, arch);
    TRY(config_hf_dims(c, text, arch, err));
    TRY(config_hf_act(c, text, arch, err));
    TRY(config_hf_variants(c, text, arch, err));
    TRY(config_hf_window(c, text, arch, err));
    TRY(config_hf_experts(c, text, arch, err));
    TRY(config_rope_read(c, text, arch, err));
    c->tied_embeddings = arch->tied;
    TRY(json_get_bool(text, "tie_word_embeddings", &c->tied_embeddings, err));
    TRY(json_get_bool(json, "tie_word_embeddings", &c->tied_embeddings, err));
    TRY(config_hf_token_ids(c, text, "config.json", err));
    return text == json ? OK : config_hf_token_ids(c, json, "config.json", err);
}
