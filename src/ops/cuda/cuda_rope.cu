/* cuda_rope: q/k norm, rotary embedding, and the write of k and v to the paged cache; a warp per
 * token and head. What the step's arrays say is read before the kernel in front has ended. */
#include "ops/cuda/cuda_rope.cuh"

enum { CUDA_ROPE_WARPS = 8 };

struct CudaRope {
    const float *q_norm, *k_norm, *cos_sin;
    const int32_t *pos, *kv_slot;
    int64_t q_stride, k_stride, v_stride;
    int n_heads, n_kv_heads, block_tokens;
    CudaRopeHead head;
};

template <typename T, typename C>
static __global__ void __launch_bounds__(CUDA_ROPE_WARPS *CUDA_WARP)
    cuda_rope_kernel(CudaRope r, T *q, const T *k, const T *v, C *k_cache, C *v_cache) {
    extern __shared__ float heads[];
    const int lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const int h = blockIdx.y * CUDA_ROPE_WARPS + warp;
    const int64_t t = blockIdx.x;
    const bool is_there = h < r.n_heads + 2 * r.n_kv_heads;
    float *head = heads + warp * 2 * r.head.head_dim, *cos_sin = head + r.head.head_dim;
    const bool is_q = h < r.n_heads, is_k = !is_q && h < r.n_heads + r.n_kv_heads;
    const int slot = !is_q && is_there ? r.kv_slot[t] : -1;
    if ((is_q || is_k) && r.head.style != ROPE_NONE)
        for (int i = lane; i < r.head.rope_dim; i += CUDA_WARP)
            cos_sin[i] = r.cos_sin[(int64_t)r.pos[t] * r.head.rope_dim + i];
    cuda_wait();
    if (!is_there) return;
    const int kv_head = is_k ? h - r.n_heads : h - r.n_heads - r.n_kv_heads;
    const T *from = is_q   ? q + t * r.q_stride + (int64_t)h * r.head.head_dim
                    : is_k ? k + t * r.k_stride + (int64_t)kv_head * r.head.head_dim
                           : v + t * r.v_stride + (int64_t)kv_head * r.head.head_dim;
    for (int i = lane; i < r.head.head_dim; i += CUDA_WARP) head[i] = cuda_to_f32(from[i]);
    __syncwarp();
    if (is_q || is_k)
        cuda_rope_head(r.head, head, is_q ? r.q_norm : r.k_norm, cos_sin, lane);
    if (is_q) {
        T *to = q + t * r.q_stride + (int64_t)h * r.head.head_dim;
        for (int i = lane; i < r.head.head_dim; i += CUDA_WARP) cuda_put(to + i, head[i]);
        return;
    }
    if (slot < 0) return;
    const int64_t block = slot / r.block_tokens, offset = slot % r.block_tokens;
    const int64_t at =
        ((block * r.n_kv_heads + kv_head) * r.block_tokens + offset) * r.head.head_dim;
    C *to = (is_k ? k_cache : v_cache) + at;
    for (int i = lane; i < r.head.head_dim; i += CUDA_WARP) cuda_put(to + i, head[i]);
}

void cuda_rope(OpCtx *ctx, const RopeKvArgs *args) {
    const Tensor *q = &args->q, *k = &args->k, *v = &args->v;
    const KvView *kv = &args->kv;
    CHECK(q->dtype == k->dtype && q->dtype == v->dtype && q->shape[2] == kv->head_dim);
    CHECK(args->rope_dim >= 0 && args->rope_dim <= kv->head_dim && kv->head_dim <= 1024);
    const CudaRope r = {args->q_norm,
                        args->k_norm,
                        args->cos_sin,
                        args->pos,
                        args->kv_slot,
                        q->stride[0],
                        k->stride[0],
                        v->stride[0],
                        (int)q->shape[1],
                        kv->n_kv_heads,
                        kv->block_tokens,
                        {kv->head_dim, args->rope_dim, args->norm_eps, args->style}};
    const int n = r.n_heads + 2 * r.n_kv_heads;
    const dim3 grid((unsigned)q->shape[0], (unsigned)DIV_UP(n, (int)CUDA_ROPE_WARPS));
    const size_t bytes = CUDA_ROPE_WARPS * 2 * (size_t)r.head.head_dim * sizeof(float);
    cuda_by_dtype(q->dtype, [&](auto in) {
        typedef decltype(in) T;
        cuda_by_dtype(kv->dtype, [&](auto one) {
            typedef decltype(one) C;
            if (bytes > 48 << 10)
                cuda_note(cuda_of(ctx),
                          cudaFuncSetAttribute(cuda_rope_kernel<T, C>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               (int)bytes),
                          "rope_kv");
            cuda_launch(ctx, "rope_kv", cuda_rope_kernel<T, C>, grid,
                        dim3(CUDA_ROPE_WARPS * CUDA_WARP), bytes, r, (T *)q->data,
                        (const T *)k->data, (const T *)v->data, (C *)kv->k, (C *)kv->v);
        });
    });
}
