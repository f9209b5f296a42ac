/* cuda_attend_warp: paged attention in bf16 by a warp's products (mma.sync), for GPUs that Hopper's
 * kernels do not serve.
 *
 * Rows are those of cuda_attn_priv.cuh: row = token * group + head of the group. A warp has 16 of
 * them and goes through their keys in tiles of 32 (16 for 256 dims, whose sums fill the
 * registers) and segments of 256, both cut at fixed positions; each segment is summed from
 * nothing, and the segments are merged in rising order. With few rows every segment has a warp of
 * its own, which leaves its sums in memory for a second kernel to merge; else a warp goes through
 * all segments of its rows. Either way the bits are the same.
 *
 * Operands come from memory as the lanes need them, 16 bytes at a time: where 8 elements of a key
 * stand side by side in a lane, the order of the dims within a product is another, the same for
 * queries and keys; of values a lane has neighbouring dims, one for each of its products. What the
 * next tile needs is on its way to the L2 cache meanwhile. */
#include "ops/cuda/cuda_attend_warp.cuh"
#include "ops/cuda/cuda_mask.cuh"
#include "ops/cuda/cuda_mma.cuh"
#include "ops/cuda/cuda_softmax.cuh"

enum {
    WARP_ROWS = 16,
    WARP_SEGMENT = 256,
    WARP_WARPS = 4,
    WARP_PARTIAL_ROWS = 131072 /* at most: 68 MB for 128 dims */
};

static constexpr int warp_tile(int dims) {
    return dims > 128 ? 16 : 32;
}

struct WarpParams {
    const int32_t *query_start, *kv_len, *table_start, *block_id;
    const float *sinks;
    const __nv_bfloat16 *q, *k, *v;
    __nv_bfloat16 *out;
    int64_t q_stride, out_stride;
    int n_kv_heads, group, head_dim, block_tokens, block_shift, window;
    int n_segments; /* that a context has at most */
    float cap_in, scale_log2;
    bool causal;
    float *partial; /* [n_tokens, n_heads, n_segments, DIMS] */
    float2 *partial_ml;
};

/* The rows of a warp. */
struct WarpRows {
    int query, pos, row, n_rows; /* of the sequence: its first token, that one's position; rows */
    const int32_t *table;
    MaskRange seen[2]; /* by the lane's two */
    MaskRange all;     /* by any */
    MaskRange every;   /* by all */
};

static __device__ __forceinline__ MaskRange warp_range(const WarpParams &p, const WarpRows &r,
                                                       int kv_len, int row) {
    const MaskRange range = cuda_mask_range(r.pos + row / p.group, kv_len, p.window, p.causal);
    return MaskRange{range.lo, kv_len == 0 ? 0 : range.hi};
}

/* Rows from `row` on of sequence s; n_rows is 0 where it has none. */
static __device__ __forceinline__ WarpRows warp_rows(const WarpParams &p, int s, int row) {
    const int lane = threadIdx.x % CUDA_WARP, kv_len = p.kv_len[s];
    WarpRows r = {};
    r.query = p.query_start[s];
    const int n_queries = p.query_start[s + 1] - r.query;
    r.row = row;
    r.n_rows = max(min(n_queries * p.group - row, (int)WARP_ROWS), 0);
    if (r.n_rows == 0) return r;
    r.pos = kv_len - n_queries;
    r.table = p.block_id + p.table_start[s];
    for (int h = 0; h < 2; h++)
        r.seen[h] = warp_range(p, r, kv_len, row + min(lane / 4 + 8 * h, r.n_rows - 1));
    const MaskRange first = warp_range(p, r, kv_len, row);
    const MaskRange last = warp_range(p, r, kv_len, row + r.n_rows - 1);
    r.all = MaskRange{first.lo, last.hi};
    r.every = MaskRange{last.lo, first.hi};
    return r;
}

static __device__ __forceinline__ int64_t warp_row_at(const WarpParams &p, const WarpRows &r,
                                                      int kv_head, int i, int64_t stride) {
    const int row = r.row + i, token = row / p.group;
    return (r.query + token) * stride + (int64_t)(kv_head * p.group + row % p.group) * p.head_dim;
}

static __device__ __forceinline__ uint4 warp_load(const __nv_bfloat16 *row, int dim, int head_dim) {
    return dim < head_dim ? *(const uint4 *)(row + dim) : uint4{0, 0, 0, 0};
}

/* A warp's queries as operands in shared memory, those of each lane for itself: of each 32 dims the
 * 8 from lane % 4 * 8 on. */
template <int DIMS> struct WarpQueries {
    uint4 at[DIMS / 16][CUDA_WARP];
};

template <int DIMS>
static __device__ __forceinline__ void warp_queries(const WarpParams &p, const WarpRows &r,
                                                    int kv_head, WarpQueries<DIMS> *q) {
    const int lane = threadIdx.x % CUDA_WARP;
    const __nv_bfloat16 *row[2];
    for (int h = 0; h < 2; h++)
        row[h] = p.q + warp_row_at(p, r, kv_head, min(lane / 4 + 8 * h, r.n_rows - 1), p.q_stride);
#pragma unroll
    for (int c = 0; c < DIMS / 32; c++) {
        const uint4 a = warp_load(row[0], c * 32 + lane % 4 * 8, p.head_dim);
        const uint4 b = warp_load(row[1], c * 32 + lane % 4 * 8, p.head_dim);
        q->at[2 * c][lane] = uint4{a.x, b.x, a.y, b.y};
        q->at[2 * c + 1][lane] = uint4{a.z, b.z, a.w, b.w};
    }
}

/* s = q k^T for the keys of a tile, whose rows of the cache the lanes have in `slot`. */
template <int DIMS>
static __device__ __forceinline__ void warp_scores(const WarpParams &p, const WarpQueries<DIMS> *q,
                                                   int slot, float (&s)[warp_tile(DIMS) / 2]) {
    constexpr int N = warp_tile(DIMS) / 8;
    const int lane = threadIdx.x % CUDA_WARP;
    const __nv_bfloat16 *row[N];
#pragma unroll
    for (int i = 0; i < N; i++)
        row[i] = p.k + (int64_t)__shfl_sync(~0u, slot, i * 8 + lane / 4) * p.head_dim;
#pragma unroll
    for (int i = 0; i < 4 * N; i++) s[i] = 0;
#pragma unroll
    for (int c = 0; c < DIMS / 32; c++) {
        uint4 k[N];
#pragma unroll
        for (int i = 0; i < N; i++) k[i] = warp_load(row[i], c * 32 + lane % 4 * 8, p.head_dim);
        const uint4 x = q->at[2 * c][lane], y = q->at[2 * c + 1][lane];
        const uint32_t a[2][4] = {{x.x, x.y, x.z, x.w}, {y.x, y.y, y.z, y.w}};
#pragma unroll
        for (int i = 0; i < N; i++) {
            float *d = s + 4 * i;
            cuda_mma_warp(d[0], d[1], d[2], d[3], a[0], k[i].x, k[i].y);
            cuda_mma_warp(d[0], d[1], d[2], d[3], a[1], k[i].z, k[i].w);
        }
    }
}

/* o += weights times values. Column c of the product number j is dim c * (DIMS / 8) + j. */
template <int DIMS>
static __device__ __forceinline__ void warp_values(const WarpParams &p,
                                                   const float (&s)[warp_tile(DIMS) / 2], int slot,
                                                   float (&o)[DIMS / 2]) {
    const int lane = threadIdx.x % CUDA_WARP;
#pragma unroll
    for (int i = 0; i < warp_tile(DIMS) / 16; i++) {
        uint32_t w[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const __nv_bfloat162 two =
                __floats2bfloat162_rn(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
            w[j] = *(const uint32_t *)&two;
        }
        const __nv_bfloat16 *row[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int key = i * 16 + lane % 4 * 2 + j / 2 * 8 + j % 2;
            row[j] = p.v + (int64_t)__shfl_sync(~0u, slot, key) * p.head_dim;
        }
#pragma unroll
        for (int e = 0; e < DIMS / 64; e++) {
            uint32_t v[4][4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint4 x = warp_load(row[j], lane / 4 * (DIMS / 8) + e * 8, p.head_dim);
                v[j][0] = x.x, v[j][1] = x.y, v[j][2] = x.z, v[j][3] = x.w;
            }
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const uint32_t halves = j % 2 == 0 ? 0x5410 : 0x7632;
                float *d = o + 4 * (e * 8 + j);
                cuda_mma_warp(d[0], d[1], d[2], d[3], w,
                              __byte_perm(v[0][j / 2], v[1][j / 2], halves),
                              __byte_perm(v[2][j / 2], v[3][j / 2], halves));
            }
        }
    }
}

/* Where the lane's key of a tile stands in the cache, or another where no row sees it; it is asked
 * for. */
static __device__ __forceinline__ int warp_slot(const WarpParams &p, const WarpRows &r, int kv_head,
                                                int tile) {
    const int lane = threadIdx.x % CUDA_WARP;
    const int key = min(max(tile + lane, r.all.lo), r.all.hi - 1);
    const int slot = (r.table[key >> p.block_shift] * p.n_kv_heads + kv_head) * p.block_tokens +
                     (key & (p.block_tokens - 1));
    for (int i = 0; i < p.head_dim; i += 64) {
        const int64_t at = (int64_t)slot * p.head_dim + i;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(p.k + at));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(p.v + at));
    }
    return slot;
}

/* The sums of one segment. */
template <int DIMS>
static __device__ __forceinline__ void warp_segment(const WarpParams &p, const WarpRows &r,
                                                    const WarpQueries<DIMS> *q, int kv_head,
                                                    int segment, SoftmaxState (&part)[2],
                                                    float (&o)[DIMS / 2]) {
    constexpr int TILE = warp_tile(DIMS);
    const int lane = threadIdx.x % CUDA_WARP;
    const int from = max(r.all.lo / TILE * TILE, segment * WARP_SEGMENT);
    const int to = min(r.all.hi, (segment + 1) * WARP_SEGMENT);
    part[0] = part[1] = cuda_softmax_empty();
#pragma unroll
    for (int i = 0; i < DIMS / 2; i++) o[i] = 0;
    int next = warp_slot(p, r, kv_head, from);
    for (int tile = from; tile < to; tile += TILE) {
        const int slot = next;
        float s[TILE / 2], decay[2];
        next = warp_slot(p, r, kv_head, tile + TILE);
        warp_scores<DIMS>(p, q, slot, s);
        if (p.cap_in != 0) {
#pragma unroll
            for (int i = 0; i < TILE / 2; i++) s[i] = cuda_tanh(__fmul_rn(s[i], p.cap_in));
        }
        if (tile < r.every.lo || tile + TILE > r.every.hi)
            cuda_mask_tile(s, tile + lane % 4 * 2, r.seen);
        cuda_softmax_tile(s, p.scale_log2, part, decay, 2);
        if (!__all_sync(~0u, decay[0] == 1.0f && decay[1] == 1.0f)) {
#pragma unroll
            for (int i = 0; i < DIMS / 2; i++) o[i] = __fmul_rn(o[i], decay[i / 2 % 2]);
        }
        warp_values<DIMS>(p, s, slot, o);
    }
    for (int h = 0; h < 2; h++) part[h].l = cuda_softmax_row_sum(part[h].l);
}

static __device__ __forceinline__ int warp_segments_end(const WarpRows &r) {
    return (r.all.hi + WARP_SEGMENT - 1) / WARP_SEGMENT;
}

static __device__ __forceinline__ void warp_put(__nv_bfloat16 *to, const float (&x)[8],
                                                float factor) {
    uint32_t u[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat162 two = __floats2bfloat162_rn(__fmul_rn(x[2 * i], factor),
                                                         __fmul_rn(x[2 * i + 1], factor));
        u[i] = *(const uint32_t *)&two;
    }
    *(uint4 *)to = uint4{u[0], u[1], u[2], u[3]};
}

/* What a warp that has all segments of its rows keeps in shared memory. */
template <int DIMS> struct WarpShared {
    WarpQueries<DIMS> q;
    float total[DIMS / 2][CUDA_WARP]; /* of each lane for itself */
};

template <int DIMS>
static __global__ void __launch_bounds__(WARP_WARPS *CUDA_WARP)
    attend_warp_kernel(const __grid_constant__ WarpParams p) {
    extern __shared__ __align__(16) char shared[];
    cuda_wait();
    const int lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const int n_warps = blockDim.x / CUDA_WARP, kv_head = blockIdx.y;
    const WarpRows r = warp_rows(p, blockIdx.z, (blockIdx.x * n_warps + warp) * WARP_ROWS);
    if (r.n_rows == 0) return;
    WarpShared<DIMS> *own = (WarpShared<DIMS> *)shared + warp;
    float o[DIMS / 2], *sum = &own->total[0][lane];
    SoftmaxState part[2], total[2] = {cuda_softmax_empty(), cuda_softmax_empty()};
    warp_queries<DIMS>(p, r, kv_head, &own->q);
    for (int i = 0; i < DIMS / 2; i++) sum[i * CUDA_WARP] = 0;
    for (int g = r.all.lo / WARP_SEGMENT; g < warp_segments_end(r); g++) {
        warp_segment<DIMS>(p, r, &own->q, kv_head, g, part, o);
        SoftmaxMerge by[2];
        for (int h = 0; h < 2; h++) by[h] = cuda_softmax_merge(&total[h], part[h]);
#pragma unroll
        for (int i = 0; i < DIMS / 2; i++)
            sum[i * CUDA_WARP] = cuda_softmax_add(sum[i * CUDA_WARP], o[i], by[i / 2 % 2]);
    }
    for (int h = 0; h < 2; h++) {
        const int i = lane / 4 + 8 * h;
        if (i >= r.n_rows) break;
        const int head = kv_head * p.group + (r.row + i) % p.group;
        const float factor =
            cuda_softmax_factor(total[h], p.sinks == NULL ? NULL : p.sinks + head);
        __nv_bfloat16 *to = p.out + warp_row_at(p, r, kv_head, i, p.out_stride);
        for (int e = 0; e < 2; e++) {
            for (int j = 0; j < DIMS / 8; j += 8) {
                const int dim = (lane % 4 * 2 + e) * (DIMS / 8) + j;
                float x[8];
#pragma unroll
                for (int n = 0; n < 8; n++) x[n] = sum[(4 * (j + n) + 2 * h + e) * CUDA_WARP];
                if (dim < p.head_dim) warp_put(to + dim, x, factor);
            }
        }
    }
}

/* ---- a warp for each segment ---------------------------------------------------------------- */

static __device__ __forceinline__ int64_t warp_partial(const WarpParams &p, int64_t token, int head,
                                                       int segment) {
    return (token * p.n_kv_heads * p.group + head) * p.n_segments + segment;
}

template <int DIMS>
static __global__ void __launch_bounds__(WARP_WARPS *CUDA_WARP)
    attend_warp_split_kernel(const __grid_constant__ WarpParams p) {
    __shared__ WarpQueries<DIMS> queries[WARP_WARPS];
    cuda_wait();
    const int lane = threadIdx.x % CUDA_WARP, kv_head = blockIdx.y;
    const int n_blocks = (p.n_segments + WARP_WARPS - 1) / WARP_WARPS;
    const int segment = blockIdx.x % n_blocks * WARP_WARPS + threadIdx.x / CUDA_WARP;
    const WarpRows r = warp_rows(p, blockIdx.z, blockIdx.x / n_blocks * WARP_ROWS);
    if (r.n_rows == 0 || segment < r.all.lo / WARP_SEGMENT || segment >= warp_segments_end(r))
        return;
    WarpQueries<DIMS> *q = &queries[threadIdx.x / CUDA_WARP];
    float o[DIMS / 2];
    SoftmaxState part[2];
    warp_queries<DIMS>(p, r, kv_head, q);
    warp_segment<DIMS>(p, r, q, kv_head, segment, part, o);
    for (int h = 0; h < 2; h++) {
        const int i = lane / 4 + 8 * h, row = r.row + i;
        if (i >= r.n_rows) break;
        const int64_t at = warp_partial(p, r.query + row / p.group,
                                        kv_head * p.group + row % p.group, segment);
        if (lane % 4 == 0) p.partial_ml[at] = float2{part[h].m, part[h].l};
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int j = 0; j < DIMS / 8; j += 4) {
                const float *x = o + 2 * h + e;
                *(float4 *)(p.partial + at * DIMS + (lane % 4 * 2 + e) * (DIMS / 8) + j) =
                    float4{x[4 * j], x[4 * j + 4], x[4 * j + 8], x[4 * j + 12]};
            }
    }
}

/* A warp for each row merges its segments. */
template <int DIMS>
static __global__ void __launch_bounds__(CUDA_WARP)
    attend_warp_merge_kernel(const __grid_constant__ WarpParams p) {
    cuda_wait();
    constexpr int N = DIMS / CUDA_WARP;
    const int lane = threadIdx.x, head = blockIdx.y, s = blockIdx.z, kv_head = head / p.group;
    const WarpRows r = warp_rows(p, s, (int)blockIdx.x * p.group + head % p.group);
    if (r.n_rows == 0) return;
    const MaskRange seen = warp_range(p, r, p.kv_len[s], r.row);
    SoftmaxState total = cuda_softmax_empty();
    float sum[N] = {};
#pragma unroll 4
    for (int g = seen.lo / WARP_SEGMENT; g * WARP_SEGMENT < seen.hi; g++) {
        const int64_t at = warp_partial(p, r.query + blockIdx.x, head, g);
        const float2 ml = p.partial_ml[at];
        const SoftmaxMerge by = cuda_softmax_merge(&total, SoftmaxState{ml.x, ml.y});
        for (int i = 0; i < N; i++)
            sum[i] = cuda_softmax_add(sum[i], p.partial[at * DIMS + lane * N + i], by);
    }
    const float factor = cuda_softmax_factor(total, p.sinks == NULL ? NULL : p.sinks + head);
    __nv_bfloat16 *to = p.out + warp_row_at(p, r, kv_head, 0, p.out_stride);
    for (int i = 0; i < N; i++)
        if (lane * N + i < p.head_dim)
            to[lane * N + i] = __float2bfloat16_rn(__fmul_rn(sum[i], factor));
}

/* ---- launches ------------------------------------------------------------------------------- */

static int warp_n_segments(const OpsLimits *limits) {
    return (int)DIV_UP(limits->context_max, (int32_t)WARP_SEGMENT);
}

/* Rows of partial sums that there is memory for. */
static int64_t warp_n_partial(const OpsLimits *limits) {
    return MIN((int64_t)limits->n_tokens_max * limits->n_heads * warp_n_segments(limits),
               (int64_t)WARP_PARTIAL_ROWS);
}

size_t cuda_attend_warp_bytes(const OpsLimits *limits) {
    const int dims = limits->head_dim <= 64 ? 64 : limits->head_dim <= 128 ? 128 : 256;
    return (size_t)warp_n_partial(limits) * ((size_t)dims * sizeof(float) + sizeof(float2));
}

template <int DIMS>
static void warp_launch(OpCtx *ctx, const AttnArgs *args, WarpParams *p) {
    CHECK(args->query_max >= 1);
    const unsigned n_rows = (unsigned)(args->query_max * p->group), n_seqs = (unsigned)args->n_seqs;
    const int64_t n_partial = args->q.shape[0] * args->q.shape[1] * p->n_segments;
    if (n_rows <= WARP_ROWS && n_partial <= warp_n_partial(args->plan.limits)) {
        p->partial = (float *)args->plan.data;
        p->partial_ml = (float2 *)(p->partial + n_partial * DIMS);
        cuda_launch(ctx, "attn", attend_warp_split_kernel<DIMS>,
                    dim3((unsigned)DIV_UP(p->n_segments, (int)WARP_WARPS), (unsigned)p->n_kv_heads,
                         n_seqs),
                    dim3(WARP_WARPS * CUDA_WARP), 0, *p);
        cuda_launch(ctx, "attn", attend_warp_merge_kernel<DIMS>,
                    dim3((unsigned)args->query_max, (unsigned)args->q.shape[1], n_seqs),
                    dim3(CUDA_WARP), 0, *p);
        return;
    }
    const unsigned n_warps = MIN(DIV_UP(n_rows, (unsigned)WARP_ROWS), (unsigned)WARP_WARPS);
    const size_t shared_bytes = n_warps * sizeof(WarpShared<DIMS>);
    cuda_note(cuda_of(ctx),
              cudaFuncSetAttribute(attend_warp_kernel<DIMS>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes),
              "attn");
    cuda_launch(ctx, "attn", attend_warp_kernel<DIMS>,
                dim3(DIV_UP(n_rows, n_warps * WARP_ROWS), (unsigned)p->n_kv_heads, n_seqs),
                dim3(n_warps * CUDA_WARP), shared_bytes, *p);
}

void cuda_attend_warp(OpCtx *ctx, const AttnArgs *args) {
    const KvView *kv = &args->kv;
    const bool capped = args->softcap > 0;
    WarpParams p = {};
    p.query_start = args->query_start, p.kv_len = args->kv_len;
    p.table_start = args->table_start, p.block_id = args->block_id;
    p.sinks = args->sinks;
    p.q = (const __nv_bfloat16 *)args->q.data, p.out = (__nv_bfloat16 *)args->out.data;
    p.k = (const __nv_bfloat16 *)kv->k, p.v = (const __nv_bfloat16 *)kv->v;
    p.q_stride = args->q.stride[0], p.out_stride = args->out.stride[0];
    p.n_kv_heads = kv->n_kv_heads, p.group = (int)args->q.shape[1] / kv->n_kv_heads;
    p.head_dim = kv->head_dim, p.block_tokens = kv->block_tokens;
    while (1 << p.block_shift < kv->block_tokens) p.block_shift++;
    p.window = args->window, p.causal = args->causal;
    p.n_segments = warp_n_segments(args->plan.limits);
    p.cap_in = capped ? args->scale / args->softcap : 0;
    p.scale_log2 = (capped ? args->softcap : args->scale) * 1.4426950409f;
    if (args->q.shape[0] == 0) return;
    if (p.head_dim <= 64) return warp_launch<64>(ctx, args, &p);
    if (p.head_dim <= 128) return warp_launch<128>(ctx, args, &p);
    warp_launch<256>(ctx, args, &p);
}
