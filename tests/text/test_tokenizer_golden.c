/* test_tokenizer_golden: tiny tokenizers of every kind against what Hugging Face tokenizers and
 * SentencePiece made of nasty texts (tools/make_tokenizer_golden.py): ids, decoded text, and the
 * same text streamed. */
#include "testing.h"
#include "text/detok.h"
#include "text/tokenizer.h"

#define GOLDEN "tests/text/golden/"

static Str golden_field(Str *line) {
    size_t end = MIN(str_find(*line, STR_LIT("\t"), 0), line->len);
    Str field = str_slice(*line, 0, end);
    *line = str_slice(*line, end + 1, line->len);
    return field;
}

static void golden_hex(Str hex, Buf *out) {
    static const char digits[] = "0123456789abcdef";
    buf_clear(out);
    for (size_t i = 0; i + 1 < hex.len; i += 2)
        buf_append_byte(out, (char)((strchr(digits, hex.ptr[i]) - digits) << 4 |
                                    (strchr(digits, hex.ptr[i + 1]) - digits)));
}

static void golden_check_ids(const Tokenizer *t, Str text, EncodeOptions options, Str want,
                             const char *name, Ints *ids) {
    Buf got = {0};
    ints_clear(ids);
    assert_int_equal(tokenizer_encode(t, text, options, ids, NULL), OK);
    for (size_t i = 0; i < ids->len; i++)
        buf_append_format(&got, "%s%d", i == 0 ? "" : " ", ids->data[i]);
    if (!str_eq(buf_str(&got), want))
        fail_msg("%s: '%.*s'\n got  %.*s\n want %.*s", name, STR_ARG(text), STR_ARG(buf_str(&got)),
                 STR_ARG(want));
    buf_free(&got);
}

static void golden_check_text(const Tokenizer *t, const Ints *ids, Str want, const char *name) {
    Buf decoded = {0}, streamed = {0};
    Detok detok;
    tokenizer_decode(t, ids->data, ids->len, true, &decoded);
    detok_init(&detok, t, true);
    detok.with_special = true;
    for (size_t i = 0; i < ids->len; i++)
        assert_int_equal(detok_feed(&detok, ids->data[i], &streamed), -1);
    detok_finish(&detok, &streamed);
    if (!str_eq(buf_str(&decoded), want))
        fail_msg("%s: decoded '%.*s', want '%.*s'", name, STR_ARG(buf_str(&decoded)),
                 STR_ARG(want));
    if (!str_eq(buf_str(&streamed), want))
        fail_msg("%s: streamed '%.*s', want '%.*s'", name, STR_ARG(buf_str(&streamed)),
                 STR_ARG(want));
    detok_free(&detok);
    buf_free(&decoded);
    buf_free(&streamed);
}

/* A line of a .cases file: see the tool. */
static void golden_case(const Tokenizer *t, Str line, bool is_model, const char *name) {
    Buf text = {0}, decoded = {0};
    Ints added = {0}, plain = {0};
    golden_hex(golden_field(&line), &text);
    Str want_added = golden_field(&line), want_plain = golden_field(&line);
    EncodeOptions options = {.add_special = true, .parse_special = !is_model};
    golden_check_ids(t, buf_str(&text), options, want_added, name, &added);
    if (!str_is(want_plain, "-"))
        golden_check_ids(t, buf_str(&text), (EncodeOptions){0}, want_plain, name, &plain);
    if (!str_is(line, "-")) {
        golden_hex(line, &decoded);
        golden_check_text(t, is_model ? &plain : &added, buf_str(&decoded), name);
    }
    buf_free(&text);
    buf_free(&decoded);
    ints_free(&added);
    ints_free(&plain);
}

static void golden_run(const char *name, const char *file) {
    char path[128];
    Tokenizer *t = NULL;
    Buf cases = {0};
    Err err = {0};
    snprintf(path, sizeof path, GOLDEN "%s", file);
    ASSERT_OK(tokenizer_open(&t, path, &err), err);
    snprintf(path, sizeof path, GOLDEN "%s.cases", name);
    ASSERT_OK(file_read(&cases, path, 64 << 20, &err), err);
    bool is_model = str_ends_with(str_from(file), ".model");
    int32_t n = 0;
    for (Str rest = buf_str(&cases); rest.len > 0; n++) {
        size_t end = str_find(rest, STR_LIT("\n"), 0);
        golden_case(t, str_slice(rest, 0, end), is_model, name);
        rest = str_slice(rest, end + 1, rest.len);
    }
    assert_true(n > 100);
    buf_free(&cases);
    tokenizer_close(t);
}

#define GOLDEN_TEST(name, suffix)           \
    static void test_##name(void **state) { \
        (void)state;                        \
        golden_run(#name, #name suffix);    \
    }
/* The formatter never settles on a layout of this list. */
/* clang-format off */
#define GOLDEN_LIST(X)            \
    X(fable, ".json")             \
    X(byte_gpt2, ".json")         \
    X(byte_qwen, ".json")         \
    X(byte_llama3, ".json")       \
    X(byte_falcon, ".json")       \
    X(byte_splits, ".json")       \
    X(spm_llama, ".json")         \
    X(meta_first, ".json")        \
    X(meta_never, ".json")        \
    X(meta_unk, ".json")          \
    X(word_suffix, ".json")       \
    X(unigram_nfkc, ".json")      \
    X(unigram_plain, ".json")     \
    X(sp_bpe, ".model")           \
    X(sp_bpe_nfkc, ".model")      \
    X(sp_unigram, ".model")       \
    X(sp_unigram_bytes, ".model")
/* clang-format on */

GOLDEN_LIST(GOLDEN_TEST)

int main(void) {
    const struct CMUnitTest tests[] = {
#define GOLDEN_ROW(name, suffix) cmocka_unit_test(test_##name),
        GOLDEN_LIST(GOLDEN_ROW)
#undef GOLDEN_ROW
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
