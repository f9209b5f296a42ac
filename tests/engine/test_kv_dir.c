/* test_kv_dir: the prefix cache outlives the process, however it ends.
 *
 * Children serve a set of prompts with the default model and tell their answers through a pipe. The
 * parent kills them with SIGKILL at random moments (SLUICE_KV_KILLS times, 10 if not set); whoever
 * comes after must give bitwise the answers of a child without a cache, and after a quiet end
 * every prompt must be warm.
 * Then the file is spoiled, cut and cleared, and another configuration uses the folder. A model
 * whose layers all have windows has so few blocks that parts of its prompts leave. The parent has
 * no threads, so that it may fork. */
#include "../testing.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/rng.h"
#include "sluice.h"

enum { N_PROMPTS = 6, N_PROMPT = 120, N_OUTPUT = 8, BLOCK = 16 };

typedef struct Answer {
    int32_t which, n_cached, n;
    int32_t token[N_OUTPUT];
    float logprob[N_OUTPUT];
} Answer;

typedef struct Child {
    pid_t pid;
    int answers; /* readable */
} Child;

typedef struct ChildOptions {
    const char *dir, *model; /* model NULL: the default one */
    int64_t kv_bytes;
    int32_t n_asked; /* -1: for ever */
    int32_t block_tokens;
    uint64_t seed; /* of prompts at random; 0: prompts 0, 1, ... in turn */
    bool clear;    /* the cache, in the end */
} ChildOptions;

static int32_t prompt_len(int32_t which) {
    return N_PROMPT - 7 * which;
}

/* The later ones begin with a part of the first. */
static void fill_prompt(int32_t which, int32_t vocab, int32_t *prompt) {
    const int32_t shared = which < 2 ? 0 : 30 + 5 * which;
    for (int32_t i = 0; i < prompt_len(which); i++) {
        const uint64_t own = i < shared ? 0 : (uint64_t)which;
        prompt[i] = (int32_t)(rng_bits(7, own, (uint64_t)i) % (uint64_t)vocab);
    }
}

/* ---- the child --------------------------------------------------------------------------- */

static void child_ask(sluice_engine *engine, int32_t which, int32_t vocab, Answer *answer) {
    int32_t prompt[N_PROMPT];
    fill_prompt(which, vocab, prompt);
    sluice_request r = SLUICE_REQUEST_INIT;
    r.prompt = prompt;
    r.n_prompt = (size_t)prompt_len(which);
    r.max_tokens = N_OUTPUT;
    r.ignore_eos = true;
    r.sampling.temperature = 0.8f;
    r.sampling.seed = (uint64_t)which;
    r.sampling.n_logprobs = 0;
    memset(answer, 0, sizeof *answer);
    answer->which = which;
    if (sluice_submit(engine, &r, NULL, NULL) != SLUICE_OK) _exit(3);
    sluice_event event = {0};
    while (!event.last) {
        if (!sluice_poll(engine, -1, &event) || event.finish == SLUICE_FINISH_ERROR) _exit(4);
        for (int32_t i = 0; i < event.n_tokens; i++, answer->n++) {
            answer->token[answer->n] = event.tokens[i];
            answer->logprob[answer->n] = event.chosen[i].logprob;
        }
        if (event.usage != NULL) answer->n_cached = event.usage->n_cached;
    }
}

NORETURN static void child_main(const ChildOptions *o, int answers) {
    sluice_model_options model_options = SLUICE_MODEL_OPTIONS_INIT;
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    sluice_model *model;
    sluice_engine *engine;
    sluice_error err = {0};
    model_options.quiet = true;
    model_options.n_threads = 1;
    options.max_seqs = 2;
    options.max_context = 256;
    options.block_tokens = o->block_tokens;
    options.kv_bytes = o->kv_bytes;
    options.kv_dir = o->dir;
    sluice_model_info info = {.size = sizeof info};
    const char *path = o->model != NULL ? o->model : "models/fable-28m.gguf";
    if (sluice_model_open(&model, path, &model_options, &err) != SLUICE_OK ||
        sluice_engine_open(&engine, model, &options, &err) != SLUICE_OK) {
        fprintf(stderr, "%s\n", err.text);
        _exit(2);
    }
    sluice_model_get_info(model, &info);
    for (int32_t i = 0; i != o->n_asked; i++) {
        const int32_t which =
            o->seed == 0 ? i % N_PROMPTS : (int32_t)(rng_bits(o->seed, 0, (uint64_t)i) % N_PROMPTS);
        Answer answer;
        child_ask(engine, which, info.vocab, &answer);
        if (write(answers, &answer, sizeof answer) != sizeof answer) _exit(5);
    }
    if (o->clear && sluice_engine_clear_cache(engine, NULL) != SLUICE_OK) _exit(6);
    if (o->clear) _exit(0); /* at once, as if killed */
    sluice_engine_close(engine);
    sluice_model_close(model);
    _exit(0);
}

static Child child_start(const ChildOptions *o) {
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(fds[0]);
        child_main(o, fds[1]);
    }
    close(fds[1]);
    return (Child){pid, fds[0]};
}

static bool child_read(const Child *child, Answer *answer) {
    size_t n = 0;
    while (n < sizeof *answer) {
        const ssize_t got = read(child->answers, (char *)answer + n, sizeof *answer - n);
        if (got <= 0) return false;
        n += (size_t)got;
    }
    return true;
}

static int child_end(const Child *child) {
    int status = 0;
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    close(child->answers);
    return status;
}

/* ---- the parent -------------------------------------------------------------------------- */

static Answer reference[N_PROMPTS];

static void check_answer(const Answer *got) {
    const Answer *want = &reference[got->which];
    assert_int_equal(got->n, N_OUTPUT);
    assert_memory_equal(got->token, want->token, sizeof want->token);
    assert_memory_equal(got->logprob, want->logprob, sizeof want->logprob);
}

/* Serves the whole set; returns the prompt tokens that were cached, of each in n_cached. */
static int32_t serve_all(const char *dir, int32_t block_tokens, int32_t n_cached[N_PROMPTS]) {
    const ChildOptions o = {.dir = dir, .n_asked = N_PROMPTS, .block_tokens = block_tokens};
    const Child child = child_start(&o);
    Answer answer;
    int32_t n = 0, sum = 0;
    for (; child_read(&child, &answer); n++) {
        check_answer(&answer);
        n_cached[answer.which] = answer.n_cached;
        sum += answer.n_cached;
    }
    assert_int_equal(child_end(&child), 0);
    assert_int_equal(n, N_PROMPTS);
    return sum;
}

static void assert_all_warm(const char *dir) {
    int32_t n_cached[N_PROMPTS];
    (void)serve_all(dir, BLOCK, n_cached);
    for (int32_t i = 0; i < N_PROMPTS; i++) {
        assert_int_equal(n_cached[i], (prompt_len(i) - 1) / BLOCK * BLOCK);
    }
}

/* What the set finds cached when nothing was there before. */
static int32_t serve_cold(void) {
    int32_t n_cached[N_PROMPTS];
    const int32_t sum = serve_all(NULL, BLOCK, n_cached);
    assert_int_equal(n_cached[0], 0);
    return sum;
}

static int set_up(void **state) {
    const ChildOptions o = {.n_asked = N_PROMPTS, .block_tokens = BLOCK};
    const Child child = child_start(&o);
    for (int32_t i = 0; i < N_PROMPTS; i++) {
        if (!child_read(&child, &reference[i])) return -1;
    }
    *state = testing_temp_dir();
    return child_end(&child);
}

static int tear_down(void **state) {
    testing_temp_remove(*state);
    return 0;
}

static void warm_after_a_quiet_end(void **state) {
    int32_t n_cached[N_PROMPTS];
    assert_int_equal(serve_all(*state, BLOCK, n_cached), serve_cold());
    assert_all_warm(*state);
}

static void exact_after_kills(void **state) {
    char *dir = file_join(*state, "killed");
    const char *asked = getenv("SLUICE_KV_KILLS");
    const int32_t n_kills = asked == NULL ? 10 : (int32_t)strtol(asked, NULL, 10);
    int32_t n_warm = 0, n_answers = 0;
    for (int32_t k = 0; k < n_kills; k++) {
        const ChildOptions o = {
            .dir = dir, .n_asked = -1, .block_tokens = BLOCK, .seed = (uint64_t)k + 1};
        const Child child = child_start(&o);
        const int32_t n = (int32_t)(rng_bits(3, 0, (uint64_t)k) % 5);
        Answer answer;
        for (int32_t i = 0; i < n; i++, n_answers++) {
            assert_true(child_read(&child, &answer));
            check_answer(&answer);
            n_warm += i == 0 && answer.n_cached > 0;
        }
        usleep((useconds_t)(rng_bits(3, 1, (uint64_t)k) % 30000)); /* into loading, or a step */
        assert_int_equal(kill(child.pid, SIGKILL), 0);
        assert_true(WIFSIGNALED(child_end(&child)));
    }
    print_message("%d kills, %d answers, the first after a start was warm %d times\n", n_kills,
                  n_answers, n_warm);
    int32_t n_cached[N_PROMPTS];
    assert_true(serve_all(dir, BLOCK, n_cached) > serve_cold());
    assert_all_warm(dir);
    mem_free(dir);
}

/* The only file in the folder. */
static char *only_file(const char *dir) {
    char *path = NULL;
    DIR *folder = opendir(dir);
    assert_non_null(folder);
    for (const struct dirent *d; (d = readdir(folder)) != NULL;) {
        if (strncmp(d->d_name, "prefix-", 7) != 0) continue;
        assert_null(path);
        path = file_join(dir, d->d_name);
    }
    closedir(folder);
    assert_non_null(path);
    return path;
}

static int64_t file_size(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

/* Bytes of the file are changed, or it ends early: what they belong to is a miss. */
static void spoiled_records_are_misses(void **state) {
    char *path = only_file(*state);
    const int64_t size = file_size(path);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    for (int32_t i = 0; i < 40; i++) {
        const int64_t at = 4096 + (int64_t)(rng_bits(5, 0, (uint64_t)i) % (uint64_t)(size - 4096));
        assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
        const int byte = fgetc(file);
        assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
        assert_true(fputc(byte ^ 0x10, file) != EOF);
    }
    assert_int_equal(fclose(file), 0);
    int32_t n_cached[N_PROMPTS];
    (void)serve_all(*state, BLOCK, n_cached);
    assert_all_warm(*state); /* they were computed and written again */
    assert_int_equal(truncate(path, size * 2 / 3 + 11), 0);
    (void)serve_all(*state, BLOCK, n_cached);
    assert_int_equal(truncate(path, 100), 0); /* within the header */
    assert_int_equal(serve_all(*state, BLOCK, n_cached), serve_cold());
    mem_free(path);
}

/* Another block size is another file: both are warm. */
static void configurations_stay_apart(void **state) {
    int32_t n_cached[N_PROMPTS];
    (void)serve_all(*state, 8, n_cached);
    assert_int_equal(n_cached[0], 0);
    assert_all_warm(*state);
    (void)serve_all(*state, 8, n_cached);
    assert_int_equal(n_cached[0], (prompt_len(0) - 1) / 8 * 8);
}

/* What was cleared does not come back, however the process ends. */
static void cleared_is_cold(void **state) {
    int32_t n_cached[N_PROMPTS];
    assert_all_warm(*state);
    const ChildOptions o = {.dir = *state, .block_tokens = BLOCK, .clear = true};
    const Child child = child_start(&o);
    assert_int_equal(child_end(&child), 0);
    assert_int_equal(serve_all(*state, BLOCK, n_cached), serve_cold());
    assert_all_warm(*state);
}

/* One process at a time; a folder that cannot be. */
static void two_do_not_share(void **state) {
    const ChildOptions first = {.dir = *state, .n_asked = -1, .block_tokens = BLOCK};
    const Child child = child_start(&first);
    Answer answer;
    assert_true(child_read(&child, &answer));
    const ChildOptions second = {.dir = *state, .n_asked = 1, .block_tokens = BLOCK};
    const Child other = child_start(&second);
    assert_false(child_read(&other, &answer));
    const int status = child_end(&other);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 2);
    assert_int_equal(kill(child.pid, SIGKILL), 0);
    (void)child_end(&child);
    const ChildOptions nowhere = {.dir = "/proc/none/here", .n_asked = 1, .block_tokens = BLOCK};
    const Child lost = child_start(&nowhere);
    const int lost_status = child_end(&lost);
    assert_true(WIFEXITED(lost_status) && WEXITSTATUS(lost_status) == 2);
}

enum { N_WINDOWED = 24 };

/* Random prompts for a child with the windowed model, in so many blocks (0: enough). */
static void serve_windowed(const char *dir, int32_t n_blocks, uint64_t seed,
                           Answer answer[N_WINDOWED]) {
    const int64_t block_bytes = 2 * 3 * 2 * 24 * 2 * BLOCK; /* K and V, layers, heads, dims, bf16 */
    const ChildOptions o = {.dir = dir,
                            .model = "tests/golden/mistral",
                            .kv_bytes = n_blocks * block_bytes,
                            .n_asked = N_WINDOWED,
                            .block_tokens = BLOCK,
                            .seed = seed};
    const Child child = child_start(&o);
    for (int32_t i = 0; i < N_WINDOWED; i++) assert_true(child_read(&child, &answer[i]));
    assert_int_equal(child_end(&child), 0);
}

/* Nodes that lost their blocks behind the window are written too; whatever of such a path is left
 * in the file, a start gets along with it. */
static void windowed_paths_come_back(void **state) {
    static Answer want[N_WINDOWED], got[N_WINDOWED];
    int32_t n_warm = 0;
    for (int32_t n_blocks = 10; n_blocks <= 30; n_blocks += 5) {
        char name[16];
        snprintf(name, sizeof name, "window%d", n_blocks);
        char *dir = file_join(*state, name);
        for (uint64_t start = 1; start <= 3; start++) {
            const uint64_t seed = start + (uint64_t)n_blocks;
            serve_windowed(NULL, 0, seed, want);
            serve_windowed(dir, n_blocks, seed, got);
            n_warm += start > 1 && got[0].n_cached > 0;
            for (int32_t i = 0; i < N_WINDOWED; i++) {
                assert_memory_equal(got[i].token, want[i].token, sizeof want[i].token);
                assert_memory_equal(got[i].logprob, want[i].logprob, sizeof want[i].logprob);
            }
        }
        mem_free(dir);
    }
    print_message("the first answer after a start was warm %d times\n", n_warm);
    assert_true(n_warm > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_after_a_quiet_end),
        cmocka_unit_test(exact_after_kills),
        cmocka_unit_test(spoiled_records_are_misses),
        cmocka_unit_test(configurations_stay_apart),
        cmocka_unit_test(cleared_is_cold),
        cmocka_unit_test(two_do_not_share),
        cmocka_unit_test(windowed_paths_come_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
