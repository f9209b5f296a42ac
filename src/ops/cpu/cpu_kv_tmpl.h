/* cpu_kv_tmpl: vectors of the KV dtypes to and from f32 (of i8 without the scale); include after a
 * cpu_vec_*.h. */
#pragma once

#include "ops/ops_priv.h"

static inline Vec vec_load_kv(DType dtype, const void *data, int64_t at) {
    if (dtype == DTYPE_F16) return vec_load_f16((const uint16_t *)data + at);
    if (dtype == DTYPE_BF16) return vec_load_bf16((const uint16_t *)data + at);
    if (dtype == DTYPE_I8) return vec_load_i8((const int8_t *)data + at);
    return vec_load((const float *)data + at);
}

static inline Vec vec_load_kv_n(DType dtype, const void *data, int64_t at, int64_t n) {
    if (n == VEC_LANES) return vec_load_kv(dtype, data, at);
    if (dtype == DTYPE_F16) return vec_load_f16_n((const uint16_t *)data + at, n);
    if (dtype == DTYPE_BF16) return vec_load_bf16_n((const uint16_t *)data + at, n);
    if (dtype == DTYPE_I8) return vec_load_i8_n((const int8_t *)data + at, n);
    return vec_load_n((const float *)data + at, n);
}

static inline void vec_store_kv_n(DType dtype, void *data, int64_t at, Vec v, int64_t n) {
    if (dtype == DTYPE_F16)
        vec_store_f16_n((uint16_t *)data + at, v, n);
    else if (dtype == DTYPE_BF16)
        vec_store_bf16_n((uint16_t *)data + at, v, n);
    else
        vec_store_n((float *)data + at, v, n);
}
