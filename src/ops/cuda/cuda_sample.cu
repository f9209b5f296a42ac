/* cuda_sample: from logits to tokens by the rules of sample/sampler.h, a block per pick.
 *
 * Weights are exp((logit - max) / temperature) in f64, as on the CPU. A draw differs from the CPU's
 * only where u falls within the rounding of f64 beside the border of two tokens. */
#include "ops/cuda/cuda_sample.cuh"

enum { CUDA_SAMPLE_THREADS = 1024, CUDA_SAMPLE_BUCKETS = 2048 };

/* ---- bias and penalties ------------------------------------------------------------------- */

static __device__ __forceinline__ float cuda_sample_clamp(double x) {
    const double most = 3.40282346638528859812e38;
    return (float)fmin(fmax(x, -most), most);
}

static __global__ void cuda_sample_change_kernel(float *logits, int64_t stride,
                                                 const SampleSpec *specs,
                                                 SampleChange *changes) {
    cuda_wait();
    const SampleSpec *spec = &specs[blockIdx.x];
    if (spec->is_changed) return;
    for (int i = threadIdx.x; i < spec->n_changes; i += blockDim.x) {
        const SampleChange c = changes[spec->first_change + i];
        float *at = logits + spec->row * stride + c.token;
        float logit = *at;
        changes[spec->first_change + i].logit = logit;
        if (!(logit < CUDART_INF_F)) continue; /* stays, so that the pick fails */
        if (c.bias == -CUDART_INF_F) logit = -CUDART_INF_F;
        if (logit == -CUDART_INF_F) {
            *at = logit;
            continue;
        }
        if (c.bias != 0) logit = cuda_sample_clamp((double)logit + c.bias);
        if (c.seen) {
            double x = logit;
            if (spec->repetition != 1) x = x > 0 ? x / spec->repetition : x * spec->repetition;
            if (c.n_output > 0) {
                x -= (double)spec->frequency * c.n_output;
                x -= (double)spec->presence;
            }
            logit = cuda_sample_clamp(x);
        }
        *at = logit;
    }
}

/* ---- the largest logit -------------------------------------------------------------------- */

static __device__ __forceinline__ void cuda_sample_meet(CudaBest *best, float x, int token) {
    if (!(x < CUDART_INF_F)) {
        best->bad = 1;
    } else if (x > best->logit) {
        best->logit = x;
        best->token = token;
    }
}

/* The best of tokens from to `to`, four at a time, and several fours on their way at once. */
static __device__ __forceinline__ void cuda_sample_meet_fours(CudaBest *best, const float *row,
                                                              int from, int to) {
    enum { FOURS = 4 };
    for (int i = from + (int)threadIdx.x * 4; i < to; i += (int)blockDim.x * 4 * FOURS) {
        float4 x[FOURS];
#pragma unroll
        for (int j = 0; j < FOURS; j++) {
            const int at = i + j * (int)blockDim.x * 4;
            x[j] = make_float4(-CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F);
            if (at < to) x[j] = __ldcg((const float4 *)(row + at));
        }
#pragma unroll
        for (int j = 0; j < FOURS; j++) {
            const int at = i + j * (int)blockDim.x * 4;
            cuda_sample_meet(best, x[j].x, at), cuda_sample_meet(best, x[j].y, at + 1);
            cuda_sample_meet(best, x[j].z, at + 2), cuda_sample_meet(best, x[j].w, at + 3);
        }
    }
}

/* Part blockIdx.x of the row of spec blockIdx.y. Tokens that its mask leaves out become -inf. */
static __global__ void __launch_bounds__(256)
    cuda_sample_best_kernel(float *logits, int64_t stride, int vocab, const SampleSpec *specs,
                            const uint64_t *masks, CudaBest *out) {
    cuda_wait();
    const SampleSpec *spec = &specs[blockIdx.y];
    float *row = logits + spec->row * stride;
    const int64_t n_words = (vocab + 63) / 64;
    const uint64_t *mask = spec->mask >= 0 ? masks + spec->mask * n_words : NULL;
    const int size = (vocab + 4 * CUDA_SAMPLE_SPLIT - 1) / (4 * CUDA_SAMPLE_SPLIT) * 4;
    const int from = min((int)blockIdx.x * size, vocab), to = min(from + size, vocab);
    CudaBest best = {-CUDART_INF_F, -1, 0};
    if (mask == NULL && vocab % 4 == 0 && (uintptr_t)row % 16 == 0) {
        cuda_sample_meet_fours(&best, row, from, to);
    } else {
        for (int i = from + threadIdx.x; i < to; i += blockDim.x) {
            const float x = row[i];
            if (mask != NULL && x < CUDART_INF_F && (mask[i / 64] >> (i % 64) & 1) == 0)
                row[i] = -CUDART_INF_F;
            else
                cuda_sample_meet(&best, x, i);
        }
    }
    best = cuda_sample_block_best(best);
    if (threadIdx.x == 0) out[blockIdx.y * CUDA_SAMPLE_SPLIT + blockIdx.x] = best;
}

/* ---- cuts and the draw -------------------------------------------------------------------- */

/* What a block knows of its pick. A token is in play when its key is above `cut`, or equal and its
 * number among the equal ones is below n_ties. */
struct CudaPick {
    const float *row;
    int vocab;
    float largest;
    double scale; /* 1 / temperature */
    uint32_t cut;
    int n_ties;
    double min_p;
};

struct CudaSampleShared {
    CudaMass histogram[CUDA_SAMPLE_BUCKETS];
    CudaMass warp[32];
    int warp_count[32];
    uint32_t prefix;
    CudaMass above;
    int answer;
};

static __device__ __forceinline__ double cuda_sample_weight(const CudaPick &p, float logit) {
    return exp(((double)logit - (double)p.largest) * p.scale);
}

/* filter_select of sample/filter.c: the largest key such that the entries at or above it reach the
 * target; entries below `floor_key` do not count. shared->above: what the larger keys weigh. */
static __device__ uint32_t cuda_sample_select(const CudaPick &p, CudaSampleShared *shared,
                                              uint32_t floor_key, bool weighted, double target) {
    const int shifts[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
    uint32_t prefix = 0, mask = 0;
    CudaMass heavier = {0, 0};
    for (int pass = 0; pass < 3; pass++) {
        const uint32_t n_buckets = 1u << bits[pass];
        __syncthreads();
        for (int i = threadIdx.x; i < (int)n_buckets; i += blockDim.x)
            shared->histogram[i] = CudaMass{0, 0};
        __syncthreads();
        for (int i = threadIdx.x; i < p.vocab; i += blockDim.x) {
            const float x = p.row[i];
            const uint32_t key = cuda_sample_key(x);
            if (x == -CUDART_INF_F || key < floor_key || (key & mask) != prefix) continue;
            CudaMass m = {1, 0};
            if (weighted) m = cuda_sample_mass(cuda_sample_weight(p, x));
            CudaMass *at = &shared->histogram[(key >> shifts[pass]) & (n_buckets - 1)];
            if (m.hi != 0) atomicAdd(&at->hi, m.hi);
            if (m.lo != 0) atomicAdd(&at->lo, m.lo);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int lowest = 0, bucket = (int)n_buckets - 1;
            while (lowest < bucket && shared->histogram[lowest].hi == 0 &&
                   shared->histogram[lowest].lo == 0)
                lowest++;
            for (; bucket > lowest; bucket--) {
                const CudaMass m = shared->histogram[bucket];
                const CudaMass with = cuda_sample_add(heavier, m);
                const double value = weighted ? cuda_sample_value(with) : (double)with.hi;
                if ((m.hi != 0 || m.lo != 0) && value >= target) break;
                heavier = with;
            }
            shared->prefix = prefix | (uint32_t)bucket << shifts[pass];
            shared->above = heavier;
        }
        __syncthreads();
        prefix = shared->prefix;
        heavier = shared->above;
        mask |= (n_buckets - 1) << shifts[pass];
    }
    return prefix;
}

/* The exclusive sum over the block's threads, and the total in *total. */
static __device__ CudaMass cuda_sample_scan(CudaSampleShared *shared, CudaMass x, CudaMass *total) {
    const int lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    CudaMass sum = x;
    for (int i = 1; i < CUDA_WARP; i <<= 1) {
        const CudaMass left = {__shfl_up_sync(~0u, sum.hi, i), __shfl_up_sync(~0u, sum.lo, i)};
        if (lane >= i) sum = cuda_sample_add(sum, left);
    }
    __syncthreads();
    if (lane == CUDA_WARP - 1) shared->warp[warp] = sum;
    __syncthreads();
    CudaMass before = {0, 0}, all = {0, 0};
    for (int w = 0; w < (int)blockDim.x / CUDA_WARP; w++) {
        if (w < warp) before = cuda_sample_add(before, shared->warp[w]);
        all = cuda_sample_add(all, shared->warp[w]);
    }
    *total = all;
    return CudaMass{before.hi + sum.hi - x.hi, before.lo + sum.lo - x.lo};
}

static __device__ __forceinline__ bool cuda_sample_in_play(const CudaPick &p, float x, int *ties) {
    if (x == -CUDART_INF_F) return false;
    const uint32_t key = cuda_sample_key(x);
    if (key < p.cut) return false;
    return key > p.cut || (*ties)++ < p.n_ties;
}

/* The mass of the thread's own run of tokens; `ties` of the equal ones stand before it. With a
 * target the first token at which `before` plus the mass passes it goes to shared->answer. */
static __device__ CudaMass cuda_sample_run(const CudaPick &p, int from, int to, int ties,
                                           CudaMass before, double target, int *answer) {
    CudaMass sum = {0, 0};
    for (int i = from; i < to; i++) {
        const float x = p.row[i];
        if (!cuda_sample_in_play(p, x, &ties)) continue;
        const double w = cuda_sample_weight(p, x);
        if (!(w > 0) || w < p.min_p) continue;
        sum = cuda_sample_add(sum, cuda_sample_mass(w));
        if (answer != NULL && cuda_sample_value(cuda_sample_add(before, sum)) > target) {
            *answer = i;
            break;
        }
    }
    return sum;
}

/* How many of the tokens at the cut stand before the thread's run. */
static __device__ int cuda_sample_ties_before(const CudaPick &p, CudaSampleShared *shared, int from,
                                              int to) {
    int n = 0;
    for (int i = from; i < to; i++) n += cuda_sample_key(p.row[i]) == p.cut;
    CudaMass total;
    return (int)cuda_sample_scan(shared, CudaMass{(unsigned long long)n, 0}, &total).hi;
}

static __device__ int cuda_sample_draw(const CudaPick &p, CudaSampleShared *shared, double u) {
    const int size = (p.vocab + blockDim.x - 1) / blockDim.x;
    const int from = min((int)threadIdx.x * size, p.vocab), to = min(from + size, p.vocab);
    const int ties = cuda_sample_ties_before(p, shared, from, to);
    const CudaMass none = {0, 0};
    CudaMass total;
    const CudaMass own = cuda_sample_run(p, from, to, ties, none, 0, NULL);
    const CudaMass before = cuda_sample_scan(shared, own, &total);
    const double target = u * cuda_sample_value(total);
    if (threadIdx.x == 0) shared->answer = p.vocab;
    __syncthreads();
    const bool mine = cuda_sample_value(before) <= target &&
                      cuda_sample_value(cuda_sample_add(before, own)) > target;
    int answer = p.vocab;
    if (mine) (void)cuda_sample_run(p, from, to, ties, before, target, &answer);
    if (mine) atomicMin(&shared->answer, answer);
    __syncthreads();
    return shared->answer;
}

static __global__ void __launch_bounds__(CUDA_SAMPLE_THREADS)
    cuda_sample_pick_kernel(const float *logits, int64_t stride, int vocab,
                            const SampleSpec *specs, const CudaBest *parts, SampleResult *out) {
    extern __shared__ __align__(16) char memory[];
    CudaSampleShared *shared = (CudaSampleShared *)memory;
    cuda_wait();
    const SampleSpec spec = specs[blockIdx.x];
    const int lane = threadIdx.x % CUDA_WARP;
    const CudaBest best =
        cuda_sample_warp_best(parts[blockIdx.x * CUDA_SAMPLE_SPLIT + lane]);
    const bool bad = best.bad || best.token < 0;
    if (bad || spec.temperature <= 0 || spec.target >= 0) {
        const int token = spec.target >= 0 ? spec.target : best.token;
        if (threadIdx.x == 0) out[blockIdx.x] = SampleResult{token, bad ? ERR_DEVICE : OK, 0};
        return;
    }
    CudaPick p = {logits + spec.row * stride, vocab, best.logit, 1 / (double)spec.temperature,
                  0, vocab, spec.min_p};
    if (spec.top_k > 0 && spec.top_k < vocab)
        p.cut = cuda_sample_select(p, shared, 0, false, spec.top_k);
    if (spec.top_p < 1) {
        /* The total of what top-k left, then the cut within it. */
        CudaMass own = {0, 0}, total;
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
            const float x = p.row[i];
            if (x != -CUDART_INF_F && cuda_sample_key(x) >= p.cut)
                own = cuda_sample_add(own, cuda_sample_mass(cuda_sample_weight(p, x)));
        }
        (void)cuda_sample_scan(shared, own, &total);
        const double target = (double)spec.top_p * cuda_sample_value(total);
        p.cut = cuda_sample_select(p, shared, p.cut, true, target);
        /* Of the equal ones as many as it takes, one at least. */
        const double above = cuda_sample_value(shared->above);
        const double each = cuda_sample_weight(
            p, __uint_as_float((p.cut & 0x80000000u) ? p.cut & 0x7fffffffu : ~p.cut));
        const double wanted = each > 0 ? ceil((target - above) / each) : vocab;
        p.n_ties = (int)fmin(fmax(wanted, 1.0), (double)vocab);
    }
    __syncthreads();
    const int token = cuda_sample_draw(p, shared, spec.u);
    if (threadIdx.x == 0) out[blockIdx.x] = SampleResult{token < vocab ? token : best.token, OK, 0};
}

static size_t cuda_sample_parts_bytes(int64_t n) {
    return ALIGN_UP((size_t)(n * CUDA_SAMPLE_SPLIT) * sizeof(CudaBest), (size_t)16);
}

size_t cuda_sample_scratch_bytes(const OpsLimits *limits) {
    const int64_t n = (int64_t)limits->n_seqs_max + limits->n_logits_max;
    return limits->vocab > 0 ? cuda_sample_parts_bytes(n) + cuda_logprob_bytes(n) : 0;
}

void cuda_sample(OpCtx *ctx, const SampleArgs *args) {
    const Tensor *logits = &args->logits;
    const unsigned n = (unsigned)args->n;
    const int vocab = (int)logits->shape[1];
    CHECK(logits->dtype == DTYPE_F32);
    CHECK(cuda_sample_parts_bytes(n) + cuda_logprob_bytes(n) <= ctx->scratch_bytes);
    float *data = (float *)logits->data;
    const int64_t stride = logits->stride[0];
    CudaBest *parts = (CudaBest *)ctx->scratch;
    char *logprob = (char *)ctx->scratch + cuda_sample_parts_bytes(n);
    if (args->logprobs) cuda_logprob_begin(ctx, args, logprob);
    if (args->change != NULL)
        cuda_launch(ctx, "sample change", cuda_sample_change_kernel, dim3(n), dim3(256), 0, data,
                    stride, args->spec, args->change);
    cuda_launch(ctx, "sample best", cuda_sample_best_kernel, dim3(CUDA_SAMPLE_SPLIT, n), dim3(256),
                0, data, stride, vocab, args->spec, args->mask, parts);
    cuda_launch(ctx, "sample pick", cuda_sample_pick_kernel, dim3(n), dim3(CUDA_SAMPLE_THREADS),
                sizeof(CudaSampleShared), (const float *)data, stride, vocab, args->spec,
                (const CudaBest *)parts, args->out);
    if (args->logprobs) cuda_logprob_end(ctx, args, logprob);
}
