#include "server/server_metrics.h"

#include <time.h>

#include "base/process.h"
#include "server/server_priv.h"

/* vLLM's buckets. */
static const double FIRST_TOKEN_S[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                       1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double TOKEN_S[] = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,
                                 .4,   .5,    .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
static const double REQUEST_S[] = {.001, .01, .1, .3, .5, .8, 1,   1.5, 2,   2.5, 5,    10,
                                   15,   20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double TOKENS[] = {1,   2,    5,    10,   20,    50,    100,   200,
                                500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
static const double STEP_TOKENS[] = {1,   8,    16,   32,   64,   128,  256,
                                     512, 1024, 2048, 4096, 8192, 16384};
static const double COUNT[] = {1, 2, 5, 10, 20};

/* Every status that this server replies with; what is missing counts as the last. */
static const int32_t SERVER_CODE[SERVER_CODES] = {200, 400, 401, 403, 404, 405, 408, 411, 413,
                                                  414, 417, 429, 431, 499, 501, 503, 505, 500};

#define METRICS_INIT(histogram, bounds) histogram_init(histogram, bounds, ARRAY_LEN(bounds))

void server_metrics_init(ServerMetrics *m) {
    METRICS_INIT(&m->first_token, FIRST_TOKEN_S);
    METRICS_INIT(&m->inter_token, TOKEN_S);
    METRICS_INIT(&m->per_output_token, TOKEN_S);
    METRICS_INIT(&m->e2e, REQUEST_S);
    METRICS_INIT(&m->queue, REQUEST_S);
    METRICS_INIT(&m->prefill, REQUEST_S);
    METRICS_INIT(&m->decode, REQUEST_S);
    METRICS_INIT(&m->inference, REQUEST_S);
    METRICS_INIT(&m->prompt_tokens, TOKENS);
    METRICS_INIT(&m->output_tokens, TOKENS);
    METRICS_INIT(&m->max_tokens, TOKENS);
    METRICS_INIT(&m->longest, TOKENS);
    METRICS_INIT(&m->n, COUNT);
    recent_init(&m->recent_first);
    recent_init(&m->recent_gap);
    for (int i = 0; i < SERVER_FINISHES; i++) atomic_init(&m->finished[i], 0);
}

void server_metrics_free(ServerMetrics *m) {
    recent_free(&m->recent_first);
    recent_free(&m->recent_gap);
}

static int server_metrics_finish(sluice_finish finish) {
    if (finish == SLUICE_FINISH_STOP) return 0;
    if (finish == SLUICE_FINISH_LENGTH) return 1;
    return finish == SLUICE_FINISH_ERROR ? 3 : 2;
}

void server_metrics_tokens(ServerMetrics *m, int64_t now_us, int64_t since_us, bool first) {
    double seconds = (double)(now_us - since_us) * 1e-6;
    histogram_observe(first ? &m->first_token : &m->inter_token, seconds);
    recent_add(first ? &m->recent_first : &m->recent_gap, now_us, seconds);
}

void server_metrics_end(ServerMetrics *m, const sluice_event *event) {
    const sluice_usage *usage = event->usage;
    atomic_fetch_add(&m->finished[server_metrics_finish(event->finish)], 1);
    if (event->finish != SLUICE_FINISH_STOP && event->finish != SLUICE_FINISH_LENGTH) return;
    double total = (double)usage->total_us * 1e-6, first = (double)usage->first_token_us * 1e-6;
    double queue = (double)usage->queue_us * 1e-6;
    histogram_observe(&m->e2e, total);
    histogram_observe(&m->queue, queue);
    histogram_observe(&m->prefill, MAX(first - queue, 0));
    histogram_observe(&m->decode, MAX(total - first, 0));
    histogram_observe(&m->inference, MAX(total - queue, 0));
    histogram_observe(&m->prompt_tokens, usage->n_prompt);
    histogram_observe(&m->output_tokens, usage->n_output);
    if (usage->n_output > 1)
        histogram_observe(&m->per_output_token, (total - first) / (usage->n_output - 1));
}

void server_metrics_longest(ServerMetrics *m, int32_t n_tokens) {
    histogram_observe(&m->longest, n_tokens);
}

void server_metrics_request(ServerMetrics *m, const sluice_request *request) {
    histogram_observe(&m->n, MAX(request->n, 1));
    if (request->max_tokens > 0) histogram_observe(&m->max_tokens, request->max_tokens);
}

void server_metrics_http_done(ServerMetrics *m, int32_t route, int32_t code) {
    int32_t i = 0;
    while (i < SERVER_CODES - 1 && SERVER_CODE[i] != code) i++;
    atomic_fetch_add(&m->http[route][i], 1);
}

/* ---- text ---- */

static void server_metrics_one(Buf *out, const char *name, const char *type, const char *help,
                               const char *labels, double value) {
    metrics_head(out, name, type, help);
    metrics_value(out, name, labels, value);
}

static void server_metrics_engine(const sluice_stats *s, bool fast, const char *labels, Buf *out) {
    double usage = s->n_blocks > 0 ? (double)s->n_blocks_used / s->n_blocks : 0;
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"vllm:num_requests_running", "gauge", "Sequences in the batch.", s->n_running},
        {"vllm:num_requests_waiting", "gauge", "Requests in the queue.", s->n_waiting},
        {"vllm:kv_cache_usage_perc", "gauge", "Share of KV blocks in use, 0 to 1.", usage},
        {"vllm:num_preemptions_total", "counter", "Sequences preempted.", (double)s->n_preempted},
        {"vllm:prompt_tokens_total", "counter", "Prompt tokens computed.",
         (double)s->n_prompt_tokens},
        {"vllm:generation_tokens_total", "counter", "Tokens generated.",
         (double)s->n_output_tokens},
        {"vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the cache.",
         (double)s->prefix_query_tokens},
        {"vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the cache.",
         (double)s->prefix_hit_tokens},
        {"sluice_kv_blocks", "gauge", "KV blocks in all.", s->n_blocks},
        {"sluice_kv_blocks_free", "gauge", "KV blocks that hold nothing.", s->n_blocks_free},
        {"sluice_kv_blocks_cached", "gauge", "KV blocks that hold only cached prefixes.",
         s->n_blocks_cached},
        {"sluice_kv_slots_wasted", "gauge", "Slots of used blocks without a token.",
         (double)s->kv_slots_wasted},
        {"sluice_evicted_blocks_total", "counter", "Cached blocks that had to leave.",
         (double)s->n_evicted_blocks},
        {"sluice_steps_total", "counter", "Steps of the engine.", (double)s->n_steps},
        {"sluice_step_seconds_total", "counter", "Time spent in steps.",
         (double)s->step_us_total * 1e-6},
        {"sluice_device_seconds_total", "counter",
         "Steps' time in which an accelerator had work; the rest is the host's.",
         (double)s->device_us_total * 1e-6},
        {"sluice_device_memory_bytes", "gauge",
         "Of an accelerator's memory, in use when the engine was ready.", (double)s->device_bytes},
        {"sluice_fast", "gauge", "1: with --fast, which gives up that bits do not depend on load.",
         fast},
        {"sluice_nonfinite_logits_total", "counter", "Sequences ended by a NaN; 0 in health.",
         (double)s->n_nonfinite},
        {"sluice_checksum_errors_total", "counter", "Blocks that came back changed; 0 in health.",
         (double)s->n_checksum_errors},
        {"sluice_disk_blocks_restored_total", "counter", "Blocks taken from --kv-dir at the start.",
         (double)s->n_disk_restored},
        {"sluice_disk_blocks_written_total", "counter", "Blocks written to --kv-dir.",
         (double)s->n_disk_written},
        {"sluice_disk_write_failures_total", "counter", "Of them that failed; 0 in health.",
         (double)s->n_disk_failed},
        {"sluice_disk_damaged_total", "counter", "Records of --kv-dir that were not whole.",
         (double)s->n_disk_damaged},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        server_metrics_one(out, rows[i].name, rows[i].type, rows[i].help, labels, rows[i].value);
}

static void server_metrics_histograms(const ServerMetrics *m, const char *labels, Buf *out) {
    const struct {
        const char *name, *help;
        const Histogram *histogram;
    } rows[] = {
        {"vllm:time_to_first_token_seconds", "Submission to first token.", &m->first_token},
        {"vllm:inter_token_latency_seconds", "Between tokens.", &m->inter_token},
        {"vllm:request_time_per_output_token_seconds", "Mean per request.", &m->per_output_token},
        {"vllm:e2e_request_latency_seconds", "Submission to end.", &m->e2e},
        {"vllm:request_queue_time_seconds", "In the queue.", &m->queue},
        {"vllm:request_prefill_time_seconds", "From the queue to the first token.", &m->prefill},
        {"vllm:request_decode_time_seconds", "First token to end.", &m->decode},
        {"vllm:request_inference_time_seconds", "From the queue to the end.", &m->inference},
        {"vllm:request_prompt_tokens", "Prompt tokens of a request.", &m->prompt_tokens},
        {"vllm:request_generation_tokens", "Generated tokens of a sequence.", &m->output_tokens},
        {"vllm:request_max_num_generation_tokens", "Tokens of a request's longest sequence.",
         &m->longest},
        {"vllm:request_params_max_tokens", "max_tokens asked for.", &m->max_tokens},
        {"vllm:request_params_n", "n asked for.", &m->n},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        metrics_head(out, rows[i].name, "histogram", rows[i].help);
        metrics_histogram(out, rows[i].name, labels, rows[i].histogram);
    }
}

/* What the kernel tells of this process, under Prometheus' usual names. */
static void server_metrics_process(Buf *out) {
    const ProcessStats p = process_stats();
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"process_resident_memory_bytes", "gauge", "Resident memory.", (double)p.resident_bytes},
        {"process_virtual_memory_bytes", "gauge", "Address space.", (double)p.virtual_bytes},
        {"process_cpu_seconds_total", "counter", "User and system time.", p.cpu_s},
        {"process_open_fds", "gauge", "Open file descriptors.", p.n_files},
        {"process_max_fds", "gauge", "Limit of open file descriptors.", (double)p.n_files_max},
        {"process_start_time_seconds", "gauge", "Start, since the epoch.", p.start_s},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        server_metrics_one(out, rows[i].name, rows[i].type, rows[i].help, "", rows[i].value);
}

static void server_metrics_http(const Server *server, Buf *out) {
    HttpStats http = http_stats(server->http);
    server_metrics_one(out, "sluice_http_connections", "gauge", "Open connections.", "",
                       (double)http.n_connections);
    server_metrics_one(out, "sluice_http_open_requests", "gauge", "Requests without their reply.",
                       "", (double)http.n_open);
    server_metrics_one(out, "sluice_http_cut_total", "counter",
                       "Clients cut for slowness; 0 in health.", "", (double)http.n_cut);
    metrics_head(out, "http_requests_total", "counter",
                 "HTTP requests by path, method and status (499: the client left).");
    for (int32_t route = 0; route <= ROUTE_MAX; route++) {
        for (int32_t i = 0; i < SERVER_CODES; i++) {
            uint64_t n = atomic_load(&server->metrics.http[route][i]);
            if (n == 0) continue;
            Buf labels = {0};
            metrics_label(&labels, "handler", str_from(route_path(route)));
            metrics_label(&labels, "method", str_from(route_method(route)));
            buf_append_format(&labels, ",status=\"%d\"", SERVER_CODE[i]);
            metrics_value(out, "http_requests_total", labels.data, (double)n);
            buf_free(&labels);
        }
    }
}

/* The engine counts its steps by their size; here they become a histogram. */
static void server_metrics_steps(const sluice_stats *s, const char *labels, Buf *out) {
    static const char name[] = "vllm:iteration_tokens_total";
    _Static_assert(ARRAY_LEN(STEP_TOKENS) + 1 == SLUICE_STEP_SIZES, "one count too many or few");
    Histogram steps;
    METRICS_INIT(&steps, STEP_TOKENS);
    for (int i = 0; i < SLUICE_STEP_SIZES; i++)
        atomic_store(&steps.count[i], (uint64_t)s->n_steps_by_tokens[i]);
    atomic_store(&steps.sum_micro, (uint64_t)s->n_step_tokens * 1000000);
    metrics_head(out, name, "histogram", "Tokens of a step of the engine.");
    metrics_histogram(out, name, labels, &steps);
}

static void server_metrics_finishes(const ServerMetrics *m, Str labels, Buf *out) {
    static const char *const finishes[SERVER_FINISHES] = {"stop", "length", "abort", "error"};
    metrics_head(out, "vllm:request_success_total", "counter", "Sequences by how they ended.");
    for (int i = 0; i < SERVER_FINISHES; i++) {
        Buf row = {0};
        buf_append_str(&row, labels);
        metrics_label(&row, "finished_reason", str_from(finishes[i]));
        metrics_value(out, "vllm:request_success_total", row.data,
                      (double)atomic_load(&m->finished[i]));
        buf_free(&row);
    }
}

void server_metrics_write(Server *server, Buf *out) {
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(server->engine, &stats);
    Buf labels = {0};
    metrics_label(&labels, "engine", STR_LIT("0"));
    metrics_label(&labels, "model_name", str_from(server->model_name));
    server_metrics_engine(&stats, server->options.plan->fast, labels.data, out);
    server_metrics_one(out, "sluice_watchdog_warnings_total", "counter",
                       "Times that the engine stood still too long; 0 in health.", labels.data,
                       (double)atomic_load(&server->n_stalls));
    server_metrics_histograms(&server->metrics, labels.data, out);
    server_metrics_steps(&stats, labels.data, out);
    server_metrics_finishes(&server->metrics, buf_str(&labels), out);
    size_t n_common = labels.len;
    buf_append_format(&labels, ",block_size=\"%d\",num_gpu_blocks=\"%d\"",
                      server->options.plan->block_tokens, stats.n_blocks);
    server_metrics_one(out, "vllm:cache_config_info", "gauge", "The KV cache's shape.", labels.data,
                       1);
    labels.len = n_common;
    buf_append_text(&labels,
                    ",max_lora=\"0\",running_lora_adapters=\"\","
                    "waiting_lora_adapters=\"\"");
    server_metrics_one(out, "vllm:lora_requests_info", "gauge",
                       "Adapters in use (none here); the value is the time.", labels.data,
                       (double)time(NULL));
    buf_free(&labels);
    server_metrics_http(server, out);
    server_metrics_process(out);
}
