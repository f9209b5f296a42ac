/* test_model_shape: made-up models run, in every number format, and are what their names say.
 *
 * Method: small shapes of the dense, mixture, fused and windowed families go through a step; what
 * is bound is counted by hand; the values are read back with the reference conversions. */
#include "../golden/golden.h"
#include "model/model_shape.h"

typedef struct ShapeRun {
    OpCtx ctx;
    Model *model;
    Single *single;
} ShapeRun;

static void shape_run_open(ShapeRun *run, const ModelShape *shape, DType type, ThreadPool *pool) {
    Err err = {0};
    ModelFile *file;
    const Ops *ops;
    *run = (ShapeRun){.ctx = {.device = device_host(), .pool = pool}};
    ASSERT_OK(ops_cpu(&ops, NULL, &err), err);
    ASSERT_OK(model_shape_open(&file, shape, type, pool, &err), err);
    ModelOptions options = {.ops = ops, .ctx = &run->ctx, .quiet = true};
    ASSERT_OK(model_open(&run->model, file, &options, &err), err);
    SingleOptions single = {.context_max = 64, .n_logits_max = 8, .kv_dtype = DTYPE_BF16};
    ASSERT_OK(single_open(&run->single, run->model, &run->ctx, &single, &err), err);
}

static void shape_run_close(ShapeRun *run) {
    single_close(run->single);
    model_close(run->model);
}

/* Logits of a few tokens are finite and tell the tokens apart. */
static void shape_run_step(ShapeRun *run) {
    Err err = {0};
    const float *logits;
    const int32_t token[8] = {1, 5, 7, 11, 2, 3, 90, 13};
    int32_t vocab = model_config(run->model)->vocab, n_same = 0;
    ASSERT_OK(single_feed(run->single, token, 8, 8, &logits, &err), err);
    for (int32_t i = 0; i < 8 * vocab; i++) assert_true(isfinite(logits[i]));
    for (int32_t i = 0; i < vocab; i++) n_same += logits[i] == logits[7 * vocab + i];
    assert_true(n_same < vocab / 2);
}

#define SHAPE_SIZES                                                                          \
    "'hidden_size': 256, 'num_hidden_layers': 3, 'num_attention_heads': 4,"                  \
    "'num_key_value_heads': 2, 'head_dim': 64, 'intermediate_size': 512, 'vocab_size': 320," \
    "'max_position_embeddings': 128"

static const struct {
    ModelShape shape;
    int64_t n_params;
} shape_cases[] = {
    /* 3 layers of two norms, q and o, k and v, gate, up and down; embedding, output and norm */
    {{"dense", "{'model_type': 'llama', " SHAPE_SIZES "}"},
     3 * (2 * 256 + 2 * 65536 + 2 * 32768 + 3 * 131072) + 2 * 81920 + 256},
    /* the same with norms of heads and 4 experts of 256 with a router */
    {{"mixture",
      "{'model_type': 'qwen3_moe', 'num_experts': 4, 'num_experts_per_tok': 2,"
      "'moe_intermediate_size': 256, " SHAPE_SIZES "}"},
     3 * (2 * 256 + 2 * 65536 + 2 * 32768 + 2 * 64 + 4 * 256 + 4 * 3 * 65536) + 2 * 81920 + 256},
    {{"fused", "{'model_type': 'phi3', 'sliding_window': 16, " SHAPE_SIZES "}"},
     3 * (2 * 256 + 2 * 65536 + 2 * 32768 + 3 * 131072) + 2 * 81920 + 256},
    /* tied, four norms a layer and norms of heads */
    {{"windowed",
      "{'model_type': 'gemma3_text', 'sliding_window': 16,"
      "'query_pre_attn_scalar': 64, " SHAPE_SIZES "}"},
     3 * (4 * 256 + 2 * 64 + 2 * 65536 + 2 * 32768 + 3 * 131072) + 81920 + 256},
};

static void shape_families(void **state) {
    (void)state;
    Err err = {0};
    ThreadPool *pool;
    ASSERT_OK(pool_open(&pool, 2, &err), err);
    for (size_t i = 0; i < ARRAY_LEN(shape_cases); i++) {
        ShapeRun run;
        shape_run_open(&run, &shape_cases[i].shape, DTYPE_BF16, pool);
        assert_int_equal(model_bytes(run.model).n_params, shape_cases[i].n_params);
        shape_run_step(&run);
        shape_run_close(&run);
    }
    pool_close(pool);
}

static void shape_formats(void **state) {
    (void)state;
    for (DType type = 0; type < DTYPE_COUNT; type++) {
        if (!dtype_can_write(type) && !(dtype_is_grouped(type) && dtype_can_read(type))) continue;
        ShapeRun run;
        shape_run_open(&run, &shape_cases[0].shape, type, NULL);
        assert_int_equal(model_config(run.model)->weight_dtype, type);
        shape_run_step(&run);
        shape_run_close(&run);
    }
}

/* Values near 0.02 around zero; no row is another's copy. */
static void shape_values(void **state) {
    (void)state;
    Err err = {0};
    for (DType type = 0; type < DTYPE_COUNT; type++) {
        if (!dtype_can_write(type) && !(dtype_is_grouped(type) && dtype_can_read(type))) continue;
        ModelFile *file;
        Tensor t;
        ASSERT_OK(model_shape_open(&file, &shape_cases[0].shape, type, NULL, &err), err);
        assert_true(model_file_find(file, "model.layers.1.mlp.down_proj.weight", &t));
        float *values = mem_alloc(256 * 512 * sizeof *values);
        dtype_to_f32(type, t.data, values, 256 * 512);
        double sum = 0, sum_sq = 0;
        for (int i = 0; i < 256 * 512; i++) {
            sum += (double)values[i];
            sum_sq += (double)values[i] * (double)values[i];
        }
        double mean = sum / (256 * 512), rms = sqrt(sum_sq / (256 * 512));
        assert_true(rms > 0.015 && rms < 0.03);
        assert_true(fabs(mean) < 0.15 * rms);
        for (int r = 1; r < 256; r++)
            assert_memory_not_equal(values, values + r * 512, 512 * sizeof(float));
        mem_free(values);
        model_file_close(file);
    }
}

/* The table's configurations are read as any model's; names are found; what cannot be made says
 * why. */
static void shape_table(void **state) {
    (void)state;
    Err err = {0};
    int32_t n;
    const ModelShape *table = model_shape_table(&n), *found;
    for (int32_t i = 0; i < n; i++) {
        ASSERT_OK(model_shape_find(str_from(table[i].name), &found, &err), err);
        assert_ptr_equal(found, &table[i]);
    }
    assert_int_equal(model_shape_find(str_from("gpt-5"), &found, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "llama-3.1-8b"));

    err = (Err){0};
    ModelFile *file;
    static const ModelShape odd = {
        "odd",
        "{'model_type': 'llama', 'hidden_size': 96, 'num_hidden_layers': 1,"
        "'num_attention_heads': 2, 'intermediate_size': 96, 'vocab_size': 64}"};
    assert_int_equal(model_shape_open(&file, &odd, DTYPE_Q4_K, NULL, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "multiples of 256"));
    assert_int_equal(model_shape_open(&file, &odd, DTYPE_I32, NULL, &err), ERR_ARG);
    static const ModelShape biased = {
        "biased",
        "{'model_type': 'qwen2', 'hidden_size': 64, 'num_hidden_layers': 1,"
        "'num_attention_heads': 2, 'intermediate_size': 64, 'vocab_size': 64}"};
    assert_int_equal(model_shape_open(&file, &biased, DTYPE_F16, NULL, &err), ERR_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shape_families),
        cmocka_unit_test(shape_formats),
        cmocka_unit_test(shape_values),
        cmocka_unit_test(shape_table),
    };
    return cmocka_run_group_tests_name("model_shape", tests, NULL, NULL);
}
