/* cuda_rope: q/k norm, rotary embedding, and the write of k and v to the paged cache; a warp per
 * token and head, or, where there is no norm and all is bf16, a CTA per token. What the step's
 * arrays say is read before the kernel in front has ended. */
#include "ops/cuda/cuda_rope.cuh"

enum { CUDA_ROPE_WARPS = 8, CUDA_ROPE_THREADS = CUDA_ROPE_WARPS * CUDA_WARP };

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

/* ---- bf16 without a norm ---------------------------------------------------------------------- */

/* Where a thread's two pieces of eight stand in a head, and the pairs in them. */
template <bool NEOX>
struct CudaRopePiece {
    static __device__ __forceinline__ int first(int piece) {
        return NEOX ? piece * 8 : piece * 16;
    }
    static __device__ __forceinline__ int second(int piece, int head_dim) {
        return NEOX ? head_dim / 2 + piece * 8 : piece * 16 + 8;
    }
    /* Element e of pair i, 0 to 7, among the sixteen. */
    static __device__ __forceinline__ int at(int i, int e) {
        return NEOX ? i + 8 * e : 2 * i + e;
    }
};

/* A thread rotates the same eight pairs of some heads of a token, or copies those of v. */
template <bool NEOX>
static __global__ void __launch_bounds__(CUDA_ROPE_THREADS)
    cuda_rope_token_kernel(CudaRope r, __nv_bfloat16 *q, const __nv_bfloat16 *k,
                           const __nv_bfloat16 *v, __nv_bfloat16 *k_cache, __nv_bfloat16 *v_cache) {
    typedef CudaRopePiece<NEOX> Piece;
    const int dim = r.head.head_dim, n_pieces = dim / 16;
    const int64_t t = blockIdx.x;
    const int piece = threadIdx.x % n_pieces;
    const int first = Piece::first(piece), second = Piece::second(piece, dim);
    const int slot = r.kv_slot[t];
    __align__(16) float cos_sin[16];
    const float4 *angle = (const float4 *)(r.cos_sin + (int64_t)r.pos[t] * dim + piece * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) *(float4 *)&cos_sin[4 * i] = angle[i];
    cuda_wait();
    const int64_t row = slot < 0
                            ? 0
                            : (int64_t)(slot / r.block_tokens) * r.n_kv_heads * r.block_tokens +
                                  slot % r.block_tokens;
    for (int h = threadIdx.x / n_pieces; h < r.n_heads + 2 * r.n_kv_heads;
         h += CUDA_ROPE_THREADS / n_pieces) {
        const bool is_q = h < r.n_heads, is_k = !is_q && h < r.n_heads + r.n_kv_heads;
        const int kv_head = is_k ? h - r.n_heads : h - r.n_heads - r.n_kv_heads;
        const __nv_bfloat16 *from = is_q   ? q + t * r.q_stride + h * dim
                                    : is_k ? k + t * r.k_stride + kv_head * dim
                                           : v + t * r.v_stride + kv_head * dim;
        if (!is_q && slot < 0) continue;
        __nv_bfloat16 *to = (__nv_bfloat16 *)from;
        if (!is_q)
            to = (is_k ? k_cache : v_cache) + (row + (int64_t)kv_head * r.block_tokens) * dim;
        __align__(16) __nv_bfloat16 x[16];
        *(uint4 *)&x[0] = __ldcg((const uint4 *)(from + first));
        *(uint4 *)&x[8] = __ldcg((const uint4 *)(from + second));
#pragma unroll
        for (int i = 0; i < 8 && (is_q || is_k); i++) {
            float a = cuda_to_f32(x[Piece::at(i, 0)]), b = cuda_to_f32(x[Piece::at(i, 1)]);
            cuda_rope_pair(cos_sin[2 * i], cos_sin[2 * i + 1], &a, &b);
            cuda_put(&x[Piece::at(i, 0)], a);
            cuda_put(&x[Piece::at(i, 1)], b);
        }
        *(uint4 *)(to + first) = *(const uint4 *)&x[0];
        *(uint4 *)(to + second) = *(const uint4 *)&x[8];
    }
}

/* Whether it takes these arguments. */
static bool cuda_rope_is_plain(const CudaRope &r, const RopeKvArgs *args) {
    const uintptr_t all = (uintptr_t)args->q.data | (uintptr_t)args->k.data |
                          (uintptr_t)args->v.data | (uintptr_t)args->kv.k | (uintptr_t)args->kv.v |
                          (uintptr_t)r.cos_sin;
    const int dim = r.head.head_dim;
    return r.q_norm == NULL && r.k_norm == NULL && r.head.style != ROPE_NONE &&
           r.head.rope_dim == dim && (dim == 64 || dim == 128 || dim == 256) &&
           args->q.dtype == DTYPE_BF16 && args->kv.dtype == DTYPE_BF16 && all % 16 == 0 &&
           (r.q_stride | r.k_stride | r.v_stride) % 8 == 0;
}

void cuda_rope(OpCtx *ctx, const RopeKvArgs *args) {
    const Tensor *q = &args->q, *k = &args->k, *v = &args->v;
    const KvView *kv = &args->kv;
    CHECK(q->dtype == k->dtype && q->dtype == v->dtype && q->shape[2] == kv->head_dim);
    CHECK(args->rope_dim >= 0 && args->rope_dim <= kv->head_dim && kv->head_dim <= 1024);
    const CudaRope r = {
        args->q_norm,     args->k_norm,
        args->cos_sin,    args->pos,
        args->kv_slot,    q->stride[0],
        k->stride[0],     v->stride[0],
        (int)q->shape[1], kv->n_kv_heads,
        kv->block_tokens, {kv->head_dim, args->rope_dim, args->norm_eps, args->style}};
    if (cuda_rope_is_plain(r, args)) {
        typedef __nv_bfloat16 T;
        cuda_launch(ctx, "rope_kv",
                    r.head.style == ROPE_NEOX ? cuda_rope_token_kernel<true>
                                              : cuda_rope_token_kernel<false>,
                    dim3((unsigned)q->shape[0]), dim3(CUDA_ROPE_THREADS), 0, r, (T *)q->data,
                    (const T *)k->data, (const T *)v->data, (T *)kv->k, (T *)kv->v);
        return;
    }
    const int n = r.n_heads + 2 * r.n_kv_heads;
    const dim3 grid((unsigned)q->shape[0], (unsigned)DIV_UP(n, (int)CUDA_ROPE_WARPS));
    const size_t bytes = CUDA_ROPE_WARPS * 2 * (size_t)r.head.head_dim * sizeof(float);
    cuda_by_dtype(q->dtype, [&](auto in) {
        typedef decltype(in) T;
        cuda_by_dtype(kv->dtype, [&](auto one) {
            typedef decltype(one) C;
            if (bytes > 48 << 10)
                cuda_note(
                    cuda_of(ctx),
                    cudaFuncSetAttribute(cuda_rope_kernel<T, C>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                    "rope_kv");
            cuda_launch(ctx, "rope_kv", cuda_rope_kernel<T, C>, grid,
                        dim3(CUDA_ROPE_WARPS * CUDA_WARP), bytes, r, (T *)q->data,
                        (const T *)k->data, (const T *)v->data, (C *)kv->k, (C *)kv->v);
        });
    });
}
