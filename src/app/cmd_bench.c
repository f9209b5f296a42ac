/* cmd_bench: prefill and decode speed beside the machine's limits. */
#include <math.h>
#include <stdio.h>

#include "app/cmd.h"
#include "app/compute.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "ops/probe.h"

enum { CMD_BENCH_REPEAT_MAX = 1000, CMD_BENCH_PROBE_ROUNDS = 9 };

/* One line of the table. */
typedef struct BenchRow {
    char test[24];          /* pp512, tg128 */
    double mean, deviation; /* tokens/s */
    double bytes_per_s;     /* weights and KV read */
    double flops_per_s;
} BenchRow;

typedef struct Bench {
    const Config *config;
    Compute compute;
    ModelBytes bytes;
    double read_limit, flop_limit; /* of this machine now; 0: unknown */
    int32_t n_rows;
    BenchRow row[2 * CONFIG_LIST_MAX];
} Bench;

/* Tokens that are neither special nor all the same. */
static void cmd_bench_tokens(int32_t *token, int32_t n, int32_t vocab) {
    for (int32_t i = 0; i < n; i++) token[i] = (int32_t)((i * 7919ll + 101) % vocab);
}

static Status cmd_bench_prefill(Bench *bench, const int32_t *token, int32_t n, Err *err) {
    const float *logits;
    single_reset(bench->compute.single);
    return single_feed(bench->compute.single, token, n, 1, &logits, err);
}

static Status cmd_bench_decode(Bench *bench, const int32_t *token, int32_t n, Err *err) {
    const float *logits;
    single_reset(bench->compute.single);
    for (int32_t i = 0; i < n; i++)
        TRY(single_feed(bench->compute.single, token + i, 1, 1, &logits, err));
    return OK;
}

/* Keys and values of one token, in the dtype of the cache. */
static int64_t cmd_bench_kv_bytes(const Bench *bench) {
    const ModelConfig *m = model_config(bench->compute.model);
    int64_t n = 2ll * m->n_layers * m->n_kv_heads * m->head_dim;
    return n * dtype_info(bench->compute.kv_dtype)->group_bytes;
}

/* Bytes and operations of one run: prefill reads the weights once per chunk, decode once per
 * token; both read the keys and values of the tokens before. Two operations per active parameter
 * and token, and 4 * n_heads * head_dim per token, layer and earlier token for attention. */
static void cmd_bench_cost(const Bench *bench, int32_t n, bool decode, double *bytes,
                           double *flops) {
    const ModelConfig *m = model_config(bench->compute.model);
    int64_t chunk = bench->config->chunk > 0 ? bench->config->chunk : 512;
    double passes = decode ? n : (double)DIV_UP(n, chunk);
    double pairs = 0.5 * n * (n + 1.0);
    double kv_bytes = (double)cmd_bench_kv_bytes(bench);
    *bytes = passes * (double)bench->bytes.per_token + (decode ? pairs * kv_bytes : 0);
    double embedding = (double)m->vocab * m->dim;
    /* Logits are made once per prefill, and the input embedding is a look-up. */
    double dense =
        (double)bench->bytes.n_params_active - (m->tied_embeddings ? embedding : 2 * embedding);
    *flops = 2 * dense * n + 2 * embedding * (decode ? n : 1) +
             4 * pairs * m->n_layers * m->n_heads * m->head_dim;
}

static Status cmd_bench_test(Bench *bench, const int32_t *token, int32_t n, bool decode, Err *err) {
    double rate[CMD_BENCH_REPEAT_MAX], sum = 0, sum_sq = 0;
    int32_t repeat = (int32_t)bench->config->repeat;
    for (int32_t r = -1; r < repeat; r++) { /* one to warm up */
        int64_t start_us = clock_us();
        TRY(decode ? cmd_bench_decode(bench, token, n, err)
                   : cmd_bench_prefill(bench, token, n, err));
        if (r >= 0) rate[r] = n / ((double)MAX(clock_us() - start_us, (int64_t)1) * 1e-6);
    }
    for (int32_t r = 0; r < repeat; r++) sum += rate[r];
    double mean = sum / repeat;
    for (int32_t r = 0; r < repeat; r++) sum_sq += (rate[r] - mean) * (rate[r] - mean);
    BenchRow *row = &bench->row[bench->n_rows++];
    snprintf(row->test, sizeof row->test, "%s%d", decode ? "tg" : "pp", n);
    row->mean = mean;
    row->deviation = repeat > 1 ? sqrt(sum_sq / (repeat - 1)) : 0;
    double bytes, flops;
    cmd_bench_cost(bench, n, decode, &bytes, &flops);
    row->bytes_per_s = bytes * mean / n;
    row->flops_per_s = flops * mean / n;
    return OK;
}

/* Tokens of the longest test. */
static int64_t cmd_bench_longest(const Config *config) {
    int64_t longest = 1;
    for (int32_t i = 0; i < config->n_prompt.n; i++)
        longest = MAX(longest, config->n_prompt.item[i]);
    for (int32_t i = 0; i < config->n_gen.n; i++) longest = MAX(longest, config->n_gen.item[i]);
    return longest;
}

static Status cmd_bench_tests(Bench *bench, Err *err) {
    const Config *config = bench->config;
    const ModelConfig *model = model_config(bench->compute.model);
    int64_t longest = cmd_bench_longest(config);
    if (longest > model->context)
        FAIL(err, ERR_ARG, "a test of %lld tokens does not fit the model's context of %d",
             (long long)longest, model->context);
    int32_t *token = mem_alloc((size_t)longest * sizeof *token);
    cmd_bench_tokens(token, (int32_t)longest, model->vocab);
    Status status = OK;
    for (int32_t i = 0; i < config->n_prompt.n && status == OK; i++)
        if (config->n_prompt.item[i] > 0)
            status = cmd_bench_test(bench, token, (int32_t)config->n_prompt.item[i], false, err);
    for (int32_t i = 0; i < config->n_gen.n && status == OK; i++)
        if (config->n_gen.item[i] > 0)
            status = cmd_bench_test(bench, token, (int32_t)config->n_gen.item[i], true, err);
    mem_free(token);
    return status;
}

static double cmd_bench_share(double value, double limit) {
    return limit > 0 ? 100 * value / limit : 0;
}

static void cmd_bench_print_md(const Bench *bench, const char *name) {
    int32_t threads = pool_threads(bench->compute.pool);
    printf(
        "| model | size | params | level | threads | test | tokens/s | GB/s | %% of read | "
        "GFLOP/s | %% of f32 |\n");
    printf("| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n");
    for (int32_t i = 0; i < bench->n_rows; i++) {
        const BenchRow *row = &bench->row[i];
        printf(
            "| %s %s | %.1f MB | %.1f M | %s | %d | %s | %.1f +- %.1f | %.1f | %.0f | %.1f | "
            "%.0f |\n",
            name, dtype_info(model_config(bench->compute.model)->weight_dtype)->name,
            (double)bench->bytes.stored / 1e6, (double)bench->bytes.n_params / 1e6,
            bench->compute.ops->level, threads, row->test, row->mean, row->deviation,
            row->bytes_per_s / 1e9, cmd_bench_share(row->bytes_per_s, bench->read_limit),
            row->flops_per_s / 1e9, cmd_bench_share(row->flops_per_s, bench->flop_limit));
    }
    printf("\nlimits here, %d threads: read %.1f GB/s, f32 %.0f GFLOP/s\n", threads,
           bench->read_limit / 1e9, bench->flop_limit / 1e9);
}

static void cmd_bench_print_csv(const Bench *bench, const char *name) {
    printf(
        "model,dtype,bytes,params,level,threads,test,tokens_per_s,deviation,gb_per_s,"
        "read_limit_gb_per_s,gflop_per_s,f32_limit_gflop_per_s\n");
    for (int32_t i = 0; i < bench->n_rows; i++) {
        const BenchRow *row = &bench->row[i];
        printf("%s,%s,%lld,%lld,%s,%d,%s,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f\n", name,
               dtype_info(model_config(bench->compute.model)->weight_dtype)->name,
               (long long)bench->bytes.stored, (long long)bench->bytes.n_params,
               bench->compute.ops->level, pool_threads(bench->compute.pool), row->test, row->mean,
               row->deviation, row->bytes_per_s / 1e9, bench->read_limit / 1e9,
               row->flops_per_s / 1e9, bench->flop_limit / 1e9);
    }
}

static void cmd_bench_print_json(const Bench *bench, const char *name) {
    json_t *rows = json_array();
    for (int32_t i = 0; i < bench->n_rows; i++) {
        const BenchRow *row = &bench->row[i];
        json_array_append_new(
            rows, json_pack("{s:s,s:f,s:f,s:f,s:f}", "test", row->test, "tokens_per_s", row->mean,
                            "deviation", row->deviation, "bytes_per_s", row->bytes_per_s,
                            "flops_per_s", row->flops_per_s));
    }
    json_t *report =
        json_pack("{s:s,s:s,s:I,s:I,s:I,s:s,s:i,s:f,s:f,s:o}", "model", name, "dtype",
                  dtype_info(model_config(bench->compute.model)->weight_dtype)->name, "bytes",
                  (json_int_t)bench->bytes.stored, "params", (json_int_t)bench->bytes.n_params,
                  "kv_bytes_per_token", (json_int_t)cmd_bench_kv_bytes(bench), "level",
                  bench->compute.ops->level, "threads", (int)pool_threads(bench->compute.pool),
                  "read_limit_bytes_per_s", bench->read_limit, "f32_limit_flops_per_s",
                  bench->flop_limit, "tests", rows);
    json_dumpf(report, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(report);
}

static OpsLevel cmd_bench_best_level(void) {
    return ops_cpu_has(OPS_AVX512) ? OPS_AVX512 : ops_cpu_has(OPS_AVX2) ? OPS_AVX2 : OPS_REF;
}

/* --limits: the machine alone. */
static Status cmd_bench_limits(const Config *config, Err *err) {
    int32_t n_max = config->threads > 0 ? (int32_t)config->threads : thread_cores();
    printf(
        "| threads | read GB/s | f32 GFLOP/s avx2 | f32 GFLOP/s avx512 | int8 GOP/s avx2 | "
        "int8 GOP/s avx512 |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for (int32_t n = 1; n <= n_max; n = n < n_max ? MIN(n * 2, n_max) : n + 1) {
        ThreadPool *pool;
        TRY(pool_open(&pool, n, err));
        printf("| %d | %.1f | %.0f | %.0f | %.0f | %.0f |\n", n,
               probe_read_bandwidth(pool, CMD_BENCH_PROBE_ROUNDS) / 1e9,
               probe_f32_fma(pool, OPS_AVX2, CMD_BENCH_PROBE_ROUNDS) / 1e9,
               probe_f32_fma(pool, OPS_AVX512, CMD_BENCH_PROBE_ROUNDS) / 1e9,
               probe_int8_dot(pool, OPS_AVX2, CMD_BENCH_PROBE_ROUNDS) / 1e9,
               probe_int8_dot(pool, OPS_AVX512, CMD_BENCH_PROBE_ROUNDS) / 1e9);
        pool_close(pool);
    }
    return OK;
}

/* What --shape and MODEL say; *path is NULL for a shape. */
static Status cmd_bench_source(const Config *config, ComputeOptions *options, char **path,
                               Err *err) {
    *path = NULL;
    options->context_max = (int32_t)cmd_bench_longest(config);
    if (config->shape == NULL) {
        if (config->source[CONFIG_type] == CONFIG_COMMAND_LINE)
            FAIL(err, ERR_ARG, "--type is for --shape; a model file has its own number formats");
        TRY(cmd_model_path(config, path, err));
        options->path = *path;
        return OK;
    }
    if (config->n_args > 0) FAIL(err, ERR_ARG, "--shape and a model file exclude each other");
    if (!dtype_from_name(str_from(config->type), &options->shape_type))
        FAIL(err, ERR_ARG, "--type: got '%s', wanted a number format such as bf16 or q4_k",
             config->type);
    return model_shape_find(str_from(config->shape), &options->shape, err);
}

static Status cmd_bench_run(Bench *bench, const ComputeOptions *options, Err *err) {
    TRY(compute_open(&bench->compute, bench->config, options, err));
    bench->bytes = model_bytes(bench->compute.model);
    bench->read_limit = probe_read_bandwidth(bench->compute.pool, CMD_BENCH_PROBE_ROUNDS);
    bench->flop_limit =
        probe_f32_fma(bench->compute.pool, cmd_bench_best_level(), CMD_BENCH_PROBE_ROUNDS);
    return cmd_bench_tests(bench, err);
}

static void cmd_bench_print(const Bench *bench, const ComputeOptions *options, Str format) {
    const char *name = options->shape != NULL ? options->shape->name : options->path;
    const char *slash = strrchr(name, '/');
    name = slash != NULL && slash[1] != '\0' ? slash + 1 : name;
    if (str_is(format, "csv")) {
        cmd_bench_print_csv(bench, name);
    } else if (str_is(format, "json")) {
        cmd_bench_print_json(bench, name);
    } else {
        cmd_bench_print_md(bench, name);
    }
}

Status cmd_bench(const Config *config, Err *err) {
    if (config->limits) return cmd_bench_limits(config, err);
    Str format = str_from(config->output);
    if (!str_is(format, "md") && !str_is(format, "csv") && !str_is(format, "json"))
        FAIL(err, ERR_ARG, "--output: got '%s', wanted md, csv or json", config->output);
    char *path;
    Bench bench = {.config = config};
    ComputeOptions options = {0};
    Status status = cmd_bench_source(config, &options, &path, err);
    if (status == OK) status = cmd_bench_run(&bench, &options, err);
    if (status == OK) cmd_bench_print(&bench, &options, format);
    compute_close(&bench.compute);
    mem_free(path);
    return status;
}
