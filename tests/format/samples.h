/* samples: small model files made in memory, for the tests of the readers. */
#pragma once

#include "testing.h"

static inline void samples_u32(Buf *buf, uint32_t value) {
    buf_append(buf, &value, 4);
}

static inline void samples_u64(Buf *buf, uint64_t value) {
    buf_append(buf, &value, 8);
}

static inline void samples_str(Buf *buf, const char *s) {
    samples_u64(buf, strlen(s));
    buf_append_text(buf, s);
}

/* Key and type of a metadata value; the value's bytes follow. */
static inline void samples_key(Buf *buf, const char *key, uint32_t type) {
    samples_str(buf, key);
    samples_u32(buf, type);
}

static inline void samples_head(Buf *buf, uint64_t n_tensors, uint64_t n_values) {
    buf_append_text(buf, "GGUF");
    samples_u32(buf, 3);
    samples_u64(buf, n_tensors);
    samples_u64(buf, n_values);
}

static inline void samples_tensor(Buf *buf, const char *name, uint64_t ne0, uint64_t ne1,
                                  uint32_t type, uint64_t offset) {
    samples_str(buf, name);
    samples_u32(buf, 2);
    samples_u64(buf, ne0);
    samples_u64(buf, ne1);
    samples_u32(buf, type);
    samples_u64(buf, offset);
}

static inline void samples_pad(Buf *buf, size_t align) {
    while (buf->len % align != 0) buf_append_byte(buf, '\0');
}

/* One of everything: every scalar type, arrays of numbers, bools and strings, a plain and a grouped
 * tensor. */
static inline Buf samples_gguf(void) {
    Buf buf = {0};
    samples_head(&buf, 2, 18);
    samples_key(&buf, "general.architecture", 8);
    samples_str(&buf, "llama");
    samples_key(&buf, "general.alignment", 4);
    samples_u32(&buf, 64);
    samples_key(&buf, "u8", 0), buf_append(&buf, "\xff", 1);
    samples_key(&buf, "i8", 1), buf_append(&buf, "\xff", 1);
    samples_key(&buf, "u16", 2), buf_append(&buf, "\xfe\xff", 2);
    samples_key(&buf, "i16", 3), buf_append(&buf, "\xfe\xff", 2);
    samples_key(&buf, "u32", 4), samples_u32(&buf, 0xfffffffd);
    samples_key(&buf, "i32", 5), samples_u32(&buf, 0xfffffffd);
    samples_key(&buf, "f32", 6), buf_append(&buf, &(float){0.5f}, 4);
    samples_key(&buf, "yes", 7), buf_append(&buf, "\1", 1);
    samples_key(&buf, "u64", 10), samples_u64(&buf, UINT64_MAX);
    samples_key(&buf, "i64", 11), samples_u64(&buf, (uint64_t)INT64_MIN);
    samples_key(&buf, "f64", 12), buf_append(&buf, &(double){1e300}, 8);
    samples_key(&buf, "nan", 6), samples_u32(&buf, 0x7fc00000);
    samples_key(&buf, "words", 9), samples_u32(&buf, 8), samples_u64(&buf, 3);
    samples_str(&buf, "one"), samples_str(&buf, ""), samples_str(&buf, "three");
    samples_key(&buf, "counts", 9), samples_u32(&buf, 5), samples_u64(&buf, 2);
    samples_u32(&buf, 7), samples_u32(&buf, (uint32_t)-7);
    samples_key(&buf, "flags", 9), samples_u32(&buf, 7), samples_u64(&buf, 2);
    buf_append(&buf, "\0\1", 2);
    samples_key(&buf, "nothing", 9), samples_u32(&buf, 6), samples_u64(&buf, 0);
    samples_tensor(&buf, "token_embd.weight", 3, 2, 0, 128);
    samples_tensor(&buf, "blk.0.attn_q.weight", 32, 2, 2, 0);
    samples_pad(&buf, 64);
    size_t data = buf.len;
    for (int i = 0; i < 36; i++) buf_append_byte(&buf, (char)i);
    while (buf.len < data + 128) buf_append_byte(&buf, '\0');
    for (int i = 0; i < 6; i++) buf_append(&buf, &(float){(float)i}, 4);
    assert_false(buf.failed);
    return buf;
}

/* header and data as a safetensors file */
static inline Buf samples_safetensors(const char *header, const void *data, size_t len) {
    Buf buf = {0};
    samples_str(&buf, header);
    buf_append(&buf, data, len);
    assert_false(buf.failed);
    return buf;
}
