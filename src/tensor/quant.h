/* quant: how the block formats lie in memory, byte for byte as GGUF files hold them.
 *
 * A group is the run of elements that share scales. Little-endian; f16 fields are kept as their
 * bits. All groups of a row follow each other without gaps; a file aligns only the tensor's start,
 * so the structs need no more than two-byte alignment. "i" is an element's index in its group.
 * Source: the layouts of ggml (ggml-common.h) and, for MXFP4, OCP Microscaling Formats v1.0 §5. */
#pragma once

#include "tensor/dtype.h"

enum { QUANT_GROUP = 32, QUANT_K_GROUP = 256 };

/* The nibbles of all 32-element groups: byte j holds element j below, element j + 16 above.
 *
 *      bit  7 6 5 4   3 2 1 0
 *   qs[j]   [ j+16 ]  [  j   ]      j = 0..15
 */

/* x = d * (q - 8) */
typedef struct GroupQ4_0 {
    uint16_t d;
    uint8_t qs[16];
} GroupQ4_0;

/* x = d * q + m */
typedef struct GroupQ4_1 {
    uint16_t d, m;
    uint8_t qs[16];
} GroupQ4_1;

/* x = d * (q - 16); bit 4 of q is bit i of the little-endian word qh */
typedef struct GroupQ5_0 {
    uint16_t d;
    uint8_t qh[4];
    uint8_t qs[16];
} GroupQ5_0;

/* x = d * q + m; qh as in Q5_0 */
typedef struct GroupQ5_1 {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} GroupQ5_1;

/* x = d * q */
typedef struct GroupQ8_0 {
    uint16_t d;
    int8_t qs[32];
} GroupQ8_0;

/* x = d * QUANT_IQ4_VALUE[q] */
typedef struct GroupIQ4_NL {
    uint16_t d;
    uint8_t qs[16];
} GroupIQ4_NL;

/* x = 2^(e - 127) * fp4(q), fp4 = sign, 2 exponent bits, 1 mantissa bit; e = 255 is NaN */
typedef struct GroupMXFP4 {
    uint8_t e;
    uint8_t qs[16];
} GroupMXFP4;

/* The 256-element groups. Element i belongs to subgroup i / 16 or i / 32, which has its own scale.
 *
 * Two-bit fields (Q2_K, Q3_K): the group has two halves of 128 elements with 32 bytes each.
 *
 *      bit           7 6     5 4     3 2     1 0
 *   qs[32 h + l]    [l+96]  [l+64]  [l+32]  [ l ]     of half h = 0..1, l = 0..31
 */

/* x = d * (scales[i/16] & 15) * q - dmin * (scales[i/16] >> 4) */
typedef struct GroupQ2_K {
    uint8_t scales[16];
    uint8_t qs[64];
    uint16_t d, dmin;
} GroupQ2_K;

/* x = d * s * (q - 4 * !h): h is bit i / 32 of hmask[i % 32], s = quant_q3_scale(scales, i / 16) */
typedef struct GroupQ3_K {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12]; /* 16 scales of 6 bits, see quant_q3_scale */
    uint16_t d;
} GroupQ3_K;

/* x = d * s * q - dmin * m: s and m of subgroup i / 32 from quant_k_scale_min.
 *
 *      bit           7 6 5 4    3 2 1 0
 *   qs[32 p + l]    [l + 32]   [  l   ]      of pair p = i / 64, l = 0..31
 */
typedef struct GroupQ4_K {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
} GroupQ4_K;

/* As Q4_K; bit 4 of q is bit i / 32 of qh[i % 32] */
typedef struct GroupQ5_K {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
} GroupQ5_K;

/* x = d * scales[i/16] * (q - 32), in two halves h of 128 elements, l = 0..31:
 *
 *      bit             7 6 5 4     3 2 1 0
 *   ql[64 h + l]      [l + 64]    [   l  ]     low four bits of q
 *   ql[64 h + l + 32] [l + 96]    [l + 32]
 *      bit             7 6     5 4     3 2     1 0
 *   qh[32 h + l]      [l+96]  [l+64]  [l+32]  [ l ]      high two bits of q
 */
typedef struct GroupQ6_K {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
} GroupQ6_K;

/* Eight subgroups of 32, each with nibbles as in IQ4_NL at qs[16 * s]:
 * x = d * (scale - 32) * QUANT_IQ4_VALUE[q]; scale's low nibble is nibble s of scales_l, its high
 * two bits are bits 2 s of scales_h */
typedef struct GroupIQ4_XS {
    uint16_t d;
    uint16_t scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
} GroupIQ4_XS;

#define QUANT_SIZE_ASSERT(type, bytes) \
    _Static_assert(sizeof(type) == (bytes) && _Alignof(type) <= 2, #type)
QUANT_SIZE_ASSERT(GroupQ4_0, 18);
QUANT_SIZE_ASSERT(GroupQ4_1, 20);
QUANT_SIZE_ASSERT(GroupQ5_0, 22);
QUANT_SIZE_ASSERT(GroupQ5_1, 24);
QUANT_SIZE_ASSERT(GroupQ8_0, 34);
QUANT_SIZE_ASSERT(GroupIQ4_NL, 18);
QUANT_SIZE_ASSERT(GroupMXFP4, 17);
QUANT_SIZE_ASSERT(GroupQ2_K, 84);
QUANT_SIZE_ASSERT(GroupQ3_K, 110);
QUANT_SIZE_ASSERT(GroupQ4_K, 144);
QUANT_SIZE_ASSERT(GroupQ5_K, 176);
QUANT_SIZE_ASSERT(GroupQ6_K, 210);
QUANT_SIZE_ASSERT(GroupIQ4_XS, 136);
#undef QUANT_SIZE_ASSERT

/* The 16 values of IQ4_NL and IQ4_XS. */
static const int8_t QUANT_IQ4_VALUE[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};
/* Twice the 16 values of fp4, so that they are whole numbers. */
static const int8_t QUANT_FP4_TWICE[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Scale and minimum of subgroup s = 0..7 of Q4_K and Q5_K, six bits each in 12 bytes:
 *
 *      bit         7 6                5 4 3 2 1 0
 *   scales[s]      scale s+4, 5..4    scale s             s = 0..3
 *   scales[s + 4]  min s+4, 5..4      min s
 *      bit         7 6 5 4            3 2 1 0
 *   scales[s + 8]  min s+4, 3..0      scale s+4, 3..0
 */
static inline void quant_k_scale_min(const uint8_t scales[12], int s, uint8_t *scale,
                                     uint8_t *min) {
    if (s < 4) {
        *scale = scales[s] & 63;
        *min = scales[s + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4);
        *min = (uint8_t)(scales[s + 4] >> 4 | (scales[s] >> 6) << 4);
    }
}

/* Scale of subgroup s = 0..15 of Q3_K, -32..31, from six bits in 12 bytes:
 *
 *      bit         7 6 5 4              3 2 1 0
 *   scales[s]      scale s+8, 3..0      scale s, 3..0     s = 0..7
 *      bit         7 6      5 4      3 2      1 0
 *   scales[s + 8]  s+12     s+8      s+4      s           bits 5..4, s = 0..3
 */
static inline int quant_q3_scale(const uint8_t scales[12], int s) {
    int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
    int high = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
    return (low | high << 4) - 32;
}

/* Scale of subgroup s = 0..7 of IQ4_XS, -32..31. */
static inline int quant_iq4_scale(const GroupIQ4_XS *g, int s) {
    int low = g->scales_l[s / 2] >> (4 * (s % 2)) & 15;
    return (low | (g->scales_h >> (2 * s) & 3) << 4) - 32;
}
