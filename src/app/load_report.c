#include "app/load_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

static int load_report_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear interpolation between the neighbours, as numpy does. */
static double load_report_quantile(const double *sorted, size_t n, double q) {
    double at = q * (double)(n - 1);
    size_t low = (size_t)at;
    if (low + 1 >= n) return sorted[n - 1];
    return sorted[low] + (sorted[low + 1] - sorted[low]) * (at - (double)low);
}

/* Sorts the values (milliseconds). */
static LoadStat load_report_stat(double *values, size_t n) {
    if (n == 0) return (LoadStat){0};
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += values[i];
    qsort(values, n, sizeof *values, load_report_compare);
    return (LoadStat){sum / (double)n, load_report_quantile(values, n, 0.5),
                      load_report_quantile(values, n, 0.99)};
}

static double load_report_tpot_ms(const LoadRequest *r) {
    return (double)(r->last_us - r->first_us) / 1e3 / (r->n_output - 1);
}

static void load_report_count(LoadReport *report, const LoadRequest *r) {
    if (!r->good) {
        report->n_failed++;
        report->n_refused += r->http_code == 429 || r->http_code == 503;
        return;
    }
    report->n_good++;
    report->n_input += r->n_prompt_seen >= 0 ? r->n_prompt_seen : MAX(r->n_prompt, 0);
    report->n_output += r->n_output;
    report->n_cached += MAX(r->n_cached, 0);
}

LoadReport load_report_make(const LoadPlan *plan, LoadGaps *gaps, int64_t total_us,
                            double ttft_ms_max, double tpot_ms_max) {
    LoadReport report = {.seconds = (double)total_us / 1e6};
    size_t n_all = (size_t)plan->n_requests + 1, n_first = 0, n_per = 0, n_kept = 0;
    double *first = mem_alloc(n_all * sizeof *first), *per = mem_alloc(n_all * sizeof *per);
    double *whole = mem_alloc(n_all * sizeof *whole), *gap = mem_alloc((gaps->n + 1) * sizeof *gap);
    for (int32_t i = 0; i < plan->n_requests; i++) {
        const LoadRequest *r = &plan->request[i];
        load_report_count(&report, r);
        if (!r->good || r->first_us == 0) continue;
        double ttft = (double)(r->first_us - r->sent_us) / 1e3;
        double tpot = r->n_output > 1 ? load_report_tpot_ms(r) : 0;
        whole[n_first] = (double)(r->last_us - r->sent_us) / 1e3;
        first[n_first++] = ttft;
        if (r->n_output > 1) per[n_per++] = tpot;
        n_kept +=
            (ttft_ms_max <= 0 || ttft <= ttft_ms_max) && (tpot_ms_max <= 0 || tpot <= tpot_ms_max);
    }
    for (size_t i = 0; i < gaps->n; i++) gap[i] = (double)gaps->us[i] / 1e3;
    report.ttft = load_report_stat(first, n_first);
    report.tpot = load_report_stat(per, n_per);
    report.e2e = load_report_stat(whole, n_first);
    report.itl = load_report_stat(gap, gaps->n);
    double seconds = MAX(report.seconds, 1e-9);
    report.requests_per_s = report.n_good / seconds;
    report.output_per_s = (double)report.n_output / seconds;
    report.total_per_s = (double)(report.n_output + report.n_input) / seconds;
    report.goodput = ttft_ms_max > 0 || tpot_ms_max > 0 ? (double)n_kept / seconds : -1;
    mem_free(first);
    mem_free(per);
    mem_free(whole);
    mem_free(gap);
    return report;
}

static void load_report_print_stat(const char *title, const char *name, LoadStat stat) {
    int width = 50 - (int)strlen(title);
    printf("%.*s%s%.*s\n", width / 2, "-------------------------", title, width - width / 2,
           "-------------------------");
    printf("Mean %s (ms):%*.2f\n", name, 50 - (int)strlen(name) - 11, stat.mean);
    printf("Median %s (ms):%*.2f\n", name, 50 - (int)strlen(name) - 13, stat.median);
    printf("P99 %s (ms):%*.2f\n", name, 50 - (int)strlen(name) - 10, stat.p99);
}

void load_report_print(const LoadReport *r) {
    printf("============ Serving Benchmark Result ============\n");
    printf("Successful requests:%30d\n", r->n_good);
    printf("Failed requests:%34d\n", r->n_failed);
    if (r->n_refused > 0) printf("  of these refused (429, 503):%20d\n", r->n_refused);
    printf("Benchmark duration (s):%27.2f\n", r->seconds);
    printf("Total input tokens:%31lld\n", (long long)r->n_input);
    printf("  of these from the prefix cache:%17lld\n", (long long)r->n_cached);
    printf("Total generated tokens:%27lld\n", (long long)r->n_output);
    printf("Request throughput (req/s):%23.2f\n", r->requests_per_s);
    if (r->goodput >= 0) printf("Request goodput (req/s):%26.2f\n", r->goodput);
    printf("Output token throughput (tok/s):%18.2f\n", r->output_per_s);
    printf("Total token throughput (tok/s):%19.2f\n", r->total_per_s);
    load_report_print_stat("Time to First Token", "TTFT", r->ttft);
    load_report_print_stat("Time per Output Token (excl. 1st token)", "TPOT", r->tpot);
    load_report_print_stat("Inter-token Latency", "ITL", r->itl);
    load_report_print_stat("End-to-end Latency", "E2EL", r->e2e);
    printf("==================================================\n");
}

/* ---- files ---- */

static Status load_report_write(const char *path, const char *text, Err *err) {
    FileWriter writer;
    TRY(file_writer_open(&writer, path, err));
    fputs(text, writer.stream);
    return file_writer_commit(&writer, err);
}

/* Adds mean_NAME, median_NAME and p99_NAME. */
static void load_report_stat_json(json_t *object, const char *name, LoadStat stat) {
    const struct {
        const char *what;
        double value;
    } rows[] = {{"mean", stat.mean}, {"median", stat.median}, {"p99", stat.p99}};
    char key[32];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        snprintf(key, sizeof key, "%s_%s", rows[i].what, name);
        json_object_set_new(object, key, json_real(rows[i].value));
    }
}

json_t *load_report_json(const LoadReport *r) {
    json_t *object =
        json_pack("{s:i,s:i,s:i,s:f,s:I,s:I,s:I,s:f,s:f,s:f,s:f}", "completed", (int)r->n_good,
                  "failed", (int)r->n_failed, "refused", (int)r->n_refused, "duration", r->seconds,
                  "total_input_tokens", (json_int_t)r->n_input, "total_output_tokens",
                  (json_int_t)r->n_output, "cached_tokens", (json_int_t)r->n_cached,
                  "request_throughput", r->requests_per_s, "output_throughput", r->output_per_s,
                  "total_token_throughput", r->total_per_s, "request_goodput", r->goodput);
    load_report_stat_json(object, "ttft_ms", r->ttft);
    load_report_stat_json(object, "tpot_ms", r->tpot);
    load_report_stat_json(object, "itl_ms", r->itl);
    load_report_stat_json(object, "e2el_ms", r->e2e);
    return object;
}

Status load_report_save_json(const LoadReport *r, const LoadPlan *plan, const char *path,
                             Err *err) {
    json_t *requests = json_array(), *root = load_report_json(r);
    for (int32_t i = 0; i < plan->n_requests; i++) {
        const LoadRequest *q = &plan->request[i];
        json_array_append_new(
            requests,
            json_pack("{s:b,s:i,s:I,s:I,s:I,s:I,s:i,s:i,s:i}", "good", q->good, "http_code",
                      (int)q->http_code, "due_us", (json_int_t)q->at_us, "sent_us",
                      (json_int_t)q->sent_us, "first_us", (json_int_t)q->first_us, "last_us",
                      (json_int_t)q->last_us, "prompt_tokens",
                      (int)MAX(q->n_prompt_seen, q->n_prompt), "output_tokens", (int)q->n_output,
                      "cached_tokens", (int)MAX(q->n_cached, 0)));
    }
    json_object_set_new(root, "requests", requests);
    char *text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    if (text == NULL) FAIL(err, ERR_NOMEM, "no memory for the report");
    Status status = load_report_write(path, text, err);
    free(text);
    return status;
}

/* ---- the picture ---- */

enum { SVG_WIDTH = 960, SVG_LEFT = 16, SVG_TOP = 56, SVG_ROWS = 560, SVG_KV = 120, SVG_AXIS = 40 };

static void load_report_svg_rect(Buf *svg, double x, double y, double width, double height,
                                 const char *fill) {
    buf_append_format(svg,
                      "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" "
                      "fill=\"%s\"/>\n",
                      x, y, width, height, fill);
}

static void load_report_svg_requests(const LoadReport *r, const LoadPlan *plan, Buf *svg) {
    double x_scale = (SVG_WIDTH - 2 * SVG_LEFT) / MAX(r->seconds * 1e6, 1.0);
    double y_step = (double)SVG_ROWS / MAX(plan->n_requests, 1);
    double line = MAX(MIN(y_step * 0.7, 10), 0.4);
    for (int32_t i = 0; i < plan->n_requests; i++) {
        const LoadRequest *q = &plan->request[i];
        double y = SVG_TOP + y_step * i, x0 = SVG_LEFT + (double)q->sent_us * x_scale;
        double x1 = SVG_LEFT + (double)MAX(q->first_us, q->sent_us) * x_scale;
        double x2 = SVG_LEFT + (double)MAX(q->last_us, q->sent_us) * x_scale;
        if (q->good) {
            load_report_svg_rect(svg, x0, y, x1 - x0, line, "#9fd0d3");
            load_report_svg_rect(svg, x1, y, MAX(x2 - x1, 0.5), line, "#0b6b74");
        } else {
            load_report_svg_rect(svg, x0, y, MAX(x2 - x0, 2), line, "#c33");
        }
    }
}

static void load_report_svg_kv(const double *kv_use, int32_t n_kv, Buf *svg) {
    double base = SVG_TOP + SVG_ROWS + SVG_AXIS + SVG_KV;
    double step = (double)(SVG_WIDTH - 2 * SVG_LEFT) / n_kv;
    for (int32_t i = 0; i < n_kv; i++)
        load_report_svg_rect(svg, SVG_LEFT + step * i, base - SVG_KV * kv_use[i] * 0.8, step,
                             SVG_KV * kv_use[i] * 0.8, "#d9a441");
    buf_append_format(svg,
                      "<text x=\"%d\" y=\"%.0f\" fill=\"#666\">KV blocks in use (full height: "
                      "all)</text>\n",
                      SVG_LEFT, base - SVG_KV * 0.85);
}

Status load_report_save_svg(const LoadReport *r, const LoadPlan *plan, const double *kv_use,
                            int32_t n_kv, const char *path, Err *err) {
    Buf svg = {0};
    buf_append_format(&svg,
                      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                      "font-family=\"sans-serif\" font-size=\"13\">\n"
                      "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
                      "<text x=\"%d\" y=\"22\">%d requests in %.1f s: %.1f output tokens/s, TTFT "
                      "median %.0f ms, p99 %.0f ms</text>\n"
                      "<text x=\"%d\" y=\"42\" fill=\"#666\">pale: until the first token; dark: "
                      "until the last; red: failed</text>\n",
                      SVG_WIDTH, SVG_TOP + SVG_ROWS + SVG_AXIS + (n_kv > 0 ? SVG_KV + 16 : 0),
                      SVG_LEFT, plan->n_requests, r->seconds, r->output_per_s, r->ttft.median,
                      r->ttft.p99, SVG_LEFT);
    for (int k = 0; k <= 4; k++)
        load_report_svg_rect(&svg, SVG_LEFT + (SVG_WIDTH - 2 * SVG_LEFT) * k / 4.0 - 0.5,
                             SVG_TOP - 4, 1, SVG_ROWS + 8, "#eee");
    load_report_svg_requests(r, plan, &svg);
    for (int k = 0; k <= 4; k++)
        buf_append_format(&svg,
                          "<text x=\"%.1f\" y=\"%d\" fill=\"#666\" text-anchor=\"%s\">%.1f s"
                          "</text>\n",
                          SVG_LEFT + (SVG_WIDTH - 2 * SVG_LEFT) * k / 4.0, SVG_TOP + SVG_ROWS + 24,
                          k == 0   ? "start"
                          : k == 4 ? "end"
                                   : "middle",
                          r->seconds * k / 4);
    if (n_kv > 0) load_report_svg_kv(kv_use, n_kv, &svg);
    buf_append_text(&svg, "</svg>\n");
    Status status = svg.failed ? err_set(err, ERR_NOMEM, "no memory for the picture")
                               : load_report_write(path, svg.data, err);
    buf_free(&svg);
    return status;
}
