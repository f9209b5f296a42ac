#include "text/utf8.h"

/* What the second byte of a character may be, which is where overlong forms, surrogates and values
 * over U+10FFFF show (Unicode standard, table 3-7). Returns the bytes of the character, 0: no
 * lead. */
static int32_t utf8_lead(uint8_t lead, uint8_t *low, uint8_t *high) {
    *low = 0x80;
    *high = 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    if (lead < 0xe0) return 2;
    if (lead < 0xf0) {
        if (lead == 0xe0) *low = 0xa0;
        if (lead == 0xed) *high = 0x9f;
        return 3;
    }
    if (lead == 0xf0) *low = 0x90;
    if (lead == 0xf4) *high = 0x8f;
    return 4;
}

/* Good bytes of the character at s: all of *need when it is whole. */
static int32_t utf8_scan(const char *s, size_t len, int32_t *need) {
    uint8_t low, high;
    *need = utf8_lead((uint8_t)s[0], &low, &high);
    if (*need == 0) return 0;
    int32_t n = 1;
    while (n < *need && (size_t)n < len && (uint8_t)s[n] >= low && (uint8_t)s[n] <= high) {
        low = 0x80;
        high = 0xbf;
        n++;
    }
    return n;
}

int32_t utf8_char_bytes(const char *s, size_t len) {
    int32_t need, n = utf8_scan(s, len, &need);
    return n == need ? n : 0;
}

int32_t utf8_bad_bytes(const char *s, size_t len) {
    int32_t need, n = utf8_scan(s, len, &need);
    return MAX(n, 1);
}

bool utf8_is_cut(const char *s, size_t len) {
    int32_t need, n = utf8_scan(s, len, &need);
    return n > 0 && n < need && (size_t)n == len;
}

int32_t utf8_decode(const char *s, uint32_t *out) {
    const uint8_t *b = (const uint8_t *)s;
    if (b[0] < 0x80) {
        *out = b[0];
        return 1;
    }
    if (b[0] < 0xe0) {
        *out = (uint32_t)(b[0] & 0x1f) << 6 | (b[1] & 0x3f);
        return 2;
    }
    if (b[0] < 0xf0) {
        *out = (uint32_t)(b[0] & 0x0f) << 12 | (uint32_t)(b[1] & 0x3f) << 6 | (b[2] & 0x3f);
        return 3;
    }
    *out = (uint32_t)(b[0] & 0x07) << 18 | (uint32_t)(b[1] & 0x3f) << 12 |
           (uint32_t)(b[2] & 0x3f) << 6 | (b[3] & 0x3f);
    return 4;
}

void utf8_append(Buf *buf, uint32_t c) {
    char s[4];
    size_t n;
    if (c < 0x80) {
        s[0] = (char)c;
        n = 1;
    } else if (c < 0x800) {
        s[0] = (char)(0xc0 | c >> 6);
        s[1] = (char)(0x80 | (c & 0x3f));
        n = 2;
    } else if (c < 0x10000) {
        s[0] = (char)(0xe0 | c >> 12);
        s[1] = (char)(0x80 | (c >> 6 & 0x3f));
        s[2] = (char)(0x80 | (c & 0x3f));
        n = 3;
    } else {
        s[0] = (char)(0xf0 | c >> 18);
        s[1] = (char)(0x80 | (c >> 12 & 0x3f));
        s[2] = (char)(0x80 | (c >> 6 & 0x3f));
        s[3] = (char)(0x80 | (c & 0x3f));
        n = 4;
    }
    buf_append(buf, s, n);
}

size_t utf8_valid_bytes(Str s) {
    size_t at = 0;
    while (at < s.len) {
        uint64_t word;
        if (s.len - at >= sizeof word) { /* eight ASCII bytes at a time */
            memcpy(&word, s.ptr + at, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                at += sizeof word;
                continue;
            }
        }
        int32_t n = utf8_char_bytes(s.ptr + at, s.len - at);
        if (n == 0) return at;
        at += (size_t)n;
    }
    return at;
}

void utf8_append_mended(Buf *buf, Str s) {
    while (s.len > 0) {
        size_t good = utf8_valid_bytes(s);
        buf_append(buf, s.ptr, good);
        s = str_slice(s, good, s.len);
        if (s.len == 0) return;
        buf_append(buf, "\xef\xbf\xbd", 3);
        s = str_slice(s, (size_t)utf8_bad_bytes(s.ptr, s.len), s.len);
    }
}
