/* load_report: what a load's run comes to, under vLLM's names and formulas. */
#pragma once

#include "app/load_gen.h"
#include "base/json.h"

typedef struct LoadStat {
    double mean, median, p99; /* milliseconds */
} LoadStat;

typedef struct LoadReport {
    int32_t n_good, n_failed, n_refused; /* refused: 429 and 503, part of failed */
    double seconds;
    int64_t n_input, n_output, n_cached;
    LoadStat ttft, tpot, itl, e2e;
    double requests_per_s, output_per_s, total_per_s;
    double goodput; /* requests per second that kept both bounds; -1: no bounds given */
} LoadReport;

/* TTFT: first text - sent. TPOT: (last text - first text) / (output tokens - 1). ITL: gaps between
 * pieces. Bounds in milliseconds, 0: not given. */
LoadReport load_report_make(const LoadPlan *plan, LoadGaps *gaps, int64_t total_us,
                            double ttft_ms_max, double tpot_ms_max);
void load_report_print(const LoadReport *report);
/* The summary as a JSON object; the caller drops it. */
json_t *load_report_json(const LoadReport *report);
/* Summary and every request. */
MUST_USE Status load_report_save_json(const LoadReport *report, const LoadPlan *plan,
                                      const char *path, Err *err);
/* A picture: each request a line from sending to end, the part before its first token pale; below,
 * when given, the share of KV blocks in use over the same time, kv_use[n_kv]. */
MUST_USE Status load_report_save_svg(const LoadReport *report, const LoadPlan *plan,
                                     const double *kv_use, int32_t n_kv, const char *path,
                                     Err *err);
