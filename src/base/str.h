/* str: a borrowed run of bytes, not NUL-terminated. */
#pragma once

#include <string.h>

#include "base/base.h"
#include "base/status.h"

typedef struct Str {
    const char *ptr; /* borrowed */
    size_t len;
} Str;

#define STR_LIT(s) ((Str){(s), sizeof(s) - 1})
/* For printf("%.*s"): STR_ARG(s) gives the two arguments. */
#define STR_ARG(s) (int)MIN((s).len, (size_t)INT32_MAX), (s).ptr

Str str_from(const char *s); /* of a NUL-terminated string; NULL gives an empty Str */
bool str_eq(Str a, Str b);
bool str_is(Str s, const char *literal);
bool str_starts_with(Str s, const char *prefix);
bool str_ends_with(Str s, const char *suffix);
/* The part [from, to), both clamped to the string. */
Str str_slice(Str s, size_t from, size_t to);
/* Bytes of the well-formed UTF-8 sequence at the start of s (Unicode 15, table 3-7), else 0. */
size_t str_utf8_len(Str s);
/* Without ASCII white space at both ends. */
Str str_trim(Str s);
/* Index of the first occurrence of `needle` at or after `from`, or SIZE_MAX. */
size_t str_find(Str s, Str needle, size_t from);

/* The whole string as a decimal number; fails on anything left over or out of range. */
MUST_USE bool str_to_i64(Str s, int64_t *out);
MUST_USE bool str_to_f64(Str s, double *out);
