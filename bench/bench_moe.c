/* bench_moe: the experts of a mixture alone: the bytes of those that a step touches, against the
 * machine's read bandwidth; of many tokens the operations against the level's products.
 *
 * usage: bench_moe [--level L] [--threads N] [--rounds N] [--dim N] [--ff N] [--experts N]
 *                  [--used N] [dtype ...]
 *
 * Each token draws its experts at random, anew in each pass. The limit is probed before and after
 * each pass, since the machine may be shared; the share is the median of the passes'. The default
 * shape is a quarter of Qwen3-30B-A3B's layer with half of its experts. Prints CSV. */
#include "ops/bench_testing.h"
#include "ops/probe.h"

enum { TOKENS_MAX = 512, EXPERTS_MAX = 256, USED_MAX = 16, ROUNDS_MAX = 99 };

typedef struct Bench {
    const Ops *ops;
    OpsLevel level;
    OpCtx ctx;
    int32_t n_threads, n_rounds, dim, ff, n_experts, n_used;
    Weight weight[3][EXPERTS_MAX]; /* gate, up, down */
    int64_t expert_bytes;
    float *x, *out;
    int32_t expert[TOKENS_MAX * USED_MAX];
    float share[TOKENS_MAX * USED_MAX];
} Bench;

/* Distinct experts for each token; returns how many are touched. */
static int32_t bench_choose(Bench *b, int32_t n_tokens, int32_t round) {
    bool touched[EXPERTS_MAX] = {false};
    int32_t n_touched = 0;
    for (int32_t t = 0; t < n_tokens; t++) {
        bool taken[EXPERTS_MAX] = {false};
        for (int32_t u = 0, draw = 0; u < b->n_used; draw++) {
            int32_t e = (int32_t)(rng_bits((uint64_t)round, (uint64_t)t, (uint64_t)draw) %
                                  (uint64_t)b->n_experts);
            if (taken[e]) continue;
            taken[e] = true;
            n_touched += !touched[e];
            touched[e] = true;
            b->share[t * b->n_used + u] = 1.0f / (float)b->n_used;
            b->expert[t * b->n_used + u++] = e;
        }
    }
    return n_touched;
}

static void bench_tokens(Bench *b, DType dtype, int32_t n_tokens) {
    double seconds[ROUNDS_MAX], rate[ROUNDS_MAX], read[ROUNDS_MAX], products[ROUNDS_MAX];
    double touched = 0, flops = 6.0 * n_tokens * b->n_used * b->dim * b->ff;
    for (int32_t r = -1; r < b->n_rounds; r++) { /* one to warm up */
        int32_t n_touched = bench_choose(b, n_tokens, r + 1);
        double limit = probe_read_bandwidth(b->ctx.pool, PROBE_FOUR_PREFETCHED, 1);
        double one = probe_read_bandwidth(b->ctx.pool, PROBE_ONE_STREAM, 1);
        double peak = probe_products(b->ctx.pool, b->level, dtype, 1);
        MoeArgs args = {.x = tensor_2d(b->x, DTYPE_F32, n_tokens, b->dim),
                        .gate = b->weight[0],
                        .up = b->weight[1],
                        .down = b->weight[2],
                        .n_experts = b->n_experts,
                        .n_used = b->n_used,
                        .expert = b->expert,
                        .weight = b->share,
                        .out = tensor_2d(b->out, DTYPE_F32, n_tokens, b->dim)};
        int64_t start = clock_us();
        b->ops->moe(&b->ctx, &args);
        double s = bench_seconds_since(start);
        if (r < 0) continue;
        limit = (MAX(limit, one) + probe_read_bandwidth(b->ctx.pool, PROBE_FOUR_PREFETCHED, 1)) / 2;
        touched += n_touched;
        seconds[r] = s;
        rate[r] = (double)b->expert_bytes / b->n_experts * n_touched / s;
        read[r] = rate[r] / limit;
        products[r] = flops / s / peak;
    }
    double middle = bench_median(seconds, b->n_rounds);
    printf("%s,%d,%s,%d,%d,%d,%d,%d,%.1f,%.3f,%.1f,%.0f,%.1f,%.0f\n", b->ops->level, b->n_threads,
           dtype_info(dtype)->name, b->dim, b->ff, b->n_experts, b->n_used, n_tokens,
           touched / b->n_rounds, 1e3 * middle, 1e-9 * bench_median(rate, b->n_rounds),
           100 * bench_median(read, b->n_rounds), 1e-9 * flops / middle,
           100 * bench_median(products, b->n_rounds));
    fflush(stdout);
}

static void bench_format(Bench *b, DType dtype) {
    b->expert_bytes = 0;
    for (int32_t i = 0; i < 3; i++)
        for (int32_t e = 0; e < b->n_experts; e++)
            b->expert_bytes += bench_weight(b->ops, &b->ctx, dtype, i == 2 ? b->dim : b->ff,
                                            i == 2 ? b->ff : b->dim, &b->weight[i][e]);
    static const int32_t n_tokens[] = {1, 4, 16, 64, TOKENS_MAX};
    for (size_t i = 0; i < ARRAY_LEN(n_tokens); i++) bench_tokens(b, dtype, n_tokens[i]);
    for (int32_t i = 0; i < 3; i++)
        for (int32_t e = 0; e < b->n_experts; e++)
            bench_weight_free(b->ops, &b->ctx, &b->weight[i][e]);
}

static void bench_run(Bench *b, const DType *dtype, int32_t n_dtypes) {
    OpsLimits limits = {.n_tokens_max = TOKENS_MAX,
                        .k_max = MAX(b->dim, b->ff),
                        .n_max = MAX(b->dim, b->ff),
                        .n_experts = b->n_experts,
                        .n_experts_used = b->n_used,
                        .expert_ff = b->ff};
    b->ctx = ops_testing_open(b->ops, &limits, b->n_threads);
    b->x = random_new((int64_t)TOKENS_MAX * b->dim, 1, 1);
    b->out = guard_new((int64_t)TOKENS_MAX * b->dim);
    printf(
        "level,threads,dtype,dim,ff,experts,used,tokens,touched,ms,gb_per_s,share_of_read_%%,"
        "gflop_per_s,share_of_products_%%\n");
    for (int32_t i = 0; i < n_dtypes; i++) bench_format(b, dtype[i]);
}

/* The int32_t option that text names, or NULL, and its largest value. */
static int32_t *bench_option(Bench *b, const char *text, int32_t *most) {
    static const char *const names[] = {"--threads", "--rounds",  "--dim",
                                        "--ff",      "--experts", "--used"};
    static const int32_t limits[] = {1024, ROUNDS_MAX, 8192, 32768, EXPERTS_MAX, USED_MAX};
    int32_t *const values[] = {&b->n_threads, &b->n_rounds,  &b->dim,
                               &b->ff,        &b->n_experts, &b->n_used};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        *most = limits[i];
        if (strcmp(text, names[i]) == 0) return values[i];
    }
    return NULL;
}

int main(int argc, char **argv) {
    static Bench b = {.n_rounds = 9, .dim = 2048, .ff = 768, .n_experts = 64, .n_used = 8};
    b.n_threads = thread_cores();
    const char *level = NULL;
    DType dtypes[DTYPE_COUNT] = {DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    int32_t n_dtypes = 0;
    for (int i = 1; i < argc; i++) {
        int32_t most, *value = bench_option(&b, argv[i], &most);
        int64_t n = 0;
        if (value != NULL && i + 1 < argc && str_to_i64(str_from(argv[i + 1]), &n) && n >= 1 &&
            n <= most)
            *value = (int32_t)n, i++;
        else if (i + 1 < argc && strcmp(argv[i], "--level") == 0)
            level = argv[++i];
        else if (n_dtypes < DTYPE_COUNT && dtype_from_name(str_from(argv[i]), &dtypes[n_dtypes]))
            n_dtypes++;
        else
            return fprintf(stderr, "bench_moe: '%s' is no option\n", argv[i]), 2;
    }
    Err err = {0};
    if (ops_cpu(&b.ops, level, &err) != OK) return fprintf(stderr, "%s\n", err.text), 2;
    while (strcmp(ops_level_name(b.level), b.ops->level) != 0) b.level++;
    if (b.n_used > b.n_experts) return fprintf(stderr, "bench_moe: more used than experts\n"), 2;
    bench_run(&b, dtypes, n_dtypes > 0 ? n_dtypes : 3);
    return 0;
}
