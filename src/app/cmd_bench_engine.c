/* cmd_bench_engine: what the engine adds to a model's own speed: batching, pacing of prompts beside
 * running answers, and the prefix cache.
 *
 * Every time is taken on the engine's thread, in the callback. Prompts are made of arbitrary tokens
 * and nothing stops an answer before its length, so that every variant does the same work. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench_load.h"
#include "app/cmd.h"
#include "app/session.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

enum {
    BENCH_ENGINE_SEQS = 16,
    BENCH_ENGINE_SHORT = 32, /* prompt tokens of the decodes */
    BENCH_ENGINE_DECODE = 64,
    BENCH_ENGINE_MIXED = 48, /* requests of the mixed load */
    BENCH_ENGINE_PROMPT = 2000,
    BENCH_ENGINE_SHARED = 1000,
    BENCH_ENGINE_ROUNDS = 3,
    BENCH_ENGINE_STREAM_MAX = 4096
};

/* Ends of all requests that were submitted since. */
typedef struct BenchEnds {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t n;
    bool failed;
} BenchEnds;

/* One request and when its tokens came. */
typedef struct BenchStream {
    BenchEnds *ends;
    int32_t n_prompt, n_output;
    uint64_t seed; /* of the prompt's tokens */
    int64_t submit_us;
    int32_t n;
    bool ended;
    int64_t at_us[BENCH_ENGINE_STREAM_MAX];
} BenchStream;

typedef struct BenchEngine {
    const Config *config;
    sluice_model *model;
    sluice_model_info info;
    sluice_engine *engine;
    BenchEnds ends;
    int32_t *prompt;     /* [context] */
    BenchStream *stream; /* [BENCH_ENGINE_MIXED] */
} BenchEngine;

static void bench_engine_event(void *user, const sluice_event *event) {
    BenchStream *stream = user;
    const int64_t now = clock_us();
    for (int32_t i = 0; i < event->n_tokens && stream->n < BENCH_ENGINE_STREAM_MAX; i++)
        stream->at_us[stream->n++] = now;
    if (!event->last) return;
    pthread_mutex_lock(&stream->ends->lock);
    stream->ends->n++;
    stream->ended = true;
    stream->ends->failed = stream->ends->failed || event->finish == SLUICE_FINISH_ERROR;
    pthread_cond_signal(&stream->ends->changed);
    pthread_mutex_unlock(&stream->ends->lock);
}

/* With pace as sluice_engine_options.chunk_slack. */
static Status bench_engine_open(BenchEngine *b, int32_t max_step_tokens, double slack, Err *err) {
    sluice_model_options unused;
    sluice_engine_options options;
    session_options(b->config, &unused, &options);
    options.max_seqs = BENCH_ENGINE_SEQS + 1;
    options.max_queue = BENCH_ENGINE_MIXED + BENCH_ENGINE_SEQS;
    options.max_step_tokens = max_step_tokens > 0 ? max_step_tokens : options.max_step_tokens;
    options.chunk_slack = slack;
    options.kv_bytes = b->config->kv_mb << 20;
    sluice_error failure = {0};
    if (sluice_engine_open(&b->engine, b->model, &options, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    b->ends.n = 0;
    return OK;
}

static void bench_engine_close(BenchEngine *b) {
    if (b->engine != NULL) sluice_engine_close(b->engine);
    b->engine = NULL;
}

/* n_shared tokens are the same for every seed of a different upper half. */
static Status bench_engine_submit(BenchEngine *b, BenchStream *stream, int32_t n_shared, Err *err) {
    const int32_t vocab = b->info.vocab;
    for (int32_t i = 0; i < stream->n_prompt; i++) {
        const uint64_t seed = i < n_shared ? stream->seed >> 32 : stream->seed;
        b->prompt[i] = (int32_t)(rng_bits(seed, 1, (uint64_t)i) % (uint64_t)vocab);
    }
    sluice_request request = SLUICE_REQUEST_INIT;
    request.prompt = b->prompt;
    request.n_prompt = (size_t)stream->n_prompt;
    request.max_tokens = stream->n_output;
    request.ignore_eos = true;
    request.user = stream;
    request.on_event = bench_engine_event;
    stream->ends = &b->ends;
    stream->n = 0;
    stream->ended = false;
    sluice_error failure = {0};
    uint64_t id;
    stream->submit_us = clock_us();
    if (sluice_submit(b->engine, &request, &id, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    return OK;
}

/* Until n requests have ended since the engine was opened, or this one has; stream may be NULL. */
static Status bench_engine_wait_or(BenchEngine *b, int32_t n, const BenchStream *stream, Err *err) {
    pthread_mutex_lock(&b->ends.lock);
    while (b->ends.n < n && (stream == NULL || !stream->ended)) {
        pthread_cond_wait(&b->ends.changed, &b->ends.lock);
    }
    const bool failed = b->ends.failed;
    pthread_mutex_unlock(&b->ends.lock);
    if (failed) FAIL(err, ERR_DEVICE, "a request of the benchmark failed");
    return OK;
}

static Status bench_engine_wait(BenchEngine *b, int32_t n, Err *err) {
    return bench_engine_wait_or(b, n, NULL, err);
}

static int bench_engine_compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double bench_engine_quantile(double *x, int32_t n, double q) {
    if (n == 0) return 0;
    qsort(x, (size_t)n, sizeof *x, bench_engine_compare);
    return x[MIN(n - 1, (int32_t)(q * n))];
}

/* ---- decodes together ---- */

/* Tokens per second of n sequences, from the last one's first token to the first one's last. */
static Status bench_engine_decode(BenchEngine *b, int32_t n, double *rate, Err *err) {
    TRY(bench_engine_open(b, 0, 0, err));
    for (int32_t i = 0; i < n; i++) {
        b->stream[i] = (BenchStream){.n_prompt = BENCH_ENGINE_SHORT,
                                     .n_output = BENCH_ENGINE_DECODE + n,
                                     .seed = (uint64_t)i + 1};
        TRY(bench_engine_submit(b, &b->stream[i], 0, err));
    }
    TRY(bench_engine_wait(b, n, err));
    int64_t from = 0, to = INT64_MAX, tokens = 0;
    for (int32_t i = 0; i < n; i++) {
        from = MAX(from, b->stream[i].at_us[0]);
        to = MIN(to, b->stream[i].at_us[b->stream[i].n - 1]);
    }
    for (int32_t i = 0; i < n; i++)
        for (int32_t t = 0; t < b->stream[i].n; t++)
            tokens += b->stream[i].at_us[t] > from && b->stream[i].at_us[t] <= to;
    *rate = (double)tokens / ((double)MAX(to - from, (int64_t)1) * 1e-6);
    bench_engine_close(b);
    return OK;
}

static Status bench_engine_decodes(BenchEngine *b, Err *err) {
    printf(
        "decode, prompts of %d tokens\n\n| sequences | tokens/s | times one |\n"
        "| ---: | ---: | ---: |\n",
        BENCH_ENGINE_SHORT);
    double one = 0;
    for (int32_t n = 1; n <= BENCH_ENGINE_SEQS; n *= 2) {
        double rate[BENCH_ENGINE_ROUNDS];
        for (int32_t r = 0; r < BENCH_ENGINE_ROUNDS; r++)
            TRY(bench_engine_decode(b, n, &rate[r], err));
        const double median = bench_engine_quantile(rate, BENCH_ENGINE_ROUNDS, 0.5);
        if (n == 1) one = median;
        printf("| %d | %.1f | %.2f |\n", n, median, median / one);
        fflush(stdout);
    }
    return OK;
}

/* ---- continuous, static, one at a time ---- */

/* Prompts and answers of many lengths: each drawn so that its logarithm is uniform. */
static int32_t bench_engine_length(uint64_t i, uint64_t stream, int32_t least, int32_t most) {
    const double u = rng_uniform(11, stream, i);
    int32_t n = least;
    for (double x = 1; x < u * 8 && 2 * n <= most; x += 1) n *= 2;
    return n + (int32_t)(rng_uniform(12, stream, i) * n) / 2;
}

/* The mixed load with `together` requests at a time: each group waits for the one before. */
static Status bench_engine_mixed(BenchEngine *b, int32_t together, double *rate, Err *err) {
    TRY(bench_engine_open(b, 0, 0, err));
    const int64_t start = clock_us();
    int64_t n_tokens = 0;
    for (int32_t i = 0; i < BENCH_ENGINE_MIXED; i++) {
        const int32_t longest = MIN(b->info.context / 4, 128);
        b->stream[i] = (BenchStream){.n_prompt = bench_engine_length((uint64_t)i, 1, 8, longest),
                                     .n_output = bench_engine_length((uint64_t)i, 2, 8, longest),
                                     .seed = (uint64_t)i + 1};
        n_tokens += b->stream[i].n_output;
        if (i % together == 0) TRY(bench_engine_wait(b, i, err));
        TRY(bench_engine_submit(b, &b->stream[i], 0, err));
    }
    TRY(bench_engine_wait(b, BENCH_ENGINE_MIXED, err));
    *rate = (double)n_tokens / ((double)(clock_us() - start) * 1e-6);
    bench_engine_close(b);
    return OK;
}

static Status bench_engine_batching(BenchEngine *b, Err *err) {
    static const struct {
        const char *name;
        int32_t together;
    } rows[] = {{"one at a time", 1},
                {"static, batches of 16", BENCH_ENGINE_SEQS},
                {"continuous, 17 at once", BENCH_ENGINE_MIXED}};
    printf(
        "\n%d requests of mixed lengths\n\n| batching | output tokens/s | times one |\n"
        "| --- | ---: | ---: |\n",
        BENCH_ENGINE_MIXED);
    double one = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        double rate;
        TRY(bench_engine_mixed(b, rows[i].together, &rate, err));
        if (i == 0) one = rate;
        printf("| %s | %.1f | %.2f |\n", rows[i].name, rate, rate / one);
        fflush(stdout);
    }
    return OK;
}

/* ---- a long prompt among decodes ---- */

typedef struct BenchArrival {
    double before_p99, beside_p99, ttft; /* ms */
} BenchArrival;

/* Gaps between the tokens of the decodes that end in (from, to], in ms. */
static int32_t bench_engine_gaps(const BenchEngine *b, int64_t from, int64_t to, double *gap) {
    int32_t n = 0;
    for (int32_t i = 0; i < BENCH_ENGINE_SEQS; i++) {
        const BenchStream *s = &b->stream[i];
        for (int32_t t = 1; t < s->n; t++)
            if (s->at_us[t - 1] >= from && s->at_us[t - 1] < to)
                gap[n++] = (double)(s->at_us[t] - s->at_us[t - 1]) * 1e-3;
    }
    return n;
}

static Status bench_engine_arrival(BenchEngine *b, bool paced, int32_t n_prompt, int32_t n_output,
                                   BenchArrival *out, Err *err) {
    TRY(bench_engine_open(b, paced ? 0 : n_prompt + BENCH_ENGINE_SEQS, paced ? 0 : -1, err));
    for (int32_t i = 0; i < BENCH_ENGINE_SEQS; i++) {
        b->stream[i] = (BenchStream){
            .n_prompt = BENCH_ENGINE_SHORT, .n_output = n_output, .seed = (uint64_t)i + 1};
        TRY(bench_engine_submit(b, &b->stream[i], 0, err));
    }
    /* An engine that measured only prompts does not know yet what a decode costs. */
    sluice_stats stats = {.size = sizeof stats};
    do {
        sluice_engine_get_stats(b->engine, &stats);
    } while (stats.n_output_tokens < BENCH_ENGINE_SEQS * n_output / 8 &&
             stats.n_finished < BENCH_ENGINE_SEQS);
    BenchStream *big = &b->stream[BENCH_ENGINE_SEQS];
    *big = (BenchStream){.n_prompt = n_prompt, .n_output = 1, .seed = 99};
    TRY(bench_engine_submit(b, big, 0, err));
    TRY(bench_engine_wait_or(b, BENCH_ENGINE_SEQS + 1, big, err));
    bench_engine_close(b); /* cancels the decodes, which have shown what they can */
    double *gap = mem_alloc((size_t)(BENCH_ENGINE_SEQS * n_output) * sizeof *gap);
    const int64_t from = b->stream[BENCH_ENGINE_SEQS - 1].at_us[0];
    int32_t n = bench_engine_gaps(b, from, big->submit_us - 1000, gap);
    out->before_p99 = bench_engine_quantile(gap, n, 0.99);
    n = bench_engine_gaps(b, big->submit_us, big->at_us[0], gap);
    out->beside_p99 = bench_engine_quantile(gap, n, 0.99);
    out->ttft = (double)(big->at_us[0] - big->submit_us) * 1e-3;
    mem_free(gap);
    return OK;
}

static Status bench_engine_arrivals(BenchEngine *b, Err *err) {
    const int32_t n_output =
        MIN((int32_t)BENCH_ENGINE_STREAM_MAX, b->info.context - BENCH_ENGINE_SHORT - 1);
    const int32_t n_prompt = MIN((int32_t)BENCH_ENGINE_PROMPT, b->info.context - 2);
    printf(
        "\na prompt of %d tokens beside %d decodes\n\n| prompt | p99 gap before, ms | p99 gap "
        "beside it, ms | times | its first token, ms |\n| --- | ---: | ---: | ---: | ---: |\n",
        n_prompt, BENCH_ENGINE_SEQS);
    for (int32_t paced = 1; paced >= 0; paced--) {
        BenchArrival a;
        TRY(bench_engine_arrival(b, paced, n_prompt, n_output, &a, err));
        printf("| %s | %.2f | %.2f | %.2f | %.1f |\n", paced ? "in chunks" : "whole", a.before_p99,
               a.beside_p99, a.beside_p99 / a.before_p99, a.ttft);
        fflush(stdout);
    }
    return OK;
}

/* ---- a warm prefix ---- */

static Status bench_engine_prefix(BenchEngine *b, Err *err) {
    const int32_t n_shared = MIN((int32_t)BENCH_ENGINE_SHARED, b->info.context - 34);
    double cold[BENCH_ENGINE_ROUNDS], warm[BENCH_ENGINE_ROUNDS];
    TRY(bench_engine_open(b, 0, 0, err));
    for (int32_t r = 0; r < 2 * BENCH_ENGINE_ROUNDS; r++) {
        BenchStream *s = &b->stream[0];
        *s = (BenchStream){.n_prompt = n_shared + 16,
                           .n_output = 1,
                           .seed = ((uint64_t)(r / 2 + 1) << 32) + (uint64_t)r};
        TRY(bench_engine_submit(b, s, n_shared, err));
        TRY(bench_engine_wait(b, r + 1, err));
        *(r % 2 == 0 ? &cold[r / 2] : &warm[r / 2]) = (double)(s->at_us[0] - s->submit_us) * 1e-3;
    }
    bench_engine_close(b);
    const double c = bench_engine_quantile(cold, BENCH_ENGINE_ROUNDS, 0.5);
    const double w = bench_engine_quantile(warm, BENCH_ENGINE_ROUNDS, 0.5);
    printf(
        "\na shared beginning of %d tokens and 16 of its own\n\n| cache | first token, ms | of "
        "cold |\n| --- | ---: | ---: |\n| cold | %.2f | 1 |\n| warm | %.2f | 1/%.1f |\n",
        n_shared, c, w, c / w);
    return OK;
}

/* The load of the options instead of the benchmark's own. */
static Status bench_engine_load(const BenchEngine *b, Err *err) {
    sluice_model_options unused;
    sluice_engine_options options;
    session_options(b->config, &unused, &options);
    options.max_seqs = (int32_t)b->config->max_seqs;
    options.kv_bytes = b->config->kv_mb << 20;
    options.gpu_memory = b->config->gpu_memory;
    return bench_load_run(b->config, b->model, &options, err);
}

/* All parts, or the one that was asked for. */
static Status bench_engine_parts(BenchEngine *b, Err *err) {
    static const struct {
        const char *name;
        Status (*run)(BenchEngine *b, Err *err);
    } parts[] = {{"decode", bench_engine_decodes},
                 {"batching", bench_engine_batching},
                 {"arrival", bench_engine_arrivals},
                 {"prefix", bench_engine_prefix}};
    const char *asked = b->config->part; /* NULL: none */
    bool found = false;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (asked != NULL && strcmp(asked, parts[i].name) != 0) continue;
        found = true;
        TRY(parts[i].run(b, err));
    }
    if (!found)
        FAIL(err, ERR_ARG, "no part is named '%.32s'; there are decode, batching, arrival, prefix",
             asked);
    return OK;
}

static Status bench_engine_run(BenchEngine *b, const char *path, Err *err) {
    sluice_model_options options;
    sluice_engine_options unused;
    session_options(b->config, &options, &unused);
    sluice_error failure = {0};
    if (sluice_model_open(&b->model, path, &options, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    if (config_given(b->config, CONFIG_requests)) return bench_engine_load(b, err);
    b->info.size = sizeof b->info;
    sluice_model_get_info(b->model, &b->info);
    if (b->config->context > 0) b->info.context = MIN(b->info.context, (int32_t)b->config->context);
    if (b->info.context < 4 * BENCH_ENGINE_DECODE)
        FAIL(err, ERR_ARG, "a context of %d tokens; the benchmark wants %d at least",
             b->info.context, 4 * BENCH_ENGINE_DECODE);
    b->prompt = mem_alloc((size_t)b->info.context * sizeof *b->prompt);
    b->stream = mem_alloc(BENCH_ENGINE_MIXED * sizeof *b->stream);
    printf("%s, %s, %d threads\n\n", path, b->info.weight_dtype, b->info.n_threads);
    return bench_engine_parts(b, err);
}

Status cmd_bench_engine(const Config *config, Err *err) {
    char *path;
    TRY(cmd_model_path(config, &path, err));
    BenchEngine b = {
        .config = config,
        .ends = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}};
    const Status status = bench_engine_run(&b, path, err);
    bench_engine_close(&b);
    if (b.model != NULL) sluice_model_close(b.model);
    mem_free(b.prompt);
    mem_free(b.stream);
    mem_free(path);
    return status;
}
