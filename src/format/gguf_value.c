/* Values of GGUF metadata, which lie unaligned in the file and were checked when it was opened. */
#include "format/model_file_priv.h"

static const char *const GGUF_TYPE_NAME[] = {
    [GGUF_U8] = "u8",         [GGUF_I8] = "i8",       [GGUF_U16] = "u16", [GGUF_I16] = "i16",
    [GGUF_U32] = "u32",       [GGUF_I32] = "i32",     [GGUF_F32] = "f32", [GGUF_BOOL] = "bool",
    [GGUF_STRING] = "string", [GGUF_ARRAY] = "array", [GGUF_U64] = "u64", [GGUF_I64] = "i64",
    [GGUF_F64] = "f64"};

const char *gguf_type_name(GgufType type) {
    CHECK((size_t)type < ARRAY_LEN(GGUF_TYPE_NAME));
    return GGUF_TYPE_NAME[type];
}

size_t gguf_type_bytes(GgufType type) {
    switch (type) {
        case GGUF_U8:
        case GGUF_I8:
        case GGUF_BOOL: return 1;
        case GGUF_U16:
        case GGUF_I16: return 2;
        case GGUF_U32:
        case GGUF_I32:
        case GGUF_F32: return 4;
        case GGUF_U64:
        case GGUF_I64:
        case GGUF_F64: return 8;
        default: return 0;
    }
}

static uint64_t gguf_value_bits(const uint8_t *p, size_t bytes) {
    uint64_t bits = 0;
    for (size_t i = 0; i < bytes; i++) bits |= (uint64_t)p[i] << (8 * i);
    return bits;
}

static bool gguf_type_is_int(GgufType type) {
    return gguf_type_bytes(type) > 0 && type != GGUF_F32 && type != GGUF_F64 && type != GGUF_BOOL;
}

static bool gguf_type_is_signed(GgufType type) {
    return type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
}

static bool gguf_value_read_int(GgufType type, const uint8_t *p, int64_t *out) {
    size_t bytes = gguf_type_bytes(type);
    uint64_t bits = gguf_value_bits(p, bytes);
    if (gguf_type_is_signed(type) && bytes < 8 && bits >> (8 * bytes - 1) & 1)
        bits |= UINT64_MAX << (8 * bytes);
    if (type == GGUF_U64 && bits > INT64_MAX) return false;
    *out = (int64_t)bits;
    return true;
}

static double gguf_value_read_number(GgufType type, const uint8_t *p) {
    uint64_t bits = gguf_value_bits(p, gguf_type_bytes(type));
    if (type == GGUF_F64) {
        double number;
        memcpy(&number, &bits, sizeof number);
        return number;
    }
    if (type == GGUF_F32) {
        uint32_t low = (uint32_t)bits;
        float number;
        memcpy(&number, &low, sizeof number);
        return (double)number;
    }
    int64_t number;
    return gguf_value_read_int(type, p, &number) ? (double)number : (double)bits;
}

static Str gguf_value_read_str(const uint8_t *p) {
    return (Str){(const char *)p + 8, (size_t)gguf_value_bits(p, 8)};
}

bool gguf_value_is_int(const GgufValue *value) {
    return gguf_type_is_int(value->type);
}

bool gguf_value_int(const GgufValue *value, int64_t *out) {
    CHECK(gguf_type_is_int(value->type));
    return gguf_value_read_int(value->type, value->data, out);
}

double gguf_value_number(const GgufValue *value) {
    CHECK(gguf_type_bytes(value->type) > 0);
    return gguf_value_read_number(value->type, value->data);
}

Str gguf_value_str(const GgufValue *value) {
    CHECK(value->type == GGUF_STRING);
    return gguf_value_read_str(value->data);
}

static const uint8_t *gguf_array_at(const GgufValue *value, uint64_t i) {
    CHECK(value->type == GGUF_ARRAY && i < value->array_len);
    return value->data + i * gguf_type_bytes(value->array_type);
}

Str gguf_array_str(const GgufValue *value, uint64_t i) {
    CHECK(value->type == GGUF_ARRAY && value->array_type == GGUF_STRING && i < value->array_len);
    return gguf_value_read_str(value->data + value->string_at[i]);
}

int64_t gguf_array_int(const GgufValue *value, uint64_t i) {
    CHECK(gguf_type_is_int(value->array_type) || value->array_type == GGUF_BOOL);
    int64_t number;
    return gguf_value_read_int(value->array_type, gguf_array_at(value, i), &number) ? number
                                                                                    : INT64_MAX;
}

double gguf_array_number(const GgufValue *value, uint64_t i) {
    CHECK(gguf_type_bytes(value->array_type) > 0);
    return gguf_value_read_number(value->array_type, gguf_array_at(value, i));
}
