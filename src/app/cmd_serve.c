/* cmd_serve: an engine on the network, until a signal ends it. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "app/cmd.h"
#include "app/notify.h"
#include "app/secrets.h"
#include "app/session.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/stacks.h"
#include "server/kv_publisher.h"
#include "server/server.h"

enum {
    CMD_SERVE_FILES_MAX = 16384,
    CMD_SERVE_TICK_MS = 500,
    CMD_SERVE_ALIVE_US = 10 * 1000000 /* a step may take that long before the manager worries */
};

typedef struct Serve {
    const Config *config;
    sluice_model *model;
    sluice_engine *engine;
    Server *server;
    KvPublisher *publisher; /* or NULL */
    Secrets secrets;
    sluice_stats last; /* at the last log line */
} Serve;

static Status cmd_serve_preempt(const char *name, sluice_preempt *out, Err *err) {
    static const char *const names[] = {"auto", "recompute", "swap"};
    for (int32_t i = 0; i < (int32_t)ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (sluice_preempt)(SLUICE_PREEMPT_AUTO + i);
        return OK;
    }
    FAIL(err, ERR_ARG, "--preempt is '%.32s', expected auto, recompute or swap", name);
}

static Status cmd_serve_options(const Config *config, sluice_model_options *model,
                                sluice_engine_options *engine, Err *err) {
    if (config->receipts != NULL && config->fast)
        FAIL(err, ERR_ARG,
             "--receipts are for answers that come again bit by bit, which --fast gives up");
    session_options(config, model, engine);
    engine->max_seqs = (int32_t)config->max_seqs;
    engine->max_queue = (int32_t)config->max_queue;
    engine->kv_bytes = config->kv_mb << 20;
    engine->gpu_memory = config->gpu_memory;
    engine->host_kv_bytes = config->host_kv << 20;
    engine->kv_dir = config->kv_dir;
    engine->kv_dir_bytes = config->kv_dir_mb << 20;
    engine->populate = true;
    if (config->kv_events != NULL) engine->max_kv_events = KV_PUBLISHER_RING;
    TRY(session_policy(config, &engine->policy, err));
    return cmd_serve_preempt(config->preempt, &engine->preempt, err);
}

static Status cmd_serve_engine(Serve *serve, const char *path, sluice_engine_plan *plan, Err *err) {
    sluice_model_options model_options;
    sluice_engine_options engine_options;
    TRY(cmd_serve_options(serve->config, &model_options, &engine_options, err));
    sluice_error failure = {0};
    if (sluice_model_open(&serve->model, path, &model_options, &failure) != SLUICE_OK ||
        sluice_engine_dry_run(serve->model, &engine_options, plan, &failure) != SLUICE_OK ||
        sluice_engine_open(&serve->engine, serve->model, &engine_options, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    return OK;
}

static int64_t cmd_serve_us(double seconds) {
    return (int64_t)(seconds * 1e6);
}

static ServerLimits cmd_serve_limits(const Config *config) {
    ServerLimits limits = server_limits_default();
    limits.http =
        (HttpLimits){.url_bytes_max = (int32_t)config->max_url_bytes,
                     .header_count_max = (int32_t)config->max_headers,
                     .header_bytes_max = (int32_t)config->max_header_bytes,
                     .body_bytes_max = (size_t)config->max_body_bytes,
                     .pending_bytes_max = (size_t)config->max_pending_bytes,
                     .connections_max = (int32_t)config->max_connections,
                     .connections_per_address_max = (int32_t)config->max_connections_per_address,
                     .header_us_max = cmd_serve_us(config->header_timeout),
                     .idle_us_max = cmd_serve_us(config->idle_timeout),
                     .stall_us_max = cmd_serve_us(config->stall_timeout),
                     .body_rate_min = (int32_t)config->body_rate};
    limits.json = (JsonLimits){.bytes_max = limits.http.body_bytes_max,
                               .depth_max = (int32_t)config->max_json_depth,
                               .values_max = config->max_json_values};
    limits.messages_max = (int32_t)config->max_messages;
    limits.parts_max = (int32_t)config->max_parts;
    limits.logprobs_max = config->max_logprobs;
    limits.queue_us_max = cmd_serve_us(config->queue_timeout);
    limits.request_us_max = cmd_serve_us(config->request_timeout);
    limits.ping_us = cmd_serve_us(config->ping_interval);
    return limits;
}

static Status cmd_serve_receipts(const Serve *serve, const sluice_engine_plan *plan,
                                 ServerOptions *options, Err *err) {
    sluice_model_info info = {.size = sizeof info};
    sluice_model_get_info(serve->model, &info);
    ReceiptBuild *build = &options->build;
    options->receipts_dir = serve->config->receipts;
    options->receipts_max = serve->config->receipts_max;
    snprintf(build->version, sizeof build->version, "%s", sluice_version());
    snprintf(build->level, sizeof build->level, "%s", info.level);
    snprintf(build->kv_dtype, sizeof build->kv_dtype, "%s", plan->kv_dtype);
    build->max_context = plan->max_context;
    build->model_hash = sluice_model_hash(serve->model);
    return cmd_binary_hash(&build->binary_hash, err);
}

static Status cmd_serve_server(Serve *serve, const sluice_engine_plan *plan, Err *err) {
    const Config *config = serve->config;
    TRY(secrets_read(&serve->secrets, config, err));
    bool local =
        str_starts_with(str_from(config->host), "127.") || str_is(str_from(config->host), "::1");
    if (!local && serve->secrets.n_keys == 0 && config->insecure_no_auth)
        log_line(LOG_WARN, "server", "everybody who reaches %s may ask: there is no key",
                 config->host);
    if (!local && serve->secrets.n_keys == 0 && !config->insecure_no_auth)
        FAIL(err, ERR_ARG,
             "listening at %s without a key would let everybody in: give --api-key-file, or "
             "--insecure-no-auth if that is meant",
             config->host);
    ServerOptions options = {.address = config->host,
                             .port = (int32_t)config->port,
                             .model_name = config->model_name,
                             .secrets = secrets_view(&serve->secrets),
                             .stall_us_max = cmd_serve_us(config->watchdog),
                             .log_content = config->log_content,
                             .reasoning_content = config->reasoning_content,
                             .plan = plan,
                             .limits = cmd_serve_limits(config)};
    if (config->receipts != NULL) TRY(cmd_serve_receipts(serve, plan, &options, err));
    return server_open(&serve->server, serve->model, serve->engine, &options, err);
}

/* The topic names the machine and the model, as llm-d wants it, unless one is given. */
static Status cmd_serve_events(Serve *serve, Err *err) {
    const Config *config = serve->config;
    if (config->kv_events == NULL) return OK;
    char host[HOST_NAME_MAX + 1] = "";
    (void)gethostname(host, sizeof host - 1);
    Buf topic = {0};
    buf_append_format(&topic, "kv@%s@%s", host, server_model_name(serve->server));
    KvPublisherOptions options = {
        .endpoint = config->kv_events,
        .replay = config->kv_events_replay,
        .topic = config->kv_events_topic != NULL ? config->kv_events_topic : topic.data};
    Status status = kv_publisher_open(&serve->publisher, serve->engine, &options, err);
    buf_free(&topic);
    log_line(LOG_WARN, "kv-events", "whoever can read at %s can read what clients write",
             config->kv_events);
    return status;
}

static void cmd_serve_banner(const Serve *serve, const sluice_engine_plan *plan, double ready_ms) {
    sluice_model_info info = {.size = sizeof info};
    sluice_model_get_info(serve->model, &info);
    const char *scheme = serve->config->tls_cert != NULL ? "https" : "http";
    const char *host = serve->config->host;
    bool v6 = strchr(host, ':') != NULL;
    fprintf(stderr, "model     %s  (%s, %s, %.1f M parameters, %.1f MB)\n",
            server_model_name(serve->server), info.arch, info.weight_dtype,
            (double)info.n_params / 1e6, (double)info.weight_bytes / 1e6);
    fprintf(stderr, "memory    %.1f MB in all: weights %.1f, KV %.1f, activations %.1f\n",
            (double)plan->total_bytes / 1e6, (double)plan->weight_bytes / 1e6,
            (double)plan->kv_bytes / 1e6, (double)plan->activation_bytes / 1e6);
    if (plan->device_bytes > 0) {
        sluice_stats stats = {.size = sizeof stats};
        sluice_engine_get_stats(serve->engine, &stats);
        fprintf(stderr, "GPU       %.1f of %.1f MB in use, %.1f planned\n",
                (double)stats.device_bytes / 1e6, (double)plan->device_bytes_all / 1e6,
                (double)plan->device_bytes / 1e6);
    }
    fprintf(stderr, "context   %d tokens; KV cache (%s) holds %lld tokens in %d blocks of %d\n",
            plan->max_context, plan->kv_dtype, (long long)plan->kv_tokens, plan->n_blocks,
            plan->block_tokens);
    fprintf(stderr, "limits    %d sequences at once, %d tokens a step, %d waiting\n",
            plan->max_seqs, plan->max_step_tokens, plan->max_queue);
    fprintf(stderr, "compute   %s, %d threads\n", info.level, info.n_threads);
    if (plan->fast)
        fprintf(stderr, "fast      the same request may give other bits beside other load\n");
    fprintf(stderr, "address   %s://%s%s%s:%d  (%s)\n", scheme, v6 ? "[" : "", host, v6 ? "]" : "",
            server_port(serve->server),
            serve->secrets.n_keys > 0 ? "API key wanted" : "no API key");
    fprintf(stderr, "ready in %.0f ms\n", ready_ms);
}

/* One line while there is work, silence when idle. */
static void cmd_serve_log(Serve *serve, double seconds) {
    sluice_stats now = {.size = sizeof now};
    sluice_engine_get_stats(serve->engine, &now);
    double prompt = (double)(now.n_prompt_tokens - serve->last.n_prompt_tokens) / seconds;
    double output = (double)(now.n_output_tokens - serve->last.n_output_tokens) / seconds;
    int64_t queried = now.prefix_query_tokens - serve->last.prefix_query_tokens;
    int64_t hit = now.prefix_hit_tokens - serve->last.prefix_hit_tokens;
    if (prompt > 0 || output > 0 || now.n_running > 0)
        log_line(LOG_INFO, "engine",
                 "prompt throughput: %.1f tokens/s, generation throughput: %.1f tokens/s, "
                 "running: %d reqs, waiting: %d reqs, KV cache usage: %.1f%%, prefix cache hit "
                 "rate: %.1f%%",
                 prompt, output, now.n_running, now.n_waiting,
                 now.n_blocks > 0 ? 100.0 * now.n_blocks_used / now.n_blocks : 0,
                 queried > 0 ? 100.0 * (double)hit / (double)queried : 0);
    serve->last = now;
}

/* Keys and certificate anew, from the same files. */
static void cmd_serve_reload(Serve *serve) {
    Err err = {0};
    Secrets fresh;
    Status status = secrets_read(&fresh, serve->config, &err);
    const ServerSecrets view = secrets_view(&fresh);
    if (status == OK) status = server_set_secrets(serve->server, &view, &err);
    if (status == OK) {
        log_line(LOG_INFO, "server", "read again: %d keys%s", fresh.n_keys,
                 view.tls_cert != NULL ? " and the certificate" : "");
    } else {
        log_line(LOG_ERROR, "server", "nothing changes: %s", err.text);
    }
    secrets_free(&fresh);
}

/* The manager hears from us only while the engine moves. */
static void cmd_serve_tick(Serve *serve, int64_t *logged_us) {
    const int64_t now_us = clock_us();
    const double logged_s = (double)(now_us - *logged_us) * 1e-6;
    if (logged_s >= serve->config->log_period) {
        cmd_serve_log(serve, logged_s);
        *logged_us = now_us;
    }
    if (server_watch(serve->server)) {
        log_line(LOG_ERROR, "watchdog", "the engine has stood still for %lld s: this is the end",
                 (long long)serve->config->watchdog);
        stacks_print();
        CHECK(!"the engine moves");
    }
    if (server_stalled_us(serve->server) < CMD_SERVE_ALIVE_US) notify_send("WATCHDOG=1");
}

/* Waits for the end, and for what is open then; it fails when the accelerator is the reason. */
static Status cmd_serve_loop(Serve *serve, const sigset_t *signals, Err *err) {
    const struct timespec tick = {.tv_nsec = CMD_SERVE_TICK_MS * 1000000};
    int64_t logged_us = clock_us();
    bool lost = false;
    for (int number = 0; number != SIGTERM && number != SIGINT && !lost;) {
        number = sigtimedwait(signals, NULL, &tick);
        lost = server_lost(serve->server);
        if (number == SIGHUP) cmd_serve_reload(serve);
        cmd_serve_tick(serve, &logged_us);
    }
    notify_send("STOPPING=1");
    log_line(LOG_INFO, "server", "draining: %lld requests open, %lld s at most",
             (long long)server_n_open(serve->server), (long long)serve->config->drain_timeout);
    server_drain(serve->server);
    int64_t until_us = clock_us() + serve->config->drain_timeout * 1000000;
    struct timespec pause = {.tv_nsec = 20 * 1000000};
    while (server_n_open(serve->server) > 0 && clock_us() < until_us) {
        const int number = sigtimedwait(signals, NULL, &pause);
        if (number == SIGTERM || number == SIGINT) break; /* a second signal: at once */
    }
    if (lost) FAIL(err, ERR_DEVICE, "the accelerator answers no more: the log has its failure");
    return OK;
}

/* Every connection is a descriptor; the server's table of them is as long as this limit. */
static void cmd_serve_raise_files(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = MAX(files.rlim_cur, MIN(files.rlim_max, (rlim_t)CMD_SERVE_FILES_MAX));
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        log_line(LOG_WARN, "server", "the limit of open files cannot be raised");
}

static Status cmd_serve_level(const Config *config, LogLevel *level, Err *err) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(config->log_level, names[i]) != 0) continue;
        *level = (LogLevel)i;
        return OK;
    }
    FAIL(err, ERR_ARG, "--log-level: got '%s', wanted error, warn, info or debug",
         config->log_level);
}

Status cmd_serve(const Config *config, Err *err) {
    int64_t start_us = clock_us();
    char *path;
    LogLevel level = LOG_INFO;
    TRY(cmd_serve_level(config, &level, err));
    TRY(cmd_model_path(config, &path, err));
    if (config->dry_run) {
        sluice_model_options model_options;
        sluice_engine_options engine_options;
        Status dry = cmd_serve_options(config, &model_options, &engine_options, err);
        if (dry == OK) dry = session_dry_run(path, &model_options, &engine_options, err);
        mem_free(path);
        return dry;
    }
    /* Before any thread, which inherit the mask. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    cmd_serve_raise_files();
    log_set_level(level);
    Serve serve = {.config = config};
    sluice_engine_plan plan = {.size = sizeof plan};
    Status status = cmd_serve_engine(&serve, path, &plan, err);
    if (status == OK) status = cmd_serve_server(&serve, &plan, err);
    if (status == OK) status = cmd_serve_events(&serve, err);
    if (status == OK) {
        cmd_serve_banner(&serve, &plan, (double)(clock_us() - start_us) / 1e3);
        notify_send("READY=1");
        status = cmd_serve_loop(&serve, &signals, err);
    }
    server_close(serve.server);
    kv_publisher_close(serve.publisher);
    if (serve.engine != NULL) sluice_engine_close(serve.engine);
    if (serve.model != NULL) sluice_model_close(serve.model);
    secrets_free(&serve.secrets);
    mem_free(path);
    return status;
}
