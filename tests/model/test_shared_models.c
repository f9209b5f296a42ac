/* test_shared_models: trained models of the shared test data: stories260K and babyllama token for
 * token and logit for logit (their references were computed in float64), as Hugging Face directory
 * and as GGUF; the validation loss of the fable models.
 *
 * Quantized to Q8_0 and Q4_0, logits are the same bits for any chunking and threads as well.
 *
 * The loss over all 64 windows takes minutes; SLUICE_EVAL_WINDOWS=64 asks for it. By default 4
 * windows are held against the number that PyTorch computed for them. */
#include "../golden/golden.h"

#include "compress/convert.h"

/* Prompt and continuation of a golden.json, the logits of the first 64 positions. */
static void shared_stories(const char *folder, const char *model, OpsLevel level) {
    if (!ops_cpu_has(level)) skip();
    char name[160];
    Err err = {0};
    json_t *json = NULL;
    Ints ids = {0};
    Buf want = {0};
    GoldenModel m;
    const float *logits = NULL;
    snprintf(name, sizeof name, "%s/golden.json", folder);
    char *path = testing_shared(name);
    ASSERT_OK(json_parse_file(&json, path, &err), err);
    mem_free(path);
    golden_ints(json, "greedy_ids", &ids);
    size_t n_prompt = json_array_size(json_object_get(json, "prompt_ids"));
    json_decref(json);
    snprintf(name, sizeof name, "%s/golden_logits_64xV_f32.bin", folder);
    path = testing_shared(name);
    ASSERT_OK(file_read(&want, path, 1 << 24, &err), err);
    mem_free(path);
    path = testing_shared(model);
    golden_open_model(&m, path, level, 2);
    mem_free(path);
    int32_t vocab = model_config(m.model)->vocab, n = (int32_t)ids.len;
    assert_int_equal(want.len, 64 * (size_t)vocab * sizeof(float));
    Single *single = golden_single(&m, &(SingleOptions){.context_max = n, .n_logits_max = n});
    ASSERT_OK(single_feed(single, ids.data, n, n, &logits, &err), err);
    double error =
        testing_error(logits, (const float *)(const void *)want.data, 64 * (size_t)vocab);
    print_message("%s: error %.2e\n", ops_level_name(level), error);
    ASSERT_ERROR_BELOW(error, 1e-5);
    for (int32_t i = (int32_t)n_prompt; i < n; i++)
        assert_int_equal(golden_argmax(logits + (int64_t)(i - 1) * vocab, vocab), ids.data[i]);
    single_close(single);
    golden_close_model(&m);
    ints_free(&ids);
    buf_free(&want);
}

#define SHARED_STORIES(name, folder, model)                        \
    static void name(void **state) {                               \
        shared_stories(folder, model, (OpsLevel)(intptr_t)*state); \
    }
SHARED_STORIES(shared_stories260k, "data/weights/stories260K/hf", "data/weights/stories260K/hf")
SHARED_STORIES(shared_stories260k_gguf, "data/weights/stories260K/hf",
               "data/weights/stories260K/gguf/stories260Ktok512.gguf")
SHARED_STORIES(shared_babyllama, "data/weights/babyllama-tok105/hf",
               "data/weights/babyllama-tok105/hf")

enum { SHARED_WINDOW = 1024 };

/* Nats per token over windows of 1,025 tokens: each token but the first predicted from those
 * before it. */
static double shared_loss(const GoldenModel *m, const uint16_t *tokens, int32_t n_windows) {
    Err err = {0};
    double sum = 0;
    int32_t vocab = model_config(m->model)->vocab;
    Single *single = golden_single(m, &(SingleOptions){.context_max = SHARED_WINDOW,
                                                       .n_logits_max = SHARED_WINDOW,
                                                       .chunk = SHARED_WINDOW});
    for (int32_t w = 0; w < n_windows; w++) {
        const uint16_t *window = tokens + (size_t)w * (SHARED_WINDOW + 1);
        int32_t ids[SHARED_WINDOW];
        const float *logits = NULL;
        for (int32_t i = 0; i < SHARED_WINDOW; i++) ids[i] = window[i];
        single_reset(single);
        ASSERT_OK(single_feed(single, ids, SHARED_WINDOW, SHARED_WINDOW, &logits, &err), err);
        for (int32_t i = 0; i < SHARED_WINDOW; i++) {
            const float *row = logits + (int64_t)i * vocab;
            double max = (double)row[golden_argmax(row, vocab)], total = 0;
            for (int32_t v = 0; v < vocab; v++) total += exp((double)row[v] - max);
            sum += max + log(total) - (double)row[window[i + 1]];
        }
    }
    single_close(single);
    return sum / ((double)n_windows * SHARED_WINDOW);
}

typedef struct SharedFable {
    const char *name;
    double loss;   /* of 64 windows, from its MODEL.md */
    double loss_4; /* of the first 4, from PyTorch in f32 */
} SharedFable;

static void shared_fable(void **state) {
    const SharedFable *fable = *state;
    char name[64];
    Err err = {0};
    Buf data = {0};
    GoldenModel m;
    OpsLevel level = OPS_AVX512;
    while (level > OPS_REF && !ops_cpu_has(level)) level--;
    if (level == OPS_REF) skip(); /* it would take a quarter of an hour */
    char *path = testing_shared("data/eval/fable-val.u16");
    ASSERT_OK(file_read(&data, path, 1 << 20, &err), err);
    mem_free(path);
    snprintf(name, sizeof name, "models/%s", fable->name);
    path = testing_shared(name);
    golden_open_model(&m, path, level, thread_cores());
    mem_free(path);
    const char *asked = getenv("SLUICE_EVAL_WINDOWS");
    int64_t n_windows = 4;
    if (asked != NULL) assert_true(str_to_i64(str_from(asked), &n_windows));
    assert_in_range(n_windows, 1, 64);
    int32_t n = (int32_t)n_windows;
    double loss = shared_loss(&m, (const uint16_t *)(const void *)data.data, n);
    print_message("%s: loss %.4f over %d windows\n", fable->name, loss, n);
    if (n == 64) assert_true(fabs(loss - fable->loss) < 0.005);
    if (n == 4) assert_true(fabs(loss - fable->loss_4) < 0.001);
    golden_close_model(&m);
    buf_free(&data);
}

enum { SHARED_BITS_TOKENS = 120 };

static void shared_bits_run(const char *path, OpsLevel level, int32_t chunk, int32_t n_threads,
                            float *out) {
    GoldenModel m;
    Err err = {0};
    const float *logits = NULL;
    int32_t ids[SHARED_BITS_TOKENS];
    golden_open_model(&m, path, level, n_threads);
    int32_t vocab = model_config(m.model)->vocab;
    for (int32_t i = 0; i < SHARED_BITS_TOKENS; i++) ids[i] = (i * 7919 + 11) % vocab;
    Single *single = golden_single(&m, &(SingleOptions){.context_max = 128,
                                                        .n_logits_max = SHARED_BITS_TOKENS,
                                                        .chunk = chunk,
                                                        .kv_dtype = DTYPE_BF16});
    ASSERT_OK(single_feed(single, ids, SHARED_BITS_TOKENS, SHARED_BITS_TOKENS, &logits, &err), err);
    memcpy(out, logits, SHARED_BITS_TOKENS * (size_t)vocab * sizeof(float));
    single_close(single);
    golden_close_model(&m);
}

/* A fable model as a GGUF file of a block format at a fast level. */
static void shared_bits_quantized(const char *name, DType type, OpsLevel level) {
    Err err = {0};
    ConvertReport report;
    ConvertOptions options = {.type = type, .quiet = true};
    char *source = testing_shared(name), *dir = testing_temp_dir(),
         *path = file_join(dir, "q.gguf");
    size_t n = SHARED_BITS_TOKENS * (size_t)8192;
    float *want = mem_alloc(n * sizeof *want), *got = mem_alloc(n * sizeof *got);
    ASSERT_OK(convert_to_gguf(source, path, &options, &report, &err), err);
    shared_bits_run(path, level, SHARED_BITS_TOKENS, 1, want);
    const int32_t chunks[] = {1, 7, 64, SHARED_BITS_TOKENS};
    for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
        shared_bits_run(path, level, chunks[i], 2, got);
        if (memcmp(want, got, n * sizeof *want) != 0)
            fail_msg("%s as %s: other bits in chunks of %d", name, dtype_info(type)->name,
                     chunks[i]);
    }
    mem_free(want);
    mem_free(got);
    mem_free(path);
    mem_free(source);
    testing_temp_remove(dir);
}

static void shared_bits(void **state) {
    OpsLevel level = (OpsLevel)(intptr_t)*state;
    if (!ops_cpu_has(level)) skip();
    shared_bits_quantized("models/fable-3m", DTYPE_Q8_0, level);
    shared_bits_quantized("models/fable-3m", DTYPE_Q4_0, level);
    shared_bits_quantized("models/fable-moe-23m", DTYPE_Q8_0, level);
    shared_bits_quantized("models/fable-moe-23m", DTYPE_Q4_0, level);
}

int main(void) {
    static SharedFable fables[] = {{"fable-28m", 3.357, 2.13731},
                                   {"fable-3m", 3.589, 2.55739},
                                   {"fable-moe-23m", 3.287, 2.11775}};
#define LEVELS(test)                                                     \
    {#test "_ref", test, NULL, NULL, (void *)(intptr_t)OPS_REF},         \
        {#test "_avx2", test, NULL, NULL, (void *)(intptr_t)OPS_AVX2}, { \
#test "_avx512", test, NULL, NULL, (void *)(intptr_t)OPS_AVX512  \
    }
    const struct CMUnitTest tests[] = {
        LEVELS(shared_stories260k),
        LEVELS(shared_stories260k_gguf),
        LEVELS(shared_babyllama),
        {"shared_bits_avx2", shared_bits, NULL, NULL, (void *)(intptr_t)OPS_AVX2},
        {"shared_bits_avx512", shared_bits, NULL, NULL, (void *)(intptr_t)OPS_AVX512},
        cmocka_unit_test_prestate(shared_fable, &fables[0]),
        cmocka_unit_test_prestate(shared_fable, &fables[1]),
        cmocka_unit_test_prestate(shared_fable, &fables[2]),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
