#include "base/msgpack.h"

#include <string.h>

/* A type's byte and a number of so many bytes, the highest first. */
static void msgpack_number(Buf *out, unsigned type, uint64_t value, int32_t n_bytes) {
    char byte[9] = {(char)type};
    for (int32_t i = 0; i < n_bytes; i++) byte[1 + i] = (char)(value >> 8 * (n_bytes - 1 - i));
    buf_append(out, byte, (size_t)(1 + n_bytes));
}

/* A length: in the type's byte up to `most`, else in two bytes or four. */
static void msgpack_length(Buf *out, unsigned small, uint32_t most, unsigned type16, uint32_t n) {
    if (n <= most) {
        msgpack_number(out, small | n, 0, 0);
    } else if (n <= UINT16_MAX) {
        msgpack_number(out, type16, n, 2);
    } else {
        msgpack_number(out, type16 + 1, n, 4);
    }
}

void msgpack_nil(Buf *out) {
    msgpack_number(out, 0xc0, 0, 0);
}

void msgpack_uint(Buf *out, uint64_t value) {
    if (value < 0x80) {
        msgpack_number(out, (unsigned)value, 0, 0);
    } else if (value <= UINT8_MAX) {
        msgpack_number(out, 0xcc, value, 1);
    } else if (value <= UINT16_MAX) {
        msgpack_number(out, 0xcd, value, 2);
    } else if (value <= UINT32_MAX) {
        msgpack_number(out, 0xce, value, 4);
    } else {
        msgpack_number(out, 0xcf, value, 8);
    }
}

void msgpack_f64(Buf *out, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    msgpack_number(out, 0xcb, bits, 8);
}

void msgpack_text(Buf *out, const char *text) {
    const size_t len = strlen(text);
    if (len > 31 && len <= UINT8_MAX) {
        msgpack_number(out, 0xd9, len, 1);
    } else {
        msgpack_length(out, 0xa0, 31, 0xda, (uint32_t)len);
    }
    buf_append(out, text, len);
}

void msgpack_array(Buf *out, uint32_t n) {
    msgpack_length(out, 0x90, 15, 0xdc, n);
}

void msgpack_map(Buf *out, uint32_t n) {
    msgpack_length(out, 0x80, 15, 0xde, n);
}
