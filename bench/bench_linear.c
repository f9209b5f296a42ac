/* bench_linear: the matrix products of a 1.1B Llama shape (dim 2048, ffn 5632, 32/4 heads,
 * vocabulary 32,000), without the rest of a model.
 *
 * usage: bench_linear [--level L] [--threads N] [--layers N] [--rounds N] [format ...]
 *
 * Decode: all products of one token. In each round the read bandwidth (four streams a thread with
 * prefetch) is probed right before, so that the share is of that moment: the machine may be shared.
 * Small layer counts fit caches; 22 is the model. Prefill: 512 rows through one layer, and the
 * GFLOP/s; tokens/s are for 22 layers and one row of the head. */
#include "ops/bench_testing.h"

#include <sys/resource.h>

enum {
    DIM = 2048,
    FF = 5632,
    KV = 256,
    VOCAB = 32000,
    LAYERS_MAX = 22,
    PREFILL = 512,
    ROUNDS_MAX = 99,
    READ_REGIONS = 3
};
enum { Q, K, V, O, GATE, UP, DOWN, LAYER_MATRICES };

static const int64_t SHAPE[LAYER_MATRICES][2] = {{DIM, DIM}, {KV, DIM}, {KV, DIM}, {DIM, DIM},
                                                 {FF, DIM},  {FF, DIM}, {DIM, FF}};

typedef struct Bench {
    const Ops *ops;
    OpCtx ctx;
    int32_t n_threads, n_layers, n_rounds;
    Weight layer[LAYERS_MAX][LAYER_MATRICES], head;
    int64_t weight_bytes;
    char *read_data; /* [READ_REGIONS][PEAK_READ_BYTES] */
    int32_t read_region;
    float *x, *out[3];
} Bench;

static void bench_linear(Bench *b, Weight *w, int32_t n_parts, int64_t n_tokens) {
    LinearArgs args = {.x = tensor_2d(b->x, DTYPE_F32, n_tokens, w->t.shape[1])};
    args.n_parts = n_parts;
    for (int32_t i = 0; i < n_parts; i++)
        args.part[i] =
            (LinearPart){&w[i], NULL, tensor_2d(b->out[i], DTYPE_F32, n_tokens, w[i].t.shape[0])};
    b->ops->linear(&b->ctx, &args);
}

static void bench_layer(Bench *b, int32_t layer, int64_t n_tokens) {
    Weight *w = b->layer[layer];
    bench_linear(b, &w[Q], 3, n_tokens);
    bench_linear(b, &w[O], 1, n_tokens);
    bench_linear(b, &w[GATE], 2, n_tokens);
    bench_linear(b, &w[DOWN], 1, n_tokens);
}

/* Bytes per second of one read of memory that no cache holds. */
static double bench_read_once(Bench *b) {
    b->read_region = (b->read_region + 1) % READ_REGIONS;
    PeakRead read = {.data =
                         (const void *)(b->read_data + (int64_t)b->read_region * PEAK_READ_BYTES)};
    int64_t start = clock_us();
    pool_run(b->ctx.pool, PEAK_READ_TASKS, peak_read_task, &read);
    double seconds = bench_seconds_since(start);
    volatile uint64_t used = read.sum[0]; /* the loops must not be dropped */
    (void)used;
    return PEAK_READ_BYTES / seconds;
}

/* CPU seconds of all threads: what others on the machine take is not in it. */
static double bench_cpu_seconds(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

static void bench_decode(Bench *b, int32_t n_tokens) {
    double seconds[ROUNDS_MAX], share[ROUNDS_MAX], cpu_seconds[ROUNDS_MAX];
    for (int32_t r = 0; r < b->n_rounds; r++) {
        double limit = bench_read_once(b);
        int64_t start = clock_us();
        double cpu = bench_cpu_seconds();
        for (int32_t l = 0; l < b->n_layers; l++) bench_layer(b, l, n_tokens);
        bench_linear(b, &b->head, 1, n_tokens);
        seconds[r] = bench_seconds_since(start);
        cpu_seconds[r] = bench_cpu_seconds() - cpu;
        limit = (limit + bench_read_once(b)) / 2;
        share[r] = (double)b->weight_bytes / seconds[r] / limit;
    }
    double median = bench_median(seconds, b->n_rounds);
    printf(
        "  rows %3d: %7.2f ms  %6.1f tok/s  %5.1f GB/s, %4.0f %% of read; %.1f per core second\n",
        n_tokens, median * 1e3, n_tokens / median, 1e-9 * (double)b->weight_bytes / median,
        100 * bench_median(share, b->n_rounds),
        1e-9 * (double)b->weight_bytes / bench_median(cpu_seconds, b->n_rounds));
}

static void bench_prefill(Bench *b) {
    double seconds[ROUNDS_MAX];
    int64_t weights = 0;
    for (int32_t i = 0; i < LAYER_MATRICES; i++) weights += SHAPE[i][0] * SHAPE[i][1];
    double cpu = bench_cpu_seconds();
    for (int32_t r = 0; r < b->n_rounds; r++) {
        int64_t start = clock_us();
        bench_layer(b, r % b->n_layers, PREFILL);
        seconds[r] = bench_seconds_since(start);
    }
    double median = bench_median(seconds, b->n_rounds);
    double per_token = median / PREFILL * LAYERS_MAX;
    double flop = 2.0 * (double)weights * PREFILL;
    cpu = (bench_cpu_seconds() - cpu) / b->n_rounds;
    printf("  rows 512: %6.1f ms a layer  %6.1f tok/s  %6.1f GFLOP/s, %.1f per core second\n",
           median * 1e3, 1 / per_token, 1e-9 * flop / median, 1e-9 * flop / cpu);
}

static void bench_format(Bench *b, DType dtype) {
    b->weight_bytes = 0;
    int64_t start = clock_us();
    for (int32_t l = 0; l < b->n_layers; l++)
        for (int32_t i = 0; i < LAYER_MATRICES; i++)
            b->weight_bytes +=
                bench_weight(b->ops, &b->ctx, dtype, SHAPE[i][0], SHAPE[i][1], &b->layer[l][i]);
    b->weight_bytes += bench_weight(b->ops, &b->ctx, dtype, VOCAB, DIM, &b->head);
    printf("%-7s %5lld MB, prepared in %.2f s\n", dtype_info(dtype)->name,
           (long long)(b->weight_bytes >> 20), bench_seconds_since(start));
    bench_decode(b, 1);
    bench_decode(b, 4);
    bench_decode(b, 16);
    bench_prefill(b);
    fflush(stdout);
    for (int32_t l = 0; l < b->n_layers; l++)
        for (int32_t i = 0; i < LAYER_MATRICES; i++)
            bench_weight_free(b->ops, &b->ctx, &b->layer[l][i]);
    bench_weight_free(b->ops, &b->ctx, &b->head);
}

static int32_t bench_count(const char *text, int32_t most) {
    int64_t n;
    if (!str_to_i64(str_from(text), &n)) n = 1;
    return (int32_t)MIN(MAX(n, (int64_t)1), (int64_t)most);
}

int main(int argc, char **argv) {
    Bench b = {.n_threads = thread_cores(), .n_layers = LAYERS_MAX, .n_rounds = 5};
    const char *level = NULL;
    DType dtypes[DTYPE_COUNT];
    int32_t n_dtypes = 0;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (more && strcmp(argv[i], "--level") == 0)
            level = argv[++i];
        else if (more && strcmp(argv[i], "--threads") == 0)
            b.n_threads = bench_count(argv[++i], 1024);
        else if (more && strcmp(argv[i], "--layers") == 0)
            b.n_layers = bench_count(argv[++i], LAYERS_MAX);
        else if (more && strcmp(argv[i], "--rounds") == 0)
            b.n_rounds = bench_count(argv[++i], ROUNDS_MAX);
        else if (n_dtypes < DTYPE_COUNT && dtype_from_name(str_from(argv[i]), &dtypes[n_dtypes]))
            n_dtypes++;
        else
            return fprintf(stderr, "bench_linear: '%s' is neither an option nor a format\n",
                           argv[i]),
                   2;
    }
    Err err = {0};
    if (ops_cpu(&b.ops, level, &err) != OK) return fprintf(stderr, "%s\n", err.text), 2;
    OpsLimits limits = {.n_tokens_max = PREFILL, .k_max = FF, .n_max = FF};
    b.ctx = ops_testing_open(b.ops, &limits, b.n_threads);
    b.x = random_new(PREFILL * FF, 1, 1);
    for (int32_t i = 0; i < 3; i++) b.out[i] = guard_new((int64_t)PREFILL * MAX(FF, VOCAB / 16));
    b.read_data = mem_try_alloc_large((size_t)READ_REGIONS * PEAK_READ_BYTES);
    assert_non_null(b.read_data);
    memset(b.read_data, 1, (size_t)READ_REGIONS * PEAK_READ_BYTES);
    printf("level %s, %d threads, read %.1f GB/s\n", b.ops->level, b.n_threads,
           bench_read_once(&b) * 1e-9);
    for (int32_t i = 0; i < n_dtypes; i++) bench_format(&b, dtypes[i]);
    for (size_t i = 0; n_dtypes == 0 && i < ARRAY_LEN(LINEAR_DTYPES); i++)
        bench_format(&b, LINEAR_DTYPES[i]);
    return 0;
}
