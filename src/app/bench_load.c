#include "app/bench_load.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/load_report.h"
#include "app/session.h"
#include "base/clock.h"
#include "base/mem.h"

/* A moment of the load. */
typedef struct BenchLoadMark {
    int64_t us, n_output;
} BenchLoadMark;

typedef struct BenchLoad {
    LoadPlan plan;
    LoadGaps gaps; /* written by the engine's thread alone */
    sluice_engine *engine;
    struct BenchLoadStream *stream; /* [plan.n_requests] */
    int64_t start_us;
    _Atomic int64_t n_output; /* tokens so far */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t n_running;
    BenchLoadMark first_end, last_sent; /* between them all streams are busy */
} BenchLoad;

typedef struct BenchLoadStream {
    BenchLoad *load;
    LoadRequest *request;
} BenchLoadStream;

static BenchLoadMark bench_load_mark(const BenchLoad *load) {
    return (BenchLoadMark){clock_us() - load->start_us, load->n_output};
}

static void bench_load_end(BenchLoad *load, LoadRequest *r, const sluice_event *event) {
    r->good = event->finish == SLUICE_FINISH_STOP || event->finish == SLUICE_FINISH_LENGTH;
    r->n_prompt_seen = event->usage->n_prompt;
    r->n_cached = event->usage->n_cached;
    pthread_mutex_lock(&load->lock);
    load->n_running--;
    if (load->first_end.us == 0) load->first_end = bench_load_mark(load);
    pthread_cond_signal(&load->changed);
    pthread_mutex_unlock(&load->lock);
}

static void bench_load_event(void *user, const sluice_event *event) {
    const BenchLoadStream *stream = user;
    BenchLoad *load = stream->load;
    LoadRequest *r = stream->request;
    const int64_t now = clock_us() - load->start_us;
    if (event->n_tokens > 0) {
        if (r->first_us == 0) {
            r->first_us = now;
        } else {
            load_gen_gap(&load->gaps, now - r->last_us);
        }
        r->last_us = now;
        r->n_output += event->n_tokens;
        load->n_output += event->n_tokens;
    }
    if (event->last) bench_load_end(load, r, event);
}

static Status bench_load_send(BenchLoad *load, int32_t i, Ints *ids, Err *err) {
    LoadRequest *r = &load->plan.request[i];
    load->stream[i] = (BenchLoadStream){load, r};
    ints_clear(ids);
    load_plan_ids(&load->plan, r, ids);
    sluice_request request = SLUICE_REQUEST_INIT;
    request.prompt = ids->data;
    request.n_prompt = ids->len;
    request.max_tokens = r->n_output_max;
    request.ignore_eos = true;
    request.user = &load->stream[i];
    request.on_event = bench_load_event;
    sluice_error failure = {0};
    uint64_t id;
    r->sent_us = clock_us() - load->start_us;
    if (sluice_submit(load->engine, &request, &id, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    return OK;
}

/* Waits until fewer than n run. */
static void bench_load_wait(BenchLoad *load, int32_t n) {
    pthread_mutex_lock(&load->lock);
    while (load->n_running >= n) pthread_cond_wait(&load->changed, &load->lock);
    pthread_mutex_unlock(&load->lock);
}

static Status bench_load_all(BenchLoad *load, int32_t n_running_max, Err *err) {
    Ints ids = {0};
    Status status = OK;
    load->start_us = clock_us();
    for (int32_t i = 0; i < load->plan.n_requests && status == OK; i++) {
        bench_load_wait(load, n_running_max);
        pthread_mutex_lock(&load->lock);
        load->n_running++;
        pthread_mutex_unlock(&load->lock);
        status = bench_load_send(load, i, &ids, err);
    }
    ints_free(&ids);
    load->last_sent = bench_load_mark(load);
    if (status == OK) bench_load_wait(load, 1);
    return status;
}

/* The speed without the load's beginning and end, where there is something between them. */
static void bench_load_print_busy(const BenchLoad *load) {
    const BenchLoadMark *from = &load->first_end, *to = &load->last_sent;
    if (from->us == 0 || to->us <= from->us) return;
    const double seconds = (double)(to->us - from->us) * 1e-6;
    printf("all streams busy for %.1f s: %.1f output tokens/s\n", seconds,
           (double)(to->n_output - from->n_output) / seconds);
}

static void bench_load_print(BenchLoad *load, int64_t total_us, const Config *config) {
    const LoadReport report =
        load_report_make(&load->plan, &load->gaps, total_us, config->slo_ttft, config->slo_tpot);
    load_report_print(&report);
    bench_load_print_busy(load);
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(load->engine, &stats);
    if (stats.n_steps == 0) return;
    const double step_us = (double)stats.step_us_total / (double)stats.n_steps;
    printf("steps %lld of %.1f tokens and %.1f us", (long long)stats.n_steps,
           (double)stats.n_step_tokens / (double)stats.n_steps, step_us);
    if (stats.device_us_total > 0) {
        const double host_us =
            (double)(stats.step_us_total - stats.device_us_total) / (double)stats.n_steps;
        printf(", %.1f us (%.1f %%) of it the host alone", host_us, 100 * host_us / step_us);
    }
    printf("\n");
}

Status bench_load_run(const Config *config, const sluice_model *model,
                      const sluice_engine_options *options, Err *err) {
    BenchLoad load = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    Status status = load_plan_make(&load.plan, config, err);
    sluice_engine_options own = *options;
    const int32_t n_running_max =
        config->concurrency > 0 ? (int32_t)config->concurrency : load.plan.n_requests;
    own.max_queue = MAX(own.max_queue, n_running_max);
    sluice_error failure = {0};
    if (status == OK && sluice_engine_open(&load.engine, model, &own, &failure) != SLUICE_OK)
        status = session_error(&failure, err);
    if (status == OK) {
        load.stream = mem_alloc((size_t)load.plan.n_requests * sizeof *load.stream);
        status = bench_load_all(&load, n_running_max, err);
    }
    if (status == OK) bench_load_print(&load, clock_us() - load.start_us, config);
    if (load.engine != NULL) sluice_engine_close(load.engine);
    mem_free(load.stream);
    free(load.gaps.us);
    load_plan_free(&load.plan);
    return status;
}
