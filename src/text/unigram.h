/* unigram: the segmentation of the highest score (Kudo 2018), by dynamic programming. */
#pragma once

#include "base/buf.h"
#include "text/trie.h"

typedef struct Unigram {
    Trie trie;     /* owned; of the pieces that text may become; values are ids */
    double *score; /* owned; by id */
    bool *bonus;   /* owned or NULL; by id: a user-defined symbol, which always wins */
    int32_t n_vocab;
    int32_t unknown; /* id, or -1 */
    double unknown_score;
    double max_score;
    bool in_float; /* sums in float, as SentencePiece has them; else in double, as Hugging Face */
} Unigram;

/* A piece of the outcome. */
typedef struct UnigramPiece {
    uint32_t from, to;
    int32_t id; /* unigram->unknown for a character that no piece covers */
} UnigramPiece;

typedef struct UnigramScratch {
    struct UnigramNode *nodes; /* owned */
    UnigramPiece *pieces;      /* owned; the outcome */
    size_t nodes_cap, pieces_cap;
} UnigramScratch;

/* Segments text (valid UTF-8, less than 2 GB); the outcome is scratch->pieces[0..*n). False when
 * memory is short. */
MUST_USE bool unigram_run(const Unigram *unigram, UnigramScratch *scratch, Str text, size_t *n);
void unigram_scratch_free(UnigramScratch *scratch);
void unigram_free(Unigram *unigram);
