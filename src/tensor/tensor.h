/* tensor: a view of numbers in some memory; never an owner. */
#pragma once

#include "tensor/dtype.h"

enum { TENSOR_DIMS_MAX = 4, DEVICE_HOST = -1 };

typedef struct Tensor {
    void *data; /* in the memory of `device` */
    DType dtype;
    int32_t device; /* DEVICE_HOST or an accelerator's number */
    int32_t n_dims;
    int64_t shape[TENSOR_DIMS_MAX];  /* outermost first; the last dimension is contiguous */
    int64_t stride[TENSOR_DIMS_MAX]; /* in elements; for block formats of the row's elements */
} Tensor;

#ifdef __cplusplus
extern "C" {
#endif

/* A contiguous host tensor. Shapes are the caller's duty (CHECKed: sizes do not overflow). */
Tensor tensor_1d(void *data, DType dtype, int64_t n0);
Tensor tensor_2d(void *data, DType dtype, int64_t n0, int64_t n1);
Tensor tensor_3d(void *data, DType dtype, int64_t n0, int64_t n1, int64_t n2);

int64_t tensor_len(const Tensor *t);       /* elements */
int64_t tensor_bytes(const Tensor *t);     /* of a contiguous tensor */
int64_t tensor_row_bytes(const Tensor *t); /* of one run along the last dimension */
/* The n_rows rows of dimension 0 from row_first; borrows the same memory. */
Tensor tensor_rows(const Tensor *t, int64_t row_first, int64_t n_rows);
/* "[8192, 512] bf16" into buf; returns buf. */
enum { TENSOR_TEXT_BYTES = 128 };
const char *tensor_text(const Tensor *t, char buf[TENSOR_TEXT_BYTES]);

#ifdef __cplusplus
}
#endif
