/* test_cuda_model: bf16 models on the GPU's fast kernels against the CPU in f32, and the same bits
 * for a sequence alone, in chunks, in a batch, and in recorded steps that are filled up. With fast,
 * large steps are as near the CPU, and on Hopper have other bits. */
#include "base/rng.h"
#include "cuda/cuda_shapes.h"
#include "ops/plugin_testing.h"

enum { TOKENS = 300, ROWS = 40, SEQS = 11, BLOCK = 16, TABLE = 32, FAST_TOKENS = 700 };

static void tokens_fill(int32_t *token, int32_t n, uint64_t stream) {
    for (int32_t i = 0; i < n; i++) token[i] = (int32_t)(rng_bits(5, stream, (uint64_t)i) % 1000);
}

/* The logits of the last ROWS of n tokens. */
static float *run_tokens(const GoldenModel *m, uint64_t stream, int32_t n, int32_t chunk) {
    Err err = {0};
    int32_t token[FAST_TOKENS];
    const float *logits = NULL;
    tokens_fill(token, n, stream);
    Single *single = golden_single(m, &(SingleOptions){.context_max = n,
                                                       .chunk = chunk,
                                                       .n_logits_max = ROWS,
                                                       .block_tokens = BLOCK,
                                                       .kv_dtype = DTYPE_BF16});
    ASSERT_OK(single_feed(single, token, n, ROWS, &logits, &err), err);
    float *out = mem_alloc(ROWS * 1000 * sizeof *out);
    memcpy(out, logits, ROWS * 1000 * sizeof *out);
    single_close(single);
    return out;
}

static float *run_alone(const GoldenModel *m, uint64_t stream, int32_t chunk) {
    return run_tokens(m, stream, TOKENS, chunk);
}

static void compares_with_the_cpu(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        GoldenModel cpu, gpu;
        open_shape(&cpu, &shapes[i], OPS_REF);
        open_shape(&gpu, &shapes[i], GOLDEN_CUDA);
        float *want = run_alone(&cpu, 1, TOKENS), *got = run_alone(&gpu, 1, TOKENS);
        double error = testing_nmse(got, want, ROWS * 1000);
        print_message("%s: NMSE %.2e\n", shapes[i].name, error);
        if (!(error < 2e-3)) fail_msg("%s: NMSE %.3g", shapes[i].name, error);
        const int32_t chunks[] = {1, 7, 64, 130};
        for (size_t c = 0; c < ARRAY_LEN(chunks); c++) {
            float *other = run_alone(&gpu, 1, chunks[c]);
            for (int32_t j = 0; j < ROWS * 1000; j++)
                if (memcmp(&got[j], &other[j], sizeof *got) != 0)
                    fail_msg("%s in chunks of %d: logit %d is %a, wanted %a", shapes[i].name,
                             chunks[c], j, (double)other[j], (double)got[j]);
            mem_free(other);
        }
        mem_free(want);
        mem_free(got);
        golden_close_model(&cpu);
        golden_close_model(&gpu);
    }
}

/* SEQS sequences of different lengths, all but their last ROWS tokens as prompts; then those one by
 * one. */
typedef struct Run {
    Forward *forward;
    KvStore *store;
    Batch batch;
    int32_t token[SEQS * TOKENS], pos[SEQS * TOKENS], slot[SEQS * TOKENS], row[SEQS * TOKENS];
    int32_t query_start[SEQS + 1], kv_len[SEQS], table_start[SEQS + 1], block_id[SEQS * TABLE];
} Run;

static void run_add(Run *r, int32_t s, const int32_t *token, int32_t from, int32_t to) {
    Batch *b = &r->batch;
    for (int32_t i = from; i < to; i++) {
        r->token[b->n_tokens] = token[i];
        r->pos[b->n_tokens] = i;
        r->slot[b->n_tokens++] = (s * TABLE + i / BLOCK) * BLOCK + i % BLOCK;
    }
    r->row[b->n_logits++] = b->n_tokens - 1;
    r->kv_len[b->n_seqs] = to;
    const int32_t start = r->table_start[b->n_seqs], n_blocks = DIV_UP(to, BLOCK);
    for (int32_t i = 0; i < n_blocks; i++) r->block_id[start + i] = s * TABLE + i;
    r->table_start[++b->n_seqs] = start + n_blocks;
    r->query_start[b->n_seqs] = b->n_tokens;
}

static void run_open(Run *r, const GoldenModel *m) {
    Err err = {0};
    const ForwardLimits limits = {SEQS * TOKENS, SEQS, SEQS, TOKENS + 1, TABLE};
    const int32_t n_blocks[] = {SEQS * TABLE, SEQS * TABLE};
    ASSERT_OK(forward_open(&r->forward, m->model, &m->ctx, &limits, &err), err);
    ASSERT_OK(kv_store_open(&r->store, model_config(m->model), m->ctx.device, DTYPE_BF16, BLOCK,
                            n_blocks, &err),
              err);
    r->batch = (Batch){.token = r->token,
                       .pos = r->pos,
                       .query_start = r->query_start,
                       .kv_len = r->kv_len,
                       .logits_row = r->row};
    for (int32_t g = 0; g < kv_store_groups(model_config(m->model)); g++)
        r->batch.kv[g] = (BatchKv){r->slot, r->table_start, r->block_id};
}

static void batches_and_records(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        GoldenModel gpu;
        Err err = {0};
        Run *r = mem_alloc(sizeof *r);
        const float *logits = NULL;
        float *want[SEQS];
        open_shape(&gpu, &shapes[i], GOLDEN_CUDA);
        run_open(r, &gpu);
        for (int32_t s = 0; s < SEQS; s++) want[s] = run_alone(&gpu, (uint64_t)s, TOKENS);
        ASSERT_OK(forward_record(r->forward, r->store, &err), err);
        /* The prompts in one step; then one token each, of fewer and fewer sequences. */
        for (int32_t step = 0; step <= ROWS; step++) {
            const int32_t n = step == 0 ? SEQS : MAX(SEQS - step / 3, 1);
            r->batch.n_seqs = r->batch.n_tokens = r->batch.n_logits = 0;
            for (int32_t s = 0; s < n; s++) {
                int32_t token[TOKENS];
                tokens_fill(token, TOKENS, (uint64_t)s);
                const int32_t to = TOKENS - ROWS + step;
                run_add(r, s, token, step == 0 ? 0 : to - 1, to);
            }
            ASSERT_OK(forward_run(r->forward, r->store, &r->batch, &logits, &err), err);
            for (int32_t s = 0; s < n && step > 0; s++)
                if (memcmp(logits + s * 1000, want[s] + (step - 1) * 1000, 4000) != 0)
                    fail_msg("%s: step %d of %d sequences: sequence %d has other bits than alone",
                             shapes[i].name, step, n, s);
        }
        for (int32_t s = 0; s < SEQS; s++) mem_free(want[s]);
        kv_store_close(r->store);
        forward_close(r->forward);
        golden_close_model(&gpu);
        mem_free(r);
    }
}

static bool same_logits(const float *a, const float *b) {
    return memcmp(a, b, ROWS * 1000 * sizeof *a) == 0;
}

static void fast_in_large_steps(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    int32_t n_others = 0; /* where one segment takes less time */
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        GoldenModel cpu, gpu;
        open_shape(&cpu, &shapes[i], OPS_REF);
        open_shape(&gpu, &shapes[i], GOLDEN_CUDA);
        float *ref = run_tokens(&cpu, 1, FAST_TOKENS, FAST_TOKENS);
        float *want = run_tokens(&gpu, 1, FAST_TOKENS, FAST_TOKENS);
        gpu.ctx.fast = true;
        float *got = run_tokens(&gpu, 1, FAST_TOKENS, FAST_TOKENS);
        float *small = run_tokens(&gpu, 1, FAST_TOKENS, FAST_TOKENS / 2);
        const double error = testing_nmse(got, ref, ROWS * 1000);
        print_message("%s: NMSE %.2e with fast, %.2e without\n", shapes[i].name, error,
                      testing_nmse(want, ref, ROWS * 1000));
        if (!(error < 2e-3)) fail_msg("%s: NMSE %.3g with fast", shapes[i].name, error);
        if (!same_logits(small, want)) fail_msg("%s: small steps differ", shapes[i].name);
        n_others += !same_logits(got, want);
        mem_free(ref);
        mem_free(want);
        mem_free(got);
        mem_free(small);
        golden_close_model(&cpu);
        golden_close_model(&gpu);
    }
    assert_int_equal(n_others > 0, plugin_testing_is_hopper());
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(compares_with_the_cpu),
                                       cmocka_unit_test(batches_and_records),
                                       cmocka_unit_test(fast_in_large_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
