/* cuda_embed: table rows to activations, and rows of activations to other rows. */
#include "ops/cuda/cuda_matrix.cuh"

static __global__ void cuda_embed_kernel(CudaMatrix table, CudaMatrix learned, const int32_t *token,
                                         const int32_t *pos, float scale, int dim, float *out,
                                         int64_t out_stride) {
    cuda_wait();
    const int t = blockIdx.x;
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        float x = cuda_matrix_get(table, token[t], i) * scale;
        if (learned.data != NULL) x += cuda_matrix_get(learned, pos[t], i);
        out[t * out_stride + i] = x;
    }
}

void cuda_embed(OpCtx *ctx, const EmbedArgs *args) {
    const Tensor *out = &args->out;
    CHECK(out->dtype == DTYPE_F32 && args->table->layout == 0);
    CHECK(out->shape[1] == args->table->t.shape[1]);
    CudaMatrix learned = {};
    if (args->pos_table != NULL) learned = cuda_matrix(args->pos_table);
    cuda_launch(ctx, "embed", cuda_embed_kernel, dim3((unsigned)out->shape[0]), dim3(256), 0,
                cuda_matrix(args->table), learned, args->token, args->pos, args->scale,
                (int)out->shape[1], (float *)out->data, out->stride[0]);
}

template <typename T>
static __global__ void cuda_embed_gather_kernel(const T *x, int64_t x_stride, const int32_t *row,
                                                int n, T *out, int64_t out_stride) {
    cuda_wait();
    const T *from = x + row[blockIdx.x] * x_stride;
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[blockIdx.x * out_stride + i] = from[i];
}

void cuda_embed_gather(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows,
                       Tensor *out) {
    CHECK(x->dtype == out->dtype && x->shape[1] == out->shape[1] && out->shape[0] == n_rows);
    cuda_by_dtype(x->dtype, [&](auto one) {
        typedef decltype(one) T;
        cuda_launch(ctx, "gather_rows", cuda_embed_gather_kernel<T>, dim3((unsigned)n_rows),
                    dim3(256), 0, (const T *)x->data, x->stride[0], row, (int)x->shape[1],
                    (T *)out->data, out->stride[0]);
    });
}
