/* test_gguf_write: what is written is what the reader reads, and the target is old or new. */
#include "format/gguf_write.h"

#include "testing.h"

static void gguf_write_fill(GgufWriter *writer) {
    gguf_write_str(writer, "general.architecture", STR_LIT("llama"));
    gguf_write_u32(writer, "u32", UINT32_MAX);
    gguf_write_i32(writer, "i32", -5);
    gguf_write_f32(writer, "f32", 0.25f);
    gguf_write_bool(writer, "bool", true);
    const Str words[] = {STR_LIT("a"), STR_LIT(""), STR_LIT("c\0d")};
    gguf_write_strs(writer, "words", words, 3);
    gguf_write_i32s(writer, "ints", (const int32_t[]){1, -2}, 2);
    gguf_write_f32s(writer, "floats", (const float[]){1.5f}, 1);
    gguf_write_bools(writer, "bools", (const bool[]){false, true}, 2);
    gguf_write_strs(writer, "none", NULL, 0);
    Tensor odd = tensor_2d(NULL, DTYPE_F32, 3, 1), block = tensor_3d(NULL, DTYPE_Q8_0, 2, 1, 32);
    gguf_write_tensor(writer, "odd", &odd);
    gguf_write_tensor(writer, "block", &block);
}

static void gguf_write_check(const char *path, const uint8_t *bytes) {
    ModelFile *file = NULL;
    Err err = {0};
    ASSERT_OK(model_file_open(&file, path, &err), err);
    int64_t i = 0;
    double x = 0;
    bool yes = false;
    ASSERT_OK(model_file_get_int(file, "u32", 0, UINT32_MAX, &i, &err), err);
    assert_true(i == UINT32_MAX);
    ASSERT_OK(model_file_get_int(file, "i32", -9, 0, &i, &err), err);
    assert_int_equal(i, -5);
    ASSERT_OK(model_file_get_number(file, "f32", &x, &err), err);
    assert_true(x == 0.25);
    ASSERT_OK(model_file_get_bool(file, "bool", &yes, &err), err);
    assert_true(yes);
    const GgufValue *words = model_file_value(file, "words");
    assert_int_equal(words->array_len, 3);
    assert_int_equal(gguf_array_str(words, 2).len, 3);
    assert_int_equal(gguf_array_int(model_file_value(file, "ints"), 1), -2);
    assert_true(gguf_array_number(model_file_value(file, "floats"), 0) == 1.5);
    assert_int_equal(gguf_array_int(model_file_value(file, "bools"), 1), 1);
    assert_int_equal(model_file_value(file, "none")->array_len, 0);
    Tensor t;
    assert_true(model_file_find(file, "odd", &t));
    assert_int_equal(t.shape[0], 3);
    assert_int_equal(t.shape[1], 1);
    assert_memory_equal(t.data, bytes, 12);
    assert_true(model_file_find(file, "block", &t));
    assert_int_equal(t.n_dims, 3);
    assert_int_equal(t.shape[2], 32);
    assert_memory_equal(t.data, bytes + 12, 68);
    model_file_close(file);
}

static void gguf_write_round_trip(void **state) {
    (void)state;
    char *dir = testing_temp_dir(), *path = file_join(dir, "x.gguf");
    GgufWriter *writer;
    Err err = {0};
    uint8_t bytes[80];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i + 1);
    ASSERT_OK(gguf_write_open(&writer, path, &err), err);
    gguf_write_fill(writer);
    ASSERT_OK(gguf_write_begin(writer, &err), err);
    ASSERT_OK(gguf_write_data(writer, bytes, 5, &err), err); /* cut anywhere */
    ASSERT_OK(gguf_write_data(writer, bytes + 5, 7, &err), err);
    ASSERT_OK(gguf_write_data(writer, bytes + 12, 68, &err), err);
    assert_false(file_exists(path));
    ASSERT_OK(gguf_write_commit(writer, &err), err);
    gguf_write_check(path, bytes);
    /* Given up halfway, a second write leaves the first. */
    ASSERT_OK(gguf_write_open(&writer, path, &err), err);
    gguf_write_fill(writer);
    ASSERT_OK(gguf_write_begin(writer, &err), err);
    gguf_write_abort(writer);
    gguf_write_check(path, bytes);
    mem_free(path);
    testing_temp_remove(dir);
}

static void gguf_write_refusals(void **state) {
    (void)state;
    GgufWriter *writer = NULL;
    Err err = {0};
    assert_int_equal(gguf_write_open(&writer, "/nonexistent/x.gguf", &err), ERR_IO);
    assert_null(writer);
    gguf_write_abort(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(gguf_write_round_trip),
                                       cmocka_unit_test(gguf_write_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
