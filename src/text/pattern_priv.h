/* pattern_priv: sets of code points and what the parser hands to the compiler. */
#pragma once

#include "base/buf.h"
#include "text/unicode.h"

typedef struct PatternSet {
    UnicodeRange *ranges; /* owned; in order, apart from each other, once normalized */
    size_t n, cap;
    bool failed; /* memory was short */
} PatternSet;

void pattern_set_add(PatternSet *set, uint32_t first, uint32_t last);
void pattern_set_add_categories(PatternSet *set, uint32_t categories);
void pattern_set_add_set(PatternSet *set, const PatternSet *other);
/* Sorts and joins the ranges. Needed before any of the calls below. */
void pattern_set_normalize(PatternSet *set);
void pattern_set_invert(PatternSet *set);
/* Keeps what is in both. */
void pattern_set_intersect(PatternSet *set, const PatternSet *other);
/* Adds what differs in case only. */
void pattern_set_fold(PatternSet *set);
bool pattern_set_has(const PatternSet *set, uint32_t code_point);
void pattern_set_free(PatternSet *set);

/* PATTERN_SETS_MAX: one bit each in a class's signature. */
enum { PATTERN_SETS_MAX = 64, PATTERN_BYTES_MAX = 65536, PATTERN_DEPTH_MAX = 64 };

/* In PatternParse.out a set stands as this byte and then its index; all else is ASCII. */
#define PATTERN_SET_MARK '\xff'

typedef struct PatternParse {
    Str source;
    size_t at;
    Buf out;
    PatternSet set[PATTERN_SETS_MAX];
    int32_t n_sets;
    int32_t depth;
    bool ignore_case[PATTERN_DEPTH_MAX + 1];
    bool dot_all[PATTERN_DEPTH_MAX + 1];
    size_t group_at[PATTERN_DEPTH_MAX + 1]; /* where in out the group began */
    size_t atom_at;                         /* where in out the last atom began; SIZE_MAX: none */
} PatternParse;

MUST_USE Status pattern_parse(PatternParse *parse, Err *err);
void pattern_parse_free(PatternParse *parse);

/* For the two halves of the parser: classes and escapes (pattern_class.c). */
MUST_USE Status pattern_class_escape(PatternParse *parse, PatternSet *set, Err *err);
MUST_USE Status pattern_class_bracket(PatternParse *parse, PatternSet *set, int32_t depth,
                                      Err *err);
