/* pretok: the cuts that a tokenizer makes before its model runs. */
#pragma once

#include "text/pattern.h"

typedef enum PretokKind {
    PRETOK_SPLIT,      /* at pattern's matches */
    PRETOK_BYTE_LEVEL, /* each byte becomes a character (byte_level.h) */
    PRETOK_PREFIX,     /* text before each piece that does not begin with it */
    PRETOK_METASPACE, /* spaces become text, which may be put first; then perhaps cut before text */
    PRETOK_DIGITS,
    PRETOK_PUNCTUATION,
    PRETOK_WHITESPACE /* cut out */
} PretokKind;

typedef enum PretokBehavior {
    PRETOK_REMOVED,
    PRETOK_ISOLATED,
    PRETOK_MERGED_WITH_PREVIOUS,
    PRETOK_MERGED_WITH_NEXT,
    PRETOK_CONTIGUOUS
} PretokBehavior;

typedef enum PretokPrepend {
    PRETOK_PREPEND_ALWAYS,
    PRETOK_PREPEND_FIRST,
    PRETOK_PREPEND_NEVER
} PretokPrepend;

typedef struct PretokStep {
    PretokKind kind;
    Pattern *pattern; /* owned; PRETOK_SPLIT */
    PretokBehavior behavior;
    bool invert;           /* PRETOK_SPLIT: the matches are what is between */
    bool individual;       /* PRETOK_DIGITS */
    bool cut;              /* PRETOK_METASPACE */
    PretokPrepend prepend; /* PRETOK_METASPACE */
    Buf text;              /* owned */
} PretokStep;

enum { PRETOK_STEPS_MAX = 32 };

typedef struct Pretok {
    PretokStep step[PRETOK_STEPS_MAX];
    int32_t n_steps;
} Pretok;

typedef struct PieceSpan {
    uint32_t from, to;
} PieceSpan;

/* Pieces of a text, in order, never empty; what lies between them was cut out. */
typedef struct Pieces {
    Buf text;
    PieceSpan *span; /* owned */
    size_t n, cap;
    bool failed;
} Pieces;

/* A new last step; NULL when there are PRETOK_STEPS_MAX already. */
PretokStep *pretok_add(Pretok *pretok, PretokKind kind);
void pretok_free(Pretok *pretok);
/* Cuts text (valid UTF-8, less than 2 GB) with the steps [0, n_steps); text is emptied into pieces.
 * is_first: it is the beginning of what was to be encoded. False when memory is short. */
MUST_USE bool pretok_run(const Pretok *pretok, int32_t n_steps, bool is_first, Buf *text,
                         Pieces *pieces);
void pretok_pieces_free(Pieces *pieces);
