/* test_same_bits: a request's tokens and logprobs are a function of the request alone.
 *
 * The golden models of every family, on the CPU and on the GPU where there is one, whose greedy
 * answer must be Hugging Face's, and the fable models, by the method of same_bits.h.
 * SLUICE_SAME_BITS is the number of requests: 12 if not set, 200 in `make same-bits`. */
#include "engine/same_bits.h"

static int32_t n_requests(void) {
    const char *asked = getenv("SLUICE_SAME_BITS");
    const int32_t n = asked == NULL ? 12 : (int32_t)strtol(asked, NULL, 10);
    assert_in_range(n, 1, N_MAX);
    return n;
}

static bool is_best_level(int32_t level) {
    return level + 1 >= OPS_LEVEL_COUNT || !ops_cpu_has((OpsLevel)(level + 1));
}

/* ThreadSanitizer looks for races, and threads meet alike in all families but for experts and
 * windows. */
static void skip_if_alike(const GoldenCase *c) {
#if defined(__SANITIZE_THREAD__)
    static const char *const families[] = {"llama", "gemma3", "mixtral"};
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        if (strcmp(c->family, families[i]) == 0 && is_best_level(c->level)) return;
    skip();
#else
    (void)c;
#endif
}

/* Every family at the best level here; the other levels, which the ops' own tests compare with it
 * bit by bit, with one family. */
static void same_bits_family(void **state) {
    const GoldenCase *c = golden_case(state);
    skip_if_alike(c);
    if (!is_best_level(c->level) && strcmp(c->family, "gemma3") != 0) return;
    GoldenModel m;
    Golden g;
    golden_load(&g, c->family);
    golden_open_model(&m, g.folder, c->level, 1);
    const Subject subject = {&m, &g.prompt, DTYPE_F32, n_requests()};
    same_bits_of(&subject, g.greedy.len > 0 && !golden_rounds(&m) ? g.greedy.data : NULL);
    golden_close_model(&m);
    golden_free(&g);
}

/* Swap, tier and disk move blocks that have scales as well. */
static void same_bits_int8(void **state) {
    (void)state;
    GoldenModel m;
    Golden g;
    int32_t level = OPS_LEVEL_COUNT - 1;
    while (!ops_cpu_has((OpsLevel)level)) level--;
    golden_load(&g, "gemma3");
    golden_open_model(&m, g.folder, level, 1);
    const Subject subject = {&m, &g.prompt, DTYPE_I8, n_requests()};
    same_bits_of(&subject, NULL);
    golden_close_model(&m);
    golden_free(&g);
}

/* ---- the fable models -------------------------------------------------------------------- */

static void same_bits_file(const char *path) {
    int32_t level = OPS_LEVEL_COUNT - 1;
    while (!ops_cpu_has((OpsLevel)level)) level--;
    GoldenModel m;
    golden_open_model(&m, path, level, 1);
    Ints base = {0};
    for (int32_t i = 0; i < 200; i++) {
        ints_push(&base, (int32_t)draw(9, i, (uint64_t)model_config(m.model)->vocab));
    }
    const Subject subject = {&m, &base, DTYPE_BF16, n_requests()};
    same_bits_of(&subject, NULL);
    ints_free(&base);
    golden_close_model(&m);
}

/* Files are too slow for a sanitizer, which sees the same code with the families. */
static void skip_if_sanitized(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();
#endif
}

static void same_bits_default(void **state) {
    (void)state;
    skip_if_sanitized();
    same_bits_file("models/fable-28m.gguf");
}

/* The larger ones take minutes even for few requests. */
static void same_bits_shared(void **state) {
    skip_if_sanitized();
    if (strstr(*state, "fable-3m") == NULL && getenv("SLUICE_SAME_BITS") == NULL) skip();
    char *path = testing_shared(*state);
    same_bits_file(path);
    mem_free(path);
}

int main(void) {
    static char dense[] = "models/fable-28m", small[] = "models/fable-3m",
                experts[] = "models/fable-moe-23m";
    const struct CMUnitTest files[] = {
        cmocka_unit_test(same_bits_int8),
        cmocka_unit_test(same_bits_default),
        {.name = "same_bits_fable-28m", .test_func = same_bits_shared, .initial_state = dense},
        {.name = "same_bits_fable-3m", .test_func = same_bits_shared, .initial_state = small},
        {.name = "same_bits_fable-moe-23m",
         .test_func = same_bits_shared,
         .initial_state = experts},
    };
    const int n_failed = golden_run_cases(same_bits_family, "same_bits");
    return n_failed + cmocka_run_group_tests(files, NULL, NULL);
}
