/* test_cuda_linear: the matrix product on the GPU is right, and a row's bits do not depend on who
 * else is there.
 *
 * Method: small and odd shapes against sums in f64 on the host, every output kind, guard values
 * around the outputs; large shapes against sums in f64 on the device at random places; then the
 * rows of a batch of 4,096 against batches of other sizes that hold them at other places, bit
 * for bit, for every plan that a size may get. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_bf16.h>

#include "ops/cuda/cuda_linear.cuh"

static int32_t n_failed, n_checks;

#define OK_CUDA(call)                                                                         \
    do {                                                                                      \
        cudaError_t error_ = (call);                                                          \
        if (error_ != cudaSuccess) {                                                          \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)

/* A number of [-1, 1) from a seed and a place. */
static __host__ __device__ float random_at(uint64_t seed, uint64_t i) {
    uint64_t z = (seed << 40) + i + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (float)(int32_t)(z >> 40) / 8388608.0f - 1.0f;
}

static __global__ void fill_bf16(__nv_bfloat16 *p, int64_t n, uint64_t seed, float scale) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        p[i] = __float2bfloat16_rn(random_at(seed, (uint64_t)i) * scale);
    }
}

static __global__ void fill_f32(float *p, int64_t n, uint64_t seed) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        p[i] = random_at(seed, (uint64_t)i);
    }
}

static void *device_alloc(size_t bytes) {
    void *p;
    OK_CUDA(cudaMalloc(&p, bytes));
    return p;
}

/* The kernel of a plan. */
static const char *kernel_of(const CudaLinearPlan *plan) {
    if (plan->few) return "few";
    if (plan->twin) return "twin";
    if (plan->large) return plan->split ? "split" : "large";
    return plan->tile_rows < CUDA_LINEAR_BLOCK ? "slim" : "small";
}

static void check(bool ok, const char *what, const CudaLinearArgs *args, const CudaLinearPlan *plan,
                  double got, double bound) {
    n_checks++;
    if (ok) return;
    if (++n_failed <= 40) {
        printf(
            "FAILED %s: out %d, tokens %d, k %d, n %d, kernel %s tokens %d rows %d stages %d ctas "
            "%d: %g, bound %g\n",
            what, args->out, args->n_tokens, args->k, args->part[0].n, kernel_of(plan),
            plan->tile_tokens, plan->tile_rows, plan->n_stages, plan->n_ctas, got, bound);
    }
}

/* Where CTAs meet; the counters are zeros after every launch. */
static void *sums;
static uint32_t *n_arrived;

static void check_counters(const CudaLinearArgs *args, const CudaLinearPlan *plan) {
    uint32_t count[CUDA_LINEAR_COUNTERS], sum = 0;
    OK_CUDA(cudaMemcpy(count, n_arrived, sizeof count, cudaMemcpyDeviceToHost));
    for (int32_t i = 0; i < CUDA_LINEAR_COUNTERS; i++) sum += count[i];
    check(sum == 0, "counters are zeros", args, plan, sum, 0);
}

/* Tiles of a plan of the large kernel. */
static int32_t large_tiles(const CudaLinearArgs *args, const CudaLinearPlan *plan) {
    int32_t rows = 0;
    for (int32_t i = 0; i < args->n_parts; i++) {
        int32_t part = args->part[i].n;
        if (args->out == CUDA_LINEAR_GATED) part = (part + 7) / 8 * 16;
        rows += (part + 63) / 64 * 64;
    }
    int32_t token_tiles = (args->n_tokens + plan->tile_tokens - 1) / plan->tile_tokens;
    return (rows + 127) / 128 * token_tiles;
}

/* The kernel whose plans are tried; "": all. */
static const char *only_kernel = "";

/* Every plan worth trying for some arguments. */
static int32_t plans_of(const CudaLinearArgs *args, int32_t n_segments, CudaLinearPlan *plan) {
    int32_t n = 0;
    for (int32_t tokens = 8; tokens <= 128; tokens *= 2) {
        for (int32_t rows = 16; rows <= 128; rows *= 2) {
            if (rows < 64 && (n_segments == 1 || tokens > 64)) continue;
            for (int32_t stages = 2; stages <= 5; stages += 3) {
                if (stages *
                        (rows < 64      ? 512
                         : tokens <= 32 ? 256
                                        : 128) *
                        (rows + tokens) >
                    210000)
                    continue;
                CudaLinearPlan p = {false, tokens, rows, stages, 128, false};
                plan[n++] = p;
            }
        }
    }
    for (int32_t rows = 16; rows <= 32 && args->n_tokens <= CUDA_LINEAR_FEW_TOKENS; rows *= 2) {
        for (int32_t stages = 2; stages <= 5 && args->n_experts == 0; stages += 3) {
            CudaLinearPlan p = {false, CUDA_LINEAR_FEW_TOKENS, rows, stages, 128, false, true};
            plan[n++] = p;
        }
    }
    for (int32_t tokens = 128; tokens <= 256; tokens += 64) {
        CudaLinearPlan p = {true, tokens, 128, 4, 132, false};
        plan[n++] = p;
        p.halves = tokens == 256 && args->n_experts == 0 && large_tiles(args, &p) > 132;
        if (p.halves) plan[n++] = p;
        p.halves = false;
        p.twin = tokens == 256 && n_segments == 4 && args->n_experts == 0 &&
                 2 * large_tiles(args, &p) <= CUDA_LINEAR_CTAS_MAX;
        if (p.twin) plan[n++] = p;
        p.twin = false;
        p.tile_rows = 256;
        if (n_segments == 1 && tokens == 128 && args->n_experts == 0) plan[n++] = p;
        p.tile_rows = 128;
        p.split = true;
        if (n_segments > 1 && large_tiles(args, &p) * n_segments <= CUDA_LINEAR_CTAS_MAX)
            plan[n++] = p;
    }
    int32_t n_kept = 0;
    for (int32_t i = 0; i < n; i++) {
        if (strstr(kernel_of(&plan[i]), only_kernel) != NULL) plan[n_kept++] = plan[i];
    }
    return n_kept;
}

static double act_value(int32_t act, double x) {
    switch (act) {
        case CUDA_LINEAR_SILU: return x / (1 + exp(-x));
        case CUDA_LINEAR_GELU: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
        case CUDA_LINEAR_GELU_TANH:
            return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        default: return x > 0 ? x : 0;
    }
}

/* One small shape, one or two parts of n outputs each, all plans, against f64. */
static void test_small(int32_t n, int32_t k, int32_t n_tokens, CudaLinearOut out, int32_t act,
                       bool with_bias, int32_t n_parts) {
    const bool gated = out == CUDA_LINEAR_GATED;
    const int32_t rows = gated ? 2 * n : n, x_stride = k + 16, guard = 64;
    /* Rows that begin at 16 bytes and rows that do not. */
    const int32_t out_stride = with_bias ? n + 5 : (n + 15) / 8 * 8;
    const int64_t x_len = (int64_t)n_tokens * x_stride, w_len = (int64_t)rows * k * n_parts;
    const int64_t out_len = ((int64_t)n_tokens * out_stride + guard + 7) / 8 * 8;
    const size_t size = out == CUDA_LINEAR_F32 || out == CUDA_LINEAR_F32_ADD ? 4 : 2;
    __nv_bfloat16 *x = (__nv_bfloat16 *)device_alloc(x_len * 2),
                  *w = (__nv_bfloat16 *)device_alloc(w_len * 2);
    fill_bf16<<<64, 256>>>(x, x_len, 1, 1.0f);
    fill_bf16<<<64, 256>>>(w, w_len, 2, 1.0f);
    int64_t packed_rows = gated ? (n + 7) / 8 * 16 : n;
    size_t part_bytes = cuda_linear_packed_bytes(packed_rows, k);
    char *packed = (char *)device_alloc(part_bytes * n_parts);
    OK_CUDA(cudaMemset(packed, 0, part_bytes * n_parts));
    float *bias = (float *)device_alloc((size_t)(packed_rows * n_parts) * 4);
    fill_f32<<<64, 256>>>(bias, packed_rows * n_parts, 3);
    for (int32_t i = 0; i < n_parts; i++) {
        __nv_bfloat16 *from = w + (int64_t)i * rows * k;
        char *to = packed + i * part_bytes;
        if (gated) {
            OK_CUDA(cuda_linear_pack(0, from, k, n, k, CUDA_LINEAR_ROWS_GATE, to));
            OK_CUDA(cuda_linear_pack(0, from + (int64_t)n * k, k, n, k, CUDA_LINEAR_ROWS_UP, to));
        } else {
            OK_CUDA(cuda_linear_pack(0, from, k, n, k, CUDA_LINEAR_ROWS_PLAIN, to));
        }
    }
    __nv_bfloat16 *hx = (__nv_bfloat16 *)malloc(x_len * 2),
                  *hw = (__nv_bfloat16 *)malloc(w_len * 2);
    float *hb = (float *)malloc(packed_rows * n_parts * 4);
    OK_CUDA(cudaMemcpy(hx, x, x_len * 2, cudaMemcpyDeviceToHost));
    OK_CUDA(cudaMemcpy(hw, w, w_len * 2, cudaMemcpyDeviceToHost));
    OK_CUDA(cudaMemcpy(hb, bias, packed_rows * n_parts * 4, cudaMemcpyDeviceToHost));
    double *want = (double *)malloc(sizeof(double) * n_tokens * rows * n_parts);
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t i = 0; i < rows * n_parts; i++) {
            double sum = 0;
            for (int32_t j = 0; j < k; j++) {
                sum += (double)__bfloat162float(hx[(int64_t)t * x_stride + j]) *
                       (double)__bfloat162float(hw[(int64_t)i * k + j]);
            }
            int32_t part = i / rows, row = i % rows;
            int32_t at = gated ? row % n / 8 * 16 + row % n % 8 + (row >= n) * 8 : row;
            want[(int64_t)t * rows * n_parts + i] =
                sum + (with_bias ? hb[part * packed_rows + at] : 0);
        }
    }
    char *o = (char *)device_alloc(out_len * size * n_parts),
         *ho = (char *)malloc(out_len * size * n_parts);
    CudaLinearArgs args = {};
    args.x = x, args.x_stride = x_stride, args.n_tokens = n_tokens, args.k = k, args.out = out;
    args.act = (CudaLinearAct)act, args.w = packed, args.n_parts = n_parts;
    args.sums = sums, args.n_arrived = n_arrived;
    for (int32_t i = 0; i < n_parts; i++) {
        CudaLinearPart part = {o + i * out_len * size, out_stride,
                               with_bias ? bias + i * packed_rows : NULL, n};
        args.part[i] = part;
    }
    const int32_t n_segments = cuda_linear_segments(
        (int64_t)part_bytes * n_parts / (cuda_linear_packed_bytes(64, k) / 64), k);
    CudaLinearPlan plan[96];
    int32_t n_plans = plans_of(&args, n_segments, plan);
    char *first = (char *)malloc(out_len * size * n_parts);
    for (int32_t c = 0; c < n_plans; c++) {
        if (size == 4) {
            fill_f32<<<64, 256>>>((float *)o, out_len * n_parts, 7);
        } else {
            OK_CUDA(cudaMemset(o, 0xff, out_len * size * n_parts));
        }
        args.dependent = c % 2;
        OK_CUDA(cuda_linear_run(0, &args, &plan[c]));
        OK_CUDA(cudaGetLastError());
        OK_CUDA(cudaMemcpy(ho, o, out_len * size * n_parts, cudaMemcpyDeviceToHost));
        double error = 0, scale = 0;
        bool guards = true;
        for (int64_t i = 0; i < out_len * n_parts; i++) {
            int64_t in = i % out_len, part = i / out_len;
            double before = random_at(7, (uint64_t)i);
            bool inside = in < (int64_t)n_tokens * out_stride && in % out_stride < n;
            if (!inside) {
                guards = guards && (size == 4 ? ((float *)ho)[i] == (float)before
                                              : ((uint16_t *)ho)[i] == 0xffff);
                continue;
            }
            int64_t t = in / out_stride, col = in % out_stride;
            const double *row = want + t * rows * n_parts + part * rows;
            double expect = gated ? act_value(act, row[col]) * row[n + col] : row[col];
            if (out == CUDA_LINEAR_F32_ADD) expect += before;
            double got = size == 4 ? ((float *)ho)[i] : __bfloat162float(((__nv_bfloat16 *)ho)[i]);
            double e = fabs(got - expect);
            if (!(e <= 1e30)) e = 1e30;
            if (e > error) error = e;
            if (fabs(expect) > scale) scale = fabs(expect);
        }
        double bound = size == 4 ? 2e-6 : 4.1e-3;
        check(error <= bound * scale, "against f64", &args, &plan[c], error / scale, bound);
        check(guards, "guard values", &args, &plan[c], 0, 0);
        check_counters(&args, &plan[c]);
        if (c == 0) memcpy(first, ho, out_len * size * n_parts);
        check(memcmp(first, ho, out_len * size * n_parts) == 0, "same bits in every plan", &args,
              &plan[c], 0, 0);
    }
    free(hx), free(hw), free(hb), free(want), free(ho), free(first);
    OK_CUDA(cudaFree(x));
    OK_CUDA(cudaFree(w));
    OK_CUDA(cudaFree(packed));
    OK_CUDA(cudaFree(bias));
    OK_CUDA(cudaFree(o));
}

/* Largest |out - f64 sum| at random places, and the largest |sum|; plain bf16 or f32 outputs. */
static __global__ void sample_error(const __nv_bfloat16 *x, const __nv_bfloat16 *w,
                                    const float *out, int32_t n_tokens, int32_t n, int32_t k,
                                    float *error) {
    int64_t i = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int32_t t = (int32_t)((random_at(11, i) + 1) / 2 * n_tokens),
            r = (int32_t)((random_at(12, i) + 1) / 2 * n);
    double sum = 0;
    for (int32_t j = threadIdx.x % 32; j < k; j += 32) {
        sum += (double)__bfloat162float(x[(int64_t)t * k + j]) *
               (double)__bfloat162float(w[(int64_t)r * k + j]);
    }
    for (int32_t d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    if (threadIdx.x % 32 == 0) {
        float e = fabsf((float)((double)out[(int64_t)t * n + r] - sum));
        if (!(e < 1e30f)) e = 1e30f;
        atomicMax((int *)&error[0], __float_as_int(e));
        atomicMax((int *)&error[1], __float_as_int(fabsf((float)sum)));
    }
}

static __global__ void count_different(const uint32_t *a, const uint32_t *b, int64_t n,
                                       unsigned long long *count) {
    unsigned long long different = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        different += a[i] != b[i];
    }
    if (different) atomicAdd(count, different);
}

/* One large shape: right at random places, and the same bits in every batch and plan. */
static void test_same_bits(int32_t n, int32_t k) {
    enum { TOKENS = 4096 };
    static const int32_t sizes[] = {1,   2,   7,   8,   16,  17,   64,   65,
                                    128, 129, 192, 200, 256, 1000, 2048, 4096};
    /* The vocabulary's output would be gigabytes: fewer tokens. */
    const int32_t n_max = n > 100000 ? 1024 : TOKENS;
    __nv_bfloat16 *x = (__nv_bfloat16 *)device_alloc((size_t)n_max * k * 2);
    __nv_bfloat16 *w = (__nv_bfloat16 *)device_alloc((size_t)n * k * 2);
    fill_bf16<<<1024, 256>>>(x, (int64_t)n_max * k, 21, 1.0f);
    fill_bf16<<<1024, 256>>>(w, (int64_t)n * k, 22, 1.0f);
    void *packed = device_alloc(cuda_linear_packed_bytes(n, k));
    OK_CUDA(cudaMemset(packed, 0, cuda_linear_packed_bytes(n, k)));
    OK_CUDA(cuda_linear_pack(0, w, k, n, k, CUDA_LINEAR_ROWS_PLAIN, packed));
    float *all = (float *)device_alloc((size_t)n_max * n * 4),
          *out = (float *)device_alloc((size_t)n_max * n * 4);
    float *error = (float *)device_alloc(16);
    unsigned long long *count = (unsigned long long *)device_alloc(8), different;
    OK_CUDA(cudaMemset(error, 0, 16));
    CudaLinearArgs args = {};
    args.x = x, args.x_stride = k, args.n_tokens = n_max, args.k = k, args.out = CUDA_LINEAR_F32;
    args.w = packed, args.n_parts = 1;
    args.sums = sums, args.n_arrived = n_arrived;
    CudaLinearPart part = {all, n, NULL, n};
    args.part[0] = part;
    CudaLinearPlan plan = cuda_linear_plan(&args);
    OK_CUDA(cudaMemset(all, 0xff, (size_t)n_max * n * 4));
    OK_CUDA(cuda_linear_run(0, &args, &plan));
    sample_error<<<2048, 256>>>(x, w, all, n_max, n, k, error);
    float got[2];
    OK_CUDA(cudaMemcpy(got, error, 8, cudaMemcpyDeviceToHost));
    check(got[0] <= 1e-5f * got[1], "against f64 at random places", &args, &plan, got[0] / got[1],
          1e-5);
    int32_t n_shape_failed = n_failed;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        const int32_t n_tokens = sizes[s];
        if (n_tokens > n_max) continue;
        CudaLinearPlan plans[96];
        args.n_tokens = n_tokens;
        int32_t n_plans = plans_of(&args, cuda_linear_segments(n, k), plans);
        for (int32_t c = -1; c < n_plans; c++) {
            /* Every plan at two sizes; else the plan that the size gets. */
            if (c >= 0 && n_tokens != 17 && n_tokens != 129) continue;
            int32_t at = (int32_t)((random_at(31, s) + 1) / 2 * (n_max - n_tokens));
            args.x = x + (int64_t)at * k, args.part[0].out = out;
            CudaLinearPlan p = c < 0 ? cuda_linear_plan(&args) : plans[c];
            OK_CUDA(cudaMemset(out, 0xff, (size_t)n_tokens * n * 4));
            OK_CUDA(cudaMemset(count, 0, 8));
            /* Launches that follow one another closely are as right as one alone. */
            args.dependent = true;
            for (int32_t i = 0; i < 8; i++) OK_CUDA(cuda_linear_run(0, &args, &p));
            count_different<<<1024, 256>>>((uint32_t *)out, (uint32_t *)(all + (int64_t)at * n),
                                           (int64_t)n_tokens * n, count);
            OK_CUDA(cudaMemcpy(&different, count, 8, cudaMemcpyDeviceToHost));
            check(different == 0, "same bits", &args, &p, (double)different, 0);
            check_counters(&args, &p);
        }
    }
    printf("same bits %d x %d, %d segments: error %.2g, %s\n", n, k, cuda_linear_segments(n, k),
           got[0] / got[1], n_failed == n_shape_failed ? "ok" : "FAILED");
    fflush(stdout);
    OK_CUDA(cudaFree(x));
    OK_CUDA(cudaFree(w));
    OK_CUDA(cudaFree(packed));
    OK_CUDA(cudaFree(all));
    OK_CUDA(cudaFree(out));
    OK_CUDA(cudaFree(error));
    OK_CUDA(cudaFree(count));
}

/* Experts: every expert's rows equal those of a product of its own. */
static void test_experts(int32_t n_experts, int32_t n, int32_t k, int32_t n_rows, bool gated) {
    int32_t *start = (int32_t *)malloc(sizeof(int32_t) * (n_experts + 1));
    start[0] = 0;
    for (int32_t e = 0; e < n_experts; e++) {
        /* Some have none, one has many. */
        int32_t left = n_rows - start[e],
                share = e == n_experts / 2
                            ? n_rows / 2
                            : (int32_t)((random_at(41, e) + 1) * n_rows / n_experts / 2);
        if (e % 3 == 1) share = 0;
        start[e + 1] = e == n_experts - 1 ? n_rows : start[e] + (share < left ? share : left);
    }
    int32_t rows = gated ? 2 * n : n;
    size_t bytes = cuda_linear_packed_bytes(rows, k);
    __nv_bfloat16 *x = (__nv_bfloat16 *)device_alloc((size_t)n_rows * k * 2),
                  *w = (__nv_bfloat16 *)device_alloc((size_t)rows * k * 2);
    char *packed = (char *)device_alloc(bytes * n_experts);
    fill_bf16<<<256, 256>>>(x, (int64_t)n_rows * k, 51, 1.0f);
    const void **pointers = (const void **)malloc(sizeof(void *) * n_experts);
    for (int32_t e = 0; e < n_experts; e++) {
        pointers[e] = packed + e * bytes;
        fill_bf16<<<256, 256>>>(w, (int64_t)rows * k, 60 + e, 1.0f);
        OK_CUDA(cuda_linear_pack(0, w, k, rows, k, CUDA_LINEAR_ROWS_PLAIN, packed + e * bytes));
    }
    const void **dp = (const void **)device_alloc(sizeof(void *) * n_experts);
    int32_t *ds = (int32_t *)device_alloc(sizeof(int32_t) * (n_experts + 1));
    OK_CUDA(cudaMemcpy(dp, pointers, sizeof(void *) * n_experts, cudaMemcpyHostToDevice));
    OK_CUDA(cudaMemcpy(ds, start, sizeof(int32_t) * (n_experts + 1), cudaMemcpyHostToDevice));
    size_t out_bytes = (size_t)n_rows * n * (gated ? 2 : 4);
    char *out = (char *)device_alloc(out_bytes), *want = (char *)device_alloc(out_bytes);
    OK_CUDA(cudaMemset(want, 0xff, out_bytes));
    CudaLinearArgs args = {};
    args.x_stride = k, args.k = k, args.out = gated ? CUDA_LINEAR_GATED : CUDA_LINEAR_F32,
    args.n_parts = 1;
    args.n_experts = 1;
    for (int32_t e = 0; e < n_experts; e++) {
        /* One expert alone: the same number of segments, one row range. */
        int32_t range[2] = {0, start[e + 1] - start[e]};
        if (range[1] == 0) continue;
        int32_t *dr = (int32_t *)device_alloc(8);
        OK_CUDA(cudaMemcpy(dr, range, 8, cudaMemcpyHostToDevice));
        CudaLinearPart part = {want + (size_t)start[e] * n * (gated ? 2 : 4), n, NULL, n};
        args.x = x + (int64_t)start[e] * k, args.n_tokens = range[1], args.part[0] = part;
        args.expert_w = dp + e, args.expert_start = dr;
        OK_CUDA(cuda_linear(0, &args));
        OK_CUDA(cudaDeviceSynchronize());
        OK_CUDA(cudaFree(dr));
    }
    char *ho = (char *)malloc(out_bytes), *hw = (char *)malloc(out_bytes);
    OK_CUDA(cudaMemcpy(hw, want, out_bytes, cudaMemcpyDeviceToHost));
    CudaLinearPart part = {out, n, NULL, n};
    args.x = x, args.n_tokens = n_rows, args.part[0] = part, args.n_experts = n_experts;
    args.expert_w = dp, args.expert_start = ds;
    CudaLinearPlan plans[96];
    int32_t n_plans = plans_of(&args, 1, plans);
    for (int32_t c = 0; c < n_plans; c++) {
        OK_CUDA(cudaMemset(out, 0xee, out_bytes));
        OK_CUDA(cuda_linear_run(0, &args, &plans[c]));
        OK_CUDA(cudaMemcpy(ho, out, out_bytes, cudaMemcpyDeviceToHost));
        check(memcmp(ho, hw, out_bytes) == 0, "experts", &args, &plans[c], 0, 0);
    }
    free(start), free(pointers), free(ho), free(hw);
    OK_CUDA(cudaFree(x));
    OK_CUDA(cudaFree(w));
    OK_CUDA(cudaFree(packed));
    OK_CUDA(cudaFree(dp));
    OK_CUDA(cudaFree(ds));
    OK_CUDA(cudaFree(out));
    OK_CUDA(cudaFree(want));
}

/* One test's lines as cmocka writes them, for tests/run_unit; skipped when `only` is not in its
 * name. */
static void report(const char *only, const char *name, void (*test)(void)) {
    if (strstr(name, only) == NULL) return;
    int32_t n_checks_before = n_checks, n_failed_before = n_failed;
    printf("[ RUN      ] %s\n", name);
    test();
    printf("%d checks, %d failed\n", n_checks - n_checks_before, n_failed - n_failed_before);
    printf("%s %s\n", n_failed == n_failed_before ? "[       OK ]" : "[  FAILED  ]", name);
    fflush(stdout);
}

static void small_shapes_are_right(void) {
    static const int32_t shape[][3] = {{64, 64, 1},      {72, 72, 7},    {200, 136, 65},
                                       {129, 1000, 130}, {1000, 520, 9}, {8, 8, 3}};
    for (int32_t out = 0; out < 4; out++) {
        for (int32_t i = 0; i < (int32_t)(sizeof shape / sizeof shape[0]); i++) {
            test_small(shape[i][0], shape[i][1], shape[i][2], (CudaLinearOut)out, i % 4, i % 2, 1);
        }
        test_small(192, 2048, 5, (CudaLinearOut)out, 0, false, 2);
        test_small(100, 512, 300, (CudaLinearOut)out, 1, true, 3);
        test_small(136, 512, 300, (CudaLinearOut)out, 2, false, 2);
    }
}

static void experts_equal_products_of_their_own(void) {
    test_experts(16, 96, 256, 40, false);
    test_experts(128, 768, 2048, 64, true);
    test_experts(128, 2048, 768, 1000, false);
}

static void rows_have_the_same_bits_in_every_batch(void) {
    static const int32_t shape[][2] = {{3072, 2048}, {2048, 2048},  {16384, 2048}, {2048, 8192},
                                       {6144, 4096}, {4096, 4096},  {28672, 4096}, {4096, 14336},
                                       {1000, 1096}, {128256, 2048}};
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        test_same_bits(shape[i][0], shape[i][1]);
    }
}

/* With an argument only the tests that have it in their names; with a second one only the plans of
 * that kernel (few, slim, small, large, split, twin). */
int main(int argc, char **argv) {
    const char *only = argc > 1 ? argv[1] : "";
    if (argc > 2) only_kernel = argv[2];
    int n_devices = 0;
    cudaDeviceProp prop;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0 ||
        cudaGetDeviceProperties(&prop, 0) != cudaSuccess || prop.major != 9) {
        printf("no Hopper GPU\n[  SKIPPED ] cuda_linear\n");
        return 0;
    }
    sums = device_alloc(CUDA_LINEAR_SUMS_BYTES);
    OK_CUDA(cudaMemset(sums, 0xff, CUDA_LINEAR_SUMS_BYTES));
    n_arrived = (uint32_t *)device_alloc(CUDA_LINEAR_COUNTERS * 4);
    OK_CUDA(cudaMemset(n_arrived, 0, CUDA_LINEAR_COUNTERS * 4));
    report(only, "small_shapes_are_right", small_shapes_are_right);
    report(only, "experts_equal_products_of_their_own", experts_equal_products_of_their_own);
    report(only, "rows_have_the_same_bits_in_every_batch", rows_have_the_same_bits_in_every_batch);
    return n_failed > 0;
}
