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

/* ---- wide rows ------------------------------------------------------------------------------ */

static __device__ __forceinline__ void cuda_norm_put(float *to, float4 y) {
    *(float4 *)to = y;
}
static __device__ __forceinline__ void cuda_norm_put(__nv_bfloat16 *to, float4 y) {
    const __nv_bfloat162 a = __floats2bfloat162_rn(y.x, y.y), b = __floats2bfloat162_rn(y.z, y.w);
    *(uint2 *)to = make_uint2(*(const uint32_t *)&a, *(const uint32_t *)&b);
}

enum {
    CUDA_NORM_TURNS = 2, /* a thread stands for so many of the sum's */
    CUDA_NORM_ROWS_THREADS = CUDA_NORM_THREADS / CUDA_NORM_TURNS
};

/* The pieces of four elements that a thread has, those of a turn beside each other. */
static __device__ __forceinline__ int32_t cuda_norm_piece(int32_t turn, int32_t i) {
    return i * CUDA_NORM_THREADS + turn * CUDA_NORM_ROWS_THREADS + (int32_t)threadIdx.x;
}

template <int PIECES>
static __device__ __forceinline__ void cuda_norm_pieces(const float *row, int32_t n_pieces,
                                                        float4 (&v)[CUDA_NORM_TURNS][PIECES]) {
#pragma unroll
    for (int32_t turn = 0; turn < CUDA_NORM_TURNS; turn++) {
#pragma unroll
        for (int32_t i = 0; i < PIECES; i++) {
            const int32_t piece = cuda_norm_piece(turn, i);
            v[turn][i] =
                piece < n_pieces ? __ldcg((const float4 *)row + piece) : make_float4(0, 0, 0, 0);
        }
    }
}

/* The RMS-norm of a CTA's rows, which pass through registers, the next one on its way. */
template <typename T, int PIECES>
static __global__ void __launch_bounds__(CUDA_NORM_ROWS_THREADS, PIECES > 2 ? 2 : 4)
    cuda_norm_rows_kernel(CudaNorm n, int32_t n_rows, T *out) {
    __shared__ float part[2][CUDA_NORM_WARPS];
    const int32_t n_pieces = n.dim / 4, lane = (int32_t)threadIdx.x % CUDA_WARP;
    float4 w[CUDA_NORM_TURNS][PIECES], v[CUDA_NORM_TURNS][PIECES], next[CUDA_NORM_TURNS][PIECES];
    cuda_norm_pieces(n.w, n_pieces, w);
    cuda_wait();
    int32_t phase = 0;
    cuda_norm_pieces(n.x + (int64_t)blockIdx.x * n.x_stride, n_pieces, v);
    for (int32_t t = (int32_t)blockIdx.x; t < n_rows; t += (int32_t)gridDim.x, phase ^= 1) {
        const int32_t after = t + (int32_t)gridDim.x;
        if (after < n_rows) cuda_norm_pieces(n.x + after * n.x_stride, n_pieces, next);
#pragma unroll
        for (int32_t turn = 0; turn < CUDA_NORM_TURNS; turn++) {
            float sum = 0;
#pragma unroll
            for (int32_t i = 0; i < PIECES; i++)
                sum = __fadd_rn(sum, cuda_norm_squares(v[turn][i]));
            sum = cuda_warp_sum(sum);
            if (lane == 0)
                part[phase][(turn * CUDA_NORM_ROWS_THREADS + threadIdx.x) / CUDA_WARP] = sum;
        }
        __syncthreads();
        const float sum = cuda_warp_sum(lane < CUDA_NORM_WARPS ? part[phase][lane] : 0.0f);
        const float scale = cuda_norm_scale(sum, n.dim, n.eps);
#pragma unroll
        for (int32_t turn = 0; turn < CUDA_NORM_TURNS; turn++) {
#pragma unroll
            for (int32_t i = 0; i < PIECES; i++) {
                const int32_t piece = cuda_norm_piece(turn, i);
                const float4 x = v[turn][i], by = w[turn][i];
                const float4 y = make_float4(
                    cuda_norm_value(x.x, scale, by.x), cuda_norm_value(x.y, scale, by.y),
                    cuda_norm_value(x.z, scale, by.z), cuda_norm_value(x.w, scale, by.w));
                if (piece < n_pieces) cuda_norm_put(out + t * n.out_stride + piece * 4, y);
                v[turn][i] = next[turn][i];
            }
        }
    }
}

template <typename T, int PIECES>
static void cuda_norm_rows(OpCtx *ctx, const CudaNorm &n, int32_t n_rows, T *out) {
    const int32_t most = 4 * cuda_of(ctx)->n_sms;
    cuda_launch(ctx, "norm", cuda_norm_rows_kernel<T, PIECES>, dim3((unsigned)MIN(n_rows, most)),
                dim3(CUDA_NORM_ROWS_THREADS), 0, n, n_rows, out);
}

/* Whether cuda_norm_rows takes it. */
static bool cuda_norm_is_wide(const CudaNorm &n, const Tensor *out) {
    return !n.layer && n.add == NULL && n.bias == NULL && n.dim >= CUDA_NORM_WIDE &&
           n.dim <= 16 * CUDA_NORM_THREADS && n.dim % 4 == 0 && n.x_stride % 4 == 0 &&
           n.out_stride % 4 == 0 && (out->dtype == DTYPE_F32 || out->dtype == DTYPE_BF16) &&
           ((uintptr_t)n.x | (uintptr_t)n.w | (uintptr_t)out->data) % 16 == 0;
}

template <typename T>
static void cuda_norm_wide(OpCtx *ctx, const CudaNorm &n, const Tensor *out) {
    const int32_t n_rows = (int32_t)out->shape[0];
    if (n.dim <= 4 * CUDA_NORM_THREADS)
        cuda_norm_rows<T, 1>(ctx, n, n_rows, (T *)out->data);
    else if (n.dim <= 8 * CUDA_NORM_THREADS)
        cuda_norm_rows<T, 2>(ctx, n, n_rows, (T *)out->data);
    else
        cuda_norm_rows<T, 4>(ctx, n, n_rows, (T *)out->data);
}

void cuda_norm(OpCtx *ctx, const NormArgs *args) {
    const Tensor *x = &args->x, *out = &args->out;
    CHECK(x->dtype == DTYPE_F32 && x->shape[1] == out->shape[1]);
    CHECK(x->shape[1] <= cuda_of(ctx)->norm_dim_max);
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
    if (cuda_norm_is_wide(n, out)) {
        if (out->dtype == DTYPE_BF16)
            cuda_norm_wide<__nv_bfloat16>(ctx, n, out);
        else
            cuda_norm_wide<float>(ctx, n, out);
        return;
    }
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
