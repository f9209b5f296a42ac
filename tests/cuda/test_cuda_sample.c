/* test_cuda_sample: the GPU picks the tokens that the CPU's sampler picks from the same logits:
 * greedy and drawn, with every filter, bias and penalty, allowed and banned tokens, siblings that
 * pick from one row, ties, infinities and NaN, also where a bias, a ban or a mask hides them; and
 * its log-probabilities, of picked and of given tokens and of the likeliest, are the CPU's bits. */
#include "cuda/cuda_testing.h"
#include "sample/penalty.h"
#include "sample/sampler.h"

enum { JOBS = 64, OWN_ROWS = 48, SIBLINGS = 4, HISTORY = 64, CHANGES = JOBS * (HISTORY + 16) };

/* What the parameters of a job point to. */
typedef struct JobLists {
    LogitBias bias[5];
    int32_t banned[3][2];
    TokenRun bad[3];
    uint64_t *allowed; /* [ceil(vocab / 64)] */
} JobLists;

/* The last jobs are siblings, four for each row. */
static int32_t job_row(int32_t i) {
    return i < OWN_ROWS ? i : OWN_ROWS + (i - OWN_ROWS) / SIBLINGS;
}

static uint64_t draw(uint64_t stream, uint64_t i, uint64_t n) {
    return rng_bits(99, stream, i) % n;
}

/* Rows whose garbage stands where the job's token must not come anyway. */
static bool hides_garbage(int32_t row) {
    return row % 10 == 4 || row == OWN_ROWS + 1;
}

/* Half of the tokens may come; of the rest, garbage is hidden. */
static void allow_half(SamplerParams *p, JobLists *lists, int32_t vocab, uint64_t seed) {
    for (int32_t w = 0; w < DIV_UP(vocab, 64); w++)
        lists->allowed[w] = rng_bits(seed, 77, (uint64_t)w);
    lists->allowed[vocab / 2 / 64] &= ~(UINT64_C(1) << (vocab / 2 % 64));
    p->allowed = lists->allowed;
}

/* A token, one behind the last of the output, and one behind another. */
static void ban_runs(SamplerParams *p, JobLists *lists, int32_t vocab, int32_t last) {
    const int32_t runs[3][2] = {{vocab / 2, 0}, {last, vocab / 3}, {(last + 1) % vocab, 1}};
    memcpy(lists->banned, runs, sizeof runs);
    for (int32_t b = 0; b < 3; b++) lists->bad[b] = (TokenRun){lists->banned[b], b == 0 ? 1 : 2};
    p->bad = lists->bad;
    p->n_bad = 3;
}

/* Parameters of the jobs of row i: each filter is off in a third of them. */
static SamplerParams job_params(int32_t i, int32_t vocab, uint64_t seed, JobLists *lists,
                                int32_t last) {
    static const float temperatures[] = {0, 0.3f, 1, 1.7f, 100};
    static const float top_ps[] = {1, 0.1f, 0.5f, 0.9f, 0.999f, 1, 0};
    static const float min_ps[] = {0, 0.02f, 0.3f, 0};
    static const int32_t top_ks[] = {0, 1, 7, 50, 2000, 0};
    const uint64_t n = (uint64_t)i;
    SamplerParams p = sampler_defaults();
    p.temperature = temperatures[draw(seed, 8 * n, 5)];
    p.top_p = top_ps[draw(seed, 8 * n + 1, 7)];
    p.min_p = min_ps[draw(seed, 8 * n + 2, 4)];
    p.top_k = top_ks[draw(seed, 8 * n + 3, 6)];
    p.seed = seed;
    p.stream = n;
    if (i % 3 == 0) {
        p.repetition_penalty = 1.3f;
        p.presence_penalty = 0.4f;
        p.frequency_penalty = -0.2f;
    }
    if (i % 4 == 0) {
        for (int32_t b = 0; b < 4; b++)
            lists->bias[b] =
                (LogitBias){(int32_t)draw(seed, 1000 + 4 * n + (uint64_t)b, (uint64_t)vocab / 4) +
                                b * (vocab / 4),
                            b == 0 ? -INFINITY : 3.0f * (float)b};
        /* A second one of the same token, as a stop token's that must not come yet. */
        lists->bias[4] = (LogitBias){lists->bias[3].token, -INFINITY};
        p.bias = lists->bias;
        p.n_bias = 4 + i % 8 / 4;
    }
    if (i % 5 == 1 || (hides_garbage(i) && i % 3 == 0)) allow_half(&p, lists, vocab, seed + n);
    if (i % 5 == 2 || (hides_garbage(i) && i % 3 == 1)) ban_runs(&p, lists, vocab, last);
    if (hides_garbage(i) && i % 3 == 2) {
        lists->bias[0] = (LogitBias){vocab / 2, -INFINITY};
        p.bias = lists->bias;
        p.n_bias = 1;
    }
    p.n_logprobs = (int32_t)draw(seed, 8 * n + 4, SAMPLER_LOGPROBS_MAX + 5) - 4;
    p.n_logprobs = MAX(p.n_logprobs, -1);
    return p;
}

/* Row i: normal logits; some rows with many ties, infinities, or what must fail. */
static void fill_row(float *row, int32_t i, int32_t vocab, uint64_t seed) {
    random_fill(row, vocab, seed + (uint64_t)i, 3);
    if (i % 6 == 1)
        for (int32_t j = 0; j < vocab; j++) row[j] = rintf(row[j]);
    if (i % 6 == 2)
        for (int32_t j = 0; j < vocab; j++) row[j] = j % 3 == 0 ? row[j] : -INFINITY;
    if (i % 6 == 3)
        for (int32_t j = 0; j < vocab; j++) row[j] = 1;
    if (i == 10) row[vocab / 2] = NAN;
    if (hides_garbage(i)) row[vocab / 2] = i % 20 == 4 ? NAN : INFINITY;
    if (i == 22) row[vocab - 1] = INFINITY;
    if (i == 34)
        for (int32_t j = 0; j < vocab; j++) row[j] = -INFINITY;
}

/* Given tokens are scored in every eighth job from the sixth, but in no sibling. */
static int32_t job_target(int32_t i, int32_t vocab, uint64_t seed) {
    return i % 8 == 5 && i < OWN_ROWS ? (int32_t)draw(seed, 8 * (uint64_t)i + 5, (uint64_t)vocab)
                                      : -1;
}

static void compare_logprobs(const SampleResult *got, const SampleTop *top, int32_t n_top,
                             const SamplerResult *want) {
    assert_int_equal(want->n_top, n_top);
    if (memcmp(&got->logprob, &want->logprob, sizeof got->logprob) != 0)
        fail_msg("logprob %a, the CPU's %a", (double)got->logprob, (double)want->logprob);
    for (int32_t k = 0; k < n_top; k++)
        if (top[k].token != want->top[k].token ||
            memcmp(&top[k].logprob, &want->top[k].logprob, sizeof top->logprob) != 0)
            fail_msg("place %d: token %d with %a, the CPU's %d with %a", k, top[k].token,
                     (double)top[k].logprob, want->top[k].token, (double)want->top[k].logprob);
}

static void sample_case(CudaTesting *t, int32_t vocab, uint64_t seed) {
    Err err = {0};
    Sampler *sampler = NULL;
    float *logits = mem_alloc((size_t)JOBS * (size_t)vocab * sizeof *logits);
    int32_t *entry = mem_alloc((size_t)vocab * sizeof *entry), history[HISTORY], n_changes = 0;
    static SampleSpec spec[JOBS];
    static SampleChange change[CHANGES];
    static SamplerParams params[JOBS];
    static JobLists lists[JOBS];
    const size_t n_words = (size_t)DIV_UP(vocab, 64);
    uint64_t *masks = mem_alloc(JOBS * n_words * sizeof *masks);
    static SampleTop top[JOBS * SAMPLE_TOP_MAX];
    int32_t n_tops = 0;
    SampleResult got[JOBS];
    ASSERT_OK(sampler_open(&sampler, vocab, &err), err);
    for (int32_t i = 0; i < HISTORY; i++)
        history[i] = (int32_t)draw(seed, 5000 + (uint64_t)i / 2, (uint64_t)vocab);
    const PenaltyHistory tokens = {history, HISTORY, HISTORY / 2};
    for (int32_t i = 0; i < JOBS; i++) {
        const int32_t row = job_row(i);
        const bool is_sibling = i > 0 && job_row(i - 1) == row;
        fill_row(logits + (int64_t)row * vocab, row, vocab, seed);
        lists[i].allowed = masks + (size_t)row * n_words;
        params[i] = job_params(row, vocab, seed, &lists[i], history[HISTORY - 1]);
        params[i].stream = (uint64_t)i;
        const SamplerParams *p = &params[i];
        const int32_t target = job_target(i, vocab, seed), n_top = MIN(p->n_logprobs, vocab);
        const bool changes = target < 0 && penalty_is_on(p);
        const int32_t n =
            is_sibling ? spec[i - 1].n_changes
            : changes  ? penalty_list(p, &tokens, entry, change + n_changes, CHANGES - n_changes)
                       : 0;
        assert_true(n >= 0);
        spec[i] = (SampleSpec){.u = rng_uniform(p->seed, p->stream, 7),
                               .row = row,
                               .temperature = p->temperature,
                               .top_k = p->top_k,
                               .top_p = p->top_p,
                               .min_p = p->min_p,
                               .repetition = p->repetition_penalty,
                               .presence = p->presence_penalty,
                               .frequency = p->frequency_penalty,
                               .first_change = is_sibling ? spec[i - 1].first_change : n_changes,
                               .n_changes = n,
                               .is_changed = is_sibling,
                               .mask = changes && p->allowed != NULL ? row : -1,
                               .target = target,
                               .n_top = target >= 0 ? MAX(n_top, 0) : n_top,
                               .first_top = n_tops};
        n_changes += is_sibling ? 0 : n;
        n_tops += MAX(n_top, 0);
    }
    const SampleArgs args = {
        .logits = tensor_2d(cuda_testing_put(t, logits, (size_t)JOBS * (size_t)vocab * 4),
                            DTYPE_F32, JOBS, vocab),
        .n = JOBS,
        .spec = cuda_testing_put(t, spec, sizeof spec),
        .change = cuda_testing_put(t, change, sizeof change),
        .mask = cuda_testing_put(t, masks, JOBS * n_words * sizeof *masks),
        .out = cuda_testing_put(t, NULL, sizeof got),
        .top = cuda_testing_put(t, NULL, sizeof top),
        .logprobs = true};
    t->ops->sample(&t->ctx, &args);
    cuda_testing_get(t, got, args.out, sizeof got);
    cuda_testing_get(t, top, args.top, sizeof top);
    for (int32_t i = 0; i < JOBS; i++) {
        SamplerResult want = {0};
        const float *row = logits + (int64_t)job_row(i) * vocab;
        const SamplerInput input = {row, history, HISTORY, HISTORY / 2, 7};
        const Status status =
            spec[i].target >= 0
                ? sampler_score(sampler, row, spec[i].target, spec[i].n_top, &want, NULL)
                : sampler_pick(sampler, &params[i], &input, &want, NULL);
        if (got[i].status != (int32_t)status || (status == OK && got[i].token != want.token))
            fail_msg(
                "vocab %d, job %d (temperature %g, top_k %d, top_p %g, min_p %g): token %d, "
                "status %d; the CPU's %d, %d",
                vocab, i, (double)params[i].temperature, params[i].top_k, (double)params[i].top_p,
                (double)params[i].min_p, got[i].token, got[i].status, want.token, (int)status);
        if (status == OK && spec[i].n_top >= 0)
            compare_logprobs(&got[i], top + spec[i].first_top, spec[i].n_top, &want);
    }
    sampler_close(sampler);
    mem_free(logits);
    mem_free(entry);
    mem_free(masks);
    cuda_testing_reset(t);
}

static void picks_are_the_cpus(void **state) {
    (void)state;
    const OpsLimits limits = {.n_tokens_max = JOBS,
                              .n_seqs_max = JOBS,
                              .k_max = 64,
                              .n_max = 64,
                              .head_dim = 64,
                              .n_heads = 1,
                              .n_kv_heads = 1,
                              .vocab = 128256,
                              .n_logits_max = JOBS};
    CudaTesting t;
    cuda_testing_open(&t, &limits);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        sample_case(&t, 1000, seed);
        sample_case(&t, 33, 100 + seed);
        if (seed <= 3) sample_case(&t, 32003, 200 + seed);
    }
    sample_case(&t, 128256, 300);
    cuda_testing_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(picks_are_the_cpus)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
