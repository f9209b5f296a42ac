/* test_engine: the whole engine around a fake model whose right answers are known.
 *
 * Random requests under random limits, policies, cancellations and deadlines; after every step the
 * audit must pass; every request must get exactly its own tokens and exactly one last event; in the
 * end nothing is left. The fake model itself checks every slot that a sequence attends to.
 *
 * `test_engine FIRST N` runs the worlds of N other seeds, the seed before each. */
#include "fake_model.h"

#include "base/rng.h"
#include "engine/engine_priv.h"

enum { REQUESTS_MAX = 64, PROMPT_MAX = 120, OUTPUT_MAX = 40 };

typedef struct Asked {
    uint64_t id;
    int32_t prompt[PROMPT_MAX], n_prompt, n_max, n_min, n;
    uint64_t seed;
    bool cancelled, has_deadline, may_fail;
    /* what came */
    int32_t got[ENGINE_N_MAX][OUTPUT_MAX], n_got[ENGINE_N_MAX];
    sluice_finish finish[ENGINE_N_MAX];
    sluice_usage usage;
    int32_t n_last;
} Asked;

typedef struct World {
    uint64_t seed, counter;
    FakeModel model;
    Engine *engine;
    Asked asked[REQUESTS_MAX];
    int32_t n_asked;
    int64_t n_cancelled, n_deadline;
    sluice_stats stats; /* at the end */
} World;

static uint32_t world_random(World *w, uint32_t n) {
    return (uint32_t)(rng_bits(w->seed, 9, w->counter++) % n);
}

static EngineLimits small_limits(void) {
    return (EngineLimits){
        .vocab = FAKE_VOCAB,
        .dim = 8,
        .max_context = 200,
        .max_seqs = 8,
        .max_step_tokens = 32,
        .max_queue = REQUESTS_MAX,
        .max_logits = 16,
        .kv = {.n_groups = 1, .block_tokens = 4, .n_blocks = {200}, .prefix = true}};
}

static void world_open(World *w, const EngineLimits *limits, sluice_policy policy, uint64_t seed) {
    memset(w, 0, sizeof *w);
    w->seed = seed;
    EngineConfig config = {.limits = *limits,
                           .policy = policy,
                           .n_eos = 1,
                           .eos_id = {FAKE_EOS},
                           .salt_seed = 5,
                           .now_us = fake_now,
                           .clock = &w->model};
    config.runner = fake_open(&w->model, limits);
    Err err = {0};
    ASSERT_OK(engine_open(&w->engine, &config, &err), err);
}

static void world_audit(World *w) {
    Err err = {0};
    ASSERT_OK(engine_audit(w->engine, &err), err);
}

/* The event's tokens must be those that are expected next. */
static void world_take(World *w, const sluice_event *event) {
    Asked *a = event->user;
    assert_int_equal(event->request, a->id);
    assert_in_range(event->index, 0, a->n - 1);
    assert_int_equal(a->n_last, 0);
    const int32_t i = event->index;
    assert_int_equal(a->finish[i], SLUICE_FINISH_NONE);
    for (int32_t k = 0; k < event->n_tokens; k++) a->got[i][a->n_got[i]++] = event->tokens[k];
    a->finish[i] = event->finish;
    a->n_last += event->last;
    if (event->finish == SLUICE_FINISH_NONE) return;
    int32_t want[OUTPUT_MAX];
    bool eos;
    const int32_t n =
        fake_expect(a->prompt, a->n_prompt, a->seed, (uint64_t)i, a->n_min, a->n_max, want, &eos);
    assert_true(a->n_got[i] <= n);
    assert_memory_equal(a->got[i], want, (size_t)a->n_got[i] * sizeof *want);
    a->usage = *event->usage;
    assert_int_equal(event->usage->n_prompt, a->n_prompt);
    assert_int_equal(event->usage->n_output, a->n_got[i]);
    assert_true(event->usage->n_cached < a->n_prompt);
    switch (event->finish) {
        case SLUICE_FINISH_STOP:
            assert_true(eos && a->n_got[i] == n && event->stop_id == FAKE_EOS);
            break;
        case SLUICE_FINISH_LENGTH: assert_true(!eos && a->n_got[i] == n); break;
        case SLUICE_FINISH_CANCELLED:
            assert_true(a->cancelled);
            w->n_cancelled++;
            break;
        case SLUICE_FINISH_DEADLINE:
            assert_true(a->has_deadline);
            w->n_deadline++;
            break;
        default:
            assert_true(a->may_fail);
            assert_true(event->error != NULL && event->status == SLUICE_ERR_DEVICE);
    }
}

static void world_drain(World *w) {
    sluice_event event;
    while (engine_poll(w->engine, 0, &event)) world_take(w, &event);
}

static void world_on_event(void *user, const sluice_event *event) {
    static World none;
    (void)user;
    world_take(&none, event);
}

/* Prompts share beginnings: their first part comes from one of a few. */
static void world_fill_prompt(World *w, Asked *a) {
    a->n_prompt = 1 + (int32_t)world_random(w, PROMPT_MAX);
    const int32_t shared = (int32_t)world_random(w, (uint32_t)a->n_prompt + 1);
    const uint32_t which = world_random(w, 3);
    for (int32_t i = 0; i < a->n_prompt; i++) {
        a->prompt[i] = i < shared ? (int32_t)((which * 17 + (uint32_t)i) % FAKE_VOCAB)
                                  : (int32_t)world_random(w, FAKE_VOCAB);
    }
}

static void world_submit(World *w) {
    Asked *a = &w->asked[w->n_asked];
    world_fill_prompt(w, a);
    a->n_max = 1 + (int32_t)world_random(w, OUTPUT_MAX);
    a->n_min = world_random(w, 3) == 0 ? (int32_t)world_random(w, OUTPUT_MAX) : 0;
    a->n = world_random(w, 4) == 0 ? 1 + (int32_t)world_random(w, 4) : 1;
    a->seed = world_random(w, 1000);
    a->has_deadline = world_random(w, 8) == 0;
    char tenant[16];
    snprintf(tenant, sizeof tenant, "t%u", world_random(w, 3));
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = a->prompt;
    r.n_prompt = (size_t)a->n_prompt;
    r.max_tokens = a->n_max;
    r.min_tokens = a->n_min;
    r.n = a->n;
    r.sampling.seed = a->seed;
    r.sampling.temperature = 1;
    r.tenant = tenant;
    r.priority = (int32_t)world_random(w, 3);
    r.deadline_us = a->has_deadline ? 1 + (int64_t)world_random(w, 200000) : 0;
    r.user = a;
    if (world_random(w, 2)) r.on_event = world_on_event;
    Err err = {0};
    ASSERT_OK(engine_submit(w->engine, &r, &a->id, &err), err);
    w->n_asked++;
}

static void world_close(World *w) {
    world_drain(w);
    for (int32_t i = 0; i < w->n_asked; i++) assert_int_equal(w->asked[i].n_last, 1);
    const sluice_stats *stats = &w->stats;
    engine_get_stats(w->engine, &w->stats);
    assert_int_equal(stats->n_blocks_used, 0);
    assert_int_equal(stats->n_running + stats->n_waiting, 0);
    assert_int_equal(stats->n_requests, w->n_asked);
    assert_int_equal(stats->n_finished + stats->n_cancelled + stats->n_failed, w->n_asked);
    assert_int_equal(w->engine->sched.n_free_places, w->model.limits.max_seqs);
    engine_close(w->engine);
}

/* Runs until nothing is left; the bound is generous, but finite: nothing may starve or hang. */
static void world_finish(World *w) {
    for (int32_t i = 0; i < 20000; i++) {
        const bool some = engine_step(w->engine);
        world_audit(w);
        if (!some && w->engine->n_live == 0) return;
        /* Nothing to compute although requests wait: time has to pass for the deadline, no more. */
        assert_true(some);
    }
    fail_msg("requests are left after 20000 steps");
}

static void world_run(World *w) {
    while (w->n_asked < REQUESTS_MAX) {
        if (world_random(w, 2) == 0) world_submit(w);
        if (world_random(w, 12) == 0 && w->n_asked > 0) {
            Asked *a = &w->asked[world_random(w, (uint32_t)w->n_asked)];
            a->cancelled = true;
            engine_cancel(w->engine, a->id);
            engine_cancel(w->engine, UINT64_MAX - a->id); /* nobody */
        }
        (void)engine_step(w->engine);
        world_audit(w);
        if (world_random(w, 2)) world_drain(w);
    }
    world_finish(w);
    world_close(w);
}

/* Limits drawn from the seed: tiny and roomy pools, steps and queues. */
static EngineLimits random_limits(uint64_t seed) {
    EngineLimits limits = small_limits();
    limits.kv.block_tokens = 1 << rng_bits(seed, 1, 0) % 5;
    limits.max_step_tokens = (int32_t[]){1, 3, 8, 32, 128}[rng_bits(seed, 1, 1) % 5];
    limits.max_logits = MIN(limits.max_step_tokens, 16);
    limits.max_seqs = (int32_t[]){4, 8, 16}[rng_bits(seed, 1, 2) % 3];
    /* From one sequence of the largest kind to room for all. */
    const int32_t tokens = (int32_t[]){190, 400, 4000}[rng_bits(seed, 1, 3) % 3];
    limits.kv.n_blocks[0] = DIV_UP(tokens, limits.kv.block_tokens) + 2;
    limits.kv.prefix = rng_bits(seed, 1, 4) % 4 != 0;
    const uint64_t kind = rng_bits(seed, 1, 5) % 4;
    if (kind == 1) limits.kv.window[0] = 24;
    if (kind == 2) {
        limits.kv.n_groups = 2;
        limits.kv.window[1] = 16;
        limits.kv.n_blocks[1] = limits.kv.n_blocks[0];
    }
    return limits;
}

/* The seeds to run; other ones come from the command line. */
enum { SEEDS = 100 };
static uint64_t seed_first = 0, seed_end = SEEDS;

static void engine_random_worlds(void **state) {
    (void)state;
    static World w;
    int64_t n_preempted = 0, n_hits = 0, n_cancelled = 0, n_deadline = 0;
    for (uint64_t seed = seed_first; seed < seed_end; seed++) {
        if (seed_end > SEEDS) print_message("seed %llu\n", (unsigned long long)seed);
        const EngineLimits limits = random_limits(seed);
        world_open(&w, &limits, (sluice_policy)(seed % 5), seed);
        world_run(&w);
        n_cancelled += w.n_cancelled;
        n_deadline += w.n_deadline;
        n_preempted += w.stats.n_preempted;
        n_hits += w.stats.prefix_hit_tokens;
    }
    print_message("%lld preempted, %lld prompt tokens cached\n", (long long)n_preempted,
                  (long long)n_hits);
    assert_true(n_cancelled > 20 && n_deadline > 20 && n_preempted > 100 && n_hits > 10000);
}

/* ---- one thing at a time ---------------------------------------------------------------- */

static sluice_request simple_request(const int32_t *prompt, int32_t n_prompt, int32_t n_max) {
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt;
    r.n_prompt = (size_t)n_prompt;
    r.max_tokens = n_max;
    return r;
}

static void fill(int32_t *prompt, int32_t n, int32_t first) {
    for (int32_t i = 0; i < n; i++) prompt[i] = (first + i * 3) % FAKE_VOCAB;
}

static void step_until_idle(World *w) {
    for (int32_t i = 0; i < 20000 && engine_step(w->engine); i++) world_audit(w);
    assert_int_equal(w->engine->n_live, 0);
}

static void engine_refuses(void **state) {
    (void)state;
    static World w;
    EngineLimits limits = small_limits();
    limits.kv.n_blocks[0] = 20; /* 80 tokens */
    limits.max_queue = 3;
    world_open(&w, &limits, SLUICE_POLICY_FCFS, 1);
    int32_t prompt[300];
    fill(prompt, 300, 0);
    const struct {
        int32_t n_prompt, n_max;
        Status status;
    } cases[] = {{0, 5, ERR_ARG},   {60, 30, ERR_ARG}, {40, 200, ERR_ARG}, {300, 1, ERR_ARG},
                 {200, 0, ERR_ARG}, {60, 20, OK},      {70, 6, OK}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sluice_request r = simple_request(prompt, cases[i].n_prompt, cases[i].n_max);
        uint64_t id = 0;
        Err err = {0};
        assert_int_equal(engine_submit(w.engine, &r, &id, &err), cases[i].status);
        assert_true((cases[i].status == OK) == (id != 0));
        assert_true((cases[i].status == OK) == (err.text[0] == 0));
    }
    sluice_request bad[14];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) bad[i] = simple_request(prompt, 5, 5);
    const int32_t outside[] = {1, FAKE_VOCAB}, negative[] = {-1};
    const char *const empty_stop[] = {""};
    bad[0].n = 9, bad[1].sampling.top_p = 2, bad[2].n_stop = 17, bad[3].prompt_logprobs = 21;
    bad[4].prompt = outside, bad[4].n_prompt = 2;
    bad[5].stop_ids = negative, bad[5].n_stop_ids = 1;
    bad[6].stop = empty_stop, bad[6].n_stop = 1;
    bad[7].min_tokens = -1, bad[8].deadline_us = -1;
    char long_name[2000];
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    bad[9].prompt = NULL, bad[10].n_stop_ids = 2, bad[11].sampling.n_bias = 1;
    bad[12].tenant = long_name, bad[13].queue_us_max = -1;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint64_t id = 0;
        Err err = {0};
        assert_int_equal(engine_submit(w.engine, &bad[i], &id, &err), ERR_ARG);
        assert_true(strlen(err.text) > 10);
    }
    /* Two wait; the third fits the queue, the fourth does not. */
    sluice_request r = simple_request(prompt, 5, 5);
    uint64_t id = 0;
    assert_int_equal(engine_submit(w.engine, &r, &id, NULL), OK);
    assert_int_equal(engine_submit(w.engine, &r, &id, NULL), ERR_LIMIT);
    step_until_idle(&w);
    assert_int_equal(engine_submit(w.engine, &r, &id, NULL), OK);
    engine_close(w.engine); /* with a request in the inbox and events unfetched */
}

/* Cancels a request with four sequences after every number of steps it can take. */
static void engine_cancels_anywhere(void **state) {
    (void)state;
    static World w;
    int32_t prompt[100];
    fill(prompt, 100, 5);
    for (int32_t at = 0; at < 40; at++) {
        const EngineLimits limits = small_limits();
        world_open(&w, &limits, SLUICE_POLICY_FCFS, 1);
        Asked *a = &w.asked[0], *b = &w.asked[1];
        *a = (Asked){.n_prompt = 100, .n_max = 30, .n = 4, .cancelled = true};
        *b = (Asked){.n_prompt = 90, .n_max = 20, .n = 1};
        memcpy(a->prompt, prompt, sizeof prompt);
        memcpy(b->prompt, prompt, sizeof prompt);
        for (int32_t i = 0; i < 2; i++) {
            Asked *asked = &w.asked[w.n_asked++];
            sluice_request r = simple_request(prompt, asked->n_prompt, asked->n_max);
            r.n = asked->n;
            r.user = asked;
            if (at % 2) r.on_event = world_on_event;
            assert_int_equal(engine_submit(w.engine, &r, &asked->id, NULL), OK);
        }
        for (int32_t i = 0; i < at; i++) {
            (void)engine_step(w.engine);
            world_audit(&w);
        }
        engine_cancel(w.engine, a->id);
        engine_cancel(w.engine, a->id);
        if (at == 3) engine_cancel(w.engine, 0);
        world_finish(&w);
        engine_cancel(w.engine, a->id);
        (void)engine_step(w.engine);
        assert_int_equal(b->n_last, at % 2);
        world_close(&w);
    }
}

/* Cancelling inside the callback is allowed; so is a callback for a request that ends at once. */
typedef struct Canceller {
    Engine *engine;
    uint64_t id;
    int32_t n_events, n_last, n_tokens;
} Canceller;

static void canceller_on_event(void *user, const sluice_event *event) {
    Canceller *c = user;
    c->n_events++;
    c->n_last += event->last;
    c->n_tokens += event->n_tokens;
    engine_cancel(c->engine, event->request);
}

static void engine_cancels_in_callback(void **state) {
    (void)state;
    static World w;
    const EngineLimits limits = small_limits();
    world_open(&w, &limits, SLUICE_POLICY_FCFS, 1);
    int32_t prompt[50];
    fill(prompt, 50, 5);
    Canceller c[8] = {0};
    for (int32_t i = 0; i < 8; i++) {
        c[i].engine = w.engine;
        sluice_request r = simple_request(prompt, 50 - i, 1 + i);
        r.n = 1 + i % 3;
        r.user = &c[i];
        r.on_event = canceller_on_event;
        assert_int_equal(engine_submit(w.engine, &r, &c[i].id, NULL), OK);
    }
    step_until_idle(&w);
    for (int32_t i = 0; i < 8; i++) {
        assert_int_equal(c[i].n_last, 1);
        assert_in_range(c[i].n_tokens, 1, 3);
    }
    engine_close(w.engine);
}

static void engine_survives_bad_steps(void **state) {
    (void)state;
    static World w;
    for (int64_t fail = 1; fail < 12; fail++) {
        const EngineLimits limits = small_limits();
        world_open(&w, &limits, SLUICE_POLICY_FCFS, (uint64_t)fail);
        w.model.fail_step = fail;
        w.model.lost = fail % 2 == 0;
        for (int32_t i = 0; i < 6; i++) world_submit(&w);
        for (int32_t i = 0; i < w.n_asked; i++) w.asked[i].may_fail = true;
        world_finish(&w);
        world_submit(&w); /* life goes on */
        world_finish(&w);
        world_close(&w);
        assert_true(w.stats.n_failed >= 1);
        assert_int_equal(w.stats.device_lost, fail % 2 == 0);
    }
}

/* Logits that are not finite end that request alone, and its blocks are not kept for others. */
static void engine_contains_nonfinite(void **state) {
    (void)state;
    static World w;
    const EngineLimits limits = small_limits();
    int32_t prompt[40], want[OUTPUT_MAX];
    fill(prompt, 40, 5);
    bool eos;
    const int32_t n = fake_expect(prompt, 40, 0, 0, 0, 20, want, &eos);
    for (int32_t at = 0; at < MIN(n, 6); at++) {
        world_open(&w, &limits, SLUICE_POLICY_FCFS, 1);
        uint64_t tag = 0;
        for (int32_t i = 0; i < 40 + at; i++)
            tag = fake_tag(tag, i < 40 ? prompt[i] : want[i - 40], i);
        w.model.nonfinite_tag = tag;
        for (int32_t i = 0; i < 2; i++) {
            Asked *a = &w.asked[w.n_asked++];
            *a = (Asked){.n_prompt = 40 - 20 * i, .n_max = 20, .n = 1, .may_fail = i == 0};
            memcpy(a->prompt, prompt, sizeof prompt);
            sluice_request r = simple_request(prompt, a->n_prompt, a->n_max);
            r.user = a;
            assert_int_equal(engine_submit(w.engine, &r, &a->id, NULL), OK);
        }
        world_finish(&w);
        world_drain(&w);
        assert_int_equal(w.asked[0].finish[0], SLUICE_FINISH_ERROR);
        assert_int_equal(w.asked[0].n_got[0], at);
        assert_true(w.asked[1].finish[0] == SLUICE_FINISH_STOP ||
                    w.asked[1].finish[0] == SLUICE_FINISH_LENGTH);
        /* The blocks behind the bad logits are gone; the prompt computes as if for the first
         * time. */
        w.model.nonfinite_tag = 0;
        Asked *again = &w.asked[w.n_asked++];
        *again = (Asked){.n_prompt = 40, .n_max = 20, .n = 1};
        memcpy(again->prompt, prompt, sizeof prompt);
        sluice_request r = simple_request(prompt, 40, 20);
        r.user = again;
        assert_int_equal(engine_submit(w.engine, &r, &again->id, NULL), OK);
        world_finish(&w);
        world_drain(&w);
        assert_true(again->usage.n_cached <= 20);
        world_close(&w);
        assert_int_equal(w.stats.n_nonfinite, 1);
    }
}

static void engine_reports_cache(void **state) {
    (void)state;
    static World w;
    const EngineLimits limits = small_limits();
    world_open(&w, &limits, SLUICE_POLICY_FCFS, 1);
    int32_t prompt[40];
    fill(prompt, 40, 5);
    const struct {
        const char *tenant, *salt;
        int32_t n_prompt, change, n_cached;
        sluice_miss miss;
        int32_t miss_at;
    } cases[] = {
        {"a", NULL, 40, -1, 0, SLUICE_MISS_NEW, 0},
        {"a", NULL, 40, -1, 36, SLUICE_MISS_SHORT, 36},
        {"a", NULL, 37, -1, 36, SLUICE_MISS_NONE, 36},
        {"a", NULL, 40, 22, 20, SLUICE_MISS_DIFFERENT, 22},
        {"b", NULL, 40, -1, 0, SLUICE_MISS_SALT, 0},
        {"a", "s", 40, -1, 0, SLUICE_MISS_SALT, 0},
        {"a", "s", 40, -1, 36, SLUICE_MISS_SHORT, 36},
        {"a", NULL, 4, -1, 0, SLUICE_MISS_SHORT, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int32_t own[40];
        memcpy(own, prompt, sizeof own);
        if (cases[i].change >= 0) own[cases[i].change] = 99;
        sluice_request r = simple_request(own, cases[i].n_prompt, 1);
        r.tenant = cases[i].tenant;
        r.cache_salt = cases[i].salt;
        uint64_t id;
        assert_int_equal(engine_submit(w.engine, &r, &id, NULL), OK);
        step_until_idle(&w);
        sluice_event event;
        assert_true(engine_poll(w.engine, 0, &event));
        assert_true(event.last && event.usage->n_prompt == cases[i].n_prompt);
        assert_int_equal(event.usage->n_cached, cases[i].n_cached);
        assert_int_equal(event.usage->miss, cases[i].miss);
        assert_int_equal(event.usage->miss_at, cases[i].miss_at);
    }
    engine_close(w.engine);
}

/* All requests for prompt logprobs and logprobs get one for each token, in any chunking. */
static void engine_reports_logprobs(void **state) {
    (void)state;
    static World w;
    for (int32_t chunk = 1; chunk < 40; chunk += 6) {
        EngineLimits limits = small_limits();
        limits.max_step_tokens = chunk;
        limits.max_logits = MIN(chunk, 5);
        world_open(&w, &limits, SLUICE_POLICY_FCFS, 1);
        int32_t prompt[40];
        fill(prompt, 40, 5);
        for (int32_t round = 0; round < 2; round++) { /* the second one would hit the cache */
            sluice_request r = simple_request(prompt, 40, 6);
            r.prompt_logprobs = 0;
            r.sampling.n_logprobs = 2;
            r.ignore_eos = true;
            uint64_t id;
            assert_int_equal(engine_submit(w.engine, &r, &id, NULL), OK);
            step_until_idle(&w);
            sluice_event event;
            assert_true(engine_poll(w.engine, 0, &event));
            assert_non_null(event.prompt_chosen);
            uint64_t tag = 0;
            for (int32_t i = 0; i < 40; i++) {
                const float want = i == 0 ? 0 : -(float)(tag % 1000) / 100;
                assert_true(event.prompt_chosen[i].logprob == want);
                if (i > 0) assert_int_equal(event.prompt_chosen[i].token, prompt[i]);
                tag = fake_tag(tag, prompt[i], i);
            }
            assert_int_equal(event.n_tokens, 6);
            assert_int_equal(event.n_top, 2);
            for (int32_t i = 0; i < 6; i++) {
                assert_int_equal(event.chosen[i].token, event.tokens[i]);
                assert_true(event.chosen[i].logprob == -(float)(tag % 1000) / 100);
                assert_true(event.top[2 * i].logprob > event.top[2 * i + 1].logprob);
                tag = fake_tag(tag, event.tokens[i], 40 + i);
            }
        }
        engine_close(w.engine);
    }
}

/* Embeddings beside generations; the pooled vector does not depend on the chunks. */
static void engine_pools_embeddings(void **state) {
    (void)state;
    static World w;
    for (int32_t chunk = 1; chunk < 60; chunk += 9) {
        EngineLimits limits = small_limits();
        limits.max_step_tokens = chunk;
        limits.max_logits = MIN(chunk, 7);
        world_open(&w, &limits, SLUICE_POLICY_FCFS, 1);
        int32_t prompt[50];
        fill(prompt, 50, 5);
        for (int32_t i = 0; i < 3; i++) world_submit(&w);
        uint64_t id[6];
        for (int32_t i = 0; i < 6; i++) {
            sluice_request r = simple_request(prompt, 50 - i / 3 * 20, 0);
            r.pooling = (sluice_pooling)(SLUICE_POOL_MEAN + i % 3);
            assert_int_equal(engine_submit(w.engine, &r, &id[i], NULL), OK);
        }
        world_finish(&w);
        sluice_event event;
        int32_t n_embeddings = 0;
        while (engine_poll(w.engine, 0, &event)) {
            if (event.n_embedding == 0) {
                world_take(&w, &event);
                continue;
            }
            n_embeddings++;
            int32_t which = 0;
            while (id[which] != event.request) which++;
            const int32_t n = 50 - which / 3 * 20;
            assert_true(event.last && event.n_embedding == 8);
            double want[8] = {0};
            uint64_t tag = 0;
            for (int32_t i = 0; i < n; i++) {
                tag = fake_tag(tag, prompt[i], i);
                const bool in = which % 3 == 0 || (which % 3 == 1 ? i == n - 1 : i == 0);
                for (int32_t d = 0; d < 8 && in; d++) want[d] += (float)((tag >> d) % 1000) / 1000;
            }
            for (int32_t d = 0; d < 8; d++) {
                assert_true(event.embedding[d] == (float)(want[d] / (which % 3 == 0 ? n : 1)));
            }
        }
        assert_int_equal(n_embeddings, 6);
        w.n_asked = 3;
        for (int32_t i = 0; i < 3; i++) assert_int_equal(w.asked[i].n_last, 1);
        engine_close(w.engine);
    }
}

int main(int argc, char **argv) {
    if (argc == 3) {
        seed_first = strtoull(argv[1], NULL, 10);
        seed_end = seed_first + strtoull(argv[2], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_random_worlds),      cmocka_unit_test(engine_refuses),
        cmocka_unit_test(engine_cancels_anywhere),   cmocka_unit_test(engine_cancels_in_callback),
        cmocka_unit_test(engine_survives_bad_steps), cmocka_unit_test(engine_contains_nonfinite),
        cmocka_unit_test(engine_reports_cache),      cmocka_unit_test(engine_reports_logprobs),
        cmocka_unit_test(engine_pools_embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
