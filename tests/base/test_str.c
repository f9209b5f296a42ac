/* test_str: slices, search and number parsing at their edges. */
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void str_numbers(void **state) {
    (void)state;
    int64_t i = 7;
    assert_true(str_to_i64(STR_LIT("-12"), &i));
    assert_int_equal(i, -12);
    assert_false(str_to_i64(STR_LIT("9223372036854775808"), &i));
    assert_false(str_to_i64(STR_LIT("1x"), &i));
    assert_false(str_to_i64(STR_LIT(" 1"), &i));
    assert_false(str_to_i64(STR_LIT(""), &i));
    assert_int_equal(i, -12);
    double f;
    assert_true(str_to_f64(STR_LIT("1e-3"), &f));
    assert_false(str_to_f64(STR_LIT("1e999"), &f));
}

static void str_parts(void **state) {
    (void)state;
    Str s = STR_LIT(" a,b ");
    assert_true(str_is(str_trim(s), "a,b"));
    assert_int_equal(str_find(s, STR_LIT(","), 0), 2);
    assert_true(str_find(s, STR_LIT(","), 3) == SIZE_MAX);
    assert_true(str_find(s, STR_LIT(","), 99) == SIZE_MAX);
    assert_int_equal(str_slice(s, 4, 99).len, 1);
    assert_int_equal(str_slice(s, 9, 2).len, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(str_numbers), cmocka_unit_test(str_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
