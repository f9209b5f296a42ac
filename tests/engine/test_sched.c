/* test_sched: who is served first under each policy, that nobody starves, and that a long prompt
 * does not hold up the sequences that run. The model is the fake one; one place at a time makes the
 * order visible. */
#include "fake_model.h"

#include "engine/engine_priv.h"

enum { N = 12 };

typedef struct World {
    FakeModel model;
    Engine *engine;
    int32_t order[64], n_order; /* requests by their first token */
} World;

typedef struct Asked {
    World *world;
    int32_t which, n_tokens;
} Asked;

static World w;
static Asked asked[64];

static void on_event(void *user, const sluice_event *event) {
    Asked *a = user;
    if (a->n_tokens == 0 && event->n_tokens > 0) w.order[w.n_order++] = a->which;
    a->n_tokens += event->n_tokens;
}

static EngineLimits one_place(void) {
    return (EngineLimits){
        .vocab = FAKE_VOCAB,
        .dim = 8,
        .max_context = 400,
        .max_seqs = 1,
        .max_step_tokens = 64,
        .max_queue = 64,
        .max_logits = 8,
        .kv = {.n_groups = 1, .block_tokens = 4, .n_blocks = {800}, .prefix = true}};
}

static void open_world(const EngineLimits *limits, sluice_policy policy) {
    memset(&w, 0, sizeof w);
    memset(asked, 0, sizeof asked);
    EngineConfig config = {.limits = *limits,
                           .policy = policy,
                           .now_us = fake_now,
                           .clock = &w.model,
                           .n_eos = 1,
                           .eos_id = {FAKE_EOS}};
    config.runner = fake_open(&w.model, limits);
    Err err = {0};
    ASSERT_OK(engine_open(&w.engine, &config, &err), err);
}

/* A prompt of n tokens: those of `family`, then its own last one. */
static void submit(int32_t which, int32_t family, int32_t n, int32_t n_max, int32_t priority,
                   const char *tenant) {
    int32_t prompt[400];
    for (int32_t i = 0; i < n; i++) prompt[i] = (family * 31 + i * 7) % FAKE_VOCAB;
    prompt[n - 1] = which % FAKE_VOCAB;
    asked[which] = (Asked){.world = &w, .which = which};
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt;
    r.n_prompt = (size_t)n;
    r.max_tokens = n_max;
    r.ignore_eos = true;
    r.priority = priority;
    r.tenant = tenant;
    r.user = &asked[which];
    r.on_event = on_event;
    uint64_t id;
    Err err = {0};
    ASSERT_OK(engine_submit(w.engine, &r, &id, &err), err);
}

static void run(void) {
    for (int32_t i = 0; i < 20000 && (i == 0 || w.engine->n_live > 0); i++) {
        (void)engine_step(w.engine);
    }
    assert_int_equal(w.engine->n_live, 0);
}

static void sched_first_come(void **state) {
    (void)state;
    const EngineLimits limits = one_place();
    open_world(&limits, SLUICE_POLICY_FCFS);
    for (int32_t i = 0; i < N; i++) submit(i, i, 5 + (i * 5) % 7, 3, i % 3, NULL);
    run();
    for (int32_t i = 0; i < N; i++) assert_int_equal(w.order[i], i);
    engine_close(w.engine);
}

static void sched_priority(void **state) {
    (void)state;
    const EngineLimits limits = one_place();
    open_world(&limits, SLUICE_POLICY_PRIORITY);
    for (int32_t i = 0; i < N; i++) submit(i, i, 6, 3, i % 3, NULL);
    run();
    for (int32_t i = 1; i < N; i++) { /* falling priority, and within one first come */
        const int32_t before = w.order[i - 1], at = w.order[i];
        assert_true(before % 3 > at % 3 || (before % 3 == at % 3 && before < at));
    }
    engine_close(w.engine);
}

static void sched_shortest_prompt(void **state) {
    (void)state;
    const EngineLimits limits = one_place();
    open_world(&limits, SLUICE_POLICY_SHORTEST_PROMPT);
    /* The first is long; newer, shorter ones keep coming and overtake it, but not for ever. */
    submit(0, 0, 200, 1, 0, NULL);
    int32_t which = 1;
    for (int32_t round = 0; round < 12; round++) {
        for (int32_t i = 0; i < 3 && which < 60; i++, which++) submit(which, which, 10, 1, 0, NULL);
        (void)engine_step(w.engine);
    }
    run();
    int32_t at = 0;
    while (w.order[at] != 0) at++;
    assert_in_range(at, 3, 5); /* four may pass per place */
    engine_close(w.engine);
    open_world(&limits, SLUICE_POLICY_SHORTEST_PROMPT);
    for (int32_t i = 0; i < 4; i++) submit(i, i, 40 - i * 8, 1, 0, NULL);
    run();
    for (int32_t i = 0; i < 4; i++) assert_int_equal(w.order[i], 3 - i);
    engine_close(w.engine);
}

static void sched_cache_aware(void **state) {
    (void)state;
    const EngineLimits limits = one_place();
    open_world(&limits, SLUICE_POLICY_CACHE_AWARE);
    submit(0, 1, 40, 1, 0, NULL); /* warms family 1 */
    run();
    for (int32_t i = 1; i < 5; i++) submit(i, i % 2 ? 7 : 1, 40, 1, 0, NULL);
    run();
    const int32_t want[] = {0, 2, 4, 1, 3};
    assert_memory_equal(w.order, want, sizeof want);
    engine_close(w.engine);
}

/* One tenant floods, the other asks now and then: it must not wait behind the flood. */
static void sched_fair(void **state) {
    (void)state;
    const EngineLimits limits = one_place();
    open_world(&limits, SLUICE_POLICY_FAIR);
    for (int32_t i = 0; i < 30; i++) submit(i, i, 20, 5, 0, "flood");
    for (int32_t i = 0; i < 12; i++) (void)engine_step(w.engine);
    for (int32_t i = 30; i < 40; i++) submit(i, i, 20, 5, 0, "quiet");
    const int32_t before = w.n_order;
    run();
    int32_t last = 0;
    for (int32_t i = 0; i < w.n_order; i++) {
        if (w.order[i] >= 30) last = i;
    }
    /* They take turns: ten quiet ones among about ten of the flood. */
    assert_true(last <= before + 22);
    engine_close(w.engine);
}

/* With decodes running, the longest step that a 300-token prompt causes is bounded; and the same
 * prompt without decodes takes whole steps. */
static void sched_chunks_adapt(void **state) {
    (void)state;
    EngineLimits limits = one_place();
    limits.max_seqs = 8;
    limits.max_step_tokens = 512;
    limits.max_context = 400;
    open_world(&limits, SLUICE_POLICY_FCFS);
    w.model.us_per_step = 2000; /* a decode step costs about 2.4 ms, a prompt token 50 us */
    for (int32_t i = 0; i < 4; i++) submit(i, i, 20, 300, 0, NULL);
    for (int32_t i = 0; i < 30; i++) (void)engine_step(w.engine);
    submit(4, 4, 60, 1, 0, NULL); /* from this one it learns what a prompt token costs */
    for (int32_t i = 0; i < 30; i++) (void)engine_step(w.engine);
    submit(5, 5, 300, 1, 0, NULL);
    int64_t longest = 0;
    int32_t n_steps = 0;
    while (asked[5].n_tokens == 0 && n_steps < 200) {
        const int64_t start = w.model.now_us;
        (void)engine_step(w.engine);
        longest = MAX(longest, w.model.now_us - start);
        n_steps++;
    }
    assert_in_range(n_steps, 5, 40);
    assert_true(longest <= 1.5 * 2200);
    run();
    submit(6, 6, 300, 1, 0, NULL);
    const int64_t n_before = w.model.n_steps;
    run();
    assert_int_equal(w.model.n_steps - n_before, 1);
    engine_close(w.engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sched_first_come),
        cmocka_unit_test(sched_priority),
        cmocka_unit_test(sched_shortest_prompt),
        cmocka_unit_test(sched_cache_aware),
        cmocka_unit_test(sched_fair),
        cmocka_unit_test(sched_chunks_adapt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
