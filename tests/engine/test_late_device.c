/* test_late_device: the engine on an accelerator whose work is done when it is waited for
 * (late_device.h): the bits of the CPU, alone and together, swapped and computed again; calls that
 * fail one by one, while a model is loaded, an engine opened and while it runs: nothing is lost but
 * the requests of a step, and all memory comes back. */
#include "engine/empty_rules.h"
#include "engine/late_device.h"
#include "engine/same_bits.h"

enum { N_REQUESTS = 12, N_FEW = 4, CALLS_MAX = 4000 };

static LateDevice late;

/* With the call that fails, or 0. */
static Status load_late(GoldenModel *m, const char *folder, int64_t fail_in, Err *err) {
    ModelFile *file = NULL;
    memset(m, 0, sizeof *m);
    late_open(&late);
    m->ops = &late.ops;
    m->ctx.device = &late.base;
    ASSERT_OK(pool_open(&m->pool, 1, err), *err);
    m->ctx.pool = m->pool;
    ASSERT_OK(model_file_open(&file, folder, err), *err);
    late.fail_in = fail_in;
    const ModelOptions options = {.ops = m->ops, .ctx = &m->ctx, .quiet = true};
    return model_open(&m->model, file, &options, err);
}

static void open_late(GoldenModel *m, const char *folder) {
    Err err = {0};
    ASSERT_OK(load_late(m, folder, 0, &err), err);
}

static void bits_are_the_cpus(void **state) {
    (void)state;
    static const char *const families[] = {"llama3", "gemma3", "qwen3_moe", "gpt2"};
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        GoldenModel m;
        Golden g;
        static Answer want[N_REQUESTS], got[N_REQUESTS];
        memset(want, 0, sizeof want);
        memset(got, 0, sizeof got);
        golden_load(&g, families[i]);
        int32_t level = OPS_LEVEL_COUNT - 1;
        while (!ops_cpu_has((OpsLevel)level)) level--;
        golden_open_model(&m, g.folder, level, 1);
        serve_alone(&(Subject){&m, &g.prompt, DTYPE_F32, N_REQUESTS}, want);
        golden_close_model(&m);
        open_late(&m, g.folder);
        const Subject subject = {&m, &g.prompt, DTYPE_F32, N_REQUESTS};
        serve_alone(&subject, got);
        for (int32_t k = 0; k < N_REQUESTS; k++) compare(&got[k], &want[k], k, 0);
        same_bits_of(&subject, NULL);
        golden_close_model(&m);
        golden_free(&g);
    }
}

/* ---- failures ----------------------------------------------------------------------------- */

static const Setting few = {.block_tokens = 8,
                            .max_step_tokens = 64,
                            .max_seqs = 8,
                            .kv_tokens = 2048,
                            .n_threads = 1,
                            .host_tokens = 256};

static void loading_fails_at_each_call(void **state) {
    (void)state;
    Golden g;
    Status status = ERR_DEVICE;
    golden_load(&g, "gemma3");
    for (int64_t n = 1; status != OK; n++) {
        GoldenModel m;
        Err err = {0};
        assert_true(n < CALLS_MAX);
        status = load_late(&m, g.folder, n, &err);
        if (status == OK) {
            golden_close_model(&m);
            continue;
        }
        assert_int_equal(status, ERR_DEVICE);
        late_close(&late.base);
        pool_close(m.pool);
    }
    golden_free(&g);
}

static void opening_fails_at_each_call(void **state) {
    (void)state;
    GoldenModel m;
    Golden g;
    golden_load(&g, "gemma3");
    open_late(&m, g.folder);
    const Subject subject = {&m, &g.prompt, DTYPE_F32, N_FEW};
    const RunnerOptions options = {.model = m.model,
                                   .device = m.ctx.device,
                                   .n_threads = 1,
                                   .kv_dtype = DTYPE_F32,
                                   .limits = setting_limits(&few, &subject)};
    const int64_t n_before = late.n_live;
    Status status = ERR_DEVICE;
    for (int64_t n = 1; status != OK; n++) {
        Runner runner;
        Err err = {0};
        assert_true(n < CALLS_MAX);
        late.fail_in = n;
        status = runner_open(&runner, &options, &err);
        if (status == OK) {
            runner.close(runner.self);
        } else {
            assert_int_equal(status, ERR_DEVICE);
        }
        late.noted = false;
        assert_int_equal(late.n_live, n_before);
        assert_null(late.recording);
    }
    late.fail_in = 0;
    golden_close_model(&m);
    golden_free(&g);
}

/* The system ends whoever takes more page-locked memory than there is. */
static void a_host_tier_must_fit(void **state) {
    (void)state;
    GoldenModel m;
    Golden g;
    Runner runner;
    Err err = {0};
    golden_load(&g, "llama3");
    open_late(&m, g.folder);
    const Subject subject = {&m, &g.prompt, DTYPE_F32, N_FEW};
    RunnerOptions options = {.model = m.model,
                             .device = m.ctx.device,
                             .n_threads = 1,
                             .kv_dtype = DTYPE_F32,
                             .limits = setting_limits(&few, &subject)};
    options.limits.kv.n_host[0] = INT32_MAX; /* some terabytes */
    assert_int_equal(runner_open(&runner, &options, &err), ERR_NOMEM);
    assert_non_null(strstr(err.text, "of memory are left"));
    golden_close_model(&m);
    golden_free(&g);
}

/* What a request was told. */
typedef struct Told {
    Answer answer;
    int32_t n_last;
    sluice_status status;
} Told;

static void on_told(void *user, const sluice_event *event) {
    Told *told = user;
    if (event->finish != SLUICE_FINISH_ERROR) on_event(&told->answer, event);
    told->n_last += event->last;
    if (event->last) told->status = event->status;
}

static void ask(Engine *engine, const Subject *subject, int32_t i, Told *told) {
    int32_t prompt[CONTEXT];
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt;
    r.n_prompt = (size_t)fill_prompt(subject, i, prompt);
    r.max_tokens = 6;
    r.ignore_eos = true;
    r.sampling = samplings[i % (int32_t)ARRAY_LEN(samplings)];
    r.sampling.n_logprobs = N_TOP;
    r.sampling.seed = (uint64_t)i;
    r.user = told;
    r.on_event = on_told;
    uint64_t id;
    Err err = {0};
    ASSERT_OK(engine_submit(engine, &r, &id, &err), err);
}

/* Whether the first `n` calls of the engine's work were enough for all of it. */
static bool serve_with_failure(const Subject *subject, int64_t n, const Told *want) {
    Told told[N_FEW] = {0}, after = {0};
    sluice_stats stats = {.size = sizeof stats};
    Engine *engine = open_engine(subject, &few, NULL);
    for (int32_t i = 0; i < N_FEW; i++) ask(engine, subject, i + 1, &told[i]);
    late.fail_in = n;
    run_all(engine);
    const bool over = late.fail_in > 0;
    late.fail_in = 0;
    int32_t n_failed = 0;
    for (int32_t i = 0; i < N_FEW; i++) {
        assert_int_equal(told[i].n_last, 1);
        n_failed += told[i].status != SLUICE_OK;
        if (told[i].status == SLUICE_OK)
            compare(&told[i].answer, &want[i].answer, i, (int32_t)n);
        else
            assert_int_equal(told[i].status, SLUICE_ERR_DEVICE);
    }
    assert_true(over == (n_failed == 0));
    engine_get_stats(engine, &stats);
    assert_false(stats.device_lost);
    ask(engine, subject, 1, &after);
    run_all(engine);
    compare(&after.answer, &want[0].answer, 0, (int32_t)n);
    engine_close(engine);
    return over;
}

static void a_step_fails_at_each_call(void **state) {
    (void)state;
    GoldenModel m;
    Golden g;
    static Told want[N_FEW];
    golden_load(&g, "llama3");
    open_late(&m, g.folder);
    const Subject subject = {&m, &g.prompt, DTYPE_F32, N_FEW};
    Engine *engine = open_engine(&subject, &few, NULL);
    for (int32_t i = 0; i < N_FEW; i++) ask(engine, &subject, i + 1, &want[i]);
    run_all(engine);
    engine_close(engine);
    int64_t n = 1;
    while (!serve_with_failure(&subject, n, want)) assert_true(++n < CALLS_MAX);
    assert_true(n > 20);
    golden_close_model(&m);
    golden_free(&g);
}

static void a_lost_one_is_told(void **state) {
    (void)state;
    GoldenModel m;
    Golden g;
    Told told[N_FEW] = {0};
    sluice_stats stats = {.size = sizeof stats};
    golden_load(&g, "llama3");
    open_late(&m, g.folder);
    const Subject subject = {&m, &g.prompt, DTYPE_F32, N_FEW};
    Engine *engine = open_engine(&subject, &few, NULL);
    for (int32_t i = 0; i < N_FEW; i++) ask(engine, &subject, i + 1, &told[i]);
    (void)engine_step(engine);
    late.fail_in = 1;
    late.is_lost = true;
    run_all(engine);
    for (int32_t i = 0; i < N_FEW; i++) {
        assert_int_equal(told[i].n_last, 1);
        assert_int_equal(told[i].status, SLUICE_ERR_DEVICE);
    }
    engine_get_stats(engine, &stats);
    assert_true(stats.device_lost);
    late.fail_in = 0;
    late.is_lost = late.noted = false;
    engine_close(engine);
    golden_close_model(&m);
    golden_free(&g);
}

/* ---- rules that leave no token ------------------------------------------------------------ */

static void rules_may_leave_nothing(void **state) {
    (void)state;
    GoldenModel m;
    Golden g;
    golden_load(&g, "llama3");
    open_late(&m, g.folder);
    const Subject subject = {&m, &g.prompt, DTYPE_F32, N_FEW};
    Engine *engine = open_engine(&subject, &few, NULL);
    empty_rules_are_refused(engine);
    engine_close(engine);
    golden_close_model(&m);
    golden_free(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_the_cpus),          cmocka_unit_test(loading_fails_at_each_call),
        cmocka_unit_test(opening_fails_at_each_call), cmocka_unit_test(a_step_fails_at_each_call),
        cmocka_unit_test(a_host_tier_must_fit),       cmocka_unit_test(a_lost_one_is_told),
        cmocka_unit_test(rules_may_leave_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
