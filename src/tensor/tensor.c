#include "tensor/tensor.h"

#include <inttypes.h>
#include <stdio.h>

static Tensor tensor_make(void *data, DType dtype, int32_t n_dims, const int64_t *shape) {
    Tensor t = {.data = data, .dtype = dtype, .device = DEVICE_HOST, .n_dims = n_dims};
    int64_t n = 1, bytes;
    for (int32_t i = n_dims - 1; i >= 0; i--) {
        CHECK(shape[i] >= 0);
        t.shape[i] = shape[i];
        t.stride[i] = n;
        CHECK(!__builtin_mul_overflow(n, shape[i], &n));
    }
    CHECK(dtype_bytes(dtype, shape[n_dims - 1], &bytes) && dtype_bytes(dtype, n, &bytes));
    return t;
}

Tensor tensor_1d(void *data, DType dtype, int64_t n0) {
    return tensor_make(data, dtype, 1, (int64_t[]){n0});
}

Tensor tensor_2d(void *data, DType dtype, int64_t n0, int64_t n1) {
    return tensor_make(data, dtype, 2, (int64_t[]){n0, n1});
}

Tensor tensor_3d(void *data, DType dtype, int64_t n0, int64_t n1, int64_t n2) {
    return tensor_make(data, dtype, 3, (int64_t[]){n0, n1, n2});
}

int64_t tensor_len(const Tensor *t) {
    int64_t n = 1;
    for (int32_t i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

int64_t tensor_bytes(const Tensor *t) {
    int64_t bytes;
    CHECK(dtype_bytes(t->dtype, tensor_len(t), &bytes));
    return bytes;
}

int64_t tensor_row_bytes(const Tensor *t) {
    int64_t bytes;
    CHECK(dtype_bytes(t->dtype, t->n_dims ? t->shape[t->n_dims - 1] : 1, &bytes));
    return bytes;
}

Tensor tensor_rows(const Tensor *t, int64_t row_first, int64_t n_rows) {
    CHECK(t->n_dims >= 1 && row_first >= 0 && n_rows >= 0 && row_first <= t->shape[0] - n_rows);
    int64_t bytes;
    CHECK(dtype_bytes(t->dtype, row_first * t->stride[0], &bytes));
    Tensor rows = *t;
    rows.shape[0] = n_rows;
    rows.data = (char *)t->data + bytes;
    return rows;
}

const char *tensor_text(const Tensor *t, char buf[TENSOR_TEXT_BYTES]) {
    int at = snprintf(buf, TENSOR_TEXT_BYTES, "[");
    for (int32_t i = 0; i < t->n_dims; i++)
        at += snprintf(buf + at, (size_t)(TENSOR_TEXT_BYTES - at), "%s%" PRId64, i ? ", " : "",
                       t->shape[i]);
    snprintf(buf + at, (size_t)(TENSOR_TEXT_BYTES - at), "] %s", dtype_info(t->dtype)->name);
    return buf;
}
