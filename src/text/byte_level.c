#include "text/byte_level.h"

#include "text/utf8.h"

static bool byte_level_is_plain(uint32_t c) {
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

uint32_t byte_level_char(uint8_t byte) {
    if (byte_level_is_plain(byte)) return byte;
    /* The others in order: 0..0x20, 0x7f..0xa0, 0xad. */
    if (byte <= 0x20) return 0x100u + byte;
    return byte == 0xad ? 0x143 : 0x121u + (byte - 0x7fu);
}

int32_t byte_level_byte(uint32_t c) {
    if (c < 0x100) return byte_level_is_plain(c) ? (int32_t)c : -1;
    if (c <= 0x120) return (int32_t)(c - 0x100);
    if (c <= 0x142) return (int32_t)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

void byte_level_append(Buf *buf, Str s) {
    for (size_t i = 0; i < s.len; i++) utf8_append(buf, byte_level_char((uint8_t)s.ptr[i]));
}

bool byte_level_append_bytes(Buf *buf, Str s) {
    size_t start = buf->len;
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        at += (size_t)utf8_decode(s.ptr + at, &c);
        int32_t byte = byte_level_byte(c);
        if (byte < 0) {
            buf->len = start;
            return false;
        }
        buf_append_byte(buf, (char)byte);
    }
    return true;
}
