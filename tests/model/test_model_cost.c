/* test_model_cost: the analytic cost against published parameter counts, against the bytes that a
 * bound model counts, against sums written out token by token, and against a machine by hand. */
#include "../golden/golden.h"
#include "base/rng.h"
#include "model/model_cost.h"
#include "model/model_shape.h"

static void cost_config(const ModelShape *shape, ModelConfig *out) {
    Err err = {0};
    json_t *json = NULL;
    char *text = mem_strdup(shape->config);
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\'') *p = '"';
    ASSERT_OK(json_parse(&json, str_from(text), &JSON_LIMITS_FILE, "shape", &err), err);
    ASSERT_OK(model_config_from_json(out, json, &err), err);
    json_decref(json);
    mem_free(text);
}

static void cost_shape_config(const char *name, ModelConfig *out) {
    Err err = {0};
    const ModelShape *shape;
    ASSERT_OK(model_shape_find(str_from(name), &shape, &err), err);
    cost_config(shape, out);
}

/* As the model cards and the authors' safetensors indexes say. */
static const struct {
    const char *name;
    int64_t n_params, n_active; /* 0: not published */
} cost_published[] = {
    {"llama-1.1b", 1100048384, 0},     {"llama-3.2-1b", 1235814400, 0},
    {"llama-3.2-3b", 3212749824, 0},   {"llama-3.1-8b", 8030261248, 0},
    {"llama-3.1-70b", 70553706496, 0}, {"mistral-7b", 7241732096, 0},
    {"qwen3-0.6b", 596049920, 0},      {"qwen3-8b", 8190735360, 0},
    {"qwen3-30b-a3b", 30532122624, 0}, {"mixtral-8x7b", 46702792704, 0},
    {"gemma-3-1b", 999885952, 0},      {"phi-3-mini", 3821079552, 0},
};

static void cost_counts_published(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cost_published); i++) {
        ModelConfig config;
        cost_shape_config(cost_published[i].name, &config);
        if (model_cost_params(&config) != cost_published[i].n_params)
            fail_msg("%s: %lld parameters, published are %lld", cost_published[i].name,
                     (long long)model_cost_params(&config), (long long)cost_published[i].n_params);
        model_config_free(&config);
    }
}

/* What weights_bind counts as it binds, for every golden family: all parameters, and the bytes that
 * a step of one sequence reads (the count has the matrices and the embedding's row, not the
 * vectors). */
static void cost_counts_bound(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(golden_families); i++) {
        GoldenModel m;
        char path[128];
        snprintf(path, sizeof path, "tests/golden/%s", golden_families[i]);
        golden_open_model(&m, path, OPS_REF, 1);
        const ModelConfig *c = model_config(m.model);
        ModelBytes bytes = model_bytes(m.model);
        assert_int_equal(model_cost_params(c), bytes.n_params);
        double size = dtype_info(c->weight_dtype)->group_bytes;
        ModelCost cost = model_cost_decode(c, (ModelCostFormat){size, 4}, 1, 1);
        double vectors = cost.weight_bytes - (double)bytes.per_token;
        /* Norms and biases are a few thousand numbers of these models; an embedding of positions
         * has one more row. */
        assert_true(vectors >= 0 && vectors < 0.04 * cost.weight_bytes + 4.0 * c->dim);
        golden_close_model(&m);
    }
}

/* Attention, pair by pair; windows; chunks change the bytes and not the operations. */
static void cost_attends(void **state) {
    (void)state;
    ModelConfig c;
    cost_shape_config("gemma-3-1b", &c);
    double want = 0;
    int64_t n = 1500;
    for (int32_t layer = 0; layer < c.n_layers; layer++)
        for (int64_t q = 0; q < n; q++)
            for (int64_t k = 0; k <= q; k++)
                if (c.layer_kind[layer] != LAYER_WINDOW || q - k < c.window)
                    want += 4.0 * c.n_heads * c.head_dim;
    ModelCostFormat f = {2, 2};
    ModelCost whole = model_cost_prefill(&c, f, n, n), cut = model_cost_prefill(&c, f, n, 100);
    assert_true(whole.attend_flops == want);
    assert_true(fabs(cut.attend_flops - want) < 1e-9 * want);
    assert_true(cut.matrix_flops == whole.matrix_flops);
    assert_true(whole.kv_bytes == 0 && cut.kv_bytes > 0);
    assert_true(cut.n_runs == 15 * whole.n_runs);

    /* A decode step reads each layer's window: 22 layers of 512 and 4 of all. */
    ModelCost step = model_cost_decode(&c, f, 1, n);
    double kv = 2.0 * 256 * 2 * (22 * 512 + 4 * (double)(n - 1));
    assert_true(step.kv_bytes == kv);
    assert_true(model_cost_decode(&c, f, 16, n).kv_bytes == 16 * kv);
    model_config_free(&c);
}

/* Touched experts: the chosen ones of one token, nearly all of many; by simulation in between. */
static void cost_experts(void **state) {
    (void)state;
    ModelConfig c;
    cost_shape_config("qwen3-30b-a3b", &c);
    ModelCostFormat f = {1, 2};
    double expert = 3.0 * 2048 * 768, layers = 48;
    double one = model_cost_decode(&c, f, 1, 1).weight_bytes;
    double sixteen = model_cost_decode(&c, f, 16, 1).weight_bytes;
    double most = model_cost_decode(&c, f, 1000, 1).weight_bytes;
    assert_true(fabs(most - one - 999 * 2048 - layers * 120 * expert) < 1e-6 * most);
    double touched = 0;
    enum { TRIALS = 400 };
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        bool seen[128] = {false};
        for (uint64_t t = 0; t < 16; t++) {
            bool chosen[128] = {false};
            for (uint64_t u = 0, draw = 0; u < 8; draw++) {
                uint64_t e = rng_bits(3, trial, t * 1000 + draw) % 128;
                u += !chosen[e];
                chosen[e] = seen[e] = true;
            }
        }
        for (int e = 0; e < 128; e++) touched += seen[e];
    }
    touched /= TRIALS;
    double counted = 8 + (sixteen - one - 15 * 2048) / (layers * expert);
    assert_true(fabs(counted - touched) < 0.02 * touched);
    /* The card says 3.3 B active. */
    assert_true(llabs(model_cost_params_active(&c) - 3300000000) < 300000000);
    model_config_free(&c);
}

static void cost_seconds(void **state) {
    (void)state;
    ModelCost cost = {.weight_bytes = 900,
                      .kv_bytes = 100,
                      .matrix_flops = 3000,
                      .attend_flops = 500,
                      .n_runs = 10};
    MachineLimits m = {
        .read_bytes_per_s = 100, .matrix_flops_per_s = 1000, .attend_flops_per_s = 100};
    assert_true(model_cost_seconds(cost, m) == 10); /* 10 s to read, 8 s to compute */
    m.run_s = 0.5;
    assert_true(model_cost_seconds(cost, m) == 15);
    m.read_bytes_per_s = 0;
    assert_true(model_cost_seconds(cost, m) == 13);
}

/* An 8B Llama in bf16 at 3.35 TB/s: 15.0 GB of matrices without the input embedding are 4.5 ms. */
static void cost_llama_8b(void **state) {
    (void)state;
    ModelConfig c;
    cost_shape_config("llama-3.1-8b", &c);
    ModelCost step = model_cost_decode(&c, (ModelCostFormat){2, 2}, 1, 1024);
    assert_true(fabs(step.weight_bytes - 15.01e9) < 0.01e9);
    assert_true(fabs(step.matrix_flops - 15.01e9) < 0.01e9);
    assert_true(step.kv_bytes == 131072.0 * 1023);
    double ms = 1e3 * model_cost_seconds(step, (MachineLimits){.read_bytes_per_s = 3.35e12});
    assert_true(fabs(ms - 4.52) < 0.01);
    model_config_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cost_counts_published), cmocka_unit_test(cost_counts_bound),
        cmocka_unit_test(cost_attends),          cmocka_unit_test(cost_experts),
        cmocka_unit_test(cost_seconds),          cmocka_unit_test(cost_llama_8b),
    };
    return cmocka_run_group_tests_name("model_cost", tests, NULL, NULL);
}
