/* cuda_attn_testing: a batch for the attention on the GPU, made from numbers that depend on a sequence's seed
 * and the position alone, so that the same row can be had in other batches.
 *
 * Slots of the cache that no sequence uses hold NaN. */
#pragma once

#include <cuda_bf16.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/cuda_attn.cuh"
#include "ops/cuda/cuda_rope.cuh"

#define CU(call)                                                                          \
    do {                                                                                  \
        cudaError_t e_ = (call);                                                          \
        if (e_ != cudaSuccess) {                                                          \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
            fflush(stdout);                                                               \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

enum { ATTN_CASE_SEQS = 4096, ATTN_CASE_BLOCKS = 1 << 20 };

typedef struct AttnModel {
    int32_t n_heads, n_kv_heads, head_dim, block_tokens;
    int32_t window;
    float softcap, scale, q_gain;
    bool causal, sinks, q_f32, out_f32;
} AttnModel;

typedef struct AttnSeq {
    uint32_t seed;
    int32_t n_queries, kv_len;
    int32_t table_of; /* shares the table of this earlier sequence, or -1 */
} AttnSeq;

typedef struct AttnBatch {
    AttnModel model;
    CudaAttnArgs args;
    int32_t n_seqs, n_tokens;
    int32_t *query_start, *kv_len, *table_start, *block_id; /* host */
    uint32_t *seed_d;
    uint32_t seed[ATTN_CASE_SEQS];
    size_t kv_elements;
} AttnBatch;

static __host__ __device__ __forceinline__ float attn_case_number(uint32_t seed, uint32_t what,
                                                                  uint32_t pos, uint32_t i) {
    uint64_t x = ((uint64_t)seed << 32 | pos) * 0x9e3779b97f4a7c15u + ((uint64_t)what << 40 | i);
    x ^= x >> 32, x *= 0xd6e8feb86659fd93u, x ^= x >> 32, x *= 0xd6e8feb86659fd93u, x ^= x >> 32;
    float a = (float)(uint32_t)(x & 0xffffff) / 8388608.0f - 1.0f;
    float b = (float)(uint32_t)(x >> 40 & 0xffffff) / 8388608.0f - 1.0f;
    return (a + b) * 1.2f;
}

static __global__ void attn_case_fill_kv(CudaAttnArgs args, int32_t seq, uint32_t seed,
                                         int32_t kv_len) {
    int32_t hd = args.limits.head_dim, heads = args.limits.n_kv_heads, bt = args.block_tokens;
    const int32_t *table = args.block_id + args.table_start[seq];
    for (int64_t x = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
         x < (int64_t)kv_len * heads * hd; x += (int64_t)gridDim.x * blockDim.x) {
        int32_t i = x % hd, h = x / hd % heads, pos = x / hd / heads;
        if (table[pos / bt] < 0) continue;
        int64_t at = (((int64_t)table[pos / bt] * heads + h) * bt + pos % bt) * hd + i;
        ((__nv_bfloat16 *)args.k)[at] =
            __float2bfloat16(attn_case_number(seed, 1, pos, h * hd + i));
        ((__nv_bfloat16 *)args.v)[at] =
            __float2bfloat16(attn_case_number(seed, 2, pos, h * hd + i));
    }
}

static __global__ void attn_case_fill_q(CudaAttnArgs args, const uint32_t *seed, float gain) {
    int32_t s = blockIdx.x, n = args.query_start[s + 1] - args.query_start[s];
    int32_t row = args.limits.n_heads * args.limits.head_dim;
    for (int64_t x = blockIdx.y * (int64_t)blockDim.x + threadIdx.x; x < (int64_t)n * row;
         x += (int64_t)gridDim.y * blockDim.x) {
        int32_t t = x / row, i = x % row, pos = args.kv_len[s] - n + t;
        int64_t at = (args.query_start[s] + t) * args.q_stride + i;
        __nv_bfloat16 v = __float2bfloat16(gain * attn_case_number(seed[s], 3, pos, i));
        if (args.q_f32)
            ((float *)args.q)[at] = __bfloat162float(v);
        else
            ((__nv_bfloat16 *)args.q)[at] = v;
    }
}

/* The same in f64, a CTA for each token and head: all logits, the largest, then the sums. */
static __global__ void attn_case_reference(CudaAttnArgs args, double *out) {
    extern __shared__ double score[];
    __shared__ double q[256], sum, largest;
    int32_t token = blockIdx.x, head = blockIdx.y, s = 0;
    int32_t hd = args.limits.head_dim, heads = args.limits.n_kv_heads, bt = args.block_tokens;
    while (args.query_start[s + 1] <= token) s++;
    int32_t pos = args.kv_len[s] - args.query_start[s + 1] + token;
    int32_t hi = args.causal ? pos + 1 : args.kv_len[s];
    int32_t lo = args.window > 0 && pos >= args.window ? pos - args.window + 1 : 0;
    const int32_t *table = args.block_id + args.table_start[s];
    int32_t kv_head = head / (args.limits.n_heads / heads);
    for (int i = threadIdx.x; i < hd; i += blockDim.x) {
        int64_t at = token * args.q_stride + (int64_t)head * hd + i;
        q[i] = args.q_f32 ? (double)((const float *)args.q)[at]
                          : (double)__bfloat162float(((const __nv_bfloat16 *)args.q)[at]);
    }
    __syncthreads();
    for (int32_t j = lo + threadIdx.x; j < hi; j += blockDim.x) {
        int64_t at = (((int64_t)table[j / bt] * heads + kv_head) * bt + j % bt) * hd;
        double x = 0;
        for (int i = 0; i < hd; i++)
            x += q[i] * (double)__bfloat162float(((const __nv_bfloat16 *)args.k)[at + i]);
        x *= args.scale;
        if (args.softcap > 0) x = args.softcap * tanh(x / args.softcap);
        score[j - lo] = x;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        largest = args.sinks ? args.sinks[head] : -INFINITY;
        for (int32_t j = lo; j < hi; j++) largest = fmax(largest, score[j - lo]);
        sum = args.sinks ? exp(args.sinks[head] - largest) : 0;
    }
    __syncthreads();
    for (int32_t j = lo + threadIdx.x; j < hi; j += blockDim.x)
        score[j - lo] = exp(score[j - lo] - largest);
    __syncthreads();
    if (threadIdx.x == 0)
        for (int32_t j = lo; j < hi; j++) sum += score[j - lo];
    __syncthreads();
    for (int i = threadIdx.x; i < hd; i += blockDim.x) {
        double x = 0;
        for (int32_t j = lo; j < hi; j++) {
            int64_t at = (((int64_t)table[j / bt] * heads + kv_head) * bt + j % bt) * hd + i;
            x += score[j - lo] * (double)__bfloat162float(((const __nv_bfloat16 *)args.v)[at]);
        }
        out[((int64_t)token * args.limits.n_heads + head) * hd + i] = x / sum;
    }
}

static void *attn_case_alloc(size_t bytes, int fill) {
    void *p = NULL;
    CU(cudaMalloc(&p, bytes + 16));
    CU(cudaMemset(p, fill, bytes + 16));
    return p;
}

static void *attn_case_upload(const void *from, size_t bytes) {
    void *p = attn_case_alloc(bytes, 0);
    CU(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
}

static uint32_t attn_case_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Blocks in random order, a few unused ones between; blocks that the window of the first query has
 * left are -1. */
static int32_t attn_case_tables(AttnBatch *b, const AttnSeq *seqs, int32_t n, uint32_t *rng) {
    int32_t bt = b->model.block_tokens, n_entries = 0;
    for (int32_t s = 0; s < n; s++)
        if (seqs[s].table_of < 0) n_entries += (seqs[s].kv_len + bt - 1) / bt;
    int32_t n_blocks = n_entries + 3;
    int32_t *order = (int32_t *)malloc(n_blocks * sizeof *order);
    for (int32_t i = 0; i < n_blocks; i++) order[i] = i;
    for (int32_t i = n_blocks - 1; i > 0; i--) {
        int32_t j = attn_case_random(rng) % (i + 1), t = order[i];
        order[i] = order[j], order[j] = t;
    }
    b->block_id = (int32_t *)malloc((n_entries + 1) * sizeof *b->block_id);
    int32_t at = 0;
    for (int32_t s = 0; s < n; s++) {
        b->table_start[s] = seqs[s].table_of < 0 ? at : b->table_start[seqs[s].table_of];
        if (seqs[s].table_of >= 0) continue;
        int32_t first = seqs[s].kv_len - seqs[s].n_queries - b->model.window + 1;
        for (int32_t i = 0; i < (seqs[s].kv_len + bt - 1) / bt; i++, at++)
            b->block_id[at] = b->model.window > 0 && (i + 1) * bt <= first ? -1 : order[at];
    }
    b->table_start[n] = at;
    free(order);
    return n_blocks;
}

static void attn_batch_init(AttnBatch *b, const AttnModel *model, const AttnSeq *seqs, int32_t n,
                            int32_t kv_len_max, uint32_t rng) {
    memset(b, 0, sizeof *b);
    b->model = *model, b->n_seqs = n;
    b->query_start = (int32_t *)calloc(n + 1, sizeof(int32_t));
    b->kv_len = (int32_t *)calloc(n + 1, sizeof(int32_t));
    b->table_start = (int32_t *)calloc(n + 1, sizeof(int32_t));
    CudaAttnArgs *a = &b->args;
    for (int32_t s = 0; s < n; s++) {
        b->seed[s] = seqs[s].seed, b->kv_len[s] = seqs[s].kv_len;
        b->query_start[s + 1] = b->query_start[s] + seqs[s].n_queries;
        if (seqs[s].n_queries > a->query_len_max) a->query_len_max = seqs[s].n_queries;
    }
    b->n_tokens = b->query_start[n];
    a->n_blocks = attn_case_tables(b, seqs, n, &rng);
    a->limits.n_tokens_max = b->n_tokens, a->limits.n_seqs_max = n;
    a->limits.query_len_max = a->query_len_max, a->limits.kv_len_max = kv_len_max;
    a->limits.n_heads = model->n_heads, a->limits.n_kv_heads = model->n_kv_heads;
    a->limits.head_dim = model->head_dim;
    a->block_tokens = model->block_tokens, a->n_tokens = b->n_tokens, a->n_seqs = n;
    a->scale = model->scale, a->softcap = model->softcap, a->window = model->window;
    a->causal = model->causal, a->q_f32 = model->q_f32, a->out_f32 = model->out_f32;
    a->q_stride = (int64_t)model->n_heads * model->head_dim + 16;
    a->out_stride = (int64_t)model->n_heads * model->head_dim + 8;
    b->kv_elements =
        (size_t)a->n_blocks * model->n_kv_heads * model->block_tokens * model->head_dim;
    a->k = attn_case_alloc(b->kv_elements * 2, 0xff); /* NaN */
    a->v = attn_case_alloc(b->kv_elements * 2, 0xff);
    a->q = attn_case_alloc((size_t)b->n_tokens * a->q_stride * 4, 0xff);
    a->out = attn_case_alloc((size_t)b->n_tokens * a->out_stride * 4, 0xff);
    a->query_start = (int32_t *)attn_case_upload(b->query_start, (n + 1) * 4);
    a->kv_len = (int32_t *)attn_case_upload(b->kv_len, n * 4);
    a->table_start = (int32_t *)attn_case_upload(b->table_start, (n + 1) * 4);
    a->block_id = (int32_t *)attn_case_upload(b->block_id, b->table_start[n] * 4);
    b->seed_d = (uint32_t *)attn_case_upload(b->seed, n * 4);
    if (model->sinks) {
        float sinks[256];
        for (int h = 0; h < model->n_heads; h++) sinks[h] = attn_case_number(9, 9, h, 0) * 3;
        a->sinks = (float *)attn_case_upload(sinks, sizeof sinks);
    }
    for (int32_t s = 0; s < n; s++) {
        if (seqs[s].table_of < 0)
            attn_case_fill_kv<<<256, 256>>>(*a, s, seqs[s].seed, seqs[s].kv_len);
    }
    attn_case_fill_q<<<dim3(n, n < 64 ? 64 : 1), 256>>>(*a, b->seed_d, model->q_gain);
    a->plan = attn_case_alloc(cuda_attn_plan_bytes(&a->limits), 0xff);
    a->partial = attn_case_alloc(cuda_attn_partial_bytes(&a->limits), 0xff);
    CU(cuda_attn_clear(0, &a->limits, a->partial));
    CU(cudaDeviceSynchronize());
}

static __global__ void attn_case_fill_new(CudaAttnArgs args, const uint32_t *seed) {
    const int32_t t = blockIdx.x, row = args.limits.n_kv_heads * args.limits.head_dim;
    for (int32_t i = threadIdx.x; i < row; i += blockDim.x) {
        const int64_t at = (int64_t)t * args.rope.kv_stride + i;
        ((__nv_bfloat16 *)args.rope.k)[at] =
            __float2bfloat16(attn_case_number(seed[t], 4, args.kv_len[t], i));
        ((__nv_bfloat16 *)args.rope.v)[at] =
            __float2bfloat16(attn_case_number(seed[t], 5, args.kv_len[t], i));
    }
}

/* Sequences of one token each: the attention rotates the token and writes its key and value, which
 * the cache has not. Returns whether it can. */
static bool attn_batch_rope(AttnBatch *b) {
    CudaAttnArgs *a = &b->args;
    const int32_t dim = a->limits.head_dim, row = a->limits.n_kv_heads * dim, bt = a->block_tokens;
    int32_t longest = 0;
    int32_t *slot = (int32_t *)malloc(b->n_seqs * sizeof *slot);
    for (int32_t s = 0; s < b->n_seqs; s++) {
        const int32_t last = b->kv_len[s] - 1;
        slot[s] = b->block_id[b->table_start[s] + last / bt] * bt + last % bt;
        if (last > longest) longest = last;
    }
    const int64_t n_angles = (int64_t)(longest + 1) * dim;
    float *angles = (float *)malloc(n_angles * sizeof *angles);
    for (int64_t i = 0; i < n_angles; i++)
        angles[i] = attn_case_number(6, 6, (uint32_t)(i / dim), (uint32_t)(i % dim));
    a->rope.k = attn_case_alloc((size_t)b->n_seqs * row * 2, 0xff);
    a->rope.v = attn_case_alloc((size_t)b->n_seqs * row * 2, 0xff);
    a->rope.kv_stride = row;
    a->rope.style = ROPE_NEOX, a->rope.rope_dim = dim;
    a->rope.cos_sin = (float *)attn_case_upload(angles, n_angles * sizeof *angles);
    a->rope.kv_slot = (int32_t *)attn_case_upload(slot, b->n_seqs * sizeof *slot);
    free(angles), free(slot);
    attn_case_fill_new<<<b->n_seqs, 256>>>(*a, b->seed_d);
    CU(cudaDeviceSynchronize());
    return cuda_attn_can_rope(a);
}

static void attn_batch_free(AttnBatch *b) {
    CudaAttnArgs *a = &b->args;
    void *all[] = {(void *)a->k,
                   (void *)a->v,
                   (void *)a->q,
                   a->out,
                   (void *)a->query_start,
                   (void *)a->kv_len,
                   (void *)a->table_start,
                   (void *)a->block_id,
                   b->seed_d,
                   (void *)a->sinks,
                   (void *)a->rope.k,
                   (void *)a->rope.v,
                   (void *)a->rope.cos_sin,
                   (void *)a->rope.kv_slot,
                   a->plan,
                   a->partial};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) CU(cudaFree(all[i]));
    free(b->query_start), free(b->kv_len), free(b->table_start), free(b->block_id);
}

static void attn_batch_run(AttnBatch *b) {
    CU(cuda_attn_plan(0, &b->args));
    CU(cuda_attn(0, &b->args));
    CU(cudaDeviceSynchronize());
}

/* The output of a token and head on the host, as floats. */
static void attn_batch_read(const AttnBatch *b, float *out) {
    const CudaAttnArgs *a = &b->args;
    int32_t row = b->model.n_heads * b->model.head_dim;
    size_t bytes = (size_t)b->n_tokens * a->out_stride * 4;
    char *raw = (char *)malloc(bytes);
    CU(cudaMemcpy(raw, a->out, bytes, cudaMemcpyDeviceToHost));
    for (int64_t t = 0; t < b->n_tokens; t++) {
        for (int32_t i = 0; i < row; i++) {
            int64_t at = t * a->out_stride + i;
            if (a->out_f32) {
                memcpy(&out[t * row + i], raw + at * 4, 4);
            } else {
                uint32_t bits = (uint32_t)((uint16_t *)raw)[at] << 16;
                memcpy(&out[t * row + i], &bits, 4);
            }
        }
    }
    free(raw);
}

/* The largest over rows of |out - reference| / |reference|; NaN counts as infinite. */
static double attn_batch_error(AttnBatch *b) {
    int32_t hd = b->model.head_dim, rows = b->n_tokens * b->model.n_heads, longest = 0;
    for (int32_t s = 0; s < b->n_seqs; s++)
        if (b->kv_len[s] > longest) longest = b->kv_len[s];
    double *ref_d = (double *)attn_case_alloc((size_t)rows * hd * 8, 0);
    CU(cudaFuncSetAttribute(attn_case_reference, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            200 * 1024));
    attn_case_reference<<<dim3(b->n_tokens, b->model.n_heads), 128, (longest + 2) * 8>>>(b->args,
                                                                                         ref_d);
    CU(cudaGetLastError());
    float *out = (float *)malloc((size_t)rows * hd * sizeof *out);
    double *ref = (double *)malloc((size_t)rows * hd * sizeof *ref);
    CU(cudaMemcpy(ref, ref_d, (size_t)rows * hd * 8, cudaMemcpyDeviceToHost));
    attn_batch_read(b, out);
    double worst = 0;
    for (int32_t r = 0; r < rows; r++) {
        double norm = 0, diff = 0;
        for (int32_t i = 0; i < hd; i++) {
            double x = ref[(int64_t)r * hd + i], d = out[(int64_t)r * hd + i] - x;
            norm += x * x, diff += d * d;
        }
        double error = sqrt(diff / norm);
        if (!(error <= worst)) worst = error == error ? error : INFINITY;
    }
    free(out), free(ref);
    CU(cudaFree(ref_d));
    return worst;
}
