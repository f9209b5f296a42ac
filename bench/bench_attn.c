/* bench_attn: attention alone, for head sizes, ratios of heads and formats of the cache.
 *
 * usage: bench_attn [--level L] [--threads N] [--rounds N] [--context N] [--seqs N] [--dim N]
 *                   [--ratio N] [--prefill N] [--kv-heads N] [--layers N] [dtype ...]
 *
 * Decode: one query a sequence over `context` tokens, through as many layers as fill 256 MB, which
 * no cache holds, or through --layers of them: --kv-heads 1 --layers 1 --context 1024 stays in L2,
 * and shows what the arithmetic takes. The read bandwidth is probed before and after each round,
 * since the machine may be shared; the share is the median of the rounds'. Bytes are those of the
 * keys and values, once for all query heads of a KV head. Prefill: a prompt of N tokens through
 * one layer, in operations of the pairs that causality leaves, against the FMA probed beside it.
 * Blocks of 16 tokens in shuffled order. Prints CSV. */
#include "ops/bench_testing.h"

#include "model/kv_store.h"
#include "ops/ops_priv.h"
#include "ops/probe.h"

enum {
    WIDTH = 2048, /* of all query heads, about */
    BLOCK = 16,
    ROUNDS_MAX = 99,
    ARENA_BYTES = 256 << 20,
    CALLS_MIN = 64, /* of a round of decodes */
    SEQS_MAX = 64,
};

typedef struct Bench {
    const Ops *ops;
    OpsLevel level;
    OpCtx ctx;
    int32_t n_threads, n_rounds, context, n_seqs, prefill;
    int32_t dim, ratio;           /* 0: all */
    int32_t n_kv_heads, n_layers; /* 0: see above */
    char *arena;                  /* keys and values of all layers */
    float *q, *out;
    int32_t *block_id;
    int32_t query_start[SEQS_MAX + 1], kv_len[SEQS_MAX], table_start[SEQS_MAX + 1];
} Bench;

/* One row of the table. */
typedef struct BenchShape {
    int32_t dim, n_heads, n_kv_heads;
    DType dtype;
    int64_t part_bytes; /* keys or values of a layer */
    int32_t n_blocks, n_layers;
} BenchShape;

static double bench_read(const Bench *b) {
    double one = probe_read_bandwidth(b->ctx.pool, PROBE_ONE_STREAM, 1);
    return MAX(one, probe_read_bandwidth(b->ctx.pool, PROBE_FOUR_PREFETCHED, 1));
}

/* Sequences of `len` tokens that bring `n_queries` each; blocks in shuffled order. */
static void bench_tables(Bench *b, const BenchShape *s, int32_t n_seqs, int32_t len,
                         int32_t n_queries) {
    int32_t per_seq = DIV_UP(len, (int32_t)BLOCK), n = n_seqs * per_seq, step = n / 2 | 1;
    assert_true(n <= s->n_blocks);
    while (n % 3 == 0 && step % 3 == 0) step += 2;
    for (int32_t i = 0; i < n; i++) b->block_id[i] = (int32_t)((int64_t)i * step % n);
    for (int32_t i = 0; i <= n_seqs; i++) {
        b->query_start[i] = i * n_queries;
        b->table_start[i] = i * per_seq;
        if (i < n_seqs) b->kv_len[i] = len;
    }
}

/* Random numbers of the dtype all over the arena, and every vector's scale. */
static void bench_fill(Bench *b, const BenchShape *s) {
    enum { SOME = 1 << 16 };
    static float x[SOME];
    random_fill(x, SOME, 3, 1);
    int64_t n = ARENA_BYTES / dtype_info(s->dtype)->group_bytes;
    for (int64_t i = 0; i < n; i++) {
        float v = x[(i * 7 + i / SOME) % SOME];
        if (s->dtype == DTYPE_F32) ((float *)(void *)b->arena)[i] = v;
        if (s->dtype == DTYPE_F16) ((uint16_t *)(void *)b->arena)[i] = f16_from_f32(v);
        if (s->dtype == DTYPE_BF16) ((uint16_t *)(void *)b->arena)[i] = bf16_from_f32(v);
        if (s->dtype == DTYPE_I8) b->arena[i] = (char)(int8_t)(30 * v);
    }
    KvView kv = {
        .dtype = DTYPE_I8, .block_tokens = BLOCK, .n_kv_heads = s->n_kv_heads, .head_dim = s->dim};
    const float scale = 1.0f / 30;
    for (int64_t p = 0; s->dtype == DTYPE_I8 && p < 2ll * s->n_layers; p++)
        for (int64_t slot = 0; slot < (int64_t)s->n_blocks * BLOCK; slot++)
            for (int64_t h = 0; h < s->n_kv_heads; h++)
                memcpy(b->arena + p * s->part_bytes + ops_kv_scale_offset(&kv, slot, h), &scale, 4);
}

static void bench_layer(Bench *b, const BenchShape *s, int32_t layer, int32_t n_seqs) {
    int64_t n_tokens = b->query_start[n_seqs];
    AttnArgs args = {.q = tensor_3d(b->q, DTYPE_F32, n_tokens, s->n_heads, s->dim),
                     .out = tensor_3d(b->out, DTYPE_F32, n_tokens, s->n_heads, s->dim),
                     .kv = {.k = b->arena + 2 * layer * s->part_bytes,
                            .v = b->arena + (2 * layer + 1) * s->part_bytes,
                            .dtype = s->dtype,
                            .n_blocks = s->n_blocks,
                            .block_tokens = BLOCK,
                            .n_kv_heads = s->n_kv_heads,
                            .head_dim = s->dim},
                     .n_seqs = n_seqs,
                     .query_start = b->query_start,
                     .kv_len = b->kv_len,
                     .table_start = b->table_start,
                     .block_id = b->block_id,
                     .scale = 1.0f / sqrtf((float)s->dim),
                     .causal = true};
    b->ops->attn(&b->ctx, &args);
}

static void bench_decode(Bench *b, const BenchShape *s) {
    double rate[ROUNDS_MAX], share[ROUNDS_MAX];
    const int32_t n_calls = MAX(s->n_layers, (int32_t)CALLS_MIN);
    double bytes = 2.0 * b->n_seqs * b->context * s->n_kv_heads *
                   (double)ops_kv_bytes(s->dtype, s->dim) * n_calls;
    bench_tables(b, s, b->n_seqs, b->context, 1);
    bench_layer(b, s, 0, b->n_seqs);
    for (int32_t r = 0; r < b->n_rounds; r++) {
        double limit = bench_read(b);
        int64_t start = clock_us();
        for (int32_t l = 0; l < n_calls; l++) bench_layer(b, s, l % s->n_layers, b->n_seqs);
        rate[r] = bytes / bench_seconds_since(start);
        share[r] = 2 * rate[r] / (limit + bench_read(b));
    }
    printf("decode,%s,%d,%d,%d,%d,%s,%d,%d,%.1f,GB/s,%.0f\n", b->ops->level, b->n_threads, s->dim,
           s->n_heads, s->n_kv_heads, kv_store_dtype_name(s->dtype), b->n_seqs, b->context,
           1e-9 * bench_median(rate, b->n_rounds), 100 * bench_median(share, b->n_rounds));
}

static void bench_prefill(Bench *b, const BenchShape *s) {
    double rate[ROUNDS_MAX], share[ROUNDS_MAX], n = b->prefill;
    double flops = 4.0 * n * (n + 1) / 2 * s->n_heads * s->dim;
    bench_tables(b, s, 1, b->prefill, b->prefill);
    for (int32_t r = 0; r < b->n_rounds; r++) {
        double limit = probe_products(b->ctx.pool, b->level, DTYPE_F32, 1);
        int64_t start = clock_us();
        bench_layer(b, s, r % s->n_layers, 1);
        rate[r] = flops / bench_seconds_since(start);
        share[r] = rate[r] / limit;
    }
    printf("prefill,%s,%d,%d,%d,%d,%s,1,%d,%.1f,GFLOP/s,%.0f\n", b->ops->level, b->n_threads,
           s->dim, s->n_heads, s->n_kv_heads, kv_store_dtype_name(s->dtype), b->prefill,
           1e-9 * bench_median(rate, b->n_rounds), 100 * bench_median(share, b->n_rounds));
}

static void bench_shape(Bench *b, int32_t dim, int32_t ratio, DType dtype) {
    BenchShape s = {.dim = dim, .n_heads = WIDTH / dim / 8 * 8, .dtype = dtype};
    s.n_kv_heads = s.n_heads / ratio;
    if (b->n_kv_heads > 0) s.n_kv_heads = b->n_kv_heads, s.n_heads = b->n_kv_heads * ratio;
    s.n_blocks = DIV_UP(MAX(b->context * b->n_seqs, b->prefill), (int32_t)BLOCK) + b->n_seqs;
    s.part_bytes = s.n_blocks * BLOCK * s.n_kv_heads * ops_kv_bytes(dtype, dim);
    s.n_layers = (int32_t)(ARENA_BYTES / (2 * s.part_bytes));
    if (s.n_layers < 1 || s.n_heads * dim > WIDTH) {
        fprintf(stderr, "bench_attn: %d heads of %d, a layer of %lld MB: more than it keeps\n",
                s.n_heads, dim, (long long)(2 * s.part_bytes >> 20));
        return;
    }
    if (b->n_layers > 0) s.n_layers = MIN(s.n_layers, b->n_layers);
    bench_fill(b, &s);
    bench_decode(b, &s);
    if (b->prefill > 0) bench_prefill(b, &s);
    fflush(stdout);
}

static void bench_open(Bench *b) {
    int32_t n_tokens = MAX(b->prefill, b->n_seqs);
    OpsLimits limits = {.n_tokens_max = n_tokens,
                        .n_seqs_max = b->n_seqs,
                        .k_max = WIDTH,
                        .n_max = WIDTH,
                        .n_heads = WIDTH / 64,
                        .n_kv_heads = WIDTH / 64,
                        .head_dim = 256};
    b->ctx = ops_testing_open(b->ops, &limits, b->n_threads);
    b->q = random_new((int64_t)n_tokens * WIDTH, 1, 1);
    b->out = guard_new((int64_t)n_tokens * WIDTH);
    b->block_id = mem_alloc(sizeof(int32_t) * (size_t)(ARENA_BYTES / BLOCK));
    b->arena = mem_try_alloc_large(ARENA_BYTES);
    assert_non_null(b->arena);
}

/* The int32_t option that text names, or NULL. */
static int32_t *bench_option(Bench *b, const char *text) {
    static const char *const names[] = {"--threads", "--rounds",  "--context",  "--seqs",  "--dim",
                                        "--ratio",   "--prefill", "--kv-heads", "--layers"};
    int32_t *const values[] = {&b->n_threads, &b->n_rounds, &b->context,    &b->n_seqs,  &b->dim,
                               &b->ratio,     &b->prefill,  &b->n_kv_heads, &b->n_layers};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(text, names[i]) == 0) return values[i];
    return NULL;
}

int main(int argc, char **argv) {
    static const int32_t dims[] = {64, 80, 96, 128, 256}, ratios[] = {1, 4, 8};
    Bench b = {.n_threads = thread_cores(), .n_rounds = 5, .context = 4096, .n_seqs = 1};
    b.prefill = 2048;
    const char *level = NULL;
    DType dtypes[DTYPE_COUNT] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8};
    int32_t n_dtypes = 0;
    for (int i = 1; i < argc; i++) {
        int32_t *value = bench_option(&b, argv[i]);
        int64_t n = 0;
        if (value != NULL && i + 1 < argc && str_to_i64(str_from(argv[i + 1]), &n) && n >= 0 &&
            n <= 1 << 20)
            *value = (int32_t)n, i++;
        else if (i + 1 < argc && strcmp(argv[i], "--level") == 0)
            level = argv[++i];
        else if (n_dtypes < DTYPE_COUNT && strcmp(argv[i], "int8") == 0)
            dtypes[n_dtypes++] = DTYPE_I8;
        else if (n_dtypes < DTYPE_COUNT && dtype_from_name(str_from(argv[i]), &dtypes[n_dtypes]))
            n_dtypes++;
        else
            return fprintf(stderr, "bench_attn: '%s' is no option\n", argv[i]), 2;
    }
    Err err = {0};
    if (ops_cpu(&b.ops, level, &err) != OK) return fprintf(stderr, "%s\n", err.text), 2;
    b.n_rounds = MIN(MAX(b.n_rounds, 1), (int32_t)ROUNDS_MAX);
    b.n_seqs = MIN(MAX(b.n_seqs, 1), (int32_t)SEQS_MAX);
    while (strcmp(ops_level_name(b.level), b.ops->level) != 0) b.level++;
    bench_open(&b);
    printf("what,level,threads,head_dim,heads,kv_heads,kv_dtype,seqs,tokens,rate,unit,share_%%\n");
    for (size_t d = 0; d < ARRAY_LEN(dims); d++)
        for (size_t r = 0; r < ARRAY_LEN(ratios); r++)
            for (int32_t t = 0; t < MAX(n_dtypes, 3 * (n_dtypes == 0)); t++)
                if ((b.dim == 0 || b.dim == dims[d]) && (b.ratio == 0 || b.ratio == ratios[r]))
                    bench_shape(&b, dims[d], ratios[r], dtypes[t]);
    return 0;
}
