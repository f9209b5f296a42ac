/* test_detok: streamed text never splits a character and never shows a stop string; whatever was
 * held back comes out at the end. */
#include "testing.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

static Tokenizer *detok_open(const char *path) {
    Tokenizer *t = NULL;
    Err err = {0};
    ASSERT_OK(tokenizer_open(&t, path, &err), err);
    return t;
}

static void detok_encode(const Tokenizer *t, const char *text, Ints *ids) {
    ints_clear(ids);
    assert_int_equal(tokenizer_encode(t, str_from(text), (EncodeOptions){0}, ids, NULL), OK);
}

/* Feeds all ids; checks that every piece given out is whole characters. */
static int32_t detok_all(Detok *d, const Ints *ids, Buf *out) {
    for (size_t i = 0; i < ids->len; i++) {
        Buf piece = {0};
        int32_t stop = detok_feed(d, ids->data[i], &piece);
        assert_int_equal(utf8_valid_bytes(buf_str(&piece)), piece.len);
        buf_append_str(out, buf_str(&piece));
        buf_free(&piece);
        if (stop >= 0) return stop;
    }
    detok_finish(d, out);
    return -1;
}

static void test_characters_are_whole(void **state) {
    (void)state;
    Tokenizer *t = detok_open("tests/text/golden/fable.json");
    const char *text = "naïve \xf0\x9f\x98\x80\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 中文 é";
    Ints ids = {0};
    Buf out = {0};
    Detok d;
    detok_encode(t, text, &ids);
    assert_true(ids.len > 10);
    detok_init(&d, t, true);
    assert_int_equal(detok_all(&d, &ids, &out), -1);
    assert_string_equal(out.data, text);
    detok_free(&d);
    buf_free(&out);
    ints_free(&ids);
    tokenizer_close(t);
}

static void test_cut_character_at_the_end(void **state) {
    (void)state;
    Tokenizer *t = detok_open("tests/text/golden/fable.json");
    int32_t id = tokenizer_find(t, STR_LIT("\xc3\xb0")); /* the byte 0xf0 */
    assert_true(id >= 0);
    Buf out = {0};
    Detok d;
    detok_init(&d, t, true);
    assert_int_equal(detok_feed(&d, id, &out), -1);
    assert_int_equal(out.len, 0);
    detok_finish(&d, &out);
    assert_string_equal(out.data, "\xef\xbf\xbd");
    detok_free(&d);
    buf_free(&out);
    tokenizer_close(t);
}

static void detok_stop_case(const Tokenizer *t, const char *text, const char *const *stops,
                            int32_t n_stops, bool include, int32_t want, const char *want_text) {
    Ints ids = {0};
    Buf out = {0};
    Detok d;
    detok_encode(t, text, &ids);
    detok_init(&d, t, true);
    d.include_stop = include;
    for (int32_t i = 0; i < n_stops; i++) d.stop[i] = str_from(stops[i]);
    d.n_stops = n_stops;
    assert_int_equal(detok_all(&d, &ids, &out), want);
    assert_string_equal(out.data == NULL ? "" : out.data, want_text);
    detok_free(&d);
    buf_free(&out);
    ints_free(&ids);
}

static void test_stop_strings(void **state) {
    (void)state;
    Tokenizer *t = detok_open("tests/text/golden/fable.json");
    static const char *const end[] = {"END"}, *const two[] = {"zzz", "bc", "b"};
    static const char *const overlap[] = {"aab"};
    detok_stop_case(t, "one two END three", end, 1, false, 0, "one two ");
    detok_stop_case(t, "one two END three", end, 1, true, 0, "one two END");
    detok_stop_case(t, "one two EN", end, 1, false, -1, "one two EN");
    detok_stop_case(t, "one two ENTER", end, 1, false, -1, "one two ENTER");
    detok_stop_case(t, "xabcd", two, 3, false, 2, "xa");
    detok_stop_case(t, "aaaaab", overlap, 1, false, 0, "aaa");
    detok_stop_case(t, "END", end, 1, false, 0, "");
    tokenizer_close(t);
}

static void test_first_space(void **state) {
    (void)state;
    Tokenizer *t = detok_open("tests/text/golden/spm_llama.json");
    Ints ids = {0};
    Buf out = {0};
    Detok d;
    detok_encode(t, "the law", &ids);
    detok_init(&d, t, true);
    detok_all(&d, &ids, &out);
    assert_string_equal(out.data, "the law");
    detok_free(&d);
    buf_clear(&out);
    detok_init(&d, t, false);
    detok_all(&d, &ids, &out);
    assert_string_equal(out.data, " the law");
    detok_free(&d);
    buf_free(&out);
    ints_free(&ids);
    tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_characters_are_whole),
        cmocka_unit_test(test_cut_character_at_the_end),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_first_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
