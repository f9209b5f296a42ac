/* cuda_act: activation functions, the gated product, and the soft cap. */
#include "ops/cuda/cuda_act.cuh"

template <typename T>
static __global__ void cuda_act_kernel(ActKind kind, const T *gate, int64_t gate_stride,
                                       const T *up, int64_t up_stride, T *out, int64_t out_stride,
                                       int n) {
    cuda_wait();
    const int64_t t = blockIdx.y;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        float y = cuda_act_value(kind, cuda_to_f32(gate[t * gate_stride + i]));
        if (up != NULL) y *= cuda_to_f32(up[t * up_stride + i]);
        cuda_put(out + t * out_stride + i, y);
    }
}

void cuda_act(OpCtx *ctx, const ActArgs *args) {
    const Tensor *gate = &args->gate, *up = args->up, *out = &args->out;
    CHECK(gate->dtype == out->dtype && (up == NULL || up->dtype == out->dtype));
    const int n = (int)gate->shape[1];
    cuda_by_dtype(out->dtype, [&](auto one) {
        typedef decltype(one) T;
        for (int64_t t = 0; t < gate->shape[0]; t += 65535) {
            const int64_t rows = MIN(gate->shape[0] - t, (int64_t)65535);
            cuda_launch(ctx, "act", cuda_act_kernel<T>,
                        dim3((unsigned)DIV_UP(n, 1024), (unsigned)rows), dim3(256), 0, args->kind,
                        (const T *)gate->data + t * gate->stride[0], gate->stride[0],
                        up != NULL ? (const T *)up->data + t * up->stride[0] : (const T *)NULL,
                        up != NULL ? up->stride[0] : 0, (T *)out->data + t * out->stride[0],
                        out->stride[0], n);
        }
    });
}

static __global__ void cuda_act_softcap_kernel(float *x, int64_t stride, int n, float cap) {
    cuda_wait();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        float *at = x + blockIdx.y * stride + i;
        *at = cap * tanhf(*at / cap);
    }
}

void cuda_act_softcap(OpCtx *ctx, Tensor x, float cap) {
    CHECK(x.dtype == DTYPE_F32 && x.shape[0] <= 65535);
    const int n = (int)x.shape[1];
    cuda_launch(ctx, "softcap", cuda_act_softcap_kernel,
                dim3((unsigned)DIV_UP(n, 1024), (unsigned)x.shape[0]), dim3(256), 0,
                (float *)x.data, x.stride[0], n, cap);
}
