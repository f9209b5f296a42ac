/* test_cuda_engine: the engine on the GPU's fast kernels: a request's tokens and logprobs are the
 * same alone, among others, in chunks, warm, swapped and computed again (see same_bits.h), for bf16
 * models of each kind; after opening no step allocates on the GPU; when it answers no more, every
 * request is told, and whoever runs the engine; and rules that leave no token are told as such. */
#include "cuda/cuda_shapes.h"
#include "engine/empty_rules.h"
#include "engine/same_bits.h"

enum { PROMPT = 200, VOCAB = 1000, N_REQUESTS = 12 };

static void same_bits_on_the_gpu(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        GoldenModel m;
        Golden g = {.vocab = VOCAB};
        for (int32_t k = 0; k < PROMPT; k++)
            ints_push(&g.prompt, (int32_t)(rng_bits(3, i, (uint64_t)k) % VOCAB));
        open_shape(&m, &shapes[i], GOLDEN_CUDA);
        print_message("%s\n", shapes[i].name);
        same_bits_of(&(Subject){&m, &g.prompt, DTYPE_BF16, N_REQUESTS}, NULL);
        golden_close_model(&m);
        golden_free(&g);
    }
}

/* ---- allocations -------------------------------------------------------------------------- */

/* The GPU's own face, but for those that take memory, which are counted. */
typedef struct Counted {
    DeviceVtable vtable;
    const DeviceVtable *real;
} Counted;

static Counted counted;
static int32_t n_taken;

static Status count_alloc(Device *device, size_t bytes, void **out, Err *err) {
    n_taken++;
    return counted.real->alloc(device, bytes, out, err);
}

static Status count_host_alloc(Device *device, size_t bytes, void **out, Err *err) {
    n_taken++;
    return counted.real->host_alloc(device, bytes, out, err);
}

static void takes_no_memory_when_ready(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        static Answer answer[N_REQUESTS];
        GoldenModel m;
        Golden g = {.vocab = VOCAB};
        const Setting setting = {8,    100,  16, 460, 1, true, 1, true, SLUICE_PREEMPT_SWAP,
                                 4096, false};
        const Subject subject = {&m, &g.prompt, DTYPE_BF16, N_REQUESTS};
        for (int32_t k = 0; k < PROMPT; k++) ints_push(&g.prompt, k);
        open_shape(&m, &shapes[i], GOLDEN_CUDA);
        counted = (Counted){*m.ctx.device->vtable, m.ctx.device->vtable};
        counted.vtable.alloc = count_alloc;
        counted.vtable.host_alloc = count_host_alloc;
        m.ctx.device->vtable = &counted.vtable;
        Engine *engine = open_engine(&subject, &setting, NULL);
        assert_true(n_taken > 0);
        n_taken = 0;
        int64_t total, before, after;
        counted.real->memory(m.ctx.device, &total, &before);
        for (int32_t k = 0; k < N_REQUESTS; k++) submit(engine, &subject, k, &answer[k]);
        run_all(engine);
        counted.real->memory(m.ctx.device, &total, &after);
        assert_int_equal(n_taken, 0);
        /* The driver, too, loaded everything before. */
        if (after != before)
            fail_msg("%s: steps took %lld bytes", shapes[i].name, (long long)(before - after));
        memset(answer, 0, sizeof answer);
        engine_close(engine);
        m.ctx.device->vtable = counted.real;
        golden_close_model(&m);
        golden_free(&g);
    }
}

/* ---- a lost GPU --------------------------------------------------------------------------- */

static bool dead;

static Status dead_sync(Device *device, Err *err) {
    if (dead) FAIL(err, ERR_DEVICE, "made to fail");
    return counted.real->sync(device, err);
}

static bool dead_lost(Device *device) {
    return dead || counted.real->lost(device);
}

static void count_failure(void *user, const sluice_event *event) {
    int32_t *n_told = user;
    if (!event->last) return;
    assert_int_equal(event->finish, SLUICE_FINISH_ERROR);
    assert_int_equal(event->status, SLUICE_ERR_DEVICE);
    *n_told += 1;
}

static void tells_that_it_is_lost(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    GoldenModel m;
    Golden g = {.vocab = VOCAB};
    const Setting setting = {.block_tokens = 16,
                             .max_step_tokens = 100,
                             .max_seqs = 4,
                             .kv_tokens = 2048,
                             .n_threads = 1};
    const Subject subject = {&m, &g.prompt, DTYPE_BF16, N_REQUESTS};
    Err err = {0};
    int32_t prompt[PROMPT] = {1, 2, 3}, n_told = 0;
    open_shape(&m, &shapes[0], GOLDEN_CUDA);
    counted = (Counted){*m.ctx.device->vtable, m.ctx.device->vtable};
    counted.vtable.sync = dead_sync;
    counted.vtable.lost = dead_lost;
    m.ctx.device->vtable = &counted.vtable;
    Engine *engine = open_engine(&subject, &setting, NULL);
    for (int32_t k = 0; k < N_REQUESTS; k++) {
        sluice_request request = SLUICE_REQUEST_INIT;
        request.prompt = prompt;
        request.n_prompt = PROMPT;
        request.max_tokens = 40;
        request.ignore_eos = true;
        request.user = &n_told;
        request.on_event = count_failure;
        uint64_t id;
        ASSERT_OK(engine_submit(engine, &request, &id, &err), err);
    }
    for (int32_t k = 0; k < 10; k++) assert_true(engine_step(engine));
    sluice_stats stats = {.size = sizeof stats};
    engine_get_stats(engine, &stats);
    assert_false(stats.device_lost);
    dead = true;
    for (int32_t k = 0; k < 100 && engine->n_live > 0; k++) (void)engine_step(engine);
    (void)engine_step(engine);
    engine_get_stats(engine, &stats);
    dead = false;
    assert_int_equal(n_told, N_REQUESTS);
    assert_true(stats.device_lost);
    engine_close(engine);
    m.ctx.device->vtable = counted.real;
    golden_close_model(&m);
    golden_free(&g);
}

/* ---- rules that leave no token ------------------------------------------------------------- */

static void rules_may_leave_nothing(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    GoldenModel m;
    Golden g = {.vocab = VOCAB};
    const Subject subject = {&m, &g.prompt, DTYPE_BF16, N_REQUESTS};
    open_shape(&m, &shapes[0], GOLDEN_CUDA);
    Engine *engine = open_engine(&subject, &settings[0], NULL);
    empty_rules_are_refused(engine);
    engine_close(engine);
    golden_close_model(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_on_the_gpu), cmocka_unit_test(takes_no_memory_when_ready),
        cmocka_unit_test(tells_that_it_is_lost), cmocka_unit_test(rules_may_leave_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
