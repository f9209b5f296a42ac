/* test_quant: the block formats bit for bit against quant_golden.bin, which the independent Python
 * package gguf made (tools/make_quant_golden.py), and what no package says: NaN, refusals. */
#include "tensor/quant.h"

#include "tensor/half.h"
#include "testing.h"

typedef struct QuantRecord {
    char name[16];
    uint32_t n, n_bytes, what;
} QuantRecord;

static void quant_check_record(const QuantRecord *r, const uint8_t *bytes, const uint8_t *floats) {
    DType dtype;
    assert_true(dtype_from_name(str_from(r->name), &dtype));
    int64_t wanted_bytes;
    assert_true(dtype_bytes(dtype, r->n, &wanted_bytes));
    assert_int_equal(wanted_bytes, r->n_bytes);
    float *x = mem_alloc(r->n * sizeof *x);
    if (r->what == 0) {
        dtype_to_f32(dtype, bytes, x, r->n);
        for (uint32_t i = 0; i < r->n; i++)
            if (memcmp(&x[i], floats + 4 * i, 4) != 0)
                fail_msg("%s: element %u is %g", r->name, i, (double)x[i]);
    } else {
        uint8_t *got = mem_alloc(r->n_bytes);
        memcpy(x, floats, r->n * sizeof *x);
        assert_true(dtype_from_f32(dtype, x, got, r->n));
        for (uint32_t i = 0; i < r->n_bytes; i++)
            if (got[i] != bytes[i])
                fail_msg("%s: byte %u is %d, wanted %d", r->name, i, got[i], bytes[i]);
        mem_free(got);
    }
    mem_free(x);
}

static void quant_golden(void **state) {
    (void)state;
    Buf file = {0};
    Err err = {0};
    ASSERT_OK(file_read(&file, "tests/tensor/quant_golden.bin", 1 << 20, &err), err);
    size_t at = 0, n_records = 0;
    while (at < file.len) {
        QuantRecord r;
        memcpy(&r, file.data + at, sizeof r);
        at += sizeof r;
        uint8_t *bytes = mem_alloc(r.n_bytes); /* aligned */
        memcpy(bytes, file.data + at, r.n_bytes);
        quant_check_record(&r, bytes, (const uint8_t *)file.data + at + r.n_bytes);
        mem_free(bytes);
        at += r.n_bytes + 4 * (size_t)r.n;
        n_records++;
    }
    assert_int_equal(n_records, 15);
    buf_free(&file);
}

static void quant_refusals(void **state) {
    (void)state;
    float x[32] = {1, -2, 3};
    uint8_t out[64];
    assert_true(dtype_from_f32(DTYPE_Q8_0, x, out, 32));
    x[31] = NAN;
    assert_false(dtype_from_f32(DTYPE_Q8_0, x, out, 32));
    assert_false(dtype_from_f32(DTYPE_Q4_0, x, out, 32));
    x[31] = -INFINITY;
    assert_false(dtype_from_f32(DTYPE_Q8_0, x, out, 32));
    x[31] = 8e6f; /* 8e6 / 127 fits f16, 8e6 / 8 does not */
    assert_true(dtype_from_f32(DTYPE_Q8_0, x, out, 32));
    assert_false(dtype_from_f32(DTYPE_Q4_0, x, out, 32));
    assert_false(dtype_from_f32(DTYPE_Q6_K, x, out, 0));
    for (int i = 0; i < 32; i++) x[i] = 1e-44f; /* the inverse of the scale overflows */
    assert_true(dtype_from_f32(DTYPE_Q8_0, x, out, 32));
    float back[32];
    dtype_to_f32(DTYPE_Q8_0, out, back, 32);
    for (int i = 0; i < 32; i++) assert_true(back[i] == 0);
}

static void quant_mxfp4_nan(void **state) {
    (void)state;
    GroupMXFP4 g = {.e = 255, .qs = {0x21}};
    float x[32];
    dtype_to_f32(DTYPE_MXFP4, &g, x, 32);
    assert_true(isnan(x[0]) && isnan(x[16]));
    g.e = 127;
    dtype_to_f32(DTYPE_MXFP4, &g, x, 32);
    assert_true(x[0] == 0.5f && x[16] == 1 && x[1] == 0);
}

/* The plain formats are what half.h says, element by element. */
static void quant_plain(void **state) {
    (void)state;
    enum { N = 256 };
    float x[N], back[N];
    uint16_t wide[N];
    uint8_t narrow[N];
    double doubles[N];
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i - 100) * 1.2345e-3f;
        narrow[i] = (uint8_t)i;
        doubles[i] = (double)x[i] / 3;
    }
    assert_true(dtype_from_f32(DTYPE_F16, x, wide, N));
    dtype_to_f32(DTYPE_F16, wide, back, N);
    for (int i = 0; i < N; i++) assert_true(back[i] == f16_to_f32(f16_from_f32(x[i])));
    assert_true(dtype_from_f32(DTYPE_BF16, x, wide, N));
    dtype_to_f32(DTYPE_BF16, wide, back, N);
    for (int i = 0; i < N; i++) assert_true(back[i] == bf16_to_f32(bf16_from_f32(x[i])));
    assert_true(dtype_from_f32(DTYPE_F32, x, back, N));
    assert_memory_equal(x, back, sizeof x);
    dtype_to_f32(DTYPE_F64, doubles, back, N);
    for (int i = 0; i < N; i++) assert_true(back[i] == (float)doubles[i]);
    dtype_to_f32(DTYPE_F8_E4M3, narrow, back, N);
    for (int i = 0; i < N; i++)
        assert_true(back[i] == f8_e4m3_to_f32((uint8_t)i) || (isnan(back[i]) && (i & 127) == 127));
    dtype_to_f32(DTYPE_F8_E5M2, narrow, back, N);
    for (int i = 0; i < N; i++)
        assert_true(back[i] == f8_e5m2_to_f32((uint8_t)i) || (isnan(back[i]) && (i & 127) > 124));
}

/* A q8_0 round trip is within half a step; f16 keeps the step to 2^-11. */
static void quant_error(void **state) {
    (void)state;
    float x[32], back[32];
    GroupQ8_0 g;
    for (uint32_t seed = 1; seed < 1000; seed++) {
        float largest = 0;
        for (int i = 0; i < 32; i++) {
            x[i] = (float)((int32_t)((seed * 32u + (uint32_t)i) * 2654435761u) >> 8) * 0x1p-20f;
            largest = fmaxf(largest, fabsf(x[i]));
        }
        assert_true(dtype_from_f32(DTYPE_Q8_0, x, &g, 32));
        dtype_to_f32(DTYPE_Q8_0, &g, back, 32);
        for (int i = 0; i < 32; i++)
            assert_true(fabsf(x[i] - back[i]) <= largest / 127 * (0.5f + 127 * 0x1p-11f));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quant_golden), cmocka_unit_test(quant_refusals),
        cmocka_unit_test(quant_mxfp4_nan), cmocka_unit_test(quant_plain),
        cmocka_unit_test(quant_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
