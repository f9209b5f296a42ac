/* cpu_unpack_tmpl: a subgroup of 32 elements of a packed panel (cpu_pack.h) -> unsigned bytes and
 * f32 scales, lane = row. One source for two levels: the includer defines
 *
 *   UNPACK_LANES               16, or 8: then `half` says which eight rows of the panel
 *   unpack_table(table, index) the byte of a 16-byte table for every byte of index (0..15)
 *   unpack_f16(p)              UNPACK_LANES f16 values -> UnpackF
 *   unpack_u8(p)               UNPACK_LANES bytes -> UnpackU (gcc converts them one by one)
 *
 * Layouts: tensor/quant.h. Every unpack function takes the packed group, the subgroup s in it (a
 * constant after inlining) and fills u[i] (elements 4 i .. 4 i + 3), scale and min; formats with
 * one scale per 32 elements leave scale[1] and min[1] alone, formats without minima leave both. */
#pragma once

#include <string.h>
#include "ops/cpu/cpu_unroll.h"

typedef uint32_t UnpackU __attribute__((vector_size(4 * UNPACK_LANES)));
typedef int32_t UnpackI __attribute__((vector_size(4 * UNPACK_LANES)));
typedef float UnpackF __attribute__((vector_size(4 * UNPACK_LANES)));

typedef struct UnpackGroup {
    UnpackU u[8];
    UnpackF scale[2], min[2];
} UnpackGroup;

#define UNPACK_INLINE inline __attribute__((always_inline))

static UnpackF unpack_f16(const void *p);
static UnpackU unpack_u8(const void *p);
static UnpackU unpack_table(const uint8_t table[16], UnpackU index);

static UNPACK_INLINE UnpackU unpack_word(const uint8_t *group, int i, int half) {
    UnpackU v;
    memcpy(&v, group + i * 64 + half * 32, sizeof v);
    return v;
}

static UNPACK_INLINE UnpackF unpack_half(const uint8_t *group, int n_words, int i, int half) {
    return unpack_f16(group + n_words * 64 + i * 32 + half * 16);
}

static UNPACK_INLINE UnpackF unpack_float(UnpackU v) {
    return __builtin_convertvector((UnpackI)v, UnpackF);
}

/* v moved so that bit `from` of each byte comes to bit `to`; the caller masks. */
static UNPACK_INLINE UnpackU unpack_move(UnpackU v, int from, int to) {
    return from <= to ? v << (to - from) : v >> (from - to);
}

static UNPACK_INLINE UnpackU unpack_bytes(uint8_t byte) {
    return (UnpackU){0} + byte * 0x01010101u;
}

/* The nibbles of QUANT's 32-element groups from words first .. first + 3. */
static UNPACK_INLINE void unpack_nibbles(const uint8_t *group, int first, int half, UnpackU u[8]) {
    const UnpackU mask = unpack_bytes(15);
    CPU_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        UnpackU v = unpack_word(group, first + i, half);
        u[i] = v & mask;
        u[i + 4] = v >> 4 & mask;
    }
}

/* The nibbles of Q4_K and Q5_K: subgroups 2 p and 2 p + 1 share 8 words. */
static UNPACK_INLINE void unpack_nibbles_k(const uint8_t *group, int first, int s, int half,
                                           UnpackU u[8]) {
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        UnpackU v = unpack_word(group, first + s / 2 * 8 + i, half);
        u[i] = unpack_move(v, s % 2 * 4, 0) & unpack_bytes(15);
    }
}

static UNPACK_INLINE void unpack_q4_0(const uint8_t *group, int s, int half, UnpackGroup *out) {
    (void)s;
    unpack_nibbles(group, 0, half, out->u);
    out->scale[0] = unpack_half(group, 4, 0, half);
}

static UNPACK_INLINE void unpack_q4_1(const uint8_t *group, int s, int half, UnpackGroup *out) {
    (void)s;
    unpack_nibbles(group, 0, half, out->u);
    out->scale[0] = unpack_half(group, 4, 0, half);
    out->min[0] = unpack_half(group, 4, 1, half);
}

/* Words: qh spread over bytes, then the nibbles. */
static UNPACK_INLINE void unpack_fives(const uint8_t *group, int half, UnpackU u[8]) {
    UnpackU high = unpack_word(group, 0, half);
    unpack_nibbles(group, 1, half, u);
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) u[i] |= unpack_move(high, i, 4) & unpack_bytes(16);
}

static UNPACK_INLINE void unpack_q5_0(const uint8_t *group, int s, int half, UnpackGroup *out) {
    (void)s;
    unpack_fives(group, half, out->u);
    out->scale[0] = unpack_half(group, 5, 0, half);
}

static UNPACK_INLINE void unpack_q5_1(const uint8_t *group, int s, int half, UnpackGroup *out) {
    (void)s;
    unpack_fives(group, half, out->u);
    out->scale[0] = unpack_half(group, 5, 0, half);
    out->min[0] = unpack_half(group, 5, 1, half);
}

static UNPACK_INLINE void unpack_q8_0(const uint8_t *group, int s, int half, UnpackGroup *out) {
    (void)s;
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) out->u[i] = unpack_word(group, i, half);
    out->scale[0] = unpack_half(group, 8, 0, half);
}

/* Words: 4 of scales, 16 of quants. */
static UNPACK_INLINE void unpack_q2_k(const uint8_t *group, int s, int half, UnpackGroup *out) {
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        UnpackU v = unpack_word(group, 4 + s / 4 * 8 + i, half);
        out->u[i] = v >> (2 * (s % 4)) & unpack_bytes(3);
    }
    UnpackF d = unpack_half(group, 20, 0, half), d_min = unpack_half(group, 20, 1, half);
    CPU_UNROLL(2)
    for (int j = 0; j < 2; j++) {
        UnpackU v = unpack_word(group, s / 2, half) >> (16 * (s % 2) + 8 * j);
        out->scale[j] = d * unpack_float(v & 15);
        out->min[j] = -d_min * unpack_float(v >> 4 & 15);
    }
}

/* Words: 3 of scales, 8 pairs of high bits and of low bits for s < 4, 8 of low bits for the other
 * s. */
static UNPACK_INLINE void unpack_q3_k(const uint8_t *group, int s, int half, UnpackGroup *out) {
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        int low_at = s < 4 ? 2 * i + 1 : 16 + i;
        UnpackU low = unpack_word(group, 3 + low_at, half) >> (2 * (s % 4));
        UnpackU high = unpack_move(unpack_word(group, 3 + 2 * i, half), s, 2);
        out->u[i] = (low & unpack_bytes(3)) | (high & unpack_bytes(4));
    }
    UnpackF d = unpack_half(group, 27, 0, half);
    CPU_UNROLL(2)
    for (int j = 0; j < 2; j++) {
        int i = 2 * s + j, byte = i % 4;
        UnpackU low = unpack_word(group, i / 4 % 2, half) >> (8 * byte + i / 8 * 4) & 15;
        UnpackU high = unpack_word(group, 2, half) >> (8 * byte + i / 4 * 2) & 3;
        out->scale[j] = d * unpack_float((low | high << 4) - 32);
    }
}

/* The three words of scales of Q4_K and Q5_K come first. */
static UNPACK_INLINE void unpack_scale_min_k(const uint8_t *group, int n_words, int s, int half,
                                             UnpackGroup *out) {
    UnpackU a = unpack_word(group, 0, half) >> (8 * (s % 4));
    UnpackU b = unpack_word(group, 1, half) >> (8 * (s % 4)), scale = a & 63, min = b & 63;
    if (s >= 4) {
        UnpackU c = unpack_word(group, 2, half) >> (8 * (s % 4));
        scale = (c & 15) | (a >> 2 & 48);
        min = (c >> 4 & 15) | (b >> 2 & 48);
    }
    out->scale[0] = unpack_half(group, n_words, 0, half) * unpack_float(scale);
    out->min[0] = -unpack_half(group, n_words, 1, half) * unpack_float(min);
}

static UNPACK_INLINE void unpack_q4_k(const uint8_t *group, int s, int half, UnpackGroup *out) {
    unpack_nibbles_k(group, 3, s, half, out->u);
    unpack_scale_min_k(group, 35, s, half, out);
}

/* Words: 3 of scales, 8 of high bits, 32 of nibbles. */
static UNPACK_INLINE void unpack_q5_k(const uint8_t *group, int s, int half, UnpackGroup *out) {
    unpack_nibbles_k(group, 11, s, half, out->u);
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++)
        out->u[i] |= unpack_move(unpack_word(group, 3 + i, half), s, 4) & unpack_bytes(16);
    unpack_scale_min_k(group, 43, s, half, out);
}

/* Words: 4 of scales, then twice 8 pairs of high bits and of low bits for even s, 8 of low bits for
 * odd s. */
static UNPACK_INLINE void unpack_q6_k(const uint8_t *group, int s, int half, UnpackGroup *out) {
    int first = 4 + s / 4 * 24, c = s % 4;
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        int low_at = c % 2 == 0 ? 2 * i + 1 : 16 + i;
        UnpackU low = unpack_word(group, first + low_at, half) >> (c / 2 * 4);
        UnpackU high = unpack_move(unpack_word(group, first + 2 * i, half), 2 * c, 4);
        out->u[i] = (low & unpack_bytes(15)) | (high & unpack_bytes(48));
    }
    UnpackF d = unpack_half(group, 52, 0, half);
    CPU_UNROLL(2)
    for (int j = 0; j < 2; j++) {
        UnpackU v = unpack_word(group, s / 2, half) << (24 - (16 * (s % 2) + 8 * j));
        out->scale[j] = d * __builtin_convertvector((UnpackI)v >> 24, UnpackF);
    }
}

/* IQ4's values plus 128. */
static const uint8_t UNPACK_IQ4[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                       129, 141, 153, 166, 181, 197, 217, 241};
/* Twice the values of fp4, plus 16. */
static const uint8_t UNPACK_FP4[16] = {16, 17, 18, 19, 20, 22, 24, 28,
                                       16, 15, 14, 13, 12, 10, 8,  4};

static UNPACK_INLINE void unpack_iq4_nl(const uint8_t *group, int s, int half, UnpackGroup *out) {
    (void)s;
    unpack_nibbles(group, 0, half, out->u);
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) out->u[i] = unpack_table(UNPACK_IQ4, out->u[i]);
    out->scale[0] = unpack_half(group, 4, 0, half);
}

/* Words: scales_l, 32 of nibbles; halves: d, scales_h. */
static UNPACK_INLINE void unpack_iq4_xs(const uint8_t *group, int s, int half, UnpackGroup *out) {
    unpack_nibbles(group, 1 + 4 * s, half, out->u);
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) out->u[i] = unpack_table(UNPACK_IQ4, out->u[i]);
    typedef uint16_t UnpackHalves __attribute__((vector_size(2 * UNPACK_LANES)));
    UnpackHalves scales_h;
    memcpy(&scales_h, group + 33 * 64 + 32 + half * 16, sizeof scales_h);
    UnpackU high = __builtin_convertvector(scales_h, UnpackU) >> (2 * s) & 3;
    UnpackU low = unpack_word(group, 0, half) >> (4 * s) & 15;
    out->scale[0] = unpack_half(group, 33, 0, half) * unpack_float((low | high << 4) - 32);
}

static UNPACK_INLINE void unpack_mxfp4(const uint8_t *group, int s, int half, UnpackGroup *out) {
    (void)s;
    unpack_nibbles(group, 0, half, out->u);
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) out->u[i] = unpack_table(UNPACK_FP4, out->u[i]);
    UnpackU e = unpack_u8(group + 4 * 64 + half * 8);
    /* 2^(e - 127) in bits; e = 0 is subnormal, 255 NaN. Half of it: the table has doubles. */
    UnpackU bits = e << 23 | ((UnpackU)(e == 0) & 0x400000u) | ((UnpackU)(e == 255) & 0x400000u);
    out->scale[0] = (UnpackF)bits * 0.5f;
}
