/* Sets of code points as ranges: the sums that patterns need. */
#include <stdlib.h>

#include <utf8proc.h>

#include "base/mem.h"
#include "text/pattern_priv.h"

void pattern_set_add(PatternSet *set, uint32_t first, uint32_t last) {
    if (set->failed || first > last) return;
    if (set->n == set->cap) {
        size_t cap = MAX(set->cap * 2, (size_t)8);
        UnicodeRange *ranges = mem_try_alloc(cap, sizeof *ranges);
        if (ranges == NULL) {
            set->failed = true;
            return;
        }
        if (set->n > 0) memcpy(ranges, set->ranges, set->n * sizeof *ranges);
        mem_free(set->ranges);
        set->ranges = ranges;
        set->cap = cap;
    }
    set->ranges[set->n++] = (UnicodeRange){first, last};
}

void pattern_set_add_categories(PatternSet *set, uint32_t categories) {
    size_t n;
    const UnicodeRun *runs = unicode_runs(&n);
    for (size_t i = 0; i < n; i++)
        if ((categories >> runs[i].category & 1) != 0)
            pattern_set_add(set, runs[i].first, i + 1 < n ? runs[i + 1].first - 1 : UNICODE_MAX);
}

void pattern_set_add_set(PatternSet *set, const PatternSet *other) {
    for (size_t i = 0; i < other->n; i++)
        pattern_set_add(set, other->ranges[i].first, other->ranges[i].last);
    set->failed |= other->failed;
}

static int pattern_set_compare(const void *a, const void *b) {
    const UnicodeRange *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

void pattern_set_normalize(PatternSet *set) {
    if (set->n < 2) return;
    qsort(set->ranges, set->n, sizeof *set->ranges, pattern_set_compare);
    size_t n = 1;
    for (size_t i = 1; i < set->n; i++) {
        UnicodeRange *last = &set->ranges[n - 1];
        if (set->ranges[i].first <= last->last + 1)
            last->last = MAX(last->last, set->ranges[i].last);
        else
            set->ranges[n++] = set->ranges[i];
    }
    set->n = n;
}

void pattern_set_invert(PatternSet *set) {
    PatternSet out = {.failed = set->failed};
    uint32_t from = 0;
    for (size_t i = 0; i < set->n; i++) {
        if (set->ranges[i].first > from) pattern_set_add(&out, from, set->ranges[i].first - 1);
        from = set->ranges[i].last + 1;
    }
    if (from <= UNICODE_MAX) pattern_set_add(&out, from, UNICODE_MAX);
    pattern_set_free(set);
    *set = out;
}

void pattern_set_intersect(PatternSet *set, const PatternSet *other) {
    PatternSet out = {.failed = set->failed || other->failed};
    for (size_t i = 0, j = 0; i < set->n && j < other->n;) {
        UnicodeRange a = set->ranges[i], b = other->ranges[j];
        if (MAX(a.first, b.first) <= MIN(a.last, b.last))
            pattern_set_add(&out, MAX(a.first, b.first), MIN(a.last, b.last));
        if (a.last < b.last)
            i++;
        else
            j++;
    }
    pattern_set_free(set);
    *set = out;
}

/* Every code point whose simple folding (lower case of the upper case) is that of c. */
static void pattern_set_fold_point(PatternSet *set, uint32_t c) {
    utf8proc_int32_t point = (utf8proc_int32_t)c;
    uint32_t upper = (uint32_t)utf8proc_toupper(point);
    uint32_t lower = (uint32_t)utf8proc_tolower(point);
    pattern_set_add(set, upper, upper);
    pattern_set_add(set, lower, lower);
    /* The two that fold into ASCII from outside of it. */
    if (lower == 's' || c == 0x17f) {
        pattern_set_add(set, 0x17f, 0x17f);
        pattern_set_add(set, 's', 's');
    }
    if (lower == 'k') pattern_set_add(set, 0x212a, 0x212a);
}

void pattern_set_fold(PatternSet *set) {
    size_t n = set->n;
    for (size_t i = 0; i < n; i++) {
        UnicodeRange range = set->ranges[i];
        /* Wide ranges are scripts and categories, which hold both cases already. */
        if (range.last - range.first > 0x400) continue;
        for (uint32_t c = range.first; c <= range.last; c++) pattern_set_fold_point(set, c);
    }
    pattern_set_normalize(set);
}

bool pattern_set_has(const PatternSet *set, uint32_t c) {
    size_t low = 0, high = set->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->ranges[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < set->n && set->ranges[low].first <= c;
}

void pattern_set_free(PatternSet *set) {
    mem_free(set->ranges);
    *set = (PatternSet){0};
}
