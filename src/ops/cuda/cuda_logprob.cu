/* cuda_logprob: log-probabilities of picked or given tokens, and the likeliest tokens, by the
 * unchanged logits: what sample/sampler.c reports.
 *
 * log(sum(exp(logit - max))) is made of a sum of whole numbers (see cuda_sample.cuh), so a
 * log-probability is the CPU's but where f32 rounds a number within f64's rounding of a tie. */
#include "ops/cuda/cuda_sample.cuh"

enum { CUDA_LOGPROB_THREADS = 256 };

/* A part of a row: its likeliest tokens with their logits, at least one of them. */
struct CudaLogprobPart {
    CudaMass mass; /* relative to the row's largest logit */
    int32_t bad;
    SampleTop top[SAMPLE_TOP_MAX];
};

size_t cuda_logprob_bytes(int64_t n) {
    return (size_t)(n * CUDA_SAMPLE_SPLIT) * sizeof(CudaLogprobPart);
}

static __device__ __forceinline__ CudaLogprobPart *cuda_logprob_part(void *scratch, int spec,
                                                                     int part) {
    return (CudaLogprobPart *)scratch + spec * CUDA_SAMPLE_SPLIT + part;
}

/* Whether token i with logit x comes after `last` in the order of likeliness. */
static __device__ __forceinline__ bool cuda_logprob_after(float x, int i, const CudaBest &last) {
    return last.token < 0 || x < last.logit || (x == last.logit && i > last.token);
}

static __global__ void __launch_bounds__(CUDA_LOGPROB_THREADS)
    cuda_logprob_top_kernel(const float *logits, int64_t stride, int vocab,
                            const SampleSpec *specs, void *scratch) {
    __shared__ CudaBest last;
    cuda_wait();
    const SampleSpec spec = specs[blockIdx.y];
    if (spec.n_top < 0) return;
    const float *row = logits + spec.row * stride;
    CudaLogprobPart *part = cuda_logprob_part(scratch, blockIdx.y, blockIdx.x);
    const int size = (vocab + CUDA_SAMPLE_SPLIT - 1) / CUDA_SAMPLE_SPLIT;
    const int from = blockIdx.x * size, to = min(from + size, vocab);
    if (threadIdx.x == 0) last = CudaBest{0, -1, 0};
    __syncthreads();
    for (int k = 0; k < max(spec.n_top, 1); k++) {
        const CudaBest before = last;
        CudaBest best = {-CUDART_INF_F, -1, 0};
        for (int i = from + threadIdx.x; i < to; i += blockDim.x) {
            const float x = row[i];
            if (!(x < CUDART_INF_F)) best.bad = 1;
            if (!cuda_logprob_after(x, i, before)) continue;
            best = cuda_sample_better(best, CudaBest{x, i, best.bad});
        }
        best = cuda_sample_block_best(best); /* which all threads pass before `last` changes */
        if (threadIdx.x == 0) {
            part->top[k] = SampleTop{best.token, best.logit};
            part->bad = best.bad;
            if (best.token >= 0) last = best;
        }
        __syncthreads();
        if (last.token == before.token) { /* the part has no more */
            for (int j = k + 1 + threadIdx.x; j < spec.n_top; j += blockDim.x)
                part->top[j] = SampleTop{-1, 0};
            return;
        }
    }
}

/* The first warp's lanes see a part each. */
static __device__ __forceinline__ float cuda_logprob_max(void *scratch, int spec) {
    const CudaLogprobPart *part = cuda_logprob_part(scratch, spec, threadIdx.x % CUDA_WARP);
    return cuda_warp_max(part->top[0].token >= 0 ? part->top[0].logprob : -CUDART_INF_F);
}

static __global__ void __launch_bounds__(CUDA_LOGPROB_THREADS)
    cuda_logprob_mass_kernel(const float *logits, int64_t stride, int vocab,
                             const SampleSpec *specs, void *scratch) {
    __shared__ CudaMass warp[CUDA_LOGPROB_THREADS / CUDA_WARP];
    cuda_wait();
    const SampleSpec spec = specs[blockIdx.y];
    if (spec.n_top < 0) return;
    const float *row = logits + spec.row * stride;
    const double largest = cuda_logprob_max(scratch, blockIdx.y);
    const int size = (vocab + CUDA_SAMPLE_SPLIT - 1) / CUDA_SAMPLE_SPLIT;
    const int from = blockIdx.x * size, to = min(from + size, vocab);
    CudaMass sum = {0, 0};
    for (int i = from + threadIdx.x; i < to; i += blockDim.x) {
        if (row[i] > -CUDART_INF_F)
            sum = cuda_sample_add(sum, cuda_sample_mass(exp((double)row[i] - largest)));
    }
    for (int i = 16; i > 0; i >>= 1)
        sum = cuda_sample_add(sum, CudaMass{__shfl_xor_sync(~0u, sum.hi, i),
                                            __shfl_xor_sync(~0u, sum.lo, i)});
    if (threadIdx.x % CUDA_WARP == 0) warp[threadIdx.x / CUDA_WARP] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int i = 1; i < CUDA_LOGPROB_THREADS / CUDA_WARP; i++) sum = cuda_sample_add(sum, warp[i]);
    cuda_logprob_part(scratch, blockIdx.y, blockIdx.x)->mass = sum;
}

/* The token's logit as it was before the spec's changes. */
static __device__ __forceinline__ float cuda_logprob_unchanged(const SampleSpec &spec,
                                                               const SampleChange *changes,
                                                               const float *row, int token) {
    float logit = row[token];
    int found = 0;
    for (int i = threadIdx.x; i < spec.n_changes && !found; i += CUDA_WARP) {
        found = changes[spec.first_change + i].token == token;
        if (found) logit = changes[spec.first_change + i].logit;
    }
    const unsigned who = __ballot_sync(~0u, found);
    return __shfl_sync(~0u, logit, who == 0 ? 0 : __ffs(who) - 1);
}

/* A warp for each spec, a lane for each part. */
static __global__ void __launch_bounds__(CUDA_WARP)
    cuda_logprob_end_kernel(const float *logits, int64_t stride, const SampleSpec *specs,
                            const SampleChange *changes, void *scratch, SampleResult *out,
                            SampleTop *tops) {
    cuda_wait();
    const SampleSpec spec = specs[blockIdx.x];
    if (spec.n_top < 0 || out[blockIdx.x].status != OK) return;
    const CudaLogprobPart *part = cuda_logprob_part(scratch, blockIdx.x, threadIdx.x);
    if (__any_sync(~0u, part->bad)) {
        if (threadIdx.x == 0) out[blockIdx.x].status = ERR_DEVICE;
        return;
    }
    const double largest = cuda_logprob_max(scratch, blockIdx.x);
    CudaMass sum = part->mass;
    for (int i = 16; i > 0; i >>= 1)
        sum = cuda_sample_add(sum, CudaMass{__shfl_xor_sync(~0u, sum.hi, i),
                                            __shfl_xor_sync(~0u, sum.lo, i)});
    const double log_sum = largest + log(cuda_sample_value(sum));
    const float logit = cuda_logprob_unchanged(spec, changes, logits + spec.row * stride,
                                               out[blockIdx.x].token);
    if (threadIdx.x == 0) out[blockIdx.x].logprob = (float)((double)logit - log_sum);
    for (int k = 0, at = 0; k < spec.n_top; k++) {
        const bool some = at < spec.n_top && part->top[at].token >= 0;
        const CudaBest own = {some ? part->top[at].logprob : -CUDART_INF_F,
                              some ? part->top[at].token : -1, 0};
        const CudaBest best = cuda_sample_warp_best(own);
        if (best.token < 0) return;
        at += best.token == own.token;
        if (threadIdx.x == 0)
            tops[spec.first_top + k] =
                SampleTop{best.token, (float)((double)best.logit - log_sum)};
    }
}

void cuda_logprob_begin(OpCtx *ctx, const SampleArgs *args, void *scratch) {
    const Tensor *t = &args->logits;
    const dim3 grid(CUDA_SAMPLE_SPLIT, (unsigned)args->n), block(CUDA_LOGPROB_THREADS);
    const float *logits = (const float *)t->data;
    cuda_launch(ctx, "logprob top", cuda_logprob_top_kernel, grid, block, 0, logits, t->stride[0],
                (int)t->shape[1], args->spec, scratch);
    cuda_launch(ctx, "logprob mass", cuda_logprob_mass_kernel, grid, block, 0, logits, t->stride[0],
                (int)t->shape[1], args->spec, scratch);
}

void cuda_logprob_end(OpCtx *ctx, const SampleArgs *args, void *scratch) {
    const Tensor *t = &args->logits;
    cuda_launch(ctx, "logprob end", cuda_logprob_end_kernel, dim3((unsigned)args->n),
                dim3(CUDA_WARP), 0, (const float *)t->data, t->stride[0], args->spec,
                (const SampleChange *)args->change, scratch, args->out, args->top);
}
