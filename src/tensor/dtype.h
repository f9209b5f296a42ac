/* dtype: the number formats that a tensor may have, in one table.
 *
 * A block format keeps its elements in groups along the last dimension: group_len elements share
 * group_bytes bytes. Plain formats have groups of one. The GGUF ids are ggml's. */
#pragma once

#include "base/status.h"
#include "base/str.h"

/*    name      text       group_len, group_bytes, gguf id (-1: none) */
#define DTYPE_MAP(X)                  \
    X(F32, "f32", 1, 4, 0)            \
    X(F16, "f16", 1, 2, 1)            \
    X(BF16, "bf16", 1, 2, 30)         \
    X(F64, "f64", 1, 8, 28)           \
    X(I8, "i8", 1, 1, 24)             \
    X(I16, "i16", 1, 2, 25)           \
    X(I32, "i32", 1, 4, 26)           \
    X(I64, "i64", 1, 8, 27)           \
    X(U8, "u8", 1, 1, -1)             \
    X(BOOL, "bool", 1, 1, -1)         \
    X(F8_E4M3, "f8_e4m3", 1, 1, -1)   \
    X(F8_E5M2, "f8_e5m2", 1, 1, -1)   \
    X(Q4_0, "q4_0", 32, 18, 2)        \
    X(Q4_1, "q4_1", 32, 20, 3)        \
    X(Q5_0, "q5_0", 32, 22, 6)        \
    X(Q5_1, "q5_1", 32, 24, 7)        \
    X(Q8_0, "q8_0", 32, 34, 8)        \
    X(Q2_K, "q2_k", 256, 84, 10)      \
    X(Q3_K, "q3_k", 256, 110, 11)     \
    X(Q4_K, "q4_k", 256, 144, 12)     \
    X(Q5_K, "q5_k", 256, 176, 13)     \
    X(Q6_K, "q6_k", 256, 210, 14)     \
    X(IQ4_NL, "iq4_nl", 32, 18, 20)   \
    X(IQ4_XS, "iq4_xs", 256, 136, 23) \
    X(MXFP4, "mxfp4", 32, 17, 39)

typedef enum DType {
#define DTYPE_ENUM(name, text, group_len, group_bytes, gguf_id) DTYPE_##name,
    DTYPE_MAP(DTYPE_ENUM)
#undef DTYPE_ENUM
        DTYPE_COUNT
} DType;

typedef struct DTypeInfo {
    const char *name;
    int32_t group_len, group_bytes;
    int32_t gguf_id; /* ggml's type id, -1: not in GGUF */
} DTypeInfo;

#ifdef __cplusplus
extern "C" {
#endif

const DTypeInfo *dtype_info(DType dtype);
/* The dtype with this text (any case) or GGUF id; false when there is none. */
bool dtype_from_name(Str name, DType *out);
bool dtype_from_gguf(uint32_t gguf_id, DType *out);
/* Elements are stored in groups with shared scales. */
bool dtype_is_grouped(DType dtype);
/* Bytes of n elements (a multiple of group_len), false when that overflows or n does not divide. */
MUST_USE bool dtype_bytes(DType dtype, int64_t n, int64_t *bytes);

/* n elements (a multiple of group_len) of any float or block format to f32 and back, the reference
 * conversions. dtype_from_f32 rounds to nearest even; for block formats it is the plain
 * round-to-nearest quantizer of the format, available for F32 F16 BF16 Q8_0 Q4_0. */
void dtype_to_f32(DType dtype, const void *src, float *dst, int64_t n);
MUST_USE bool dtype_from_f32(DType dtype, const float *src, void *dst, int64_t n);
/* Whether the two above know the dtype. */
bool dtype_can_read(DType dtype);
bool dtype_can_write(DType dtype);

#ifdef __cplusplus
}
#endif
