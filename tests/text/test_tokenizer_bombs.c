/* test_tokenizer_bombs: texts made to be slow take linear time and no error; broken tokenizer files
 * are refused with a sentence; a user's text never becomes a special token. */
#include "testing.h"
#include "text/tokenizer.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SLUICE_DEBUG)
enum { BOMB_BYTES = 200000, BOMB_TIMED = 0 };
#else
enum { BOMB_BYTES = 10000000, BOMB_TIMED = 1 };
#endif

static void bombs_fill(Buf *text, int32_t kind) {
    static const char *const units[] = {
        " ", "a", "^", "\n", "\xcc\x81\xcc\xa3", "\xff", "\xe4\xb8\xad", "ab", "1", "\t \n", "'s"};
    uint64_t seed = 1;
    buf_reserve(text, BOMB_BYTES + 8);
    while (text->len < BOMB_BYTES) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t random = (uint32_t)(seed >> 33);
        if (kind < (int32_t)ARRAY_LEN(units)) {
            buf_append_text(text, units[kind]);
        } else if (kind == (int32_t)ARRAY_LEN(units)) {
            buf_append_byte(text, (char)random);
        } else {
            uint32_t c = 0x4e00 + random % 20000;
            char cjk[3] = {(char)(0xe0 | c >> 12), (char)(0x80 | (c >> 6 & 63)),
                           (char)(0x80 | (c & 63))};
            buf_append(text, cjk, 3);
        }
    }
}

/* A quarter of the aim of 5 MB/s fails, for other work on the machine slows memory down too. */
static void bombs_run(const char *path) {
    Tokenizer *t = NULL;
    Err err = {0};
    ASSERT_OK(tokenizer_open(&t, path, &err), err);
    for (int32_t kind = 0; kind < 13; kind++) {
        Buf text = {0};
        Ints ids = {0};
        bombs_fill(&text, kind);
        double start = testing_cpu_seconds();
        ASSERT_OK(tokenizer_encode(t, buf_str(&text), (EncodeOptions){0}, &ids, &err), err);
        double rate = BOMB_BYTES / 1e6 / (testing_cpu_seconds() - start);
        print_message("%s: kind %d: %.1f MB/s\n", path, (int)kind, rate);
        if (BOMB_TIMED && rate < 1.25) fail_msg("%s: kind %d: %.2f MB/s", path, (int)kind, rate);
        buf_free(&text);
        ints_free(&ids);
    }
    tokenizer_close(t);
}

static void test_byte_level_bombs(void **state) {
    (void)state;
    bombs_run("tests/text/golden/fable.json");
}

static void test_spm_bombs(void **state) {
    (void)state;
    bombs_run("tests/text/golden/sp_bpe.model");
}

static void test_unigram_bombs(void **state) {
    (void)state;
    bombs_run("tests/text/golden/unigram_nfkc.json");
}

/* A long word goes through the rank lists, short ones through the plain search: the same ids. */
static void test_long_word_is_sum_of_short(void **state) {
    (void)state;
    Tokenizer *t = NULL;
    Err err = {0};
    ASSERT_OK(tokenizer_open(&t, "tests/text/golden/sp_bpe.model", &err), err);
    Ints once = {0}, many = {0};
    Buf text = {0};
    buf_append_text(&text, "x the licensed work shall mean");
    ASSERT_OK(tokenizer_encode(t, buf_str(&text), (EncodeOptions){0}, &once, &err), err);
    for (int32_t i = 0; i < 999; i++) buf_append_text(&text, " x the licensed work shall mean");
    ASSERT_OK(tokenizer_encode(t, buf_str(&text), (EncodeOptions){0}, &many, &err), err);
    assert_int_equal(many.len, once.len * 1000);
    for (size_t i = 0; i < many.len; i++) assert_int_equal(many.data[i], once.data[i % once.len]);
    ints_free(&once);
    ints_free(&many);
    buf_free(&text);
    tokenizer_close(t);
}

static void test_specials_stay_text(void **state) {
    static const char *const files[] = {"fable.json",        "spm_llama.json",
                                        "unigram_nfkc.json", "unigram_plain.json",
                                        "sp_unigram.model",  "sp_bpe.model"};
    (void)state;
    for (size_t f = 0; f < ARRAY_LEN(files); f++) {
        char path[128];
        Tokenizer *t = NULL;
        Err err = {0};
        snprintf(path, sizeof path, "tests/text/golden/%s", files[f]);
        ASSERT_OK(tokenizer_open(&t, path, &err), err);
        for (int32_t id = 0; id < tokenizer_vocab(t); id++) {
            if (!tokenizer_is_special(t, id)) continue;
            Ints ids = {0};
            Str text = tokenizer_text(t, id);
            int32_t unknown = tokenizer_find(t, STR_LIT("<unk>"));
            ASSERT_OK(tokenizer_encode(t, text, (EncodeOptions){0}, &ids, &err), err);
            for (size_t i = 0; i < ids.len; i++)
                if (ids.data[i] != unknown && tokenizer_is_special(t, ids.data[i]))
                    fail_msg("%s: '%.*s' became token %d", path, STR_ARG(text), ids.data[i]);
            ints_clear(&ids);
            ASSERT_OK(tokenizer_encode(t, text, (EncodeOptions){.parse_special = true}, &ids, &err),
                      err);
            assert_int_equal(ids.data[ids.len - 1], id);
            ints_free(&ids);
        }
        tokenizer_close(t);
    }
}

static void bombs_refused(const char *name, const char *content, Status want) {
    char *dir = testing_temp_dir();
    char *path = file_join(dir, name);
    Tokenizer *t = NULL;
    Err err = {0};
    testing_write(path, content, strlen(content));
    Status status = tokenizer_open(&t, path, &err);
    if (status != want) fail_msg("'%s': status %d, text '%s'", content, (int)status, err.text);
    assert_true(err.text[0] != '\0');
    mem_free(path);
    testing_temp_remove(dir);
}

#define BOMBS_BPE(vocab, merges, rest) \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}" rest "}"

static void test_broken_files(void **state) {
    (void)state;
    bombs_refused("tokenizer.json", "{", ERR_FORMAT);
    bombs_refused("tokenizer.json", "{}", ERR_FORMAT);
    bombs_refused("tokenizer.json", "{\"model\":{\"type\":\"WordPiece\"}}", ERR_UNSUPPORTED);
    bombs_refused("tokenizer.json", BOMBS_BPE("{}", "[]", ""), ERR_FORMAT);
    bombs_refused("tokenizer.json", BOMBS_BPE("[]", "[]", ""), ERR_FORMAT);
    bombs_refused("tokenizer.json", BOMBS_BPE("{\"a\":-1}", "[]", ""), ERR_FORMAT);
    bombs_refused("tokenizer.json", BOMBS_BPE("{\"a\":1e3}", "[]", ""), ERR_FORMAT);
    bombs_refused("tokenizer.json", BOMBS_BPE("{\"a\":99999999}", "[]", ""), ERR_LIMIT);
    bombs_refused("tokenizer.json", BOMBS_BPE("{\"a\":0}", "[\"a b\"]", ""), ERR_FORMAT);
    bombs_refused("tokenizer.json", BOMBS_BPE("{\"a\":0}", "[[\"a\"]]", ""), ERR_FORMAT);
    bombs_refused("tokenizer.json", BOMBS_BPE("{\"a\":0}", "[7]", ""), ERR_FORMAT);
    bombs_refused("tokenizer.json", BOMBS_BPE("{\"a\":0}", "[]", ",\"added_tokens\":{}"),
                  ERR_FORMAT);
    bombs_refused("tokenizer.json",
                  BOMBS_BPE("{\"a\":0}", "[]", ",\"pre_tokenizer\":{\"type\":\"Nothing\"}"),
                  ERR_UNSUPPORTED);
    bombs_refused("tokenizer.json",
                  BOMBS_BPE("{\"a\":0}", "[]",
                            ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":"
                            "\"(a\"}}"),
                  ERR_FORMAT);
    bombs_refused("tokenizer.json",
                  BOMBS_BPE("{\"a\":0}", "[]",
                            ",\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"x\",9],"
                            "\"cls\":[\"y\",9]}"),
                  ERR_FORMAT);
    bombs_refused("tokenizer.model", "", ERR_FORMAT);
    bombs_refused("tokenizer.model",
                  "\n\x05\n\x03"
                  "a",
                  ERR_FORMAT);
    bombs_refused("tokenizer.model", "IQ== x\n", ERR_FORMAT);
    bombs_refused("tokenizer.model", "IQ== 0\n", ERR_FORMAT);
    bombs_refused("tokenizer.model", "I 0\n", ERR_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level_bombs),   cmocka_unit_test(test_spm_bombs),
        cmocka_unit_test(test_unigram_bombs),      cmocka_unit_test(test_long_word_is_sum_of_short),
        cmocka_unit_test(test_specials_stay_text), cmocka_unit_test(test_broken_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
