#include "text/unicode.h"

#include <string.h>

#include "text/unicode_table.h"

typedef struct UnicodeScript {
    const char *name;
    const UnicodeRange *ranges;
    size_t n;
} UnicodeScript;

static const UnicodeScript UNICODE_SCRIPT_TABLE[] = {
#define UNICODE_SCRIPT_ROW(name, ranges) {name, ranges, ARRAY_LEN(ranges)},
    UNICODE_SCRIPTS(UNICODE_SCRIPT_ROW)
#undef UNICODE_SCRIPT_ROW
};

static const char UNICODE_NAMES[UNICODE_CATEGORIES][3] = {
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

const UnicodeRun *unicode_runs(size_t *n) {
    *n = ARRAY_LEN(UNICODE_RUNS);
    return UNICODE_RUNS;
}

uint32_t unicode_categories(const char *name, size_t len) {
    uint32_t bits = 0;
    if (len == 0 || len > 2) return 0;
    for (int32_t i = 0; i < UNICODE_CATEGORIES; i++)
        if (memcmp(UNICODE_NAMES[i], name, len) == 0) bits |= 1u << i;
    return bits;
}

const UnicodeRange *unicode_script(const char *name, size_t len, size_t *n) {
    for (size_t i = 0; i < ARRAY_LEN(UNICODE_SCRIPT_TABLE); i++) {
        const UnicodeScript *script = &UNICODE_SCRIPT_TABLE[i];
        if (strlen(script->name) == len && memcmp(script->name, name, len) == 0) {
            *n = script->n;
            return script->ranges;
        }
    }
    return NULL;
}

UnicodeCategory unicode_category(uint32_t c) {
    size_t low = 0, high = ARRAY_LEN(UNICODE_RUNS);
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (UNICODE_RUNS[middle].first <= c)
            low = middle;
        else
            high = middle;
    }
    return UNICODE_RUNS[low].category;
}

bool unicode_is_space(uint32_t c) {
    if (c <= 0x20) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool unicode_in(uint32_t c, uint32_t categories) {
    return (categories >> unicode_category(c) & 1) != 0;
}

enum {
    UNICODE_MARK_BITS = 1 << UNICODE_MN | 1 << UNICODE_MC | 1 << UNICODE_ME,
    UNICODE_LETTER_BITS =
        1 << UNICODE_LU | 1 << UNICODE_LL | 1 << UNICODE_LT | 1 << UNICODE_LM | 1 << UNICODE_LO,
    UNICODE_NUMBER_BITS = 1 << UNICODE_ND | 1 << UNICODE_NL | 1 << UNICODE_NO,
    UNICODE_PUNCTUATION_BITS = 1 << UNICODE_PC | 1 << UNICODE_PD | 1 << UNICODE_PS |
                               1 << UNICODE_PE | 1 << UNICODE_PI | 1 << UNICODE_PF | 1 << UNICODE_PO
};

bool unicode_is_word(uint32_t c) {
    /* Rust's \w: also the two joiners and the letters among the symbols. */
    return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
           (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189) ||
           unicode_in(c, UNICODE_LETTER_BITS | UNICODE_MARK_BITS | 1 << UNICODE_ND |
                             1 << UNICODE_NL | 1 << UNICODE_PC);
}

bool unicode_is_number(uint32_t c) {
    return unicode_in(c, UNICODE_NUMBER_BITS);
}

bool unicode_is_punctuation(uint32_t c) {
    bool ascii = (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
                 (c >= 123 && c <= 126);
    return ascii || unicode_in(c, UNICODE_PUNCTUATION_BITS);
}
