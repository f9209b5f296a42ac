/* cuda_attend: paged attention. Shapes that the fast kernels take go to them, Hopper's or those of
 * other GPUs; every other to one plain kernel, which knows all fields.
 *
 * The plain kernel: a block per query and head goes through the keys in pieces of 128 that start at
 * multiples of 128, with a running maximum; the order follows from the positions alone. */
#include "ops/cuda/cuda_attend_warp.cuh"
#include "ops/cuda/cuda_attn.cuh"
#include "ops/cuda/cuda_common.cuh"

enum { CUDA_ATTEND_KEYS = 128 };

struct CudaAttend {
    const int32_t *query_start, *kv_len, *table_start, *block_id;
    const float *sinks;
    int64_t q_stride, out_stride;
    int n_seqs, n_heads, n_kv_heads, head_dim, block_tokens, window;
    float scale, softcap;
    bool causal;
};

/* The sequence of token t. */
static __device__ __forceinline__ int cuda_attend_seq(const CudaAttend &a, int t) {
    int lo = 0, hi = a.n_seqs - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (a.query_start[mid] <= t)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

template <typename T, typename C>
static __global__ void __launch_bounds__(CUDA_ATTEND_KEYS)
    cuda_attend_kernel(CudaAttend a, const T *q, const C *k_cache, const C *v_cache, T *out) {
    extern __shared__ float shared[];
    cuda_wait();
    float *query = shared, *acc = query + a.head_dim, *weight = acc + a.head_dim;
    const int t = blockIdx.x, h = blockIdx.y, kv_head = h / (a.n_heads / a.n_kv_heads);
    const int s = cuda_attend_seq(a, t);
    const int kv_len = a.kv_len[s], pos = kv_len - (a.query_start[s + 1] - t);
    const int hi = kv_len == 0 ? 0 : a.causal ? pos + 1 : kv_len;
    const int lo = a.window > 0 && pos >= a.window ? pos - a.window + 1 : 0;
    const int32_t *table = a.block_id + a.table_start[s];
    const T *from = q + t * a.q_stride + (int64_t)h * a.head_dim;
    for (int i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
        query[i] = cuda_to_f32(from[i]);
        acc[i] = 0;
    }
    float largest = a.sinks != NULL ? a.sinks[h] : -CUDART_INF_F;
    float sum = a.sinks != NULL ? 1.0f : 0.0f;
    __syncthreads();
    for (int start = lo / CUDA_ATTEND_KEYS * CUDA_ATTEND_KEYS; start < hi;
         start += CUDA_ATTEND_KEYS) {
        const int j = start + threadIdx.x;
        float score = -CUDART_INF_F;
        if (j >= lo && j < hi) {
            const int64_t block = table[j / a.block_tokens], offset = j % a.block_tokens;
            const C *key =
                k_cache + ((block * a.n_kv_heads + kv_head) * a.block_tokens + offset) * a.head_dim;
            score = 0;
            for (int i = 0; i < a.head_dim; i++) score += query[i] * cuda_to_f32(key[i]);
            score *= a.scale;
            if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
        }
        const float next = fmaxf(largest, cuda_block_max(score));
        const float p = score == -CUDART_INF_F ? 0 : expf(score - next);
        const float keep = largest == -CUDART_INF_F ? 0 : expf(largest - next);
        weight[threadIdx.x] = p;
        sum = sum * keep + cuda_block_sum(p);
        largest = next;
        __syncthreads();
        for (int i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
            float y = acc[i] * keep;
            for (int n = max(lo - start, 0); n < min(hi - start, (int)CUDA_ATTEND_KEYS); n++) {
                const int key = start + n;
                const int64_t block = table[key / a.block_tokens], offset = key % a.block_tokens;
                y += weight[n] *
                     cuda_to_f32(v_cache[((block * a.n_kv_heads + kv_head) * a.block_tokens +
                                          offset) * a.head_dim + i]);
            }
            acc[i] = y;
        }
        __syncthreads();
    }
    T *to = out + t * a.out_stride + (int64_t)h * a.head_dim;
    for (int i = threadIdx.x; i < a.head_dim; i += blockDim.x)
        cuda_put(to + i, hi > 0 ? acc[i] / sum : 0.0f);
}

/* ---- the fast form ------------------------------------------------------------------------ */

static CudaAttnLimits cuda_attend_limits(const OpsLimits *limits) {
    CudaAttnLimits fast = {};
    fast.n_tokens_max = limits->n_tokens_max;
    fast.n_seqs_max = limits->n_seqs_max;
    fast.query_len_max = limits->n_tokens_max;
    fast.kv_len_max = limits->context_max;
    fast.n_heads = limits->n_heads;
    fast.n_kv_heads = limits->n_kv_heads;
    fast.head_dim = limits->head_dim;
    return fast;
}

/* The partial results stand behind the plan. */
static size_t cuda_attend_partial_at(const CudaAttnLimits *limits) {
    return ALIGN_UP(cuda_attn_plan_bytes(limits), (size_t)256);
}

size_t cuda_attend_plan_bytes(const OpsLimits *limits) {
    const CudaAttnLimits fast = cuda_attend_limits(limits);
    if (limits->context_max == 0) return 0;
    return MAX(cuda_attend_partial_at(&fast) + cuda_attn_partial_bytes(&fast),
               cuda_attend_warp_bytes(limits));
}

void cuda_attend_plan_open(OpCtx *ctx, AttnPlan *plan) {
    const CudaAttnLimits fast = cuda_attend_limits(plan->limits);
    if (!cuda_of(ctx)->is_hopper) return;
    cuda_note(cuda_of(ctx),
              cuda_attn_clear(cuda_of(ctx)->stream, &fast,
                              (char *)plan->data + cuda_attend_partial_at(&fast)),
              "attention's memory");
}

static bool cuda_attend_is_fast(const AttnArgs *args) {
    const int32_t d = args->kv.head_dim, block = args->kv.block_tokens;
    return args->plan.data != NULL && args->q.dtype == DTYPE_BF16 &&
           args->kv.dtype == DTYPE_BF16 && d <= 256 && d % 8 == 0 && block <= 256 &&
           (block & (block - 1)) == 0 && args->q.stride[0] % 8 == 0 &&
           args->out.stride[0] % 8 == 0 && args->scale > 0;
}

static CudaAttnArgs cuda_attend_args(const AttnArgs *args) {
    CudaAttnArgs fast = {};
    fast.limits = cuda_attend_limits(args->plan.limits);
    fast.q = args->q.data;
    fast.out = args->out.data;
    fast.q_stride = args->q.stride[0];
    fast.out_stride = args->out.stride[0];
    fast.k = args->kv.k;
    fast.v = args->kv.v;
    fast.n_blocks = args->kv.n_blocks;
    fast.block_tokens = args->kv.block_tokens;
    fast.n_tokens = (int32_t)args->q.shape[0];
    fast.n_seqs = args->n_seqs;
    fast.query_len_max = args->query_max;
    fast.query_start = args->query_start;
    fast.kv_len = args->kv_len;
    fast.table_start = args->table_start;
    fast.block_id = args->block_id;
    fast.scale = args->scale;
    fast.softcap = args->softcap;
    fast.window = args->window;
    fast.causal = args->causal;
    fast.sinks = args->sinks;
    fast.dependent = true;
    fast.plan = args->plan.data;
    fast.partial = (char *)args->plan.data + cuda_attend_partial_at(&fast.limits);
    return fast;
}

/* The rotation as a part of the attention; false where it has to be done before. */
static bool cuda_attend_take_rope(const RopeKvArgs *rope, CudaAttnArgs *fast) {
    if (rope->k.stride[0] != rope->v.stride[0]) return false;
    fast->rope.k = rope->k.data;
    fast->rope.v = rope->v.data;
    fast->rope.kv_stride = rope->k.stride[0];
    fast->rope.q_norm = rope->q_norm;
    fast->rope.k_norm = rope->k_norm;
    fast->rope.norm_eps = rope->norm_eps;
    fast->rope.style = rope->style;
    fast->rope.rope_dim = rope->rope_dim;
    fast->rope.cos_sin = rope->cos_sin;
    fast->rope.kv_slot = rope->kv_slot;
    if (cuda_attn_can_rope(fast)) return true;
    fast->rope = CudaAttnRope{};
    return false;
}

void cuda_attend_plan(OpCtx *ctx, const AttnArgs *args) {
    if (!cuda_of(ctx)->is_hopper || !cuda_attend_is_fast(args)) return;
    const CudaAttnArgs fast = cuda_attend_args(args);
    cuda_note(cuda_of(ctx), cuda_attn_plan(cuda_of(ctx)->stream, &fast), "attention's plan");
}

/* ---- either ------------------------------------------------------------------------------- */

void cuda_attend(OpCtx *ctx, const AttnArgs *args) {
    const Tensor *q = &args->q, *out = &args->out;
    const KvView *kv = &args->kv;
    CHECK(q->dtype == out->dtype && q->shape[2] == kv->head_dim && q->shape[1] <= 65535);
    CHECK(q->shape[1] % kv->n_kv_heads == 0 && kv->head_dim <= 1024);
    const bool is_fast = cuda_attend_is_fast(args);
    if (is_fast && cuda_of(ctx)->is_hopper) {
        CudaAttnArgs fast = cuda_attend_args(args);
        if (args->rope != NULL && !cuda_attend_take_rope(args->rope, &fast))
            cuda_rope(ctx, args->rope);
        cuda_note(cuda_of(ctx), cuda_attn(cuda_of(ctx)->stream, &fast), "attn");
        return;
    }
    if (args->rope != NULL) cuda_rope(ctx, args->rope);
    if (is_fast) {
        cuda_attend_warp(ctx, args);
        return;
    }
    const CudaAttend a = {args->query_start, args->kv_len,    args->table_start, args->block_id,
                          args->sinks,       q->stride[0],    out->stride[0],    args->n_seqs,
                          (int)q->shape[1],  kv->n_kv_heads,  kv->head_dim,      kv->block_tokens,
                          args->window,      args->scale,     args->softcap,     args->causal};
    const size_t bytes = (2 * (size_t)kv->head_dim + CUDA_ATTEND_KEYS) * sizeof(float);
    cuda_by_dtype(q->dtype, [&](auto in) {
        typedef decltype(in) T;
        cuda_by_dtype(kv->dtype, [&](auto one) {
            typedef decltype(one) C;
            cuda_launch(ctx, "attn", cuda_attend_kernel<T, C>,
                        dim3((unsigned)q->shape[0], (unsigned)q->shape[1]), dim3(CUDA_ATTEND_KEYS),
                        bytes, a, (const T *)q->data, (const C *)kv->k, (const C *)kv->v,
                        (T *)out->data);
        });
    });
}
