/* test_sampler: picks against brute force in float64 (full sorts), draws against the exact
 * distribution by chi-square, and the edges: ties, infinities, NaN, limits. */
#include "sample/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "sample/penalty.h"

enum { VOCAB_MAX = 1024 };

/* The distribution by definition: sort everything, then filter. */
typedef struct Brute {
    int32_t id;
    double x, p;
} Brute;

static int brute_order(const void *a, const void *b) {
    const Brute *x = a, *y = b;
    if (x->x != y->x) return x->x > y->x ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static void brute_penalize(const SamplerParams *params, double *x, int32_t vocab,
                           const int32_t *history, int32_t n, int32_t n_prompt) {
    for (int32_t i = 0; i < params->n_bias; i++) x[params->bias[i].token] += params->bias[i].bias;
    for (int32_t t = 0; t < vocab; t++) {
        int32_t in_all = 0, in_output = 0;
        for (int32_t i = 0; i < n; i++) {
            in_all += history[i] == t;
            in_output += history[i] == t && i >= n_prompt;
        }
        if (in_all > 0) {
            x[t] = x[t] > 0 ? x[t] / params->repetition_penalty : x[t] * params->repetition_penalty;
        }
        x[t] -= in_output * (double)params->frequency_penalty;
        x[t] -= (in_output > 0) * (double)params->presence_penalty;
    }
}

/* prob[vocab] of each token. */
static void brute_distribution(const SamplerParams *params, const float *logits, int32_t vocab,
                               const int32_t *history, int32_t n, int32_t n_prompt, double *prob) {
    static double x[VOCAB_MAX];
    static Brute sorted[VOCAB_MAX];
    for (int32_t i = 0; i < vocab; i++) x[i] = logits[i];
    brute_penalize(params, x, vocab, history, n, n_prompt);
    for (int32_t i = 0; i < vocab; i++) {
        prob[i] = 0;
        /* The sampler keeps changed logits as f32. */
        sorted[i] = (Brute){i, (float)x[i], 0};
    }
    qsort(sorted, (size_t)vocab, sizeof *sorted, brute_order);
    int32_t kept = vocab;
    if (params->top_k > 0 && params->top_k < vocab) {
        kept = params->top_k;
        while (kept < vocab && sorted[kept].x == sorted[kept - 1].x) kept++;
    }
    double total = 0;
    for (int32_t i = 0; i < kept; i++) {
        sorted[i].p = exp((sorted[i].x - sorted[0].x) / params->temperature);
        total += sorted[i].p;
    }
    double before = 0;
    int32_t n_kept = 0;
    while (n_kept < kept && (n_kept == 0 || before < params->top_p * total)) {
        before += sorted[n_kept++].p;
    }
    double sum = 0;
    for (int32_t i = 0; i < n_kept; i++) {
        if (sorted[i].p < params->min_p) sorted[i].p = 0;
        sum += sorted[i].p;
    }
    for (int32_t i = 0; i < n_kept; i++) prob[sorted[i].id] = sorted[i].p / sum;
}

static Status pick(Sampler *sampler, const SamplerParams *params, const float *logits,
                   uint64_t step, SamplerResult *out) {
    const SamplerInput input = {.logits = logits, .step = step};
    return sampler_pick(sampler, params, &input, out, NULL);
}

static void fill_logits(float *logits, int32_t n, uint64_t seed, double spread, int32_t levels) {
    for (int32_t i = 0; i < n; i++) {
        double u = rng_uniform(seed, 1, (uint64_t)i);
        if (levels > 0) u = floor(u * levels) / levels; /* many ties */
        logits[i] = (float)((u - 0.5) * spread);
    }
}

/* Draws n times and compares with the exact distribution; rare tokens are put together. */
static void expect_distribution(const SamplerParams *params, const float *logits, int32_t vocab,
                                const int32_t *history, int32_t n_history, int32_t n_prompt) {
    enum { N_DRAWS = 20000 };
    static double prob[VOCAB_MAX];
    static int32_t seen[VOCAB_MAX];
    brute_distribution(params, logits, vocab, history, n_history, n_prompt, prob);
    memset(seen, 0, sizeof seen);
    Sampler *sampler = NULL;
    assert_int_equal(sampler_open(&sampler, vocab, NULL), OK);
    SamplerResult result;
    for (int32_t i = 0; i < N_DRAWS; i++) {
        const SamplerInput input = {logits, history, n_history, n_prompt, (uint64_t)i};
        assert_int_equal(sampler_pick(sampler, params, &input, &result, NULL), OK);
        assert_in_range(result.token, 0, vocab - 1);
        assert_true(prob[result.token] > 0);
        seen[result.token]++;
    }
    double chi = 0, rest_p = 0;
    int32_t rest = 0, n_cells = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (prob[i] * N_DRAWS < 8) {
            rest_p += prob[i];
            rest += seen[i];
            continue;
        }
        const double d = seen[i] - prob[i] * N_DRAWS;
        chi += d * d / (prob[i] * N_DRAWS);
        n_cells++;
    }
    if (rest_p * N_DRAWS >= 8) {
        const double d = rest - rest_p * N_DRAWS;
        chi += d * d / (rest_p * N_DRAWS);
        n_cells++;
    }
    /* Five standard deviations of chi-square; the seeds are fixed, so this cannot flicker. */
    const double dof = n_cells - 1;
    assert_true(chi <= dof + 5 * sqrt(2 * dof) + 1e-9);
    sampler_close(sampler);
}

static void sampler_matches_softmax(void **state) {
    (void)state;
    static float logits[VOCAB_MAX];
    const struct {
        float temperature;
        int32_t top_k;
        float top_p, min_p;
        int32_t levels;
    } cases[] = {
        {1, 0, 1, 0, 0},      {0.7f, 0, 1, 0, 0},         {2.5f, 0, 1, 0, 0},
        {1, 1, 1, 0, 0},      {1, 20, 1, 0, 0},           {1, 1000, 1, 0, 0},
        {1, 0, 0.9f, 0, 0},   {1, 0, 0.1f, 0, 0},         {1, 0, 0, 0, 0},
        {1, 0, 1, 0.2f, 0},   {0.8f, 40, 0.8f, 0.05f, 0}, {1, 20, 1, 0, 7},
        {1, 0, 0.5f, 0, 3},   {0.8f, 40, 0.8f, 0.05f, 5}, {1, 0, 0.999f, 0, 1},
        {1e-30f, 0, 1, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        SamplerParams params = sampler_defaults();
        params.temperature = cases[i].temperature;
        params.top_k = cases[i].top_k;
        params.top_p = cases[i].top_p;
        params.min_p = cases[i].min_p;
        params.seed = 1000 + i;
        const int32_t vocab = i % 2 == 0 ? 37 : VOCAB_MAX;
        fill_logits(logits, vocab, i, 9, cases[i].levels);
        expect_distribution(&params, logits, vocab, NULL, 0, 0);
    }
}

static void sampler_penalties(void **state) {
    (void)state;
    float logits[64];
    int32_t history[40];
    for (uint64_t seed = 0; seed < 12; seed++) {
        fill_logits(logits, 64, seed, 6, 0);
        for (int32_t i = 0; i < 40; i++)
            history[i] = (int32_t)(rng_bits(seed, 2, (uint64_t)i) % 64);
        const LogitBias bias[] = {{3, 2.5f}, {9, -100}, {3, -1}};
        SamplerParams params = sampler_defaults();
        params.temperature = 1;
        params.seed = seed;
        params.repetition_penalty = seed % 3 == 0 ? 1 : 1.3f;
        params.presence_penalty = seed % 2 == 0 ? 0.8f : 0;
        params.frequency_penalty = seed % 4 < 2 ? 0.4f : -0.3f;
        params.n_bias = seed % 5 == 0 ? 0 : 3;
        params.bias = bias;
        const int32_t n = seed == 7 ? 0 : 40, n_prompt = seed == 8 ? 40 : MIN(15, n);
        expect_distribution(&params, logits, 64, history, n, n_prompt);
    }
}

/* What a list of changes says about a logit, as an accelerator carries it out. */
static float changed(const SamplerParams *p, SampleChange c, float logit) {
    if (c.bias == -INFINITY) return -INFINITY;
    double x = (double)(float)((double)logit + c.bias);
    if (c.seen) x = x > 0 ? x / p->repetition_penalty : x * p->repetition_penalty;
    if (c.n_output > 0)
        x = x - (double)p->frequency_penalty * c.n_output - (double)p->presence_penalty;
    return (float)x;
}

static void sampler_lists_changes(void **state) {
    (void)state;
    float logits[64], want[64];
    int32_t history[40], entry[64] = {0};
    PenaltyCount counts[64] = {{0}};
    SampleChange list[64];
    for (uint64_t seed = 0; seed < 40; seed++) {
        fill_logits(logits, 64, seed, 6, 0);
        for (int32_t i = 0; i < 40; i++)
            history[i] = (int32_t)(rng_bits(seed, 2, (uint64_t)i) % 64);
        const PenaltyHistory tokens = {history, 40, 15};
        const int32_t runs[] = {5, history[38], history[39], 7, history[39], 9, 11, 12};
        const TokenRun bad[] = {{runs, 1}, {runs + 1, 3}, {runs + 4, 2}, {runs + 6, 2}};
        const LogitBias bias[] = {{3, 2.5f}, {9, -100}, {5, 1}, {3, -INFINITY}, {9, 1}};
        SamplerParams p = sampler_defaults();
        p.repetition_penalty = seed % 3 == 0 ? 1 : 1.3f;
        p.presence_penalty = seed % 2 == 0 ? 0.8f : 0;
        p.bias = bias, p.n_bias = (int32_t)seed % 5;
        p.bad = bad, p.n_bad = seed % 7 == 0 ? 0 : 4;
        memcpy(want, logits, sizeof want);
        penalty_apply(&p, &tokens, want, 64, counts);
        const int32_t n = penalty_list(&p, &tokens, entry, list, 64);
        assert_in_range(n, 0, 64);
        for (int32_t i = 0; i < n; i++)
            logits[list[i].token] = changed(&p, list[i], logits[list[i].token]);
        assert_memory_equal(logits, want, sizeof want);
        p.n_bias = 5; /* two finite biases of one token */
        assert_int_equal(penalty_list(&p, &tokens, entry, list, 64), -1);
        p.n_bias = 4;
        assert_int_equal(penalty_list(&p, &tokens, entry, list, 2), -1); /* no room */
        for (int32_t i = 0; i < 64; i++) assert_int_equal(entry[i], 0);
    }
}

static void sampler_greedy(void **state) {
    (void)state;
    float logits[5] = {1, 7, -INFINITY, 7, 2};
    Sampler *sampler = NULL;
    assert_int_equal(sampler_open(&sampler, 5, NULL), OK);
    SamplerParams params = sampler_defaults();
    SamplerResult r;
    assert_int_equal(pick(sampler, &params, logits, 0, &r), OK);
    assert_int_equal(r.token, 1); /* of equal ones the lower id */
    const LogitBias bias[] = {{1, -0.5f}, {4, 3}};
    params.bias = bias;
    params.n_bias = 2;
    assert_int_equal(pick(sampler, &params, logits, 0, &r), OK);
    assert_int_equal(r.token, 3);
    const LogitBias out[] = {{0, -INFINITY}, {1, -INFINITY}, {3, -INFINITY}};
    params.bias = out;
    params.n_bias = 3;
    for (uint64_t step = 0; step < 50; step++) {
        params.temperature = step % 2 ? 100 : 0;
        assert_int_equal(pick(sampler, &params, logits, step, &r), OK);
        assert_int_equal(r.token, 4);
    }
    sampler_close(sampler);
}

static void sampler_reports_logprobs(void **state) {
    (void)state;
    static float logits[VOCAB_MAX];
    static Brute sorted[VOCAB_MAX];
    Sampler *sampler = NULL;
    assert_int_equal(sampler_open(&sampler, VOCAB_MAX, NULL), OK);
    for (uint64_t seed = 0; seed < 6; seed++) {
        fill_logits(logits, VOCAB_MAX, seed, 12, seed % 2 ? 11 : 0);
        double sum = 0;
        for (int32_t i = 0; i < VOCAB_MAX; i++) {
            sorted[i] = (Brute){i, logits[i], 0};
            sum += exp((double)logits[i]);
        }
        qsort(sorted, VOCAB_MAX, sizeof *sorted, brute_order);
        SamplerParams params = sampler_defaults();
        params.n_logprobs = (int32_t)seed * 4;
        params.temperature = 0.5f; /* logprobs are those of the raw logits all the same */
        SamplerResult r;
        assert_int_equal(pick(sampler, &params, logits, seed, &r), OK);
        assert_int_equal(r.n_top, (int32_t)seed * 4);
        SamplerResult given;
        assert_int_equal(sampler_score(sampler, logits, 77, 0, &given, NULL), OK);
        assert_true(fabs(given.logprob - (logits[77] - log(sum))) < 1e-5 && given.token == 77);
        assert_true(fabs(r.logprob - (logits[r.token] - log(sum))) < 1e-5);
        for (int32_t i = 0; i < r.n_top; i++) {
            assert_int_equal(r.top[i].token, sorted[i].id);
            assert_true(fabs(r.top[i].logprob - (sorted[i].x - log(sum))) < 1e-5);
        }
    }
    sampler_close(sampler);
}

static void sampler_refuses_garbage(void **state) {
    (void)state;
    Sampler *sampler = NULL;
    assert_int_equal(sampler_open(&sampler, 4, NULL), OK);
    const float bad[][4] = {
        {1, NAN, 2, 3},
        {NAN, NAN, NAN, NAN},
        {1, 2, 3, NAN},
        {0, INFINITY, 0, 0},
        {-INFINITY, -INFINITY, -INFINITY, -INFINITY},
        {-INFINITY, -NAN, 1, 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        for (int32_t mode = 0; mode < 2; mode++) {
            SamplerParams params = sampler_defaults();
            params.temperature = (float)mode;
            SamplerResult r = {.token = -7};
            const SamplerInput input = {.logits = bad[i]};
            Err err = {0};
            assert_int_equal(sampler_pick(sampler, &params, &input, &r, &err), ERR_DEVICE);
            assert_int_equal(sampler_score(sampler, bad[i], 0, 2, &r, NULL), ERR_DEVICE);
            assert_int_equal(r.token, -7);
            assert_true(strlen(err.text) > 10);
        }
    }
    /* Rules that leave no token are the client's fault, not the model's. */
    const float sound[4] = {1, 2, 3, 4};
    const uint64_t allowed[1] = {2};
    const int32_t one = 1;
    const TokenRun bad_one = {&one, 1};
    for (int32_t mode = 0; mode < 2; mode++) {
        SamplerParams ruled = sampler_defaults();
        ruled.temperature = (float)mode;
        ruled.allowed = allowed;
        ruled.bad = &bad_one;
        ruled.n_bad = 1;
        SamplerResult none = {.token = -7};
        const SamplerInput input = {.logits = sound};
        assert_int_equal(sampler_pick(sampler, &ruled, &input, &none, NULL), ERR_ARG);
        assert_int_equal(none.token, -7);
    }
    /* Huge logits are no garbage, and no penalty makes them so. */
    const float huge[4] = {3e38f, -3e38f, -3e38f, 0};
    const int32_t history[] = {0, 1, 2};
    SamplerParams params = sampler_defaults();
    params.temperature = 1;
    params.repetition_penalty = 0.001f;
    SamplerResult r;
    const SamplerInput input = {huge, history, 3, 3, 0};
    assert_int_equal(sampler_pick(sampler, &params, &input, &r, NULL), OK);
    assert_int_equal(r.token, 0);
    sampler_close(sampler);
}

static void sampler_is_a_function_of_seed(void **state) {
    (void)state;
    enum { VOCAB = 1000 };
    float logits[VOCAB];
    fill_logits(logits, VOCAB, 5, 4, 0);
    Sampler *a = NULL, *b = NULL;
    assert_int_equal(sampler_open(&a, VOCAB, NULL), OK);
    assert_int_equal(sampler_open(&b, VOCAB, NULL), OK);
    SamplerParams params = sampler_defaults();
    params.temperature = 1;
    params.top_p = 0.95f;
    params.seed = 42;
    int32_t n_other = 0;
    for (uint64_t step = 0; step < 100; step++) {
        SamplerResult x, y, z, noise;
        assert_int_equal(pick(a, &params, logits, step, &x), OK);
        SamplerParams other = params;
        other.stream = 1;
        assert_int_equal(pick(a, &other, logits, 9999, &noise), OK);
        assert_int_equal(pick(b, &params, logits, step, &y), OK);
        assert_int_equal(x.token, y.token);
        assert_int_equal(pick(b, &other, logits, step, &z), OK);
        n_other += z.token != x.token;
    }
    assert_true(n_other > 80);
    sampler_close(a);
    sampler_close(b);
}

static void sampler_checks_params(void **state) {
    (void)state;
    const LogitBias bias[] = {{5, 1}}, far[] = {{6, 1}}, nan_bias[] = {{0, NAN}};
    SamplerParams good = sampler_defaults();
    assert_int_equal(sampler_check(&good, 6, NULL), OK);
    SamplerParams p[16];
    for (size_t i = 0; i < ARRAY_LEN(p); i++) p[i] = good;
    p[0].temperature = -1, p[1].temperature = NAN, p[2].top_k = -1, p[3].top_p = 1.1f;
    p[4].top_p = NAN, p[5].min_p = -0.1f, p[6].repetition_penalty = 0, p[7].n_logprobs = 21;
    p[8].n_logprobs = -2, p[9].presence_penalty = INFINITY, p[10].frequency_penalty = NAN;
    p[11].n_bias = 1, p[11].bias = far;
    p[12].n_bias = 1, p[12].bias = nan_bias;
    p[13].n_bias = -1, p[14].n_bias = SAMPLER_BIAS_MAX + 1, p[15].repetition_penalty = NAN;
    for (size_t i = 0; i < ARRAY_LEN(p); i++) {
        Err err = {0};
        assert_int_equal(sampler_check(&p[i], 6, &err), ERR_ARG);
        assert_true(strlen(err.text) > 10);
    }
    good.n_bias = 1;
    good.bias = bias;
    good.n_logprobs = 20;
    good.temperature = 100;
    assert_int_equal(sampler_check(&good, 6, NULL), OK);
}

/* Allowed tokens and banned runs: the pick is the best of what a plain search leaves. */
static void test_allowed_and_banned(void **state) {
    (void)state;
    enum { VOCAB = 130 };
    Sampler *sampler;
    assert_int_equal(sampler_open(&sampler, VOCAB, NULL), OK);
    for (uint64_t round = 0; round < 300; round++) {
        float logits[VOCAB];
        uint64_t allowed[DIV_UP(VOCAB, 64)];
        int32_t history[6], runs[8][3];
        TokenRun bad[8];
        for (int32_t i = 0; i < VOCAB; i++) logits[i] = (float)rng_uniform(round, 0, (uint64_t)i);
        for (int32_t i = 0; i < 3; i++) allowed[i] = rng_bits(round, 1, (uint64_t)i) | 1;
        /* Few different tokens, so that runs do match the history's end. */
        for (int32_t i = 0; i < 6; i++) history[i] = (int32_t)(rng_bits(round, 2, (uint64_t)i) % 2);
        for (int32_t r = 0; r < 8; r++) {
            bad[r] = (TokenRun){runs[r], r % 3 + 1};
            for (int32_t k = 0; k < 3; k++)
                runs[r][k] = (int32_t)(rng_bits(round, 3, (uint64_t)(3 * r + k)) %
                                       (k == bad[r].n - 1 ? VOCAB : 2));
        }
        const int32_t n_prompt = (int32_t)(round % 7);
        int32_t best = -1;
        for (int32_t t = 0; t < VOCAB; t++) {
            bool out = (allowed[t / 64] >> (t % 64) & 1) == 0;
            for (int32_t r = 0; r < 8; r++) {
                const int32_t before = bad[r].n - 1;
                bool match = runs[r][before] == t && 6 - n_prompt >= before;
                for (int32_t k = 0; k < before; k++)
                    match = match && history[6 - before + k] == runs[r][k];
                out = out || match;
            }
            if (!out && (best < 0 || logits[t] > logits[best])) best = t;
        }
        SamplerParams params = sampler_defaults();
        params.allowed = allowed;
        params.n_bad = 8;
        params.bad = bad;
        const SamplerInput input = {
            .logits = logits, .history = history, .n_history = 6, .n_prompt = n_prompt};
        SamplerResult result;
        assert_int_equal(sampler_pick(sampler, &params, &input, &result, NULL), OK);
        assert_int_equal(result.token, best);
    }
    sampler_close(sampler);
}

/* Limits of banned runs, one below, at and above. */
static void test_banned_limits(void **state) {
    (void)state;
    static int32_t tokens[SAMPLER_BAD_TOKENS_MAX];
    static TokenRun bad[SAMPLER_BAD_MAX + 1];
    for (int32_t i = 0; i <= SAMPLER_BAD_MAX; i++) bad[i] = (TokenRun){tokens, 1};
    for (int32_t n = SAMPLER_BAD_MAX - 1; n <= SAMPLER_BAD_MAX + 1; n++)
        assert_int_equal(sampler_check_bad(bad, n, 9, NULL), n <= SAMPLER_BAD_MAX ? OK : ERR_ARG);
    for (int32_t n = SAMPLER_BAD_TOKENS_MAX - 2; n <= SAMPLER_BAD_TOKENS_MAX; n++) {
        bad[0].n = n;
        assert_int_equal(sampler_check_bad(bad, 2, 9, NULL),
                         n < SAMPLER_BAD_TOKENS_MAX ? OK : ERR_ARG);
    }
    const int32_t wrong[] = {-1, 9};
    for (size_t i = 0; i < 2; i++) {
        const TokenRun run = {&wrong[i], 1}, empty = {tokens, 0};
        assert_int_equal(sampler_check_bad(&run, 1, 9, NULL), ERR_ARG);
        assert_int_equal(sampler_check_bad(&empty, 1, 9, NULL), ERR_ARG);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allowed_and_banned),       cmocka_unit_test(test_banned_limits),
        cmocka_unit_test(sampler_matches_softmax),       cmocka_unit_test(sampler_penalties),
        cmocka_unit_test(sampler_lists_changes),         cmocka_unit_test(sampler_greedy),
        cmocka_unit_test(sampler_reports_logprobs),      cmocka_unit_test(sampler_refuses_garbage),
        cmocka_unit_test(sampler_is_a_function_of_seed), cmocka_unit_test(sampler_checks_params),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
