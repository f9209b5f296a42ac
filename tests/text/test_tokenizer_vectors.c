/* test_tokenizer_vectors: the ids that llama.cpp keeps as the outcome of the reference tokenizers,
 * 47 texts for each of six vocabularies, through every kind of file that holds one. */
#include "testing.h"
#include "text/tokenizer.h"

#define PARTING "\n__ggml_vocab_test__\n"

/* The ids of one line; the line is cut off text. */
static void vectors_line(Str *text, Ints *out) {
    size_t end = MIN(str_find(*text, STR_LIT("\n"), 0), text->len);
    Str line = str_slice(*text, 0, end);
    *text = str_slice(*text, end + 1, text->len);
    ints_clear(out);
    while ((line = str_trim(line)).len > 0) {
        size_t space = MIN(str_find(line, STR_LIT(" "), 0), line.len);
        int64_t id;
        assert_true(str_to_i64(str_slice(line, 0, space), &id));
        ints_push(out, (int32_t)id);
        line = str_slice(line, space, line.len);
    }
}

static void vectors_check(const Tokenizer *t, Str texts, Str lines) {
    Ints want = {0}, got = {0};
    int32_t n = 0;
    for (bool more = true; more; n++) {
        size_t end = str_find(texts, STR_LIT(PARTING), 0);
        more = end != SIZE_MAX;
        Str text = str_slice(texts, 0, end);
        texts = more ? str_slice(texts, end + strlen(PARTING), texts.len) : (Str){"", 0};
        vectors_line(&lines, &want);
        ints_clear(&got);
        assert_int_equal(tokenizer_encode(t, text, (EncodeOptions){0}, &got, NULL), OK);
        if (got.len != want.len ||
            (want.len > 0 && memcmp(got.data, want.data, want.len * sizeof *want.data) != 0))
            fail_msg("text %d '%.*s'", (int)n, STR_ARG(text));
    }
    assert_int_equal(n, 47);
    ints_free(&want);
    ints_free(&got);
}

static void vectors_run(const char *name, const char *model) {
    char *vectors = testing_shared("data/tokenizers/vectors");

    char file[128];
    Buf texts = {0}, lines = {0};
    Err err = {0};
    snprintf(file, sizeof file, "ggml-vocab-%s.gguf.inp", name);
    char *path = file_join(vectors, file);
    assert_int_equal(file_read(&texts, path, 1 << 20, &err), OK);
    mem_free(path);
    snprintf(file, sizeof file, "ggml-vocab-%s.gguf.out", name);
    path = file_join(vectors, file);
    assert_int_equal(file_read(&lines, path, 1 << 20, &err), OK);
    mem_free(path);
    snprintf(file, sizeof file, "data/tokenizers/vectors/ggml-vocab-%s.gguf", name);
    path = testing_shared(model == NULL ? file : model);
    assert_non_null(path);
    Tokenizer *t = NULL;
    if (tokenizer_open(&t, path, &err) != OK) fail_msg("%s: %s", path, err.text);
    vectors_check(t, buf_str(&texts), buf_str(&lines));
    tokenizer_close(t);
    mem_free(path);
    mem_free(vectors);
    buf_free(&texts);
    buf_free(&lines);
}

static void test_gguf_byte_level(void **state) {
    (void)state;
    vectors_run("gpt-2", NULL);
    vectors_run("deepseek-coder", NULL);
    vectors_run("starcoder", NULL);
}

static void test_gguf_spm(void **state) {
    (void)state;
    vectors_run("llama-spm", NULL);
}

static void test_rank_file(void **state) {
    (void)state;
    vectors_run("llama-bpe", "data/tokenizers/llama3/tokenizer.model");
}

static void test_sentencepiece_model(void **state) {
    (void)state;
    vectors_run("llama-spm", "data/tokenizers/llama2-spm/tokenizer.model");
}

static void test_vocab_and_merges(void **state) {
    (void)state;
    vectors_run("qwen2", "data/tokenizers/qwen2");
    vectors_run("gpt-2", "data/tokenizers/gpt2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_byte_level),  cmocka_unit_test(test_gguf_spm),
        cmocka_unit_test(test_rank_file),        cmocka_unit_test(test_sentencepiece_model),
        cmocka_unit_test(test_vocab_and_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
