/* The 256-element formats with two levels of scales: Q2_K Q3_K Q4_K Q5_K Q6_K. */
#include "tensor/half.h"
#include "tensor/quant_priv.h"

void quant_k_read_q2(const void *src, float *dst, int64_t n) {
    const GroupQ2_K *g = src;
    for (int64_t k = 0; k < n; k += QUANT_K_GROUP, g++, dst += QUANT_K_GROUP) {
        float d = f16_to_f32(g->d), dmin = f16_to_f32(g->dmin);
        for (int i = 0; i < QUANT_K_GROUP; i++) {
            int q = g->qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            uint8_t scale = g->scales[i / 16];
            float step = d * (float)(scale & 15), min = dmin * (float)(scale >> 4);
            dst[i] = step * (float)q - min;
        }
    }
}

void quant_k_read_q3(const void *src, float *dst, int64_t n) {
    const GroupQ3_K *g = src;
    for (int64_t k = 0; k < n; k += QUANT_K_GROUP, g++, dst += QUANT_K_GROUP) {
        float d = f16_to_f32(g->d);
        for (int i = 0; i < QUANT_K_GROUP; i++) {
            int q = g->qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            int high = g->hmask[i % 32] >> (i / 32) & 1;
            float step = d * (float)quant_q3_scale(g->scales, i / 16);
            dst[i] = step * (float)(q - (high ? 0 : 4));
        }
    }
}

void quant_k_read_q4(const void *src, float *dst, int64_t n) {
    const GroupQ4_K *g = src;
    for (int64_t k = 0; k < n; k += QUANT_K_GROUP, g++, dst += QUANT_K_GROUP) {
        float d = f16_to_f32(g->d), dmin = f16_to_f32(g->dmin);
        for (int s = 0; s < 8; s++) {
            uint8_t scale, min;
            quant_k_scale_min(g->scales, s, &scale, &min);
            float step = d * (float)scale, offset = dmin * (float)min;
            for (int l = 0; l < 32; l++) {
                int q = g->qs[s / 2 * 32 + l] >> (s % 2 * 4) & 15;
                dst[s * 32 + l] = step * (float)q - offset;
            }
        }
    }
}

void quant_k_read_q5(const void *src, float *dst, int64_t n) {
    const GroupQ5_K *g = src;
    for (int64_t k = 0; k < n; k += QUANT_K_GROUP, g++, dst += QUANT_K_GROUP) {
        float d = f16_to_f32(g->d), dmin = f16_to_f32(g->dmin);
        for (int s = 0; s < 8; s++) {
            uint8_t scale, min;
            quant_k_scale_min(g->scales, s, &scale, &min);
            float step = d * (float)scale, offset = dmin * (float)min;
            for (int l = 0; l < 32; l++) {
                int q = (g->qs[s / 2 * 32 + l] >> (s % 2 * 4) & 15) | (g->qh[l] >> s & 1) << 4;
                dst[s * 32 + l] = step * (float)q - offset;
            }
        }
    }
}

void quant_k_read_q6(const void *src, float *dst, int64_t n) {
    const GroupQ6_K *g = src;
    for (int64_t k = 0; k < n; k += QUANT_K_GROUP, g++, dst += QUANT_K_GROUP) {
        float d = f16_to_f32(g->d);
        for (int i = 0; i < QUANT_K_GROUP; i++) {
            int half = i / 128, quarter = i % 128 / 32, l = i % 32;
            int low = g->ql[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
            int high = g->qh[half * 32 + l] >> (quarter * 2) & 3;
            float step = d * (float)g->scales[i / 16];
            dst[i] = step * (float)((low | high << 4) - 32);
        }
    }
}
