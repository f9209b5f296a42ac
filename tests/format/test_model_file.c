/* test_model_file: what the readers make of small valid files: values, names, shapes, bytes; shards
 * and parts; and the directories that must be refused. */
#include "format/model_file.h"

#include "format/model_file_priv.h"
#include "samples.h"

static ModelFile *model_file_sample(const Buf *buf, ModelFormat format) {
    ModelFile *file = NULL;
    Err err = {0};
    ASSERT_OK(model_file_open_memory(&file, format, (const uint8_t *)buf->data, buf->len, &err),
              err);
    return file;
}

static int64_t model_file_int(const ModelFile *file, const char *key) {
    int64_t value = 0;
    Err err = {0};
    ASSERT_OK(model_file_get_int(file, key, INT64_MIN, INT64_MAX, &value, &err), err);
    return value;
}

static void model_file_scalars(void **state) {
    (void)state;
    Buf buf = samples_gguf();
    ModelFile *file = model_file_sample(&buf, MODEL_GGUF);
    assert_int_equal(model_file_n_values(file), 18);
    assert_int_equal(model_file_int(file, "u8"), 255);
    assert_int_equal(model_file_int(file, "i8"), -1);
    assert_int_equal(model_file_int(file, "u16"), 65534);
    assert_int_equal(model_file_int(file, "i16"), -2);
    assert_int_equal(model_file_int(file, "u32"), 4294967293);
    assert_int_equal(model_file_int(file, "i32"), -3);
    assert_true(model_file_int(file, "i64") == INT64_MIN);
    int64_t i = 5;
    assert_int_equal(model_file_get_int(file, "u64", 0, INT64_MAX, &i, NULL), ERR_FORMAT);
    assert_int_equal(model_file_get_int(file, "i8", 0, 10, &i, NULL), ERR_FORMAT);
    assert_int_equal(model_file_get_int(file, "f32", 0, 10, &i, NULL), ERR_FORMAT);
    assert_int_equal(model_file_get_int(file, "yes", 0, 10, &i, NULL), ERR_FORMAT);
    assert_int_equal(model_file_get_int(file, "absent", 0, 1, &i, NULL), OK);
    assert_int_equal(i, 5);
    double x = 0;
    assert_int_equal(model_file_get_number(file, "f32", &x, NULL), OK);
    assert_true(x == 0.5);
    assert_int_equal(model_file_get_number(file, "f64", &x, NULL), OK);
    assert_true(x == 1e300);
    assert_int_equal(model_file_get_number(file, "u64", &x, NULL), OK);
    assert_true(x == 0x1p64);
    assert_int_equal(model_file_get_number(file, "nan", &x, NULL), ERR_FORMAT);
    bool yes = false;
    assert_int_equal(model_file_get_bool(file, "yes", &yes, NULL), OK);
    assert_true(yes);
    assert_int_equal(model_file_get_bool(file, "u8", &yes, NULL), ERR_FORMAT);
    Str s;
    assert_int_equal(model_file_get_str(file, "general.architecture", &s, NULL), OK);
    assert_true(str_is(s, "llama"));
    Err err = {0};
    assert_int_equal(model_file_get_str(file, "u8", &s, &err), ERR_FORMAT);
    assert_string_equal(err.text, "'memory': metadata 'u8' is of type u8, wanted a string");
    model_file_close(file);
    buf_free(&buf);
}

static void model_file_arrays(void **state) {
    (void)state;
    Buf buf = samples_gguf();
    ModelFile *file = model_file_sample(&buf, MODEL_GGUF);
    const GgufValue *words = model_file_value(file, "words");
    assert_int_equal(words->array_len, 3);
    assert_true(str_is(gguf_array_str(words, 0), "one"));
    assert_int_equal(gguf_array_str(words, 1).len, 0);
    assert_true(str_is(gguf_array_str(words, 2), "three"));
    const GgufValue *counts = model_file_value(file, "counts");
    assert_int_equal(gguf_array_int(counts, 1), -7);
    assert_true(gguf_array_number(counts, 0) == 7);
    assert_int_equal(gguf_array_int(model_file_value(file, "flags"), 1), 1);
    assert_int_equal(model_file_value(file, "nothing")->array_len, 0);
    assert_null(model_file_value(file, "word"));
    model_file_close(file);
    buf_free(&buf);
}

static void model_file_gguf_tensors(void **state) {
    (void)state;
    Buf buf = samples_gguf();
    ModelFile *file = model_file_sample(&buf, MODEL_GGUF);
    assert_int_equal(model_file_n_tensors(file), 2);
    assert_int_equal(model_file_bytes(file), 24 + 36);
    Str name;
    Tensor t;
    model_file_tensor(file, 0, &name, &t);
    assert_true(str_is(name, "token_embd.weight"));
    assert_int_equal(t.n_dims, 2);
    assert_int_equal(t.shape[0], 2); /* outermost first, unlike in the file */
    assert_int_equal(t.shape[1], 3);
    assert_int_equal(t.stride[0], 3);
    assert_true(((const float *)t.data)[5] == 5);
    assert_true(model_file_find(file, "blk.0.attn_q.weight", &t));
    assert_int_equal(t.dtype, DTYPE_Q4_0);
    assert_int_equal(((const uint8_t *)t.data)[35], 35);
    assert_false(model_file_find(file, "blk.0.attn_q", &t));
    assert_null(model_file_dir(file));
    assert_null(model_file_config(file));
    model_file_close(file);
    buf_free(&buf);
}

/* The header's length puts f32 data at an odd address; the second tensor is first in the data. */
static void model_file_safetensors_unaligned(void **state) {
    (void)state;
    const char *header =
        "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[3,1],\"data_offsets\":[0,3]},"
        "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[11,15]}}";
    struct __attribute__((packed)) {
        uint8_t a[3];
        float b[2], s;
    } data = {{1, 2, 3}, {4, 5}, 6};
    Buf buf = samples_safetensors(header, &data, sizeof data);
    ModelFile *file = model_file_sample(&buf, MODEL_SAFETENSORS);
    Str name;
    Tensor t;
    model_file_tensor(file, 0, &name, &t);
    assert_true(str_is(name, "a"));
    assert_true(model_file_find(file, "b", &t));
    assert_int_equal((uintptr_t)t.data % 4, 0);
    assert_true(((const float *)t.data)[1] == 5);
    assert_true(model_file_find(file, "s", &t));
    assert_int_equal(t.n_dims, 0);
    assert_int_equal(tensor_len(&t), 1);
    assert_true(((const float *)t.data)[0] == 6);
    model_file_close(file);
    buf_free(&buf);
}

static void model_file_put(const char *dir, const char *name, const void *data, size_t len) {
    char *path = file_join(dir, name);
    testing_write(path, data, len);
    mem_free(path);
}

static void model_file_put_text(const char *dir, const char *name, const char *text) {
    model_file_put(dir, name, text, strlen(text));
}

static void model_file_put_shard(const char *dir, const char *name, const char *tensor) {
    Buf header = {0};
    buf_append_format(&header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                      tensor);
    float value = 7;
    Buf buf = samples_safetensors(header.data, &value, 4);
    model_file_put(dir, name, buf.data, buf.len);
    buf_free(&buf);
    buf_free(&header);
}

/* Opens dir with this index; a failure's sentence must hold `part`. */
static void model_file_check_index(const char *dir, const char *index, Status want,
                                   const char *part) {
    model_file_put_text(dir, "model.safetensors.index.json", index);
    ModelFile *file = NULL;
    Err err = {0};
    Status status = model_file_open(&file, dir, &err);
    if (status != want) fail_msg("%s: %s (%s)", index, status_text(status), err.text);
    if (want != OK && strstr(err.text, part) == NULL) fail_msg("no '%s' in: %s", part, err.text);
    if (want == OK) assert_int_equal(model_file_n_tensors(file), 2);
    model_file_close(file);
}

static void model_file_shards(void **state) {
    (void)state;
    char *dir = testing_temp_dir();
    ModelFile *file = NULL;
    Err err = {0};
    assert_int_equal(model_file_open(&file, dir, &err), ERR_NOT_FOUND);
    model_file_put_text(dir, "config.json", "{\"model_type\":\"llama\"}");
    assert_int_equal(model_file_open(&file, dir, NULL), ERR_NOT_FOUND);
    ASSERT_OK(model_file_open_metadata(&file, dir, &err), err);
    assert_non_null(json_object_get(model_file_config(file), "model_type"));
    assert_null(model_file_generation_config(file));
    assert_string_equal(model_file_dir(file), dir);
    model_file_close(file);
    model_file_put_shard(dir, "one.safetensors", "a");
    model_file_put_shard(dir, "two.safetensors", "b");
    model_file_put_shard(dir, "same.safetensors", "a");
    struct {
        const char *map;
        Status want;
        const char *part;
    } rows[] = {
        {"{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}", OK, ""},
        {"{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}", ERR_FORMAT, "as the index says"},
        {"{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}", ERR_FORMAT, "as the index says"},
        {"{\"a\":\"one.safetensors\",\"b\":\"same.safetensors\"}", ERR_FORMAT, "second tensor"},
        {"{\"a\":\"one.safetensors\",\"b\":\"none.safetensors\"}", ERR_NOT_FOUND, "cannot open"},
        {"{\"a\":\"../one.safetensors\"}", ERR_FORMAT, "not a plain"},
        {"{\"a\":\"/etc/one.safetensors\"}", ERR_FORMAT, "not a plain"},
        {"{\"a\":\"..\"}", ERR_FORMAT, "not a plain"},
        {"{\"a\":\".safetensors\"}", ERR_FORMAT, "not a plain"},
        {"{\"a\":\"one.bin\"}", ERR_FORMAT, "not a plain"},
        {"{\"a\":\"one.safetensors\\u0000x\"}", ERR_FORMAT, "not a name"},
        {"{\"a\":7}", ERR_FORMAT, "not a name"},
        {"{}", ERR_FORMAT, "weight_map"},
        {"[]", ERR_FORMAT, "weight_map"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Buf index = {0};
        buf_append_format(&index, "{\"metadata\":{},\"weight_map\":%s}", rows[i].map);
        model_file_check_index(dir, index.data, rows[i].want, rows[i].part);
        buf_free(&index);
    }
    model_file_put_text(dir, "config.json", "[1]");
    assert_int_equal(model_file_open(&file, dir, &err), ERR_FORMAT);
    testing_temp_remove(dir);
}

/* A whole model in one file, through its directory and by its name. */
static void model_file_whole(void **state) {
    (void)state;
    char *dir = testing_temp_dir(), *path = file_join(dir, "model.safetensors");
    Err err = {0};
    model_file_put_text(dir, "config.json", "{}");
    model_file_put_text(dir, "tokenizer_config.json", "{\"eos_token\":\"x\"}");
    model_file_put_shard(dir, "model.safetensors", "a");
    const char *paths[] = {dir, path};
    for (int i = 0; i < 2; i++) {
        ModelFile *file = NULL;
        Tensor t;
        ASSERT_OK(model_file_open(&file, paths[i], &err), err);
        assert_int_equal(model_file_format(file), i == 0 ? MODEL_HF_DIR : MODEL_SAFETENSORS);
        assert_string_equal(model_file_path(file), paths[i]);
        assert_string_equal(model_file_dir(file), dir);
        assert_non_null(model_file_config(file));
        assert_non_null(json_object_get(model_file_tokenizer_config(file), "eos_token"));
        assert_true(model_file_find(file, "a", &t));
        model_file_close(file);
    }
    ModelFile *file = NULL;
    assert_int_equal(model_file_open(&file, "/nonexistent/x.safetensors", NULL), ERR_NOT_FOUND);
    assert_int_equal(model_file_open(&file, "/nonexistent/x.gguf", NULL), ERR_NOT_FOUND);
    mem_free(path);
    testing_temp_remove(dir);
}

static void model_file_put_part(const char *dir, int part, int n_parts, int says, int n_tensors) {
    Buf buf = {0};
    samples_head(&buf, 1, part == 1 ? 4 : 2);
    samples_key(&buf, "split.no", 2), buf_append(&buf, &(uint16_t){(uint16_t)(says - 1)}, 2);
    samples_key(&buf, "split.count", 2), buf_append(&buf, &(uint16_t){(uint16_t)n_parts}, 2);
    if (part == 1) {
        samples_key(&buf, "split.tensors.count", 5), samples_u32(&buf, (uint32_t)n_tensors);
        samples_key(&buf, "general.name", 8), samples_str(&buf, "first");
    }
    Buf name = {0};
    buf_append_format(&name, "t%d", part);
    samples_tensor(&buf, name.data, 1, 1, 0, 0);
    samples_pad(&buf, 32);
    samples_u32(&buf, (uint32_t)part);
    buf_clear(&name);
    buf_append_format(&name, "m-%05d-of-%05d.gguf", part, n_parts);
    model_file_put(dir, name.data, buf.data, buf.len);
    buf_free(&name);
    buf_free(&buf);
}

static void model_file_parts(void **state) {
    (void)state;
    char *dir = testing_temp_dir();
    char *first = file_join(dir, "m-00001-of-00003.gguf");
    char *second = file_join(dir, "m-00002-of-00003.gguf");
    for (int part = 1; part <= 3; part++) model_file_put_part(dir, part, 3, part, 3);
    ModelFile *file = NULL;
    Err err = {0};
    ASSERT_OK(model_file_open(&file, first, &err), err);
    Tensor t;
    assert_true(model_file_find(file, "t3", &t));
    assert_int_equal(*(const uint32_t *)t.data, 3);
    assert_int_equal(model_file_n_values(file), 4); /* of the first part */
    model_file_close(file);
    file = NULL;
    assert_int_equal(model_file_open(&file, second, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "open the first"));
    model_file_put_part(dir, 1, 3, 1, 4);
    assert_int_equal(model_file_open(&file, first, NULL), ERR_FORMAT);
    model_file_put_part(dir, 1, 3, 1, 3);
    model_file_put_part(dir, 3, 3, 2, 3);
    assert_int_equal(model_file_open(&file, first, NULL), ERR_FORMAT);
    assert_int_equal(unlink(second), 0);
    assert_int_equal(model_file_open(&file, first, NULL), ERR_NOT_FOUND);
    mem_free(first);
    mem_free(second);
    testing_temp_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(model_file_scalars),
                                       cmocka_unit_test(model_file_arrays),
                                       cmocka_unit_test(model_file_gguf_tensors),
                                       cmocka_unit_test(model_file_safetensors_unaligned),
                                       cmocka_unit_test(model_file_shards),
                                       cmocka_unit_test(model_file_whole),
                                       cmocka_unit_test(model_file_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
