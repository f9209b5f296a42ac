/* cuda_product: matrix products. Shapes and formats that the fast kernels take (cuda_linear.cuh,
 * cuda_quant.cuh) go to them; every other combination to one plain kernel.
 *
 * The plain kernel: a warp makes one output column for up to eight tokens. Lane l sums elements
 * l, l + 32, ... of the row, then the warp adds its lanes: the order follows from k alone. */
#include "ops/cuda/cuda_act.cuh"
#include "ops/cuda/cuda_matrix.cuh"

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
    float sum[CUDA_PRODUCT_TOKENS] = {};
    for (int j = lane; j < p.k; j += CUDA_WARP) {
        const float w = cuda_matrix_get(p.w, i, j);
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
    const CudaProduct p = {cuda_matrix(part->w), part->bias,          x->stride[0],
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

static bool cuda_product_is_packed(const Tensor *x, const LinearPart *part) {
    const DType out = part->out.dtype;
    return part->w->layout == CUDA_MATRIX_PACKED && x->dtype == DTYPE_BF16 &&
           x->stride[0] % CUDA_LINEAR_K_MULTIPLE == 0 && (uintptr_t)x->data % 16 == 0 &&
           (out == DTYPE_F32 || out == DTYPE_BF16);
}

static bool cuda_product_is_units(const Tensor *x, const LinearPart *part) {
    const DType out = part->out.dtype;
    return part->w->layout == CUDA_MATRIX_UNITS && x->dtype == DTYPE_BF16 &&
           x->stride[0] % 8 == 0 && (uintptr_t)x->data % 16 == 0 &&
           (out == DTYPE_F32 || out == DTYPE_BF16);
}

/* Parts from `first` on whose matrices are in units of one format; returns how many. */
static int32_t cuda_product_units(OpCtx *ctx, const LinearArgs *args, int32_t first) {
    const LinearPart *part = &args->part[first];
    CudaQuantArgs fast = {};
    fast.dtype = part->w->t.dtype;
    fast.x = args->x.data;
    fast.x_stride = args->x.stride[0];
    fast.n_tokens = (int32_t)args->x.shape[0];
    fast.k = (int32_t)args->x.shape[1];
    fast.out_bf16 = part->out.dtype == DTYPE_BF16;
    fast.accumulate = args->accumulate;
    do {
        fast.part[fast.n_parts++] =
            CudaQuantPart{(const char *)part->w->t.data, part->bias, part->out.data,
                          part->out.stride[0], (int32_t)part->out.shape[1]};
        part++;
    } while (first + fast.n_parts < args->n_parts && cuda_product_is_units(&args->x, part) &&
             part->w->t.dtype == fast.dtype && part->out.dtype == part[-1].out.dtype);
    cuda_quant_product(ctx, &fast);
    return fast.n_parts;
}

/* Part b's matrix lies behind part a's, so that one product makes both. */
static bool cuda_product_follows(const LinearPart *a, const LinearPart *b) {
    const Tensor *t = &a->w->t;
    return (const char *)b->w->t.data ==
               (const char *)t->data + cuda_linear_packed_bytes(t->shape[0], t->shape[1]) &&
           a->out.dtype == b->out.dtype;
}

/* Whether the product can make x, out of the norm's rows, as it needs it. */
static bool cuda_product_can_norm(const NormArgs *norm) {
    return norm->kind == NORM_RMS && norm->add == NULL && norm->bias == NULL &&
           norm->x.dtype == DTYPE_F32 && norm->x.stride[0] % 4 == 0 &&
           (uintptr_t)norm->x.data % 16 == 0 && (uintptr_t)norm->w % 16 == 0 &&
           cuda_linear_can_norm(norm->x.shape[0], norm->x.shape[1]);
}

static CudaLinearNorm cuda_product_norm(const NormArgs *norm) {
    if (norm == NULL) return CudaLinearNorm{};
    return CudaLinearNorm{(const float *)norm->x.data, norm->w, norm->x.stride[0], norm->eps};
}

static void cuda_product_meet(const OpCtx *ctx, CudaLinearArgs *fast) {
    fast->sums = cuda_of(ctx)->sums;
    fast->n_arrived = cuda_of(ctx)->n_arrived;
    fast->whole = ctx->fast;
}

/* Part `first` and those that can be made with it; returns how many. */
static int32_t cuda_product_parts(OpCtx *ctx, const LinearArgs *args, const NormArgs *norm,
                                  int32_t first) {
    const Tensor *x = &args->x;
    const LinearPart *part = &args->part[first];
    if (cuda_product_is_units(x, part)) return cuda_product_units(ctx, args, first);
    if (!cuda_product_is_packed(x, part)) {
        cuda_product_plain(ctx, x, part, args->accumulate);
        return 1;
    }
    CudaLinearArgs fast = {};
    fast.x = x->data;
    fast.x_stride = x->stride[0];
    fast.n_tokens = (int32_t)x->shape[0];
    fast.k = (int32_t)x->shape[1];
    fast.out = part->out.dtype == DTYPE_BF16 ? CUDA_LINEAR_BF16
               : args->accumulate            ? CUDA_LINEAR_F32_ADD
                                             : CUDA_LINEAR_F32;
    fast.w = part->w->t.data;
    cuda_product_meet(ctx, &fast);
    fast.dependent = true;
    fast.norm = cuda_product_norm(norm);
    do {
        fast.part[fast.n_parts++] = CudaLinearPart{part->out.data, part->out.stride[0], part->bias,
                                                   (int32_t)part->out.shape[1]};
        part++;
    } while (first + fast.n_parts < args->n_parts && cuda_product_is_packed(x, part) &&
             cuda_product_follows(part - 1, part));
    cuda_note(cuda_of(ctx), cuda_linear(cuda_of(ctx)->stream, &fast), "linear");
    return fast.n_parts;
}

void cuda_product(OpCtx *ctx, const LinearArgs *args) {
    CHECK(args->n_parts >= 1 && args->n_parts <= LINEAR_PARTS_MAX);
    for (int32_t i = 0; i < args->n_parts; i++) {
        const LinearPart *part = &args->part[i];
        CHECK(part->w->t.shape[1] == args->x.shape[1]);
        CHECK(part->out.shape[0] == args->x.shape[0] && part->out.shape[1] == part->w->t.shape[0]);
        CHECK(!args->accumulate || part->out.dtype == DTYPE_F32);
    }
    const NormArgs *norm = args->norm;
    bool inside = norm != NULL && cuda_product_can_norm(norm);
    for (int32_t i = 0; i < args->n_parts; i++)
        inside = inside && cuda_product_is_packed(&args->x, &args->part[i]);
    if (norm != NULL && !inside) {
        cuda_norm(ctx, norm);
        norm = NULL;
    }
    for (int32_t i = 0; i < args->n_parts;) i += cuda_product_parts(ctx, args, norm, i);
}

size_t cuda_product_scratch_bytes(const OpsLimits *limits) {
    const int64_t rows = MIN((int64_t)limits->n_tokens_max, (int64_t)CUDA_PRODUCT_GATED_ROWS);
    return (size_t)(2 * rows * limits->ff) * sizeof(float);
}

static CudaLinearAct cuda_product_act(ActKind kind) {
    switch (kind) {
        case ACT_SILU: return CUDA_LINEAR_SILU;
        case ACT_GELU: return CUDA_LINEAR_GELU;
        case ACT_GELU_TANH: return CUDA_LINEAR_GELU_TANH;
        default: return CUDA_LINEAR_RELU;
    }
}

CudaLinearArgs cuda_product_gated_args(const Tensor *x, const Weight *gate, ActKind act,
                                       const Tensor *out) {
    CudaLinearArgs fast = {};
    fast.x = x->data;
    fast.x_stride = x->stride[0];
    fast.n_tokens = (int32_t)x->shape[0];
    fast.k = (int32_t)x->shape[1];
    fast.out = CUDA_LINEAR_GATED;
    fast.act = cuda_product_act(act);
    fast.w = gate->t.data;
    fast.n_parts = 1;
    fast.part[0] = CudaLinearPart{out->data, out->stride[0], NULL, (int32_t)out->shape[1]};
    fast.dependent = true;
    return fast;
}

static bool cuda_product_gated_is_packed(const GatedArgs *args) {
    return args->gate->layout == CUDA_MATRIX_GATE && args->x.dtype == DTYPE_BF16 &&
           args->out.dtype == DTYPE_BF16 && args->gate_bias == NULL && args->up_bias == NULL &&
           args->x.stride[0] % CUDA_LINEAR_K_MULTIPLE == 0 && (uintptr_t)args->x.data % 16 == 0;
}

/* Both products of a few rows into scratch, then the activation; the rows of one call after those
 * of another, as scratch is small. */
void cuda_product_gated(OpCtx *ctx, const GatedArgs *args) {
    const int64_t n_tokens = args->x.shape[0], n = args->out.shape[1];
    CHECK(args->gate->t.shape[0] == n && args->up->t.shape[0] == n);
    const bool packed = cuda_product_gated_is_packed(args);
    const bool norm_inside = packed && args->norm != NULL && cuda_product_can_norm(args->norm);
    if (args->norm != NULL && !norm_inside) cuda_norm(ctx, args->norm);
    if (packed) {
        CudaLinearArgs fast = cuda_product_gated_args(&args->x, args->gate, args->act, &args->out);
        if (norm_inside) fast.norm = cuda_product_norm(args->norm);
        cuda_product_meet(ctx, &fast);
        cuda_note(cuda_of(ctx), cuda_linear(cuda_of(ctx)->stream, &fast), "gated");
        return;
    }
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
