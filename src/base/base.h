/* base: integer types, alignment and array helpers that every file may use.
 *
 * Includes nothing of ours. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MIN(a, b)    ((a) < (b) ? (a) : (b))
#define MAX(a, b)    ((a) > (b) ? (a) : (b))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Rounds x up to a multiple of a (a power of two). The caller makes sure that it cannot wrap. */
#define ALIGN_UP(x, a) (((x) + (a)-1) & ~((a)-1))
#define DIV_UP(x, a)   (((x) + (a)-1) / (a))

#define MUST_USE                           __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_arg, first_arg) __attribute__((format(printf, format_arg, first_arg)))
#define NORETURN                           __attribute__((noreturn))

/* A cache line, and the alignment of every tensor's data. */
#define CACHE_LINE 64
