/* cpu_linear_plain_tmpl: F32, F16 and BF16 weights times f32 activations; one source, two levels.
 *
 * Lane l of an accumulator sums the elements j = l (mod 16) of k in order with FMA; a last partial
 * vector is filled with zeros. Weights are converted in registers, exactly, and both levels have
 * the same bits (avx2 keeps 16 lanes in two registers).
 *
 * The includer defines what cpu_linear_rows_tmpl.h asks for, but for what is here, and the loads
 * plain_f32, plain_f16 and plain_bf16 as RowsLoad says. */
#pragma once

#include "ops/cpu/cpu_linear_priv.h"

#define ROWS_BLOCK 1024 /* of 6 tokens 24 KB */

static inline const void *rows_x_at(const LinearUnit *unit, int64_t token, int32_t n_tokens,
                                    int64_t from) {
    (void)n_tokens;
    return unit->x + token * unit->x_stride + from;
}

static inline RowsV rows_x(const void *x, int64_t stride, int n_tokens, int t, int64_t i, int n) {
    (void)n_tokens;
    return plain_f32((const uint8_t *)x + t * stride * (int64_t)sizeof(float), i, n);
}

#include "ops/cpu/cpu_linear_rows_tmpl.h"

static void plain_kernel_f32(const RowsTile *tile, int32_t n_tokens, int32_t n_rows) {
    rows_kernel(tile, plain_f32, 4, n_tokens, n_rows);
}

static void plain_kernel_f16(const RowsTile *tile, int32_t n_tokens, int32_t n_rows) {
    rows_kernel(tile, plain_f16, 2, n_tokens, n_rows);
}

static void plain_kernel_bf16(const RowsTile *tile, int32_t n_tokens, int32_t n_rows) {
    rows_kernel(tile, plain_bf16, 2, n_tokens, n_rows);
}

static void plain_unit(const LinearUnit *unit) {
    switch (unit->dtype) {
        case DTYPE_F32: rows_unit(unit, plain_kernel_f32, 4); break;
        case DTYPE_F16: rows_unit(unit, plain_kernel_f16, 2); break;
        case DTYPE_BF16: rows_unit(unit, plain_kernel_bf16, 2); break;
        default: CHECK(false);
    }
}
