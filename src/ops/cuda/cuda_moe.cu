/* cuda_moe: routing and the experts' gated feed-forward.
 *
 * Packed bf16 experts: the pairs of token and expert are sorted by expert, each touched expert's
 * matrices meet all of its rows at once, and a token adds up its rows in the order of `expert`.
 *
 * Plain form, for any format: one warp per output element, products summed as cuda_product does, the
 * chosen experts in the order of `expert`. A few tokens at a time, so that the hidden vectors fit
 * scratch. */
#include "ops/cuda/cuda_act.cuh"
#include "ops/cuda/cuda_matrix.cuh"

enum { CUDA_MOE_WARPS = 8, CUDA_MOE_TOKENS = 64, CUDA_MOE_GROUPED = 2048 };

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
    CudaMatrix m = w.first;
    m.data += e * w.stride;
    float sum = 0;
    for (int j = threadIdx.x % CUDA_WARP; j < k; j += CUDA_WARP)
        sum += cuda_matrix_get(m, i, j) * cuda_to_f32(x[j]);
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


static CudaExperts cuda_moe_experts(const Weight *w, int32_t n_experts) {
    CudaExperts experts = {cuda_matrix(w), 0};
    if (n_experts > 1) experts.stride = (const char *)w[1].t.data - (const char *)w[0].t.data;
    CHECK(w[n_experts - 1].t.data == experts.first.data + (n_experts - 1) * experts.stride);
    return experts;
}

/* ---- grouped by expert, on tensor cores --------------------------------------------------- */

/* Where the grouped form keeps its parts; a pair is a token with one of its experts, a row is where
 * a pair stands when they are sorted by expert. */
struct CudaGroups {
    int32_t *start;  /* [n_experts + 1] */
    int32_t *row_of; /* [n_pairs] */
    __nv_bfloat16 *x, *hidden;
    float *out; /* [n_pairs, dim] */
    size_t bytes;
};

static CudaGroups cuda_moe_groups(char *base, int64_t n_pairs, int64_t n_experts, int64_t dim,
                                  int64_t ff) {
    CudaGroups g = {};
    size_t at = 0;
    auto take = [&](size_t bytes) {
        char *p = base + at;
        at += ALIGN_UP(bytes, (size_t)256);
        return p;
    };
    g.start = (int32_t *)take((size_t)(n_experts + 1) * sizeof(int32_t));
    g.row_of = (int32_t *)take((size_t)n_pairs * sizeof(int32_t));
    g.x = (__nv_bfloat16 *)take((size_t)(n_pairs * dim) * 2);
    g.hidden = (__nv_bfloat16 *)take((size_t)(n_pairs * ff) * 2);
    g.out = (float *)take((size_t)(n_pairs * dim) * sizeof(float));
    g.bytes = at;
    return g;
}

/* One block counts the pairs of each expert and gives every pair its row. Which of an expert's rows
 * a pair gets does not show: each row is computed for itself. */
static __global__ void __launch_bounds__(1024)
    cuda_moe_sort_kernel(const int32_t *expert, int n_pairs, int n_experts, CudaGroups g) {
    __shared__ int next[CUDA_LINEAR_EXPERTS_MAX + 1];
    cuda_wait();
    for (int e = threadIdx.x; e <= n_experts; e += blockDim.x) next[e] = 0;
    __syncthreads();
    for (int p = threadIdx.x; p < n_pairs; p += blockDim.x) atomicAdd(&next[expert[p] + 1], 1);
    __syncthreads();
    if (threadIdx.x < CUDA_WARP) { /* running sums, a warp's width at a time */
        int before = 0;
        for (int first = 0; first <= n_experts; first += CUDA_WARP) {
            const int e = first + threadIdx.x;
            int sum = e <= n_experts ? next[e] : 0;
            for (int i = 1; i < CUDA_WARP; i <<= 1) {
                const int left = __shfl_up_sync(~0u, sum, i);
                if ((int)threadIdx.x >= i) sum += left;
            }
            if (e <= n_experts) next[e] = before + sum;
            before += __shfl_sync(~0u, sum, CUDA_WARP - 1);
        }
    }
    __syncthreads();
    for (int e = threadIdx.x; e <= n_experts; e += blockDim.x) g.start[e] = next[e];
    __syncthreads();
    for (int p = threadIdx.x; p < n_pairs; p += blockDim.x)
        g.row_of[p] = atomicAdd(&next[expert[p]], 1);
}

/* The input of every pair; dim is a multiple of 8. */
static __global__ void cuda_moe_spread_kernel(const __nv_bfloat16 *x, int64_t stride, int dim,
                                              int n_used, CudaGroups g) {
    cuda_wait();
    const int64_t p = blockIdx.x;
    const uint4 *from = (const uint4 *)(x + p / n_used * stride);
    uint4 *to = (uint4 *)(g.x + (int64_t)g.row_of[p] * dim);
    for (int i = threadIdx.x; i < dim / 8; i += blockDim.x) to[i] = from[i];
}

static __global__ void cuda_moe_gather_kernel(CudaMoe m, CudaGroups g, float *out) {
    cuda_wait();
    const int64_t t = blockIdx.x;
    for (int i = threadIdx.x; i < m.dim; i += blockDim.x) {
        float sum = 0;
        for (int u = 0; u < m.n_used; u++) {
            const int64_t p = t * m.n_used + u;
            sum += m.weight[p] * g.out[(int64_t)g.row_of[p] * m.dim + i];
        }
        float *to = out + t * m.out_stride + i;
        *to = m.accumulate ? *to + sum : sum;
    }
}

static bool cuda_moe_is_packed(const MoeArgs *args) {
    return args->gate->layout == CUDA_MATRIX_GATE && args->down->layout == CUDA_MATRIX_PACKED &&
           args->x.dtype == DTYPE_BF16 && args->x.stride[0] % 8 == 0 &&
           (uintptr_t)args->x.data % 16 == 0;
}

static void cuda_moe_grouped(OpCtx *ctx, const MoeArgs *args, const CudaMoe *m, int64_t n_tokens,
                             const __nv_bfloat16 *x, float *out) {
    const int64_t n_pairs = n_tokens * m->n_used;
    const CudaGroups g =
        cuda_moe_groups((char *)ctx->scratch, n_pairs, args->n_experts, m->dim, m->ff);
    CHECK(g.bytes <= ctx->scratch_bytes);
    CudaDevice *d = cuda_of(ctx);
    cuda_launch(ctx, "moe sort", cuda_moe_sort_kernel, dim3(1), dim3(1024), 0, m->expert,
                (int)n_pairs, (int)args->n_experts, g);
    cuda_launch(ctx, "moe spread", cuda_moe_spread_kernel, dim3((unsigned)n_pairs), dim3(128), 0, x,
                m->x_stride, m->dim, m->n_used, g);
    const Tensor pairs = tensor_2d(g.x, DTYPE_BF16, n_pairs, m->dim);
    const Tensor hidden = tensor_2d(g.hidden, DTYPE_BF16, n_pairs, m->ff);
    CudaLinearArgs fast = cuda_product_gated_args(&pairs, args->gate, args->act, &hidden);
    fast.n_experts = args->n_experts;
    fast.expert_start = g.start;
    fast.expert_w = cuda_matrix_table(args->gate, args->n_experts);
    cuda_note(d, cuda_linear(d->stream, &fast), "experts' gate and up");
    fast.x = g.hidden;
    fast.x_stride = m->ff;
    fast.k = m->ff;
    fast.out = CUDA_LINEAR_F32;
    fast.expert_w = cuda_matrix_table(args->down, args->n_experts);
    fast.part[0] = CudaLinearPart{g.out, m->dim, NULL, m->dim};
    cuda_note(d, cuda_linear(d->stream, &fast), "experts' down");
    cuda_launch(ctx, "moe gather", cuda_moe_gather_kernel, dim3((unsigned)n_tokens), dim3(256), 0,
                *m, g, out);
}

size_t cuda_moe_scratch_bytes(const OpsLimits *limits) {
    if (limits->n_experts == 0) return 0;
    const int64_t tokens = MIN((int64_t)limits->n_tokens_max, (int64_t)CUDA_MOE_TOKENS);
    const size_t plain =
        (size_t)(tokens * limits->n_experts_used * limits->expert_ff) * sizeof(float);
    const int64_t grouped = MIN((int64_t)limits->n_tokens_max, (int64_t)CUDA_MOE_GROUPED);
    const int64_t dim = MAX(limits->k_max, limits->n_max);
    return MAX(plain, cuda_moe_groups(NULL, grouped * limits->n_experts_used, limits->n_experts,
                                      dim, limits->expert_ff)
                          .bytes);
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
    const bool packed = cuda_moe_is_packed(args);
    const int64_t step = packed ? CUDA_MOE_GROUPED : CUDA_MOE_TOKENS;
    for (int64_t t = 0; t < x->shape[0]; t += step) {
        const int64_t rows = MIN(x->shape[0] - t, step);
        m.expert = args->expert + t * m.n_used;
        m.weight = args->weight + t * m.n_used;
        if (packed) {
            cuda_moe_grouped(ctx, args, &m, rows, (const __nv_bfloat16 *)x->data + t * x->stride[0],
                             (float *)out->data + t * out->stride[0]);
            continue;
        }
        CHECK((size_t)(rows * m.n_used * m.ff) * sizeof(float) <= ctx->scratch_bytes);
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
