/* cuda_norm: RMS-norm and layer norm, with the residual add before them; a block per row.
 *
 * A row is read once and kept in shared memory. Threads sum what they hold of it, then the block
 * does: the order follows from the row's length. */
#include "ops/cuda/cuda_common.cuh"
#include "ops/cuda/cuda_norm.cuh"

struct CudaNorm {
    float *x;
    const float *add, *w, *bias;
    int64_t x_stride, add_stride, out_stride;
    int dim;
    float eps;
    bool layer;
};

/* The row to shared memory, four at a time where the row allows it; returns the thread's sum of x
 * (layer) or x * x. */
static __device__ __forceinline__ float cuda_norm_load(const CudaNorm &n, float *x,
                                                       const float *add, float *row, int n_threads) {
    float sum = 0;
    const bool wide = n.dim % 4 == 0 && n.x_stride % 4 == 0 && n.add_stride % 4 == 0;
    for (int i = threadIdx.x; wide && i < n.dim / 4; i += n_threads) {
        float4 v = ((const float4 *)x)[i];
        if (add != NULL) {
            float4 a = ((const float4 *)add)[i];
            v = make_float4(v.x + a.x, v.y + a.y, v.z + a.z, v.w + a.w);
            ((float4 *)x)[i] = v;
        }
        ((float4 *)row)[i] = v;
        sum = __fadd_rn(sum, n.layer ? (v.x + v.y) + (v.z + v.w) : cuda_norm_squares(v));
    }
    for (int i = threadIdx.x; !wide && i < n.dim; i += n_threads) {
        float v = x[i];
        if (add != NULL) x[i] = v += add[i];
        row[i] = v;
        sum += n.layer ? v : v * v;
    }
    return sum;
}

template <typename T>
static __global__ void __launch_bounds__(CUDA_NORM_THREADS) cuda_norm_kernel(CudaNorm n, T *out) {
    extern __shared__ float row[];
    cuda_prefetch(n.w, n.dim);
    cuda_prefetch(n.bias, n.dim);
    cuda_wait();
    const int64_t t = blockIdx.x;
    const float *add = n.add != NULL ? n.add + t * n.add_stride : NULL;
    float sum = cuda_norm_load(n, n.x + t * n.x_stride, add, row, blockDim.x);
    sum = cuda_block_sum(sum);
    float mean = 0;
    if (n.layer) {
        mean = sum / n.dim;
        sum = 0;
        for (int i = threadIdx.x; i < n.dim; i += blockDim.x)
            sum += (row[i] - mean) * (row[i] - mean);
        sum = cuda_block_sum(sum);
    }
    const float scale = cuda_norm_scale(sum, n.dim, n.eps);
    T *to = out + t * n.out_stride;
    for (int i = threadIdx.x; i < n.dim; i += blockDim.x) {
        float y = cuda_norm_value(row[i] - mean, scale, n.w[i]);
        cuda_put(to + i, n.bias != NULL ? y + n.bias[i] : y);
    }
}

void cuda_norm(OpCtx *ctx, const NormArgs *args) {
    const Tensor *x = &args->x, *out = &args->out;
    CHECK(x->dtype == DTYPE_F32 && x->shape[1] == out->shape[1] && x->shape[1] <= 1 << 15);
    CHECK(args->add == NULL || args->add->dtype == DTYPE_F32);
    const CudaNorm n = {(float *)x->data,
                        args->add != NULL ? (const float *)args->add->data : NULL,
                        args->w,
                        args->bias,
                        x->stride[0],
                        args->add != NULL ? args->add->stride[0] : 0,
                        out->stride[0],
                        (int)x->shape[1],
                        args->eps,
                        args->kind == NORM_LAYER};
    const size_t bytes = (size_t)n.dim * sizeof(float);
    const int threads = n.dim >= CUDA_NORM_WIDE ? (int)CUDA_NORM_THREADS : 128;
    cuda_by_dtype(out->dtype, [&](auto one) {
        typedef decltype(one) T;
        if (bytes > 48 << 10)
            cuda_note(cuda_of(ctx),
                      cudaFuncSetAttribute(cuda_norm_kernel<T>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                      "norm");
        cuda_launch(ctx, "norm", cuda_norm_kernel<T>, dim3((unsigned)x->shape[0]),
                    dim3((unsigned)threads), bytes, n, (T *)out->data);
    });
}
