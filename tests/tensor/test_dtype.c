/* test_dtype: the table, sizes at their limits, views. */
#include "tensor/tensor.h"

#include "testing.h"

static void dtype_table(void **state) {
    (void)state;
    for (int d = 0; d < DTYPE_COUNT; d++) {
        const DTypeInfo *info = dtype_info((DType)d);
        DType back;
        assert_true(dtype_from_name(str_from(info->name), &back));
        assert_int_equal(back, d);
        if (info->gguf_id >= 0) {
            assert_true(dtype_from_gguf((uint32_t)info->gguf_id, &back));
            assert_int_equal(back, d);
        }
        assert_int_equal(dtype_is_grouped((DType)d), info->group_len > 1);
        if (dtype_is_grouped((DType)d)) assert_true(dtype_can_read((DType)d));
    }
    DType found;
    assert_true(dtype_from_name(STR_LIT("BF16"), &found) && found == DTYPE_BF16);
    assert_false(dtype_from_name(STR_LIT("q4"), &found));
    assert_false(dtype_from_name(STR_LIT("q4_00"), &found));
    assert_false(dtype_from_name(STR_LIT(""), &found));
    const uint32_t retired[] = {4, 5, 31, 32, 33, 36, 37, 38, 200, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(retired); i++)
        assert_false(dtype_from_gguf(retired[i], &found));
}

static void dtype_sizes(void **state) {
    (void)state;
    int64_t bytes = -1;
    assert_true(dtype_bytes(DTYPE_Q4_K, 512, &bytes));
    assert_int_equal(bytes, 288);
    assert_true(dtype_bytes(DTYPE_F32, 0, &bytes));
    assert_int_equal(bytes, 0);
    assert_false(dtype_bytes(DTYPE_Q4_K, 511, &bytes));
    assert_false(dtype_bytes(DTYPE_Q8_0, 16, &bytes));
    assert_false(dtype_bytes(DTYPE_F32, -1, &bytes));
    assert_true(dtype_bytes(DTYPE_F32, INT64_MAX / 4, &bytes));
    assert_false(dtype_bytes(DTYPE_F32, INT64_MAX / 4 + 1, &bytes));
    assert_true(dtype_bytes(DTYPE_Q8_0, INT64_MAX / 34 / 32 * 32, &bytes));
    /* Groups of 32 in 34 bytes: more bytes than elements. */
    assert_false(dtype_bytes(DTYPE_Q8_0, INT64_MAX / 32 * 32, &bytes));
}

static void tensor_views(void **state) {
    (void)state;
    uint8_t data[6 * 2 * 18];
    Tensor t = tensor_3d(data, DTYPE_Q4_0, 3, 2, 64);
    assert_int_equal(tensor_len(&t), 384);
    assert_int_equal(tensor_bytes(&t), sizeof data);
    assert_int_equal(tensor_row_bytes(&t), 36);
    assert_int_equal(t.stride[0], 128);
    Tensor rows = tensor_rows(&t, 1, 2);
    assert_ptr_equal(rows.data, data + 72);
    assert_int_equal(rows.shape[0], 2);
    Tensor none = tensor_rows(&t, 3, 0);
    assert_int_equal(tensor_bytes(&none), 0);
    char text[TENSOR_TEXT_BYTES];
    assert_string_equal(tensor_text(&t, text), "[3, 2, 64] q4_0");
    Tensor huge = {
        .dtype = DTYPE_F8_E4M3, .n_dims = 4, .shape = {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN}};
    assert_true(strlen(tensor_text(&huge, text)) < sizeof text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(dtype_table), cmocka_unit_test(dtype_sizes),
                                       cmocka_unit_test(tensor_views)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
