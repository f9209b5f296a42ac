/* linear_testing: random weights of every format, for the tests and benches of matrix products. */
#pragma once

#include "ops/ops_testing.h"

static const DType LINEAR_DTYPES[] = {DTYPE_F32,  DTYPE_F16,    DTYPE_BF16,   DTYPE_Q8_0,
                                      DTYPE_Q4_0, DTYPE_Q4_1,   DTYPE_Q5_0,   DTYPE_Q5_1,
                                      DTYPE_Q2_K, DTYPE_Q3_K,   DTYPE_Q4_K,   DTYPE_Q5_K,
                                      DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4};

/* Where a block format keeps its f16 scales; -1 ends. */
static inline const int *linear_testing_halves(DType dtype) {
    static const int first[] = {0, -1}, both[] = {0, 2, -1}, q2_k[] = {80, 82, -1},
                     q3_k[] = {108, -1}, q6_k[] = {208, -1}, none[] = {-1};
    switch (dtype) {
        case DTYPE_Q4_0:
        case DTYPE_Q5_0:
        case DTYPE_Q8_0:
        case DTYPE_IQ4_NL:
        case DTYPE_IQ4_XS: return first;
        case DTYPE_Q4_1:
        case DTYPE_Q5_1:
        case DTYPE_Q4_K:
        case DTYPE_Q5_K: return both;
        case DTYPE_Q2_K: return q2_k;
        case DTYPE_Q3_K: return q3_k;
        case DTYPE_Q6_K: return q6_k;
        default: return none;
    }
}

/* A random [n, k] matrix in the file's layout between guard bytes would move: mem_free the data.
 * Every bit pattern of the quants occurs; scales are normal f16 numbers of both signs. */
static inline Tensor linear_testing_weight(DType dtype, int64_t n, int64_t k, uint64_t stream) {
    const DTypeInfo *info = dtype_info(dtype);
    int64_t n_groups = n * k / info->group_len, bytes = n_groups * info->group_bytes;
    uint8_t *data = mem_alloc((size_t)bytes + 8);
    if (info->group_len == 1) {
        float *row = mem_alloc((size_t)(n * k) * sizeof *row);
        random_fill(row, n * k, stream, 0.05f);
        assert_true(dtype_from_f32(dtype, row, data, n * k));
        mem_free(row);
        return tensor_2d(data, dtype, n, k);
    }
    for (int64_t i = 0; i < bytes; i += 8) {
        uint64_t bits = rng_bits(7, stream, (uint64_t)i);
        memcpy(data + i, &bits, 8);
    }
    for (int64_t g = 0; g < n_groups; g++) {
        uint8_t *group = data + g * info->group_bytes;
        for (const int *at = linear_testing_halves(dtype); *at >= 0; at++) {
            uint16_t half = f16_from_f32(0.01f * random_normal(stream + 1, (uint64_t)g));
            memcpy(group + *at, &half, sizeof half);
        }
        if (dtype == DTYPE_MXFP4) group[0] = (uint8_t)(118 + group[0] % 8);
    }
    return tensor_2d(data, dtype, n, k);
}
