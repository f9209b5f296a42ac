/* A GGUF file's metadata: keys of the architecture, values per layer where the format allows it,
 * and the few facts that only its tensors tell. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "model/config_priv.h"

enum { CONFIG_GGUF_KEY_BYTES = 128 };

typedef struct GgufReader {
    const ModelFile *file;
    const Arch *arch;
    Str prefix; /* general.architecture */
    Err *err;
    char key[CONFIG_GGUF_KEY_BYTES];
} GgufReader;

static const char *config_gguf_key(GgufReader *r, const char *name) {
    snprintf(r->key, sizeof r->key, "%.*s.%s", STR_ARG(r->prefix), name);
    return r->key;
}

static bool config_gguf_has(GgufReader *r, const char *name) {
    return model_file_value(r->file, config_gguf_key(r, name)) != NULL;
}

/* An integer, or an array of one per layer that all say the same. Absent keeps *out. */
static Status config_gguf_int(GgufReader *r, const char *name, int64_t max, int32_t *out) {
    const char *key = config_gguf_key(r, name);
    const GgufValue *value = model_file_value(r->file, key);
    if (value == NULL) return OK;
    int64_t x = 0;
    if (value->type != GGUF_ARRAY) {
        TRY(model_file_get_int(r->file, key, 0, max, &x, r->err));
        *out = (int32_t)x;
        return OK;
    }
    if (value->array_type == GGUF_STRING || value->array_type == GGUF_F32 ||
        value->array_type == GGUF_F64 || value->array_len == 0)
        FAIL(r->err, ERR_FORMAT, "gguf: %s is not a list of integers", key);
    x = gguf_array_int(value, 0);
    for (uint64_t i = 1; i < value->array_len; i++)
        if (gguf_array_int(value, i) != x)
            FAIL(r->err, ERR_UNSUPPORTED, "gguf: %s differs between layers; that is not supported",
                 key);
    if (x < 0 || x > max)
        FAIL(r->err, ERR_FORMAT, "gguf: %s is %lld, wanted 0 to %lld", key, (long long)x,
             (long long)max);
    *out = (int32_t)x;
    return OK;
}

static Status config_gguf_need(GgufReader *r, const char *name, int64_t max, int32_t *out) {
    *out = 0;
    TRY(config_gguf_int(r, name, max, out));
    if (*out < 1) FAIL(r->err, ERR_FORMAT, "gguf: %s is missing or 0", config_gguf_key(r, name));
    return OK;
}

/* A number in range; absent keeps *out, whatever it is. */
static Status config_gguf_number(GgufReader *r, const char *name, double min, double max,
                                 double *out) {
    const char *key = config_gguf_key(r, name);
    if (model_file_value(r->file, key) == NULL) return OK;
    TRY(model_file_get_number(r->file, key, out, r->err));
    if (!(*out >= min && *out <= max))
        FAIL(r->err, ERR_FORMAT, "gguf: %s is %g, wanted %g to %g", key, *out, min, max);
    return OK;
}

static Status config_gguf_dims(ModelConfig *c, GgufReader *r) {
    TRY(config_gguf_need(r, "embedding_length", CONFIG_DIM_MAX, &c->dim));
    TRY(config_gguf_need(r, "block_count", MODEL_LAYERS_MAX, &c->n_layers));
    TRY(config_gguf_need(r, "attention.head_count", CONFIG_HEADS_MAX, &c->n_heads));
    c->n_kv_heads = c->n_heads;
    if (config_gguf_has(r, "attention.head_count_kv"))
        TRY(config_gguf_need(r, "attention.head_count_kv", CONFIG_HEADS_MAX, &c->n_kv_heads));
    TRY(config_gguf_need(r, "context_length", CONFIG_CONTEXT_MAX, &c->context));
    TRY(config_gguf_need(r, "feed_forward_length", CONFIG_FF_MAX, &c->ff_dim));
    if (config_gguf_has(r, "attention.key_length")) {
        int32_t value_length = 0;
        TRY(config_gguf_need(r, "attention.key_length", CONFIG_HEAD_DIM_MAX, &c->head_dim));
        TRY(config_gguf_int(r, "attention.value_length", CONFIG_HEAD_DIM_MAX, &value_length));
        if (value_length != 0 && value_length != c->head_dim)
            FAIL(r->err, ERR_UNSUPPORTED,
                 "gguf: keys of %d and values of %d elements per head; "
                 "only equal lengths are supported",
                 c->head_dim, value_length);
    } else if (c->dim % c->n_heads != 0 || c->dim / c->n_heads > CONFIG_HEAD_DIM_MAX) {
        FAIL(r->err, ERR_FORMAT,
             "gguf: embedding_length %d does not divide into %d heads of at "
             "most %d",
             c->dim, c->n_heads, CONFIG_HEAD_DIM_MAX);
    } else {
        c->head_dim = c->dim / c->n_heads;
    }
    Tensor embed;
    if (!model_file_find(r->file, ARCH_GGUF_NAMES[ARCH_EMBED], &embed) || embed.n_dims != 2 ||
        embed.shape[0] < 1 || embed.shape[0] > CONFIG_VOCAB_MAX)
        FAIL(r->err, ERR_FORMAT, "gguf: there is no matrix token_embd.weight of at most %d rows",
             CONFIG_VOCAB_MAX);
    c->vocab = (int32_t)embed.shape[0];
    return OK;
}

static Status config_gguf_window(ModelConfig *c, GgufReader *r) {
    const Arch *arch = r->arch;
    int32_t pattern = arch->window_pattern;
    TRY(config_gguf_int(r, "attention.sliding_window", CONFIG_CONTEXT_MAX, &c->window));
    if (c->window == 0) return OK;
    const GgufValue *flags =
        model_file_value(r->file, config_gguf_key(r, "attention.sliding_window_pattern"));
    bool listed = flags != NULL && flags->type == GGUF_ARRAY;
    if (listed && (flags->array_len != (uint64_t)c->n_layers || flags->array_type == GGUF_STRING ||
                   flags->array_type == GGUF_F32 || flags->array_type == GGUF_F64))
        FAIL(r->err, ERR_FORMAT, "gguf: %s is not a list of %d flags", r->key, c->n_layers);
    if (!listed && pattern > 0)
        TRY(config_gguf_int(r, "attention.sliding_window_pattern", MODEL_LAYERS_MAX, &pattern));
    for (int32_t i = 0; i < c->n_layers; i++) {
        bool full = pattern > 0 && (i + 1) % pattern == 0;
        if (listed) full = gguf_array_int(flags, (uint64_t)i) == 0;
        c->layer_kind[i] = full ? LAYER_FULL : LAYER_WINDOW;
    }
    return OK;
}

static Status config_gguf_experts(ModelConfig *c, GgufReader *r) {
    if (!r->arch->moe) return OK;
    TRY(config_gguf_need(r, "expert_count", CONFIG_EXPERTS_MAX, &c->n_experts));
    TRY(config_gguf_need(r, "expert_used_count", CONFIG_EXPERTS_MAX, &c->n_experts_used));
    c->expert_ff_dim = c->ff_dim;
    TRY(config_gguf_int(r, "expert_feed_forward_length", CONFIG_FF_MAX, &c->expert_ff_dim));
    c->moe_normalize = r->arch->gguf_moe_normalize;
    TRY(model_file_get_bool(r->file, config_gguf_key(r, "expert_weights_norm"), &c->moe_normalize,
                            r->err));
    for (int32_t i = 0; i < c->n_layers; i++) {
        char name[ARCH_NAME_BYTES];
        Tensor router;
        bool named = arch_tensor_name(name, "", ARCH_GGUF_NAMES[ARCH_ROUTER], 0, i, 0);
        c->layer_moe[i] = named && model_file_find(r->file, name, &router);
    }
    return OK;
}

/* A tensor of divisors per rotated pair. */
static Status config_gguf_factors(GgufReader *r, const char *name, int32_t n, double **out) {
    Tensor t;
    if (!model_file_find(r->file, name, &t))
        FAIL(r->err, ERR_FORMAT, "gguf: the tensor %s is missing", name);
    if (t.dtype != DTYPE_F32 || t.n_dims != 1 || t.shape[0] != n)
        FAIL(r->err, ERR_FORMAT, "gguf: the tensor %s does not hold %d f32 numbers", name, n);
    *out = mem_try_alloc((size_t)n, sizeof(double));
    if (*out == NULL) FAIL(r->err, ERR_NOMEM, "gguf: no memory for %s", name);
    for (int32_t i = 0; i < n; i++) {
        float factor;
        memcpy(&factor, (const char *)t.data + (size_t)i * sizeof factor, sizeof factor);
        if (!(factor > 1e-6f && factor < 1e6f))
            FAIL(r->err, ERR_FORMAT, "gguf: element %d of %s is not a number from 1e-6 to 1e6", i,
                 name);
        (*out)[i] = (double)factor;
    }
    return OK;
}

static Status config_gguf_yarn(ModelConfig *c, GgufReader *r) {
    RopeConfig *rope = &c->rope;
    double factor = 1;
    rope->scaling = ROPE_SCALING_YARN;
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = true;
    TRY(config_gguf_number(r, "rope.scaling.yarn_beta_fast", 1e-6, 1e6, &rope->beta_fast));
    TRY(config_gguf_number(r, "rope.scaling.yarn_beta_slow", 1e-6, 1e6, &rope->beta_slow));
    TRY(config_gguf_number(r, "rope.scaling.attn_factor", 1e-6, 1e6, &factor));
    /* The key is a factor on YaRN's own. */
    rope->attn_factor = factor * (rope->factor > 1 ? 0.1 * log(rope->factor) + 1 : 1);
    return OK;
}

static Status config_gguf_rope(ModelConfig *c, GgufReader *r) {
    RopeConfig *rope = &c->rope;
    Tensor t;
    Str type = STR_LIT("none");
    if (c->learned_pos) return OK;
    rope->style = r->arch->gguf_rope;
    rope->dim = c->head_dim;
    rope->theta = r->arch->theta_local > 0 ? r->arch->theta : 10000;
    rope->factor = 1;
    rope->original_context = c->context;
    TRY(config_gguf_int(r, "rope.dimension_count", CONFIG_HEAD_DIM_MAX, &rope->dim));
    TRY(config_gguf_number(r, "rope.freq_base", 1, 1e15, &rope->theta));
    TRY(config_gguf_number(r, "rope.scaling.factor", 0, 1e6, &rope->factor));
    if (rope->factor <= 0) rope->factor = 1; /* 0 is written for "none" */
    TRY(config_gguf_int(r, "rope.scaling.original_context_length", CONFIG_CONTEXT_MAX,
                        &rope->original_context));
    TRY(model_file_get_str(r->file, config_gguf_key(r, "rope.scaling.type"), &type, r->err));
    if (r->arch->theta_local > 0) {
        c->rope_local = *rope;
        c->rope_local.factor = 1;
        c->rope_local.theta = r->arch->theta_local;
        TRY(config_gguf_number(r, "rope.freq_base_swa", 1, 1e15, &c->rope_local.theta));
    }
    if (model_file_find(r->file, "rope_freqs.weight", &t)) {
        rope->scaling = ROPE_SCALING_FACTORS;
        return config_gguf_factors(r, "rope_freqs.weight", rope->dim / 2, &rope->long_factor);
    }
    if (model_file_find(r->file, "rope_factors_long.weight", &t)) {
        rope->scaling = ROPE_SCALING_LONGROPE;
        rope->factor = (double)c->context / MAX(rope->original_context, 1);
        TRY(config_gguf_number(r, "rope.scaling.attn_factor", 1e-6, 1e6, &rope->attn_factor));
        TRY(config_gguf_factors(r, "rope_factors_long.weight", rope->dim / 2, &rope->long_factor));
        return config_gguf_factors(r, "rope_factors_short.weight", rope->dim / 2,
                                   &rope->short_factor);
    }
    if (str_is(type, "yarn")) return config_gguf_yarn(c, r);
    if (str_is(type, "linear")) rope->scaling = ROPE_SCALING_LINEAR;
    if (str_is(type, "linear") || str_is(type, "none")) return OK;
    FAIL(r->err, ERR_UNSUPPORTED,
         "gguf: the rope scaling type '%.*s' is not supported; known are "
         "none, linear, yarn",
         (int)MIN(type.len, (size_t)40), type.ptr);
}

static Status config_gguf_variants(ModelConfig *c, GgufReader *r) {
    const Arch *arch = r->arch;
    double eps = arch->norm_eps, scale = 0, cap = arch->attn_softcap, out = arch->logit_softcap;
    Tensor t;
    TRY(config_gguf_number(r,
                           arch->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                                  : "attention.layer_norm_epsilon",
                           0, 1, &eps));
    c->norm_eps = (float)eps;
    TRY(config_gguf_number(r, "attn_logit_softcapping", 0, 1e6, &cap));
    TRY(config_gguf_number(r, "final_logit_softcapping", 0, 1e6, &out));
    c->attn_softcap = (float)cap;
    c->logit_softcap = (float)out;
    if (arch->embed_scaled) c->embed_scale = sqrtf((float)c->dim);
    TRY(config_gguf_number(r, "attention.scale", 0, 1e6, &scale));
    if (scale == 0) {
        bool wide = arch->gguf_wide_layers == c->n_layers;
        scale = 1 / sqrt(wide ? (double)c->dim / c->n_heads : (double)c->head_dim);
    }
    c->attn_scale = (float)scale;
    /* No key tells of biases; the files have them or not. */
    c->qkv_bias = model_file_find(r->file, "blk.0.attn_q.bias", &t) ||
                  model_file_find(r->file, "blk.0.attn_qkv.bias", &t);
    c->out_bias = model_file_find(r->file, "blk.0.attn_output.bias", &t);
    c->ffn_bias = model_file_find(r->file, "blk.0.ffn_down.bias", &t);
    c->tied_embeddings = !model_file_find(r->file, ARCH_GGUF_NAMES[ARCH_OUTPUT], &t);
    return OK;
}

static Status config_gguf_tokens(ModelConfig *c, GgufReader *r) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t bos = c->bos_id;
    TRY(model_file_get_int(r->file, "tokenizer.ggml.bos_token_id", -1, UINT32_MAX, &bos, r->err));
    c->bos_id = bos < c->vocab ? (int32_t)bos : -1;
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        int64_t id = -1;
        TRY(model_file_get_int(r->file, ends[i], -1, UINT32_MAX, &id, r->err));
        bool known = id < 0 || id >= c->vocab; /* 2^32 - 1 is written for "none" */
        for (int32_t j = 0; j < c->n_eos; j++) known = known || c->eos_id[j] == id;
        if (!known) c->eos_id[c->n_eos++] = (int32_t)id;
    }
    return OK;
}

Status config_gguf_read(ModelConfig *c, const ModelFile *file, Err *err) {
    GgufReader r = {.file = file, .err = err};
    char known[256];
    int32_t n_experts = 0;
    TRY(model_file_get_str(file, "general.architecture", &r.prefix, err));
    if (r.prefix.len == 0 || r.prefix.len > 40)
        FAIL(err, ERR_FORMAT, "gguf: general.architecture is missing or too long");
    TRY(config_gguf_int(&r, "expert_count", CONFIG_EXPERTS_MAX, &n_experts));
    r.arch = arch_find_gguf(r.prefix, n_experts > 0);
    if (r.arch == NULL)
        FAIL(err, ERR_UNSUPPORTED,
             "gguf: the architecture '%.*s'%s is not known; known are the "
             "families %s",
             STR_ARG(r.prefix), n_experts > 0 ? " with experts" : "",
             arch_list(known, sizeof known));
    config_set_arch(c, r.arch);
    TRY(config_gguf_dims(c, &r));
    TRY(config_gguf_variants(c, &r));
    TRY(config_gguf_window(c, &r));
    TRY(config_gguf_experts(c, &r));
    TRY(config_gguf_rope(c, &r));
    return config_gguf_tokens(c, &r);
}
