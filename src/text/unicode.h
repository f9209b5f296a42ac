/* unicode: what kind of character a code point is, by the reference's tables. */
#pragma once

#include "base/base.h"

typedef enum UnicodeCategory {
    UNICODE_LU,
    UNICODE_LL,
    UNICODE_LT,
    UNICODE_LM,
    UNICODE_LO,
    UNICODE_MN,
    UNICODE_MC,
    UNICODE_ME,
    UNICODE_ND,
    UNICODE_NL,
    UNICODE_NO,
    UNICODE_PC,
    UNICODE_PD,
    UNICODE_PS,
    UNICODE_PE,
    UNICODE_PI,
    UNICODE_PF,
    UNICODE_PO,
    UNICODE_SM,
    UNICODE_SC,
    UNICODE_SK,
    UNICODE_SO,
    UNICODE_ZS,
    UNICODE_ZL,
    UNICODE_ZP,
    UNICODE_CC,
    UNICODE_CF,
    UNICODE_CS,
    UNICODE_CO,
    UNICODE_CN,
    UNICODE_CATEGORIES
} UnicodeCategory;

enum { UNICODE_MAX = 0x10ffff };

typedef struct UnicodeRange {
    uint32_t first, last; /* both in */
} UnicodeRange;

typedef struct UnicodeRun {
    uint32_t first;
    uint8_t category;
} UnicodeRun;

/* All runs of equal category in order; the first begins at 0. */
const UnicodeRun *unicode_runs(size_t *n);
/* The categories of a property name ("L", "Lu", "N"), as bits; 0 when there is none such. */
uint32_t unicode_categories(const char *name, size_t len);
/* The ranges of a script ("Han"); NULL when it is not in the tables. */
const UnicodeRange *unicode_script(const char *name, size_t len, size_t *n);

UnicodeCategory unicode_category(uint32_t code_point);
/* White space as \s has it in patterns and in Rust: not U+180E. */
bool unicode_is_space(uint32_t code_point);
/* Letters, marks, numbers and connecting punctuation: \w. */
bool unicode_is_word(uint32_t code_point);
bool unicode_is_number(uint32_t code_point);
bool unicode_is_punctuation(uint32_t code_point);
