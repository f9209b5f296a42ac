/* The Unicode normalization forms, over utf8proc's tables but in linear time: its own reordering of
 * marks is quadratic in their number. */
#include <stdlib.h>

#include <utf8proc.h>

#include "base/mem.h"
#include "text/normalize.h"
#include "text/utf8.h"

typedef struct NormPoints {
    int32_t *data; /* owned */
    size_t len, cap;
    bool failed;
} NormPoints;

static bool normalize_points_reserve(NormPoints *points, size_t extra) {
    if (points->failed) return false;
    if (points->len + extra <= points->cap) return true;
    size_t cap = MAX(points->cap * 2, points->len + extra + 64);
    int32_t *data = realloc(points->data, cap * sizeof *data);
    if (data == NULL) {
        points->failed = true;
        return false;
    }
    points->data = data;
    points->cap = cap;
    return true;
}

static int normalize_class(int32_t c) {
    return utf8proc_get_property(c)->combining_class;
}

/* Sorts marks by combining class, stably: one pass for each class that occurs. */
static bool normalize_sort_marks(int32_t *marks, size_t n) {
    size_t count[256] = {0}, start[256];
    bool sorted = true;
    for (size_t i = 0; i < n; i++) {
        count[normalize_class(marks[i])]++;
        if (i > 0 && normalize_class(marks[i - 1]) > normalize_class(marks[i])) sorted = false;
    }
    if (sorted) return true;
    int32_t few[32];
    int32_t *copy = n <= ARRAY_LEN(few) ? few : malloc(n * sizeof *copy);
    if (copy == NULL) return false;
    memcpy(copy, marks, n * sizeof *copy);
    for (size_t class = 0, sum = 0; class < 256; class ++) {
        start[class] = sum;
        sum += count[class];
    }
    for (size_t i = 0; i < n; i++) marks[start[normalize_class(copy[i])]++] = copy[i];
    if (copy != few) free(copy);
    return true;
}

static bool normalize_reorder(NormPoints *points) {
    for (size_t i = 0; i < points->len;) {
        size_t end = i;
        while (end < points->len && normalize_class(points->data[end]) > 0) end++;
        if (end - i > 1 && !normalize_sort_marks(points->data + i, end - i)) return false;
        i = end + 1;
    }
    return true;
}

static void normalize_decompose(NormPoints *points, Str s, utf8proc_option_t options) {
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        at += (size_t)utf8_decode(s.ptr + at, &c);
        int boundary = 0;
        if (!normalize_points_reserve(points, 32)) return;
        utf8proc_ssize_t n = utf8proc_decompose_char(
            (utf8proc_int32_t)c, points->data + points->len, 32, options, &boundary);
        if (n <= 0 || n > 32) { /* not of this version of Unicode: stays */
            points->data[points->len] = (int32_t)c;
            n = 1;
        }
        points->len += (size_t)n;
    }
}

/* A stretch that begins at a character which nothing before it can combine with. */
static void normalize_stretch(NormPoints *points, NormKind form, Str s, Buf *out) {
    bool compat = form == NORM_NFKC || form == NORM_NFKD;
    bool compose = form == NORM_NFC || form == NORM_NFKC;
    utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    points->len = 0;
    normalize_decompose(points, s, options);
    if (points->failed || !normalize_reorder(points)) {
        out->failed = true;
        return;
    }
    utf8proc_ssize_t n = (utf8proc_ssize_t)points->len;
    if (compose && n > 0)
        n = utf8proc_normalize_utf32(points->data, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < n; i++) utf8_append(out, (uint32_t)points->data[i]);
}

bool normalize_unicode(NormKind form, Str text, Buf *out) {
    /* Below U+0300 every character is a starter that composes with none before it, and below
     * `stable` it is its own form. */
    uint8_t stable = form == NORM_NFC ? 0xcc : 0x80;
    NormPoints points = {0};
    size_t at = 0;
    while (at < text.len && !out->failed) {
        size_t end = at;
        while (end < text.len && (uint8_t)text.ptr[end] < stable) end++;
        if (end < text.len) { /* the last of them may combine with what comes */
            while (end > at && ((uint8_t)text.ptr[end] & 0xc0) == 0x80) end--;
            if (end > at) end--;
            while (end > at && ((uint8_t)text.ptr[end] & 0xc0) == 0x80) end--;
        }
        buf_append(out, text.ptr + at, end - at);
        if (end == text.len) break;
        size_t stop = end + (size_t)utf8_lead_bytes(text.ptr[end]);
        while (stop < text.len && (uint8_t)text.ptr[stop] >= 0x80) stop++;
        normalize_stretch(&points, form, (Str){text.ptr + end, stop - end}, out);
        at = stop;
    }
    free(points.data);
    return !out->failed;
}
