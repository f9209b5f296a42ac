/* cmd_serve: an engine on the network, until a signal ends it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "app/cmd.h"
#include "app/session.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server.h"

enum {
    CMD_SERVE_KEY_FILE_MAX = 1 << 20,
    CMD_SERVE_FILES_MAX = 16384,
    CMD_SERVE_TICK_MS = 1000,
    CMD_SERVE_LOG_TICKS = 10
};

typedef struct Serve {
    const Config *config;
    sluice_model *model;
    sluice_engine *engine;
    Server *server;
    Buf key_text, cert, tls_key;
    const char *key[SERVER_KEYS_MAX];
    int32_t n_keys;
    sluice_stats last; /* at the last log line */
} Serve;

/* One key a line; empty lines and those with # are skipped. The buffer is cut into texts. */
static Status cmd_serve_keys(Serve *serve, const char *path, Err *err) {
    TRY(file_read(&serve->key_text, path, CMD_SERVE_KEY_FILE_MAX, err));
    char *rest = serve->key_text.data, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        Str key = str_trim(str_from(line));
        if (key.len == 0 || key.ptr[0] == '#') continue;
        if (serve->n_keys == SERVER_KEYS_MAX)
            FAIL(err, ERR_LIMIT, "'%s' has more than %d keys", path, SERVER_KEYS_MAX);
        char *start = line + (key.ptr - line);
        start[key.len] = '\0';
        serve->key[serve->n_keys++] = start;
    }
    if (serve->n_keys == 0) FAIL(err, ERR_ARG, "'%s' holds no key", path);
    return OK;
}

static void cmd_serve_options(const Config *config, sluice_model_options *model,
                              sluice_engine_options *engine) {
    session_options(config, model, engine);
    engine->max_seqs = (int32_t)config->max_seqs;
    engine->max_queue = (int32_t)config->max_queue;
    engine->kv_bytes = config->kv_mb << 20;
    engine->populate = true;
}

static Status cmd_serve_engine(Serve *serve, const char *path, sluice_engine_plan *plan, Err *err) {
    sluice_model_options model_options;
    sluice_engine_options engine_options;
    cmd_serve_options(serve->config, &model_options, &engine_options);
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
    limits.queue_us_max = cmd_serve_us(config->queue_timeout);
    limits.request_us_max = cmd_serve_us(config->request_timeout);
    return limits;
}

static Status cmd_serve_server(Serve *serve, const sluice_engine_plan *plan, Err *err) {
    const Config *config = serve->config;
    if ((config->tls_cert == NULL) != (config->tls_key == NULL))
        FAIL(err, ERR_ARG, "--tls-cert and --tls-key go together");
    if (config->tls_cert != NULL) {
        TRY(file_read(&serve->cert, config->tls_cert, 1 << 20, err));
        TRY(file_read(&serve->tls_key, config->tls_key, 1 << 20, err));
    }
    if (config->api_key_file != NULL) TRY(cmd_serve_keys(serve, config->api_key_file, err));
    bool local =
        str_starts_with(str_from(config->host), "127.") || str_is(str_from(config->host), "::1");
    if (!local && serve->n_keys == 0 && !config->insecure_no_auth)
        FAIL(err, ERR_ARG,
             "listening at %s without a key would let everybody in: give --api-key-file, or "
             "--insecure-no-auth if that is meant",
             config->host);
    ServerOptions options = {.address = config->host,
                             .port = (int32_t)config->port,
                             .model_name = config->model_name,
                             .tls_cert = serve->cert.data,
                             .tls_key = serve->tls_key.data,
                             .n_keys = serve->n_keys,
                             .key = serve->key,
                             .plan = plan,
                             .limits = cmd_serve_limits(config)};
    return server_open(&serve->server, serve->model, serve->engine, &options, err);
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
    fprintf(stderr, "context   %d tokens; KV cache (%s) holds %lld tokens in %d blocks of %d\n",
            plan->max_context, plan->kv_dtype, (long long)plan->kv_tokens, plan->n_blocks,
            plan->block_tokens);
    fprintf(stderr, "limits    %d sequences at once, %d tokens a step, %d waiting\n",
            plan->max_seqs, plan->max_step_tokens, plan->max_queue);
    fprintf(stderr, "compute   %s, %d threads\n", info.level, info.n_threads);
    fprintf(stderr, "address   %s://%s%s%s:%d  (%s)\n", scheme, v6 ? "[" : "", host, v6 ? "]" : "",
            server_port(serve->server), serve->n_keys > 0 ? "API key wanted" : "no API key");
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

/* Tells systemd, when it started us: one datagram. */
static void cmd_serve_notify(const char *text) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@') ||
        strlen(path) >= sizeof address.sun_path)
        return;
    memcpy(address.sun_path, path, strlen(path));
    if (path[0] == '@') address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    (void)sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address, len);
    close(fd);
}

/* Waits for the end, and for what is open then. */
static void cmd_serve_loop(Serve *serve, const sigset_t *signals) {
    struct timespec tick = {.tv_sec = CMD_SERVE_TICK_MS / 1000};
    for (int n = 1;; n++) {
        int signal_number = sigtimedwait(signals, NULL, &tick);
        if (signal_number == SIGTERM || signal_number == SIGINT) break;
        if (n % CMD_SERVE_LOG_TICKS == 0) cmd_serve_log(serve, CMD_SERVE_LOG_TICKS);
        sluice_stats stats = {.size = sizeof stats};
        sluice_engine_get_stats(serve->engine, &stats);
        if (clock_us() - stats.last_step_us < 10 * 1000000) cmd_serve_notify("WATCHDOG=1");
    }
    cmd_serve_notify("STOPPING=1");
    log_line(LOG_INFO, "server", "draining: %lld requests open, %lld s at most",
             (long long)server_n_open(serve->server), (long long)serve->config->drain_timeout);
    server_drain(serve->server);
    int64_t until_us = clock_us() + serve->config->drain_timeout * 1000000;
    struct timespec pause = {.tv_nsec = 20 * 1000000};
    while (server_n_open(serve->server) > 0 && clock_us() < until_us)
        if (sigtimedwait(signals, NULL, &pause) > 0) break; /* a second signal: at once */
}

/* Every connection is a descriptor; the server's table of them is as long as this limit. */
static void cmd_serve_raise_files(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = MAX(files.rlim_cur, MIN(files.rlim_max, (rlim_t)CMD_SERVE_FILES_MAX));
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        log_line(LOG_WARN, "server", "the limit of open files cannot be raised");
}

Status cmd_serve(const Config *config, Err *err) {
    int64_t start_us = clock_us();
    char *path;
    TRY(cmd_model_path(config, &path, err));
    if (config->dry_run) {
        sluice_model_options model_options;
        sluice_engine_options engine_options;
        cmd_serve_options(config, &model_options, &engine_options);
        Status dry = session_dry_run(path, &model_options, &engine_options, err);
        mem_free(path);
        return dry;
    }
    /* Before any thread, which inherit the mask. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    cmd_serve_raise_files();
    log_set_level(LOG_INFO);
    Serve serve = {.config = config};
    sluice_engine_plan plan = {.size = sizeof plan};
    Status status = cmd_serve_engine(&serve, path, &plan, err);
    if (status == OK) status = cmd_serve_server(&serve, &plan, err);
    if (status == OK) {
        cmd_serve_banner(&serve, &plan, (double)(clock_us() - start_us) / 1e3);
        cmd_serve_notify("READY=1");
        cmd_serve_loop(&serve, &signals);
    }
    server_close(serve.server);
    if (serve.engine != NULL) sluice_engine_close(serve.engine);
    if (serve.model != NULL) sluice_model_close(serve.model);
    buf_free(&serve.key_text);
    buf_free(&serve.cert);
    buf_free(&serve.tls_key);
    mem_free(path);
    return status;
}
