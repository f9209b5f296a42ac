/* mem: aligned memory, and an arena that is freed in one call.
 *
 * mem_alloc and friends CHECK on failure: use them for small bookkeeping. Anything sized by input
 * goes through mem_try_alloc, which returns NULL. */
#pragma once

#include "base/base.h"

/* Zeroed memory of `bytes` (0 gives a valid pointer), aligned to CACHE_LINE; free with mem_free. */
void *mem_alloc(size_t bytes);

/* As mem_alloc, but NULL when n * bytes overflows or memory is short. */
void *mem_try_alloc(size_t n, size_t bytes);

/* Large zeroed memory on huge pages where the system gives them; NULL when short. `bytes` must be
 * given again to mem_free_large. On machines of several nodes its pages are dealt out to them. */
void *mem_try_alloc_large(size_t bytes);
void mem_free_large(void *p, size_t bytes);

/* Large memory for many pieces that are freed together: pieces share huge pages that each of them
 * alone would be too small for. Zero-initialised is ready; one thread at a time. */
typedef struct LargeArena {
    struct LargeChunk *chunk; /* the newest, in front of the others */
} LargeArena;

/* Zeroed memory aligned to CACHE_LINE; NULL when short. */
void *arena_large_alloc(LargeArena *arena, size_t bytes);
void arena_large_free(LargeArena *arena);

/* Has the system hand out the pages of large memory now instead of at their first use; what they
 * hold does not change. */
void mem_populate(void *p, size_t bytes);

/* A copy of n bytes with a terminating NUL. */
char *mem_strndup(const char *s, size_t n);
char *mem_strdup(const char *s);

void mem_free(void *p);

/* A chain of chunks from which memory is carved and never returned singly. Zero-initialised is
 * ready; one thread at a time. */
typedef struct Arena {
    struct ArenaChunk *chunk;
    size_t used_bytes; /* handed out so far, for limits */
    size_t bytes_max;  /* 0: no limit */
} Arena;

/* Zeroed memory aligned to 16 bytes; NULL when bytes_max would be passed or memory is short. */
void *arena_alloc(Arena *arena, size_t bytes);
char *arena_strndup(Arena *arena, const char *s, size_t n);
void arena_free(Arena *arena);
