/* sim_heap: the heap as the simulator wants it: counted while the engine steps (it must not be
 * used), failing when a fault says so. With a sanitizer, which has a heap of its own, neither. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct SimHeap {
    bool watching, fails;
    int64_t n_calls;
} SimHeap;

static SimHeap sim_heap;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool sim_heap_works = false;
#else
static const bool sim_heap_works = true;

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

static inline bool sim_heap_call(void) {
    sim_heap.n_calls += sim_heap.watching;
    return !sim_heap.fails;
}

void *malloc(size_t n) {
    return sim_heap_call() ? __libc_malloc(n) : NULL;
}

void *calloc(size_t n, size_t size) {
    return sim_heap_call() ? __libc_calloc(n, size) : NULL;
}

void *realloc(void *p, size_t n) {
    return sim_heap_call() ? __libc_realloc(p, n) : NULL;
}

void *aligned_alloc(size_t align, size_t n) {
    return sim_heap_call() ? __libc_memalign(align, n) : NULL;
}

void free(void *p) {
    if (p != NULL) (void)sim_heap_call();
    __libc_free(p);
}
#endif
