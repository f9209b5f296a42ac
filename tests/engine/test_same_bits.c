/* test_same_bits: a request's tokens and logprobs are a function of the request alone.
 *
 * The golden models of every family, on the CPU and on the GPU where there is one, by the method of
 * same_bits.h. The greedy request must be Hugging Face's. */
#include "engine/same_bits.h"

static void same_bits(void **state) {
    const GoldenCase *c = golden_case(state);
    /* Every family at the best level here; the other levels, which the ops' own tests compare with
     * it bit by bit, with one family. */
    const bool best = c->level + 1 >= OPS_LEVEL_COUNT || !ops_cpu_has((OpsLevel)(c->level + 1));
    if (!best && strcmp(c->family, "gemma3") != 0) return;
    GoldenModel m;
    Golden g;
    golden_load(&g, c->family);
    golden_open_model(&m, g.folder, c->level, 1);
    same_bits_of(&m, &g, DTYPE_F32);
    golden_close_model(&m);
    golden_free(&g);
}

int main(void) {
    return golden_run_cases(same_bits, "same_bits");
}
