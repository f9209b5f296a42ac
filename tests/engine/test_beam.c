/* test_beam: beam search in the engine against a plain one that keeps whole copies of every beam,
 * also when memory is so short that the beams are preempted. */
#include "plain_beam.h"

#include "engine/engine_priv.h"

enum { OUTPUT_MAX = BEAM_OUTPUT_MAX, WIDTH_MAX = BEAM_WIDTH_MAX, N = 10 };

typedef struct Got {
    int32_t token[WIDTH_MAX][OUTPUT_MAX], n[WIDTH_MAX], n_last, n_events;
} Got;

static void on_event(void *user, const sluice_event *event) {
    Got *g = user;
    assert_true(event->finish == SLUICE_FINISH_STOP || event->finish == SLUICE_FINISH_LENGTH);
    assert_int_equal(event->finish == SLUICE_FINISH_STOP,
                     event->tokens[event->n_tokens - 1] == FAKE_EOS);
    memcpy(g->token[event->index], event->tokens, (size_t)event->n_tokens * sizeof(int32_t));
    g->n[event->index] = event->n_tokens;
    g->n_events++;
    g->n_last += event->last;
}

static void ignore_event(void *user, const sluice_event *event) {
    (void)user, (void)event;
}

/* Came earlier than the beams, so these are who must make room. */
static void submit_plain(Engine *engine, int32_t which) {
    int32_t prompt[30];
    for (int32_t k = 0; k < 30; k++) prompt[k] = (which * 7 + k) % FAKE_VOCAB;
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt;
    r.n_prompt = 30;
    r.max_tokens = 60;
    r.ignore_eos = true;
    r.on_event = ignore_event;
    uint64_t id;
    Err err = {0};
    ASSERT_OK(engine_submit(engine, &r, &id, &err), err);
}

static void beam_matches_plain_search(void **state) {
    (void)state;
    int64_t n_preempted = 0;
    int32_t n_stopped = 0;
    for (uint64_t seed = 0; seed < 80; seed++) {
        EngineLimits limits = {
            .vocab = FAKE_VOCAB,
            .dim = 8,
            .max_context = 100,
            .max_seqs = 96,
            .max_step_tokens = 40,
            .max_queue = 20,
            .max_logits = 40,
            .kv = {.n_groups = 1, .block_tokens = 1 << seed % 4, .prefix = seed % 3 != 0}};
        const bool tight = seed % 2 == 1;
        limits.kv.n_blocks[0] = DIV_UP(tight ? 650 : 5000, limits.kv.block_tokens) + 10;
        FakeModel model;
        EngineConfig config = {.limits = limits,
                               .n_eos = 1,
                               .eos_id = {FAKE_EOS},
                               .runner = fake_open(&model, &limits),
                               .now_us = fake_now,
                               .clock = &model};
        Engine *engine = NULL;
        Err err = {0};
        ASSERT_OK(engine_open(&engine, &config, &err), err);
        for (int32_t i = 0; i < 6 && tight; i++) submit_plain(engine, i);
        static Got got[N];
        memset(got, 0, sizeof got);
        int32_t prompt[N][40], width[N], n_return[N];
        const float penalty = (float[]){1, 0, 2, 0.5f}[seed % 4];
        for (int32_t i = 0; i < N; i++) {
            width[i] = 2 + (int32_t)((seed + (uint64_t)i) % 7);
            n_return[i] = 1 + (int32_t)(seed % (uint64_t)width[i]);
            for (int32_t k = 0; k < 40; k++) {
                prompt[i][k] = (int32_t)(hash_mix(seed * 100 + (uint64_t)(k < 4 ? k : k + i * 50)) %
                                         FAKE_VOCAB);
            }
            sluice_request r = SLUICE_REQUEST_INIT;
            r.prompt = prompt[i];
            r.n_prompt = (size_t)(30 + i % 4);
            r.max_tokens = OUTPUT_MAX - i % 4;
            r.beam_width = width[i];
            r.n = n_return[i];
            r.length_penalty = penalty;
            r.user = &got[i];
            r.on_event = on_event;
            uint64_t id;
            ASSERT_OK(engine_submit(engine, &r, &id, &err), err);
        }
        for (int32_t step = 0; step < 3000 && (engine->n_live > 0 || step == 0); step++) {
            (void)engine_step(engine);
            ASSERT_OK(engine_audit(engine, &err), err);
        }
        assert_int_equal(engine->n_live, 0);
        for (int32_t i = 0; i < N; i++) {
            PlainBeam want[WIDTH_MAX] = {0};
            const int32_t n = plain_search(prompt[i], 30 + i % 4, width[i], OUTPUT_MAX - i % 4,
                                           (double)penalty, want);
            assert_true(n >= n_return[i]);
            assert_int_equal(got[i].n_last, 1);
            assert_int_equal(got[i].n_events, n_return[i]);
            for (int32_t b = 0; b < n_return[i]; b++) {
                assert_int_equal(got[i].n[b], want[b].n);
                assert_memory_equal(got[i].token[b], want[b].token,
                                    (size_t)want[b].n * sizeof(int32_t));
                n_stopped += want[b].token[want[b].n - 1] == FAKE_EOS;
            }
        }
        n_preempted += engine->sched.counts.n_preempted;
        assert_int_equal(engine->cache.pool[0].n_used, 0);
        engine_close(engine);
    }
    print_message("%lld preempted, %d stopped\n", (long long)n_preempted, n_stopped);
    assert_true(n_preempted > 5 && n_stopped > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(beam_matches_plain_search)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
