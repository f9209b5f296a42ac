#include "model/model_shape.h"

#include <stdio.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/arch.h"
#include "model/shape_pattern.h"

/* source: the config.json that each model's authors published; of 0.11b the GPT-2 small dimensions
 * in a Llama. */
static const ModelShape model_shapes[] = {
    {"llama-0.11b",
     "{'model_type': 'llama', 'hidden_size': 768, 'num_hidden_layers': 12,"
     " 'num_attention_heads': 12, 'intermediate_size': 2048, 'vocab_size': 32000,"
     " 'max_position_embeddings': 4096, 'tie_word_embeddings': true}"},
    {"llama-1.1b",
     "{'model_type': 'llama', 'hidden_size': 2048, 'num_hidden_layers': 22,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 4, 'intermediate_size': 5632,"
     " 'vocab_size': 32000, 'max_position_embeddings': 4096}"},
    {"llama-3.2-1b",
     "{'model_type': 'llama', 'hidden_size': 2048, 'num_hidden_layers': 16,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 8, 'head_dim': 64,"
     " 'intermediate_size': 8192, 'vocab_size': 128256, 'max_position_embeddings': 131072,"
     " 'rope_theta': 500000.0, 'tie_word_embeddings': true, 'rope_scaling': {'rope_type':"
     " 'llama3', 'factor': 32.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,"
     " 'original_max_position_embeddings': 8192}}"},
    {"llama-3.2-3b",
     "{'model_type': 'llama', 'hidden_size': 3072, 'num_hidden_layers': 28,"
     " 'num_attention_heads': 24, 'num_key_value_heads': 8, 'head_dim': 128,"
     " 'intermediate_size': 8192, 'vocab_size': 128256, 'max_position_embeddings': 131072,"
     " 'rope_theta': 500000.0, 'tie_word_embeddings': true, 'rope_scaling': {'rope_type':"
     " 'llama3', 'factor': 32.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,"
     " 'original_max_position_embeddings': 8192}}"},
    {"llama-3.1-8b",
     "{'model_type': 'llama', 'hidden_size': 4096, 'num_hidden_layers': 32,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 8, 'intermediate_size': 14336,"
     " 'vocab_size': 128256, 'max_position_embeddings': 131072, 'rope_theta': 500000.0,"
     " 'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0,"
     " 'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192}}"},
    {"llama-3.1-70b",
     "{'model_type': 'llama', 'hidden_size': 8192, 'num_hidden_layers': 80,"
     " 'num_attention_heads': 64, 'num_key_value_heads': 8, 'intermediate_size': 28672,"
     " 'vocab_size': 128256, 'max_position_embeddings': 131072, 'rope_theta': 500000.0,"
     " 'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0,"
     " 'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192}}"},
    {"mistral-7b",
     "{'model_type': 'mistral', 'hidden_size': 4096, 'num_hidden_layers': 32,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 8, 'intermediate_size': 14336,"
     " 'vocab_size': 32000, 'max_position_embeddings': 32768, 'sliding_window': 4096}"},
    {"qwen3-0.6b",
     "{'model_type': 'qwen3', 'hidden_size': 1024, 'num_hidden_layers': 28,"
     " 'num_attention_heads': 16, 'num_key_value_heads': 8, 'head_dim': 128,"
     " 'intermediate_size': 3072, 'vocab_size': 151936, 'max_position_embeddings': 40960,"
     " 'rope_theta': 1000000, 'tie_word_embeddings': true}"},
    {"qwen3-8b",
     "{'model_type': 'qwen3', 'hidden_size': 4096, 'num_hidden_layers': 36,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 8, 'head_dim': 128,"
     " 'intermediate_size': 12288, 'vocab_size': 151936, 'max_position_embeddings': 40960,"
     " 'rope_theta': 1000000}"},
    {"qwen3-30b-a3b",
     "{'model_type': 'qwen3_moe', 'hidden_size': 2048, 'num_hidden_layers': 48,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 4, 'head_dim': 128,"
     " 'intermediate_size': 6144, 'moe_intermediate_size': 768, 'num_experts': 128,"
     " 'num_experts_per_tok': 8, 'norm_topk_prob': true, 'vocab_size': 151936,"
     " 'max_position_embeddings': 40960, 'rope_theta': 1000000.0}"},
    {"mixtral-8x7b",
     "{'model_type': 'mixtral', 'hidden_size': 4096, 'num_hidden_layers': 32,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 8, 'intermediate_size': 14336,"
     " 'num_local_experts': 8, 'num_experts_per_tok': 2, 'vocab_size': 32000,"
     " 'max_position_embeddings': 32768, 'rope_theta': 1000000.0}"},
    {"gemma-3-1b",
     "{'model_type': 'gemma3_text', 'hidden_size': 1152, 'num_hidden_layers': 26,"
     " 'num_attention_heads': 4, 'num_key_value_heads': 1, 'head_dim': 256,"
     " 'intermediate_size': 6912, 'vocab_size': 262144, 'max_position_embeddings': 32768,"
     " 'rope_theta': 1000000, 'rope_local_base_freq': 10000, 'sliding_window': 512,"
     " 'query_pre_attn_scalar': 256}"},
    {"phi-3-mini",
     "{'model_type': 'phi3', 'hidden_size': 3072, 'num_hidden_layers': 32,"
     " 'num_attention_heads': 32, 'num_key_value_heads': 32, 'intermediate_size': 8192,"
     " 'vocab_size': 32064, 'max_position_embeddings': 4096, 'sliding_window': 2047}"},
};

const ModelShape *model_shape_table(int32_t *n) {
    *n = ARRAY_LEN(model_shapes);
    return model_shapes;
}

Status model_shape_find(Str name, const ModelShape **out, Err *err) {
    char names[512];
    size_t len = 0;
    for (size_t i = 0; i < ARRAY_LEN(model_shapes); i++) {
        if (str_is(name, model_shapes[i].name)) {
            *out = &model_shapes[i];
            return OK;
        }
        int n = snprintf(names + len, sizeof names - len, "%s%s", i > 0 ? ", " : "",
                         model_shapes[i].name);
        len = MIN(len + (size_t)MAX(n, 0), sizeof names - 1);
    }
    FAIL(err, ERR_ARG, "no shape is named '%.*s'; there are %s", (int)MIN(name.len, (size_t)64),
         name.ptr, names);
}

/* The sizes that the tensors of a model have. */
typedef enum ShapeSize {
    SHAPE_NONE,
    SHAPE_VOCAB,
    SHAPE_DIM,
    SHAPE_Q, /* heads * head_dim */
    SHAPE_KV,
    SHAPE_QKV,
    SHAPE_HEAD,
    SHAPE_FF,
    SHAPE_FF_TWICE,
    SHAPE_EXPERTS,
    SHAPE_EXPERT_FF,
    SHAPE_SIZE_COUNT
} ShapeSize;

typedef enum ShapeWhere {
    SHAPE_ONCE,
    SHAPE_LAYER,
    SHAPE_DENSE,
    SHAPE_MOE,
    SHAPE_EXPERT
} ShapeWhere;

static const struct {
    ArchTensor role;
    ShapeWhere where;
    ShapeSize rows, k; /* k NONE: a vector */
} shape_tensors[] = {
    {ARCH_EMBED, SHAPE_ONCE, SHAPE_VOCAB, SHAPE_DIM},
    {ARCH_OUT_NORM, SHAPE_ONCE, SHAPE_DIM, SHAPE_NONE},
    {ARCH_OUTPUT, SHAPE_ONCE, SHAPE_VOCAB, SHAPE_DIM},
    {ARCH_ATTN_NORM, SHAPE_LAYER, SHAPE_DIM, SHAPE_NONE},
    {ARCH_Q, SHAPE_LAYER, SHAPE_Q, SHAPE_DIM},
    {ARCH_K, SHAPE_LAYER, SHAPE_KV, SHAPE_DIM},
    {ARCH_V, SHAPE_LAYER, SHAPE_KV, SHAPE_DIM},
    {ARCH_QKV, SHAPE_LAYER, SHAPE_QKV, SHAPE_DIM},
    {ARCH_Q_NORM, SHAPE_LAYER, SHAPE_HEAD, SHAPE_NONE},
    {ARCH_K_NORM, SHAPE_LAYER, SHAPE_HEAD, SHAPE_NONE},
    {ARCH_O, SHAPE_LAYER, SHAPE_DIM, SHAPE_Q},
    {ARCH_POST_ATTN_NORM, SHAPE_LAYER, SHAPE_DIM, SHAPE_NONE},
    {ARCH_FFN_NORM, SHAPE_LAYER, SHAPE_DIM, SHAPE_NONE},
    {ARCH_GATE, SHAPE_DENSE, SHAPE_FF, SHAPE_DIM},
    {ARCH_UP, SHAPE_DENSE, SHAPE_FF, SHAPE_DIM},
    {ARCH_GATE_UP, SHAPE_DENSE, SHAPE_FF_TWICE, SHAPE_DIM},
    {ARCH_DOWN, SHAPE_DENSE, SHAPE_DIM, SHAPE_FF},
    {ARCH_POST_FFN_NORM, SHAPE_LAYER, SHAPE_DIM, SHAPE_NONE},
    {ARCH_ROUTER, SHAPE_MOE, SHAPE_EXPERTS, SHAPE_DIM},
    {ARCH_EXPERT_GATE, SHAPE_EXPERT, SHAPE_EXPERT_FF, SHAPE_DIM},
    {ARCH_EXPERT_UP, SHAPE_EXPERT, SHAPE_EXPERT_FF, SHAPE_DIM},
    {ARCH_EXPERT_DOWN, SHAPE_EXPERT, SHAPE_DIM, SHAPE_EXPERT_FF},
};

/* What the tensors of a model are made from. The walk over them runs twice: the first counts, the
 * second, when there is a file, makes. */
typedef struct ShapeMaker {
    const ModelConfig *config;
    const Arch *arch;
    DType type;
    int64_t size[SHAPE_SIZE_COUNT];
    const ShapePattern *matrix, *router;
    ThreadPool *pool;
    int64_t n_tensors, bytes;
    ModelFile *file;
} ShapeMaker;

static void model_shape_sizes(ShapeMaker *m) {
    const ModelConfig *c = m->config;
    int64_t q = (int64_t)c->n_heads * c->head_dim, kv = (int64_t)c->n_kv_heads * c->head_dim;
    m->size[SHAPE_VOCAB] = c->vocab;
    m->size[SHAPE_DIM] = c->dim;
    m->size[SHAPE_Q] = q;
    m->size[SHAPE_KV] = kv;
    m->size[SHAPE_QKV] = q + 2 * kv;
    m->size[SHAPE_HEAD] = c->head_dim;
    m->size[SHAPE_FF] = c->ff_dim;
    m->size[SHAPE_FF_TWICE] = 2 * (int64_t)c->ff_dim;
    m->size[SHAPE_EXPERTS] = c->n_experts;
    m->size[SHAPE_EXPERT_FF] = c->expert_ff_dim;
}

static Status model_shape_tensor(ShapeMaker *m, size_t row, int32_t layer, int32_t expert,
                                 Err *err) {
    char name[ARCH_NAME_BYTES];
    ArchTensor role = shape_tensors[row].role;
    bool is_vector = shape_tensors[row].k == SHAPE_NONE;
    int64_t shape[2] = {m->size[shape_tensors[row].rows], m->size[shape_tensors[row].k]};
    const char *prefix = role == ARCH_OUTPUT ? "" : m->arch->hf_prefixes[0];
    CHECK(arch_tensor_name(name, prefix, (*m->arch->hf_names)[role], 0, layer, expert));
    DType dtype = is_vector ? DTYPE_F32 : role == ARCH_ROUTER ? m->router->dtype : m->type;
    int64_t bytes;
    if (!dtype_bytes(dtype, is_vector ? shape[0] : shape[1], &bytes))
        FAIL(err, ERR_ARG, "the rows of '%s' have %lld elements, %s wants multiples of %d", name,
             (long long)shape[1], dtype_info(dtype)->name, dtype_info(dtype)->group_len);
    bytes *= is_vector ? 1 : shape[0];
    m->n_tensors++;
    m->bytes += ALIGN_UP(bytes, (int64_t)CACHE_LINE);
    if (m->file == NULL) return OK;
    Tensor t;
    TRY(model_file_make_tensor(m->file, name, dtype, is_vector ? 1 : 2, shape, &t, err));
    if (!is_vector) {
        shape_pattern_fill(role == ARCH_ROUTER ? m->router : m->matrix, &t, m->pool);
        return OK;
    }
    for (int64_t i = 0; i < shape[0]; i++) ((float *)t.data)[i] = m->config->norm_plus_one ? 0 : 1;
    return OK;
}

/* Whether layer (or the model, for what exists once) has the tensor of that row. */
static bool model_shape_has(const ShapeMaker *m, size_t row, int32_t layer) {
    ShapeWhere where = shape_tensors[row].where;
    if ((*m->arch->hf_names)[shape_tensors[row].role] == NULL) return false;
    if (where == SHAPE_ONCE)
        return shape_tensors[row].role != ARCH_OUTPUT || !m->config->tied_embeddings;
    if (where == SHAPE_LAYER) return true;
    return (where == SHAPE_DENSE) == (m->config->layer_moe[layer] == 0);
}

static Status model_shape_walk(ShapeMaker *m, Err *err) {
    m->n_tensors = m->bytes = 0;
    for (int32_t layer = 0; layer < m->config->n_layers; layer++) {
        for (size_t row = 0; row < ARRAY_LEN(shape_tensors); row++) {
            ShapeWhere where = shape_tensors[row].where;
            if ((where == SHAPE_ONCE && layer > 0) || !model_shape_has(m, row, layer)) continue;
            int32_t n = where == SHAPE_EXPERT ? m->config->n_experts : 1;
            for (int32_t e = 0; e < n; e++) TRY(model_shape_tensor(m, row, layer, e, err));
        }
    }
    return OK;
}

/* Single quotes make the table legible; JSON wants double ones. */
static Status model_shape_config(const ModelShape *shape, json_t **out, Err *err) {
    char *text = mem_strdup(shape->config);
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\'') *p = '"';
    Status status = json_parse(out, str_from(text), &JSON_LIMITS_FILE, shape->name, err);
    mem_free(text);
    return status;
}

static Status model_shape_make(ShapeMaker *m, const ModelShape *shape, json_t *json, Err *err) {
    const ModelConfig *c = m->config;
    if (c->qkv_bias || c->out_bias || c->ffn_bias || m->arch->all_bias)
        FAIL(err, ERR_UNSUPPORTED, "%s: shapes with biases cannot be made", shape->name);
    ShapePattern *matrix = shape_pattern_open(m->type);
    ShapePattern *router = shape_pattern_open(dtype_is_grouped(m->type) ? DTYPE_F32 : m->type);
    m->matrix = matrix;
    m->router = router;
    Status status = model_shape_walk(m, err);
    if (status == OK)
        status =
            model_file_make(&m->file, shape->name, json_incref(json), m->n_tensors, m->bytes, err);
    if (status == OK) status = model_shape_walk(m, err);
    shape_pattern_close(matrix);
    shape_pattern_close(router);
    return status;
}

Status model_shape_open(ModelFile **out, const ModelShape *shape, DType type, ThreadPool *pool,
                        Err *err) {
    json_t *json;
    ModelConfig config;
    if (!dtype_can_write(type) && !(dtype_is_grouped(type) && dtype_can_read(type)))
        FAIL(err, ERR_ARG, "%s is no weight format", dtype_info(type)->name);
    TRY(model_shape_config(shape, &json, err));
    Status status = model_config_from_json(&config, json, err);
    if (status == OK) {
        ShapeMaker maker = {.config = &config,
                            .arch = arch_find(str_from(config.arch)),
                            .type = type,
                            .pool = pool};
        model_shape_sizes(&maker);
        status = model_shape_make(&maker, shape, json, err);
        if (status == OK)
            *out = maker.file;
        else
            model_file_close(maker.file);
        model_config_free(&config);
    }
    json_decref(json);
    return status;
}
