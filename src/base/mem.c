#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/available.h"
#include "base/numa.h"
#include "base/status.h"

void *mem_try_alloc(size_t n, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(n, bytes, &total) || total > SIZE_MAX / 2) return NULL;
    total = ALIGN_UP(MAX(total, (size_t)1), (size_t)CACHE_LINE);
    void *p = aligned_alloc(CACHE_LINE, total);
    if (p != NULL) memset(p, 0, total);
    return p;
}

void *mem_alloc(size_t bytes) {
    void *p = mem_try_alloc(1, bytes);
    CHECK(p != NULL);
    return p;
}

void *mem_try_alloc_large(size_t bytes) {
    void *p = mmap(NULL, MAX(bytes, (size_t)1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    if (p == MAP_FAILED) return NULL;
    /* Advice only: without huge pages the memory works all the same. */
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    numa_interleave(p, bytes);
    return p;
}

void mem_free_large(void *p, size_t bytes) {
    if (p != NULL) munmap(p, MAX(bytes, (size_t)1));
}

typedef struct LargeChunk {
    struct LargeChunk *next;
    char *data;
    size_t used, size;
} LargeChunk;

/* Pages of a chunk that nobody touched take no memory. */
enum { LARGE_CHUNK_BYTES = 64 << 20 };

void *arena_large_alloc(LargeArena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = ALIGN_UP(MAX(bytes, (size_t)1), (size_t)CACHE_LINE);
    LargeChunk *chunk = arena->chunk;
    if (chunk == NULL || chunk->size - chunk->used < bytes) {
        chunk = mem_try_alloc(1, sizeof *chunk);
        if (chunk == NULL) return NULL;
        chunk->size = MAX(bytes, (size_t)LARGE_CHUNK_BYTES);
        /* Those after the first are mostly filled. */
        const size_t wanted = arena->chunk == NULL ? bytes : chunk->size;
        if ((int64_t)wanted <= available_memory("")) chunk->data = mem_try_alloc_large(chunk->size);
        if (chunk->data == NULL) {
            mem_free(chunk);
            return NULL;
        }
        chunk->next = arena->chunk;
        arena->chunk = chunk;
    }
    char *data = chunk->data + chunk->used;
    chunk->used += bytes;
    return data;
}

void arena_large_free(LargeArena *arena) {
    for (LargeChunk *chunk = arena->chunk, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        mem_free_large(chunk->data, chunk->size);
        mem_free(chunk);
    }
    arena->chunk = NULL;
}

void mem_populate(void *p, size_t bytes) {
    if (bytes == 0) return;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *first = (char *)((uintptr_t)p / page * page), *end = (char *)p + bytes;
#ifdef MADV_POPULATE_WRITE
    if (madvise(first, (size_t)(end - first), MADV_POPULATE_WRITE) == 0) return;
#endif
    /* Kernels before 5.14: an atomic no-op writes without changing what another thread wrote. */
    for (char *at = p; at < end; at = (char *)((uintptr_t)at / page * page) + page)
        (void)__atomic_fetch_or(at, 0, __ATOMIC_RELAXED);
}

char *mem_strndup(const char *s, size_t n) {
    char *copy = mem_alloc(n + 1);
    memcpy(copy, s, n);
    return copy;
}

char *mem_strdup(const char *s) {
    return mem_strndup(s, strlen(s));
}

void mem_free(void *p) {
    free(p);
}

typedef struct ArenaChunk {
    struct ArenaChunk *next;
    size_t used, size;
    /* data follows, 16-byte aligned */
} ArenaChunk;

enum { ARENA_CHUNK_MIN = 256, ARENA_CHUNK_MAX = 64 * 1024, ARENA_ALIGN = 16 };

void *arena_alloc(Arena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = ALIGN_UP(MAX(bytes, (size_t)1), (size_t)ARENA_ALIGN);
    if (arena->bytes_max != 0 && bytes > arena->bytes_max - arena->used_bytes) return NULL;
    ArenaChunk *chunk = arena->chunk;
    if (chunk == NULL || chunk->size - chunk->used < bytes) {
        /* Twice what there is: many arenas stay small, as those of requests do. */
        size_t size = MIN(MAX(arena->used_bytes, (size_t)ARENA_CHUNK_MIN), (size_t)ARENA_CHUNK_MAX);
        size = MAX(size, bytes);
        chunk = mem_try_alloc(1, sizeof(ArenaChunk) + ARENA_ALIGN + size);
        if (chunk == NULL) return NULL;
        chunk->size = size;
        chunk->next = arena->chunk;
        arena->chunk = chunk;
    }
    char *data = (char *)chunk + ALIGN_UP(sizeof(ArenaChunk), (size_t)ARENA_ALIGN);
    void *p = data + chunk->used;
    chunk->used += bytes;
    arena->used_bytes += bytes;
    return p;
}

char *arena_strndup(Arena *arena, const char *s, size_t n) {
    if (n == SIZE_MAX) return NULL;
    char *copy = arena_alloc(arena, n + 1);
    if (copy != NULL) memcpy(copy, s, n);
    return copy;
}

void arena_free(Arena *arena) {
    while (arena->chunk != NULL) {
        ArenaChunk *next = arena->chunk->next;
        mem_free(arena->chunk);
        arena->chunk = next;
    }
    arena->used_bytes = 0;
}
