/* test_no_heap: after opening, a turn of the engine's loop never calls the heap, whatever the
 * requests ask for. The allocator is watched while engine_step runs. */
#include "../golden/golden.h"

#include "base/thread.h"
#include "engine/engine_priv.h"
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

static Engine *open_engine(const GoldenModel *m, const Tokenizer *tokenizer) {
    const ModelConfig *c = model_config(m->model);
    EngineConfig config = {.tokenizer = tokenizer, .n_eos = c->n_eos};
    memcpy(config.eos_id, c->eos_id, sizeof config.eos_id);
    config.limits =
        (EngineLimits){.vocab = c->vocab,
                       .dim = c->dim,
                       .max_context = 256,
                       .max_seqs = 12,
                       .max_step_tokens = 48,
                       .max_queue = 40,
                       .max_logits = 24,
                       .kv = {.n_groups = 1, .block_tokens = 16, .n_blocks = {28}, .prefix = true}};
    const RunnerOptions runner = {.model = m->model,
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

static void submit(Engine *engine, const Ints *prompt, int32_t i, int32_t *n_last) {
    static const char *const stops[] = {"the end", ". She"};
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt->data;
    r.n_prompt = MIN(prompt->len, (size_t)(10 + i));
    r.max_tokens = 60;
    r.n = i % 3 == 1 ? 3 : 1;
    r.sampling.temperature = i % 2 ? 0.9f : 0;
    r.sampling.top_p = 0.9f;
    r.sampling.repetition_penalty = 1.1f;
    r.sampling.n_logprobs = i % 4 == 0 ? 5 : -1;
    r.prompt_logprobs = i % 5 == 0 ? 0 : -1;
    r.stop = stops;
    r.n_stop = i % 2 ? 2 : 0;
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
    r.user = n_last;
    if (i % 2) r.on_event = on_event;
    uint64_t id;
    Err err = {0};
    ASSERT_OK(engine_submit(engine, &r, &id, &err), err);
    if (i == 7) engine_cancel(engine, id);
}

static void engine_never_allocates(void **state) {
    (void)state;
    if (!CAN_WATCH) skip();
    GoldenModel m;
    Tokenizer *tokenizer = NULL;
    Err err = {0};
    golden_open_model(&m, "models/fable-28m.gguf", OPS_AVX2, 2);
    ASSERT_OK(tokenizer_open_model(&tokenizer, model_file(m.model), &err), err);
    Ints prompt = {0};
    const EncodeOptions options = {.add_special = true};
    ASSERT_OK(tokenizer_encode(tokenizer,
                               STR_LIT("Once upon a time there was a little girl called Mia who "
                                       "lived near the old wood with her mother and a cat."),
                               options, &prompt, &err),
              err);
    Engine *engine = open_engine(&m, tokenizer);
    int32_t n_last = 0;
    for (int32_t i = 0; i < 16; i++) submit(engine, &prompt, i, &n_last);
    for (int32_t i = 0; i < 5000 && (i == 0 || engine->n_live > 0); i++) {
        watching = true;
        (void)engine_step(engine);
        watching = false;
        assert_int_equal(n_calls, 0);
    }
    assert_int_equal(engine->n_live, 0);
    sluice_event event;
    while (engine_poll(engine, 0, &event)) n_last += event.last;
    assert_int_equal(n_last, 16);
    assert_true(engine->sched.counts.n_preempted > 0);
    engine_close(engine);
    ints_free(&prompt);
    tokenizer_close(tokenizer);
    golden_close_model(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(engine_never_allocates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
