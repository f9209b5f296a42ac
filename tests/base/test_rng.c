/* test_rng: Philox4x32-10 against the known answers that its authors publish (Random123,
 * kat_vectors), and the range and evenness of the uniform draws. */
#include "base/rng.h"

#include "testing.h"

static void rng_known_answers(void **state) {
    (void)state;
    assert_true(rng_bits(0, 0, 0) == UINT64_C(0xe169c58d6627e8d5));
    assert_true(rng_bits(UINT64_MAX, UINT64_MAX, UINT64_MAX) == UINT64_C(0x41c83b0e408f276d));
    /* Counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 (digits of pi). */
    uint64_t bits = rng_bits(UINT64_C(0x299f31d0a4093822), UINT64_C(0x0370734413198a2e),
                             UINT64_C(0x85a308d3243f6a88));
    assert_true(bits == UINT64_C(0x94fdccebd16cfe09));
}

static void rng_uniform_is_even(void **state) {
    (void)state;
    enum { N_BINS = 64, N_DRAWS = 64 * 1000 };
    for (uint64_t stream = 0; stream < 4; stream++) {
        int32_t bins[N_BINS] = {0};
        for (uint64_t i = 0; i < N_DRAWS; i++) {
            double u = rng_uniform(42, stream, i);
            assert_true(u >= 0 && u < 1);
            bins[(int)(u * N_BINS)]++;
        }
        double chi2 = 0, expected = (double)N_DRAWS / N_BINS;
        for (int i = 0; i < N_BINS; i++)
            chi2 += (bins[i] - expected) * (bins[i] - expected) / expected;
        /* 63 degrees of freedom: 0.01 % and 99.99 % quantiles. */
        assert_true(chi2 > 28 && chi2 < 113);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rng_known_answers),
                                       cmocka_unit_test(rng_uniform_is_even)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
