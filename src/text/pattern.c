#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "base/mem.h"
#include "text/pattern_priv.h"
#include "text/utf8.h"

/* Match limit: more than any pattern of a known tokenizer needs on the longest text, which is a
 * few steps a character. A pattern that runs into it (a malicious file) may do so PATTERN_TRIPS
 * times in a text; then the rest is one piece. */
enum { PATTERN_LIMIT_BASE = 100000, PATTERN_LIMIT_CHAR = 16, PATTERN_TRIPS = 8 };

struct Pattern {
    pcre2_code *code;
    uint8_t *class_of; /* [UNICODE_MAX + 1] */
};

static int pattern_compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The places where membership in any set may change, in order. */
static uint32_t *pattern_bounds(const PatternParse *parse, size_t *n) {
    size_t total = 1;
    for (int32_t i = 0; i < parse->n_sets; i++) total += 2 * parse->set[i].n;
    uint32_t *bounds = mem_try_alloc(total, sizeof *bounds);
    if (bounds == NULL) return NULL;
    *n = 1; /* bounds[0] is 0 */
    for (int32_t i = 0; i < parse->n_sets; i++)
        for (size_t j = 0; j < parse->set[i].n; j++) {
            bounds[(*n)++] = parse->set[i].ranges[j].first;
            bounds[(*n)++] = parse->set[i].ranges[j].last + 1;
        }
    qsort(bounds, *n, sizeof *bounds, pattern_compare_u32);
    return bounds;
}

static uint64_t pattern_signature(const PatternParse *parse, uint32_t c) {
    uint64_t signature = 0;
    for (int32_t i = 0; i < parse->n_sets; i++)
        if (pattern_set_has(&parse->set[i], c)) signature |= UINT64_C(1) << i;
    return signature;
}

/* Gives each code point its class and each class its signature. */
static Status pattern_classify(Pattern *pattern, const PatternParse *parse, uint64_t signature[256],
                               int32_t *n_classes, Err *err) {
    size_t n = 0;
    uint32_t *bounds = pattern_bounds(parse, &n);
    pattern->class_of = mem_try_alloc(UNICODE_MAX + 1, 1);
    if (bounds == NULL || pattern->class_of == NULL) {
        mem_free(bounds);
        FAIL(err, ERR_NOMEM, "pattern: no memory for its classes");
    }
    *n_classes = 0;
    Status status = OK;
    for (size_t i = 0; i < n && status == OK; i++) {
        uint32_t first = bounds[i], end = i + 1 < n ? bounds[i + 1] : UNICODE_MAX + 1;
        if (first >= end) continue;
        uint64_t bits = pattern_signature(parse, first);
        int32_t class = 0;
        while (class < *n_classes && signature[class] != bits) class ++;
        if (class == 256) {
            status = err_set(err, ERR_UNSUPPORTED,
                             "pattern: tells more than 256 kinds of characters apart");
            break;
        }
        if (class == *n_classes) signature[(*n_classes)++] = bits;
        memset(pattern->class_of + first, class, end - first);
    }
    mem_free(bounds);
    return status;
}

/* The pattern over classes. */
static void pattern_write(const PatternParse *parse, const uint64_t signature[256],
                          int32_t n_classes, Buf *out) {
    for (size_t i = 0; i < parse->out.len; i++) {
        char c = parse->out.data[i];
        if (c != PATTERN_SET_MARK) {
            buf_append_byte(out, c);
            continue;
        }
        int32_t set = parse->out.data[++i];
        size_t start = out->len;
        buf_append_byte(out, '[');
        for (int32_t class = 0; class < n_classes; class ++)
            if ((signature[class] >> set & 1) != 0) buf_append_format(out, "\\x%02x", class);
        if (out->len == start + 1) {
            out->len = start;
            buf_append_text(out, "(?!)"); /* nothing can match */
        } else {
            buf_append_byte(out, ']');
        }
    }
}

static Status pattern_compile(Pattern *pattern, PatternParse *parse, Err *err) {
    uint64_t signature[256];
    int32_t n_classes = 0;
    Buf text = {0};
    TRY(pattern_parse(parse, err));
    TRY(pattern_classify(pattern, parse, signature, &n_classes, err));
    pattern_write(parse, signature, n_classes, &text);
    if (text.failed) {
        buf_free(&text);
        FAIL(err, ERR_NOMEM, "pattern: no memory to compile it");
    }
    int code;
    PCRE2_SIZE at;
    pattern->code = pcre2_compile((PCRE2_SPTR)text.data, text.len,
                                  PCRE2_DOTALL | PCRE2_NO_AUTO_CAPTURE, &code, &at, NULL);
    buf_free(&text);
    if (pattern->code == NULL) {
        char message[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        FAIL(err, ERR_FORMAT, "pattern: %s", message);
    }
    /* Without the JIT (refused by a hardened kernel) the interpreter gives the same pieces. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    return OK;
}

Status pattern_open(Pattern **out, Str regex, Err *err) {
    Pattern *pattern = mem_alloc(sizeof *pattern);
    PatternParse *parse = mem_alloc(sizeof *parse);
    parse->source = regex;
    Status status = pattern_compile(pattern, parse, err);
    pattern_parse_free(parse);
    mem_free(parse);
    if (status != OK) {
        pattern_close(pattern);
        return status;
    }
    *out = pattern;
    return OK;
}

Status pattern_open_literal(Pattern **out, Str text, Err *err) {
    Buf regex = {0};
    for (size_t i = 0; i < text.len; i++) {
        if (memchr("\\^$.[|()?*+{}-]&#~/", text.ptr[i], 19) != NULL) buf_append_byte(&regex, '\\');
        buf_append_byte(&regex, text.ptr[i]);
    }
    if (regex.failed) {
        buf_free(&regex);
        FAIL(err, ERR_NOMEM, "pattern: no memory");
    }
    Status status = pattern_open(out, buf_str(&regex), err);
    buf_free(&regex);
    return status;
}

void pattern_close(Pattern *pattern) {
    if (pattern == NULL) return;
    pcre2_code_free(pattern->code);
    mem_free(pattern->class_of);
    mem_free(pattern);
}

bool pattern_scan_begin(PatternScan *scan, const Pattern *pattern) {
    *scan = (PatternScan){.pattern = pattern};
    scan->match_data = pcre2_match_data_create(1, NULL);
    scan->match_context = pcre2_match_context_create(NULL);
    return scan->match_data != NULL && scan->match_context != NULL;
}

bool pattern_scan_text(PatternScan *scan, Str text) {
    scan->text = text;
    scan->char_at = scan->byte_at = scan->search_at = 0;
    scan->last_end = SIZE_MAX;
    scan->budget = PATTERN_TRIPS;
    if (text.len > scan->classes_cap || scan->classes == NULL) {
        free(scan->classes);
        scan->classes_cap = text.len;
        scan->classes = malloc(text.len + 1);
        if (scan->classes == NULL) return false;
    }
    uint64_t limit = PATTERN_LIMIT_BASE + PATTERN_LIMIT_CHAR * (uint64_t)text.len;
    pcre2_set_match_limit(scan->match_context, (uint32_t)MIN(limit, (uint64_t)UINT32_MAX));
    const uint8_t *class_of = scan->pattern->class_of;
    size_t n = 0;
    for (size_t at = 0; at < text.len;) {
        uint32_t c;
        at += (size_t)utf8_decode(text.ptr + at, &c);
        scan->classes[n++] = class_of[c];
    }
    scan->n_chars = n;
    return true;
}

void pattern_scan_end(PatternScan *scan) {
    pcre2_match_context_free(scan->match_context);
    pcre2_match_data_free(scan->match_data);
    free(scan->classes);
    *scan = (PatternScan){0};
}

/* Byte offset of a character at or after the scan's place, which moves there. */
static size_t pattern_scan_byte(PatternScan *scan, size_t char_at) {
    if (scan->n_chars == scan->text.len) {
        scan->char_at = scan->byte_at = char_at;
        return char_at;
    }
    while (scan->char_at < char_at) {
        scan->byte_at += (size_t)utf8_lead_bytes(scan->text.ptr[scan->byte_at]);
        scan->char_at++;
    }
    return scan->byte_at;
}

bool pattern_scan_next(PatternScan *scan, size_t *from, size_t *to) {
    while (scan->search_at <= scan->n_chars && scan->budget > 0) {
        uint32_t options = PCRE2_NO_UTF_CHECK;
        int rc = pcre2_match(scan->pattern->code, scan->classes, scan->n_chars, scan->search_at,
                             options, scan->match_data, scan->match_context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(scan->pattern->code, scan->classes, scan->n_chars, scan->search_at,
                             options | PCRE2_NO_JIT, scan->match_data, scan->match_context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) { /* a limit: this place matches nothing */
            scan->budget--;
            scan->search_at++;
            continue;
        }
        const PCRE2_SIZE *match = pcre2_get_ovector_pointer(scan->match_data);
        size_t start = match[0], end = MAX(match[1], match[0]);
        scan->search_at = end > start ? end : end + 1;
        /* As the reference: no empty match where the last one ended. */
        if (start == end && start == scan->last_end) continue;
        scan->last_end = end;
        *from = pattern_scan_byte(scan, start);
        *to = pattern_scan_byte(scan, end);
        return true;
    }
    return false;
}
