/* test_no_heap: after opening, a turn of the engine's loop never calls the heap, whatever the
 * requests ask for: answers of several sequences, beams, embeddings, with a pool too small for
 * them, alone, with a host tier that is swapped to, and with a cache that is kept on disk. The
 * allocator is watched while engine_step runs. */
#include "../golden/golden.h"

#include "base/thread.h"
#include "engine/engine_priv.h"
#include "plain_disk.h"
#include "text/tokenizer.h"

/* Of this thread alone: a worker of a pool may still be starting. */
static _Thread_local bool watching;
static _Thread_local int64_t n_calls;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAN_WATCH 0
#else
#define CAN_WATCH 1

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

static void count(void) {
    n_calls += watching;
}

void *malloc(size_t n) {
    count();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size) {
    count();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n) {
    count();
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n) {
    count();
    return __libc_memalign(align, n);
}

void free(void *p) {
    if (p != NULL) count();
    __libc_free(p);
}
#endif

static void on_event(void *user, const sluice_event *event) {
    *(int32_t *)user += event->last;
    if (event->finish == SLUICE_FINISH_ERROR) fail_msg("%s", event->error);
}

/* What the engine does beside answering. */
typedef struct Setting {
    sluice_policy policy;
    sluice_preempt preempt;
    int32_t n_blocks, n_host, n_events;
    bool disk;
} Setting;

static const Setting settings[] = {
    {SLUICE_POLICY_FCFS, SLUICE_PREEMPT_RECOMPUTE, 28, 0, 0, false},
    {SLUICE_POLICY_CACHE_AWARE, SLUICE_PREEMPT_SWAP, 28, 100, 64, false},
    {SLUICE_POLICY_FAIR, SLUICE_PREEMPT_AUTO, 28, 20, 64, true},
    {SLUICE_POLICY_PRIORITY, SLUICE_PREEMPT_SWAP, 28, 100, 0, true},
};

typedef struct Watched {
    GoldenModel model;
    Tokenizer *tokenizer; /* NULL: none */
    Ints prompt;
} Watched;

static EngineLimits setting_limits(const Setting *s, const ModelConfig *c) {
    EngineLimits limits = {.vocab = c->vocab,
                           .dim = c->dim,
                           .max_context = 256,
                           .max_seqs = 12,
                           .max_step_tokens = 48,
                           .max_queue = 40,
                           .max_logits = 24,
                           .kv = {.n_groups = kv_store_groups(c),
                                  .block_tokens = 16,
                                  .prefix = true,
                                  .n_flights = s->n_host > 0 ? 200 : 0,
                                  .n_events = s->n_events}};
    for (int32_t g = 0; g < limits.kv.n_groups; g++) {
        limits.kv.n_blocks[g] = s->n_blocks + (c->window > 0 ? 6 : 0); /* the least that is taken */
        limits.kv.n_host[g] = s->n_host;
        limits.kv.window[g] = kv_store_group_window(c, g);
        limits.block_bytes[g] = kv_store_block_bytes(c, g, 16, DTYPE_BF16);
    }
    return limits;
}

static Engine *open_engine(const Watched *w, const Setting *s, const char *dir) {
    const ModelConfig *c = model_config(w->model.model);
    EngineConfig config = {.limits = setting_limits(s, c),
                           .policy = s->policy,
                           .preempt = s->preempt,
                           .salt_seed = 1,
                           .tokenizer = w->tokenizer,
                           .n_eos = c->n_eos};
    memcpy(config.eos_id, c->eos_id, sizeof config.eos_id);
    if (s->disk) config.disk = plain_disk_open(dir, &config.limits);
    const RunnerOptions runner = {.model = w->model.model,
                                  .device = device_host(),
                                  .n_threads = 2,
                                  .kv_dtype = DTYPE_BF16,
                                  .limits = config.limits};
    Engine *engine = NULL;
    Err err = {0};
    ASSERT_OK(runner_open(&config.runner, &runner, &err), err);
    ASSERT_OK(engine_open(&engine, &config, &err), err);
    return engine;
}

static void submit(Engine *engine, const Watched *w, int32_t i, int32_t *n_last) {
    static const char *const stops[] = {"the end", ". She"};
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = w->prompt.data;
    r.n_prompt = MIN(w->prompt.len, (size_t)(10 + i));
    r.max_tokens = 60;
    r.n = i % 3 == 1 ? 3 : 1;
    r.sampling.temperature = i % 2 ? 0.9f : 0;
    r.sampling.top_p = 0.9f;
    r.sampling.repetition_penalty = 1.1f;
    r.sampling.n_logprobs = i % 4 == 0 ? 5 : -1;
    r.prompt_logprobs = i % 5 == 0 ? 0 : -1;
    r.stop = stops;
    r.n_stop = i % 2 && w->tokenizer != NULL ? 2 : 0;
    r.ignore_eos = i % 2 == 0;
    if (i == 9) r.pooling = SLUICE_POOL_MEAN;
    if (i == 10 || i == 12) { /* a beam takes neither stops nor logprobs */
        r.beam_width = 4;
        r.n_stop = 0;
        r.sampling.temperature = 0;
        r.sampling.n_logprobs = -1;
        r.prompt_logprobs = -1;
        r.n = 2;
    }
    r.tenant = i % 3 ? "one" : "two";
    r.user = n_last;
    if (i % 2) r.on_event = on_event;
    uint64_t id;
    Err err = {0};
    ASSERT_OK(engine_submit(engine, &r, &id, &err), err);
    if (i == 7) engine_cancel(engine, id);
}

/* The requests, n_rounds times; returns how many blocks came from the host tier. */
static int64_t serve_watched(Engine *engine, const Watched *w, int32_t n_rounds) {
    for (int32_t round = 0; round < n_rounds; round++) {
        int32_t n_last = 0;
        for (int32_t i = 0; i < 16; i++) submit(engine, w, i, &n_last);
        for (int32_t i = 0; i < 20000 && (i == 0 || engine->n_live > 0); i++) {
            watching = true;
            (void)engine_step(engine);
            watching = false;
            assert_int_equal(n_calls, 0);
        }
        assert_int_equal(engine->n_live, 0);
        sluice_event event;
        while (engine_poll(engine, 0, &event)) n_last += event.last;
        assert_int_equal(n_last, 16);
    }
    return engine->cache.tier.n_loaded;
}

static void watch_setting(const Watched *w, const Setting *s) {
    char *dir = testing_temp_dir();
    const bool windowed = model_config(w->model.model)->window > 0;
    /* With a disk the second engine begins with what the first one kept. */
    for (int32_t life = 0; life < (s->disk ? 2 : 1); life++) {
        Engine *engine = open_engine(w, s, dir);
        assert_int_equal(engine->cache.pool[0].n_idle > 0, life > 0);
        const int64_t n_loaded = serve_watched(engine, w, s->disk ? 1 : 2);
        assert_true(engine->sched.counts.n_preempted > 0);
        assert_true(windowed || s->preempt != SLUICE_PREEMPT_SWAP || n_loaded > 0);
        engine_close(engine);
    }
    testing_temp_remove(dir);
}

static void watch_model(const Watched *w) {
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) watch_setting(w, &settings[i]);
}

static void engine_never_allocates(void **state) {
    (void)state;
    if (!CAN_WATCH) skip(); /* before anything is open, for nothing is closed then */
    Watched w = {0};
    Err err = {0};
    golden_open_model(&w.model, "models/fable-28m.gguf", OPS_AVX2, 2);
    ASSERT_OK(tokenizer_open_model(&w.tokenizer, model_file(w.model.model), &err), err);
    const EncodeOptions options = {.add_special = true};
    ASSERT_OK(tokenizer_encode(w.tokenizer,
                               STR_LIT("Once upon a time there was a little girl called Mia who "
                                       "lived near the old wood with her mother and a cat."),
                               options, &w.prompt, &err),
              err);
    watch_model(&w);
    ints_free(&w.prompt);
    tokenizer_close(w.tokenizer);
    golden_close_model(&w.model);
}

/* Full and windowed layers, each with blocks of their own. */
static void engine_with_windows_never_allocates(void **state) {
    (void)state;
    if (!CAN_WATCH) skip(); /* before anything is open, for nothing is closed then */
    Watched w = {0};
    Golden g;
    golden_load(&g, "gemma3");
    golden_open_model(&w.model, g.folder, OPS_AVX2, 2);
    w.prompt = g.prompt;
    watch_model(&w);
    golden_close_model(&w.model);
    golden_free(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_never_allocates),
        cmocka_unit_test(engine_with_windows_never_allocates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
