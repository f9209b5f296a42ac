/* cuda_quant: rows of a file to units. */
#include "ops/cuda/cuda_dequant.cuh"
#include "ops/cuda/cuda_quant.cuh"

/* Four bits of element i of a row. */
static __device__ __forceinline__ int cuda_quant_nibble(DType dtype, const char *row, int i) {
    switch (dtype) {
        case DTYPE_Q4_0: return cuda_dequant_nibble(((const GroupQ4_0 *)row)[i / 32].qs, i % 32);
        case DTYPE_MXFP4: return cuda_dequant_nibble(((const GroupMXFP4 *)row)[i / 32].qs, i % 32);
        case DTYPE_Q4_K: {
            const GroupQ4_K *q = (const GroupQ4_K *)row + i / 256;
            return q->qs[i % 256 / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
        }
        default: {
            const GroupQ6_K *q = (const GroupQ6_K *)row + i / 256;
            return q->ql[i % 256 / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        }
    }
}

static __device__ __forceinline__ int cuda_quant_high(const char *row, int i) {
    const GroupQ6_K *q = (const GroupQ6_K *)row + i / 256;
    return q->qh[i % 256 / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

/* The scales of the 32 columns from `first` on, step s of a unit, for row (g, h) of it. */
static __device__ void cuda_quant_put_scales(DType dtype, const char *row, int first, int s, int g,
                                             int h, char *p) {
    if (dtype == DTYPE_Q8_0)
        *(uint16_t *)(p + 512 + g * 4 + h * 2) = ((const GroupQ8_0 *)row)[first / 32].d;
    if (dtype == DTYPE_Q4_0)
        *(uint16_t *)(p + 512 + s * 32 + g * 4 + h * 2) = ((const GroupQ4_0 *)row)[first / 32].d;
    if (dtype == DTYPE_MXFP4)
        p[512 + g * 4 + s * 2 + h] = (char)((const GroupMXFP4 *)row)[first / 32].e;
    if (dtype == DTYPE_Q4_K) {
        const GroupQ4_K *q = (const GroupQ4_K *)row + first / 256;
        int scale, min;
        cuda_dequant_k(q->scales, s, &scale, &min);
        p[2048 + g * 32 + s * 4 + h * 2] = (char)scale;
        p[2048 + g * 32 + s * 4 + h * 2 + 1] = (char)min;
        *(uint16_t *)(p + 2304 + g * 8 + h * 4) = q->d;
        *(uint16_t *)(p + 2304 + g * 8 + h * 4 + 2) = q->dmin;
    }
    if (dtype == DTYPE_Q6_K) {
        const GroupQ6_K *q = (const GroupQ6_K *)row + first / 256;
        for (int t = 2 * s; t < 2 * s + 2; t++)
            p[3072 + g * 32 + t * 2 + h] = (char)q->scales[t];
        *(uint16_t *)(p + 3328 + g * 4 + h * 2) = q->d;
    }
}

/* One thread eight elements of a row: those of one lane in one step of a unit. */
static __global__ void cuda_quant_pack_kernel(DType dtype, const char *rows, int64_t row_bytes,
                                              int n, int k, char *dst) {
    const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(at / (k / 8)), piece = (int)(at % (k / 8));
    if (i >= n) return;
    const CudaQuantUnit unit = cuda_quant_unit(dtype);
    const int first = piece / 4 * 32, c = piece % 4, s = first % unit.k / 32;
    const int g = i % 8, h = i % 16 / 8, lane = g * 4 + c;
    const char *row = rows + i * row_bytes;
    char *p = dst + ((int64_t)(i / CUDA_QUANT_ROWS) * (k / unit.k) + first / unit.k) * unit.bytes;
    const bool is_half = dtype == DTYPE_F16 || dtype == DTYPE_BF16;
    uint32_t word = 0, high = 0;
    for (int j = 0; j < 32; j++) {
        if (cuda_quant_quarter(dtype, j) != c) continue;
        const int e = cuda_quant_element(dtype, j);
        if (is_half) {
            *(uint16_t *)(p + h * 512 + lane * 16 + e * 2) = ((const uint16_t *)row)[first + j];
        } else if (dtype == DTYPE_Q8_0) {
            p[lane * 16 + h * 8 + e] = ((const GroupQ8_0 *)row)[first / 32].qs[j];
        } else {
            word |= (uint32_t)cuda_quant_nibble(dtype, row, first + j) << cuda_quant_shift(e);
            if (dtype == DTYPE_Q6_K) high |= (uint32_t)cuda_quant_high(row, first + j) << (2 * e);
        }
    }
    if (!is_half && dtype != DTYPE_Q8_0)
        *(uint32_t *)(p + s / 2 * 512 + lane * 16 + s % 2 * 8 + h * 4) = word;
    if (dtype == DTYPE_Q6_K)
        *(uint16_t *)(p + 2048 + s / 2 * 256 + lane * 8 + s % 2 * 4 + h * 2) = (uint16_t)high;
    if (c == 0) cuda_quant_put_scales(dtype, row, first, s, g, h, p);
}

cudaError_t cuda_quant_pack(cudaStream_t stream, DType dtype, const void *rows, int32_t n,
                            int32_t k, char *dst) {
    const DTypeInfo *info = dtype_info(dtype);
    const int64_t row_bytes = (int64_t)k / info->group_len * info->group_bytes;
    const int64_t n_pieces = (int64_t)n * (k / 8);
    if (n_pieces == 0) return cudaSuccess;
    cuda_quant_pack_kernel<<<(unsigned)DIV_UP(n_pieces, (int64_t)256), 256, 0, stream>>>(
        dtype, (const char *)rows, row_bytes, n, k, dst);
    return cudaGetLastError();
}
