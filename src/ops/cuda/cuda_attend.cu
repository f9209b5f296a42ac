/* cuda_attend: paged attention. Shapes that the fast kernels take go to them; every other to one
 * plain kernel, which knows all fields.
 *
 * The plain kernel: a block per query and head goes through the keys in pieces of 128 that start at
 * multiples of 128, with a running maximum; the order follows from the positions alone. */
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

size_t cuda_attend_scratch_bytes(const OpsLimits *limits) {
    (void)limits;
    return 0;
}

void cuda_attend(OpCtx *ctx, const AttnArgs *args) {
    const Tensor *q = &args->q, *out = &args->out;
    const KvView *kv = &args->kv;
    CHECK(q->dtype == out->dtype && q->shape[2] == kv->head_dim && q->shape[1] <= 65535);
    CHECK(q->shape[1] % kv->n_kv_heads == 0 && kv->head_dim <= 1024);
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
