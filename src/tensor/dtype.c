#include "tensor/dtype.h"

#include "tensor/quant_priv.h"

static const DTypeInfo DTYPE_INFO[DTYPE_COUNT] = {
#define DTYPE_ROW(name, text, group_len, group_bytes, gguf_id) \
    {text, group_len, group_bytes, gguf_id},
    DTYPE_MAP(DTYPE_ROW)
#undef DTYPE_ROW
};

static QuantToF32 *const DTYPE_READ[DTYPE_COUNT] = {
    [DTYPE_F32] = quant_plain_read_f32,       [DTYPE_F16] = quant_plain_read_f16,
    [DTYPE_BF16] = quant_plain_read_bf16,     [DTYPE_F64] = quant_plain_read_f64,
    [DTYPE_F8_E4M3] = quant_plain_read_e4m3,  [DTYPE_F8_E5M2] = quant_plain_read_e5m2,
    [DTYPE_Q4_0] = quant_legacy_read_q4_0,    [DTYPE_Q4_1] = quant_legacy_read_q4_1,
    [DTYPE_Q5_0] = quant_legacy_read_q5_0,    [DTYPE_Q5_1] = quant_legacy_read_q5_1,
    [DTYPE_Q8_0] = quant_legacy_read_q8_0,    [DTYPE_Q2_K] = quant_k_read_q2,
    [DTYPE_Q3_K] = quant_k_read_q3,           [DTYPE_Q4_K] = quant_k_read_q4,
    [DTYPE_Q5_K] = quant_k_read_q5,           [DTYPE_Q6_K] = quant_k_read_q6,
    [DTYPE_IQ4_NL] = quant_table_read_iq4_nl, [DTYPE_IQ4_XS] = quant_table_read_iq4_xs,
    [DTYPE_MXFP4] = quant_table_read_mxfp4,
};

static QuantFromF32 *const DTYPE_WRITE[DTYPE_COUNT] = {
    [DTYPE_F32] = quant_plain_write_f32,    [DTYPE_F16] = quant_plain_write_f16,
    [DTYPE_BF16] = quant_plain_write_bf16,  [DTYPE_Q8_0] = quant_legacy_write_q8_0,
    [DTYPE_Q4_0] = quant_legacy_write_q4_0,
};

static bool dtype_is_valid(DType dtype) {
    return (unsigned)dtype < DTYPE_COUNT;
}

const DTypeInfo *dtype_info(DType dtype) {
    CHECK(dtype_is_valid(dtype));
    return &DTYPE_INFO[dtype];
}

static char dtype_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool dtype_from_name(Str name, DType *out) {
    for (int d = 0; d < DTYPE_COUNT; d++) {
        const char *text = DTYPE_INFO[d].name;
        size_t i = 0;
        while (i < name.len && text[i] && dtype_lower(name.ptr[i]) == text[i]) i++;
        if (i == name.len && text[i] == '\0') {
            *out = (DType)d;
            return true;
        }
    }
    return false;
}

bool dtype_from_gguf(uint32_t gguf_id, DType *out) {
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (DTYPE_INFO[d].gguf_id < 0 || (uint32_t)DTYPE_INFO[d].gguf_id != gguf_id) continue;
        *out = (DType)d;
        return true;
    }
    return false;
}

bool dtype_is_grouped(DType dtype) {
    return dtype_info(dtype)->group_len > 1;
}

bool dtype_bytes(DType dtype, int64_t n, int64_t *bytes) {
    const DTypeInfo *info = dtype_info(dtype);
    if (n < 0 || n % info->group_len) return false;
    return !__builtin_mul_overflow(n / info->group_len, (int64_t)info->group_bytes, bytes);
}

bool dtype_can_read(DType dtype) {
    return dtype_is_valid(dtype) && DTYPE_READ[dtype];
}

bool dtype_can_write(DType dtype) {
    return dtype_is_valid(dtype) && DTYPE_WRITE[dtype];
}

void dtype_to_f32(DType dtype, const void *src, float *dst, int64_t n) {
    CHECK(dtype_can_read(dtype) && n >= 0 && n % DTYPE_INFO[dtype].group_len == 0);
    DTYPE_READ[dtype](src, dst, n);
}

bool dtype_from_f32(DType dtype, const float *src, void *dst, int64_t n) {
    CHECK(n >= 0 && n % dtype_info(dtype)->group_len == 0);
    return DTYPE_WRITE[dtype] && DTYPE_WRITE[dtype](src, dst, n);
}
