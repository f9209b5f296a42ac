/* buf: a growing byte buffer, and its sibling for token ids.
 *
 * Growth beyond bytes_max (0: none) or short memory sets `failed` and drops the write, so a writer
 * checks once at the end. Zero-initialised is ready. */
#pragma once

#include "base/base.h"
#include "base/str.h"

typedef struct Buf {
    char *data; /* owned; data[len] is NUL once anything was appended */
    size_t len, cap;
    size_t bytes_max;
    bool failed;
} Buf;

void buf_append(Buf *buf, const void *data, size_t len);
void buf_append_str(Buf *buf, Str s);
void buf_append_text(Buf *buf, const char *s);
void buf_append_byte(Buf *buf, char c);
void buf_append_format(Buf *buf, const char *format, ...) PRINTF_LIKE(2, 3);
/* Makes room for `extra` more bytes; false as for any other failed write. */
bool buf_reserve(Buf *buf, size_t extra);
/* Empties but keeps the memory. */
void buf_clear(Buf *buf);
void buf_free(Buf *buf);
Str buf_str(const Buf *buf);

/* A growing list of int32 (token ids). The same failure rule. */
typedef struct Ints {
    int32_t *data; /* owned */
    size_t len, cap;
    bool failed;
} Ints;

void ints_push(Ints *ints, int32_t value);
void ints_append(Ints *ints, const int32_t *values, size_t n);
void ints_clear(Ints *ints);
void ints_free(Ints *ints);
