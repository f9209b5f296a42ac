/* bench_sched: what a step costs beside the forward pass: plan, commit, events.
 *
 * usage: bench_sched [STEPS]
 *
 * The real engine on a runner that answers at once, its own time taken off. Per row: sequences that
 * run, requests that wait, the policy; the median and the 99th percentile of STEPS steps
 * (2,000). Bars: 50 us with 256 running, 100 us with 10,000 waiting. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/engine_priv.h"

enum { CONTEXT = 4096, PROMPT = 64 };

typedef struct Instant {
    int64_t us; /* in the runner, since the step began */
} Instant;

static Status instant_run(void *self, const StepPlan *plan, StepResult *result, Err *err) {
    (void)err;
    Instant *instant = self;
    const int64_t start = clock_us();
    for (int32_t i = 0; i < plan->n_jobs; i++) {
        const Seq *seq = plan->jobs[i].seq;
        result->status[i] = OK;
        result->sample[i] = (SamplerResult){.token = 10 + (seq->n_tokens * 7 + seq->index) % 80};
    }
    instant->us += clock_us() - start;
    return OK;
}

static void instant_close(void *self) {
    (void)self;
}

static void on_event(void *user, const sluice_event *event) {
    *(int64_t *)user += event->n_tokens;
}

static void submit(Engine *engine, int32_t which, int32_t n_output, int64_t *count) {
    int32_t prompt[PROMPT];
    for (int32_t i = 0; i < PROMPT; i++) prompt[i] = 10 + (which * 13 + i * 7) % 80;
    sluice_request request = SLUICE_REQUEST_INIT;
    request.prompt = prompt;
    request.n_prompt = PROMPT;
    request.max_tokens = n_output;
    request.ignore_eos = true;
    request.user = count;
    request.on_event = on_event;
    uint64_t id;
    CHECK(engine_submit(engine, &request, &id, NULL) == OK);
}

static int compare(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

typedef struct Row {
    int32_t n_running, n_waiting;
    sluice_policy policy;
    const char *name;
    bool churn; /* answers of 16..47 tokens: eight end in a step, eight leave the queue */
} Row;

static void measure(const Row *row, int32_t n_steps) {
    if (row->churn) n_steps = MIN(n_steps, row->n_waiting / 20); /* the queue must last */
    Instant instant = {0};
    const int32_t blocks = DIV_UP(CONTEXT, 16) * row->n_running;
    EngineConfig config = {
        .limits = {.vocab = 100,
                   .dim = 8,
                   .max_context = CONTEXT,
                   .max_seqs = row->n_running,
                   .max_step_tokens = 2048,
                   .max_queue = MAX(row->n_waiting, row->n_running) + 1,
                   .max_logits = 1024,
                   .kv = {.n_groups = 1, .block_tokens = 16, .n_blocks = {blocks}, .prefix = true}},
        .policy = row->policy,
        .runner = {.self = &instant, .run = instant_run, .close = instant_close},
        .n_eos = 1,
        .eos_id = {7}};
    Engine *engine;
    CHECK(engine_open(&engine, &config, NULL) == OK);
    int64_t count = 0;
    for (int32_t i = 0; i < row->n_running; i++)
        submit(engine, i, row->churn ? 48 + i % 32 : n_steps + 64, &count);
    for (int32_t i = 0; i < 40; i++) (void)engine_step(engine);
    for (int32_t i = 0; i < row->n_waiting; i++) submit(engine, i + 1000, 16 + i % 32, &count);
    (void)engine_step(engine);
    int64_t *us = mem_alloc((size_t)n_steps * sizeof *us);
    for (int32_t i = 0; i < n_steps; i++) {
        instant.us = 0;
        const int64_t start = clock_us();
        (void)engine_step(engine);
        us[i] = clock_us() - start - instant.us;
    }
    qsort(us, (size_t)n_steps, sizeof *us, compare);
    printf("| %d | %d | %s | %s | %lld | %lld | %.3f |\n", row->n_running, row->n_waiting,
           row->name, row->churn ? "8 a step" : "no", (long long)us[n_steps / 2],
           (long long)us[n_steps * 99 / 100], (double)us[n_steps / 2] / row->n_running);
    mem_free(us);
    engine_close(engine);
}

int main(int argc, char **argv) {
    const int32_t n_steps = argc > 1 ? MIN(MAX((int32_t)strtol(argv[1], NULL, 10), 1), 3000) : 2000;
    static const Row rows[] = {{1, 0, SLUICE_POLICY_FCFS, "fcfs", false},
                               {16, 0, SLUICE_POLICY_FCFS, "fcfs", false},
                               {64, 0, SLUICE_POLICY_FCFS, "fcfs", false},
                               {256, 0, SLUICE_POLICY_FCFS, "fcfs", false},
                               {256, 10000, SLUICE_POLICY_FCFS, "fcfs", false},
                               {256, 10000, SLUICE_POLICY_FCFS, "fcfs", true},
                               {256, 10000, SLUICE_POLICY_PRIORITY, "priority", true},
                               {256, 10000, SLUICE_POLICY_SHORTEST_PROMPT, "shortest", true},
                               {256, 10000, SLUICE_POLICY_CACHE_AWARE, "cache", true},
                               {256, 10000, SLUICE_POLICY_FAIR, "fair", true}};
    printf(
        "| running | waiting | policy | answers end | us a step, median | p99 | us a sequence |\n"
        "| ---: | ---: | --- | --- | ---: | ---: | ---: |\n");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) measure(&rows[i], n_steps);
    return 0;
}
