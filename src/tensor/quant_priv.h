/* quant_priv: the reference conversions by family, which dtype.c puts behind one face.
 *
 * n is a multiple of the format's group_len; src and dst do not overlap. */
#pragma once

#include "tensor/quant.h"

typedef void QuantToF32(const void *src, float *dst, int64_t n);
/* False when an element is not finite or too large for the format's scale. */
typedef bool QuantFromF32(const float *src, void *dst, int64_t n);

QuantToF32 quant_plain_read_f32, quant_plain_read_f16, quant_plain_read_bf16, quant_plain_read_f64,
    quant_plain_read_e4m3, quant_plain_read_e5m2;
QuantFromF32 quant_plain_write_f32, quant_plain_write_f16, quant_plain_write_bf16;

QuantToF32 quant_legacy_read_q4_0, quant_legacy_read_q4_1, quant_legacy_read_q5_0,
    quant_legacy_read_q5_1, quant_legacy_read_q8_0;
QuantFromF32 quant_legacy_write_q4_0, quant_legacy_write_q8_0;

QuantToF32 quant_k_read_q2, quant_k_read_q3, quant_k_read_q4, quant_k_read_q5, quant_k_read_q6;

QuantToF32 quant_table_read_iq4_nl, quant_table_read_iq4_xs, quant_table_read_mxfp4;
