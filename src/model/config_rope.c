/* rope_theta and rope_scaling (transformers 4), rope_parameters (5), per layer type for Gemma. */
#include <math.h>

#include "base/mem.h"
#include "model/config_priv.h"

/* longrope's [dim/2] divisors. */
static Status config_rope_factors(const json_t *params, const char *key, int32_t n, double **out,
                                  Err *err) {
    const json_t *list = json_object_get(params, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        FAIL(err, ERR_FORMAT, "config.json: rope's '%s' is not a list of %d numbers", key, n);
    *out = mem_try_alloc((size_t)n, sizeof(double));
    if (*out == NULL) FAIL(err, ERR_NOMEM, "config.json: no memory for rope's '%s'", key);
    for (int32_t i = 0; i < n; i++) {
        double factor = json_number_value(json_array_get(list, (size_t)i)); /* 0: no number */
        if (!(factor > 1e-6 && factor < 1e6))
            FAIL(err, ERR_FORMAT,
                 "config.json: element %d of rope's '%s' is not a number from "
                 "1e-6 to 1e6",
                 i, key);
        (*out)[i] = factor;
    }
    return OK;
}

static Status config_rope_scaling(RopeConfig *rope, const json_t *params, int32_t context,
                                  Err *err) {
    double ratio = (double)context / rope->original_context;
    bool has_ratio = rope->scaling == ROPE_SCALING_YARN || rope->scaling == ROPE_SCALING_LONGROPE;
    rope->factor = has_ratio ? ratio : 1;
    TRY(json_get_number(params, "factor", 1e-6, 1e6, &rope->factor, err));
    rope->low_freq_factor = 1;
    rope->high_freq_factor = 4;
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = true;
    TRY(json_get_number(params, "low_freq_factor", 1e-6, 1e6, &rope->low_freq_factor, err));
    TRY(json_get_number(params, "high_freq_factor", 1e-6, 1e6, &rope->high_freq_factor, err));
    TRY(json_get_number(params, "beta_fast", 1e-6, 1e6, &rope->beta_fast, err));
    TRY(json_get_number(params, "beta_slow", 1e-6, 1e6, &rope->beta_slow, err));
    TRY(json_get_number(params, "attention_factor", 1e-6, 1e6, &rope->attn_factor, err));
    TRY(json_get_number(params, "mscale", 0, 1e6, &rope->mscale, err));
    TRY(json_get_number(params, "mscale_all_dim", 0, 1e6, &rope->mscale_all_dim, err));
    TRY(json_get_bool(params, "truncate", &rope->truncate, err));
    if (rope->scaling != ROPE_SCALING_LONGROPE) return OK;
    TRY(config_rope_factors(params, "long_factor", rope->dim / 2, &rope->long_factor, err));
    return config_rope_factors(params, "short_factor", rope->dim / 2, &rope->short_factor, err);
}

static Status config_rope_kind(const json_t *params, RopeScaling *out, Err *err) {
    static const struct {
        const char *name;
        RopeScaling scaling;
    } kinds[] = {{"default", ROPE_SCALING_NONE},      {"linear", ROPE_SCALING_LINEAR},
                 {"yarn", ROPE_SCALING_YARN},         {"llama3", ROPE_SCALING_LLAMA3},
                 {"longrope", ROPE_SCALING_LONGROPE}, {"su", ROPE_SCALING_LONGROPE}};
    Str name = STR_LIT("default");
    TRY(json_get_str(params, "type", &name, err));
    TRY(json_get_str(params, "rope_type", &name, err));
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!str_is(name, kinds[i].name)) continue;
        *out = kinds[i].scaling;
        return OK;
    }
    FAIL(err, ERR_UNSUPPORTED,
         "config.json: the rope type '%.*s' is not supported; known are "
         "default, linear, yarn, llama3, longrope",
         (int)MIN(name.len, (size_t)40), name.ptr);
}

/* One rotation. params: the dict of this layer type, NULL when the file has none. */
static Status config_rope_one(RopeConfig *rope, const ModelConfig *c, const json_t *text,
                              const json_t *params, double theta, Err *err) {
    double partial = 1;
    int64_t original = c->context;
    rope->style = ROPE_NEOX;
    rope->theta = theta;
    TRY(json_get_number(text, "partial_rotary_factor", 1e-6, 1, &partial, err));
    if (params != NULL) {
        TRY(json_get_number(params, "partial_rotary_factor", 1e-6, 1, &partial, err));
        TRY(json_get_number(params, "rope_theta", 1, 1e15, &rope->theta, err));
        TRY(json_get_int(params, "original_max_position_embeddings", 1, CONFIG_CONTEXT_MAX,
                         &original, err));
        TRY(config_rope_kind(params, &rope->scaling, err));
    }
    TRY(json_get_int(text, "original_max_position_embeddings", 1, CONFIG_CONTEXT_MAX, &original,
                     err));
    rope->original_context = (int32_t)original;
    rope->dim = (int32_t)(c->head_dim * partial);
    if (rope->dim < 2 || rope->dim % 2 != 0)
        FAIL(err, ERR_FORMAT,
             "config.json: %d elements of a head of %d rotate, wanted an even "
             "number",
             rope->dim, c->head_dim);
    if (rope->scaling == ROPE_SCALING_NONE) return OK;
    return config_rope_scaling(rope, params, c->context, err);
}

static const json_t *config_rope_dict(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_object(value) ? value : NULL;
}

Status config_rope_read(ModelConfig *c, const json_t *text, const Arch *arch, Err *err) {
    if (arch->learned_pos) return OK;
    double theta = arch->theta;
    TRY(json_get_number(text, "rope_theta", 1, 1e15, &theta, err));
    const json_t *params = config_rope_dict(text, "rope_parameters");
    if (params == NULL) params = config_rope_dict(text, "rope_scaling");
    const json_t *full = config_rope_dict(params, "full_attention");
    const json_t *local = config_rope_dict(params, "sliding_attention");
    bool nested = full != NULL || local != NULL;
    TRY(config_rope_one(&c->rope, c, text, nested ? full : params, theta, err));
    if (!nested && arch->theta_local == 0) return OK;
    /* Gemma 3: before transformers 5 the windowed layers rotate plainly at their own base. */
    double theta_local = arch->theta_local > 0 ? arch->theta_local : theta;
    TRY(json_get_number(text, "rope_local_base_freq", 1, 1e15, &theta_local, err));
    return config_rope_one(&c->rope_local, c, text, local, theta_local, err);
}
