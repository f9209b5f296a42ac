/* The parts of a pattern that stand for one character: escapes and bracket classes. */
#include <inttypes.h>

#include "text/pattern_priv.h"
#include "text/utf8.h"

#define PATTERN_BITS_L \
    (1u << UNICODE_LU | 1u << UNICODE_LL | 1u << UNICODE_LT | 1u << UNICODE_LM | 1u << UNICODE_LO)
#define PATTERN_BITS_WORD                                                                         \
    (PATTERN_BITS_L | 1u << UNICODE_MN | 1u << UNICODE_MC | 1u << UNICODE_ME | 1u << UNICODE_ND | \
     1u << UNICODE_NL | 1u << UNICODE_PC)

static void pattern_class_space(PatternSet *set) {
    static const UnicodeRange spaces[] = {
        {9, 13},          {32, 32},         {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680},
        {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}};
    for (size_t i = 0; i < ARRAY_LEN(spaces); i++)
        pattern_set_add(set, spaces[i].first, spaces[i].last);
}

/* \w: letters, marks, digits, connectors, and the symbols that have the property Alphabetic. */
static void pattern_class_word(PatternSet *set) {
    pattern_set_add_categories(set, PATTERN_BITS_WORD);
    pattern_set_add(set, 0x24b6, 0x24e9);
    pattern_set_add(set, 0x1f130, 0x1f149);
    pattern_set_add(set, 0x1f150, 0x1f169);
    pattern_set_add(set, 0x1f170, 0x1f189);
}

/* The set of a property name; false when it is not known. */
static bool pattern_class_named(PatternSet *set, Str name) {
    static const struct {
        const char *name;
        uint32_t categories;
    } names[] = {{"Letter", PATTERN_BITS_L},
                 {"Alpha", PATTERN_BITS_L | 1u << UNICODE_NL | 1u << UNICODE_MN | 1u << UNICODE_MC},
                 {"alpha", PATTERN_BITS_L | 1u << UNICODE_NL | 1u << UNICODE_MN | 1u << UNICODE_MC},
                 {"upper", 1u << UNICODE_LU},
                 {"lower", 1u << UNICODE_LL},
                 {"digit", 1u << UNICODE_ND},
                 {"Digit", 1u << UNICODE_ND},
                 {"cntrl", 1u << UNICODE_CC}};
    size_t n;
    const UnicodeRange *ranges = unicode_script(name.ptr, name.len, &n);
    if (ranges != NULL) {
        for (size_t i = 0; i < n; i++) pattern_set_add(set, ranges[i].first, ranges[i].last);
        return true;
    }
    uint32_t bits = unicode_categories(name.ptr, name.len);
    for (size_t i = 0; bits == 0 && i < ARRAY_LEN(names); i++)
        if (str_is(name, names[i].name)) bits = names[i].categories;
    if (bits != 0) {
        pattern_set_add_categories(set, bits);
        return true;
    }
    if (str_is(name, "space") || str_is(name, "Space"))
        pattern_class_space(set);
    else if (str_is(name, "word") || str_is(name, "Word"))
        pattern_class_word(set);
    else
        return false;
    return true;
}

/* After \p or \P. */
static Status pattern_class_property(PatternParse *parse, PatternSet *set, bool invert, Err *err) {
    Str s = parse->source;
    Str name = str_slice(s, parse->at, parse->at + 1);
    size_t next = parse->at + 1;
    if (str_is(name, "{")) {
        size_t end = str_find(s, STR_LIT("}"), parse->at);
        if (end == SIZE_MAX) FAIL(err, ERR_FORMAT, "pattern: \\p{ without its }");
        name = str_slice(s, parse->at + 1, end);
        next = end + 1;
        if (name.len > 0 && name.ptr[0] == '^') {
            invert = !invert;
            name = str_slice(name, 1, name.len);
        }
    }
    if (!pattern_class_named(set, name))
        FAIL(err, ERR_UNSUPPORTED, "pattern: the property '%.*s' is not known", STR_ARG(name));
    parse->at = next;
    pattern_set_normalize(set);
    if (invert) pattern_set_invert(set);
    return OK;
}

/* After \x or \u: digits, or {digits}. */
static Status pattern_class_hex(PatternParse *parse, size_t n_digits, uint32_t *out, Err *err) {
    Str s = parse->source;
    bool braced = parse->at < s.len && s.ptr[parse->at] == '{';
    size_t n = 0;
    if (braced) {
        parse->at++;
        n_digits = 6;
    }
    uint32_t value = 0;
    for (; n < n_digits && parse->at < s.len; n++, parse->at++) {
        char c = s.ptr[parse->at];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16) break;
        value = value * 16 + digit;
    }
    bool closed = !braced || (parse->at < s.len && s.ptr[parse->at++] == '}');
    if (n == 0 || !closed || value > UNICODE_MAX)
        FAIL(err, ERR_FORMAT, "pattern: a hexadecimal character at byte %zu that is none",
             parse->at);
    *out = value;
    return OK;
}

static bool pattern_class_shorthand(PatternSet *set, char c) {
    switch (c | 0x20) {
        case 's': pattern_class_space(set); break;
        case 'd': pattern_set_add_categories(set, 1u << UNICODE_ND); break;
        case 'w': pattern_class_word(set); break;
        case 'h':
            pattern_set_add(set, '0', '9');
            pattern_set_add(set, 'A', 'F');
            pattern_set_add(set, 'a', 'f');
            break;
        default: return false;
    }
    pattern_set_normalize(set);
    if ((c & 0x20) == 0) pattern_set_invert(set);
    return true;
}

Status pattern_class_escape(PatternParse *parse, PatternSet *set, Err *err) {
    static const char controls[] = "t\tn\nr\rf\fv\va\ae\033";
    Str s = parse->source;
    if (parse->at >= s.len) FAIL(err, ERR_FORMAT, "pattern: ends after a backslash");
    uint32_t c;
    int32_t n = utf8_decode(s.ptr + parse->at, &c);
    parse->at += (size_t)n;
    if (c == 'p' || c == 'P') return pattern_class_property(parse, set, c == 'P', err);
    if (c == 'x') {
        TRY(pattern_class_hex(parse, 2, &c, err));
    } else if (c == 'u') {
        TRY(pattern_class_hex(parse, 4, &c, err));
    } else if (c < 128 && pattern_class_shorthand(set, (char)c)) {
        return OK;
    } else if (c == '0') {
        c = 0;
    } else if ((c >= '1' && c <= '9') || (c < 128 && ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'))) {
        const char *control = NULL;
        for (size_t i = 0; i + 1 < sizeof controls; i += 2)
            if ((uint32_t)controls[i] == c) control = &controls[i + 1];
        if (control == NULL) FAIL(err, ERR_UNSUPPORTED, "pattern: \\%c is not supported", (char)c);
        c = (uint32_t)*control;
    }
    pattern_set_add(set, c, c);
    return OK;
}

/* [:name:] at the parser's place; false when there is none. */
static bool pattern_class_posix(PatternParse *parse, PatternSet *set) {
    Str rest = str_slice(parse->source, parse->at, parse->source.len);
    size_t end = str_find(rest, STR_LIT(":]"), 2);
    if (!str_starts_with(rest, "[:") || end == SIZE_MAX) return false;
    bool invert = end > 2 && rest.ptr[2] == '^';
    PatternSet named = {0};
    if (!pattern_class_named(&named, str_slice(rest, invert ? 3 : 2, end))) return false;
    pattern_set_normalize(&named);
    if (invert) pattern_set_invert(&named);
    pattern_set_add_set(set, &named);
    pattern_set_free(&named);
    parse->at += end + 2;
    return true;
}

/* One member: a character, an escape, or a range of characters. */
static Status pattern_class_member(PatternParse *parse, PatternSet *set, Err *err) {
    Str s = parse->source;
    PatternSet one = {0};
    uint32_t first, last;
    Status status = OK;
    if (s.ptr[parse->at] == '\\') {
        parse->at++;
        status = pattern_class_escape(parse, &one, err);
    } else {
        parse->at += (size_t)utf8_decode(s.ptr + parse->at, &first);
        pattern_set_add(&one, first, first);
    }
    bool single = status == OK && one.n == 1 && one.ranges[0].first == one.ranges[0].last;
    if (single && parse->at + 1 < s.len && s.ptr[parse->at] == '-' && s.ptr[parse->at + 1] != ']') {
        first = one.ranges[0].first;
        PatternSet end = {0};
        parse->at++;
        if (s.ptr[parse->at] == '\\') {
            parse->at++;
            status = pattern_class_escape(parse, &end, err);
        } else {
            parse->at += (size_t)utf8_decode(s.ptr + parse->at, &last);
            pattern_set_add(&end, last, last);
        }
        if (status == OK && (end.n != 1 || end.ranges[0].first < first))
            status = err_set(err, ERR_FORMAT, "pattern: a range that runs backwards");
        if (status == OK) pattern_set_add(set, first, end.ranges[0].last);
        pattern_set_free(&end);
    }
    if (status == OK) pattern_set_add_set(set, &one);
    pattern_set_free(&one);
    return status;
}

/* [...], from behind the opening bracket; inner classes and && as Oniguruma has them. */
Status pattern_class_bracket(PatternParse *parse, PatternSet *set, int32_t depth, Err *err) {
    Str s = parse->source;
    if (depth > 4) FAIL(err, ERR_UNSUPPORTED, "pattern: classes nested deeper than 4");
    bool invert = parse->at < s.len && s.ptr[parse->at] == '^';
    parse->at += invert;
    PatternSet kept = {0}; /* the operands of && so far */
    bool have_kept = false;
    Status status = OK;
    for (bool is_first = true; status == OK; is_first = false) {
        if (parse->at >= s.len) {
            status = err_set(err, ERR_FORMAT, "pattern: [ without its ]");
        } else if (s.ptr[parse->at] == ']' && !is_first) {
            parse->at++;
            break;
        } else if (s.ptr[parse->at] == '[') {
            if (pattern_class_posix(parse, set)) continue;
            PatternSet inner = {0};
            parse->at++;
            status = pattern_class_bracket(parse, &inner, depth + 1, err);
            pattern_set_add_set(set, &inner);
            pattern_set_free(&inner);
        } else if (str_starts_with(str_slice(s, parse->at, s.len), "&&")) {
            parse->at += 2;
            pattern_set_normalize(set);
            if (have_kept) pattern_set_intersect(set, &kept);
            pattern_set_free(&kept);
            kept = *set;
            *set = (PatternSet){0};
            have_kept = true;
        } else {
            status = pattern_class_member(parse, set, err);
        }
    }
    pattern_set_normalize(set);
    if (have_kept) pattern_set_intersect(set, &kept);
    pattern_set_free(&kept);
    if (status == OK && parse->ignore_case[parse->depth]) pattern_set_fold(set);
    if (status == OK && invert) pattern_set_invert(set);
    return status;
}
