/* The matrix products of Llama-3.2-1B, Llama-3.1-8B and Qwen3-30B-A3B on one GPU, beside cuBLAS
 * (loaded when it is found: its path in CUBLAS, else libcublas.so.13), as microseconds and shares
 * of the limit.
 *
 * Each figure is the median of several replays of a graph whose launches walk through more
 * weights than the L2 cache holds. With the argument "sweep" every plan is tried and the best is
 * shown too; "csv" writes the lines of bench/baselines. Two numbers behind it: the fewest and the
 * most tokens. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_bf16.h>

#include "ops/cuda/cuda_linear.cuh"
#include "ops/cuda/cuda_probe.cuh"

#define OK_CUDA(call)                                                                         \
    do {                                                                                      \
        cudaError_t error_ = (call);                                                          \
        if (error_ != cudaSuccess) {                                                          \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)

enum { CYCLE_BYTES = 400 << 20, REPLAYS = 7, JOBS_MAX = 80 };

static __host__ __device__ float random_at(uint64_t i) {
    uint64_t z = i + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (float)(int32_t)(z >> 40) / 8388608.0f - 1.0f;
}

static __global__ void fill_bf16(__nv_bfloat16 *p, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        p[i] = __float2bfloat16_rn(random_at((uint64_t)i));
    }
}

typedef int (*CublasCreate)(void **);
typedef int (*CublasSetStream)(void *, cudaStream_t);
typedef int (*CublasSetWorkspace)(void *, void *, size_t);
typedef int (*CublasGemmEx)(void *, int, int, int, int, int, const void *, const void *, int, int,
                            const void *, int, int, const void *, void *, int, int, int, int);

static struct {
    void *handle;
    CublasGemmEx gemm;
} cublas;

static void cublas_load(cudaStream_t stream) {
    const char *path = getenv("CUBLAS");
    void *lib = dlopen(path != NULL ? path : "libcublas.so.13", RTLD_NOW);
    if (lib == NULL) {
        printf("no cuBLAS: %s\n", dlerror());
        return;
    }
    void *workspace;
    OK_CUDA(cudaMalloc(&workspace, 64 << 20));
    int error = ((CublasCreate)dlsym(lib, "cublasCreate_v2"))(&cublas.handle);
    if (error == 0)
        error = ((CublasSetStream)dlsym(lib, "cublasSetStream_v2"))(cublas.handle, stream);
    if (error == 0)
        error = ((CublasSetWorkspace)dlsym(lib, "cublasSetWorkspace_v2"))(cublas.handle, workspace,
                                                                          64 << 20);
    if (error == 0) cublas.gemm = (CublasGemmEx)dlsym(lib, "cublasGemmEx");
}

static cudaStream_t stream;
static bool csv;
static char *weights, *x_all, *out_all;
static uint32_t *n_arrived;
static void *sums;

typedef struct Job {
    int32_t n, k, n_tokens;
    const CudaLinearPlan *plan; /* NULL: cuBLAS */
    CudaLinearOut out;
    bool dependent, whole;
    int32_t n_experts, n_touched; /* of them, the first ones have rows */
    const int32_t *expert_start;
    const void *const *expert_w;
} Job;

static void queue(const Job *job, int32_t i) {
    size_t bytes = cuda_linear_packed_bytes(job->n, job->k);
    int64_t copies = CYCLE_BYTES / bytes + 1;
    const char *w = weights + i % copies * bytes;
    if (job->plan == NULL) {
        const float one = 1, zero = 0;
        int error = cublas.gemm(cublas.handle, 1, 0, job->n, job->n_tokens, job->k, &one, w, 14,
                                job->k, x_all, 14, job->k, &zero, out_all, 14, job->n, 68, -1);
        if (error != 0) {
            printf("cublas: %d\n", error);
            exit(1);
        }
        return;
    }
    CudaLinearArgs args = {};
    args.x = x_all, args.x_stride = job->k, args.n_tokens = job->n_tokens, args.k = job->k;
    args.out = job->out, args.w = w, args.n_parts = 1, args.dependent = job->dependent;
    args.whole = job->whole;
    int32_t n = job->out == CUDA_LINEAR_GATED ? job->n / 2 : job->n;
    CudaLinearPart part = {out_all, n, NULL, n};
    args.part[0] = part;
    args.sums = sums, args.n_arrived = n_arrived;
    args.n_experts = job->n_experts, args.expert_start = job->expert_start;
    args.expert_w = job->expert_w == NULL ? NULL : job->expert_w + i % 8 * job->n_touched;
    OK_CUDA(cuda_linear_run(stream, &args, job->plan));
}

static int compare(const void *a, const void *b) {
    float d = *(const float *)a - *(const float *)b;
    return (d > 0) - (d < 0);
}

static cudaGraphExec_t graph_of(const Job *job, int32_t n_launches) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int32_t i = 0; i < n_launches; i++) queue(job, i);
    OK_CUDA(cudaStreamEndCapture(stream, &graph));
    OK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    OK_CUDA(cudaGraphDestroy(graph));
    return exec;
}

/* Microseconds a launch of each job, their replays in turn: what one heats, the others pay too. */
static void measure_in_turn(const Job *job, int32_t n_jobs, int32_t n_launches, float *median) {
    cudaGraphExec_t exec[JOBS_MAX];
    cudaEvent_t begin, end;
    float us[JOBS_MAX][REPLAYS];
    OK_CUDA(cudaEventCreate(&begin));
    OK_CUDA(cudaEventCreate(&end));
    for (int32_t i = 0; i < n_jobs; i++) exec[i] = graph_of(&job[i], n_launches);
    for (int32_t r = -1; r < REPLAYS; r++) {
        for (int32_t i = 0; i < n_jobs; i++) {
            float ms;
            OK_CUDA(cudaEventRecord(begin, stream));
            OK_CUDA(cudaGraphLaunch(exec[i], stream));
            OK_CUDA(cudaEventRecord(end, stream));
            OK_CUDA(cudaStreamSynchronize(stream));
            OK_CUDA(cudaEventElapsedTime(&ms, begin, end));
            if (r >= 0) us[i][r] = ms * 1000.0f / (float)n_launches;
        }
    }
    for (int32_t i = 0; i < n_jobs; i++) {
        qsort(us[i], REPLAYS, sizeof us[i][0], compare);
        median[i] = us[i][REPLAYS / 2];
        OK_CUDA(cudaGraphExecDestroy(exec[i]));
    }
    OK_CUDA(cudaEventDestroy(begin));
    OK_CUDA(cudaEventDestroy(end));
}

static float measure(const Job *job, int32_t n_launches) {
    float us;
    measure_in_turn(job, 1, n_launches, &us);
    return us;
}

/* TB/s */
static double read_limit(int32_t n_sms) {
    double rate;
    OK_CUDA(cuda_probe_read(stream, n_sms, weights, 1 << 30, &rate));
    return rate / 1e12;
}

/* The plans of a sweep. */
static int32_t plans_of(int32_t rows, int32_t n_tokens, int32_t n_segments, CudaLinearPlan *plan) {
    int32_t n = 0;
    for (int32_t tokens = 8; tokens <= 64 && n_segments > 1; tokens *= 2) {
        if (tokens < n_tokens || (tokens > 8 && tokens / 2 >= n_tokens)) continue;
        for (int32_t rows = 16; rows <= 32; rows += 16) {
            for (int32_t per_sm = 1; per_sm <= 3; per_sm++) {
                int32_t sums = n_segments * tokens * rows * 4;
                int32_t stages = (227 * 1024 / per_sm - 3584 - (sums > 8192 ? sums : 8192)) /
                                 (n_segments * 128 * (rows + tokens));
                if (stages > 16) stages = 16;
                if (stages < 2) continue;
                CudaLinearPlan p = {false, tokens, rows, stages, 132 * per_sm, false};
                plan[n++] = p;
            }
        }
    }
    for (int32_t tokens = 8; tokens <= 128 && n_tokens <= 128; tokens *= 2) {
        if ((tokens < n_tokens && tokens < 64) || (tokens > 8 && tokens / 2 >= n_tokens)) continue;
        for (int32_t rows = 64; rows <= 128; rows += 64) {
            for (int32_t per_sm = 1; per_sm <= 3; per_sm++) {
                int32_t stage = (tokens <= 32 ? 256 : 128) * (rows + tokens);
                int32_t stages = (227 * 1024 / per_sm - 6144) / stage;
                if (stages > 16) stages = 16;
                if (stages < 2) continue;
                CudaLinearPlan p = {
                    false, tokens, rows, stages, 132 * per_sm / n_segments * n_segments, false};
                plan[n++] = p;
            }
        }
    }
    for (int32_t tokens = 128; tokens <= 256 && n_tokens >= 64; tokens += 64) {
        if (tokens > 128 && n_tokens <= tokens - 64) continue;
        int32_t stages = tokens == 128 ? 6 : tokens == 192 ? 5 : 4;
        CudaLinearPlan p = {true, tokens, 128, stages, 132, false};
        int32_t n_tiles = (rows + 127) / 128 * ((n_tokens + tokens - 1) / tokens);
        plan[n++] = p;
        p.halves = true;
        if (tokens == 256 && n_tiles > CUDA_LINEAR_CTAS_MAX) plan[n++] = p;
        p.halves = false, p.twin = true;
        if (tokens == 256 && n_segments == 4 && 2 * n_tiles <= CUDA_LINEAR_CTAS_MAX) plan[n++] = p;
        p.twin = false, p.split = true;
        if (n_segments == 1 || n_tiles * n_segments > CUDA_LINEAR_CTAS_MAX) continue;
        plan[n++] = p;
    }
    return n;
}

static const char *kind_of(const CudaLinearPlan *plan) {
    if (plan->split) return "s";
    if (plan->twin) return "t";
    return plan->halves ? "h" : "";
}

static void bench_shape(int32_t n, int32_t k, int32_t n_tokens, bool sweep, double limit) {
    double bytes = 2.0 * n * k, flops = 2.0 * n * k * n_tokens;
    int32_t n_launches =
        n_tokens <= 256 ? (int32_t)(3e9 / bytes) : (int32_t)((sweep ? 4e12 : 1e13) / flops);
    if (n_launches > 64) n_launches = 64;
    if (n_launches < 4) n_launches = 4;
    CudaLinearArgs args = {};
    args.n_tokens = n_tokens, args.k = k, args.n_parts = 1, args.part[0].n = n;
    args.sums = sums, args.n_arrived = n_arrived;
    CudaLinearPlan plan = cuda_linear_plan(&args);
    Job job = {n, k, n_tokens, &plan, CUDA_LINEAR_BF16, true}, jobs[JOBS_MAX] = {job, job, job};
    jobs[1].dependent = false, jobs[2].plan = NULL;
    float took[JOBS_MAX] = {};
    CudaLinearPlan plans[64];
    int32_t n_plans = 0, n_jobs = cublas.gemm == NULL ? 2 : 3;
    if (sweep) n_plans = plans_of(n, n_tokens, cuda_linear_segments(n, k), plans);
    for (int32_t i = 0; i < n_plans; i++) {
        jobs[n_jobs] = job, jobs[n_jobs++].plan = &plans[i];
        const bool apart = plans[i].split || plans[i].twin;
        if (!plans[i].large || apart || cuda_linear_segments(n, k) == 1) continue;
        jobs[n_jobs] = jobs[n_jobs - 1], jobs[n_jobs++].whole = true;
    }
    measure_in_turn(jobs, n_jobs, n_launches, took);
    const float us = took[0], alone_us = took[1], cublas_us = took[2];
    if (csv) {
        printf("%d,%d,%d,1,1,%.2f,%.2f,%.2f,%.3f,%.0f\n", n, k, n_tokens, cublas_us, us, alone_us,
               bytes / us / 1e6 / limit, flops / us / 1e6);
        return;
    }
    printf(
        "%6d x %5d, %4d tokens: cuBLAS %7.2f us | ours %7.2f (%5.1f %%), not dependent %7.2f | "
        "%5.1f %% of read limit, %4.0f TFLOP/s",
        n, k, n_tokens, cublas_us, us, 100 * cublas_us / us, alone_us, bytes / us / 1e4 / limit,
        flops / us / 1e6);
    if (sweep) {
        CudaLinearPlan best_plan = plan;
        float best = us;
        printf(" |");
        for (int32_t i = cublas.gemm == NULL ? 2 : 3; i < n_jobs; i++) {
            const CudaLinearPlan *p = jobs[i].plan;
            printf(" %s%d.%d.%d.%d%s%s=%.2f", p->large ? "L" : "s", p->tile_tokens, p->tile_rows,
                   p->n_stages, p->n_ctas / 132 + (p->n_ctas % 132 > 66), kind_of(p),
                   jobs[i].whole ? "w" : "", took[i]);
            if (took[i] < best && !jobs[i].whole) best = took[i], best_plan = *p;
        }
        printf(
            " | chosen %s%d.%d.%d.%d | best %.2f (%.1f %% of limit, %.1f %% of cuBLAS): "
            "%s%d.%d.%d.%d",
            plan.large ? "L" : "s", plan.tile_tokens, plan.tile_rows, plan.n_stages, plan.split,
            best, bytes / best / 1e4 / limit, 100 * cublas_us / best, best_plan.large ? "L" : "s",
            best_plan.tile_tokens, best_plan.tile_rows, best_plan.n_stages, best_plan.split);
    }
    printf("\n");
    fflush(stdout);
}

/* Mixture of experts: n_tokens tokens go to 8 of 128 experts each. */
static void bench_experts(int32_t n, int32_t k, int32_t n_tokens, CudaLinearOut out, bool sweep,
                          double limit) {
    enum { EXPERTS = 128, USED = 8 };
    int32_t start[EXPERTS + 1], count[EXPERTS] = {}, touched = 0;
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t i = 0; i < USED; i++) {
            /* Distinct for a token. */
            count[((int32_t)((random_at(1000 + t) + 1) * 64) + i * 16 +
                   (int32_t)((random_at(t * 8 + i) + 1) * 8)) %
                  EXPERTS]++;
        }
    }
    start[0] = 0;
    for (int32_t e = 0; e < EXPERTS; e++)
        start[e + 1] = start[e] + count[e], touched += count[e] > 0;
    size_t bytes = cuda_linear_packed_bytes(n, k);
    const void *pointers[EXPERTS * 8];
    int64_t copies = ((int64_t)CYCLE_BYTES * 3) / bytes;
    for (int32_t i = 0; i < EXPERTS * 8; i++) pointers[i] = weights + i % copies * bytes;
    const void **dp;
    int32_t *ds;
    OK_CUDA(cudaMalloc(&dp, sizeof pointers));
    OK_CUDA(cudaMalloc(&ds, sizeof start));
    OK_CUDA(cudaMemcpy(dp, pointers, sizeof pointers, cudaMemcpyHostToDevice));
    OK_CUDA(cudaMemcpy(ds, start, sizeof start, cudaMemcpyHostToDevice));
    double total = (double)touched * bytes, flops = 2.0 * n * k * n_tokens * USED;
    CudaLinearArgs args = {};
    args.n_tokens = n_tokens * USED, args.k = k, args.n_parts = 1, args.n_experts = EXPERTS;
    args.part[0].n = out == CUDA_LINEAR_GATED ? n / 2 : n, args.out = out;
    CudaLinearPlan plan = cuda_linear_plan(&args);
    Job job = {n, k, n_tokens * USED, &plan, out, true, false, EXPERTS, EXPERTS, ds, dp};
    float us = measure(&job, 8);
    if (csv) {
        printf("%d,%d,%d,%d,%d,,%.2f,,%.3f,%.0f\n", n, k, n_tokens, EXPERTS, touched, us,
               total / us / 1e6 / limit, flops / us / 1e6);
        OK_CUDA(cudaFree(dp));
        OK_CUDA(cudaFree(ds));
        return;
    }
    printf("experts %d x %d, %d tokens, %d touched: %.2f us, %.1f %% of read limit, %.0f TFLOP/s",
           n, k, n_tokens, touched, us, total / us / 1e4 / limit, flops / us / 1e6);
    if (sweep) {
        for (int32_t tokens = 8; tokens <= 128; tokens *= 2) {
            for (int32_t rows = 64; rows <= 128; rows += 64) {
                for (int32_t per_sm = 1; per_sm <= 2; per_sm++) {
                    int32_t stages = (227 * 1024 / per_sm - 6144) /
                                     ((tokens <= 32 ? 256 : 128) * (rows + tokens));
                    if (stages < 2) continue;
                    CudaLinearPlan p = {false,        tokens, rows, stages > 16 ? 16 : stages,
                                        132 * per_sm, false};
                    job.plan = &p;
                    printf(" s%d.%d.%d=%.2f", tokens, rows, per_sm, measure(&job, 8));
                }
            }
        }
        for (int32_t tokens = 128; tokens <= 256; tokens += 64) {
            CudaLinearPlan p = {true, tokens, 128, tokens == 128 ? 6 : tokens == 192 ? 5 : 4,
                                132,  false};
            job.plan = &p;
            printf(" L%d=%.2f", tokens, measure(&job, 8));
        }
    }
    printf("\n");
    fflush(stdout);
    OK_CUDA(cudaFree(dp));
    OK_CUDA(cudaFree(ds));
}

int main(int argc, char **argv) {
    const long from = argc > 2 ? strtol(argv[2], NULL, 10) : 1;
    const long to = argc > 3 ? strtol(argv[3], NULL, 10) : LONG_MAX;
    bool sweep = argc > 1 && strcmp(argv[1], "sweep") == 0;
    csv = argc > 1 && strcmp(argv[1], "csv") == 0;
    int n_devices = 0;
    cudaDeviceProp prop;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("no GPU\n");
        return 77;
    }
    OK_CUDA(cudaGetDeviceProperties(&prop, 0));
    OK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    size_t weight_bytes = (size_t)CYCLE_BYTES * 4;
    OK_CUDA(cudaMalloc(&weights, weight_bytes));
    OK_CUDA(cudaMalloc(&x_all, (size_t)8192 * 14336 * 2));
    OK_CUDA(cudaMalloc(&out_all, (size_t)8192 * 28672 * 4));
    OK_CUDA(cudaMalloc(&sums, CUDA_LINEAR_SUMS_BYTES));
    OK_CUDA(cudaMalloc(&n_arrived, CUDA_LINEAR_COUNTERS * 4));
    OK_CUDA(cudaMemset(n_arrived, 0, CUDA_LINEAR_COUNTERS * 4));
    fill_bf16<<<4096, 256, 0, stream>>>((__nv_bfloat16 *)weights, (int64_t)weight_bytes / 2);
    fill_bf16<<<4096, 256, 0, stream>>>((__nv_bfloat16 *)x_all, (int64_t)8192 * 14336);
    OK_CUDA(cudaStreamSynchronize(stream));
    cublas_load(stream);
    double limit = read_limit(prop.multiProcessorCount);
    if (csv)
        printf("n,k,tokens,experts,touched,cublas_us,us,not_dependent_us,read_share,tflops\n# ");
    printf("%s, %d multiprocessors, read limit %.3f TB/s\n", prop.name, prop.multiProcessorCount,
           limit);
    static const int32_t shape[][2] = {{3072, 2048},   {2048, 2048},  {16384, 2048}, {2048, 8192},
                                       {128256, 2048}, {6144, 4096},  {4096, 4096},  {28672, 4096},
                                       {4096, 14336},  {128256, 4096}};
    static const int32_t few[] = {1, 8, 16, 32, 64, 128, 256};
    static const int32_t many[] = {512, 1024, 2048, 4096, 8192};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        for (size_t t = 0; t < sizeof few / sizeof few[0]; t++) {
            if (shape[s][0] > 100000 && few[t] != 1 && few[t] < 64) continue;
            if (few[t] < from || few[t] > to) continue;
            bench_shape(shape[s][0], shape[s][1], few[t], sweep, limit);
        }
    }
    static const int32_t moe[] = {1, 4, 16, 64, 256, 1024, 4096};
    for (size_t t = 0; t < sizeof moe / sizeof moe[0]; t++) {
        if (moe[t] < from || moe[t] > to) continue;
        bench_experts(1536, 2048, moe[t], CUDA_LINEAR_GATED, sweep, limit);
        bench_experts(2048, 768, moe[t], CUDA_LINEAR_F32, sweep, limit);
    }
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        for (size_t t = 0; t < sizeof many / sizeof many[0]; t++) {
            if (shape[s][0] > 100000 || many[t] < from || many[t] > to) continue;
            bench_shape(shape[s][0], shape[s][1], many[t], sweep, limit);
        }
    }
    printf("%sread limit again %.3f TB/s\n", csv ? "# " : "",
           read_limit(prop.multiProcessorCount));
    return 0;
}
