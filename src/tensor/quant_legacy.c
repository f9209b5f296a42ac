/* The 32-element formats with one scale: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0. */
#include <math.h>

#include "tensor/half.h"
#include "tensor/quant_priv.h"

void quant_legacy_read_q4_0(const void *src, float *dst, int64_t n) {
    const GroupQ4_0 *g = src;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++, dst += QUANT_GROUP) {
        float d = f16_to_f32(g->d);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)((g->qs[j] & 15) - 8);
            dst[j + 16] = d * (float)((g->qs[j] >> 4) - 8);
        }
    }
}

void quant_legacy_read_q4_1(const void *src, float *dst, int64_t n) {
    const GroupQ4_1 *g = src;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++, dst += QUANT_GROUP) {
        float d = f16_to_f32(g->d), m = f16_to_f32(g->m);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)(g->qs[j] & 15) + m;
            dst[j + 16] = d * (float)(g->qs[j] >> 4) + m;
        }
    }
}

static uint32_t quant_legacy_high_bits(const uint8_t qh[4]) {
    return qh[0] | (uint32_t)qh[1] << 8 | (uint32_t)qh[2] << 16 | (uint32_t)qh[3] << 24;
}

void quant_legacy_read_q5_0(const void *src, float *dst, int64_t n) {
    const GroupQ5_0 *g = src;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++, dst += QUANT_GROUP) {
        float d = f16_to_f32(g->d);
        uint32_t high = quant_legacy_high_bits(g->qh);
        for (int j = 0; j < 16; j++) {
            int low = (g->qs[j] & 15) | (int)(high >> j & 1) << 4;
            int upper = g->qs[j] >> 4 | (int)(high >> (j + 16) & 1) << 4;
            dst[j] = d * (float)(low - 16);
            dst[j + 16] = d * (float)(upper - 16);
        }
    }
}

void quant_legacy_read_q5_1(const void *src, float *dst, int64_t n) {
    const GroupQ5_1 *g = src;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++, dst += QUANT_GROUP) {
        float d = f16_to_f32(g->d), m = f16_to_f32(g->m);
        uint32_t high = quant_legacy_high_bits(g->qh);
        for (int j = 0; j < 16; j++) {
            int low = (g->qs[j] & 15) | (int)(high >> j & 1) << 4;
            int upper = g->qs[j] >> 4 | (int)(high >> (j + 16) & 1) << 4;
            dst[j] = d * (float)low + m;
            dst[j + 16] = d * (float)upper + m;
        }
    }
}

void quant_legacy_read_q8_0(const void *src, float *dst, int64_t n) {
    const GroupQ8_0 *g = src;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++, dst += QUANT_GROUP) {
        float d = f16_to_f32(g->d);
        for (int j = 0; j < QUANT_GROUP; j++) dst[j] = d * (float)g->qs[j];
    }
}

/* The element of largest magnitude, with its sign; NaN or infinity when there is one. */
static float quant_legacy_extreme(const float *x) {
    float extreme = 0;
    for (int j = 0; j < QUANT_GROUP; j++) {
        if (!isfinite(x[j])) return x[j];
        if (fabsf(x[j]) > fabsf(extreme)) extreme = x[j];
    }
    return extreme;
}

/* The scale as it is written and the factor that quantizes, from the unrounded scale as ggml does;
 * false when the scale is beyond f16. */
static bool quant_legacy_scale(float d, uint16_t *bits, float *factor) {
    if (!(fabsf(d) < 65520.0f)) return false; /* also NaN; the first value that rounds past 65504 */
    *bits = f16_from_f32(d);
    *factor = d != 0 ? 1.0f / d : 0;
    /* The inverse of a subnormal is infinite; such a group is zero in f16 anyway. */
    if (isinf(*factor)) *factor = 0;
    return true;
}

bool quant_legacy_write_q4_0(const float *src, void *dst, int64_t n) {
    GroupQ4_0 *g = dst;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++, src += QUANT_GROUP) {
        float factor;
        if (!quant_legacy_scale(quant_legacy_extreme(src) / -8, &g->d, &factor)) return false;
        for (int j = 0; j < 16; j++) {
            /* +8.5 and truncation; exact in f64, so the result does not depend on FMA. */
            int low = (int)((double)src[j] * (double)factor + 8.5);
            int high = (int)((double)src[j + 16] * (double)factor + 8.5);
            g->qs[j] = (uint8_t)(MIN(low, 15) | MIN(high, 15) << 4);
        }
    }
    return true;
}

bool quant_legacy_write_q8_0(const float *src, void *dst, int64_t n) {
    GroupQ8_0 *g = dst;
    for (int64_t i = 0; i < n; i += QUANT_GROUP, g++, src += QUANT_GROUP) {
        float factor;
        if (!quant_legacy_scale(fabsf(quant_legacy_extreme(src)) / 127, &g->d, &factor))
            return false;
        for (int j = 0; j < QUANT_GROUP; j++) g->qs[j] = (int8_t)roundf(src[j] * factor);
    }
    return true;
}
