/* byte_level: GPT-2's map of the 256 bytes to printable characters, in which byte-level
 * vocabularies are written. Printable Latin-1 stands for itself, the others for U+0100 and up. */
#pragma once

#include "base/buf.h"

/* The character of a byte. */
uint32_t byte_level_char(uint8_t byte);
/* The byte of a character, or -1. */
int32_t byte_level_byte(uint32_t code_point);
/* Appends the characters of all bytes of s. */
void byte_level_append(Buf *buf, Str s);
/* Appends the bytes of the characters of s (valid UTF-8); false, and nothing is appended, when one
 * stands for no byte. */
bool byte_level_append_bytes(Buf *buf, Str s);
