#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

bool buf_reserve(Buf *buf, size_t extra) {
    if (buf->failed) return false;
    size_t need;
    if (__builtin_add_overflow(buf->len, extra, &need) || need >= SIZE_MAX / 2 ||
        (buf->bytes_max != 0 && need > buf->bytes_max)) {
        buf->failed = true;
        return false;
    }
    if (need < buf->cap) return true;
    size_t cap = MAX(buf->cap * 2, MAX(need + 1, (size_t)64));
    char *data = realloc(buf->data, cap);
    if (data == NULL) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->cap = cap;
    return true;
}

void buf_append(Buf *buf, const void *data, size_t len) {
    if (!buf_reserve(buf, len)) return;
    if (len > 0) memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
}

void buf_append_str(Buf *buf, Str s) {
    buf_append(buf, s.ptr, s.len);
}

void buf_append_text(Buf *buf, const char *s) {
    buf_append(buf, s, strlen(s));
}

void buf_append_byte(Buf *buf, char c) {
    buf_append(buf, &c, 1);
}

void buf_append_format(Buf *buf, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !buf_reserve(buf, (size_t)n)) return;
    va_start(args, format);
    vsnprintf(buf->data + buf->len, (size_t)n + 1, format, args);
    va_end(args);
    buf->len += (size_t)n;
}

void buf_clear(Buf *buf) {
    buf->len = 0;
    buf->failed = false;
    if (buf->data != NULL) buf->data[0] = '\0';
}

void buf_free(Buf *buf) {
    free(buf->data);
    *buf = (Buf){.bytes_max = buf->bytes_max};
}

Str buf_str(const Buf *buf) {
    return buf->data == NULL ? (Str){"", 0} : (Str){buf->data, buf->len};
}

void ints_append(Ints *ints, const int32_t *values, size_t n) {
    if (ints->failed) return;
    if (n > ints->cap - ints->len) {
        size_t cap = MAX(ints->cap * 2, MAX(ints->len + n, (size_t)64));
        int32_t *data = cap > SIZE_MAX / 8 ? NULL : realloc(ints->data, cap * sizeof *data);
        if (data == NULL) {
            ints->failed = true;
            return;
        }
        ints->data = data;
        ints->cap = cap;
    }
    if (n > 0) memcpy(ints->data + ints->len, values, n * sizeof *values);
    ints->len += n;
}

void ints_push(Ints *ints, int32_t value) {
    ints_append(ints, &value, 1);
}

void ints_clear(Ints *ints) {
    ints->len = 0;
    ints->failed = false;
}

void ints_free(Ints *ints) {
    free(ints->data);
    *ints = (Ints){0};
}
