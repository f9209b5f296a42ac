/* bpe: merges pairs of symbols, best first, in O(n log n) or better.
 *
 * Symbols are ids: those of the vocabulary, and, above them, stand-ins for characters that are in
 * no vocabulary entry of their own but occur in merges (SentencePiece has such). */
#pragma once

#include "base/buf.h"

typedef struct BpeMerge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: empty slot */
    uint32_t rank; /* lower goes first; equal ranks go from left to right */
    int32_t id;    /* what the two become */
} BpeMerge;

/* Zero-initialised is empty. */
typedef struct BpeTable {
    BpeMerge *slots; /* owned; open addressing */
    size_t n_slots;  /* a power of two */
    size_t n_used;
    uint32_t rank_end; /* one more than the highest rank */
} BpeTable;

/* Room for n merges; false when memory is short. */
MUST_USE bool bpe_reserve(BpeTable *table, size_t n);
/* Adds a merge; the same pair again overwrites. False when memory is short. */
MUST_USE bool bpe_add(BpeTable *table, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* NULL: the two never merge. */
const BpeMerge *bpe_find(const BpeTable *table, int32_t left, int32_t right);
void bpe_free(BpeTable *table);

/* Memory of one caller, kept between words. Zero-initialised is ready. */
typedef struct BpeScratch {
    struct BpeSymbol *symbols; /* owned */
    struct BpeEntry *entries;  /* owned */
    int32_t *heads;            /* owned; by rank: the newest entry, or -1 */
    int32_t *positions;        /* owned */
    uint64_t *heap;            /* owned; rank << 32 | position */
    uint32_t *ranks;           /* owned; a heap of the ranks that have entries */
    size_t symbols_cap, entries_cap, positions_cap, heap_cap, ranks_cap;
} BpeScratch;

/* Merges symbol[0..*n) in place and shortens *n. False when memory is short. *n < 2^31. */
MUST_USE bool bpe_merge(const BpeTable *table, BpeScratch *scratch, int32_t *symbol, size_t *n);
void bpe_scratch_free(BpeScratch *scratch);
