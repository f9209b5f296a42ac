/* test_weight_layouts: files of one model that name or stack its tensors otherwise bind alike: the
 * logits of the golden model, rewritten, have the same bits.
 *
 * Covered: experts stacked with gate and up fused, as transformers 5 keeps them; the wrapper of a
 * multimodal Gemma 3; names without their prefix. */
#include "../golden/golden.h"

#include "model/arch.h"

/* Tensors of a new safetensors file: each a run of bytes made of tensors of the old one. */
typedef struct LayoutWriter {
    Buf header, data;
    bool any;
} LayoutWriter;

static void layout_begin(LayoutWriter *w, const char *name, DType dtype, const int64_t *shape,
                         int32_t n_dims) {
    buf_append_format(&w->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", w->any ? "," : "", name,
                      dtype == DTYPE_BF16 ? "BF16" : "F32");
    for (int32_t i = 0; i < n_dims; i++)
        buf_append_format(&w->header, "%s%lld", i > 0 ? "," : "", (long long)shape[i]);
    buf_append_format(&w->header, "],\"data_offsets\":[%zu,", w->data.len);
    w->any = true;
}

static void layout_bytes(LayoutWriter *w, const Tensor *t) {
    buf_append(&w->data, t->data, (size_t)tensor_bytes(t));
}

static void layout_end(LayoutWriter *w) {
    buf_append_format(&w->header, "%zu]}", w->data.len);
}

static void layout_copy(LayoutWriter *w, const char *name, const Tensor *t) {
    layout_begin(w, name, t->dtype, t->shape, t->n_dims);
    layout_bytes(w, t);
    layout_end(w);
}

static void layout_save(LayoutWriter *w, const char *dir, const char *config) {
    Buf file = {0};
    char *path = file_join(dir, "model.safetensors");
    while (w->header.len % 8 != 6) buf_append_byte(&w->header, ' ');
    uint64_t len = w->header.len + 2;
    buf_append(&file, &len, sizeof len);
    buf_append_byte(&file, '{');
    buf_append_str(&file, buf_str(&w->header));
    buf_append_byte(&file, '}');
    buf_append_str(&file, buf_str(&w->data));
    testing_write(path, file.data, file.len);
    mem_free(path);
    path = file_join(dir, "config.json");
    testing_write(path, config, strlen(config));
    mem_free(path);
    buf_free(&file);
    buf_free(&w->header);
    buf_free(&w->data);
}

/* Logits of the prompt by the model in dir are those of the golden one. */
static void layout_same(const char *family, const char *dir) {
    Golden g;
    Err err = {0};
    GoldenModel m[2];
    const float *logits[2];
    Single *single[2];
    golden_load(&g, family);
    for (int32_t i = 0; i < 2; i++) {
        golden_open_model(&m[i], i == 0 ? g.folder : dir, OPS_REF, 1);
        SingleOptions options = {.context_max = GOLDEN_CONTEXT, .n_logits_max = 200};
        single[i] = golden_single(&m[i], &options);
        ASSERT_OK(single_feed(single[i], g.prompt.data, 200, 200, &logits[i], &err), err);
    }
    assert_memory_equal(logits[0], logits[1], 200 * (size_t)g.vocab * sizeof(float));
    assert_int_equal(model_bytes(m[0].model).n_params, model_bytes(m[1].model).n_params);
    for (int32_t i = 0; i < 2; i++) {
        single_close(single[i]);
        golden_close_model(&m[i]);
    }
    golden_free(&g);
}

static ModelFile *layout_source(const char *family, Buf *config) {
    ModelFile *file = NULL;
    Err err = {0};
    char path[160];
    snprintf(path, sizeof path, "tests/golden/%s", family);
    ASSERT_OK(model_file_open(&file, path, &err), err);
    snprintf(path, sizeof path, "tests/golden/%s/config.json", family);
    ASSERT_OK(file_read(config, path, 1 << 16, &err), err);
    return file;
}

static void layout_find(const ModelFile *file, Tensor *t, const char *pattern, int32_t layer,
                        int32_t expert) {
    char name[ARCH_NAME_BYTES];
    assert_true(arch_tensor_name(name, "model.", pattern, 0, layer, expert));
    if (!model_file_find(file, name, t)) fail_msg("no %s", name);
}

/* Layer i of Mixtral with stacked experts: [experts, 2 * ff, dim] and [experts, dim, ff]. */
static void layout_stack(LayoutWriter *w, const ModelFile *file, int32_t layer) {
    enum { EXPERTS = 5 };
    char name[ARCH_NAME_BYTES];
    Tensor t;
    const int64_t gate_up[] = {EXPERTS, 80, 48}, down[] = {EXPERTS, 48, 40};
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.gate_up_proj", layer);
    layout_begin(w, name, DTYPE_BF16, gate_up, 3);
    for (int32_t e = 0; e < EXPERTS; e++) {
        layout_find(file, &t, "layers.#.block_sparse_moe.experts.@.w1.weight", layer, e);
        layout_bytes(w, &t);
        layout_find(file, &t, "layers.#.block_sparse_moe.experts.@.w3.weight", layer, e);
        layout_bytes(w, &t);
    }
    layout_end(w);
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.down_proj", layer);
    layout_begin(w, name, DTYPE_BF16, down, 3);
    for (int32_t e = 0; e < EXPERTS; e++) {
        layout_find(file, &t, "layers.#.block_sparse_moe.experts.@.w2.weight", layer, e);
        layout_bytes(w, &t);
    }
    layout_end(w);
    layout_find(file, &t, "layers.#.block_sparse_moe.gate.weight", layer, 0);
    snprintf(name, sizeof name, "model.layers.%d.mlp.gate.weight", layer);
    layout_copy(w, name, &t);
}

static void layout_stacked_experts(void **state) {
    (void)state;
    Buf config = {0};
    LayoutWriter w = {0};
    char *dir = testing_temp_dir();
    ModelFile *file = layout_source("mixtral", &config);
    for (int64_t i = 0; i < model_file_n_tensors(file); i++) {
        Str name;
        Tensor t;
        char text[ARCH_NAME_BYTES];
        model_file_tensor(file, i, &name, &t);
        if (str_find(name, STR_LIT("block_sparse_moe"), 0) != SIZE_MAX) continue;
        snprintf(text, sizeof text, "%.*s", STR_ARG(name));
        layout_copy(&w, text, &t);
    }
    for (int32_t layer = 0; layer < 3; layer++) layout_stack(&w, file, layer);
    layout_save(&w, dir, config.data);
    layout_same("mixtral", dir);
    model_file_close(file);
    buf_free(&config);
    testing_temp_remove(dir);
}

/* Every tensor with `to` for the prefix `from`, and the config within a text. */
static void layout_prefix(const char *family, const char *from, const char *to, const char *before,
                          const char *after) {
    Buf config = {0}, wrapped = {0};
    LayoutWriter w = {0};
    char *dir = testing_temp_dir();
    ModelFile *file = layout_source(family, &config);
    for (int64_t i = 0; i < model_file_n_tensors(file); i++) {
        Str name;
        Tensor t;
        char text[ARCH_NAME_BYTES];
        model_file_tensor(file, i, &name, &t);
        assert_true(str_starts_with(name, from));
        snprintf(text, sizeof text, "%s%.*s", to, STR_ARG(str_slice(name, strlen(from), SIZE_MAX)));
        layout_copy(&w, text, &t);
    }
    buf_append_text(&wrapped, before);
    buf_append_str(&wrapped, buf_str(&config));
    buf_append_text(&wrapped, after);
    layout_save(&w, dir, wrapped.data);
    layout_same(family, dir);
    model_file_close(file);
    buf_free(&config);
    buf_free(&wrapped);
    testing_temp_remove(dir);
}

static void layout_prefixes(void **state) {
    (void)state;
    layout_prefix("gpt2", "transformer.", "", "", "");
    layout_prefix("qwen3", "model.", "", "", "");
    layout_prefix("gemma3", "model.", "language_model.model.",
                  "{\"model_type\":\"gemma3\",\"text_config\":", "}");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(layout_stacked_experts),
                                       cmocka_unit_test(layout_prefixes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
