/* same_bits: a set of requests, each alone and all together, gives the same bits.
 *
 * The requests (mixed lengths, samplings, seeds, shared beginnings; several sequences, beams and
 * embeddings among them) are served one at a time, each by a fresh engine in one plain setting. The
 * same set together must give the same tokens and bitwise the same logprobs: in drawn orders,
 * beginning at drawn steps, under other sizes of blocks, steps and batches, other thread counts,
 * with the prefix cache cold, warm or read back from disk, and with pools so small that sequences
 * are preempted, to be computed again or swapped to the host. */
#pragma once

#include "../golden/golden.h"

#include "base/rng.h"
#include "engine/engine_priv.h"
#include "plain_disk.h"

enum {
    N_MAX = 1000,
    N_OUTPUT = 40,
    N_TOP = 20,
    EMBEDDING_MAX = 1024,
    CONTEXT = GOLDEN_CONTEXT,
    HOST_FLIGHTS = 600
};

typedef struct Answer {
    int32_t n[2]; /* tokens of each sequence */
    int32_t token[2][N_OUTPUT];
    float logprob[2][N_OUTPUT];
    sluice_logprob top[2][N_OUTPUT][N_TOP];
    float embedding[EMBEDDING_MAX];
} Answer;

/* A model and what its requests are made of. */
typedef struct Subject {
    const GoldenModel *model;
    const Ints *base; /* the requests begin with parts of it */
    DType kv_dtype;
    int32_t n; /* requests */
} Subject;

typedef struct Setting {
    int32_t block_tokens, max_step_tokens, max_seqs, kv_tokens, n_threads;
    bool prefix;
    int32_t n_rounds; /* the set is served that many times in a row: the cache gets warm */
    bool preempts;    /* must happen */
    sluice_preempt preempt;
    int32_t host_tokens; /* of the host tier, which must be used */
    bool disk;           /* the engine is closed after each round, and the next reads the cache */
} Setting;

static const Setting settings[] = {
    /* Alone: the reference. */
    {.block_tokens = 16, .max_step_tokens = 512, .max_seqs = 16, .kv_tokens = 4096, .n_threads = 1},
    /* Together; two threads and a warm cache; few or many at once. */
    {16, 512, 16, 8192, 1, false, 1, false, 0, 0, false},
    {16, 512, 64, 16384, 2, true, 2, false, 0, 0, false},
    /* Sizes of blocks and chunks. */
    {1, 7, 16, 4096, 1, true, 2, false, 0, 0, false},
    {8, 64, 5, 4096, 2, true, 1, false, 0, 0, false},
    {32, 33, 16, 8192, 1, false, 1, false, 0, 0, false},
    {16, 1, 3, 2048, 1, true, 1, false, 0, 0, false},
    {32, 456, 24, 8192, 2, true, 2, false, 0, 0, false},
    /* Room for little more than one sequence: recompute, swap, or as the cost model says. */
    {8, 128, 16, 460, 1, true, 2, true, 0, 0, false},
    {16, 50, 16, 460, 2, false, 1, true, 0, 0, false},
    {8, 100, 16, 460, 1, true, 2, true, SLUICE_PREEMPT_SWAP, 4096, false},
    {32, 100, 16, 512, 2, true, 2, false, SLUICE_PREEMPT_SWAP, 4096, false},
    {1, 64, 4, 500, 2, true, 2, false, SLUICE_PREEMPT_AUTO, 3000, false},
    /* A new engine each round, whose cache comes from the disk; the last with all of the above. */
    {16, 512, 16, 8192, 2, true, 2, false, 0, 0, true},
    {1, 200, 16, 4096, 1, true, 2, false, 0, 0, true},
    {8, 70, 16, 460, 2, true, 3, true, SLUICE_PREEMPT_SWAP, 4096, true},
};

/* ---- the engine -------------------------------------------------------------------------- */

static inline EngineLimits setting_limits(const Setting *s, const Subject *subject) {
    const ModelConfig *c = model_config(subject->model->model);
    EngineLimits limits = {.vocab = c->vocab,
                           .dim = c->dim,
                           .max_context = CONTEXT,
                           .max_seqs = s->max_seqs,
                           .max_step_tokens = s->max_step_tokens,
                           .max_queue = subject->n};
    limits.max_logits = MIN(s->max_step_tokens, MAX(24, s->max_seqs));
    limits.kv = (KvCacheConfig){
        .n_groups = kv_store_groups(c), .block_tokens = s->block_tokens, .prefix = s->prefix};
    for (int32_t g = 0; g < limits.kv.n_groups; g++) {
        limits.kv.window[g] = kv_store_group_window(c, g);
        limits.kv.n_blocks[g] = DIV_UP(s->kv_tokens, s->block_tokens) + 3;
        limits.kv.n_host[g] = s->host_tokens / s->block_tokens;
        limits.kv.n_flights = s->host_tokens > 0 ? HOST_FLIGHTS : 0;
        limits.block_bytes[g] = kv_store_block_bytes(c, g, s->block_tokens, subject->kv_dtype);
    }
    return limits;
}

/* dir: where the cache is kept; NULL: nowhere. */
static inline Engine *open_engine(const Subject *subject, const Setting *s, const char *dir) {
    EngineConfig config = {
        .limits = setting_limits(s, subject), .salt_seed = 1, .preempt = s->preempt};
    if (dir != NULL) config.disk = plain_disk_open(dir, &config.limits);
    const RunnerOptions runner = {.model = subject->model->model,
                                  .device = subject->model->ctx.device,
                                  .n_threads = s->n_threads,
                                  .kv_dtype = subject->kv_dtype,
                                  .limits = config.limits};
    Engine *engine = NULL;
    Err err = {0};
    ASSERT_OK(runner_open(&config.runner, &runner, &err), err);
    ASSERT_OK(engine_open(&engine, &config, &err), err);
    return engine;
}

static inline void on_event(void *user, const sluice_event *event) {
    Answer *a = user;
    if (event->finish == SLUICE_FINISH_ERROR) fail_msg("%s", event->error);
    for (int32_t i = 0; i < event->n_tokens; i++) {
        const int32_t at = a->n[event->index]++;
        assert_true(event->index < 2 && at < N_OUTPUT);
        a->token[event->index][at] = event->tokens[i];
        if (event->chosen == NULL) continue; /* of a beam */
        a->logprob[event->index][at] = event->chosen[i].logprob;
        memcpy(a->top[event->index][at], event->top + (size_t)i * N_TOP, sizeof a->top[0][0]);
    }
    if (event->embedding != NULL) {
        assert_true(event->n_embedding <= EMBEDDING_MAX);
        memcpy(a->embedding, event->embedding, (size_t)event->n_embedding * sizeof(float));
    }
}

/* ---- the requests ------------------------------------------------------------------------ */

static inline uint64_t draw(uint64_t what, int32_t i, uint64_t n) {
    return rng_bits(1, what, (uint64_t)i) % n;
}

/* Most are short; every eighth goes past one split of attention (256). Returns the length. */
static inline int32_t fill_prompt(const Subject *subject, int32_t i, int32_t *prompt) {
    const int32_t n_base = (int32_t)subject->base->len;
    const int32_t n = i == 0       ? n_base
                      : i % 8 == 7 ? 260 + (int32_t)draw(0, i, 150)
                                   : 3 + (int32_t)draw(0, i, 190);
    const int32_t n_shared = i == 0 ? n : (int32_t)draw(1, i, (uint64_t)n);
    const uint64_t vocab = (uint64_t)model_config(subject->model->model)->vocab;
    for (int32_t k = 0; k < n; k++) {
        prompt[k] = k < n_shared && k < n_base
                        ? subject->base->data[k]
                        : (int32_t)(rng_bits(2, (uint64_t)i, (uint64_t)k) % vocab);
    }
    return n;
}

static const sluice_sampling samplings[] = {
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 0.7f, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 0.8f, .top_k = 20, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1},
    {.temperature = 0.9f, .top_p = 1, .min_p = 0.05f, .repetition_penalty = 1},
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1.2f, .presence_penalty = 0.5f},
    {.temperature = 1.2f,
     .top_k = 50,
     .top_p = 0.95f,
     .min_p = 0.01f,
     .repetition_penalty = 1.1f,
     .frequency_penalty = 0.3f},
};

static inline bool is_beam(int32_t i) {
    return i % 12 == 9;
}

/* Two sequences that begin with the same row of logits, with every kind of change to it. */
static inline void ask_for_two(sluice_request *r, const Subject *subject) {
    static const int32_t run[] = {7, 9};
    static const sluice_tokens bad[] = {{run, 1}, {run, 2}};
    static const sluice_bias bias[] = {{5, 2.5f}, {6, -3}};
    static int32_t allowed[400];
    const int32_t vocab = model_config(subject->model->model)->vocab;
    r->n = 2;
    r->sampling = samplings[ARRAY_LEN(samplings) - 1];
    r->sampling.bias = bias;
    r->sampling.n_bias = 2;
    r->bad = bad;
    r->n_bad = 2;
    r->allowed = allowed;
    r->n_allowed = MIN(vocab, (int32_t)ARRAY_LEN(allowed));
    for (int32_t i = 0; i < r->n_allowed; i++) allowed[i] = i;
}

/* Request 0 is the golden one; of each twelve one has two sequences, one is a beam and one an
 * embedding. */
static inline void submit(Engine *engine, const Subject *subject, int32_t i, Answer *answer) {
    int32_t prompt[CONTEXT];
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt;
    r.n_prompt = (size_t)fill_prompt(subject, i, prompt);
    r.max_tokens = i == 0 ? N_OUTPUT : 24 + (int32_t)draw(3, i, N_OUTPUT - 23);
    r.ignore_eos = true;
    r.sampling = samplings[i % (int32_t)ARRAY_LEN(samplings)];
    r.n = 1;
    if (i % 12 == 10) ask_for_two(&r, subject);
    r.sampling.n_logprobs = N_TOP;
    r.sampling.seed = (uint64_t)i;
    if (i % 12 == 11) r.pooling = SLUICE_POOL_MEAN;
    if (is_beam(i)) {
        r.sampling = (sluice_sampling){.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
        r.beam_width = 2;
        r.max_tokens = 8;
    }
    r.user = answer;
    r.on_event = on_event;
    uint64_t id;
    Err err = {0};
    ASSERT_OK(engine_submit(engine, &r, &id, &err), err);
}

static inline void run_all(Engine *engine) {
    Err err = {0};
    for (int32_t i = 0; i < 1000000 && engine->n_live + (i == 0) > 0; i++) {
        (void)engine_step(engine);
    }
    assert_int_equal(engine->n_live, 0);
    (void)engine_step(engine); /* an accelerator's last news */
    ASSERT_OK(engine_audit(engine, &err), err);
}

/* ---- together as alone ------------------------------------------------------------------- */

static inline void compare(const Answer *got, const Answer *want, int32_t i, int32_t setting) {
    for (int32_t s = 0; s < 2; s++) {
        for (int32_t k = 0; k < want->n[s]; k++) {
            const float a = got->logprob[s][k], b = want->logprob[s][k];
            if (k < got->n[s] && got->token[s][k] == want->token[s][k] && a == b) continue;
            fail_msg("setting %d, request %d, sequence %d, token %d: %d with %a, alone %d with %a",
                     setting, i, s, k, got->token[s][k], (double)a, want->token[s][k], (double)b);
        }
    }
    if (memcmp(got, want, sizeof *got) != 0) fail_msg("setting %d, request %d differs", setting, i);
}

static inline void serve_alone(const Subject *subject, Answer *alone) {
    for (int32_t i = 0; i < subject->n; i++) {
        Engine *engine = open_engine(subject, &settings[0], NULL);
        submit(engine, subject, i, &alone[i]);
        run_all(engine);
        engine_close(engine);
    }
}

/* A step of one token has no room for a beam search, which is refused. */
static inline bool is_served(const Engine *engine, int32_t i) {
    return !is_beam(i) || engine->config.limits.max_step_tokens > 1;
}

/* All of them, in an order drawn for `round`, with up to n_steps_max steps after each one. */
static inline void serve_together(Engine *engine, const Subject *subject, int32_t round,
                                  int32_t n_steps_max, Answer *together) {
    int32_t order[N_MAX];
    for (int32_t i = 0; i < subject->n; i++) {
        const int32_t at = (int32_t)(rng_bits(5, (uint64_t)round, (uint64_t)i) % (uint64_t)(i + 1));
        order[i] = order[at];
        order[at] = i;
    }
    memset(together, 0, (size_t)subject->n * sizeof *together);
    for (int32_t i = 0; i < subject->n; i++) {
        if (!is_served(engine, order[i])) continue;
        submit(engine, subject, order[i], &together[order[i]]);
        const uint64_t drawn = rng_bits(6, (uint64_t)round, (uint64_t)i);
        const uint64_t n_steps = drawn % (uint64_t)(n_steps_max + 1);
        for (uint64_t k = 0; k < n_steps; k++) (void)engine_step(engine);
    }
    run_all(engine);
}

static inline void check_setting(const Engine *engine, int32_t at, bool windowed) {
    const Setting *s = &settings[at];
    assert_int_equal(engine->cache.tier.n_checksum_errors, 0);
    if (windowed) return; /* what is behind the window leaves: there may be room for all */
    if (s->preempts && engine->sched.counts.n_preempted == 0)
        fail_msg("setting %d: no preemption", at);
    if (s->host_tokens > 0 && engine->cache.tier.n_loaded == 0)
        fail_msg("setting %d: nothing came from the host", at);
}

static inline void serve_setting(const Subject *subject, int32_t at, const Answer *alone,
                                 Answer *together) {
    const Setting *s = &settings[at];
    char *dir = s->disk ? testing_temp_dir() : NULL;
    Engine *engine = open_engine(subject, s, dir);
    for (int32_t round = 0; round < s->n_rounds; round++) {
        if (round > 0 && s->disk) {
            engine_close(engine);
            engine = open_engine(subject, s, dir);
            assert_true(engine->cache.pool[0].n_idle > 0);
        }
        /* Those that are to be preempted come all at once. */
        serve_together(engine, subject, at * 10 + round, s->preempts ? 0 : 3, together);
        for (int32_t i = 0; i < subject->n; i++) {
            if (is_served(engine, i)) compare(&together[i], &alone[i], i, at);
        }
    }
    check_setting(engine, at, model_config(subject->model->model)->window > 0);
    engine_close(engine);
    if (dir != NULL) testing_temp_remove(dir);
}

/* greedy: what request 0 must give, or NULL. */
static inline void same_bits_of(const Subject *subject, const int32_t *greedy) {
    Answer *alone = mem_alloc((size_t)subject->n * sizeof *alone);
    Answer *together = mem_alloc((size_t)subject->n * sizeof *together);
    serve_alone(subject, alone);
    if (greedy != NULL) assert_memory_equal(alone[0].token[0], greedy, N_OUTPUT * sizeof *greedy);
    for (int32_t s = 1; s < (int32_t)ARRAY_LEN(settings); s++) {
        serve_setting(subject, s, alone, together);
    }
    mem_free(alone);
    mem_free(together);
}
