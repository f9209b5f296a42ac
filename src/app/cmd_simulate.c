/* cmd_simulate: how a load would run on machines that are not there, and how many it needs. */
#include <stdio.h>
#include <stdlib.h>

#include "app/cmd.h"
#include "app/load_report.h"
#include "app/session.h"
#include "app/simulate.h"
#include "base/json.h"
#include "base/mem.h"

enum { CMD_SIMULATE_REPLICAS_MAX = 1000 };

/* ---- the cost model ---- */

/* From the report of `sluice bench -o json`: the longest prefill and the decode test. */
static Status cmd_simulate_bench(SimCost *cost, const char *path, Err *err) {
    json_t *report;
    TRY(json_parse_file(&report, path, err));
    double prefill = 0, decode = 0, read_limit = 0;
    int64_t kv_bytes = 0;
    size_t i;
    const json_t *test;
    json_array_foreach(json_object_get(report, "tests"), i, test) {
        Str name = str_from(json_string_value(json_object_get(test, "test")));
        double rate = json_number_value(json_object_get(test, "tokens_per_s"));
        if (str_starts_with(name, "pp")) prefill = MAX(prefill, rate);
        if (str_starts_with(name, "tg")) decode = MAX(decode, rate);
    }
    Status status = json_get_number(report, "read_limit_bytes_per_s", 0, 1e18, &read_limit, err);
    if (status == OK)
        status = json_get_int(report, "kv_bytes_per_token", 1, INT32_MAX, &kv_bytes, err);
    json_decref(report);
    TRY(status);
    if (prefill <= 0 || decode <= 0 || read_limit <= 0 || kv_bytes == 0)
        FAIL(err, ERR_FORMAT,
             "'%s' is not a report of sluice bench -o json with a prefill and a decode test", path);
    *cost = (SimCost){.step_us = 1e6 / decode,
                      .token_us = 1e6 / prefill,
                      .kv_us_per_token = (double)kv_bytes / read_limit * 1e6,
                      .kv_bytes_per_token = kv_bytes};
    return OK;
}

static Status cmd_simulate_cost(SimCost *cost, const Config *config, Err *err) {
    if (config->bench_report != NULL) return cmd_simulate_bench(cost, config->bench_report, err);
    if (!config_given(config, CONFIG_prefill_speed) || !config_given(config, CONFIG_decode_speed))
        FAIL(err, ERR_ARG,
             "the machine is not described: give --bench-report FILE (made by sluice bench -o json)"
             ", or --prefill-speed and --decode-speed");
    *cost = (SimCost){
        .step_us = 1e6 / config->decode_speed,
        .token_us = 1e6 / config->prefill_speed,
        .kv_us_per_token =
            config->read_gbs > 0 ? (double)config->kv_token_bytes / config->read_gbs * 1e-3 : 0,
        .kv_bytes_per_token = config->kv_token_bytes};
    return OK;
}

static Status cmd_simulate_options(SimOptions *options, const Config *config, Err *err) {
    static const char *const routes[] = {"round-robin", "least-load", "affinity"};
    *options =
        (SimOptions){.n_replicas = (int32_t)config->replicas,
                     .kv_bytes = (config->kv_mb > 0 ? config->kv_mb : 16384) << 20,
                     .block_tokens = config->block_tokens > 0 ? (int32_t)config->block_tokens : 16,
                     .max_seqs = config->max_seqs > 0 ? (int32_t)config->max_seqs : 64,
                     .max_step_tokens = config->chunk > 0 ? (int32_t)config->chunk : 512,
                     .no_prefix_cache = config->no_prefix_cache};
    TRY(cmd_simulate_cost(&options->cost, config, err));
    TRY(session_policy(config, &options->policy, err));
    size_t i;
    for (i = 0; i < ARRAY_LEN(routes) && !str_is(str_from(config->route), routes[i]);) i++;
    if (i == ARRAY_LEN(routes))
        FAIL(err, ERR_ARG, "--route: got '%s', wanted round-robin, least-load or affinity",
             config->route);
    options->route = (SimRoute)i;
    return OK;
}

/* ---- runs ---- */

static void cmd_simulate_reset(LoadPlan *plan, LoadGaps *gaps) {
    gaps->n = 0;
    for (int32_t i = 0; i < plan->n_requests; i++) {
        LoadRequest *r = &plan->request[i];
        r->sent_us = r->first_us = r->last_us = 0;
        r->n_output = r->http_code = 0;
        r->n_prompt_seen = r->n_cached = -1;
        r->good = false;
    }
}

typedef struct SimRun {
    const Config *config;
    SimOptions options;
    LoadPlan plan;
    LoadGaps gaps;
    SimResult result;
    LoadReport report;
} SimRun;

static Status cmd_simulate_once(SimRun *run, int32_t n_replicas, Err *err) {
    run->options.n_replicas = n_replicas;
    cmd_simulate_reset(&run->plan, &run->gaps);
    TRY(simulate_run(&run->options, &run->plan, &run->gaps, &run->result, err));
    run->report = load_report_make(&run->plan, &run->gaps, run->result.total_us,
                                   run->config->slo_ttft, run->config->slo_tpot);
    return OK;
}

/* Share of the requests that kept the bounds. */
static double cmd_simulate_kept(const SimRun *run) {
    return run->report.goodput * run->report.seconds / run->plan.n_requests;
}

/* The fewest replicas with which slo-share of the requests keep the bounds: doubling, then halving
 * the gap. Ends with the answer's own run. */
static Status cmd_simulate_search(SimRun *run, Err *err) {
    if (run->config->slo_ttft <= 0 && run->config->slo_tpot <= 0)
        FAIL(err, ERR_ARG, "to find how many replicas it takes, give --slo-ttft or --slo-tpot");
    double wanted = run->config->slo_share;
    int32_t low = 0, high = 1;
    for (;; low = high, high = MIN(2 * high, (int32_t)CMD_SIMULATE_REPLICAS_MAX)) {
        TRY(cmd_simulate_once(run, high, err));
        if (cmd_simulate_kept(run) >= wanted) break;
        if (high == CMD_SIMULATE_REPLICAS_MAX)
            FAIL(err, ERR_LIMIT, "even %d replicas keep the bounds for only %.1f %% of requests",
                 high, 100 * cmd_simulate_kept(run));
    }
    while (high - low > 1) {
        int32_t middle = (low + high) / 2;
        TRY(cmd_simulate_once(run, middle, err));
        if (cmd_simulate_kept(run) >= wanted) {
            high = middle;
        } else {
            low = middle;
        }
    }
    return cmd_simulate_once(run, high, err);
}

static void cmd_simulate_print(const SimRun *run) {
    const SimResult *r = &run->result;
    const LoadReport *l = &run->report;
    double prompt = (double)MAX(r->n_prompt_tokens, (int64_t)1);
    printf(
        "| replicas | requests | failed | req/s | output tok/s | TTFT median | p99 ms | ITL median "
        "| p99 ms | hit rate | ideal | preempted | KV mean | max | busy |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
        "---: | ---: | ---: |\n");
    printf(
        "| %d | %d | %d | %.2f | %.1f | %.0f | %.0f | %.1f | %.1f | %.1f %% | %.1f %% | %lld | "
        "%.0f %% | %.0f %% | %.0f %% |\n",
        run->options.n_replicas, run->plan.n_requests, l->n_failed, l->requests_per_s,
        l->output_per_s, l->ttft.median, l->ttft.p99, l->itl.median, l->itl.p99,
        100 * (double)r->n_hit_tokens / prompt, 100 * (double)r->n_ideal_tokens / prompt,
        (long long)r->n_preempted, 100 * r->kv_mean, 100 * r->kv_max, 100 * r->busy);
    if (l->goodput >= 0)
        printf("\ngoodput %.2f req/s: %.1f %% of the requests kept the bounds\n", l->goodput,
               100 * cmd_simulate_kept(run));
    printf("\n%.1f s simulated in %.2f s (%.0f times real time), %lld steps\n", l->seconds,
           r->wall_s, l->seconds / MAX(r->wall_s, 1e-9), (long long)r->n_steps);
}

static void cmd_simulate_print_csv(const SimRun *run) {
    const SimResult *r = &run->result;
    const LoadReport *l = &run->report;
    printf(
        "replicas,requests,failed,requests_per_s,output_tokens_per_s,ttft_median_ms,ttft_p99_ms,"
        "itl_median_ms,itl_p99_ms,goodput_per_s,prompt_tokens,hit_tokens,ideal_hit_tokens,"
        "preemptions,kv_use_mean,kv_use_max,busy,seconds\n");
    printf("%d,%d,%d,%.3f,%.1f,%.1f,%.1f,%.2f,%.2f,", run->options.n_replicas, run->plan.n_requests,
           l->n_failed, l->requests_per_s, l->output_per_s, l->ttft.median, l->ttft.p99,
           l->itl.median, l->itl.p99);
    if (l->goodput >= 0) printf("%.3f", l->goodput);
    printf(",%lld,%lld,%lld,%lld,%.4f,%.4f,%.4f,%.1f\n", (long long)r->n_prompt_tokens,
           (long long)r->n_hit_tokens, (long long)r->n_ideal_tokens, (long long)r->n_preempted,
           r->kv_mean, r->kv_max, r->busy, l->seconds);
}

static void cmd_simulate_print_json(const SimRun *run) {
    const SimResult *r = &run->result;
    json_t *summary = load_report_json(&run->report), *use = json_array();
    for (int32_t i = 0; i < r->n_samples; i++) json_array_append_new(use, json_real(r->kv_use[i]));
    json_t *more = json_pack(
        "{s:i,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:o}", "replicas", (int)run->options.n_replicas,
        "steps", (json_int_t)r->n_steps, "preemptions", (json_int_t)r->n_preempted, "prompt_tokens",
        (json_int_t)r->n_prompt_tokens, "hit_tokens", (json_int_t)r->n_hit_tokens,
        "ideal_hit_tokens", (json_int_t)r->n_ideal_tokens, "busy", r->busy, "kv_use_mean",
        r->kv_mean, "kv_use_max", r->kv_max, "wall_seconds", r->wall_s, "kv_use", use);
    json_object_update(summary, more);
    json_decref(more);
    json_dumpf(summary, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(summary);
}

static Status cmd_simulate_show(const SimRun *run, Err *err) {
    const Config *config = run->config;
    const Str format = str_from(config->output);
    if (str_is(format, "json")) {
        cmd_simulate_print_json(run);
    } else if (str_is(format, "csv")) {
        cmd_simulate_print_csv(run);
    } else {
        cmd_simulate_print(run);
    }
    if (config->save_result != NULL)
        TRY(load_report_save_json(&run->report, &run->plan, config->save_result, err));
    if (config->svg == NULL) return OK;
    return load_report_save_svg(&run->report, &run->plan, run->result.kv_use, run->result.n_samples,
                                config->svg, err);
}

static Status cmd_simulate_run(SimRun *run, Err *err) {
    const Config *config = run->config;
    const Str format = str_from(config->output);
    if (!str_is(format, "md") && !str_is(format, "csv") && !str_is(format, "json"))
        FAIL(err, ERR_ARG, "--output: got '%s', wanted md, csv or json", config->output);
    TRY(cmd_simulate_options(&run->options, config, err));
    TRY(load_plan_make(&run->plan, config, err));
    if (run->plan.request[0].n_parts == 0)
        FAIL(err, ERR_ARG, "--prompts cannot be simulated: only lengths and traces");
    if (config->replicas == 0)
        TRY(cmd_simulate_search(run, err));
    else
        TRY(cmd_simulate_once(run, (int32_t)config->replicas, err));
    return cmd_simulate_show(run, err);
}

Status cmd_simulate(const Config *config, Err *err) {
    SimRun *run = mem_alloc(sizeof *run);
    run->config = config;
    const Status status = cmd_simulate_run(run, err);
    free(run->gaps.us);
    load_plan_free(&run->plan);
    mem_free(run);
    return status;
}
