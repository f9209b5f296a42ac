/* test_forward: what a caller may ask of a pass beside the logits of every token: hidden states, no
 * logits at all, the last row only, going back, limits; and a 16-bit cache's effect. */
#include "../golden/golden.h"

enum { FORWARD_TOKENS = 200 };

typedef struct ForwardTest {
    Golden g;
    GoldenModel m;
    Single *single;
    float *want; /* [200, vocab] of the whole prompt */
} ForwardTest;

static void forward_test_open(ForwardTest *t, const char *family, int32_t chunk) {
    Err err = {0};
    const float *logits = NULL;
    memset(t, 0, sizeof *t);
    golden_load(&t->g, family);
    golden_open_model(&t->m, t->g.folder, OPS_REF, 1);
    SingleOptions options = {.context_max = GOLDEN_CONTEXT, .n_logits_max = FORWARD_TOKENS};
    Single *whole = golden_single(&t->m, &options);
    ASSERT_OK(single_feed(whole, t->g.prompt.data, FORWARD_TOKENS, FORWARD_TOKENS, &logits, &err),
              err);
    size_t bytes = FORWARD_TOKENS * (size_t)t->g.vocab * sizeof(float);
    t->want = mem_alloc(bytes);
    memcpy(t->want, logits, bytes);
    single_close(whole);
    options.chunk = chunk;
    t->single = golden_single(&t->m, &options);
}

static void forward_test_close(ForwardTest *t) {
    single_close(t->single);
    golden_close_model(&t->m);
    golden_free(&t->g);
    mem_free(t->want);
}

static void forward_expect_row(const ForwardTest *t, const float *got, int32_t row) {
    assert_memory_equal(got, t->want + (int64_t)row * t->g.vocab,
                        (size_t)t->g.vocab * sizeof(float));
}

static const char *const forward_families[] = {"llama", "gemma2", "mixtral", "gpt2"};

/* The last row alone, none at all, and some rows that span chunks. */
static void forward_few_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(forward_families); i++) {
        ForwardTest t;
        Err err = {0};
        const float *logits = NULL;
        forward_test_open(&t, forward_families[i], 7);
        ASSERT_OK(single_feed(t.single, t.g.prompt.data, 100, 0, &logits, &err), err);
        ASSERT_OK(single_feed(t.single, t.g.prompt.data + 100, 30, 1, &logits, &err), err);
        forward_expect_row(&t, logits, 129);
        ASSERT_OK(single_feed(t.single, t.g.prompt.data + 130, 70, 25, &logits, &err), err);
        for (int32_t row = 0; row < 25; row++)
            forward_expect_row(&t, logits + (int64_t)row * t.g.vocab, 175 + row);
        forward_test_close(&t);
    }
}

static void forward_truncates(void **state) {
    (void)state;
    ForwardTest t;
    Err err = {0};
    const float *logits = NULL;
    const int32_t other[] = {3, 5, 7, 9};
    forward_test_open(&t, "gemma3", 64);
    ASSERT_OK(single_feed(t.single, t.g.prompt.data, 150, 1, &logits, &err), err);
    ASSERT_OK(single_feed(t.single, other, 4, 1, &logits, &err), err);
    assert_int_equal(single_len(t.single), 154);
    single_truncate(t.single, 150);
    ASSERT_OK(single_feed(t.single, t.g.prompt.data + 150, 50, 1, &logits, &err), err);
    forward_expect_row(&t, logits, 199);
    single_reset(t.single);
    ASSERT_OK(single_feed(t.single, t.g.prompt.data, 1, 1, &logits, &err), err);
    forward_expect_row(&t, logits, 0);
    forward_test_close(&t);
}

static void forward_refuses(void **state) {
    (void)state;
    ForwardTest t;
    const float *logits = NULL;
    const int32_t bad[] = {1, 2, 256}, negative[] = {-1};
    forward_test_open(&t, "gpt2", 64);
    Err range = {0}, low = {0}, rows = {0}, full = {0}, context = {0};
    assert_int_equal(single_feed(t.single, bad, 3, 1, &logits, &range), ERR_ARG);
    assert_non_null(strstr(range.text, "token 256 is not in the vocabulary of 240"));
    assert_int_equal(single_feed(t.single, negative, 1, 1, &logits, &low), ERR_ARG);
    assert_int_equal(single_feed(t.single, bad, 2, 3, &logits, &rows), ERR_ARG);
    assert_int_equal(single_len(t.single), 0);
    int32_t *many = mem_alloc((GOLDEN_CONTEXT + 1) * sizeof *many);
    assert_int_equal(single_feed(t.single, many, GOLDEN_CONTEXT + 1, 1, &logits, &full), ERR_LIMIT);
    assert_non_null(strstr(full.text, "the context holds 456"));
    mem_free(many);
    /* GPT-2 has no position beyond those it learned. */
    Single *longer = NULL;
    SingleOptions options = {.context_max = 461};
    assert_int_equal(single_open(&longer, t.m.model, &t.m.ctx, &options, &context), ERR_ARG);
    assert_non_null(strstr(context.text, "learned 460"));
    forward_test_close(&t);
}

/* forward_hidden gives what the output matrix multiplies: h * embed^T are the logits. */
static void forward_hidden_states(void **state) {
    (void)state;
    ForwardTest t;
    Err err = {0};
    Forward *forward = NULL;
    KvStore *store = NULL;
    Tensor embed;
    const float *hidden = NULL;
    enum { N = 12 };
    int32_t token[N], pos[N], slot[N], row[] = {3, 11}, start[] = {0, N}, len = N, block[] = {1};
    int32_t table[] = {0, 1};
    const int32_t n_blocks[] = {2, 0};
    forward_test_open(&t, "qwen2", 64);
    ForwardLimits limits = {N, 1, 2, N, 0};
    ASSERT_OK(forward_open(&forward, t.m.model, &t.m.ctx, &limits, &err), err);
    ASSERT_OK(kv_store_open(&store, model_config(t.m.model), device_host(), DTYPE_F32, 16, n_blocks,
                            &err),
              err);
    for (int32_t i = 0; i < N; i++) {
        token[i] = t.g.prompt.data[i];
        pos[i] = i;
        slot[i] = 16 + i;
    }
    Batch batch = {.n_seqs = 1,
                   .n_tokens = N,
                   .n_logits = 2,
                   .token = token,
                   .pos = pos,
                   .query_start = start,
                   .kv_len = &len,
                   .logits_row = row,
                   .kv = {{slot, table, block}}};
    ASSERT_OK(forward_hidden(forward, store, &batch, &hidden, &err), err);
    assert_true(model_file_find(model_file(t.m.model), "model.embed_tokens.weight", &embed));
    int64_t dim = embed.shape[1];
    float *weights = mem_alloc((size_t)tensor_len(&embed) * sizeof *weights);
    float *logits = mem_alloc((size_t)embed.shape[0] * sizeof *logits);
    dtype_to_f32(embed.dtype, embed.data, weights, tensor_len(&embed));
    for (int32_t r = 0; r < 2; r++) {
        for (int64_t v = 0; v < embed.shape[0]; v++) {
            double sum = 0;
            for (int64_t i = 0; i < dim; i++)
                sum += (double)hidden[r * dim + i] * (double)weights[v * dim + i];
            logits[v] = (float)sum;
        }
        ASSERT_ERROR_BELOW(
            testing_error(logits, t.want + (int64_t)row[r] * t.g.vocab, (size_t)t.g.vocab), 1e-6);
    }
    mem_free(weights);
    mem_free(logits);
    kv_store_close(store);
    forward_close(forward);
    forward_test_close(&t);
}

/* f16 keeps 11 bits of K and V, bf16 8: the logits move by less than about eight times the unit
 * roundoff (2^-11, 2^-8) as a root mean square; i8 keeps 1/254 of a vector's largest number,
 * which is two to four times the root mean square of the others. In a mixture some token goes to
 * another expert: four times that. */
static void forward_cache_dtypes(void **state) {
    (void)state;
    static const struct {
        DType dtype;
        double bound;
    } caches[] = {{DTYPE_F16, 0x1p-8}, {DTYPE_BF16, 0x1p-5}, {DTYPE_I8, 0x1p-4}};
    for (size_t i = 0; i < ARRAY_LEN(golden_families); i++) {
        ForwardTest t;
        Err err = {0};
        const float *logits = NULL;
        size_t n = 0;
        forward_test_open(&t, golden_families[i], 64);
        n = FORWARD_TOKENS * (size_t)t.g.vocab;
        for (size_t j = 0; j < ARRAY_LEN(caches); j++) {
            Single *single = golden_single(&t.m, &(SingleOptions){.context_max = GOLDEN_CONTEXT,
                                                                  .n_logits_max = FORWARD_TOKENS,
                                                                  .kv_dtype = caches[j].dtype});
            ASSERT_OK(
                single_feed(single, t.g.prompt.data, FORWARD_TOKENS, FORWARD_TOKENS, &logits, &err),
                err);
            double error = sqrt(testing_nmse(logits, t.want, n));
            print_message("%s %s: %.2e\n", golden_families[i], dtype_info(caches[j].dtype)->name,
                          error);
            double flips = model_config(t.m.model)->n_experts > 0 ? 4 : 1;
            ASSERT_ERROR_BELOW(error, caches[j].bound * flips);
            single_close(single);
        }
        forward_test_close(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_few_rows),     cmocka_unit_test(forward_truncates),
        cmocka_unit_test(forward_refuses),      cmocka_unit_test(forward_hidden_states),
        cmocka_unit_test(forward_cache_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
