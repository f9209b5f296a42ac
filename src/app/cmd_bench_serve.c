/* cmd_bench_serve: an open-loop load against any OpenAI server, and what it felt like. */
#include <stdio.h>
#include <stdlib.h>

#include "app/cmd.h"
#include "app/load_plan.h"
#include "app/load_report.h"

Status cmd_bench_serve(const Config *config, Err *err) {
    LoadPlan plan;
    LoadGaps gaps = {0};
    int64_t total_us = 0;
    LoadTarget target = {.url = config->url,
                         .ca = config->tls_ca,
                         .path = config->endpoint,
                         .model = config->model_name,
                         .api_key = config->api_key,
                         .n_running_max = (int32_t)config->concurrency,
                         .timeout_s = config->request_timeout};
    Status status = load_plan_make(&plan, config, err);
    if (status == OK) status = load_gen_run(&plan, &target, &gaps, &total_us, err);
    if (status == OK) {
        LoadReport report =
            load_report_make(&plan, &gaps, total_us, config->slo_ttft, config->slo_tpot);
        load_report_print(&report);
        if (plan.failure[0] != '\0') fprintf(stderr, "the first failure: %s\n", plan.failure);
        if (config->save_result != NULL)
            status = load_report_save_json(&report, &plan, config->save_result, err);
        if (status == OK && config->svg != NULL)
            status = load_report_save_svg(&report, &plan, NULL, 0, config->svg, err);
        if (status == OK && report.n_good == 0)
            status = err_set(err, ERR_IO, "no request got its whole answer from %s", config->url);
    }
    free(gaps.us);
    load_plan_free(&plan);
    return status;
}
