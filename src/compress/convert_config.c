/* The metadata of the architecture: the keys of llama.cpp for what ModelConfig says. */
#include <math.h>
#include <stdio.h>

#include "compress/convert_priv.h"

enum { CONVERT_KEY_BYTES = 96 };

/* general.file_type, ggml's number for a type of the matrices. */
static uint32_t convert_file_type(DType type) {
    switch (type) {
        case DTYPE_F16: return 1;
        case DTYPE_Q4_0: return 2;
        case DTYPE_Q8_0: return 7;
        case DTYPE_BF16: return 32;
        default: return 0;
    }
}

static const char *convert_key(char buf[CONVERT_KEY_BYTES], const Convert *c, const char *name) {
    snprintf(buf, CONVERT_KEY_BYTES, "%s.%s", c->arch->gguf, name);
    return buf;
}

static void convert_put_int(const Convert *c, GgufWriter *writer, const char *name, int64_t value) {
    char key[CONVERT_KEY_BYTES];
    gguf_write_u32(writer, convert_key(key, c, name), (uint32_t)value);
}

static void convert_put_number(const Convert *c, GgufWriter *writer, const char *name,
                               double value) {
    char key[CONVERT_KEY_BYTES];
    gguf_write_f32(writer, convert_key(key, c, name), (float)value);
}

static void convert_put_text(const Convert *c, GgufWriter *writer, const char *name,
                             const char *value) {
    char key[CONVERT_KEY_BYTES];
    gguf_write_str(writer, convert_key(key, c, name), str_from(value));
}

/* The folder's name. */
static Str convert_model_name(const Convert *c) {
    Str path = str_from(model_file_path(c->file));
    while (path.len > 1 && path.ptr[path.len - 1] == '/') path.len--;
    size_t from = path.len;
    while (from > 0 && path.ptr[from - 1] != '/') from--;
    return str_slice(path, from, path.len);
}

static void convert_write_general(const Convert *c, GgufWriter *writer) {
    gguf_write_str(writer, "general.architecture", str_from(c->arch->gguf));
    gguf_write_str(writer, "general.type", STR_LIT("model"));
    gguf_write_str(writer, "general.name", convert_model_name(c));
    gguf_write_u32(writer, "general.file_type", convert_file_type(c->options.type));
    gguf_write_u32(writer, "general.quantization_version", 2);
    const json_t *generation = model_file_generation_config(c->file);
    const json_t *temperature = json_object_get(generation, "temperature");
    const json_t *top_p = json_object_get(generation, "top_p");
    const json_t *top_k = json_object_get(generation, "top_k");
    if (json_is_number(temperature))
        gguf_write_f32(writer, "general.sampling.temp", (float)json_number_value(temperature));
    if (json_is_number(top_p))
        gguf_write_f32(writer, "general.sampling.top_p", (float)json_number_value(top_p));
    if (json_is_integer(top_k) && json_integer_value(top_k) >= 0 &&
        json_integer_value(top_k) <= INT32_MAX)
        gguf_write_i32(writer, "general.sampling.top_k", (int32_t)json_integer_value(top_k));
}

/* Which layers are windowed is told by the family, else all are; an order of its own is written. */
static void convert_write_window(const Convert *c, GgufWriter *writer) {
    const ModelConfig *m = &c->config;
    if (m->window == 0) return;
    convert_put_int(c, writer, "attention.sliding_window", m->window);
    bool windowed[MODEL_LAYERS_MAX], usual = true;
    int32_t pattern = c->arch->window_rule == ARCH_WINDOW_PATTERN ? c->arch->window_pattern : 0;
    for (int32_t i = 0; i < m->n_layers; i++) {
        windowed[i] = m->layer_kind[i] == LAYER_WINDOW;
        usual = usual && windowed[i] == (pattern == 0 || (i + 1) % pattern != 0);
    }
    char key[CONVERT_KEY_BYTES];
    if (!usual)
        gguf_write_bools(writer, convert_key(key, c, "attention.sliding_window_pattern"), windowed,
                         (uint64_t)m->n_layers);
}

static void convert_write_rope(const Convert *c, GgufWriter *writer) {
    const RopeConfig *rope = &c->config.rope;
    if (rope->style == ROPE_NONE) return;
    convert_put_int(c, writer, "rope.dimension_count", rope->dim);
    convert_put_number(c, writer, "rope.freq_base", rope->theta);
    if (c->config.rope_local.style != ROPE_NONE)
        convert_put_number(c, writer, "rope.freq_base_swa", c->config.rope_local.theta);
    double usual = 1;
    switch (rope->scaling) {
        case ROPE_SCALING_LINEAR:
            convert_put_text(c, writer, "rope.scaling.type", "linear");
            convert_put_number(c, writer, "rope.scaling.factor", rope->factor);
            break;
        case ROPE_SCALING_YARN:
            convert_put_text(c, writer, "rope.scaling.type", "yarn");
            convert_put_number(c, writer, "rope.scaling.factor", rope->factor);
            convert_put_int(c, writer, "rope.scaling.original_context_length",
                            rope->original_context);
            convert_put_number(c, writer, "rope.scaling.yarn_beta_fast", rope->beta_fast);
            convert_put_number(c, writer, "rope.scaling.yarn_beta_slow", rope->beta_slow);
            /* The key is a factor on YaRN's own. */
            if (rope->factor > 1) usual = 0.1 * log(rope->factor) + 1;
            if (rope->attn_factor > 0)
                convert_put_number(c, writer, "rope.scaling.attn_factor",
                                   rope->attn_factor / usual);
            break;
        case ROPE_SCALING_LONGROPE:
            convert_put_int(c, writer, "rope.scaling.original_context_length",
                            rope->original_context);
            if (rope->factor > 1) usual = sqrt(1 + log(rope->factor) / log(rope->original_context));
            convert_put_number(c, writer, "rope.scaling.attn_factor",
                               rope->attn_factor > 0 ? rope->attn_factor : usual);
            break;
        default: break; /* llama3 is a tensor */
    }
}

static void convert_write_experts(const Convert *c, GgufWriter *writer) {
    const ModelConfig *m = &c->config;
    if (m->n_experts == 0) return;
    convert_put_int(c, writer, "expert_count", m->n_experts);
    convert_put_int(c, writer, "expert_used_count", m->n_experts_used);
    if (m->expert_ff_dim != m->ff_dim || strcmp(c->arch->gguf, "llama") != 0)
        convert_put_int(c, writer, "expert_feed_forward_length", m->expert_ff_dim);
    char key[CONVERT_KEY_BYTES];
    if (m->moe_normalize != c->arch->gguf_moe_normalize)
        gguf_write_bool(writer, convert_key(key, c, "expert_weights_norm"), m->moe_normalize);
}

void convert_config_write(const Convert *c, GgufWriter *writer) {
    const ModelConfig *m = &c->config;
    convert_write_general(c, writer);
    convert_put_int(c, writer, "vocab_size", m->vocab);
    convert_put_int(c, writer, "context_length", m->context);
    convert_put_int(c, writer, "embedding_length", m->dim);
    convert_put_int(c, writer, "block_count", m->n_layers);
    convert_put_int(c, writer, "feed_forward_length", m->ff_dim);
    convert_put_int(c, writer, "attention.head_count", m->n_heads);
    convert_put_int(c, writer, "attention.head_count_kv", m->n_kv_heads);
    convert_put_int(c, writer, "attention.key_length", m->head_dim);
    convert_put_int(c, writer, "attention.value_length", m->head_dim);
    convert_put_number(
        c, writer,
        m->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
        (double)m->norm_eps);
    if (m->attn_softcap > 0)
        convert_put_number(c, writer, "attn_logit_softcapping", (double)m->attn_softcap);
    if (m->logit_softcap > 0)
        convert_put_number(c, writer, "final_logit_softcapping", (double)m->logit_softcap);
    bool wide = c->arch->gguf_wide_layers == m->n_layers;
    float usual = (float)(1 / sqrt(wide ? (double)m->dim / m->n_heads : (double)m->head_dim));
    if (m->attn_scale != usual)
        convert_put_number(c, writer, "attention.scale", (double)m->attn_scale);
    convert_write_window(c, writer);
    convert_write_rope(c, writer);
    convert_write_experts(c, writer);
}

/* Llama 3's divisors of the frequencies: `factor` for those slower than the old context can hold
 * low_freq_factor turns of, 1 for those faster than high_freq_factor turns, in between a blend. */
static Status convert_add_llama3(Convert *c, Err *err) {
    const RopeConfig *rope = &c->config.rope;
    int32_t n = rope->dim / 2;
    double *divisor = mem_try_alloc((size_t)n, sizeof *divisor);
    if (divisor == NULL) FAIL(err, ERR_NOMEM, "no memory for rope's factors");
    for (int32_t i = 0; i < n; i++) {
        double turns = rope->original_context * pow(rope->theta, -2.0 * i / rope->dim) / (2 * M_PI);
        double blend =
            (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
        blend = fmin(fmax(blend, 0), 1);
        divisor[i] = 1 / ((1 - blend) / rope->factor + blend);
    }
    Status status = convert_plan_add_numbers(c, "rope_freqs.weight", divisor, n, err);
    mem_free(divisor);
    return status;
}

Status convert_config_add_rope(Convert *c, Err *err) {
    const RopeConfig *rope = &c->config.rope;
    if (rope->scaling == ROPE_SCALING_YARN && !rope->truncate)
        FAIL(err, ERR_UNSUPPORTED, "'%s': GGUF has no key for YaRN without truncation",
             model_file_path(c->file));
    if (rope->scaling == ROPE_SCALING_LLAMA3) return convert_add_llama3(c, err);
    if (rope->scaling != ROPE_SCALING_LONGROPE) return OK;
    TRY(convert_plan_add_numbers(c, "rope_factors_long.weight", rope->long_factor, rope->dim / 2,
                                 err));
    return convert_plan_add_numbers(c, "rope_factors_short.weight", rope->short_factor,
                                    rope->dim / 2, err);
}
