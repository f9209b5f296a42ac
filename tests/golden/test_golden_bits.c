/* test_golden_bits: a sequence's logits are the same bits however its prompt is cut into chunks, on
 * any number of threads and with any block size: every family at every level. */
#include "golden.h"

enum { BITS_TOKENS = 272 }; /* past one split of attention (256) */

typedef struct BitsRun {
    int32_t chunk, n_threads, block_tokens;
} BitsRun;

/* The first is what the others are held against. The first four vary everything once; the slow
 * reference level makes do with them. */
static const BitsRun bits_runs[] = {{272, 1, 16}, {1, 2, 1},   {7, 1, 8}, {64, 2, 32},
                                    {272, 2, 1},  {64, 1, 16}, {7, 2, 32}};
enum { BITS_RUNS_REF = 4 };

static void bits_run(const GoldenCase *c, const Golden *g, const BitsRun *run, DType kv_dtype,
                     float *out) {
    GoldenModel m;
    Err err = {0};
    Ints tokens = {0};
    const float *logits = NULL;
    golden_open_model(&m, g->folder, c->level, run->n_threads);
    Single *single = golden_single(&m, &(SingleOptions){.context_max = GOLDEN_CONTEXT,
                                                        .chunk = run->chunk,
                                                        .n_logits_max = BITS_TOKENS,
                                                        .block_tokens = run->block_tokens,
                                                        .kv_dtype = kv_dtype});
    ints_append(&tokens, g->prompt.data, g->prompt.len);
    ints_append(&tokens, g->greedy.data, BITS_TOKENS - g->prompt.len);
    ASSERT_OK(single_feed(single, tokens.data, BITS_TOKENS, BITS_TOKENS, &logits, &err), err);
    memcpy(out, logits, (size_t)BITS_TOKENS * (size_t)g->vocab * sizeof(float));
    ints_free(&tokens);
    single_close(single);
    golden_close_model(&m);
}

static void bits_case(void **state) {
    const GoldenCase *c = golden_case(state);
    Golden g;
    golden_load(&g, c->family);
    size_t n = (size_t)BITS_TOKENS * (size_t)g.vocab;
    float *want = mem_alloc(n * sizeof *want), *got = mem_alloc(n * sizeof *got);
    /* One family after the other takes a smaller cache as well. */
    const DType dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I8};
    DType kv_dtype = dtypes[strlen(c->family) % 4];
    bits_run(c, &g, &bits_runs[0], kv_dtype, want);
    size_t n_runs = c->level == (int32_t)OPS_REF ? BITS_RUNS_REF : ARRAY_LEN(bits_runs);
    for (size_t i = 1; i < n_runs; i++) {
        bits_run(c, &g, &bits_runs[i], kv_dtype, got);
        for (size_t j = 0; j < n; j++)
            if (memcmp(&want[j], &got[j], sizeof(float)) != 0)
                fail_msg("chunk %d, threads %d, block %d: logit %zu of row %zu is %a, wanted %a",
                         bits_runs[i].chunk, bits_runs[i].n_threads, bits_runs[i].block_tokens,
                         j % (size_t)g.vocab, j / (size_t)g.vocab, (double)got[j], (double)want[j]);
    }
    mem_free(want);
    mem_free(got);
    golden_free(&g);
}

int main(void) {
    return golden_run_cases(bits_case, "bits");
}
