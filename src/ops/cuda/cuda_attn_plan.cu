/* cuda_attn_plan: which rows and segments the CTAs of an attention take, made on the device.
 *
 * A sequence whose rows fill at most one warpgroup (and every sequence of a step that would leave
 * multiprocessors idle) is split: some segments each an entry of its own, as long as the partial
 * rows last; or, of few rows beside enough other work, one entry with all segments. The others are
 * walked whole, longest first. The choice changes no bit of the result. */
#include "ops/cuda/cuda_attn_priv.cuh"
#include "ops/cuda/cuda_mask.cuh"
#include "ops/cuda/cuda_tma.cuh"

enum { PLAN_THREADS = 1024, PLAN_ALIGN = 256 };

typedef struct PlanParams {
    const int32_t *query_start, *kv_len, *table_start;
    AttnLists *plan;
    AttnItem *split, *whole;
    uint8_t *is_split; /* [n_seqs] */
    int32_t n_seqs, n_kv_heads, group;
    int32_t window;
    bool causal;
    int32_t split_rows_max; /* sequences with more rows stay whole */
    int32_t n_ctas;         /* that take entries of split sequences */
    int32_t whole_rows;     /* of an entry */
    int32_t key_tile;
    AttnCuts cuts;
    int32_t n_partial_rows, whole_max, split_max;
} PlanParams;

typedef struct PlanSeq {
    int32_t query, n_rows, pos, kv_len, table;
} PlanSeq;

static __device__ PlanSeq plan_seq(const PlanParams *p, int32_t s) {
    int32_t query = p->query_start[s], n_queries = p->query_start[s + 1] - query;
    PlanSeq seq = {query, n_queries * p->group, p->kv_len[s] - n_queries, p->kv_len[s],
                   p->table_start[s]};
    return seq;
}

/* The item of n rows of a sequence from `row` on, with all segments that they see. */
static __device__ AttnItem plan_item(const PlanParams *p, int32_t s, const PlanSeq *seq,
                                     int32_t row, int32_t n) {
    AttnItem item = {};
    item.seq = s;
    item.row = row, item.n_rows = min(n, seq->n_rows - row);
    item.query = seq->query, item.pos = seq->pos;
    item.kv_len = seq->kv_len, item.table = seq->table;
    int32_t first = seq->pos + row / p->group;
    int32_t last = seq->pos + (row + item.n_rows - 1) / p->group;
    item.lo = cuda_mask_range(first, seq->kv_len, p->window, p->causal).lo;
    item.hi = cuda_mask_range(last, seq->kv_len, p->window, p->causal).hi;
    item.tile_lo = item.lo / p->key_tile;
    item.tile_hi = max(attn_ceil_div(item.hi, p->key_tile), item.tile_lo + 1);
    item.n_segments =
        attn_segment_of(item.tile_hi - 1, p->cuts) - attn_segment_of(item.tile_lo, p->cuts) + 1;
    item.partial = -1, item.n_items = 1;
    return item;
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

/* The sequences of few rows together, and how those that are split are cut: at multiples of
 * item_tiles, or, where that is 0, into segments. */
typedef struct PlanWork {
    int64_t n_tiles;
    int32_t item_tiles;
} PlanWork;

/* Entries of tiles [lo, hi) that are cut at multiples of n. */
static __device__ int32_t plan_n_pieces(int32_t lo, int32_t hi, int32_t n) {
    return (hi - 1) / n - lo / n + 1;
}

/* The tiles that a sequence of few rows sees; none of any other. */
static __device__ AttnItem plan_few(const PlanParams *p, int32_t s) {
    AttnItem item = {};
    if (s >= p->n_seqs) return item;
    PlanSeq seq = plan_seq(p, s);
    if (seq.n_rows > 0 && seq.n_rows <= CUDA_ATTN_FEW_ROWS)
        item = plan_item(p, s, &seq, 0, CUDA_ATTN_ROWS);
    return item;
}

/* Adds up what the threads have. */
static __device__ void plan_add(int32_t *sum, int32_t v) {
    v = __reduce_add_sync(0xffffffff, v);
    if (threadIdx.x % 32 == 0) atomicAdd(sum, v);
}

/* An entry costs its tiles and about one more to begin and end with. Where the segments do not all
 * find a CTA at once, the pieces are chosen that make all rounds of CTAs cost least. */
static __device__ PlanWork plan_work(const PlanParams *p) {
    enum { N = 10 };
    const int32_t choices[N] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32};
    __shared__ int32_t n_tiles, n_segments, longest, n_pieces[N];
    if (threadIdx.x == 0) n_tiles = n_segments = longest = 0;
    if (threadIdx.x < N) n_pieces[threadIdx.x] = 0;
    __syncthreads();
    for (int32_t base = 0; base < p->n_seqs; base += PLAN_THREADS) {
        AttnItem item = plan_few(p, base + threadIdx.x);
        plan_add(&n_tiles, item.tile_hi - item.tile_lo);
        plan_add(&n_segments, item.n_segments);
        atomicMax(&longest, __reduce_max_sync(0xffffffff, item.tile_hi));
    }
    __syncthreads();
    /* behind the short segments the cuts are the long ones' */
    const int32_t unit =
        p->cuts.n_tiles * (longest > CUDA_ATTN_SHORT_SEGMENTS * p->cuts.n_tiles ? 2 : 1);
    const int32_t n_ctas = p->n_ctas, heads = p->n_kv_heads;
    PlanWork work = {n_tiles, 0};
    if (n_segments * (int64_t)heads <= n_ctas) return work;
    for (int32_t base = 0; base < p->n_seqs; base += PLAN_THREADS) {
        AttnItem item = plan_few(p, base + threadIdx.x);
#pragma unroll
        for (int i = 0; i < N; i++)
            plan_add(&n_pieces[i], item.n_segments == 0 ? 0
                                                        : plan_n_pieces(item.tile_lo, item.tile_hi,
                                                                        unit * choices[i]));
    }
    __syncthreads();
    int64_t rounds = (n_segments * (int64_t)heads + n_ctas - 1) / n_ctas;
    int64_t least = rounds * (n_tiles + n_segments) / n_segments;
#pragma unroll
    for (int i = 0; i < N; i++) {
        rounds = (n_pieces[i] * (int64_t)heads + n_ctas - 1) / n_ctas;
        int64_t cost = rounds * (min(unit * choices[i], longest) + 1);
        if (cost < least) least = cost, work.item_tiles = unit * choices[i];
    }
    return work;
}

/* Into how many entries an item is cut: of a sequence of few rows, whose length plan_work knows, else
 * its segments. It keeps all of them where a CTA gets about as much as it has, or twice that and
 * more. Between, many would wait for a few. */
static __device__ void plan_cut(const PlanParams *p, const PlanWork *work, AttnItem *item) {
    int64_t own = (int64_t)(item->tile_hi - item->tile_lo) * p->n_ctas;
    int64_t all = work->n_tiles * p->n_kv_heads;
    bool is_even = 9 * own <= 10 * all && (all <= own || 19 * own <= 10 * all);
    item->n_items = item->n_segments;
    if (item->row > 0 || item->n_rows > CUDA_ATTN_FEW_ROWS) return;
    if (is_even)
        item->n_items = 1;
    else if (work->item_tiles > 0)
        item->n_items = plan_n_pieces(item->tile_lo, item->tile_hi, work->item_tiles);
}

/* How many of an item's entries are first segments. */
static __device__ int32_t plan_n_first(const PlanParams *p, const AttnItem *item) {
    if (item->n_items < item->n_segments) return 0;
    int32_t first = attn_segment_of(item->tile_lo, p->cuts);
    return item->n_items == 1 ? 0 : min(max(CUDA_ATTN_FIRST_SEGMENTS - first, 0), item->n_segments);
}

/* What splitting a sequence takes: entries of long and of short segments, partial rows. */
typedef struct PlanNeed {
    int32_t n_long, n_short, rows;
} PlanNeed;

static __device__ PlanNeed plan_need(const PlanParams *p, const PlanSeq *seq,
                                     const PlanWork *work) {
    PlanNeed need = {0, 0, 0};
    for (int32_t row = 0; row < seq->n_rows; row += CUDA_ATTN_ROWS) {
        AttnItem item = plan_item(p, 0, seq, row, CUDA_ATTN_ROWS);
        plan_cut(p, work, &item);
        int32_t n_short = plan_n_first(p, &item);
        need.n_long += item.n_items - n_short, need.n_short += n_short;
        if (item.n_items > 1) need.rows += item.n_segments * item.n_rows * p->n_kv_heads;
    }
    return need;
}

/* A warp lists the entries of a sequence: the long ones from entry `at_long` on, the short ones from
 * the list's end, in front of at_short others. */
static __device__ void plan_write_split(const PlanParams *p, int32_t s, const PlanWork *work,
                                        int32_t at_long, int32_t at_short, int32_t partial) {
    PlanSeq seq = plan_seq(p, s);
    for (int32_t row = 0; row < seq.n_rows; row += CUDA_ATTN_ROWS) {
        AttnItem all = plan_item(p, s, &seq, row, CUDA_ATTN_ROWS), item = all;
        int32_t first = attn_segment_of(all.tile_lo, p->cuts);
        plan_cut(p, work, &item);
        if (item.n_items == 1) {
            if (threadIdx.x % 32 == 0) p->split[at_long] = item;
            at_long++;
            continue;
        }
        const int32_t n_short = plan_n_first(p, &item), n_long = item.n_items - n_short;
        const int32_t n_tiles = item.n_items < item.n_segments ? work->item_tiles : 0;
        item.partial = partial;
        for (int32_t i = threadIdx.x % 32; i < item.n_items; i += 32) {
            int32_t piece = item.n_items - 1 - i, lo, hi;
            if (n_tiles > 0) {
                lo = (all.tile_lo / n_tiles + piece) * n_tiles, hi = lo + n_tiles;
            } else {
                lo = attn_segment_start(first + piece, p->cuts);
                hi = attn_segment_start(first + piece + 1, p->cuts);
            }
            item.tile_lo = max(all.tile_lo, lo), item.tile_hi = min(all.tile_hi, hi);
            item.segment = attn_segment_of(item.tile_lo, p->cuts) - first;
            p->split[i < n_long ? at_long + i : p->split_max - 1 - (at_short + i - n_long)] = item;
        }
        at_long += n_long, at_short += n_short;
        partial += all.n_segments * all.n_rows * p->n_kv_heads;
    }
}

/* Chooses and lists the sequences that are split; returns the numbers of their entries. */
static __device__ PlanNeed plan_splits(const PlanParams *p) {
    __shared__ int32_t first_long[PLAN_THREADS], first_short[PLAN_THREADS], first_row[PLAN_THREADS];
    int32_t n_long = 0, n_short = 0, n_rows = 0;
    const PlanWork work = plan_work(p);
    for (int32_t base = 0; base < p->n_seqs; base += PLAN_THREADS) {
        int32_t s = base + threadIdx.x, sum;
        PlanSeq seq = {};
        PlanNeed need = {0, 0, 0};
        if (s < p->n_seqs) seq = plan_seq(p, s);
        bool wanted = seq.n_rows > 0 && seq.n_rows <= p->split_rows_max;
        if (wanted) need = plan_need(p, &seq, &work);
        wanted = wanted && need.rows <= p->n_partial_rows; /* keeps the sums small */
        if (!wanted) need = PlanNeed{0, 0, 0};
        int32_t row = n_rows + plan_scan(need.rows, &sum);
        n_rows = min(n_rows + sum, INT32_MAX / 2);
        bool is_split = wanted && row + need.rows <= p->n_partial_rows;
        int32_t at_long = n_long + plan_scan(is_split ? need.n_long : 0, &sum);
        n_long += sum;
        int32_t at_short = n_short + plan_scan(is_split ? need.n_short : 0, &sum);
        n_short += sum;
        if (s < p->n_seqs) p->is_split[s] = is_split;
        first_long[threadIdx.x] = is_split ? at_long : -1;
        first_short[threadIdx.x] = at_short;
        first_row[threadIdx.x] = row;
        __syncthreads();
        for (int32_t i = threadIdx.x / 32; i < min(PLAN_THREADS, p->n_seqs - base);
             i += PLAN_THREADS / 32) {
            if (first_long[i] >= 0)
                plan_write_split(p, base + i, &work, first_long[i], first_short[i], first_row[i]);
        }
        __syncthreads();
    }
    return PlanNeed{n_long, n_short, n_rows};
}

/* Lists the row tiles of the sequences that are walked whole, or (list = NULL) counts them by cost. */
static __device__ void plan_wholes(const PlanParams *p, int32_t *bucket, AttnItem *list) {
    for (int32_t s = threadIdx.x / 32; s < p->n_seqs; s += PLAN_THREADS / 32) {
        if (p->is_split[s]) continue;
        PlanSeq seq = plan_seq(p, s);
        for (int32_t t = threadIdx.x % 32; t * p->whole_rows < seq.n_rows; t += 32) {
            AttnItem item = plan_item(p, s, &seq, t * p->whole_rows, p->whole_rows);
            int32_t cost = min(item.tile_hi - item.tile_lo, PLAN_THREADS - 1);
            int32_t at = atomicAdd(&bucket[PLAN_THREADS - 1 - cost], 1);
            if (list != NULL && at < p->whole_max) list[at] = item;
        }
    }
}

static __global__ void __launch_bounds__(PLAN_THREADS) plan_kernel(const PlanParams p) {
    __shared__ int32_t bucket[PLAN_THREADS];
    cuda_launch_wait();
    const PlanNeed split = plan_splits(&p);
    int32_t n_whole;
    bucket[threadIdx.x] = 0;
    __syncthreads();
    plan_wholes(&p, bucket, NULL);
    __syncthreads();
    int32_t before = plan_scan(bucket[threadIdx.x], &n_whole);
    bucket[threadIdx.x] = before;
    __syncthreads();
    plan_wholes(&p, bucket, p.whole);
    if (threadIdx.x == 0)
        *p.plan = AttnLists{n_whole, split.n_long + split.n_short, split.n_long, p.split_max - 1};
    /* Attention may read the plan before the kernels in front of it have ended, and those may start
     * as soon as one thread allows it: all threads' part must be written. */
    __threadfence();
    __syncthreads();
    cuda_launch_next();
}

/* ---- host ---- */

static int64_t plan_align(int64_t bytes) {
    return (bytes + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
}

static int32_t plan_row_tiles(const CudaAttnLimits *limits, int32_t n_tokens, int32_t n_seqs) {
    int64_t rows = (int64_t)n_tokens * (limits->n_heads / limits->n_kv_heads);
    return (int32_t)(rows / CUDA_ATTN_ROWS) + (n_seqs < n_tokens ? n_seqs : n_tokens);
}

static int32_t plan_segments_max(const CudaAttnLimits *limits) {
    int32_t tile = attn_tile(limits->head_dim);
    return attn_segment_of((limits->kv_len_max - 1) / tile, attn_cuts(limits->head_dim)) + 1;
}

AttnPlaces cuda_attn_places(const CudaAttnLimits *limits) {
    AttnPlaces places = {};
    int64_t n_segments = plan_segments_max(limits);
    int64_t rows = (int64_t)limits->n_tokens_max * limits->n_heads * n_segments;
    places.n_partial_rows =
        (int32_t)(rows < CUDA_ATTN_PARTIAL_ROWS ? rows : CUDA_ATTN_PARTIAL_ROWS);
    /* a split item with partial rows has at least one for each KV head */
    int32_t tiles = plan_row_tiles(limits, limits->n_tokens_max, limits->n_seqs_max);
    places.split_max = places.n_partial_rows / limits->n_kv_heads + tiles;
    places.whole_max = tiles;
    places.split = plan_align(sizeof(AttnLists));
    places.whole = plan_align(places.split + ((int64_t)places.split_max + 1) * sizeof(AttnItem));
    places.is_split = plan_align(places.whole + ((int64_t)places.whole_max + 1) * sizeof(AttnItem));
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
    int64_t n_segments = plan_segments_max(limits);
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
    p.table_start = args->table_start;
    p.plan = (AttnLists *)plan;
    p.split = (AttnItem *)(plan + places.split);
    p.whole = (AttnItem *)(plan + places.whole);
    p.is_split = (uint8_t *)(plan + places.is_split);
    p.n_seqs = args->n_seqs;
    p.n_kv_heads = limits->n_kv_heads;
    p.group = limits->n_heads / limits->n_kv_heads;
    p.window = args->window, p.causal = args->causal;
    p.whole_rows = attn_warpgroups(limits->head_dim) * CUDA_ATTN_ROWS;
    p.key_tile = attn_tile(limits->head_dim);
    p.cuts = attn_cuts(limits->head_dim);
    bool small = (int64_t)args->n_tokens * limits->n_heads < (int64_t)n_sms * p.whole_rows;
    p.split_rows_max = small ? INT32_MAX : CUDA_ATTN_ROWS;
    p.n_ctas = n_sms * attn_split_ctas(limits->head_dim);
    p.n_partial_rows = places.n_partial_rows;
    p.whole_max = places.whole_max, p.split_max = places.split_max;
    return attn_launch_kernel(stream, plan_kernel, 1, PLAN_THREADS, 0, args->dependent, p);
}
