/* cmd_bench: prefill and decode speed beside the machine's limits. */
#include <math.h>
#include <stdio.h>

#include "app/bench_batch.h"
#include "app/cmd.h"
#include "app/compute.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "app/machine.h"
#include "model/model_cost.h"

enum { CMD_BENCH_REPEAT_MAX = 1000 };

/* One line of the table. */
typedef struct BenchRow {
    char test[40];          /* pp512, tg128, tg128x16, tg128x16@8192 */
    double mean, deviation; /* tokens/s */
    double bytes_per_s;     /* weights and KV read */
    double flops_per_s;
    MachineLimits limits;    /* as measured before and after the test */
    double predicted;        /* tokens/s that they allow; 0: not known */
    double step_us, host_us; /* of a decode step on an accelerator, and the part before it has
                                the step's work; 0: not known */
} BenchRow;

typedef struct Bench {
    const Config *config;
    Compute compute;
    ModelBytes bytes;
    int32_t n_rows;
    BenchRow row[(CONFIG_LIST_MAX + 1) * CONFIG_LIST_MAX];
} Bench;

/* What one row measures. */
typedef struct BenchTest {
    int32_t n, n_seqs; /* tokens of each sequence; n_seqs 0: a prompt */
    int32_t depth;     /* tokens before them */
    BenchBatch *batch; /* of the decodes */
} BenchTest;

/* Tokens that are neither special nor all the same. */
static void cmd_bench_tokens(int32_t *token, int32_t n, int32_t vocab) {
    for (int32_t i = 0; i < n; i++) token[i] = (int32_t)((i * 7919ll + 101) % vocab);
}

static Status cmd_bench_prefill(Bench *bench, const int32_t *token, int32_t n, Err *err) {
    const float *logits;
    single_reset(bench->compute.single);
    return single_feed(bench->compute.single, token, n, 1, &logits, err);
}

static Status cmd_bench_decode(const BenchTest *test, Err *err) {
    for (int32_t i = 0; i < test->n; i++) TRY(bench_batch_step(test->batch, test->depth + i, err));
    return OK;
}

/* Keys and values of one token, in the dtype of the cache. */
static int64_t cmd_bench_kv_bytes(const Bench *bench) {
    const ModelConfig *m = model_config(bench->compute.model);
    return 2ll * m->n_layers * m->n_kv_heads * ops_kv_bytes(bench->compute.kv_dtype, m->head_dim);
}

/* Of one run. */
static ModelCost cmd_bench_cost(const Bench *bench, const BenchTest *test) {
    const ModelConfig *m = model_config(bench->compute.model);
    ModelCostFormat format = {
        (double)bench->bytes.stored / (double)bench->bytes.n_params,
        (double)ops_kv_bytes(bench->compute.kv_dtype, m->head_dim) / m->head_dim};
    int64_t chunk = bench->config->chunk > 0 ? bench->config->chunk : 512;
    if (test->n_seqs == 0) return model_cost_prefill(m, format, test->n, chunk);
    ModelCost cost = {0};
    for (int32_t i = 1; i <= test->n; i++)
        cost = model_cost_sum(cost, model_cost_decode(m, format, test->n_seqs, test->depth + i));
    return cost;
}

static int64_t cmd_bench_device_us(const BenchTest *test) {
    return test->n_seqs > 0 ? bench_batch_device_us(test->batch) : 0;
}

static Status cmd_bench_times(Bench *bench, const int32_t *token, const BenchTest *test,
                              BenchRow *row, double *rate, Err *err) {
    double n = (double)test->n * MAX(test->n_seqs, 1);
    int64_t all_us = 0, device_us = 0;
    for (int32_t r = -1; r < bench->config->repeat; r++) { /* one to warm up */
        if (r == 0) device_us = -cmd_bench_device_us(test);
        int64_t start_us = clock_us();
        TRY(test->n_seqs > 0 ? cmd_bench_decode(test, err)
                             : cmd_bench_prefill(bench, token, test->n, err));
        const int64_t us = MAX(clock_us() - start_us, (int64_t)1);
        if (r < 0) continue;
        rate[r] = n / ((double)us * 1e-6);
        all_us += us;
    }
    device_us += cmd_bench_device_us(test);
    if (device_us <= 0) return OK;
    const double n_steps = (double)test->n * (double)bench->config->repeat;
    row->step_us = (double)all_us / n_steps;
    row->host_us = (double)(all_us - device_us) / n_steps;
    return OK;
}

/* token: of a prompt. */
static Status cmd_bench_test(Bench *bench, const int32_t *token, const BenchTest *test, Err *err) {
    double rate[CMD_BENCH_REPEAT_MAX], sum = 0, sum_sq = 0;
    int32_t repeat = (int32_t)bench->config->repeat;
    MachineLimits before, after;
    TRY(machine_of(&bench->compute, &before, err));
    BenchRow *row = &bench->row[bench->n_rows];
    TRY(cmd_bench_times(bench, token, test, row, rate, err));
    TRY(machine_of(&bench->compute, &after, err));
    bench->n_rows++;
    for (int32_t r = 0; r < repeat; r++) sum += rate[r];
    double mean = sum / repeat, n = (double)test->n * MAX(test->n_seqs, 1);
    for (int32_t r = 0; r < repeat; r++) sum_sq += (rate[r] - mean) * (rate[r] - mean);
    int len =
        snprintf(row->test, sizeof row->test, "%s%d", test->n_seqs > 0 ? "tg" : "pp", test->n);
    if (test->n_seqs > 1)
        len += snprintf(row->test + len, sizeof row->test - (size_t)len, "x%d", test->n_seqs);
    if (test->depth > 0)
        snprintf(row->test + len, sizeof row->test - (size_t)len, "@%d", test->depth);
    row->mean = mean;
    row->deviation = repeat > 1 ? sqrt(sum_sq / (repeat - 1)) : 0;
    ModelCost cost = cmd_bench_cost(bench, test);
    row->limits = machine_mean(before, after);
    row->predicted =
        row->limits.read_bytes_per_s > 0 ? n / model_cost_seconds(cost, row->limits) : 0;
    row->bytes_per_s = (cost.weight_bytes + cost.kv_bytes) * mean / n;
    row->flops_per_s = (cost.matrix_flops + cost.attend_flops) * mean / n;
    return OK;
}

static Status cmd_bench_decode_test(Bench *bench, int64_t n, int64_t n_seqs, Err *err) {
    BenchTest test = {
        .n = (int32_t)n, .n_seqs = (int32_t)n_seqs, .depth = (int32_t)bench->config->depth};
    int32_t block_tokens =
        bench->config->block_tokens > 0 ? (int32_t)bench->config->block_tokens : 16;
    TRY(bench_batch_open(&test.batch, &bench->compute, test.n_seqs, test.depth + test.n,
                         block_tokens, err));
    Status status = cmd_bench_test(bench, NULL, &test, err);
    bench_batch_close(test.batch);
    return status;
}

/* Tokens of the longest test. */
static int64_t cmd_bench_longest(const Config *config) {
    int64_t longest = 1;
    for (int32_t i = 0; i < config->n_prompt.n; i++)
        longest = MAX(longest, config->n_prompt.item[i]);
    for (int32_t i = 0; i < config->n_gen.n; i++)
        longest = MAX(longest, config->depth + config->n_gen.item[i]);
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
            status = cmd_bench_test(bench, token,
                                    &(BenchTest){.n = (int32_t)config->n_prompt.item[i]}, err);
    for (int32_t i = 0; i < config->n_gen.n; i++)
        for (int32_t b = 0; b < config->batch.n && status == OK; b++)
            if (config->n_gen.item[i] > 0)
                status =
                    cmd_bench_decode_test(bench, config->n_gen.item[i], config->batch.item[b], err);
    mem_free(token);
    return status;
}

static double cmd_bench_share(double value, double limit) {
    return limit > 0 ? 100 * value / limit : 0;
}

static const char *cmd_bench_dtype(const Bench *bench) {
    return dtype_info(model_config(bench->compute.model)->weight_dtype)->name;
}

static void cmd_bench_print_host(const Bench *bench) {
    bool some = false;
    for (int32_t i = 0; i < bench->n_rows; i++) {
        const BenchRow *row = &bench->row[i];
        if (row->step_us <= 0) continue;
        if (!some)
            printf("\n| test | step us | host us | %% of step |\n| --- | ---: | ---: | ---: |\n");
        some = true;
        printf("| %s | %.1f | %.1f | %.1f |\n", row->test, row->step_us, row->host_us,
               cmd_bench_share(row->host_us, row->step_us));
    }
}

static void cmd_bench_print_md(const Bench *bench, const char *name) {
    int32_t threads = pool_threads(bench->compute.pool);
    printf(
        "| model | size | params | level | threads | test | tokens/s | limit | %% of limit | GB/s "
        "| "
        "%% of read | GFLOP/s | %% of products |\n");
    printf(
        "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | "
        "---: |\n");
    for (int32_t i = 0; i < bench->n_rows; i++) {
        const BenchRow *row = &bench->row[i];
        const MachineLimits *limits = &row->limits;
        printf(
            "| %s %s | %.1f MB | %.1f M | %s | %d | %s | %.1f +- %.1f | %.1f | %.0f | %.1f | %.0f "
            "| %.1f | %.0f |\n",
            name, cmd_bench_dtype(bench), (double)bench->bytes.stored / 1e6,
            (double)bench->bytes.n_params / 1e6, bench->compute.ops->level, threads, row->test,
            row->mean, row->deviation, row->predicted, cmd_bench_share(row->mean, row->predicted),
            row->bytes_per_s / 1e9, cmd_bench_share(row->bytes_per_s, limits->read_bytes_per_s),
            row->flops_per_s / 1e9, cmd_bench_share(row->flops_per_s, limits->matrix_flops_per_s));
    }
    cmd_bench_print_host(bench);
    if (bench->n_rows == 0) return;
    const MachineLimits *limits = &bench->row[bench->n_rows - 1].limits;
    printf(
        "\nlimits here, %d threads: read %.1f GB/s, products %.0f GFLOP/s, attention %.0f GFLOP/s, "
        "a run of the pool %.1f us\n",
        threads, limits->read_bytes_per_s / 1e9, limits->matrix_flops_per_s / 1e9,
        limits->attend_flops_per_s / 1e9, limits->run_s * 1e6);
}

static void cmd_bench_print_csv(const Bench *bench, const char *name) {
    printf(
        "model,dtype,bytes,params,level,threads,test,tokens_per_s,deviation,gb_per_s,"
        "read_limit_gb_per_s,gflop_per_s,attend_limit_gflop_per_s,products_limit_gflop_per_s,"
        "predicted_tokens_per_s,step_us,host_us\n");
    for (int32_t i = 0; i < bench->n_rows; i++) {
        const BenchRow *row = &bench->row[i];
        printf("%s,%s,%lld,%lld,%s,%d,%s,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.1f,%.1f\n", name,
               cmd_bench_dtype(bench), (long long)bench->bytes.stored,
               (long long)bench->bytes.n_params, bench->compute.ops->level,
               pool_threads(bench->compute.pool), row->test, row->mean, row->deviation,
               row->bytes_per_s / 1e9, row->limits.read_bytes_per_s / 1e9, row->flops_per_s / 1e9,
               row->limits.attend_flops_per_s / 1e9, row->limits.matrix_flops_per_s / 1e9,
               row->predicted, row->step_us, row->host_us);
    }
}

static void cmd_bench_print_json(const Bench *bench, const char *name) {
    json_t *rows = json_array();
    MachineLimits limits = {0};
    for (int32_t i = 0; i < bench->n_rows; i++) {
        const BenchRow *row = &bench->row[i];
        limits = row->limits;
        json_array_append_new(
            rows,
            json_pack("{s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "test", row->test, "tokens_per_s",
                      row->mean, "deviation", row->deviation, "bytes_per_s", row->bytes_per_s,
                      "flops_per_s", row->flops_per_s, "read_limit_bytes_per_s",
                      row->limits.read_bytes_per_s, "predicted_tokens_per_s", row->predicted,
                      "step_us", row->step_us, "host_us", row->host_us));
    }
    json_t *report = json_pack(
        "{s:s,s:s,s:I,s:I,s:I,s:s,s:i,s:f,s:f,s:f,s:f,s:o}", "model", name, "dtype",
        cmd_bench_dtype(bench), "bytes", (json_int_t)bench->bytes.stored, "params",
        (json_int_t)bench->bytes.n_params, "kv_bytes_per_token",
        (json_int_t)cmd_bench_kv_bytes(bench), "level", bench->compute.ops->level, "threads",
        (int)pool_threads(bench->compute.pool), "read_limit_bytes_per_s", limits.read_bytes_per_s,
        "products_limit_flops_per_s", limits.matrix_flops_per_s, "attend_limit_flops_per_s",
        limits.attend_flops_per_s, "pool_run_s", limits.run_s, "tests", rows);
    json_dumpf(report, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(report);
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
    if (config->limits) return machine_print(config, err);
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
