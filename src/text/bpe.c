#include "text/bpe.h"

#include <stdlib.h>

#include "base/mem.h"

/* Up to this many symbols the pairs are simply searched for the best; words rarely have more. */
enum { BPE_SHORT = 40, BPE_AHEAD = 16 };

typedef struct BpeSymbol {
    int32_t id; /* -1: merged into the one before */
    int32_t prev, next;
} BpeSymbol;

typedef struct BpeEntry {
    int32_t position;
    int32_t next; /* entry of the same rank, or the next free one; -1: none */
} BpeEntry;

static BpeMerge *bpe_slot(const BpeTable *table, uint64_t pair) {
    size_t mask = table->n_slots - 1;
    size_t i = (size_t)(pair * UINT64_C(0x9e3779b97f4a7c15) >> 24) & mask;
    while (table->slots[i].pair != pair && table->slots[i].pair != UINT64_MAX) i = (i + 1) & mask;
    return &table->slots[i];
}

/* At most two thirds full. */
bool bpe_reserve(BpeTable *table, size_t n) {
    size_t n_slots = MAX(table->n_slots, (size_t)16);
    if (n > (size_t)INT32_MAX) return false;
    while (n_slots / 3 * 2 <= n) n_slots *= 2;
    if (n_slots == table->n_slots) return true;
    BpeTable next = {.n_slots = n_slots, .n_used = table->n_used, .rank_end = table->rank_end};
    next.slots = mem_try_alloc(n_slots, sizeof *next.slots);
    if (next.slots == NULL) return false;
    for (size_t i = 0; i < n_slots; i++) next.slots[i].pair = UINT64_MAX;
    for (size_t i = 0; i < table->n_slots; i++)
        if (table->slots[i].pair != UINT64_MAX)
            *bpe_slot(&next, table->slots[i].pair) = table->slots[i];
    mem_free(table->slots);
    *table = next;
    return true;
}

bool bpe_add(BpeTable *table, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    if (!bpe_reserve(table, table->n_used + 1)) return false;
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    BpeMerge *slot = bpe_slot(table, pair);
    table->n_used += slot->pair == UINT64_MAX;
    *slot = (BpeMerge){pair, rank, id};
    table->rank_end = MAX(table->rank_end, rank + 1);
    return true;
}

const BpeMerge *bpe_find(const BpeTable *table, int32_t left, int32_t right) {
    if (table->n_slots == 0) return NULL;
    const BpeMerge *slot = bpe_slot(table, (uint64_t)(uint32_t)left << 32 | (uint32_t)right);
    return slot->pair == UINT64_MAX ? NULL : slot;
}

void bpe_free(BpeTable *table) {
    mem_free(table->slots);
    *table = (BpeTable){0};
}

void bpe_scratch_free(BpeScratch *scratch) {
    free(scratch->symbols);
    free(scratch->entries);
    free(scratch->heads);
    free(scratch->positions);
    free(scratch->heap);
    free(scratch->ranks);
    *scratch = (BpeScratch){0};
}

static void bpe_merge_short(const BpeTable *table, int32_t *symbol, size_t *n) {
    const BpeMerge *merge[BPE_SHORT];
    for (size_t i = 0; i + 1 < *n; i++) merge[i] = bpe_find(table, symbol[i], symbol[i + 1]);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < *n; i++)
            if (merge[i] != NULL && (best == SIZE_MAX || merge[i]->rank < merge[best]->rank))
                best = i;
        if (best == SIZE_MAX) return;
        symbol[best] = merge[best]->id;
        memmove(symbol + best + 1, symbol + best + 2, (*n - best - 2) * sizeof *symbol);
        memmove(merge + best, merge + best + 1, (*n - best - 2) * sizeof *merge);
        (*n)--;
        if (best > 0) merge[best - 1] = bpe_find(table, symbol[best - 1], symbol[best]);
        if (best + 1 < *n) merge[best] = bpe_find(table, symbol[best], symbol[best + 1]);
    }
}

/* Long words. Pairs wait in a list for each rank, in the order in which they came up, which is
 * nearly that of their positions: so a long run of one letter is a few passes in order and not
 * millions of steps through a heap that no cache holds. Only a pair that comes up with a rank that
 * is already being worked on (merges learned in order never make one) goes through a heap. */
typedef struct BpeWork {
    const BpeTable *table;
    BpeScratch *scratch;
    int32_t n_entries, free_entry;
    size_t n_heap, n_ranks;
    int64_t rank; /* being worked on; -1: none */
    bool failed;
} BpeWork;

static bool bpe_grow(void **data, size_t *cap, size_t want, size_t bytes) {
    if (want <= *cap) return true;
    size_t next = MAX(want, *cap + *cap / 2 + 64);
    void *grown = realloc(*data, next * bytes);
    if (grown == NULL) return false;
    *data = grown;
    *cap = next;
    return true;
}

#define BPE_GROW(pointer, cap, want) \
    bpe_grow((void **)&(pointer), &(cap), (want), sizeof *(pointer))

static void bpe_heap_push(BpeWork *work, uint64_t key) {
    BpeScratch *s = work->scratch;
    if (!BPE_GROW(s->heap, s->heap_cap, work->n_heap + 1)) {
        work->failed = true;
        return;
    }
    size_t i = work->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 2] > key; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = key;
}

static uint64_t bpe_heap_pop(BpeWork *work) {
    uint64_t *heap = work->scratch->heap, top = heap[0], key = heap[--work->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < work->n_heap) {
        if (child + 1 < work->n_heap && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = key;
    return top;
}

static void bpe_ranks_push(BpeWork *work, uint32_t rank) {
    BpeScratch *s = work->scratch;
    if (!BPE_GROW(s->ranks, s->ranks_cap, work->n_ranks + 1)) {
        work->failed = true;
        return;
    }
    size_t i = work->n_ranks++;
    for (; i > 0 && s->ranks[(i - 1) / 2] > rank; i = (i - 1) / 2)
        s->ranks[i] = s->ranks[(i - 1) / 2];
    s->ranks[i] = rank;
}

static uint32_t bpe_ranks_pop(BpeWork *work) {
    uint32_t *ranks = work->scratch->ranks, top = ranks[0], key = ranks[--work->n_ranks];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < work->n_ranks) {
        if (child + 1 < work->n_ranks && ranks[child + 1] < ranks[child]) child++;
        if (ranks[child] >= key) break;
        ranks[i] = ranks[child];
        i = child;
    }
    ranks[i] = key;
    return top;
}

/* The pair at a position may merge: notes it under its rank. */
static void bpe_offer(BpeWork *work, int32_t position) {
    BpeScratch *s = work->scratch;
    const BpeSymbol *symbol = &s->symbols[position];
    if (symbol->next < 0) return;
    const BpeMerge *merge = bpe_find(work->table, symbol->id, s->symbols[symbol->next].id);
    if (merge == NULL) return;
    if ((int64_t)merge->rank <= work->rank) {
        bpe_heap_push(work, (uint64_t)merge->rank << 32 | (uint32_t)position);
        return;
    }
    int32_t entry = work->free_entry;
    if (entry >= 0) {
        work->free_entry = s->entries[entry].next;
    } else {
        entry = work->n_entries;
        if (entry == INT32_MAX || !BPE_GROW(s->entries, s->entries_cap, (size_t)entry + 1)) {
            work->failed = true;
            return;
        }
        work->n_entries++;
    }
    if (s->heads[merge->rank] < 0) bpe_ranks_push(work, merge->rank);
    s->entries[entry] = (BpeEntry){position, s->heads[merge->rank]};
    s->heads[merge->rank] = entry;
}

static int bpe_compare(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

/* Empties the list of a rank into scratch->positions, in order; returns how many. */
static size_t bpe_take_rank(BpeWork *work, uint32_t rank) {
    BpeScratch *s = work->scratch;
    size_t n = 0;
    bool sorted = true;
    for (int32_t entry = s->heads[rank]; entry >= 0;) {
        if (!BPE_GROW(s->positions, s->positions_cap, n + 1)) {
            work->failed = true;
            return 0;
        }
        s->positions[n] = s->entries[entry].position;
        sorted = sorted && (n == 0 || s->positions[n] <= s->positions[n - 1]);
        n++;
        int32_t next = s->entries[entry].next;
        s->entries[entry].next = work->free_entry;
        work->free_entry = entry;
        entry = next;
    }
    s->heads[rank] = -1;
    for (size_t i = 0; i < n / 2; i++) { /* the newest came first */
        int32_t swapped = s->positions[i];
        s->positions[i] = s->positions[n - 1 - i];
        s->positions[n - 1 - i] = swapped;
    }
    if (!sorted) qsort(s->positions, n, sizeof *s->positions, bpe_compare);
    return n;
}

static void bpe_apply(BpeWork *work, uint32_t rank, int32_t position) {
    BpeSymbol *symbols = work->scratch->symbols;
    BpeSymbol *left = &symbols[position];
    if (left->id < 0 || left->next < 0) return;
    BpeSymbol *right = &symbols[left->next];
    const BpeMerge *merge = bpe_find(work->table, left->id, right->id);
    if (merge == NULL || merge->rank != rank) return; /* one of the two changed since */
    left->id = merge->id;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0) symbols[left->next].prev = position;
    if (left->prev >= 0) bpe_offer(work, left->prev);
    bpe_offer(work, position);
}

/* The symbols of a long word do not fit the caches; those of the next merges are fetched ahead. */
static void bpe_prefetch(const BpeWork *work, size_t i) {
    const BpeScratch *s = work->scratch;
    const BpeSymbol *near = &s->symbols[s->positions[i + BPE_AHEAD / 2]];
    __builtin_prefetch(&s->symbols[s->positions[i + BPE_AHEAD]]);
    if (near->next >= 0) __builtin_prefetch(&s->symbols[near->next]);
    if (near->prev >= 0) __builtin_prefetch(&s->symbols[near->prev]);
}

static void bpe_work(BpeWork *work) {
    while (work->n_ranks > 0 && !work->failed) {
        uint32_t rank = bpe_ranks_pop(work);
        size_t n = bpe_take_rank(work, rank), i = 0;
        work->rank = rank;
        while ((i < n || work->n_heap > 0) && !work->failed) {
            const int32_t *positions = work->scratch->positions;
            uint64_t key = i < n ? (uint64_t)rank << 32 | (uint32_t)positions[i] : UINT64_MAX;
            if (work->n_heap > 0 && work->scratch->heap[0] <= key)
                key = bpe_heap_pop(work);
            else
                i++;
            if (i + BPE_AHEAD < n) bpe_prefetch(work, i);
            bpe_apply(work, (uint32_t)(key >> 32), (int32_t)(uint32_t)key);
        }
    }
}

static bool bpe_begin(BpeWork *work, const int32_t *symbol, size_t n) {
    BpeScratch *s = work->scratch;
    if (s->heads == NULL) {
        s->heads = malloc(MAX(work->table->rank_end, 1u) * sizeof *s->heads);
        if (s->heads == NULL) return false;
        for (uint32_t i = 0; i < work->table->rank_end; i++) s->heads[i] = -1;
    }
    if (!BPE_GROW(s->symbols, s->symbols_cap, n)) return false;
    for (size_t i = 0; i < n; i++)
        s->symbols[i] = (BpeSymbol){symbol[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    for (size_t i = 0; i + 1 < n; i++) bpe_offer(work, (int32_t)i);
    return !work->failed;
}

bool bpe_merge(const BpeTable *table, BpeScratch *scratch, int32_t *symbol, size_t *n) {
    if (*n <= BPE_SHORT) {
        if (*n > 1) bpe_merge_short(table, symbol, n);
        return true;
    }
    BpeWork work = {.table = table, .scratch = scratch, .free_entry = -1, .rank = -1};
    if (!bpe_begin(&work, symbol, *n)) return false;
    bpe_work(&work);
    if (work.failed) return false;
    size_t out = 0;
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next)
        symbol[out++] = scratch->symbols[i].id;
    *n = out;
    return true;
}
