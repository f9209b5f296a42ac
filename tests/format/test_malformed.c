/* test_malformed: every hostile file of the conformance sets gets the verdict of its manifest, with
 * a sentence, in bounded time. */

#include "format/model_file.h"
#include "testing.h"

static const double MALFORMED_SECONDS_MAX = 0.1;

/* Touches every byte that the file promises, so that a sanitizer sees a promise not kept. */
static uint64_t malformed_touch(const ModelFile *file) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < model_file_n_tensors(file); i++) {
        Str name;
        Tensor t;
        model_file_tensor(file, i, &name, &t);
        for (int64_t b = 0; b < tensor_bytes(&t); b++) sum += ((const uint8_t *)t.data)[b];
    }
    for (int64_t i = 0; i < model_file_n_values(file); i++) {
        const GgufValue *v = model_file_value_at(file, i);
        for (uint64_t e = 0; v->type == GGUF_ARRAY && e < v->array_len; e++) {
            if (v->array_type == GGUF_STRING)
                sum += gguf_array_str(v, e).len;
            else
                sum += gguf_array_number(v, e) > 0;
        }
    }
    return sum;
}

static void malformed_check(const char *dir, const json_t *row) {
    const char *expect = json_string_value(json_object_get(row, "expect"));
    char *path = file_join(dir, json_string_value(json_object_get(row, "file")));
    ModelFile *file = NULL;
    Err err = {0};
    const double start = testing_cpu_seconds();
    Status status = model_file_open(&file, path, &err);
    const double seconds = testing_cpu_seconds() - start;
    if (status == OK) {
        if (strcmp(expect, "reject") == 0) fail_msg("%s was accepted", path);
        volatile uint64_t sum = malformed_touch(file);
        (void)sum;
        assert_true(model_file_bytes(file) >= 0);
    } else {
        if (strcmp(expect, "accept") == 0) fail_msg("%s was refused: %s", path, err.text);
        assert_null(file);
        assert_int_equal(err.status, status);
        assert_true(strlen(err.text) > 20);
        print_message("%s\n", err.text);
    }
    if (seconds > MALFORMED_SECONDS_MAX) fail_msg("%s took %.3f s", path, seconds);
    model_file_close(file);
    mem_free(path);
}

static void malformed_set(const char *name) {
    char *dir = testing_shared(name);
    char *manifest = file_join(dir, "manifest.json");
    json_t *rows = NULL;
    assert_int_equal(json_parse_file(&rows, manifest, NULL), OK);
    assert_true(json_array_size(rows) > 10);
    for (size_t i = 0; i < json_array_size(rows); i++)
        malformed_check(dir, json_array_get(rows, i));
    json_decref(rows);
    mem_free(manifest);
    mem_free(dir);
}

static void malformed_gguf(void **state) {
    (void)state;
    malformed_set("data/conformance/gguf-malformed");
}

static void malformed_safetensors(void **state) {
    (void)state;
    malformed_set("data/conformance/safetensors-malformed");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(malformed_gguf),
                                       cmocka_unit_test(malformed_safetensors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
