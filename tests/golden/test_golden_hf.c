/* test_golden_hf: every family at every level computes what Hugging Face computes.
 *
 * The stored logits were made in f32 on the stored weights, so the bound is the same for f32 and
 * bf16 files: 2e-4 of the largest logit, room for some hundred f32 roundings in another order. The
 * 256 greedy tokens are exact: the files were chosen to have no tie within 1.5e-3. (What a
 * 16-bit cache changes: test_forward.) A level that rounds the activations of bf16 matrices to bf16
 * has errors of 2^-9 at every product of these random models: its logits are held to 6e-2, its
 * greedy tokens are not compared, and mixtures, where such an error changes an expert, skip. */
#include "golden.h"

static void golden_hf_case(void **state) {
    const GoldenCase *c = golden_case(state);
    Golden g;
    GoldenModel m;
    Err err = {0};
    golden_load(&g, c->family);
    golden_open_model(&m, g.folder, c->level, 1);
    const bool rounds = golden_rounds(&m);
    if (rounds && model_config(m.model)->n_experts > 0) {
        golden_close_model(&m);
        golden_free(&g);
        skip();
    }
    int32_t n_prompt = (int32_t)g.prompt.len;
    Single *single = golden_single(
        &m, &(SingleOptions){.context_max = GOLDEN_CONTEXT, .n_logits_max = n_prompt});
    const float *logits = NULL;
    ASSERT_OK(single_feed(single, g.prompt.data, n_prompt, n_prompt, &logits, &err), err);
    double worst = 0;
    for (size_t i = 0; i < g.rows.len; i++)
        worst = fmax(worst, testing_error(logits + (int64_t)g.rows.data[i] * g.vocab,
                                          g.logits + i * (size_t)g.vocab, (size_t)g.vocab));
    print_message("largest error %.2e of the largest logit\n", worst);
    /* A GPU keeps q, k and v in bf16 as well. */
    const double bound = c->level == GOLDEN_CUDA ? 8e-2 : 6e-2;
    ASSERT_ERROR_BELOW(worst, rounds ? bound : 2e-4);
    logits += (int64_t)(n_prompt - 1) * g.vocab;
    for (size_t i = 0; i < g.greedy.len && !rounds; i++) {
        int32_t token = golden_argmax(logits, g.vocab);
        if (token != g.greedy.data[i])
            fail_msg("greedy token %zu is %d, wanted %d", i, token, g.greedy.data[i]);
        if (i + 1 < g.greedy.len) ASSERT_OK(single_feed(single, &token, 1, 1, &logits, &err), err);
    }
    single_close(single);
    golden_close_model(&m);
    golden_free(&g);
}

int main(void) {
    return golden_run_cases(golden_hf_case, "hf");
}
