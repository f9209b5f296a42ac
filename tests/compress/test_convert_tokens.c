/* test_convert_tokens: the tokenizer of a converted file makes the tokens that the source's makes,
 * and names the same special ones. */
#include "compress/convert.h"

#include "testing.h"
#include "text/tokenizer.h"

static const char *const convert_texts[] = {
    "",
    "Once upon a time",
    "  two spaces\n\n\tand a tab ",
    "It's 1234 o'clock, they'LL say.",
    "\303\234ber caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x8e\x89 \xd9\xa1\xd9\xa2",
    "a\r\nb\r\n\r\nc",
    "cafe\xcc\x81 nai\xcc\x88ve", /* not composed */
    "not \xff\xfe utf-8",
    "<|im_start|>user\nhi<|im_end|></s>",
};

static void convert_compare(const Tokenizer *want, const Tokenizer *got, const char *text,
                            EncodeOptions options) {
    Ints a = {0}, b = {0};
    Err err = {0};
    ASSERT_OK(tokenizer_encode(want, str_from(text), options, &a, &err), err);
    ASSERT_OK(tokenizer_encode(got, str_from(text), options, &b, &err), err);
    if (a.len != b.len || (a.len > 0 && memcmp(a.data, b.data, a.len * sizeof *a.data) != 0))
        fail_msg("'%s': %zu tokens, wanted %zu or others", text, b.len, a.len);
    ints_free(&a);
    ints_free(&b);
}

static void convert_model(const char *name) {
    char *source = testing_shared(name), *dir = testing_temp_dir();
    char *out = file_join(dir, "out.gguf");
    Err err = {0};
    ConvertReport report;
    ConvertOptions options = {.type = DTYPE_F16, .quiet = true};
    ASSERT_OK(convert_to_gguf(source, out, &options, &report, &err), err);
    Tokenizer *want = NULL, *got = NULL;
    ASSERT_OK(tokenizer_open(&want, source, &err), err);
    ASSERT_OK(tokenizer_open(&got, out, &err), err);
    assert_int_equal(tokenizer_vocab(got), tokenizer_vocab(want));
    assert_int_equal(tokenizer_bos(got), tokenizer_bos(want));
    assert_int_equal(tokenizer_eos(got), tokenizer_eos(want));
    assert_int_equal(tokenizer_adds_bos(got), tokenizer_adds_bos(want));
    for (size_t i = 0; i < ARRAY_LEN(convert_texts); i++)
        for (int o = 0; o < 4; o++)
            convert_compare(want, got, convert_texts[i],
                            (EncodeOptions){.add_special = o & 1, .parse_special = o & 2});
    tokenizer_close(want);
    tokenizer_close(got);
    mem_free(out);
    mem_free(source);
    testing_temp_remove(dir);
}

static void convert_byte_level(void **state) {
    (void)state;
    convert_model("models/fable-3m");
}

static void convert_sentencepiece(void **state) {
    (void)state;
    convert_model("data/weights/stories260K/hf");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(convert_byte_level),
                                       cmocka_unit_test(convert_sentencepiece)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
