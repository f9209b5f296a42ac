#include "base/str.h"

#include <errno.h>
#include <stdlib.h>

Str str_from(const char *s) {
    return s == NULL ? (Str){"", 0} : (Str){s, strlen(s)};
}

bool str_eq(Str a, Str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool str_is(Str s, const char *literal) {
    return str_eq(s, str_from(literal));
}

bool str_starts_with(Str s, const char *prefix) {
    size_t n = strlen(prefix);
    return s.len >= n && memcmp(s.ptr, prefix, n) == 0;
}

bool str_ends_with(Str s, const char *suffix) {
    size_t n = strlen(suffix);
    return s.len >= n && memcmp(s.ptr + s.len - n, suffix, n) == 0;
}

Str str_slice(Str s, size_t from, size_t to) {
    to = MIN(to, s.len);
    from = MIN(from, to);
    return (Str){s.ptr + from, to - from};
}

static bool str_is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

Str str_trim(Str s) {
    while (s.len > 0 && str_is_space(s.ptr[0])) s = str_slice(s, 1, s.len);
    while (s.len > 0 && str_is_space(s.ptr[s.len - 1])) s.len--;
    return s;
}

size_t str_find(Str s, Str needle, size_t from) {
    if (from > s.len) return SIZE_MAX;
    const char *hit = memmem(s.ptr + from, s.len - from, needle.ptr, needle.len);
    return hit == NULL ? SIZE_MAX : (size_t)(hit - s.ptr);
}

enum { STR_NUMBER_BYTES = 64 };

/* Copies s, which must be a plausible number, to a NUL-terminated buffer. */
static bool str_number(Str s, char out[STR_NUMBER_BYTES]) {
    if (s.len == 0 || s.len >= STR_NUMBER_BYTES || str_is_space(s.ptr[0])) return false;
    memcpy(out, s.ptr, s.len);
    out[s.len] = '\0';
    return memchr(out, '\0', s.len) == NULL;
}

bool str_to_i64(Str s, int64_t *out) {
    char text[STR_NUMBER_BYTES], *end;
    if (!str_number(s, text)) return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0') return false;
    *out = value;
    return true;
}

bool str_to_f64(Str s, double *out) {
    char text[STR_NUMBER_BYTES], *end;
    if (!str_number(s, text)) return false;
    errno = 0;
    double value = strtod(text, &end);
    if (*end != '\0' || (errno != 0 && (value > 1 || value < -1))) return false;
    *out = value;
    return true;
}

size_t str_utf8_len(Str s) {
    const uint8_t *p = (const uint8_t *)s.ptr;
    uint8_t lead = p[0], low = 0x80, high = 0xBF;
    if (lead < 0x80) return 1;
    size_t len = lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : 4;
    if (lead < 0xC2 || lead > 0xF4 || s.len < len) return 0;
    if (lead == 0xE0) low = 0xA0;  /* shorter forms exist */
    if (lead == 0xED) high = 0x9F; /* surrogates */
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F; /* beyond U+10FFFF */
    if (p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    return len;
}
