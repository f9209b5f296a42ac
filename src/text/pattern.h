/* pattern: the regular expressions of tokenizer files, over Unicode text.
 *
 * PCRE2's own Unicode tables are older than the reference's and differ from it (U+180E is a space
 * there). So a pattern is rewritten over an alphabet of at most 256 classes of characters that it
 * cannot tell apart, the text is mapped to one byte a character, and PCRE2's JIT runs on bytes: the
 * same pieces as Oniguruma, and faster than its UTF mode. */
#pragma once

#include "base/buf.h"

typedef struct Pattern Pattern;

/* Compiles a pattern in Oniguruma's syntax. ERR_UNSUPPORTED for what has no meaning here (named
 * calls, \X, free spacing), ERR_FORMAT for a syntax error. Immutable; any thread may scan. */
MUST_USE Status pattern_open(Pattern **out, Str regex, Err *err);
/* A pattern that matches the text itself. */
MUST_USE Status pattern_open_literal(Pattern **out, Str text, Err *err);
void pattern_close(Pattern *pattern);

/* A walk over the matches of one text after the other. */
typedef struct PatternScan {
    const Pattern *pattern; /* borrowed */
    Str text;               /* borrowed, valid UTF-8 */
    uint8_t *classes;       /* owned; one byte a character */
    size_t classes_cap;
    size_t n_chars;
    size_t char_at, byte_at; /* the same place, counted in both ways */
    size_t search_at;        /* in characters */
    size_t last_end;         /* of the last match, in characters; SIZE_MAX: none yet */
    int64_t budget;          /* searches that may still run into the match limit */
    void *match_data;        /* owned */
    void *match_context;     /* owned */
} PatternScan;

/* False when memory is short; the scan may be ended all the same. */
MUST_USE bool pattern_scan_begin(PatternScan *scan, const Pattern *pattern);
/* Turns to a text (again and again, if wanted). False when memory is short. */
MUST_USE bool pattern_scan_text(PatternScan *scan, Str text);
/* The next match, [*from, *to) in bytes, perhaps empty. False: no more. */
bool pattern_scan_next(PatternScan *scan, size_t *from, size_t *to);
void pattern_scan_end(PatternScan *scan);
