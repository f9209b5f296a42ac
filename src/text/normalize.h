/* normalize: what a tokenizer does to text before cutting it: Unicode forms, replacements. */
#pragma once

#include "text/charsmap.h"
#include "text/pattern.h"
#include "text/trie.h"

typedef enum NormKind {
    NORM_NFC,
    NORM_NFD,
    NORM_NFKC,
    NORM_NFKD,
    NORM_LOWERCASE,
    NORM_STRIP,
    NORM_STRIP_ACCENTS,
    NORM_PREPEND,     /* text, unless empty */
    NORM_REPLACE,     /* what, or pattern's matches, by text */
    NORM_PRECOMPILED, /* charsmap, as Hugging Face applies it */
    NORM_NMT,
    NORM_BYTE_LEVEL,
    NORM_SPM /* charsmap and the space rules, as SentencePiece applies them */
} NormKind;

typedef struct NormStep {
    NormKind kind;
    Buf text, what;     /* owned */
    Pattern *pattern;   /* owned */
    Charsmap *charsmap; /* owned */
    Trie symbols;       /* owned; NORM_SPM: user-defined symbols, which stay as they are */
    bool left, right;   /* NORM_STRIP */
    bool remove_extra, add_prefix, escape, prefix_is_suffix; /* NORM_SPM */
} NormStep;

enum { NORM_STEPS_MAX = 32 };

typedef struct Normalizer {
    NormStep step[NORM_STEPS_MAX];
    int32_t n_steps;
} Normalizer;

/* A new last step; NULL when there are NORM_STEPS_MAX already. */
NormStep *normalize_add(Normalizer *normalizer, NormKind kind);
void normalize_free(Normalizer *normalizer);
/* Replaces text (valid UTF-8) by its normalized form. False when memory is short. */
MUST_USE bool normalize_run(const Normalizer *normalizer, Buf *text);
/* One of the first four kinds; appends. */
MUST_USE bool normalize_unicode(NormKind form, Str text, Buf *out);
