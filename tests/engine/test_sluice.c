/* test_sluice: the public library on the shipped model, from several threads: what comes out of the
 * engine's thread must be what each caller asked for, whoever else is there. */
#include "../testing.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

#include "sluice.h"

static const char MODEL[] = "models/fable-28m.gguf";

typedef struct Lib {
    sluice_model *model;
    sluice_engine *engine;
} Lib;

static Lib lib;

static int lib_open(void **state) {
    (void)state;
    sluice_error err = {0};
    sluice_model_options options = SLUICE_MODEL_OPTIONS_INIT;
    options.quiet = true;
    options.n_threads = 2;
    if (sluice_model_open(&lib.model, MODEL, &options, &err) != SLUICE_OK) {
        print_message("%s\n", err.text);
        return -1;
    }
    sluice_engine_options engine = SLUICE_ENGINE_OPTIONS_INIT;
    engine.max_seqs = 16;
    engine.max_step_tokens = 128;
    if (sluice_engine_open(&lib.engine, lib.model, &engine, &err) != SLUICE_OK) {
        print_message("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int lib_close(void **state) {
    (void)state;
    sluice_engine_close(lib.engine);
    sluice_model_close(lib.model);
    return 0;
}

static size_t tokenize(const char *text, int32_t *ids, size_t capacity) {
    size_t n = 0;
    sluice_error err = {0};
    if (sluice_tokenize(lib.model, text, strlen(text), true, false, ids, capacity, &n, &err) != 0) {
        fail_msg("%s", err.text);
    }
    return n;
}

/* All that a request said, by sequence. */
typedef struct Said {
    char text[4][4096];
    int32_t token[4][512], n_tokens[4], n_done, stop_index;
    sluice_finish finish[4];
    sluice_usage usage;
    bool last;
    pthread_mutex_t lock;
    pthread_cond_t done;
} Said;

static void said_take(Said *s, const sluice_event *event) {
    const int32_t i = event->index;
    assert_int_equal(strlen(event->text), event->text_len);
    strncat(s->text[i], event->text, sizeof s->text[i] - strlen(s->text[i]) - 1);
    memcpy(s->token[i] + s->n_tokens[i], event->tokens, (size_t)event->n_tokens * sizeof(int32_t));
    s->n_tokens[i] += event->n_tokens;
    if (event->finish == SLUICE_FINISH_NONE) return;
    s->finish[i] = event->finish;
    s->stop_index = event->stop_index;
    s->usage = *event->usage;
    s->n_done++;
    s->last = event->last;
}

static void said_on_event(void *user, const sluice_event *event) {
    Said *s = user;
    pthread_mutex_lock(&s->lock);
    said_take(s, event);
    if (event->last) pthread_cond_signal(&s->done);
    pthread_mutex_unlock(&s->lock);
}

/* Submits and waits for the last event, by callback. */
static void generate(sluice_request *r, Said *s) {
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->done, NULL);
    r->user = s;
    r->on_event = said_on_event;
    sluice_error err = {0};
    uint64_t id = 0;
    if (sluice_submit(lib.engine, r, &id, &err) != SLUICE_OK) fail_msg("%s", err.text);
    pthread_mutex_lock(&s->lock);
    while (!s->last) pthread_cond_wait(&s->done, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

static void sluice_tells_about_the_model(void **state) {
    (void)state;
    sluice_model_info info = {.size = sizeof info};
    sluice_model_get_info(lib.model, &info);
    assert_string_equal(info.arch, "llama");
    assert_string_equal(info.format, "GGUF");
    assert_true(info.n_params > 20000000 && info.n_params < 40000000);
    assert_true(info.vocab > 1000 && info.context > 100 && info.n_threads == 2);
    /* An older, shorter struct is filled as far as it goes. */
    sluice_model_info part;
    memset(&part, 0x55, sizeof part);
    part.size = offsetof(sluice_model_info, n_params);
    sluice_model_get_info(lib.model, &part);
    assert_string_equal(part.arch, "llama");
    assert_int_equal(part.n_params, 0x5555555555555555);
    sluice_model *none = NULL;
    sluice_error err = {0};
    assert_int_equal(sluice_model_open(&none, "no/such/model", NULL, &err), SLUICE_ERR_NOT_FOUND);
    assert_true(none == NULL && strlen(err.text) > 5);
}

static void sluice_text_both_ways(void **state) {
    (void)state;
    const char text[] = "Once upon a time, there was a little fox.";
    int32_t ids[64];
    size_t n = 0, len = 0;
    char *back = NULL;
    assert_int_equal(sluice_tokenize(lib.model, text, strlen(text), false, false, ids, 3, &n, NULL),
                     SLUICE_ERR_LIMIT);
    assert_in_range(n, 4, 64);
    assert_int_equal(
        sluice_tokenize(lib.model, text, strlen(text), false, false, ids, 64, &n, NULL), SLUICE_OK);
    assert_int_equal(sluice_detokenize(lib.model, ids, n, false, &back, &len, NULL), SLUICE_OK);
    assert_string_equal(back, text);
    assert_int_equal(len, strlen(text));
    sluice_free(back);
    Buf joined = {0};
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(sluice_token_bytes(lib.model, ids[i], i == 0, false, &back, &len, NULL),
                         SLUICE_OK);
        assert_int_equal(strlen(back), len);
        buf_append(&joined, back, len);
        sluice_free(back);
    }
    assert_true(str_is(buf_str(&joined), text));
    buf_free(&joined);
    ids[0] = 1 << 30;
    assert_int_equal(sluice_token_bytes(lib.model, ids[0], true, false, &back, &len, NULL),
                     SLUICE_ERR_ARG);
    assert_int_equal(sluice_detokenize(lib.model, ids, n, false, &back, &len, NULL),
                     SLUICE_ERR_ARG);
}

static void sluice_plans(void **state) {
    (void)state;
    sluice_engine_plan plan = {.size = sizeof plan};
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    options.kv_bytes = 64 << 20;
    options.block_tokens = 32;
    assert_int_equal(sluice_engine_dry_run(lib.model, &options, &plan, NULL), SLUICE_OK);
    assert_true(plan.kv_bytes <= 64 << 20 && plan.kv_bytes > 60 << 20);
    assert_int_equal(plan.kv_tokens, (int64_t)plan.n_blocks * 32);
    assert_int_equal(plan.total_bytes,
                     plan.weight_bytes + plan.kv_bytes + plan.activation_bytes + plan.other_bytes);
    sluice_engine_options bad[7];
    for (size_t i = 0; i < 7; i++) bad[i] = (sluice_engine_options)SLUICE_ENGINE_OPTIONS_INIT;
    bad[0].block_tokens = 24, bad[1].max_seqs = -1, bad[2].kv_dtype = "int3", bad[3].kv_bytes = 1;
    bad[4].max_context = 1 << 30, bad[5].max_step_tokens = -5, bad[6].policy = 77;
    for (size_t i = 0; i < 7; i++) {
        sluice_error err = {0};
        assert_int_equal(sluice_engine_dry_run(lib.model, &bad[i], &plan, &err), SLUICE_ERR_ARG);
        assert_true(strlen(err.text) > 10);
    }
}

static void sluice_stops(void **state) {
    (void)state;
    int32_t ids[64];
    static Said plain, stopped, kept, at_least;
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = ids;
    r.n_prompt = tokenize("Once upon a time", ids, 64);
    r.max_tokens = 40;
    generate(&r, &plain);
    assert_true(plain.n_done == 1 && plain.n_tokens[0] <= 40 && strlen(plain.text[0]) > 40);
    /* A stop string out of the middle of what comes. */
    char stop[8] = {0};
    memcpy(stop, plain.text[0] + 25, 5);
    const char *const stops[] = {"\x01never", stop};
    r.stop = stops;
    r.n_stop = 2;
    generate(&r, &stopped);
    assert_int_equal(stopped.finish[0], SLUICE_FINISH_STOP);
    assert_int_equal(stopped.stop_index, 1);
    const size_t at = (size_t)(strstr(plain.text[0], stop) - plain.text[0]);
    assert_int_equal(strlen(stopped.text[0]), at);
    assert_memory_equal(stopped.text[0], plain.text[0], at);
    r.include_stop = true;
    generate(&r, &kept);
    assert_int_equal(strlen(kept.text[0]), at + strlen(stop));
    assert_memory_equal(kept.text[0], plain.text[0], at + strlen(stop));
    r.min_tokens = 30;
    generate(&r, &at_least);
    assert_true(at_least.n_tokens[0] >= 30);
    /* A token that stops. */
    r.n_stop = r.min_tokens = 0;
    r.stop_ids = &plain.token[0][6];
    r.n_stop_ids = 1;
    generate(&r, &stopped);
    assert_int_equal(stopped.finish[0], SLUICE_FINISH_STOP);
    assert_true(stopped.n_tokens[0] <= 7);
}

static const char *const PROMPTS[] = {"Once upon a time",    "The little fox said",
                                      "One day, a big bear", "Mia had a red ball. She",
                                      "In the dark wood",    "Tom"};

typedef struct Caller {
    pthread_t thread;
    int32_t which;
    bool same;
} Caller;

static Said reference[6];

static void ask(int32_t which, Said *out) {
    int32_t ids[64];
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = ids;
    r.n_prompt = tokenize(PROMPTS[which], ids, 64);
    r.max_tokens = 24;
    r.n = 1 + which % 2;
    r.sampling.temperature = which % 3 == 0 ? 0 : 0.8f;
    r.sampling.top_p = 0.95f;
    r.sampling.seed = (uint64_t)which;
    generate(&r, out);
}

static void *caller_main(void *arg) {
    Caller *c = arg;
    Said *said = calloc(1, sizeof *said);
    c->same = true;
    for (int32_t round = 0; round < 4; round++) {
        const int32_t which = (c->which + round) % 6;
        ask(which, said);
        for (int32_t i = 0; i < 1 + which % 2; i++) {
            c->same = c->same && said->n_tokens[i] == reference[which].n_tokens[i] &&
                      strcmp(said->text[i], reference[which].text[i]) == 0;
        }
    }
    free(said);
    return NULL;
}

static void sluice_from_many_threads(void **state) {
    (void)state;
    enum { N = 8 };
    Caller caller[N];
    for (int32_t i = 0; i < 6; i++) ask(i, &reference[i]);
    for (int32_t i = 0; i < N; i++) {
        caller[i].which = i;
        assert_int_equal(pthread_create(&caller[i].thread, NULL, caller_main, &caller[i]), 0);
    }
    for (int32_t i = 0; i < N; i++) pthread_join(caller[i].thread, NULL);
    for (int32_t i = 0; i < N; i++) assert_true(caller[i].same);
    sluice_error err = {0};
    if (sluice_engine_audit(lib.engine, &err) != SLUICE_OK) fail_msg("%s", err.text);
    sluice_stats stats = {.size = sizeof stats};
    sluice_engine_get_stats(lib.engine, &stats);
    assert_int_equal(stats.n_blocks_used, 0);
    assert_true(stats.n_steps > 20 && stats.prefix_hit_tokens >= 0 && stats.n_finished > 30);
}

/* The descriptor of events, cancelling, deadlines. */
static void sluice_polls(void **state) {
    (void)state;
    int32_t ids[64];
    static Said said[3];
    memset(said, 0, sizeof said);
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = ids;
    r.n_prompt = tokenize("Once upon a time", ids, 64);
    r.ignore_eos = true;
    uint64_t id[3];
    for (int32_t i = 0; i < 3; i++) {
        r.user = &said[i];
        r.max_tokens = i == 1 ? 200 : 500; /* on no machine over before its end comes */
        r.deadline_us = i == 2 ? 1000 : 0;
        assert_int_equal(sluice_submit(lib.engine, &r, &id[i], NULL), SLUICE_OK);
    }
    int32_t n_last = 0;
    while (n_last < 3) {
        struct pollfd fd = {.fd = sluice_event_fd(lib.engine), .events = POLLIN};
        assert_int_equal(poll(&fd, 1, 600000), 1);
        sluice_event event;
        assert_true(sluice_poll(lib.engine, 0, &event));
        Said *s = event.user;
        assert_false(s->last);
        said_take(s, &event);
        n_last += event.last;
        if (s == &said[0] && s->n_tokens[0] >= 5) sluice_cancel(lib.engine, id[0]);
    }
    assert_int_equal(said[0].finish[0], SLUICE_FINISH_CANCELLED);
    assert_int_equal(said[1].finish[0], SLUICE_FINISH_LENGTH);
    assert_int_equal(said[1].n_tokens[0], 200);
    assert_int_equal(said[2].finish[0], SLUICE_FINISH_DEADLINE);
    sluice_event event;
    assert_false(sluice_poll(lib.engine, 1000, &event));
    struct pollfd fd = {.fd = sluice_event_fd(lib.engine), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 0), 0);
    assert_memory_equal(said[0].token[0], said[1].token[0],
                        (size_t)MIN(said[0].n_tokens[0], 200) * sizeof(int32_t));
}

/* A request whose turn does not come in time ends without a token; those that run, however long, do
 * not. */
static void sluice_queue_time(void **state) {
    (void)state;
    sluice_engine *engine = NULL;
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    options.max_seqs = 1;
    options.max_context = 512;
    assert_int_equal(sluice_engine_open(&engine, lib.model, &options, NULL), SLUICE_OK);
    int32_t ids[64];
    static Said said[2];
    memset(said, 0, sizeof said);
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = ids;
    r.n_prompt = tokenize("Once upon a time", ids, 64);
    r.max_tokens = 400;
    r.ignore_eos = true;
    uint64_t id[2];
    for (int32_t i = 0; i < 2; i++) {
        r.user = &said[i];
        r.queue_us_max = i == 0 ? 10000000 : 1000;
        assert_int_equal(sluice_submit(engine, &r, &id[i], NULL), SLUICE_OK);
    }
    for (int32_t n_last = 0; n_last < 2;) {
        sluice_event event;
        if (!sluice_poll(engine, 1000000, &event)) continue;
        if (event.user == &said[1]) {
            assert_int_equal(event.status, SLUICE_ERR_LIMIT);
            assert_non_null(strstr(event.error, "queue"));
        }
        said_take(event.user, &event);
        n_last += event.last;
    }
    assert_int_equal(said[0].finish[0], SLUICE_FINISH_LENGTH);
    assert_int_equal(said[0].n_tokens[0], 400);
    assert_int_equal(said[1].finish[0], SLUICE_FINISH_DEADLINE);
    assert_int_equal(said[1].n_tokens[0], 0);
    sluice_engine_close(engine);
}

/* Events and the map of blocks tell of the prompt that was served, until the cache is cleared. */
static void sluice_shows_cache(void **state) {
    (void)state;
    enum { N_BLOCKS = 16, BLOCK = 8 };
    sluice_engine *engine = NULL;
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    options.max_seqs = 2;
    options.max_context = N_BLOCKS * BLOCK - BLOCK;
    options.block_tokens = BLOCK;
    options.max_kv_events = 32;
    options.kv_dtype = "bf16";
    sluice_engine_plan plan = {.size = sizeof plan};
    assert_int_equal(sluice_engine_dry_run(lib.model, &options, &plan, NULL), SLUICE_OK);
    options.kv_bytes = plan.kv_bytes / plan.n_blocks * N_BLOCKS;
    assert_int_equal(sluice_engine_open(&engine, lib.model, &options, NULL), SLUICE_OK);
    int32_t ids[64];
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = ids;
    r.n_prompt = tokenize(
        "Once upon a time there was a king who had a daughter and a dog, and the "
        "dog had a house of its own in the garden.",
        ids, 64);
    const int32_t n_full = (int32_t)r.n_prompt / BLOCK;
    assert_true(n_full >= 2 && n_full <= 8);
    r.max_tokens = 1;
    assert_int_equal(sluice_submit(engine, &r, NULL, NULL), SLUICE_OK);
    sluice_event event;
    do assert_true(sluice_poll(engine, -1, &event));
    while (!event.last);
    uint64_t parent = 0;
    sluice_kv_event stored = {.size = sizeof stored};
    for (int32_t i = 0; i < n_full; i++) {
        assert_true(sluice_engine_read_kv_event(engine, (uint64_t)i, 0, &stored));
        assert_int_equal(stored.number, i);
        assert_int_equal(stored.kind, SLUICE_KV_STORED);
        assert_int_equal(stored.medium, SLUICE_KV_DEVICE);
        assert_int_equal(stored.block_tokens, BLOCK);
        assert_true(stored.block_hash != 0 && stored.parent_hash == parent);
        assert_memory_equal(stored.tokens, ids + i * BLOCK, BLOCK * sizeof(int32_t));
        parent = stored.block_hash;
    }
    assert_false(sluice_engine_read_kv_event(engine, (uint64_t)n_full, 1000, &stored));
    sluice_kv_block blocks[N_BLOCKS];
    size_t n_blocks = 0;
    assert_int_equal(sluice_engine_get_blocks(engine, -1, blocks, N_BLOCKS, &n_blocks, NULL),
                     SLUICE_OK);
    assert_int_equal(n_blocks, N_BLOCKS);
    int32_t n_cached = 0;
    for (int32_t i = 0; i < N_BLOCKS; i++) {
        n_cached += blocks[i].state == SLUICE_BLOCK_CACHED;
        assert_true(blocks[i].state <= SLUICE_BLOCK_CACHED && blocks[i].request == 0);
    }
    assert_int_equal(n_cached, n_full);
    assert_int_equal(sluice_engine_clear_cache(engine, NULL), SLUICE_OK);
    bool cleared = false;
    for (uint64_t at = (uint64_t)n_full; sluice_engine_read_kv_event(engine, at, 0, &stored);) {
        at = stored.number + 1;
        cleared = stored.kind == SLUICE_KV_CLEARED;
    }
    assert_true(cleared);
    sluice_stats stats = {.size = sizeof stats};
    assert_int_equal(sluice_engine_get_blocks(engine, -1, blocks, N_BLOCKS, &n_blocks, NULL),
                     SLUICE_OK);
    for (int32_t i = 0; i < N_BLOCKS; i++) assert_int_equal(blocks[i].state, SLUICE_BLOCK_FREE);
    sluice_engine_get_stats(engine, &stats);
    assert_int_equal(stats.n_kv_events, 2 * n_full + 1);
    assert_int_equal(stats.n_kv_events_lost, 0);
    sluice_engine_close(engine);
}

/* Closing an engine in the middle of work gives every request its last event. */
static void sluice_closes_busy(void **state) {
    (void)state;
    sluice_engine *engine = NULL;
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    options.max_seqs = 2;
    options.max_context = 1024;
    assert_int_equal(sluice_engine_open(&engine, lib.model, &options, NULL), SLUICE_OK);
    int32_t ids[64];
    static Said said[6];
    memset(said, 0, sizeof said);
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = ids;
    r.n_prompt = tokenize("Once upon a time", ids, 64);
    r.ignore_eos = true;
    r.max_tokens = 500;
    r.on_event = said_on_event;
    for (int32_t i = 0; i < 6; i++) {
        pthread_mutex_init(&said[i].lock, NULL);
        pthread_cond_init(&said[i].done, NULL);
        r.user = &said[i];
        assert_int_equal(sluice_submit(engine, &r, NULL, NULL), SLUICE_OK);
    }
    sluice_engine_close(engine);
    for (int32_t i = 0; i < 6; i++) {
        assert_true(said[i].last);
        assert_int_equal(said[i].finish[0], SLUICE_FINISH_CANCELLED);
    }
}

/* With nothing to do the loop still turns, which is how others know that it lives. */
static void sluice_idles_alive(void **state) {
    (void)state;
    sluice_stats first = {.size = sizeof first}, now = {.size = sizeof now};
    sluice_engine_get_stats(lib.engine, &first);
    const struct timespec pause = {.tv_nsec = 10 * 1000000};
    for (int i = 0; i < 6000 && now.last_step_us <= first.last_step_us; i++) {
        nanosleep(&pause, NULL);
        sluice_engine_get_stats(lib.engine, &now);
    }
    assert_true(now.last_step_us > first.last_step_us);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sluice_tells_about_the_model),
        cmocka_unit_test(sluice_text_both_ways),
        cmocka_unit_test(sluice_plans),
        cmocka_unit_test(sluice_stops),
        cmocka_unit_test(sluice_from_many_threads),
        cmocka_unit_test(sluice_polls),
        cmocka_unit_test(sluice_queue_time),
        cmocka_unit_test(sluice_shows_cache),
        cmocka_unit_test(sluice_closes_busy),
        cmocka_unit_test(sluice_idles_alive),
    };
    return cmocka_run_group_tests(tests, lib_open, lib_close);
}
