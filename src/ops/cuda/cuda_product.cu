/* cuda_product: matrix products. Shapes and formats that the fast kernels take go to them; every
 * other combination to one plain kernel.
 *
 * The plain kernel: a warp makes one output column for up to eight tokens. Lane l sums elements
 * l, l + 32, ... of the row, then the warp adds its lanes: the order follows from k alone. */
#include "ops/cuda/cuda_act.cuh"
#include "ops/cuda/cuda_dequant.cuh"

enum { CUDA_PRODUCT_TOKENS = 8, CUDA_PRODUCT_WARPS = 8, CUDA_PRODUCT_GATED_ROWS = 128 };

struct CudaProduct {
    CudaMatrix w;
    const float *bias;
    int64_t x_stride, out_stride;
    int n_tokens, n, k;
    bool accumulate;
};

template <typename X, typename Y>
static __global__ void __launch_bounds__(CUDA_PRODUCT_WARPS *CUDA_WARP)
    cuda_product_kernel(CudaProduct p, const X *x, Y *out) {
    cuda_wait();
    const int lane = threadIdx.x % CUDA_WARP;
    const int i = blockIdx.x * CUDA_PRODUCT_WARPS + threadIdx.x / CUDA_WARP;
    const int first = blockIdx.y * CUDA_PRODUCT_TOKENS;
    const int n_tokens = min(p.n_tokens - first, (int)CUDA_PRODUCT_TOKENS);
    if (i >= p.n) return;
    const char *row = p.w.data + i * p.w.row_bytes;
    float sum[CUDA_PRODUCT_TOKENS] = {};
    for (int j = lane; j < p.k; j += CUDA_WARP) {
        const float w = cuda_dequant(p.w.dtype, row, j);
#pragma unroll
        for (int t = 0; t < CUDA_PRODUCT_TOKENS; t++)
            if (t < n_tokens) sum[t] += w * cuda_to_f32(x[(first + t) * p.x_stride + j]);
    }
#pragma unroll
    for (int t = 0; t < CUDA_PRODUCT_TOKENS; t++) {
        float y = cuda_warp_sum(sum[t]);
        if (lane != 0 || t >= n_tokens) continue;
        Y *to = out + (first + t) * p.out_stride + i;
        if (p.bias != NULL) y += p.bias[i];
        if (p.accumulate) y += cuda_to_f32(*to);
        cuda_put(to, y);
    }
}

static void cuda_product_plain(OpCtx *ctx, const Tensor *x, const LinearPart *part,
                               bool accumulate) {
    const Tensor *out = &part->out;
    const CudaProduct p = {cuda_matrix(&part->w->t), part->bias,          x->stride[0],
                           out->stride[0],           (int)x->shape[0],    (int)out->shape[1],
                           (int)x->shape[1],         accumulate};
    const dim3 grid((unsigned)DIV_UP(p.n, (int)CUDA_PRODUCT_WARPS),
                    (unsigned)DIV_UP(p.n_tokens, (int)CUDA_PRODUCT_TOKENS));
    cuda_by_dtype(x->dtype, [&](auto in) {
        typedef decltype(in) X;
        cuda_by_dtype(out->dtype, [&](auto one) {
            typedef decltype(one) Y;
            cuda_launch(ctx, "linear", cuda_product_kernel<X, Y>, grid,
                        dim3(CUDA_PRODUCT_WARPS * CUDA_WARP), 0, p, (const X *)x->data,
                        (Y *)out->data);
        });
    });
}

void cuda_product(OpCtx *ctx, const LinearArgs *args) {
    CHECK(args->n_parts >= 1 && args->n_parts <= LINEAR_PARTS_MAX);
    for (int32_t i = 0; i < args->n_parts; i++) {
        const LinearPart *part = &args->part[i];
        CHECK(part->w->t.shape[1] == args->x.shape[1]);
        CHECK(part->out.shape[0] == args->x.shape[0] && part->out.shape[1] == part->w->t.shape[0]);
        CHECK(!args->accumulate || part->out.dtype == DTYPE_F32);
        cuda_product_plain(ctx, &args->x, part, args->accumulate);
    }
}

size_t cuda_product_scratch_bytes(const OpsLimits *limits) {
    const int64_t rows = MIN((int64_t)limits->n_tokens_max, (int64_t)CUDA_PRODUCT_GATED_ROWS);
    return (size_t)(2 * rows * limits->ff) * sizeof(float);
}

/* Both products of a few rows into scratch, then the activation; the rows of one call after those
 * of another, as scratch is small. */
void cuda_product_gated(OpCtx *ctx, const GatedArgs *args) {
    const int64_t n_tokens = args->x.shape[0], n = args->out.shape[1];
    CHECK(args->gate->t.shape[0] == n && args->up->t.shape[0] == n);
    const DType dtype = args->out.dtype;
    for (int64_t t = 0; t < n_tokens; t += CUDA_PRODUCT_GATED_ROWS) {
        const int64_t rows = MIN(n_tokens - t, (int64_t)CUDA_PRODUCT_GATED_ROWS);
        CHECK((size_t)(2 * rows * n) * sizeof(float) <= ctx->scratch_bytes);
        char *second = (char *)ctx->scratch + rows * n * dtype_info(dtype)->group_bytes;
        Tensor up = tensor_2d(ctx->scratch, dtype, rows, n);
        Tensor gate = tensor_2d(second, dtype, rows, n);
        LinearArgs products = {};
        products.x = tensor_rows(&args->x, t, rows);
        products.n_parts = 2;
        products.part[0] = LinearPart{args->up, args->up_bias, up};
        products.part[1] = LinearPart{args->gate, args->gate_bias, gate};
        cuda_product(ctx, &products);
        ActArgs act = {args->act, gate, &up, tensor_rows(&args->out, t, rows)};
        cuda_act(ctx, &act);
    }
}
