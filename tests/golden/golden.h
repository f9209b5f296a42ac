/* golden: the tiny models of tests/golden with what Hugging Face computes, and opening a model of
 * any file at a level and a number of threads. */
#pragma once

#include "testing.h"

#include "base/json.h"
#include "model/single.h"
#include "ops/plugin_testing.h"

static const char *const golden_families[] = {
    "llama",   "llama3", "llama_linear",  "llama_yarn", "llama_yarn_raw", "mistral",
    "mixtral", "qwen2",  "qwen2_window",  "qwen3",      "qwen3_moe",      "gemma2",
    "gemma3",  "phi3",   "phi3_longrope", "gpt2"};

enum { GOLDEN_CONTEXT = 456 }; /* 200 tokens of prompt, 256 more */

/* A model with the ops and threads that it runs on. */
typedef struct GoldenModel {
    Model *model;
    ThreadPool *pool;
    OpCtx ctx;
    const Ops *ops;
} GoldenModel;

/* Beside the levels of the CPU: a GPU, where there is one. */
enum { GOLDEN_CUDA = OPS_LEVEL_COUNT, GOLDEN_LEVELS };

static inline const char *golden_level_name(int32_t level) {
    return level == GOLDEN_CUDA ? "cuda" : ops_level_name((OpsLevel)level);
}

static inline void golden_open_model(GoldenModel *out, const char *path, int32_t level,
                                     int32_t n_threads) {
    Err err = {0};
    ModelFile *file = NULL;
    memset(out, 0, sizeof *out);
    const bool gpu = level == GOLDEN_CUDA;
    ASSERT_OK(plugin_open(gpu ? "cuda" : NULL, gpu ? NULL : ops_level_name((OpsLevel)level),
                          &out->ops, &out->ctx.device, &err),
              err);
    ASSERT_OK(pool_open(&out->pool, n_threads, &err), err);
    out->ctx.pool = out->pool;
    ASSERT_OK(model_file_open(&file, path, &err), err);
    ModelOptions options = {.ops = out->ops, .ctx = &out->ctx, .quiet = true};
    ASSERT_OK(model_open(&out->model, file, &options, &err), err);
}

static inline void golden_close_model(GoldenModel *m) {
    model_close(m->model);
    plugin_close(m->ctx.device);
    pool_close(m->pool);
}

static inline Single *golden_single(const GoldenModel *m, const SingleOptions *options) {
    Err err = {0};
    Single *single = NULL;
    ASSERT_OK(single_open(&single, m->model, &m->ctx, options, &err), err);
    return single;
}

/* Expected outputs of a family. */
typedef struct Golden {
    Ints prompt, greedy, rows; /* rows: positions whose logits are kept */
    float *logits;             /* [rows, vocab] */
    int32_t vocab;
    char folder[128];
} Golden;

static inline void golden_ints(const json_t *json, const char *key, Ints *out) {
    const json_t *list = json_object_get(json, key);
    assert_true(json_is_array(list));
    for (size_t i = 0; i < json_array_size(list); i++)
        ints_push(out, (int32_t)json_integer_value(json_array_get(list, i)));
}

static inline void golden_load(Golden *g, const char *family) {
    Err err = {0};
    json_t *json = NULL;
    Buf logits = {0};
    char path[160];
    memset(g, 0, sizeof *g);
    snprintf(g->folder, sizeof g->folder, "tests/golden/%s", family);
    snprintf(path, sizeof path, "%s/golden.json", g->folder);
    ASSERT_OK(json_parse_file(&json, path, &err), err);
    golden_ints(json, "prompt", &g->prompt);
    golden_ints(json, "greedy", &g->greedy);
    golden_ints(json, "logits_rows", &g->rows);
    g->vocab = (int32_t)json_integer_value(json_object_get(json, "vocab"));
    json_decref(json);
    snprintf(path, sizeof path, "%s/logits.bin", g->folder);
    ASSERT_OK(file_read(&logits, path, 1 << 20, &err), err);
    assert_int_equal(logits.len, g->rows.len * (size_t)g->vocab * sizeof(float));
    g->logits = (float *)(void *)logits.data;
}

static inline void golden_free(Golden *g) {
    ints_free(&g->prompt);
    ints_free(&g->greedy);
    ints_free(&g->rows);
    free(g->logits);
}

static inline int32_t golden_argmax(const float *logits, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Runs one test per family and level, named FAMILY/LEVEL; a test gets its GoldenCase as the initial
 * state and counts as skipped where the level cannot run. */
typedef struct GoldenCase {
    const char *family;
    int32_t level;
    char name[64];
} GoldenCase;

enum { GOLDEN_CASES_MAX = 96 };

/* Whether the level rounds the activations of this model's matrices to bf16: then its logits are
 * near those of f32 activations, not the same to some roundings, and ties fall otherwise. */
static inline bool golden_rounds(const GoldenModel *m) {
    const DType weight = model_config(m->model)->weight_dtype;
    if (m->ops->feed(weight) == DTYPE_BF16) return true;
    return (strcmp(m->ops->level, "avx512bf16") == 0 || strcmp(m->ops->level, "amx") == 0) &&
           weight == DTYPE_BF16;
}

static inline bool golden_has_gpu(void) {
    const Ops *ops = NULL;
    Device *device = NULL;
    if (!plugin_testing_gpu(&ops, &device)) return false;
    plugin_close(device);
    return true;
}

static inline const GoldenCase *golden_case(void **state) {
    const GoldenCase *c = *state;
    if (c->level == GOLDEN_CUDA ? !golden_has_gpu() : !ops_cpu_has((OpsLevel)c->level)) skip();
    return c;
}

static inline int golden_run_cases(CMUnitTestFunction test, const char *prefix) {
    static GoldenCase cases[GOLDEN_CASES_MAX];
    static struct CMUnitTest tests[GOLDEN_CASES_MAX];
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(golden_families); i++) {
        for (int32_t level = 0; level < GOLDEN_LEVELS && n < GOLDEN_CASES_MAX; level++, n++) {
            GoldenCase *c = &cases[n];
            c->family = golden_families[i];
            c->level = level;
            snprintf(c->name, sizeof c->name, "%s_%s_%s", prefix, c->family,
                     golden_level_name(c->level));
            tests[n] = (struct CMUnitTest){.name = c->name, .test_func = test, .initial_state = c};
        }
    }
    /* SLUICE_TEST_FILTER=*_cuda runs the GPU's alone. */
    const char *filter = getenv("SLUICE_TEST_FILTER");
    if (filter != NULL) cmocka_set_test_filter(filter);
    return _cmocka_run_group_tests(prefix, tests, n, NULL, NULL);
}
