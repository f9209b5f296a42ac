/* api_dashboard: the figures of the page /dashboard, as one JSON object. Everything is read from
 * copies that the engine leaves behind: a look costs it nothing. */
#include "base/clock.h"
#include "base/process.h"
#include "server/api.h"
#include "server/server_priv.h"

enum { API_DASHBOARD_WINDOW_US = 60 * 1000 * 1000, API_DASHBOARD_ROWS = 200 };

/* p50, p90 and p99 in milliseconds over the last minute. */
static json_t *api_dashboard_recent(Recent *recent, int64_t now_us) {
    static const double q[] = {0.5, 0.9, 0.99};
    double s[ARRAY_LEN(q)];
    int32_t n = recent_quantiles(recent, now_us - API_DASHBOARD_WINDOW_US, q, ARRAY_LEN(q), s);
    return json_pack("{s:i,s:f,s:f,s:f}", "n", (int)n, "p50", s[0] * 1e3, "p90", s[1] * 1e3, "p99",
                     s[2] * 1e3);
}

static json_t *api_dashboard_engine(const sluice_stats *s) {
    return json_pack("{s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "running", (int)s->n_running,
                     "waiting", (int)s->n_waiting, "steps", (json_int_t)s->n_steps, "step_us",
                     (json_int_t)s->step_us_total, "prompt_tokens", (json_int_t)s->n_prompt_tokens,
                     "output_tokens", (json_int_t)s->n_output_tokens, "query_tokens",
                     (json_int_t)s->prefix_query_tokens, "hit_tokens",
                     (json_int_t)s->prefix_hit_tokens, "preempted", (json_int_t)s->n_preempted,
                     "evicted", (json_int_t)s->n_evicted_blocks);
}

static json_t *api_dashboard_memory(const sluice_engine_plan *plan) {
    return json_pack(
        "{s:I,s:I,s:I,s:I,s:I}", "resident", (json_int_t)process_stats().resident_bytes, "weights",
        (json_int_t)plan->weight_bytes, "kv", (json_int_t)plan->kv_bytes, "activations",
        (json_int_t)plan->activation_bytes, "other", (json_int_t)plan->other_bytes);
}

static json_t *api_dashboard_finished(const ServerMetrics *m) {
    return json_pack("{s:I,s:I,s:I,s:I}", "stop", (json_int_t)atomic_load(&m->finished[0]),
                     "length", (json_int_t)atomic_load(&m->finished[1]), "abort",
                     (json_int_t)atomic_load(&m->finished[2]), "error",
                     (json_int_t)atomic_load(&m->finished[3]));
}

/* One row: a call and its engine requests, which own blocks by their ids. */
static json_t *api_dashboard_call(const ApiCall *call, int64_t now_us) {
    int64_t start_us = http_start_us(call->exchange), first_us = atomic_load(&call->first_us);
    json_int_t n_prompt = 0;
    json_t *ids = json_array();
    for (int32_t i = 0; i < call->n_prompts; i++) {
        n_prompt += (json_int_t)call->prompt[i].n;
        if (i < atomic_load(&call->n_submitted))
            json_array_append_new(ids, json_integer((json_int_t)call->prompt[i].request));
    }
    return json_pack("{s:s,s:s,s:o,s:I,s:i,s:i,s:f,s:f}", "id", call->id, "path",
                     http_path(call->exchange), "requests", ids, "prompt_tokens", n_prompt,
                     "output_tokens", (int)atomic_load(&call->n_seen), "sequences",
                     (int)call->n_choices, "age_ms", (double)(now_us - start_us) * 1e-3, "ttft_ms",
                     first_us == 0 ? -1 : (double)(first_us - start_us) * 1e-3);
}

/* The newest first, at most API_DASHBOARD_ROWS of them; *n_all: how many there are. */
static json_t *api_dashboard_calls(Server *server, int64_t now_us, int *n_all) {
    json_t *rows = json_array();
    *n_all = 0;
    pthread_mutex_lock(&server->calls_lock);
    for (const ApiCall *call = server->calls; call != NULL; call = call->next)
        if ((*n_all)++ < API_DASHBOARD_ROWS)
            json_array_append_new(rows, api_dashboard_call(call, now_us));
    pthread_mutex_unlock(&server->calls_lock);
    return rows;
}

static json_t *api_dashboard_blocks(Server *server, int64_t now_us) {
    json_t *blocks = block_map_json(&server->blocks, server->engine, now_us);
    json_object_set_new(blocks, "tokens", json_integer(server->options.plan->block_tokens));
    return blocks;
}

static json_t *api_dashboard_model(const Server *server) {
    const sluice_engine_plan *plan = server->options.plan;
    return json_pack("{s:s,s:s,s:s,s:I,s:s,s:i,s:i,s:s,s:i}", "name", server->model_name, "arch",
                     server->info.arch, "weights", server->info.weight_dtype, "parameters",
                     (json_int_t)server->info.n_params, "level", server->info.level, "threads",
                     (int)server->info.n_threads, "context", (int)plan->max_context, "kv_dtype",
                     plan->kv_dtype, "max_seqs", (int)plan->max_seqs);
}

void api_dashboard_data(Server *server, HttpExchange *exchange) {
    int64_t now_us = clock_us();
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(server->engine, &stats);
    HttpStats http = http_stats(server->http);
    int n_calls;
    json_t *calls = api_dashboard_calls(server, now_us, &n_calls);
    http_reply_header(exchange, "cache-control", "no-store");
    api_reply_json(
        exchange, json_pack("{s:s,s:f,s:f,s:f,s:b,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:i,s:{s:I,s:I}}",
                            "version", sluice_version(), "now_s", (double)now_us * 1e-6, "up_s",
                            (double)(now_us - server->start_us) * 1e-6, "heartbeat_s",
                            (double)MAX(now_us - stats.last_step_us, 0) * 1e-6, "draining",
                            (int)atomic_load(&server->draining), "model",
                            api_dashboard_model(server), "engine", api_dashboard_engine(&stats),
                            "finished", api_dashboard_finished(&server->metrics), "ttft",
                            api_dashboard_recent(&server->metrics.recent_first, now_us), "itl",
                            api_dashboard_recent(&server->metrics.recent_gap, now_us), "memory",
                            api_dashboard_memory(server->options.plan), "blocks",
                            api_dashboard_blocks(server, now_us), "calls", calls, "calls_all",
                            n_calls, "http", "connections", (json_int_t)http.n_connections, "open",
                            (json_int_t)http.n_open));
}
