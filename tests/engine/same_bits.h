/* same_bits: a set of requests (mixed lengths, samplings, seeds, shared beginnings) served one at a
 * time, in one plain setting; the same set together, under other block sizes, step sizes, thread
 * counts, cold and warm caches and pools so small that sequences are preempted, must give the same
 * tokens and bitwise the same logprobs. */
#pragma once

#include "../golden/golden.h"

#include "base/rng.h"
#include "engine/engine_priv.h"

enum { N_REQUESTS = 12, N_OUTPUT = 32, N_TOP = 3 };

typedef struct Answer {
    int32_t n;
    int32_t token[N_OUTPUT];
    float logprob[N_OUTPUT], top[N_OUTPUT][N_TOP];
    float embedding[128];
} Answer;

typedef struct Setting {
    int32_t block_tokens, max_step_tokens, max_seqs, kv_tokens, n_threads;
    bool prefix;
    int32_t n_rounds; /* the set is served that many times in a row: the cache gets warm */
    bool preempts;    /* must happen */
    sluice_preempt preempt;
    int32_t host_tokens; /* of the host tier, which must be used */
} Setting;

static inline EngineLimits setting_limits(const Setting *s, const ModelConfig *c) {
    EngineLimits limits = {.vocab = c->vocab,
                           .dim = c->dim,
                           .max_context = GOLDEN_CONTEXT,
                           .max_seqs = s->max_seqs,
                           .max_step_tokens = s->max_step_tokens,
                           .max_queue = 64};
    limits.max_logits = MIN(s->max_step_tokens, 24);
    limits.kv = (KvCacheConfig){
        .n_groups = kv_store_groups(c), .block_tokens = s->block_tokens, .prefix = s->prefix};
    for (int32_t g = 0; g < limits.kv.n_groups; g++) {
        limits.kv.window[g] = kv_store_group_window(c, g);
        limits.kv.n_blocks[g] = DIV_UP(s->kv_tokens, s->block_tokens) + 3;
        limits.kv.n_host[g] = s->host_tokens / s->block_tokens;
        limits.kv.n_flights = s->host_tokens > 0 ? 600 : 0;
    }
    return limits;
}

static inline Engine *open_engine(const GoldenModel *m, const Setting *s, DType kv_dtype) {
    const ModelConfig *c = model_config(m->model);
    EngineConfig config = {.limits = setting_limits(s, c), .salt_seed = 1, .preempt = s->preempt};
    const RunnerOptions runner = {.model = m->model,
                                  .device = m->ctx.device,
                                  .n_threads = s->n_threads,
                                  .kv_dtype = kv_dtype,
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
    for (int32_t i = 0; i < event->n_tokens; i++, a->n++) {
        a->token[a->n] = event->tokens[i];
        a->logprob[a->n] = event->chosen[i].logprob;
        for (int32_t k = 0; k < N_TOP; k++) a->top[a->n][k] = event->top[i * N_TOP + k].logprob;
    }
    if (event->embedding != NULL) {
        memcpy(a->embedding, event->embedding, (size_t)event->n_embedding * sizeof(float));
    }
}

/* Request i of the set. Request 0 is the golden one; 10 has two sequences; 11 is an embedding. */
static inline void submit(Engine *engine, const Golden *g, int32_t i, Answer *answer) {
    int32_t prompt[GOLDEN_CONTEXT];
    const int32_t n_golden = (int32_t)g->prompt.len;
    const int32_t n = i == 0 ? n_golden : 3 + (int32_t)(rng_bits(1, 0, (uint64_t)i) % 190);
    const int32_t shared = i == 0 ? n : (int32_t)(rng_bits(1, 1, (uint64_t)i) % (uint64_t)n);
    for (int32_t k = 0; k < n; k++) {
        prompt[k] = k < shared && k < n_golden
                        ? g->prompt.data[k]
                        : (int32_t)(rng_bits(2, (uint64_t)i, (uint64_t)k) % (uint64_t)g->vocab);
    }
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt;
    r.n_prompt = (size_t)n;
    r.max_tokens = N_OUTPUT / (i == 10 ? 2 : 1);
    r.ignore_eos = true;
    r.sampling.n_logprobs = N_TOP;
    r.sampling.seed = (uint64_t)i;
    if (i > 0) {
        r.sampling.temperature = i % 3 == 0 ? 0 : 0.5f + 0.1f * (float)i;
        r.sampling.top_p = i % 2 ? 0.9f : 1;
        r.sampling.top_k = i % 4 == 2 ? 20 : 0;
        r.sampling.repetition_penalty = i == 5 ? 1.2f : 1;
    }
    if (i == 11) r.pooling = SLUICE_POOL_MEAN;
    r.n = 1;
    r.user = answer;
    r.on_event = on_event;
    uint64_t id;
    Err err = {0};
    ASSERT_OK(engine_submit(engine, &r, &id, &err), err);
}

static inline void run_all(Engine *engine) {
    Err err = {0};
    for (int32_t i = 0; i < 100000 && engine->n_live + (i == 0) > 0; i++) (void)engine_step(engine);
    assert_int_equal(engine->n_live, 0);
    (void)engine_step(engine); /* an accelerator's last news */
    ASSERT_OK(engine_audit(engine, &err), err);
}

static inline void compare(const Answer *got, const Answer *want, int32_t i, int32_t setting) {
    for (int32_t k = 0; k < want->n; k++) {
        if (k < got->n && got->token[k] == want->token[k] && got->logprob[k] == want->logprob[k]) {
            continue;
        }
        fail_msg("setting %d, request %d, token %d: %d with %.9g, alone %d with %.9g", setting, i,
                 k, got->token[k], (double)got->logprob[k], want->token[k],
                 (double)want->logprob[k]);
    }
    if (memcmp(got, want, sizeof *got) != 0) fail_msg("setting %d, request %d differs", setting, i);
}

static const Setting settings[] = {
    {16, 512, 16, 4096, 1, false, 1, false, 0, 0}, /* alone: the reference */
    {16, 512, 16, 4096, 1, false, 1, false, 0, 0}, /* together */
    {16, 512, 16, 4096, 2, true, 2, false, 0, 0},  /* two threads; warm cache */
    {1, 7, 16, 3000, 1, true, 2, false, 0, 0},     /* block and chunk sizes */
    {8, 64, 5, 4096, 2, true, 1, false, 0, 0},
    {32, 33, 16, 4096, 1, false, 1, false, 0, 0},
    {16, 1, 3, 1024, 1, true, 1, false, 0, 0},
    {8, 128, 16, 460, 1, true, 2, true, 0, 0}, /* room for little more than one sequence */
    {16, 50, 16, 460, 2, false, 1, true, 0, 0},
    {8, 100, 16, 460, 1, true, 2, true, SLUICE_PREEMPT_SWAP, 4096}, /* the rest goes to the host */
    {1, 64, 4, 500, 2, true, 2, false, SLUICE_PREEMPT_AUTO, 3000},
};

static inline void same_bits_of(const GoldenModel *m, const Golden *g, DType kv_dtype) {
    static Answer alone[N_REQUESTS], together[N_REQUESTS];
    memset(alone, 0, sizeof alone);
    for (int32_t i = 0; i < N_REQUESTS; i++) {
        Engine *engine = open_engine(m, &settings[0], kv_dtype);
        submit(engine, g, i, &alone[i]);
        run_all(engine);
        engine_close(engine);
    }
    if (g->greedy.len > 0 && !golden_rounds(m)) {
        assert_memory_equal(alone[0].token, g->greedy.data, N_OUTPUT * sizeof(int32_t));
    }
    for (int32_t s = 1; s < (int32_t)ARRAY_LEN(settings); s++) {
        Engine *engine = open_engine(m, &settings[s], kv_dtype);
        for (int32_t round = 0; round < settings[s].n_rounds; round++) {
            memset(together, 0, sizeof together);
            for (int32_t i = 0; i < N_REQUESTS; i++) submit(engine, g, i, &together[i]);
            run_all(engine);
            for (int32_t i = 0; i < N_REQUESTS; i++) compare(&together[i], &alone[i], i, s);
        }
        assert_true(!settings[s].preempts || model_config(m->model)->window > 0 ||
                    engine->sched.counts.n_preempted > 0);
        assert_true(settings[s].host_tokens == 0 || model_config(m->model)->window > 0 ||
                    engine->cache.tier.n_loaded > 0);
        assert_int_equal(engine->cache.tier.n_checksum_errors, 0);
        engine_close(engine);
    }
}
