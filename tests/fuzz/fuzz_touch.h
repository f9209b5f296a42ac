/* fuzz_touch: reads everything that an opened model file promises, for the fuzz targets. */
#pragma once

#include <stdlib.h>

#include "format/model_file_priv.h"
#include "model/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void fuzz_touch_value(const ModelFile *file, const GgufValue *v) {
    volatile uint64_t sum = 0;
    for (uint64_t e = 0; v->type == GGUF_ARRAY && e < v->array_len; e++) {
        Str s = v->array_type == GGUF_STRING ? gguf_array_str(v, e) : (Str){0};
        for (size_t b = 0; b < s.len; b++) sum += (uint8_t)s.ptr[b];
        if (v->array_type != GGUF_STRING) sum += gguf_array_number(v, e) > 0;
    }
    char *key = mem_strndup(v->key.ptr, v->key.len);
    int64_t i = 0;
    double x = 0;
    bool yes = false;
    Str s = {0};
    Status status = model_file_get_int(file, key, -5, INT64_MAX, &i, NULL);
    status = model_file_get_number(file, key, &x, NULL);
    status = model_file_get_bool(file, key, &yes, NULL);
    status = model_file_get_str(file, key, &s, NULL);
    (void)status;
    for (size_t b = 0; b < s.len; b++) sum += (uint8_t)s.ptr[b];
    (void)sum;
    mem_free(key);
}

/* What is loaded is used: the config takes values and tensors from the file. */
static inline void fuzz_touch_config(const ModelFile *file) {
    ModelConfig config;
    Err err = {0};
    Status status = model_config_read(&config, file, &err);
    if (status != OK) CHECK(err.text[0] != '\0');
    model_config_free(&config);
}

/* Opens a copy of exactly this size, so that the sanitizer sees a step past the end. */
static inline void fuzz_touch(ModelFormat format, const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size);
    if (copy == NULL) return;
    if (size > 0) memcpy(copy, data, size);
    ModelFile *file = NULL;
    Err err = {0};
    Status status = model_file_open_memory(&file, format, copy, size, &err);
    if (status != OK) CHECK(file == NULL && err.text[0] != '\0' && err.status == status);
    for (int64_t i = 0; status == OK && i < model_file_n_tensors(file); i++) {
        Str name;
        Tensor t;
        volatile uint64_t sum = 0;
        model_file_tensor(file, i, &name, &t);
        CHECK((uintptr_t)t.data %
                  (dtype_is_grouped(t.dtype) ? 2 : (size_t)dtype_info(t.dtype)->group_bytes) ==
              0);
        for (int64_t b = 0; b < tensor_bytes(&t); b++) sum += ((const uint8_t *)t.data)[b];
        (void)sum;
    }
    for (int64_t i = 0; status == OK && i < model_file_n_values(file); i++)
        fuzz_touch_value(file, model_file_value_at(file, i));
    if (status == OK && format == MODEL_GGUF) fuzz_touch_config(file);
    model_file_close(file);
    free(copy);
}
