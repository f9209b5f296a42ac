/* test_damage: small valid files cut at every byte and with every bit flipped. Each is opened from
 * memory of its exact size, so that a sanitizer sees any step outside; a damaged file is either
 * refused with a sentence or everything it promises can be read. */
#include "format/model_file_priv.h"
#include "samples.h"

static const double DAMAGE_SECONDS_MAX = 0.1;

static uint64_t damage_touch(const ModelFile *file) {
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
            Str s = v->array_type == GGUF_STRING ? gguf_array_str(v, e) : (Str){0};
            for (size_t b = 0; b < s.len; b++) sum += (uint8_t)s.ptr[b];
            if (v->array_type != GGUF_STRING) sum += gguf_array_number(v, e) > 0;
        }
    }
    return sum;
}

/* Returns whether the file was accepted. */
static bool damage_open(ModelFormat format, const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size); /* exact, unlike mem_alloc */
    assert_true(copy != NULL || size == 0);
    if (size > 0) memcpy(copy, data, size);
    ModelFile *file = NULL;
    Err err = {0};
    const double start = testing_cpu_seconds();
    Status status = model_file_open_memory(&file, format, copy, size, &err);
    if (status == OK) {
        volatile uint64_t sum = damage_touch(file);
        (void)sum;
    } else {
        assert_true(strlen(err.text) > 10);
        assert_null(file);
    }
    assert_true(testing_cpu_seconds() - start < DAMAGE_SECONDS_MAX);
    model_file_close(file);
    free(copy);
    return status == OK;
}

static void damage_all(ModelFormat format, Buf *buf) {
    uint8_t *data = (uint8_t *)buf->data;
    assert_true(damage_open(format, data, buf->len));
    for (size_t len = 0; len < buf->len; len++)
        if (damage_open(format, data, len)) fail_msg("accepted when cut at byte %zu", len);
    for (size_t bit = 0; bit < 8 * buf->len; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        (void)damage_open(format, data, buf->len);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t at = 0; at + 8 <= buf->len; at++) {
        uint64_t saved;
        memcpy(&saved, data + at, 8);
        const uint64_t evil[] = {UINT64_MAX, 0, 1ull << 63, 0x7fffffff, 0xffffffff00000001};
        for (size_t e = 0; e < ARRAY_LEN(evil); e++) {
            memcpy(data + at, &evil[e], 8);
            (void)damage_open(format, data, buf->len);
        }
        memcpy(data + at, &saved, 8);
    }
}

static void damage_gguf(void **state) {
    (void)state;
    Buf buf = samples_gguf();
    damage_all(MODEL_GGUF, &buf);
    buf_free(&buf);
}

static void damage_safetensors(void **state) {
    (void)state;
    const char *header =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]}}  ";
    const float data[6] = {1, 2, 3, 4, 5};
    Buf buf = samples_safetensors(header, data, 22);
    damage_all(MODEL_SAFETENSORS, &buf);
    buf_free(&buf);
}

/* A header that claims much in few bytes must not cost memory or time. */
static void damage_claims(void **state) {
    (void)state;
    const uint64_t counts[] = {65536, 65537, 1048576, 1048577, 1ull << 32, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        Buf buf = {0};
        samples_head(&buf, counts[i], 0);
        assert_false(damage_open(MODEL_GGUF, (uint8_t *)buf.data, buf.len));
        buf_clear(&buf);
        samples_head(&buf, 0, counts[i]);
        assert_false(damage_open(MODEL_GGUF, (uint8_t *)buf.data, buf.len));
        buf_clear(&buf);
        samples_head(&buf, 0, 1);
        samples_key(&buf, "k", 9), samples_u32(&buf, 8), samples_u64(&buf, counts[i]);
        assert_false(damage_open(MODEL_GGUF, (uint8_t *)buf.data, buf.len));
        buf_free(&buf);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(damage_gguf),
                                       cmocka_unit_test(damage_safetensors),
                                       cmocka_unit_test(damage_claims)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
