/* text_input: the text that a command works on. */
#pragma once

#include "base/buf.h"
#include "base/status.h"

enum { TEXT_INPUT_BYTES_MAX = 1 << 30 };

/* Appends the given text, or the file's ("-": standard input), or, when both are NULL, standard
 * input's. */
MUST_USE Status text_input_read(const char *text, const char *file, Buf *out, Err *err);
