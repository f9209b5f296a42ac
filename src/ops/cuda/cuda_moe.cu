/* cuda_moe: routing and the experts' gated feed-forward.
 *
 * Plain form, for any format: one warp per output element, products summed as cuda_product does, the
 * chosen experts in the order of `expert`. A few tokens at a time, so that the hidden vectors fit
 * scratch. */
#include "ops/cuda/cuda_act.cuh"
#include "ops/cuda/cuda_dequant.cuh"

enum { CUDA_MOE_WARPS = 8, CUDA_MOE_TOKENS = 64 };

/* a is chosen before b: the larger logit, then the lower expert; NaN last. */
static __device__ __forceinline__ bool cuda_moe_before(float a, int ia, float b, int ib) {
    const bool na = isnan(a), nb = isnan(b);
    if (na != nb) return nb;
    if (!na && a != b) return a > b;
    return ia < ib;
}

/* A warp per token; lane l holds experts l, l + 32, ... */
static __global__ void cuda_moe_route_kernel(const float *logits, int64_t stride, int n_experts,
                                             int n_used, bool normalize, float scale,
                                             int32_t *expert, float *weight, int n_tokens) {
    cuda_wait();
    const int t = blockIdx.x * (blockDim.x / CUDA_WARP) + threadIdx.x / CUDA_WARP;
    const int lane = threadIdx.x % CUDA_WARP;
    if (t >= n_tokens) return;
    const float *row = logits + t * stride;
    int last = -1;
    float last_logit = 0, largest = 0;
    double chosen = 0;
    for (int u = 0; u < n_used; u++) {
        int best = -1;
        float best_logit = 0;
        for (int e = lane; e < n_experts; e += CUDA_WARP) {
            const float x = row[e];
            if (last >= 0 && !cuda_moe_before(last_logit, last, x, e)) continue;
            if (best < 0 || cuda_moe_before(x, e, best_logit, best)) best = e, best_logit = x;
        }
        for (int i = 16; i > 0; i >>= 1) {
            const int other = __shfl_xor_sync(~0u, best, i);
            const float x = __shfl_xor_sync(~0u, best_logit, i);
            if (other >= 0 && (best < 0 || cuda_moe_before(x, other, best_logit, best)))
                best = other, best_logit = x;
        }
        last = best;
        last_logit = best_logit;
        if (u == 0) largest = best_logit;
        chosen += exp((double)best_logit - largest);
        if (lane == 0) expert[t * n_used + u] = best;
    }
    double sum = 0;
    if (!normalize) {
        for (int e = lane; e < n_experts; e += CUDA_WARP) sum += exp((double)row[e] - largest);
        for (int i = 16; i > 0; i >>= 1) sum += __shfl_xor_sync(~0u, sum, i);
    }
    __syncwarp();
    const double divisor = normalize ? chosen : sum;
    for (int u = lane; u < n_used; u += CUDA_WARP)
        weight[t * n_used + u] =
            (float)(exp((double)row[expert[t * n_used + u]] - largest) / divisor * scale);
}

void cuda_moe_route(OpCtx *ctx, const MoeRouteArgs *args) {
    const Tensor *logits = &args->logits;
    const int n_tokens = (int)logits->shape[0];
    CHECK(logits->dtype == DTYPE_F32 && args->n_used <= logits->shape[1]);
    cuda_launch(ctx, "moe_route", cuda_moe_route_kernel, dim3((unsigned)DIV_UP(n_tokens, 4)),
                dim3(4 * CUDA_WARP), 0, (const float *)logits->data, logits->stride[0],
                (int)logits->shape[1], (int)args->n_used, args->normalize, args->scale,
                args->expert, args->weight, n_tokens);
}

/* The experts' matrices: number e begins e * stride bytes behind the first. */
struct CudaExperts {
    CudaMatrix first;
    int64_t stride;
};

struct CudaMoe {
    CudaExperts gate, up, down;
    const int32_t *expert;
    const float *weight;
    int64_t x_stride, out_stride;
    int dim, ff, n_used;
    ActKind act;
    bool accumulate;
};

template <typename X>
static __device__ __forceinline__ float cuda_moe_dot(const CudaExperts &w, int e, int64_t i,
                                                     const X *x, int k) {
    const char *row = w.first.data + e * w.stride + i * w.first.row_bytes;
    float sum = 0;
    for (int j = threadIdx.x % CUDA_WARP; j < k; j += CUDA_WARP)
        sum += cuda_dequant(w.first.dtype, row, j) * cuda_to_f32(x[j]);
    return cuda_warp_sum(sum);
}

template <typename X>
static __global__ void cuda_moe_hidden_kernel(CudaMoe m, const X *x, float *hidden) {
    cuda_wait();
    const int i = blockIdx.x * CUDA_MOE_WARPS + threadIdx.x / CUDA_WARP;
    const int64_t pair = blockIdx.y;
    if (i >= m.ff) return;
    const X *row = x + pair / m.n_used * m.x_stride;
    const int e = m.expert[pair];
    const float gate = cuda_moe_dot(m.gate, e, i, row, m.dim);
    const float up = cuda_moe_dot(m.up, e, i, row, m.dim);
    if (threadIdx.x % CUDA_WARP == 0) hidden[pair * m.ff + i] = cuda_act_value(m.act, gate) * up;
}

static __global__ void cuda_moe_down_kernel(CudaMoe m, const float *hidden, float *out) {
    cuda_wait();
    const int i = blockIdx.x * CUDA_MOE_WARPS + threadIdx.x / CUDA_WARP;
    const int64_t t = blockIdx.y;
    if (i >= m.dim) return;
    float sum = 0;
    for (int u = 0; u < m.n_used; u++) {
        const int64_t pair = t * m.n_used + u;
        sum += m.weight[pair] *
               cuda_moe_dot(m.down, m.expert[pair], i, hidden + pair * m.ff, m.ff);
    }
    float *to = out + t * m.out_stride + i;
    if (threadIdx.x % CUDA_WARP == 0) *to = m.accumulate ? *to + sum : sum;
}

size_t cuda_moe_scratch_bytes(const OpsLimits *limits) {
    const int64_t tokens = MIN((int64_t)limits->n_tokens_max, (int64_t)CUDA_MOE_TOKENS);
    return (size_t)(tokens * limits->n_experts_used * limits->expert_ff) * sizeof(float);
}

static CudaExperts cuda_moe_experts(const Weight *w, int32_t n_experts) {
    CudaExperts experts = {cuda_matrix(&w->t), 0};
    if (n_experts > 1) experts.stride = (const char *)w[1].t.data - (const char *)w[0].t.data;
    CHECK(w[n_experts - 1].t.data == experts.first.data + (n_experts - 1) * experts.stride);
    return experts;
}

void cuda_moe(OpCtx *ctx, const MoeArgs *args) {
    const Tensor *x = &args->x, *out = &args->out;
    CHECK(out->dtype == DTYPE_F32 && x->shape[0] == out->shape[0]);
    CudaMoe m = {cuda_moe_experts(args->gate, args->n_experts),
                 cuda_moe_experts(args->up, args->n_experts),
                 cuda_moe_experts(args->down, args->n_experts),
                 args->expert,
                 args->weight,
                 x->stride[0],
                 out->stride[0],
                 (int)x->shape[1],
                 (int)args->gate->t.shape[0],
                 args->n_used,
                 args->act,
                 args->accumulate};
    float *hidden = (float *)ctx->scratch;
    for (int64_t t = 0; t < x->shape[0]; t += CUDA_MOE_TOKENS) {
        const int64_t rows = MIN(x->shape[0] - t, (int64_t)CUDA_MOE_TOKENS);
        CHECK((size_t)(rows * m.n_used * m.ff) * sizeof(float) <= ctx->scratch_bytes);
        m.expert = args->expert + t * m.n_used;
        m.weight = args->weight + t * m.n_used;
        cuda_by_dtype(x->dtype, [&](auto one) {
            typedef decltype(one) X;
            cuda_launch(ctx, "moe hidden", cuda_moe_hidden_kernel<X>,
                        dim3((unsigned)DIV_UP(m.ff, (int)CUDA_MOE_WARPS),
                             (unsigned)(rows * m.n_used)),
                        dim3(CUDA_MOE_WARPS * CUDA_WARP), 0, m,
                        (const X *)x->data + t * x->stride[0], hidden);
        });
        cuda_launch(ctx, "moe down", cuda_moe_down_kernel,
                    dim3((unsigned)DIV_UP(m.dim, (int)CUDA_MOE_WARPS), (unsigned)rows),
                    dim3(CUDA_MOE_WARPS * CUDA_WARP), 0, m, (const float *)hidden,
                    (float *)out->data + t * out->stride[0]);
    }
}
