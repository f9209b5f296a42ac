#include <string.h>

#include <stdlib.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/sluice_priv.h"
#include "ops/plugin.h"

sluice_status sluice_model_error(Status status, const Err *from, sluice_error *err) {
    _Static_assert((int)SLUICE_ERR_TEMPLATE == (int)ERR_TEMPLATE, "the same list");
    _Static_assert(sizeof err->text == ERR_TEXT_BYTES, "the same length");
    if (status != OK && err != NULL) {
        err->status = (sluice_status)status;
        memcpy(err->text, from->text, sizeof err->text);
    }
    return (sluice_status)status;
}

/* What a model may do without. */
static Status sluice_model_open_text(sluice_model *m, Err *err) {
    const ModelFile *file = model_file(m->model);
    Err none = {0};
    Status status = tokenizer_open_model(&m->tokenizer, file, &none);
    if (status == ERR_NOT_FOUND) return OK;
    if (status != OK) FAIL(err, status, "%s", none.text);
    none = (Err){0};
    status = chat_open(&m->chat, file, m->tokenizer, &none);
    if (status == ERR_NOT_FOUND) return OK;
    if (status != OK) FAIL(err, status, "%s", none.text);
    return OK;
}

static Status sluice_model_init(sluice_model *m, const sluice_model_options *options, Err *err) {
    if (options->n_threads < 0)
        FAIL(err, ERR_ARG, "n_threads is %d, expected 0 (all cores) or more", options->n_threads);
    m->n_threads = options->n_threads == 0 ? thread_cores() : options->n_threads;
    TRY(pool_open(&m->pool, m->n_threads, err));
    TRY(plugin_open(options->device, options->level, &m->ops, &m->ctx.device, err));
    m->ctx.pool = m->pool;
    ModelFile *file = NULL;
    TRY(model_file_open(&file, m->path, err));
    const ModelOptions model = {.ops = m->ops, .ctx = &m->ctx, .quiet = options->quiet};
    TRY(model_open(&m->model, file, &model, err));
    return sluice_model_open_text(m, err);
}

sluice_status sluice_model_open(sluice_model **out, const char *path,
                                const sluice_model_options *options, sluice_error *err) {
    sluice_model_options own = SLUICE_MODEL_OPTIONS_INIT;
    Err failure = {0};
    if (path == NULL) {
        (void)err_set(&failure, ERR_ARG, "no path of a model");
        return sluice_model_error(ERR_ARG, &failure, err);
    }
    if (options != NULL) memcpy(&own, options, MIN(options->size, sizeof own));
    sluice_model *m = mem_alloc(sizeof *m);
    m->path = mem_strdup(path);
    const Status status = sluice_model_init(m, &own, &failure);
    if (status != OK) {
        sluice_model_close(m);
        return sluice_model_error(status, &failure, err);
    }
    *out = m;
    return SLUICE_OK;
}

void sluice_model_close(sluice_model *m) {
    if (m == NULL) return;
    if (m->chat != NULL) chat_close(m->chat);
    if (m->tokenizer != NULL) tokenizer_close(m->tokenizer);
    if (m->model != NULL) model_close(m->model);
    if (m->ctx.device != NULL) plugin_close(m->ctx.device);
    if (m->pool != NULL) pool_close(m->pool);
    mem_free(m->path);
    mem_free(m);
}

/* The model's own sampling defaults; what is malformed counts as not given. */
static void sluice_model_sampling(const ModelFile *file, sluice_model_info *info) {
    double temperature = -1, top_p = -1, top_k = -1;
    int64_t k = -1;
    const json_t *json = model_file_generation_config(file);
    Status status = OK;
    if (json != NULL) {
        status = json_get_number(json, "temperature", 0, 100, &temperature, NULL);
        if (json_get_number(json, "top_p", 0, 1, &top_p, NULL) != OK) top_p = -1;
        if (json_get_int(json, "top_k", 0, INT32_MAX, &k, NULL) != OK) k = -1;
    } else if (model_file_format(file) == MODEL_GGUF) {
        status = model_file_get_number(file, "general.sampling.temp", &temperature, NULL);
        if (model_file_get_number(file, "general.sampling.top_p", &top_p, NULL) != OK) top_p = -1;
        if (model_file_get_number(file, "general.sampling.top_k", &top_k, NULL) == OK &&
            top_k >= 0 && top_k < INT32_MAX) {
            k = (int64_t)top_k;
        }
    }
    info->temperature = status == OK ? temperature : -1;
    info->top_p = top_p;
    info->top_k = (int32_t)k;
}

void sluice_model_get_info(const sluice_model *m, sluice_model_info *info) {
    static const char *const formats[] = {"Hugging Face directory", "safetensors", "GGUF"};
    const ModelConfig *c = model_config(m->model);
    const ModelBytes bytes = model_bytes(m->model);
    sluice_model_info all = {
        .size = info->size,
        .arch = c->arch,
        .path = m->path,
        .format = formats[model_file_format(model_file(m->model))],
        .weight_dtype = dtype_info(c->weight_dtype)->name,
        .level = m->ops->level,
        .tokenizer = m->tokenizer == NULL ? "none" : tokenizer_kind(m->tokenizer),
        .n_params = bytes.n_params,
        .n_params_active = bytes.n_params_active,
        .weight_bytes = bytes.stored,
        .weight_bytes_per_token = bytes.per_token,
        .vocab = c->vocab,
        .context = c->context,
        .n_layers = c->n_layers,
        .dim = c->dim,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .n_experts = c->n_experts,
        .n_experts_used = c->n_experts_used,
        .window = c->window,
        .n_threads = m->n_threads,
        .has_chat_template = m->chat != NULL,
        .bos_id = c->bos_id,
        .eos_id = c->n_eos > 0 ? c->eos_id[0] : -1,
    };
    if (m->chat != NULL) {
        all.chat_template = chat_source(m->chat, false).ptr;
        all.tool_template = chat_source(m->chat, true).ptr;
    }
    sluice_model_sampling(model_file(m->model), &all);
    memcpy(info, &all, MIN(info->size, sizeof all));
}

/* Scalars and texts of a GGUF file's metadata; arrays are the tokenizer's, or per layer and seen in
 * the shapes. */
static uint64_t sluice_model_hash_values(const ModelFile *file, uint64_t hash) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    const int64_t n = model_file_n_values(file);
    for (int64_t i = 0; i < n; i++) {
        const GgufValue *value = model_file_value_at(file, i);
        if (value->type == GGUF_ARRAY) continue;
        uint64_t len = bytes[value->type];
        if (value->type == GGUF_STRING) {
            memcpy(&len, value->data, sizeof len);
            len += sizeof len;
        }
        hash = hash_bytes(value->key.ptr, value->key.len, hash);
        hash = hash_bytes(value->data, len, hash);
    }
    return hash;
}

uint64_t sluice_model_hash(const sluice_model *m) {
    const ModelFile *file = model_file(m->model);
    uint64_t hash = 0;
    if (model_file_format(file) == MODEL_GGUF) {
        hash = sluice_model_hash_values(file, hash);
    } else {
        char *config = json_dumps(model_file_config(file), JSON_COMPACT | JSON_SORT_KEYS);
        if (config != NULL) hash = hash_bytes(config, strlen(config), hash);
        free(config);
    }
    const int64_t n = model_file_n_tensors(file);
    for (int64_t i = 0; i < n; i++) {
        Str name;
        Tensor tensor;
        model_file_tensor(file, i, &name, &tensor);
        const size_t len = (size_t)tensor_bytes(&tensor);
        hash = hash_bytes(name.ptr, name.len, hash_mix(hash) ^ (uint64_t)tensor.dtype);
        hash = hash_bytes(tensor.shape, (size_t)tensor.n_dims * sizeof *tensor.shape, hash);
        hash = hash_bytes(tensor.data, len, hash);
        /* Most matrices of such a format are packed copies: the file's pages would stay for
         * nothing. */
        if (dtype_is_grouped(tensor.dtype)) file_map_forget(tensor.data, len);
    }
    return hash;
}
