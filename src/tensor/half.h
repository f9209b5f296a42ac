/* half: f16, bf16, fp8 and fp4 <-> f32, one value at a time, exact.
 *
 * Narrowing rounds to nearest, ties to even; NaN stays NaN; f16 overflow gives infinity. */
#pragma once

#include <string.h>

#include "base/base.h"

static inline float half_bits_to_f32(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t half_bits_from_f32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float bf16_to_f32(uint16_t h) {
    return half_bits_to_f32((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float f) {
    uint32_t bits = half_bits_from_f32(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00) return half_bits_to_f32(sign | 0x7f800000u | magnitude << 13);
    if (magnitude >= 0x0400) return half_bits_to_f32(sign | ((magnitude << 13) + 0x38000000u));
    /* Subnormal: magnitude * 2^-24, exact in f32. */
    float value = (float)magnitude * 0x1p-24f;
    return half_bits_to_f32(sign | half_bits_from_f32(value));
}

static inline uint16_t f16_from_f32(float f) {
    uint32_t bits = half_bits_from_f32(f), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x3ff));
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* rounds past 65504 */
    if (bits < 0x38800000u) {
        /* Subnormal: adding 0.5 lets the FPU round at 2^-24. */
        float value = half_bits_to_f32(bits) + 0.5f;
        return (uint16_t)(sign | (half_bits_from_f32(value) - 0x3f000000u));
    }
    uint32_t rounded = bits - 0x38000000u + 0xfffu + (bits >> 13 & 1);
    return (uint16_t)(sign | rounded >> 13);
}

/* Exponent-only scale of the MX formats: 2^(e - 127); 255 is NaN. */
static inline float e8m0_to_f32(uint8_t e) {
    if (e == 255) return half_bits_to_f32(0x7fc00000u);
    return e == 0 ? 0x1p-127f : half_bits_to_f32((uint32_t)e << 23);
}

/* OCP fp8 E4M3 ("e4m3fn"): bias 7, no infinity, NaN is 0x7f and 0xff, largest 448. */
static inline float f8_e4m3_to_f32(uint8_t b) {
    uint32_t sign = (uint32_t)(b & 0x80) << 24, magnitude = b & 0x7f;
    if (magnitude == 0x7f) return half_bits_to_f32(sign | 0x7fc00000u);
    if (magnitude >= 8) return half_bits_to_f32(sign | ((magnitude << 20) + 0x3c000000u));
    return half_bits_to_f32(sign | half_bits_from_f32((float)magnitude * 0x1p-9f));
}

/* Overflow and infinity give NaN as in the OCP table without saturation. */
static inline uint8_t f8_e4m3_from_f32(float f) {
    uint32_t bits = half_bits_from_f32(f), sign = bits >> 24 & 0x80;
    bits &= 0x7fffffffu;
    if (bits > 0x43e80000u) return (uint8_t)(sign | 0x7f); /* past 464, halfway to 480 */
    if (bits < 0x3c800000u) {
        /* Subnormal: adding 2^14 lets the FPU round at 2^-9. */
        float value = half_bits_to_f32(bits) + 0x1p14f;
        return (uint8_t)(sign | (half_bits_from_f32(value) - 0x46800000u));
    }
    uint32_t rounded = bits - 0x3c000000u + 0x7ffffu + (bits >> 20 & 1);
    return (uint8_t)(sign | rounded >> 20);
}

/* OCP fp8 E5M2: the upper byte of an f16; largest 57344. */
static inline float f8_e5m2_to_f32(uint8_t b) {
    return f16_to_f32((uint16_t)(b << 8));
}

/* Overflow gives infinity, as in f16. */
static inline uint8_t f8_e5m2_from_f32(float f) {
    uint32_t bits = half_bits_from_f32(f), sign = bits >> 24 & 0x80;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint8_t)(sign | 0x7e);
    if (bits >= 0x47700000u) return (uint8_t)(sign | 0x7c); /* 61440, halfway past 57344 */
    if (bits < 0x38800000u) {
        /* Subnormal: adding 2^7 lets the FPU round at 2^-16. */
        float value = half_bits_to_f32(bits) + 0x1p7f;
        return (uint8_t)(sign | (half_bits_from_f32(value) - 0x43000000u));
    }
    uint32_t rounded = bits - 0x38000000u + 0xfffffu + (bits >> 21 & 1);
    return (uint8_t)(sign | rounded >> 21);
}
