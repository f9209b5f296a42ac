/* utf8: walking, checking and mending UTF-8. */
#pragma once

#include "base/buf.h"

/* Bytes of the whole character at s (1 to 4), or 0 where there is none: malformed, or cut at the
 * end. len > 0. Overlong forms, surrogates and values over U+10FFFF are malformed. */
int32_t utf8_char_bytes(const char *s, size_t len);
/* As utf8_char_bytes for s that is valid and whole; the code point goes to *out. */
int32_t utf8_decode(const char *s, uint32_t *out);
/* Appends the code point. */
void utf8_append(Buf *buf, uint32_t code_point);
/* Bytes of the longest prefix at s of a character that more bytes could complete, or that can
 * never be one: what one U+FFFD stands for ("maximal subpart"). At least 1. */
int32_t utf8_bad_bytes(const char *s, size_t len);
/* Whether s is the beginning of a character that only lacks bytes. */
bool utf8_is_cut(const char *s, size_t len);
/* Length of the valid prefix. */
size_t utf8_valid_bytes(Str s);
/* Appends s, with U+FFFD for every maximal malformed part. */
void utf8_append_mended(Buf *buf, Str s);

/* Bytes of the character that a lead byte of valid text begins. */
static inline int32_t utf8_lead_bytes(char lead) {
    uint8_t byte = (uint8_t)lead;
    return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}
