/* test_embed: rows of tables of every writable and block dtype, learned positions, and the
 * gather of rows. The expected values come from dtype_to_f32, which tests/tensor proves. */
#include "ops/ops_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 64, .k_max = 1024, .n_max = 1024};

/* Random bytes that are finite numbers of the dtype: f16 scales of a block are small. */
static char *embed_table_new(DType dtype, int64_t vocab, int64_t dim, int64_t *bytes) {
    assert_true(dtype_bytes(dtype, vocab * dim, bytes));
    char *table = mem_alloc((size_t)*bytes);
    float *values = random_new(vocab * dim, 1, 1);
    if (dtype_can_write(dtype)) {
        assert_true(dtype_from_f32(dtype, values, table, vocab * dim));
    } else {
        for (int64_t i = 0; i < *bytes; i++) table[i] = (char)(rng_bits(1, 2, (uint64_t)i) & 0x3b);
    }
    guard_free(values, vocab * dim);
    return table;
}

static void embed_dtypes(void **state) {
    const Ops *ops = ops_testing_level(state);
    enum { VOCAB = 23, TOKENS = 19 };
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    for (int32_t d = 0; d < DTYPE_COUNT; d++) {
        DType dtype = (DType)d;
        if (!dtype_can_read(dtype)) continue;
        int64_t dim = dtype_is_grouped(dtype) ? 256 : 77, bytes;
        char *rows = embed_table_new(dtype, VOCAB, dim, &bytes);
        Tensor file = tensor_2d(rows, dtype, VOCAB, dim);
        Weight table = {.t = file}; /* never prepared: that packs rows for linear */
        float *learned = random_new(9 * dim, 3, 1), *row = guard_new(dim);
        Weight pos_table = {.t = tensor_2d(learned, DTYPE_F32, 9, dim)};
        int32_t token[TOKENS], pos[TOKENS];
        for (int32_t t = 0; t < TOKENS; t++) token[t] = t * 7 % VOCAB, pos[t] = t % 9;
        for (int32_t with_pos = 0; with_pos < 2; with_pos++) {
            int64_t stride = dim + 5;
            float *out = guard_new(TOKENS * stride);
            EmbedArgs args = {.table = &table,
                              .pos_table = with_pos ? &pos_table : NULL,
                              .token = token,
                              .pos = pos,
                              .scale = 1.7f,
                              .out = strided_2d(out, TOKENS, dim, stride)};
            ops->embed(&ctx, &args);
            for (int32_t t = 0; t < TOKENS; t++) {
                dtype_to_f32(dtype, rows + bytes / VOCAB * token[t], row, dim);
                for (int64_t i = 0; i < dim; i++)
                    row[i] = row[i] * 1.7f + (with_pos ? learned[pos[t] * dim + i] : 0);
                ASSERT_ERROR_BELOW(testing_nmse(out + t * stride, row, (size_t)dim), BOUND_EMBED);
                for (int64_t i = dim; i < stride; i++) assert_true(isnan(out[t * stride + i]));
            }
            guard_free(out, TOKENS * stride);
        }
        guard_free(learned, 9 * dim), guard_free(row, dim);
        mem_free(rows);
    }
    ops_testing_close(&ctx);
}

static void gather_rows(void **state) {
    const Ops *ops = ops_testing_level(state);
    OpCtx ctx = ops_testing_open(ops, &LIMITS, 2);
    enum { ROWS = 60, DIM = 1001, STRIDE = 1010 };
    float *x = random_new(ROWS * STRIDE, 1, 1), *out = guard_new(ROWS * DIM);
    int32_t row[ROWS];
    for (int32_t i = 0; i < ROWS; i++) row[i] = i * 31 % ROWS / 2;
    Tensor from = strided_2d(x, ROWS, DIM, STRIDE), to = tensor_2d(out, DTYPE_F32, ROWS, DIM);
    ops->gather_rows(&ctx, &from, row, ROWS, &to);
    for (int32_t i = 0; i < ROWS; i++)
        assert_true(same_bits(out + i * DIM, x + row[i] * STRIDE, DIM));
    to = tensor_2d(out, DTYPE_F32, 0, DIM);
    ops->gather_rows(&ctx, &from, row, 0, &to);
    guard_free(x, ROWS * STRIDE), guard_free(out, ROWS * DIM);
    ops_testing_close(&ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {OPS_TEST_ALL(embed_dtypes), OPS_TEST_ALL(gather_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
