/* test_weights: files whose tensors do not fit their config, or hold nonsense, are refused with a
 * sentence that names the tensor.
 *
 * The files are edits of a golden model: a text of config.json replaced by another, one of the
 * safetensors header by another of the same length, or bytes of a tensor overwritten. */
#include "../golden/golden.h"

typedef struct WeightsEdit {
    const char *family;
    const char *config_from, *config_to; /* NULL: as it is */
    const char *header_from, *header_to;
    const char *wanted; /* in the sentence */
    Status status;
} WeightsEdit;

static const WeightsEdit weights_edits[] = {
    {"llama", NULL, NULL, "model.norm.weight", "model.nork.weight",
     "tensor 'model.norm.weight' is missing", ERR_FORMAT},
    {"llama", NULL, NULL, "layers.2.mlp.up_proj", "layers.7.mlp.up_proj",
     "tensor 'model.layers.2.mlp.up_proj.weight' is missing", ERR_FORMAT},
    {"llama", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 400", NULL, NULL,
     "tensor 'model.layers.3.input_layernorm.weight' is missing", ERR_FORMAT},
    {"llama", "\"intermediate_size\": 88", "\"intermediate_size\": 87", NULL, NULL,
     "gate_proj.weight' is [88, 48] f32, the config wants [87, 48]", ERR_FORMAT},
    {"llama", "\"vocab_size\": 256", "\"vocab_size\": 8000000", NULL, NULL,
     "embed_tokens.weight' is [256, 48] f32, the config wants [8000000, 48]", ERR_FORMAT},
    {"llama", "\"hidden_size\": 48", "\"hidden_size\": 52", NULL, NULL,
     "the config wants [256, 52]", ERR_FORMAT},
    {"llama", "\"num_attention_heads\": 4", "\"num_attention_heads\": 8", NULL, NULL,
     "q_proj.weight' is [48, 48] f32, the config wants [96, 48]", ERR_FORMAT},
    {"llama", "\"attention_bias\": false", "\"attention_bias\": true", NULL, NULL,
     "tensor 'model.layers.0.self_attn.q_proj.bias' is missing", ERR_FORMAT},
    {"llama", NULL, NULL, "[88,48]", "[48,88]", "the config wants", ERR_FORMAT},
    {"qwen2", NULL, NULL, "layers.1.self_attn.k_proj.bias", "layers.9.self_attn.k_proj.bias",
     "'model.layers.1.self_attn.k_proj.bias' is missing", ERR_FORMAT},
    {"phi3", NULL, NULL, "layers.1.self_attn.qkv_proj", "layers.1.self_attn.qkv_prok",
     "'model.layers.1.self_attn.qkv_proj.weight' is missing", ERR_FORMAT},
    {"phi3", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", NULL, NULL,
     "the config wants [192, 64]", ERR_FORMAT},
    {"mixtral", "\"num_local_experts\": 5", "\"num_local_experts\": 4000", NULL, NULL,
     "gate.weight' is [5, 48] bf16, the config wants [4000, 48]", ERR_FORMAT},
    {"mixtral", NULL, NULL, "layers.2.block_sparse_moe.experts.4.w2",
     "layers.2.block_sparse_moe.experts.9.w2", "experts.4.w2.weight' is missing", ERR_FORMAT},
    {"gpt2", "\"n_positions\": 460", "\"n_positions\": 461", NULL, NULL,
     "wpe.weight' is [460, 40] f32, the config wants [461, 40]", ERR_FORMAT},
};

/* Replaces the first `from` of a NUL-terminated text; the caller frees. */
static char *weights_replace(const Buf *text, const char *from, const char *to) {
    char *at = strstr(text->data, from);
    if (at == NULL) fail_msg("there is no %s", from);
    Buf out = {0};
    buf_append(&out, text->data, (size_t)(at - text->data));
    buf_append_text(&out, to);
    buf_append_text(&out, at + strlen(from));
    return out.data;
}

static void weights_read(const char *family, const char *name, Buf *out) {
    Err err = {0};
    char path[160];
    snprintf(path, sizeof path, "tests/golden/%s/%s", family, name);
    ASSERT_OK(file_read(out, path, 1 << 20, &err), err);
}

/* Overwrites every `from` in the first len bytes. */
static void weights_patch(char *bytes, size_t len, const char *from, const char *to) {
    size_t n = strlen(from), n_done = 0;
    assert_int_equal(n, strlen(to));
    for (size_t i = 0; i + n <= len; i++) {
        if (memcmp(bytes + i, from, n) != 0) continue;
        memcpy(bytes + i, to, n);
        n_done++;
    }
    assert_true(n_done > 0);
}

static void weights_write(const char *dir, const char *name, const char *data, size_t len) {
    char *path = file_join(dir, name);
    testing_write(path, data, len);
    mem_free(path);
}

static uint64_t weights_header_len(const Buf *file) {
    uint64_t len;
    memcpy(&len, file->data, sizeof len);
    return len;
}

static Status weights_open(const char *dir, GoldenModel *m, Err *err) {
    ModelFile *file = NULL;
    Err other = {0};
    memset(m, 0, sizeof *m);
    ASSERT_OK(ops_cpu(&m->ops, NULL, &other), other);
    m->ctx = (OpCtx){.device = device_host()};
    TRY(model_file_open(&file, dir, err));
    ModelOptions options = {.ops = m->ops, .ctx = &m->ctx, .quiet = true};
    return model_open(&m->model, file, &options, err);
}

static void weights_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(weights_edits); i++) {
        const WeightsEdit *edit = &weights_edits[i];
        char *dir = testing_temp_dir();
        Buf config = {0}, tensors = {0};
        GoldenModel m;
        Err err = {0};
        weights_read(edit->family, "config.json", &config);
        weights_read(edit->family, "model.safetensors", &tensors);
        if (edit->config_from != NULL) {
            char *text = weights_replace(&config, edit->config_from, edit->config_to);
            weights_write(dir, "config.json", text, strlen(text));
            free(text);
        } else {
            weights_write(dir, "config.json", config.data, config.len);
        }
        if (edit->header_from != NULL)
            weights_patch(tensors.data + 8, weights_header_len(&tensors), edit->header_from,
                          edit->header_to);
        weights_write(dir, "model.safetensors", tensors.data, tensors.len);
        Status status = weights_open(dir, &m, &err);
        if (status != edit->status || strstr(err.text, edit->wanted) == NULL)
            fail_msg("edit %zu gave %s: %s", i, status_text(status), err.text);
        buf_free(&config);
        buf_free(&tensors);
        testing_temp_remove(dir);
    }
}

/* A norm with a NaN or an infinity. */
static void weights_not_finite(void **state) {
    (void)state;
    const uint32_t bad[] = {0x7fc00000u, 0x7f800000u, 0xff800000u};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char *dir = testing_temp_dir();
        Buf config = {0}, tensors = {0};
        GoldenModel m;
        Err err = {0};
        json_t *header = NULL;
        weights_read("llama", "config.json", &config);
        weights_read("llama", "model.safetensors", &tensors);
        uint64_t len = weights_header_len(&tensors);
        ASSERT_OK(
            json_parse(&header, (Str){tensors.data + 8, len}, &JSON_LIMITS_FILE, "header", &err),
            err);
        json_t *norm = json_object_get(header, "model.layers.1.post_attention_layernorm.weight");
        json_int_t at =
            json_integer_value(json_array_get(json_object_get(norm, "data_offsets"), 0));
        memcpy(tensors.data + 8 + len + at + 4 * 7, &bad[i], 4);
        weights_write(dir, "config.json", config.data, config.len);
        weights_write(dir, "model.safetensors", tensors.data, tensors.len);
        assert_int_equal(weights_open(dir, &m, &err), ERR_FORMAT);
        assert_non_null(strstr(err.text,
                               "'model.layers.1.post_attention_layernorm.weight' holds a "
                               "number that is not finite"));
        json_decref(header);
        buf_free(&config);
        buf_free(&tensors);
        testing_temp_remove(dir);
    }
}

/* Bytes and parameters of known models. */
static void weights_counts(void **state) {
    (void)state;
    Err err = {0};
    GoldenModel m;
    ASSERT_OK(weights_open("tests/golden/llama", &m, &err), err);
    ModelBytes bytes = model_bytes(m.model);
    /* embedding and output; in 3 layers q and o, k and v, the FFN, two norms; the last norm */
    int64_t n = 2 * 256 * 48 + 3 * (2 * 48 * 48 + 2 * 24 * 48 + 3 * 88 * 48 + 2 * 48) + 48;
    assert_int_equal(bytes.n_params, n);
    assert_int_equal(bytes.n_params_active, n);
    assert_int_equal(bytes.stored, n * 4);
    model_close(m.model);
    ASSERT_OK(weights_open("tests/golden/mixtral", &m, &err), err);
    bytes = model_bytes(m.model);
    int64_t expert = 3 * 40 * 48;
    int64_t rest = 2 * 256 * 48 + 3 * (2 * 48 * 48 + 2 * 24 * 48 + 5 * 48 + 2 * 48) + 48;
    assert_int_equal(bytes.n_params, rest + 3 * 5 * expert);
    assert_int_equal(bytes.n_params_active, rest + 3 * 2 * expert);
    assert_int_equal(bytes.stored, 2 * (rest + 3 * 5 * expert));
    model_close(m.model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_refused),
        cmocka_unit_test(weights_not_finite),
        cmocka_unit_test(weights_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
