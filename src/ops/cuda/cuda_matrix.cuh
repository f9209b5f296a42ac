/* cuda_matrix: weights as they lie on the GPU, and one element of any of them.
 *
 * On Hopper bf16 matrices whose rows the tensor cores can take are packed (cuda_linear.cuh); the
 * gate and up matrices of a gated layer become one packed matrix, eight rows of the one beside eight
 * of the other. f16, the block formats that cuda_quant.cuh names and the bf16 of other GPUs lie in
 * its units. Everything else keeps the file's rows. */
#pragma once

#include "ops/cuda/cuda_dequant.cuh"
#include "ops/cuda/cuda_linear.cuh"
#include "ops/cuda/cuda_quant.cuh"

/* Weight.layout */
enum { CUDA_MATRIX_ROWS, CUDA_MATRIX_PACKED, CUDA_MATRIX_GATE, CUDA_MATRIX_UP, CUDA_MATRIX_UNITS };

/* A matrix as the kernels take it. */
struct CudaMatrix {
    const char *data;
    int64_t row_bytes;
    DType dtype;
    int layout;
    int64_t k;
};

static inline CudaMatrix cuda_matrix(const Weight *w) {
    const DTypeInfo *info = dtype_info(w->t.dtype);
    return CudaMatrix{(const char *)w->t.data,
                      w->t.stride[0] / info->group_len * info->group_bytes, w->t.dtype, w->layout,
                      w->t.shape[1]};
}

/* Packed experts lie behind the table of their addresses. */
static inline size_t cuda_matrix_table_bytes(int32_t n_experts) {
    return ALIGN_UP((size_t)n_experts * sizeof(void *), (size_t)256);
}

static inline const void *const *cuda_matrix_table(const Weight *first, int32_t n_experts) {
    return (const void *const *)((const char *)first->t.data - cuda_matrix_table_bytes(n_experts));
}

/* The product of packed gate and up matrices, for callers that say more of it. */
CudaLinearArgs cuda_product_gated_args(const Tensor *x, const Weight *gate, ActKind act,
                                       const Tensor *out);

/* Whether a matrix is packed when it is prepared. */
static inline bool cuda_matrix_can_pack(const CudaDevice *device, const Tensor *t) {
    return device->is_hopper && t->dtype == DTYPE_BF16 && t->shape[1] % CUDA_LINEAR_K_MULTIPLE == 0;
}

/* How a matrix by itself is kept. */
static inline int cuda_matrix_layout(const CudaDevice *device, const Tensor *t) {
    if (cuda_matrix_can_pack(device, t)) return CUDA_MATRIX_PACKED;
    return cuda_quant_can_pack(t->dtype, t->shape[1]) ? CUDA_MATRIX_UNITS : CUDA_MATRIX_ROWS;
}

/* The packed row of row i. */
static inline __host__ __device__ int64_t cuda_matrix_row(int layout, int64_t i) {
    if (layout == CUDA_MATRIX_PACKED) return i;
    return i / 8 * 16 + (layout == CUDA_MATRIX_UP ? 8 : 0) + i % 8;
}

/* Element j of row i. */
static __device__ __forceinline__ float cuda_matrix_get(const CudaMatrix &m, int64_t i, int j) {
    if (m.layout == CUDA_MATRIX_ROWS) return cuda_dequant(m.dtype, m.data + i * m.row_bytes, j);
    if (m.layout == CUDA_MATRIX_UNITS) return cuda_quant_get(m.dtype, m.data, i, j, m.k);
    const char *at = m.data + cuda_linear_offset(cuda_matrix_row(m.layout, i), j, m.k);
    return __bfloat162float(*(const __nv_bfloat16 *)at);
}
