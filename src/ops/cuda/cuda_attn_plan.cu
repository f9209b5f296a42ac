/* cuda_attn_plan: which rows and segments the CTAs of an attention take, made on the device.
 *
 * A sequence whose rows fill at most one warpgroup (and every sequence of a step that would leave
 * multiprocessors idle) is split: each segment an entry of its own, as long as the partial rows last.
 * The others are walked whole, longest first. The choice changes no bit of the result. */
#include "ops/cuda/cuda_attn_priv.cuh"
#include "ops/cuda/cuda_mask.cuh"
#include "ops/cuda/cuda_tma.cuh"

enum { PLAN_THREADS = 1024, PLAN_ALIGN = 256 };

typedef struct PlanParams {
    const int32_t *query_start, *kv_len;
    AttnPlan *plan;
    AttnSplit *split;
    AttnWhole *whole;
    uint8_t *is_split; /* [n_seqs] */
    int32_t n_seqs, n_kv_heads, group;
    int32_t window;
    bool causal;
    int32_t split_rows_max; /* sequences with more rows stay whole */
    int32_t whole_rows;     /* of an entry */
    int32_t key_tile;       /* a cost of one */
    int32_t n_partial_rows, whole_max;
} PlanParams;

typedef struct PlanSeq {
    int32_t n_rows, pos, kv_len;
} PlanSeq;

static __device__ PlanSeq plan_seq(const PlanParams *p, int32_t s) {
    int32_t n_queries = p->query_start[s + 1] - p->query_start[s];
    PlanSeq seq = {n_queries * p->group, p->kv_len[s] - n_queries, p->kv_len[s]};
    return seq;
}

/* The keys that rows [row, row + n) of a sequence see. */
static __device__ MaskRange plan_keys(const PlanParams *p, const PlanSeq *seq, int32_t row,
                                      int32_t n) {
    int32_t last = min(row + n, seq->n_rows) - 1;
    MaskRange a = cuda_mask_range(seq->pos + row / p->group, seq->kv_len, p->window, p->causal);
    MaskRange b = cuda_mask_range(seq->pos + last / p->group, seq->kv_len, p->window, p->causal);
    MaskRange keys = {a.lo, b.hi};
    return keys;
}

static __device__ int32_t plan_segments(const PlanParams *p, const PlanSeq *seq, int32_t tile,
                                        int32_t *first) {
    MaskRange keys = plan_keys(p, seq, tile * CUDA_ATTN_ROWS, CUDA_ATTN_ROWS);
    *first = keys.lo / CUDA_ATTN_SEGMENT;
    return attn_ceil_div(keys.hi, CUDA_ATTN_SEGMENT) - *first;
}

/* The sum of v over the threads before this one; *sum becomes that of all. */
static __device__ int32_t plan_scan(int32_t v, int32_t *sum) {
    __shared__ int32_t warp_sum[32];
    int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, before = v;
    for (int d = 1; d < 32; d *= 2) {
        int32_t below = __shfl_up_sync(0xffffffff, before, d);
        if (lane >= d) before += below;
    }
    __syncthreads();
    if (lane == 31) warp_sum[warp] = before;
    __syncthreads();
    int32_t offset = 0;
    *sum = 0;
    for (int w = 0; w < PLAN_THREADS / 32; w++) {
        if (w < warp) offset += warp_sum[w];
        *sum += warp_sum[w];
    }
    return offset + before - v;
}

/* What splitting a sequence takes. */
typedef struct PlanNeed {
    int32_t entries, rows;
} PlanNeed;

static __device__ PlanNeed plan_need(const PlanParams *p, const PlanSeq *seq) {
    PlanNeed need = {0, 0};
    for (int32_t t = 0; t * CUDA_ATTN_ROWS < seq->n_rows; t++) {
        int32_t first, n = plan_segments(p, seq, t, &first);
        int32_t rows = min(CUDA_ATTN_ROWS, seq->n_rows - t * CUDA_ATTN_ROWS) * p->n_kv_heads;
        need.entries += n;
        if (n > 1) need.rows += n * rows;
    }
    return need;
}

static __device__ void plan_write_split(const PlanParams *p, int32_t s, const PlanSeq *seq,
                                        int32_t entry, int32_t row) {
    for (int32_t t = 0; t * CUDA_ATTN_ROWS < seq->n_rows; t++) {
        int32_t first, n = plan_segments(p, seq, t, &first);
        int32_t rows = min(CUDA_ATTN_ROWS, seq->n_rows - t * CUDA_ATTN_ROWS) * p->n_kv_heads;
        for (int32_t i = 0; i < n; i++) {
            AttnSplit split = {s, t, first + i, n > 1 ? row : -1};
            p->split[entry++] = split;
        }
        if (n > 1) row += n * rows;
    }
}

/* Chooses and lists the sequences that are split; returns the number of entries. */
static __device__ int32_t plan_splits(const PlanParams *p) {
    int32_t n_entries = 0, n_rows = 0;
    for (int32_t base = 0; base < p->n_seqs; base += PLAN_THREADS) {
        int32_t s = base + threadIdx.x, sum;
        PlanSeq seq = {0, 0, 0};
        PlanNeed need = {0, 0};
        if (s < p->n_seqs) seq = plan_seq(p, s);
        bool wanted = seq.n_rows > 0 && seq.n_rows <= p->split_rows_max;
        if (wanted) need = plan_need(p, &seq);
        wanted = wanted && need.rows <= p->n_partial_rows; /* keeps the sums small */
        if (!wanted) need.entries = need.rows = 0;
        int32_t row = n_rows + plan_scan(min(need.rows, INT32_MAX / PLAN_THREADS / 2), &sum);
        n_rows = min(n_rows + sum, INT32_MAX / 2);
        bool is_split = wanted && row + need.rows <= p->n_partial_rows;
        int32_t entry = n_entries + plan_scan(is_split ? need.entries : 0, &sum);
        n_entries += sum;
        if (s < p->n_seqs) p->is_split[s] = is_split;
        if (is_split) plan_write_split(p, s, &seq, entry, row);
    }
    return n_entries;
}

/* Lists the sequences that are walked whole, or (list = NULL) counts their row tiles by cost. */
static __device__ void plan_wholes(const PlanParams *p, int32_t *bucket, AttnWhole *list) {
    for (int32_t s = threadIdx.x / 32; s < p->n_seqs; s += PLAN_THREADS / 32) {
        if (p->is_split[s]) continue;
        PlanSeq seq = plan_seq(p, s);
        for (int32_t t = threadIdx.x % 32; t * p->whole_rows < seq.n_rows; t += 32) {
            MaskRange keys = plan_keys(p, &seq, t * p->whole_rows, p->whole_rows);
            int32_t cost = attn_ceil_div(keys.hi, p->key_tile) - keys.lo / p->key_tile;
            int32_t at = atomicAdd(&bucket[PLAN_THREADS - 1 - min(cost, PLAN_THREADS - 1)], 1);
            if (list != NULL && at < p->whole_max) {
                AttnWhole whole = {s, t};
                list[at] = whole;
            }
        }
    }
}

static __global__ void __launch_bounds__(PLAN_THREADS) plan_kernel(const PlanParams p) {
    __shared__ int32_t bucket[PLAN_THREADS];
    cuda_launch_wait();
    cuda_launch_next();
    int32_t n_split = plan_splits(&p), n_whole;
    bucket[threadIdx.x] = 0;
    __syncthreads();
    plan_wholes(&p, bucket, NULL);
    __syncthreads();
    int32_t before = plan_scan(bucket[threadIdx.x], &n_whole);
    bucket[threadIdx.x] = before;
    __syncthreads();
    plan_wholes(&p, bucket, p.whole);
    if (threadIdx.x == 0) p.plan->n_split = n_split, p.plan->n_whole = n_whole;
}

/* ---- host ---- */

static int64_t plan_align(int64_t bytes) {
    return (bytes + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
}

static int32_t plan_row_tiles(const CudaAttnLimits *limits, int32_t n_tokens, int32_t n_seqs) {
    int64_t rows = (int64_t)n_tokens * (limits->n_heads / limits->n_kv_heads);
    return (int32_t)(rows / CUDA_ATTN_ROWS) + (n_seqs < n_tokens ? n_seqs : n_tokens);
}

AttnPlaces cuda_attn_places(const CudaAttnLimits *limits) {
    AttnPlaces places = {};
    int32_t n_segments = attn_ceil_div(limits->kv_len_max, CUDA_ATTN_SEGMENT) + 1;
    int64_t rows = (int64_t)limits->n_tokens_max * limits->n_heads * n_segments;
    places.n_partial_rows =
        (int32_t)(rows < CUDA_ATTN_PARTIAL_ROWS ? rows : CUDA_ATTN_PARTIAL_ROWS);
    /* a split entry with partial rows has at least n_heads of them */
    int32_t tiles = plan_row_tiles(limits, limits->n_tokens_max, limits->n_seqs_max);
    places.split_max = places.n_partial_rows / limits->n_kv_heads + tiles;
    places.whole_max = tiles;
    places.split = plan_align(sizeof(AttnPlan));
    places.whole = plan_align(places.split + (int64_t)places.split_max * sizeof(AttnSplit));
    places.is_split = plan_align(places.whole + (int64_t)places.whole_max * sizeof(AttnWhole));
    places.plan_bytes = plan_align(places.is_split + limits->n_seqs_max);
    int64_t row_bytes = (int64_t)attn_dims(limits->head_dim) * sizeof(float);
    places.ml = plan_align(places.n_partial_rows * row_bytes);
    places.count = plan_align(places.ml + (int64_t)places.n_partial_rows * sizeof(float2));
    places.count_bytes = ((int64_t)places.n_partial_rows + 4) * sizeof(uint32_t);
    places.partial_bytes = plan_align(places.count + places.count_bytes);
    return places;
}

AttnBounds cuda_attn_bounds(const CudaAttnArgs *args) {
    const CudaAttnLimits *limits = &args->limits;
    AttnPlaces places = cuda_attn_places(limits);
    int32_t n_segments = attn_ceil_div(limits->kv_len_max, CUDA_ATTN_SEGMENT) + 1;
    int64_t tiles = plan_row_tiles(limits, args->n_tokens, args->n_seqs);
    int64_t n_split = tiles * n_segments;
    if (n_split > places.split_max) n_split = places.split_max;
    int64_t group = limits->n_heads / limits->n_kv_heads;
    bool all_split =
        args->query_len_max * group <= CUDA_ATTN_ROWS &&
        (int64_t)args->n_tokens * limits->n_heads * n_segments <= places.n_partial_rows;
    AttnBounds bounds = {(int32_t)n_split, all_split ? 0 : (int32_t)tiles};
    return bounds;
}

cudaError_t cuda_attn_n_sms(int32_t *out) {
    int device = 0;
    cudaError_t e = cudaGetDevice(&device);
    if (e != cudaSuccess) return e;
    return cudaDeviceGetAttribute(out, cudaDevAttrMultiProcessorCount, device);
}

size_t cuda_attn_plan_bytes(const CudaAttnLimits *limits) {
    return (size_t)cuda_attn_places(limits).plan_bytes;
}

size_t cuda_attn_partial_bytes(const CudaAttnLimits *limits) {
    return (size_t)cuda_attn_places(limits).partial_bytes;
}

cudaError_t cuda_attn_clear(cudaStream_t stream, const CudaAttnLimits *limits, void *partial) {
    AttnPlaces places = cuda_attn_places(limits);
    return cudaMemsetAsync((char *)partial + places.count, 0, (size_t)places.count_bytes, stream);
}

cudaError_t cuda_attn_plan(cudaStream_t stream, const CudaAttnArgs *args) {
    if (args->n_seqs <= 0) return cudaSuccess;
    const CudaAttnLimits *limits = &args->limits;
    AttnPlaces places = cuda_attn_places(limits);
    char *plan = (char *)args->plan;
    int32_t n_sms = 0;
    cudaError_t e = cuda_attn_n_sms(&n_sms);
    if (e != cudaSuccess) return e;
    PlanParams p = {};
    p.query_start = args->query_start, p.kv_len = args->kv_len;
    p.plan = (AttnPlan *)plan;
    p.split = (AttnSplit *)(plan + places.split);
    p.whole = (AttnWhole *)(plan + places.whole);
    p.is_split = (uint8_t *)(plan + places.is_split);
    p.n_seqs = args->n_seqs;
    p.n_kv_heads = limits->n_kv_heads;
    p.group = limits->n_heads / limits->n_kv_heads;
    p.window = args->window, p.causal = args->causal;
    p.whole_rows = attn_warpgroups(limits->head_dim) * CUDA_ATTN_ROWS;
    p.key_tile = attn_dims(limits->head_dim) <= 128 ? 128 : 64;
    bool small = (int64_t)args->n_tokens * limits->n_heads < (int64_t)n_sms * p.whole_rows;
    p.split_rows_max = small ? INT32_MAX : CUDA_ATTN_ROWS;
    p.n_partial_rows = places.n_partial_rows;
    p.whole_max = places.whole_max;
    return attn_launch_kernel(stream, plan_kernel, 1, PLAN_THREADS, 0, args->dependent, p);
}
