/* test_json: every file of JSONTestSuite gets its verdict (y_ accepted, n_ refused, i_ either
 * without harm), limits hold at their exact edge, fields are checked, and strings written are
 * read back. */
#include "base/json.h"

#include <dirent.h>

#include "testing.h"

/* Well-formed, and refused on purpose: duplicate keys hide things from whoever reads the first, and
 * jansson cannot hold a key with a NUL in it. */
static bool json_refused_on_purpose(const char *name) {
    return str_starts_with(str_from(name), "y_object_duplicated_key") ||
           strcmp(name, "y_object_escaped_null_in_key.json") == 0;
}

static void json_suite_file(const char *folder, const char *name) {
    char *path = file_join(folder, name);
    Buf text = {0};
    Err err = {0};
    ASSERT_OK(file_read(&text, path, 1 << 20, &err), err);
    json_t *value = NULL;
    Status status = json_parse(&value, buf_str(&text), &JSON_LIMITS_FILE, name, &err);
    if (status == OK) {
        if (name[0] == 'n') fail_msg("%s was accepted", name);
        json_decref(value);
    } else {
        if (name[0] == 'y' && !json_refused_on_purpose(name))
            fail_msg("%s was refused: %s", name, err.text);
        assert_null(value);
        assert_non_null(strstr(err.text, "line"));
        for (const char *p = err.text; *p != '\0'; p++) assert_true(*p >= 0x20 && *p < 0x7f);
    }
    buf_free(&text);
    mem_free(path);
}

static void json_suite(void **state) {
    (void)state;
    char *folder = testing_shared("data/conformance/JSONTestSuite/test_parsing");
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    int n_files = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (!str_ends_with(str_from(entry->d_name), ".json")) continue;
        json_suite_file(folder, entry->d_name);
        n_files++;
    }
    closedir(dir);
    mem_free(folder);
    assert_true(n_files > 300);
}

static Status json_try(const char *text, const JsonLimits *limits, Err *err) {
    json_t *value = NULL;
    *err = (Err){0};
    Status status = json_parse(&value, str_from(text), limits, "t.json", err);
    json_decref(value);
    return status;
}

static void json_limits(void **state) {
    (void)state;
    const JsonLimits limits = {.bytes_max = 40, .depth_max = 3, .values_max = 6};
    Err err;
    assert_int_equal(json_try("[[[1]]]", &limits, &err), OK);
    assert_int_equal(json_try("[[[[1]]]]", &limits, &err), ERR_LIMIT);
    assert_string_equal(err.text, "t.json: line 1, column 4: nested deeper than 3 levels");
    assert_int_equal(json_try("[{},\n[[[", &limits, &err), ERR_LIMIT);
    assert_string_equal(err.text, "t.json: line 2, column 3: nested deeper than 3 levels");
    assert_int_equal(json_try("[1,2,3,4,5]", &limits, &err), OK);
    assert_int_equal(json_try("[1,2,3,4,5,6]", &limits, &err), ERR_LIMIT);
    assert_non_null(strstr(err.text, "more than 6 values"));
    /* What stands in strings counts for nothing. */
    assert_int_equal(json_try("\"[[[[[[[,,,,,,,,,,,\\\"[[[[[[\"", &limits, &err), OK);
    assert_int_equal(json_try("                                       1", &limits, &err), OK);
    assert_int_equal(json_try("                                        1", &limits, &err),
                     ERR_LIMIT);
    assert_int_equal(json_try("", &limits, &err), ERR_FORMAT);
    assert_int_equal(json_try("{\"a\":1,\"a\":2}", &limits, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "duplicate"));
    assert_int_equal(json_try("[1,\n x]", &limits, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "t.json: line 2"));
}

/* 100,000 brackets must neither overflow the stack nor take long. */
static void json_deep_text(void **state) {
    (void)state;
    enum { N = 100000 };
    char *text = mem_alloc(N + 1);
    memset(text, '[', N);
    Err err;
    assert_int_equal(json_try(text, &JSON_LIMITS_FILE, &err), ERR_LIMIT);
    assert_int_equal(json_try(text, &JSON_LIMITS_REQUEST, &err), ERR_LIMIT);
    assert_non_null(strstr(err.text, "column 65"));
    mem_free(text);
}

static void json_fields(void **state) {
    (void)state;
    json_t *object = NULL;
    Err err = {0};
    ASSERT_OK(json_parse(&object,
                         STR_LIT("{\"i\":5,\"f\":1.5,\"s\":\"a\\u0000b\",\"b\":true,\"n\":null,"
                                 "\"big\":9007199254740993}"),
                         &JSON_LIMITS_FILE, "t", &err),
              err);
    int64_t i = -1;
    double f = -1;
    bool b = false;
    Str s = STR_LIT("before");
    ASSERT_OK(json_get_int(object, "absent", 0, 9, &i, &err), err);
    ASSERT_OK(json_get_int(object, "n", 0, 9, &i, &err), err);
    assert_int_equal(i, -1);
    ASSERT_OK(json_get_int(object, "i", 5, 5, &i, &err), err);
    assert_int_equal(i, 5);
    ASSERT_OK(json_get_int(object, "big", 0, INT64_MAX, &i, &err), err);
    assert_true(i == INT64_C(9007199254740993));
    ASSERT_OK(json_get_number(object, "i", 0, 9, &f, &err), err);
    assert_true(f == 5);
    ASSERT_OK(json_get_number(object, "f", 1.5, 1.5, &f, &err), err);
    ASSERT_OK(json_get_bool(object, "b", &b, &err), err);
    assert_true(b);
    ASSERT_OK(json_get_str(object, "s", &s, &err), err);
    assert_true(str_eq(s, (Str){"a\0b", 3}));

    assert_int_equal(json_get_int(object, "i", 6, 9, &i, &err), ERR_FORMAT);
    assert_string_equal(err.text, "'i' is 5, wanted 6 to 9");
    err = (Err){0};
    assert_int_equal(json_get_int(object, "f", 0, 9, &i, &err), ERR_FORMAT);
    assert_string_equal(err.text, "'f' is a number with a fraction, wanted an integer");
    assert_int_equal(json_get_number(object, "s", 0, 9, &f, NULL), ERR_FORMAT);
    assert_int_equal(json_get_number(object, "f", 2, 9, &f, NULL), ERR_FORMAT);
    assert_int_equal(json_get_bool(object, "i", &b, NULL), ERR_FORMAT);
    assert_int_equal(json_get_str(object, "b", &s, NULL), ERR_FORMAT);
    json_decref(object);
}

static void json_written(const char *bytes, size_t len, const char *want) {
    Buf buf = {0};
    json_write_str(&buf, (Str){bytes, len});
    assert_string_equal(buf.data, want);
    json_t *value = NULL;
    Err err = {0};
    ASSERT_OK(json_parse(&value, buf_str(&buf), &JSON_LIMITS_FILE, "t", &err), err);
    json_decref(value);
    buf_free(&buf);
}

static void json_writes_strings(void **state) {
    (void)state;
    json_written("", 0, "\"\"");
    json_written("a\"\\\b\f\n\r\t\x01\x7f/", 11, "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u007f/\"");
    json_written("\0", 1, "\"\\u0000\"");
    json_written("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9,
                 "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
    /* Overlong, surrogate, beyond Unicode, cut short, stray continuation. */
    json_written("\xc0\x80", 2, "\"\uFFFD\uFFFD\"");
    json_written("\xed\xa0\x80", 3, "\"\uFFFD\uFFFD\uFFFD\"");
    json_written("\xf4\x90\x80\x80", 4, "\"\uFFFD\uFFFD\uFFFD\uFFFD\"");
    json_written("\xe2\x82", 2, "\"\uFFFD\uFFFD\"");
    json_written("\x80z", 2, "\"\uFFFDz\"");
}

/* Every byte pair that is valid UTF-8 survives writing and reading. */
static void json_round_trip(void **state) {
    (void)state;
    for (int a = 0; a < 128; a++) {
        for (int b = 0; b < 128; b++) {
            char text[2] = {(char)a, (char)b};
            Buf buf = {0};
            json_write_str(&buf, (Str){text, 2});
            json_t *value = NULL;
            Err err = {0};
            ASSERT_OK(json_parse(&value, buf_str(&buf), &JSON_LIMITS_FILE, "t", &err), err);
            Str back = {json_string_value(value), json_string_length(value)};
            assert_true(str_eq(back, (Str){text, 2}));
            json_decref(value);
            buf_free(&buf);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_suite),          cmocka_unit_test(json_limits),
        cmocka_unit_test(json_deep_text),      cmocka_unit_test(json_fields),
        cmocka_unit_test(json_writes_strings), cmocka_unit_test(json_round_trip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
