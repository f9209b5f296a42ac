#include <string.h>

#include "tensor/half.h"
#include "tensor/quant_priv.h"

void quant_plain_read_f32(const void *src, float *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof *dst);
}

void quant_plain_read_f16(const void *src, float *dst, int64_t n) {
    const uint16_t *from = src;
    for (int64_t i = 0; i < n; i++) dst[i] = f16_to_f32(from[i]);
}

void quant_plain_read_bf16(const void *src, float *dst, int64_t n) {
    const uint16_t *from = src;
    for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(from[i]);
}

void quant_plain_read_f64(const void *src, float *dst, int64_t n) {
    const double *from = src;
    for (int64_t i = 0; i < n; i++) dst[i] = (float)from[i];
}

void quant_plain_read_e4m3(const void *src, float *dst, int64_t n) {
    const uint8_t *from = src;
    for (int64_t i = 0; i < n; i++) dst[i] = f8_e4m3_to_f32(from[i]);
}

void quant_plain_read_e5m2(const void *src, float *dst, int64_t n) {
    const uint8_t *from = src;
    for (int64_t i = 0; i < n; i++) dst[i] = f8_e5m2_to_f32(from[i]);
}

bool quant_plain_write_f32(const float *src, void *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof *src);
    return true;
}

bool quant_plain_write_f16(const float *src, void *dst, int64_t n) {
    uint16_t *to = dst;
    for (int64_t i = 0; i < n; i++) to[i] = f16_from_f32(src[i]);
    return true;
}

bool quant_plain_write_bf16(const float *src, void *dst, int64_t n) {
    uint16_t *to = dst;
    for (int64_t i = 0; i < n; i++) to[i] = bf16_from_f32(src[i]);
    return true;
}
