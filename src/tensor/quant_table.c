/* The formats whose codes index a table of values: IQ4_NL IQ4_XS MXFP4. */
#include "tensor/half.h"
#include "tensor/quant_priv.h"

/* 32 elements from 16 bytes of nibbles: dst = step * value[q]. */
static void quant_table_nibbles(const uint8_t qs[16], const int8_t value[16], float step,
                                float *dst) {
    for (int j = 0; j < 16; j++) {
        dst[j] = step * (float)value[qs[j] & 15];
        dst[j + 16] = step * (float)value[qs[j] >> 4];
    }
}

void quant_table_read_iq4_nl(const void *src, float *dst, int64_t n) {
    const GroupIQ4_NL *g = src;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++)
        quant_table_nibbles(g->qs, QUANT_IQ4_VALUE, f16_to_f32(g->d), dst + i);
}

void quant_table_read_iq4_xs(const void *src, float *dst, int64_t n) {
    const GroupIQ4_XS *g = src;
    for (int64_t i = 0; i < n; i += QUANT_K_GROUP, g++) {
        float d = f16_to_f32(g->d);
        for (int s = 0; s < 8; s++) {
            float step = d * (float)quant_iq4_scale(g, s);
            quant_table_nibbles(g->qs + 16 * s, QUANT_IQ4_VALUE, step, dst + i + 32 * s);
        }
    }
}

void quant_table_read_mxfp4(const void *src, float *dst, int64_t n) {
    const GroupMXFP4 *g = src;
    /* Half the scale for the doubled table; exact down to e = 0 because subnormals are kept. */
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++)
        quant_table_nibbles(g->qs, QUANT_FP4_TWICE, e8m0_to_f32(g->e) * 0.5f, dst + i);
}
