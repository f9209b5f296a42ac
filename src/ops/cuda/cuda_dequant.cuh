/* cuda_dequant: one element of a row in any weight format, as tensor/quant*.c reads it.
 *
 * For the kernels that take every format and are not in a hurry. */
#pragma once

#include "ops/cuda/cuda_common.cuh"
#include "tensor/quant.h"

static __device__ __forceinline__ float cuda_dequant_f16(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}

/* Its exponent is f16's less a bias of 8. */
static __device__ __forceinline__ float cuda_dequant_e4m3(uint8_t bits) {
    if ((bits & 0x7f) == 0x7f) return CUDART_NAN_F;
    return cuda_dequant_f16((bits & 0x80) << 8 | (bits & 0x7f) << 7) * 256;
}

static __device__ __forceinline__ int cuda_dequant_nibble(const uint8_t *qs, int i) {
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

static __device__ __forceinline__ int cuda_dequant_bit(const uint8_t *bits, int i) {
    return bits[i / 8] >> (i % 8) & 1;
}

static __device__ __constant__ const int8_t CUDA_IQ4_VALUE[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static __device__ __constant__ const int8_t CUDA_FP4_TWICE[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                                                  0, -1, -2, -3, -4, -6, -8, -12};

static __device__ __forceinline__ void cuda_dequant_k(const uint8_t *scales, int s, int *scale,
                                                      int *min) {
    if (s < 4) {
        *scale = scales[s] & 63;
        *min = scales[s + 4] & 63;
    } else {
        *scale = (scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4;
        *min = scales[s + 4] >> 4 | (scales[s] >> 6) << 4;
    }
}

/* Formats of 32 elements. */
static __device__ __forceinline__ float cuda_dequant_small(DType dtype, const void *row, int g,
                                                           int i) {
    switch (dtype) {
        case DTYPE_Q4_0: {
            const GroupQ4_0 *q = (const GroupQ4_0 *)row + g;
            return cuda_dequant_f16(q->d) * (cuda_dequant_nibble(q->qs, i) - 8);
        }
        case DTYPE_Q4_1: {
            const GroupQ4_1 *q = (const GroupQ4_1 *)row + g;
            return cuda_dequant_f16(q->d) * cuda_dequant_nibble(q->qs, i) + cuda_dequant_f16(q->m);
        }
        case DTYPE_Q5_0: {
            const GroupQ5_0 *q = (const GroupQ5_0 *)row + g;
            int v = cuda_dequant_nibble(q->qs, i) | cuda_dequant_bit(q->qh, i) << 4;
            return cuda_dequant_f16(q->d) * (v - 16);
        }
        case DTYPE_Q5_1: {
            const GroupQ5_1 *q = (const GroupQ5_1 *)row + g;
            int v = cuda_dequant_nibble(q->qs, i) | cuda_dequant_bit(q->qh, i) << 4;
            return cuda_dequant_f16(q->d) * v + cuda_dequant_f16(q->m);
        }
        case DTYPE_Q8_0: {
            const GroupQ8_0 *q = (const GroupQ8_0 *)row + g;
            return cuda_dequant_f16(q->d) * q->qs[i];
        }
        case DTYPE_IQ4_NL: {
            const GroupIQ4_NL *q = (const GroupIQ4_NL *)row + g;
            return cuda_dequant_f16(q->d) * CUDA_IQ4_VALUE[cuda_dequant_nibble(q->qs, i)];
        }
        default: {
            const GroupMXFP4 *q = (const GroupMXFP4 *)row + g;
            float scale = q->e == 255 ? CUDART_NAN_F : exp2f((float)q->e - 128.0f);
            return scale * CUDA_FP4_TWICE[cuda_dequant_nibble(q->qs, i)];
        }
    }
}

/* Formats of 256 elements. */
static __device__ __forceinline__ float cuda_dequant_large(DType dtype, const void *row, int g,
                                                           int i) {
    switch (dtype) {
        case DTYPE_Q2_K: {
            const GroupQ2_K *q = (const GroupQ2_K *)row + g;
            int s = q->scales[i / 16];
            int v = q->qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            return cuda_dequant_f16(q->d) * (s & 15) * v - cuda_dequant_f16(q->dmin) * (s >> 4);
        }
        case DTYPE_Q3_K: {
            const GroupQ3_K *q = (const GroupQ3_K *)row + g;
            int s = i / 16;
            int low = s < 8 ? q->scales[s] & 15 : q->scales[s - 8] >> 4;
            int high = q->scales[8 + s % 4] >> (2 * (s / 4)) & 3;
            int v = q->qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            int h = q->hmask[i % 32] >> (i / 32) & 1;
            return cuda_dequant_f16(q->d) * ((low | high << 4) - 32) * (v - (h ? 0 : 4));
        }
        case DTYPE_Q4_K: {
            const GroupQ4_K *q = (const GroupQ4_K *)row + g;
            int scale, min, byte = q->qs[i / 64 * 32 + i % 32];
            cuda_dequant_k(q->scales, i / 32, &scale, &min);
            int v = i % 64 < 32 ? byte & 15 : byte >> 4;
            return cuda_dequant_f16(q->d) * scale * v - cuda_dequant_f16(q->dmin) * min;
        }
        case DTYPE_Q5_K: {
            const GroupQ5_K *q = (const GroupQ5_K *)row + g;
            int scale, min, byte = q->qs[i / 64 * 32 + i % 32];
            cuda_dequant_k(q->scales, i / 32, &scale, &min);
            int v = (i % 64 < 32 ? byte & 15 : byte >> 4) | (q->qh[i % 32] >> (i / 32) & 1) << 4;
            return cuda_dequant_f16(q->d) * scale * v - cuda_dequant_f16(q->dmin) * min;
        }
        case DTYPE_Q6_K: {
            const GroupQ6_K *q = (const GroupQ6_K *)row + g;
            int half = i / 128, l = i % 128, byte = q->ql[half * 64 + l % 64];
            int v = (l < 64 ? byte & 15 : byte >> 4) |
                    (q->qh[half * 32 + l % 32] >> (l / 32 * 2) & 3) << 4;
            return cuda_dequant_f16(q->d) * q->scales[i / 16] * (v - 32);
        }
        default: {
            const GroupIQ4_XS *q = (const GroupIQ4_XS *)row + g;
            int s = i / 32;
            int low = q->scales_l[s / 2] >> (4 * (s % 2)) & 15;
            int scale = (low | (q->scales_h >> (2 * s) & 3) << 4) - 32;
            return cuda_dequant_f16(q->d) * scale *
                   CUDA_IQ4_VALUE[cuda_dequant_nibble(q->qs + 16 * s, i % 32)];
        }
    }
}

/* Element i of the row. */
static __device__ __forceinline__ float cuda_dequant(DType dtype, const void *row, int i) {
    switch (dtype) {
        case DTYPE_F32: return ((const float *)row)[i];
        case DTYPE_F16: return cuda_dequant_f16(((const uint16_t *)row)[i]);
        case DTYPE_BF16: return __bfloat162float(((const __nv_bfloat16 *)row)[i]);
        case DTYPE_F64: return (float)((const double *)row)[i];
        case DTYPE_F8_E4M3: return cuda_dequant_e4m3(((const uint8_t *)row)[i]);
        case DTYPE_F8_E5M2: return cuda_dequant_f16(((const uint8_t *)row)[i] << 8);
        case DTYPE_Q2_K:
        case DTYPE_Q3_K:
        case DTYPE_Q4_K:
        case DTYPE_Q5_K:
        case DTYPE_Q6_K:
        case DTYPE_IQ4_XS: return cuda_dequant_large(dtype, row, i / 256, i % 256);
        default: return cuda_dequant_small(dtype, row, i / 32, i % 32);
    }
}
