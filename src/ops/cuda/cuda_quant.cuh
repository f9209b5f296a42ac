/* cuda_quant: f16, bf16 and block-format matrices as the tensor cores take them, and their product.
 *
 * It needs nothing newer than compute capability 8.0; Hopper has a faster one for bf16
 * (cuda_linear.cuh).
 *
 * A matrix lies in units: 16 rows of as many columns as a piece of 512 bytes or a group of the
 * format holds, in as many bytes as in the file (Q4_K: 3 % more). In a unit a lane of a warp finds
 * its elements of mma.sync.m16n8k16 side by side: lane l has rows l / 4 and l / 4 + 8, and of each
 * 32 columns the 8 from l % 4 * 8 on (Q6_K, whose groups have 16: 4 of each 16). Rows that fill up
 * the last unit are zeros.
 *
 * A sum's order follows from k alone: a warp has an eighth of the units; it sums a group's codes
 * times x by tensor cores from zero, adds that times the scale, group after group; the eight
 * sums are added in rising order. Codes are whole numbers of 8 bits at most, so the weight that is
 * multiplied is the format's exactly; f16 is the sum of two bf16. */
#pragma once

#include "ops/cuda/cuda_common.cuh"
#include "tensor/quant.h"

enum { CUDA_QUANT_ROWS = 16, CUDA_QUANT_PARTS_MAX = 3 };

/* Columns and bytes of a unit; 0: the format has none. */
struct CudaQuantUnit {
    int k, bytes;
};

static inline __host__ __device__ constexpr CudaQuantUnit cuda_quant_unit(DType dtype) {
    switch (dtype) {
        case DTYPE_F16:
        case DTYPE_BF16: return CudaQuantUnit{32, 1024};
        case DTYPE_Q8_0: return CudaQuantUnit{32, 544};
        case DTYPE_Q4_0: return CudaQuantUnit{64, 576};
        case DTYPE_MXFP4: return CudaQuantUnit{64, 544};
        case DTYPE_Q4_K: return CudaQuantUnit{256, 2368};
        case DTYPE_Q6_K: return CudaQuantUnit{256, 3360};
        default: return CudaQuantUnit{0, 0};
    }
}

/* Whether a matrix [n, k] of this format is kept in units. */
static inline bool cuda_quant_can_pack(DType dtype, int64_t k) {
    const int unit = cuda_quant_unit(dtype).k;
    return unit > 0 && k % unit == 0;
}

static inline size_t cuda_quant_bytes(DType dtype, int64_t n, int64_t k) {
    const CudaQuantUnit unit = cuda_quant_unit(dtype);
    return (size_t)(DIV_UP(n, (int64_t)CUDA_QUANT_ROWS) * (k / unit.k) * unit.bytes);
}

/* Packs rows of a file, n of them in device memory without gaps, to dst, the first unit of a row of
 * units. What is not covered must have been set to zero. */
cudaError_t cuda_quant_pack(cudaStream_t stream, DType dtype, const void *rows, int32_t n,
                            int32_t k, char *dst);

/* Element j of row i, for whoever is not in a hurry. */
static __device__ float cuda_quant_get(DType dtype, const char *data, int64_t i, int j, int64_t k);

struct CudaQuantPart {
    const char *w;
    const float *bias; /* [n] or NULL */
    void *out;         /* [n_tokens, n] rows out_stride apart */
    int64_t out_stride;
    int32_t n;
};

/* out[t] (+)= W x[t] + bias of one to three matrices of one format and k. */
struct CudaQuantArgs {
    DType dtype;
    const void *x; /* bf16 [n_tokens, k] rows x_stride apart, at 16 bytes */
    int64_t x_stride;
    int32_t n_tokens, k, n_parts;
    CudaQuantPart part[CUDA_QUANT_PARTS_MAX];
    bool out_bf16, accumulate;
};

void cuda_quant_product(OpCtx *ctx, const CudaQuantArgs *args);

/* ---- where things are in a unit ----------------------------------------------------------- */

/* Of column j (of 32) the lane's quarter, and which of its eight elements it is. */
static inline __host__ __device__ int cuda_quant_quarter(DType dtype, int j) {
    return dtype == DTYPE_Q6_K ? j % 16 / 4 : j / 8;
}
static inline __host__ __device__ int cuda_quant_element(DType dtype, int j) {
    return dtype == DTYPE_Q6_K ? j / 16 * 4 + j % 4 : j % 8;
}

/* The bits of element e in a word of eight nibbles: pairs of elements stand 16 bits apart. */
static inline __host__ __device__ int cuda_quant_shift(int e) {
    return e / 2 * 4 + e % 2 * 16;
}

static __device__ __forceinline__ float cuda_quant_f16(const char *p) {
    return __half2float(*(const __half *)p);
}

static __device__ float cuda_quant_get(DType dtype, const char *data, int64_t i, int j, int64_t k) {
    const CudaQuantUnit unit = cuda_quant_unit(dtype);
    const char *p = data + (i / CUDA_QUANT_ROWS * (k / unit.k) + j / unit.k) * unit.bytes;
    const int g = (int)(i % 8), h = (int)(i % 16 / 8), u = j % unit.k, s = u / 32;
    const int lane = g * 4 + cuda_quant_quarter(dtype, u % 32);
    const int e = cuda_quant_element(dtype, u % 32);
    if (dtype == DTYPE_F16) return cuda_quant_f16(p + h * 512 + lane * 16 + e * 2);
    if (dtype == DTYPE_BF16)
        return __bfloat162float(*(const __nv_bfloat16 *)(p + h * 512 + lane * 16 + e * 2));
    if (dtype == DTYPE_Q8_0)
        return cuda_quant_f16(p + 512 + g * 4 + h * 2) * (int8_t)p[lane * 16 + h * 8 + e];
    const char *word = p + s / 2 * 512 + lane * 16 + s % 2 * 8 + h * 4;
    const int q = *(const uint32_t *)word >> cuda_quant_shift(e) & 15;
    if (dtype == DTYPE_Q4_0) return cuda_quant_f16(p + 512 + s * 32 + g * 4 + h * 2) * (q - 8);
    if (dtype == DTYPE_MXFP4) {
        const int exponent = (uint8_t)p[512 + g * 4 + s * 2 + h];
        const float scale = exponent == 255 ? CUDART_NAN_F : exp2f((float)exponent - 128.0f);
        const int twice = (q & 7) < 5 ? q & 7 : (q & 7) == 5 ? 6 : (q & 7) == 6 ? 8 : 12;
        return scale * (q & 8 ? -twice : twice);
    }
    if (dtype == DTYPE_Q4_K) {
        const uint8_t *scale = (const uint8_t *)p + 2048 + g * 32 + s * 4 + h * 2;
        const char *d = p + 2304 + g * 8 + h * 4;
        return cuda_quant_f16(d) * scale[0] * q - cuda_quant_f16(d + 2) * scale[1];
    }
    const int high = *(const uint16_t *)(p + 2048 + s / 2 * 256 + lane * 8 + s % 2 * 4 + h * 2);
    const int scale = (int8_t)p[3072 + g * 32 + u / 16 * 2 + h];
    return cuda_quant_f16(p + 3328 + g * 4 + h * 2) * scale *
           ((q | (high >> (2 * e) & 3) << 4) - 32);
}
