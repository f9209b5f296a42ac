/* charsmap: SentencePiece's compiled normalization table: strings to strings.
 *
 * A 32-bit size, a double-array trie of that many bytes (as darts-clone writes it), then the
 * NUL-terminated results that the trie's values point at. */
#pragma once

#include "base/buf.h"

typedef struct Charsmap {
    Buf blob; /* owned; all of it */
    size_t n_units;
    Str results;
} Charsmap;

/* Copies and checks the table; an empty blob is ERR_FORMAT. */
MUST_USE Status charsmap_open(Charsmap **out, Str blob, Err *err);
void charsmap_close(Charsmap *map);
/* Finds the longest (or, as Hugging Face does, the shortest) key that s begins with. Returns its
 * length, 0: none; *result borrows. */
size_t charsmap_find(const Charsmap *map, Str s, bool shortest, Str *result);
