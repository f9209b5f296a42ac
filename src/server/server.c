#include "server/server.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "server/api_call.h"
#include "server/api_error.h"
#include "server/route.h"
#include "server/server_priv.h"

enum { SERVER_POLL_US = 100000, SERVER_RETRY_SECONDS_MAX = 60, SERVER_PATH_LOGGED = 200 };

void server_new_id(Server *server, const char *prefix, char *out, size_t out_bytes) {
    uint64_t n = atomic_fetch_add(&server->n_ids, 1);
    snprintf(out, out_bytes, "%s%016llx%08llx", prefix,
             (unsigned long long)rng_bits(server->id_seed, 0, n),
             (unsigned long long)(rng_bits(server->id_seed, 1, n) >> 32));
}

uint64_t server_new_seed(Server *server) {
    return rng_bits(server->id_seed, 2, atomic_fetch_add(&server->n_ids, 1));
}

void server_note_service(Server *server, const sluice_usage *usage) {
    const int64_t us = usage->total_us - usage->queue_us, mean = atomic_load(&server->service_us);
    atomic_store(&server->service_us, mean == 0 ? us : mean + (us - mean) / 8);
    if (usage->first_token_us == 0) return; /* it left before */
    server_submit_lock(server);
    admission_note_first(&server->admission, usage->first_token_us - usage->queue_us);
    server_submit_unlock(server);
}

bool server_admit(Server *server, sluice_error *failure) {
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(server->engine, &stats);
    if (admission_ask(&server->admission, stats.n_running, stats.n_waiting, clock_us()))
        return true;
    failure->status = SLUICE_ERR_LIMIT;
    snprintf(failure->text, sizeof failure->text,
             "the queue is full for so great a load: %d requests wait, try later", stats.n_waiting);
    return false;
}

int32_t server_retry_seconds(const Server *server) {
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(server->engine, &stats);
    int64_t us = atomic_load(&server->service_us) / MAX(stats.n_running, 1) * stats.n_waiting;
    return (int32_t)MIN(1 + us / 1000000, SERVER_RETRY_SECONDS_MAX);
}

void server_submit_lock(Server *server) {
    pthread_mutex_lock(&server->submit_lock);
}

void server_submit_unlock(Server *server) {
    pthread_mutex_unlock(&server->submit_lock);
}

/* A call in the list has been submitted, and stays as long as the lock is held. */
static void server_ping(Server *server, int64_t now_us) {
    pthread_mutex_lock(&server->calls_lock);
    for (ApiCall *call = server->calls; call != NULL; call = call->next)
        api_call_ping(call, now_us);
    pthread_mutex_unlock(&server->calls_lock);
}

/* Turns the engine's events into replies. */
static void *server_events_main(void *context) {
    Server *server = context;
    const int64_t ping_us = server->options.limits.ping_us;
    const int64_t wait_us = ping_us > 0 ? MIN(SERVER_POLL_US, ping_us / 4) : SERVER_POLL_US;
    int64_t pinged_us = clock_us();
    while (!atomic_load(&server->stop_events)) {
        sluice_event event;
        const int64_t now_us = clock_us();
        if (ping_us > 0 && now_us - pinged_us > ping_us / 4) {
            pinged_us = now_us;
            server_ping(server, now_us);
        }
        if (!sluice_poll(server->engine, wait_us, &event)) continue;
        server_submit_lock(server);
        server_submit_unlock(server);
        api_call_event(event.user, &event);
    }
    return NULL;
}

/* The body of an error that never reached a handler. */
static const char *server_error_body(void *context, int32_t code, const char *text, Buf *out) {
    (void)context;
    api_error_body(out, API_OPENAI, code, &(ApiErrorText){.text = text});
    return "application/json";
}

/* A path between quotes. */
static void server_quote_path(const char *path, char out[2 * SERVER_PATH_LOGGED + 1]) {
    size_t n = 0;
    for (size_t i = 0; i < SERVER_PATH_LOGGED && path[i] != '\0'; i++) {
        if (path[i] == '"' || path[i] == '\\') out[n++] = '\\';
        out[n++] = path[i];
    }
    out[n] = '\0';
}

/* Which further try it is, as OpenAI's and Anthropic's clients say; NULL: the first. */
static const char *server_retry_count(const HttpExchange *exchange) {
    const char *count = http_header(exchange, "x-stainless-retry-count");
    const bool sound = count != NULL && count[0] != '\0' && strlen(count) < 4 &&
                       strspn(count, "0123456789") == strlen(count);
    return sound && strcmp(count, "0") != 0 ? count : NULL;
}

/* Counts a request that is over, and tells the log of those that people ask. */
static void server_http_done(void *context, const HttpExchange *exchange, int32_t code) {
    Server *server = context;
    const char *method = http_method(exchange), *path = http_path(exchange);
    char quoted[2 * SERVER_PATH_LOGGED + 1];
    const char *retry = server_retry_count(exchange);
    int32_t route = route_find(method, path);
    server_quote_path(path, quoted);
    server_metrics_http_done(&server->metrics, route, code);
    log_line(route_is_probe(route) ? LOG_DEBUG : LOG_INFO, "http",
             "%s \"%s %s\" %d peer=%s ms=%.1f%s%s", http_id(exchange), method, quoted, code,
             http_peer(exchange), (double)(clock_us() - http_start_us(exchange)) * 1e-3,
             retry != NULL ? " retry=" : "", retry != NULL ? retry : "");
}

/* The last part of the model's path, without its extension. */
static char *server_default_name(const char *path) {
    Str name = str_from(path);
    while (name.len > 1 && name.ptr[name.len - 1] == '/') name.len--;
    for (size_t i = name.len; i > 0; i--) {
        if (name.ptr[i - 1] == '/') {
            name = str_slice(name, i, name.len);
            break;
        }
    }
    if (str_ends_with(name, ".gguf")) name.len -= strlen(".gguf");
    return mem_strndup(name.ptr, name.len);
}

static sluice_sampling server_defaults(const sluice_model_info *info) {
    sluice_request request = SLUICE_REQUEST_INIT;
    sluice_sampling sampling = request.sampling;
    sampling.temperature = info->temperature >= 0 ? (float)info->temperature : 1;
    sampling.top_p = info->top_p >= 0 ? (float)info->top_p : 1;
    sampling.top_k = MAX(info->top_k, 0);
    return sampling;
}

ServerLimits server_limits_default(void) {
    return (ServerLimits){.http = http_options_default().limits,
                          .json = JSON_LIMITS_REQUEST,
                          .messages_max = 4096,
                          .parts_max = 8192,
                          .logprobs_max = 1 << 18,
                          .queue_us_max = 30 * 1000000,
                          .request_us_max = 600 * 1000000LL,
                          .ping_us = 15 * 1000000};
}

static Status server_start(Server *server, Err *err) {
    if (getrandom(&server->id_seed, sizeof server->id_seed, 0) != sizeof server->id_seed)
        FAIL(err, ERR_IO, "the system gives no random numbers");
    if (server->options.receipts_dir != NULL)
        TRY(receipt_log_open(&server->receipts, server->options.receipts_dir,
                             server->options.receipts_max, err));
    if (pthread_create(&server->events, NULL, server_events_main, server) != 0)
        FAIL(err, ERR_IO, "cannot start the server's event thread");
    server->events_started = true;
    HttpOptions http = http_options_default();
    http.address = server->options.address;
    http.port = server->options.port;
    http.tls_cert = server->options.secrets.tls_cert;
    http.tls_key = server->options.secrets.tls_key;
    if (server->options.n_workers > 0) http.n_workers = server->options.n_workers;
    http.limits = server->options.limits.http;
    http.handler = route_handle;
    http.context = server;
    http.error_body = server_error_body;
    http.done = server_http_done;
    return http_open(&server->http, &http, err);
}

static void server_free_keys(Server *server) {
    for (int32_t i = 0; i < server->n_keys; i++) {
        explicit_bzero(server->key[i], strlen(server->key[i]));
        mem_free(server->key[i]);
    }
    server->n_keys = 0;
}

static void server_set_keys(Server *server, const ServerSecrets *secrets) {
    pthread_rwlock_wrlock(&server->keys_lock);
    server_free_keys(server);
    for (int32_t i = 0; i < secrets->n_keys; i++) server->key[i] = mem_strdup(secrets->key[i]);
    server->n_keys = secrets->n_keys;
    pthread_rwlock_unlock(&server->keys_lock);
}

Status server_set_secrets(Server *server, const ServerSecrets *secrets, Err *err) {
    CHECK((secrets->n_keys > 0) == (server->n_keys > 0));
    if (secrets->tls_cert != NULL)
        TRY(http_set_tls(server->http, secrets->tls_cert, secrets->tls_key, err));
    server_set_keys(server, secrets);
    return OK;
}

int64_t server_stalled_us(const Server *server) {
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(server->engine, &stats);
    /* Before its first turn the loop has not stood longer than we know it. */
    return MAX(clock_us() - MAX(stats.last_step_us, server->start_us), 0);
}

bool server_lost(const Server *server) {
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(server->engine, &stats);
    return stats.device_lost;
}

bool server_watch(Server *server) {
    const int64_t stalled_us = server_stalled_us(server), most_us = server->options.stall_us_max;
    const bool stalled = most_us > 0 && stalled_us > most_us / 30;
    if (stalled && !server->stalled) {
        atomic_fetch_add(&server->n_stalls, 1);
        log_line(LOG_WARN, "watchdog", "the engine has stood still for %.1f s",
                 (double)stalled_us * 1e-6);
    } else if (!stalled && server->stalled) {
        log_line(LOG_WARN, "watchdog", "the engine moves again");
    }
    server->stalled = stalled;
    return most_us > 0 && stalled_us > most_us;
}

Status server_open(Server **out, const sluice_model *model, sluice_engine *engine,
                   const ServerOptions *options, Err *err) {
    Server *server = mem_alloc(sizeof *server);
    server->options = *options;
    server->engine = engine;
    server->model = model;
    server->info.size = sizeof server->info;
    sluice_model_get_info(model, &server->info);
    server->defaults = server_defaults(&server->info);
    server->model_name = options->model_name != NULL ? mem_strdup(options->model_name)
                                                     : server_default_name(server->info.path);
    server->created = (int64_t)time(NULL);
    server->start_us = clock_us();
    server->admission.places = options->plan->max_seqs;
    server->admission.queue_max = options->plan->max_queue;
    pthread_rwlock_init(&server->keys_lock, NULL);
    server_set_keys(server, &options->secrets);
    pthread_mutex_init(&server->submit_lock, NULL);
    pthread_mutex_init(&server->calls_lock, NULL);
    block_map_init(&server->blocks);
    server_metrics_init(&server->metrics);
    Status status = server_start(server, err);
    server->options.secrets = (ServerSecrets){0};
    if (status != OK) {
        server_close(server);
        return status;
    }
    *out = server;
    return OK;
}

int32_t server_port(const Server *server) {
    return http_port(server->http);
}

const char *server_model_name(const Server *server) {
    return server->model_name;
}

void server_drain(Server *server) {
    atomic_store(&server->draining, true);
    http_stop_listening(server->http);
}

static int64_t server_engine_open(const Server *server) {
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(server->engine, &stats);
    return stats.n_running + stats.n_waiting + stats.n_swapped;
}

int64_t server_n_open(const Server *server) {
    return MAX(server_engine_open(server), http_stats(server->http).n_open);
}

void server_close(Server *server) {
    if (server == NULL) return;
    /* Clients that are still there are cut, which cancels what they asked; their events must be
     * taken before the last references to the exchanges are gone. */
    if (server->http != NULL) http_cut(server->http);
    if (server->events_started) {
        while (server_engine_open(server) > 0) {
            struct timespec pause = {.tv_nsec = 1000000};
            nanosleep(&pause, NULL);
        }
        atomic_store(&server->stop_events, true);
        pthread_join(server->events, NULL);
    }
    receipt_log_close(server->receipts);
    if (server->http != NULL) http_close(server->http);
    pthread_mutex_destroy(&server->submit_lock);
    pthread_mutex_destroy(&server->calls_lock);
    block_map_free(&server->blocks);
    server_free_keys(server);
    pthread_rwlock_destroy(&server->keys_lock);
    server_metrics_free(&server->metrics);
    mem_free(server->model_name);
    mem_free(server);
}
