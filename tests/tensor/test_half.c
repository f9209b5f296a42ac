/* test_half: every code of f16, bf16 and both fp8 against the formula of its format in float64, and
 * narrowing against the nearest code found by search in float64. */
#include "tensor/half.h"

#include "tensor/dtype.h"
#include "testing.h"

/* A binary format: sign, exponent bits, mantissa bits. Largest finite code, without the sign. */
typedef struct HalfFormat {
    int exponent_bits, mantissa_bits;
    uint32_t code_max;
    bool has_infinity; /* the code after code_max */
} HalfFormat;

static const HalfFormat HALF_F16 = {5, 10, 0x7bff, true}, HALF_BF16 = {8, 7, 0x7f7f, true},
                        HALF_E4M3 = {4, 3, 0x7e, false}, HALF_E5M2 = {5, 2, 0x7b, true};

/* The value of a code without sign, by the definition of IEEE 754 §3.4. */
static double half_value(const HalfFormat *f, uint32_t code) {
    int bias = (1 << (f->exponent_bits - 1)) - 1;
    int exponent = (int)(code >> f->mantissa_bits);
    double mantissa = code & ((1u << f->mantissa_bits) - 1);
    double scale = ldexp(1, -f->mantissa_bits);
    if (exponent == 0) return ldexp(mantissa * scale, 1 - bias);
    return ldexp(1 + mantissa * scale, exponent - bias);
}

/* The code nearest to x >= 0, ties to the even code; one past code_max stands for overflow. */
static uint32_t half_nearest(const HalfFormat *f, double x) {
    uint32_t low = 0, high = f->code_max + 1;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (half_value(f, middle) <= x)
            low = middle;
        else
            high = middle;
    }
    double below = x - half_value(f, low), above = half_value(f, high) - x;
    if (below == above) return low % 2 == 0 ? low : high;
    return below < above ? low : high;
}

typedef float HalfWiden(uint32_t code);
typedef uint32_t HalfNarrow(float x);

static float half_widen_f16(uint32_t code) {
    return f16_to_f32((uint16_t)code);
}
static float half_widen_bf16(uint32_t code) {
    return bf16_to_f32((uint16_t)code);
}
static float half_widen_e4m3(uint32_t code) {
    return f8_e4m3_to_f32((uint8_t)code);
}
static float half_widen_e5m2(uint32_t code) {
    return f8_e5m2_to_f32((uint8_t)code);
}
static uint32_t half_narrow_f16(float x) {
    return f16_from_f32(x);
}
static uint32_t half_narrow_bf16(float x) {
    return bf16_from_f32(x);
}
static uint32_t half_narrow_e4m3(float x) {
    return f8_e4m3_from_f32(x);
}
static uint32_t half_narrow_e5m2(float x) {
    return f8_e5m2_from_f32(x);
}

static void half_check_narrow(const HalfFormat *f, HalfNarrow *narrow, float x) {
    uint32_t sign = 1u << (f->exponent_bits + f->mantissa_bits);
    uint32_t want = half_nearest(f, fabs((double)x)) | (signbit(x) ? sign : 0);
    if (narrow(x) != want) fail_msg("%a narrows to %x, wanted %x", (double)x, narrow(x), want);
}

/* Every code widens to its value and comes back; and so do the points halfway to the next code and
 * the floats on either side of them. */
static void half_check(const HalfFormat *f, HalfWiden *widen, HalfNarrow *narrow) {
    uint32_t sign = 1u << (f->exponent_bits + f->mantissa_bits);
    for (uint32_t code = 0; code < sign; code++) {
        float x = widen(code), negative = widen(code | sign);
        assert_true(signbit(negative) && !signbit(x));
        if (code > f->code_max) {
            bool infinite = f->has_infinity && code == f->code_max + 1;
            assert_true(infinite ? isinf(x) && isinf(negative) : isnan(x) && isnan(negative));
            if (infinite)
                assert_int_equal(narrow(x), code);
            else
                assert_true(narrow(x) > f->code_max + f->has_infinity);
            continue;
        }
        assert_true((double)x == half_value(f, code) && (double)negative == -(double)x);
        assert_int_equal(narrow(x), code);
        assert_int_equal(narrow(negative), code | sign);
        double middle = (half_value(f, code) + half_value(f, code + 1)) / 2;
        if (middle > 0x1.fffffep127) continue; /* bf16's last middle is no f32 */
        half_check_narrow(f, narrow, (float)middle);
        half_check_narrow(f, narrow, -(float)middle);
        half_check_narrow(f, narrow, nextafterf((float)middle, 0));
        half_check_narrow(f, narrow, nextafterf((float)middle, INFINITY));
    }
}

static void half_all_codes(void **state) {
    (void)state;
    half_check(&HALF_F16, half_widen_f16, half_narrow_f16);
    half_check(&HALF_BF16, half_widen_bf16, half_narrow_bf16);
    half_check(&HALF_E4M3, half_widen_e4m3, half_narrow_e4m3);
    half_check(&HALF_E5M2, half_widen_e5m2, half_narrow_e5m2);
}

static void half_spread(void **state) {
    (void)state;
    /* A walk over all exponents of f32; odd stride, so low bits vary. */
    for (uint64_t bits = 0; bits < 0x7f800000u; bits += 100003) {
        float x = half_bits_to_f32((uint32_t)bits);
        half_check_narrow(&HALF_F16, half_narrow_f16, x);
        half_check_narrow(&HALF_BF16, half_narrow_bf16, x);
        half_check_narrow(&HALF_E4M3, half_narrow_e4m3, x);
        half_check_narrow(&HALF_E5M2, half_narrow_e5m2, x);
    }
}

static void half_known(void **state) {
    (void)state;
    assert_true(f8_e4m3_to_f32(0x7e) == 448 && f8_e5m2_to_f32(0x7b) == 57344);
    assert_true(f8_e4m3_to_f32(f8_e4m3_from_f32(6.625f)) == 6.5f);
    assert_int_equal(f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_true(isnan(f16_to_f32(f16_from_f32(NAN))) && isnan(bf16_to_f32(bf16_from_f32(NAN))));
    /* A NaN whose payload sits in the low bits only must not become infinity. */
    float thin = half_bits_to_f32(0x7f800001u);
    assert_true(isnan(f16_to_f32(f16_from_f32(thin))) && isnan(bf16_to_f32(bf16_from_f32(thin))));
    assert_true(isnan(f8_e4m3_to_f32(f8_e4m3_from_f32(INFINITY))));
    assert_true(e8m0_to_f32(127) == 1 && e8m0_to_f32(0) == 0x1p-127f &&
                e8m0_to_f32(1) == 0x1p-126f);
    assert_true(e8m0_to_f32(254) == 0x1p127f && isnan(e8m0_to_f32(255)));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(half_all_codes),
                                       cmocka_unit_test(half_spread), cmocka_unit_test(half_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
