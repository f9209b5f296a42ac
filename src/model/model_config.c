#include "model/model_config.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "model/config_priv.h"

void config_set_arch(ModelConfig *out, const Arch *arch) {
    snprintf(out->arch, sizeof out->arch, "%s", arch->name);
    out->norm = arch->norm;
    out->norm_eps = (float)arch->norm_eps;
    out->qk_norm = arch->qk_norm;
    out->post_norms = arch->post_norms;
    out->qkv_bias = arch->qkv_bias || arch->all_bias;
    out->out_bias = out->ffn_bias = arch->all_bias;
    out->ffn_gated = !arch->ffn_plain;
    out->act = arch->act;
    out->learned_pos = arch->learned_pos;
    out->embed_scale = 1;
    out->bos_id = -1;
}

void model_config_free(ModelConfig *config) {
    RopeConfig *ropes[] = {&config->rope, &config->rope_local};
    for (size_t i = 0; i < ARRAY_LEN(ropes); i++) {
        mem_free(ropes[i]->long_factor);
        mem_free(ropes[i]->short_factor);
    }
    memset(config, 0, sizeof *config);
}

static Status model_config_check_rope(const ModelConfig *c, const RopeConfig *rope, Err *err) {
    if (rope->style == ROPE_NONE) return OK;
    if (rope->dim < 2 || rope->dim % 2 != 0 || rope->dim > c->head_dim)
        FAIL(err, ERR_FORMAT,
             "config: %d elements of a head rotate; wanted an even number from 2 to head_dim %d",
             rope->dim, c->head_dim);
    if (!(rope->theta > 1 && rope->theta <= 1e15))
        FAIL(err, ERR_FORMAT, "config: the rope base is %g, wanted a number from 1 to 1e15",
             rope->theta);
    if (rope->scaling != ROPE_SCALING_NONE && rope->scaling != ROPE_SCALING_FACTORS &&
        !(rope->factor > 0 && rope->factor <= 1e6))
        FAIL(err, ERR_FORMAT, "config: the rope scaling factor is %g, wanted 0 to 1e6",
             rope->factor);
    if (rope->original_context < 2 && rope->scaling != ROPE_SCALING_NONE)
        FAIL(err, ERR_FORMAT,
             "config: rope scaling from an original context of %d, wanted at least 2",
             rope->original_context);
    if (rope->scaling == ROPE_SCALING_LLAMA3 && !(rope->high_freq_factor > rope->low_freq_factor))
        FAIL(err, ERR_FORMAT,
             "config: rope scaling llama3 wants high_freq_factor %g above "
             "low_freq_factor %g",
             rope->high_freq_factor, rope->low_freq_factor);
    return OK;
}

static Status model_config_check_experts(const ModelConfig *c, Err *err) {
    if (c->n_experts == 0) return OK;
    if (c->n_experts_used < 1 || c->n_experts_used > c->n_experts)
        FAIL(err, ERR_FORMAT, "config: %d of %d experts are used per token, wanted 1 to %d",
             c->n_experts_used, c->n_experts, c->n_experts);
    if (c->expert_ff_dim < 1)
        FAIL(err, ERR_FORMAT, "config: the experts have no width (moe_intermediate_size)");
    return OK;
}

/* Do the values, each in its range, fit each other? */
static Status model_config_check(const ModelConfig *c, Err *err) {
    if (c->n_heads % c->n_kv_heads != 0)
        FAIL(err, ERR_FORMAT, "config: %d attention heads do not divide over %d key-value heads",
             c->n_heads, c->n_kv_heads);
    bool windowed = false;
    for (int32_t i = 0; i < c->n_layers; i++) windowed = windowed || c->layer_kind[i] != LAYER_FULL;
    if (windowed && c->window < 1)
        FAIL(err, ERR_FORMAT,
             "config: layers have a sliding window but no sliding_window is given");
    if (!c->ffn_gated && c->n_experts > 0)
        FAIL(err, ERR_UNSUPPORTED, "config: experts without a gate are not supported");
    if (!isfinite(c->attn_scale) || !(c->attn_scale > 0))
        FAIL(err, ERR_FORMAT, "config: the attention scale is %g, wanted above 0",
             (double)c->attn_scale);
    TRY(model_config_check_rope(c, &c->rope, err));
    TRY(model_config_check_rope(c, &c->rope_local, err));
    return model_config_check_experts(c, err);
}

/* The dtype that most bytes of the file have. */
static DType model_config_dtype(const ModelFile *file) {
    int64_t bytes[DTYPE_COUNT] = {0};
    for (int64_t i = 0; i < model_file_n_tensors(file); i++) {
        Str name;
        Tensor t;
        model_file_tensor(file, i, &name, &t);
        bytes[t.dtype] += tensor_bytes(&t);
    }
    DType best = DTYPE_F32;
    for (int32_t d = 0; d < DTYPE_COUNT; d++)
        if (bytes[d] > bytes[best]) best = (DType)d;
    return best;
}

static Status model_config_finish(ModelConfig *out, Status status, Err *err) {
    if (status == OK) status = model_config_check(out, err);
    if (status != OK) model_config_free(out);
    return status;
}

Status model_config_from_json(ModelConfig *out, const json_t *json, Err *err) {
    memset(out, 0, sizeof *out);
    return model_config_finish(out, config_hf_read(out, json, err), err);
}

static Status model_config_read_hf(ModelConfig *out, const ModelFile *file, Err *err) {
    const json_t *json = model_file_config(file);
    if (json == NULL)
        FAIL(err, ERR_NOT_FOUND, "%s: there is no config.json beside the weights",
             model_file_path(file));
    TRY(config_hf_read(out, json, err));
    const json_t *generation = model_file_generation_config(file);
    if (generation == NULL) return OK;
    return config_hf_token_ids(out, generation, "generation_config.json", err);
}

Status model_config_read(ModelConfig *out, const ModelFile *file, Err *err) {
    memset(out, 0, sizeof *out);
    Status status = model_file_format(file) == MODEL_GGUF ? config_gguf_read(out, file, err)
                                                          : model_config_read_hf(out, file, err);
    TRY(model_config_finish(out, status, err));
    out->weight_dtype = model_config_dtype(file);
    return OK;
}
