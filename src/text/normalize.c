#include "text/normalize.h"

#include <utf8proc.h>

#include "text/byte_level.h"
#include "text/unicode.h"
#include "text/utf8.h"

/* U+2581, which stands for a space in SentencePiece's vocabularies. */
#define NORM_SPACE_MARK "\xe2\x96\x81"

NormStep *normalize_add(Normalizer *normalizer, NormKind kind) {
    if (normalizer->n_steps == NORM_STEPS_MAX) return NULL;
    NormStep *step = &normalizer->step[normalizer->n_steps++];
    *step = (NormStep){.kind = kind};
    return step;
}

void normalize_free(Normalizer *normalizer) {
    for (int32_t i = 0; i < normalizer->n_steps; i++) {
        NormStep *step = &normalizer->step[i];
        buf_free(&step->text);
        buf_free(&step->what);
        pattern_close(step->pattern);
        charsmap_close(step->charsmap);
        trie_close(&step->symbols);
    }
    *normalizer = (Normalizer){0};
}

static void normalize_lowercase(Str s, Buf *out) {
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        at += (size_t)utf8_decode(s.ptr + at, &c);
        if (c == 0x130) /* the one lower case of two characters */
            buf_append(out, "i\xcc\x87", 3);
        else
            utf8_append(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
    }
}

static void normalize_strip(const NormStep *step, Str s, Buf *out) {
    size_t from = 0, to = s.len;
    uint32_t c;
    while (step->left && from < to) {
        int32_t n = utf8_decode(s.ptr + from, &c);
        if (!unicode_is_space(c)) break;
        from += (size_t)n;
    }
    while (step->right && from < to) {
        size_t last = to - 1;
        while (((uint8_t)s.ptr[last] & 0xc0) == 0x80) last--;
        utf8_decode(s.ptr + last, &c);
        if (!unicode_is_space(c)) break;
        to = last;
    }
    buf_append_str(out, str_slice(s, from, to));
}

static void normalize_strip_accents(Str s, Buf *out) {
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        at += (size_t)utf8_decode(s.ptr + at, &c);
        UnicodeCategory category = unicode_category(c);
        if (category != UNICODE_MN && category != UNICODE_MC && category != UNICODE_ME)
            utf8_append(out, c);
    }
}

/* The cleaning of Google's NMT systems, as Hugging Face has it. */
static void normalize_nmt(Str s, Buf *out) {
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        at += (size_t)utf8_decode(s.ptr + at, &c);
        bool removed = (c >= 1 && c <= 8) || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f ||
                       c == 0x8f || c == 0x9f;
        bool space = c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 ||
                     (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xfeff || c == 0xfffd;
        if (!removed) utf8_append(out, space ? ' ' : c);
    }
}

static void normalize_replace(const NormStep *step, Str s, Buf *out) {
    Str what = buf_str(&step->what);
    if (step->pattern == NULL) {
        size_t at = 0, hit;
        while (what.len > 0 && (hit = str_find(s, what, at)) != SIZE_MAX) {
            buf_append(out, s.ptr + at, hit - at);
            buf_append_str(out, buf_str(&step->text));
            at = hit + what.len;
        }
        buf_append(out, s.ptr + at, s.len - at);
        return;
    }
    PatternScan scan;
    size_t at = 0, from, to;
    if (!pattern_scan_begin(&scan, step->pattern) || !pattern_scan_text(&scan, s))
        out->failed = true;
    while (!out->failed && pattern_scan_next(&scan, &from, &to)) {
        buf_append(out, s.ptr + at, from - at);
        buf_append_str(out, buf_str(&step->text));
        at = to;
    }
    pattern_scan_end(&scan);
    buf_append(out, s.ptr + at, s.len - at);
}

/* Bytes of the grapheme cluster at the beginning of s. */
static size_t normalize_grapheme(Str s) {
    uint32_t last, next;
    utf8proc_int32_t state = 0;
    size_t at = (size_t)utf8_decode(s.ptr, &last);
    while (at < s.len) {
        int32_t n = utf8_decode(s.ptr + at, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)last, (utf8proc_int32_t)next,
                                             &state))
            break;
        at += (size_t)n;
        last = next;
    }
    return at;
}

/* Hugging Face looks a short grapheme cluster up whole, then each character, and takes the shortest
 * key that it begins with. */
static void normalize_precompiled(const Charsmap *map, Str s, Buf *out) {
    while (s.len > 0) {
        Str result;
        size_t n = normalize_grapheme(s);
        if (n < 6 && charsmap_find(map, str_slice(s, 0, n), true, &result) > 0) {
            buf_append_str(out, result);
        } else {
            for (size_t at = 0; at < n;) {
                Str one = {s.ptr + at, (size_t)utf8_lead_bytes(s.ptr[at])};
                buf_append_str(out, charsmap_find(map, one, true, &result) > 0 ? result : one);
                at += one.len;
            }
        }
        s = str_slice(s, n, s.len);
    }
}

/* What SentencePiece reads at the beginning of s: *n bytes, which become the returned text. */
static Str normalize_spm_next(const NormStep *step, Str s, size_t *n) {
    int32_t ignored;
    Str result = {0};
    *n = trie_longest(&step->symbols, s, &ignored);
    if (*n > 0) return str_slice(s, 0, *n);
    *n = step->charsmap == NULL ? 0 : charsmap_find(step->charsmap, s, false, &result);
    if (*n > 0) return result;
    *n = (size_t)utf8_lead_bytes(s.ptr[0]);
    return str_slice(s, 0, *n);
}

static void normalize_spm_prefix(const NormStep *step, Buf *out) {
    if (step->add_prefix) buf_append_text(out, step->escape ? NORM_SPACE_MARK : " ");
}

static void normalize_spm(const NormStep *step, Str s, Buf *out) {
    size_t n;
    const char *space = step->escape ? NORM_SPACE_MARK : " ";
    while (step->remove_extra && s.len > 0 && str_is(normalize_spm_next(step, s, &n), " "))
        s = str_slice(s, n, s.len);
    if (s.len == 0) return;
    if (!step->prefix_is_suffix) normalize_spm_prefix(step, out);
    bool after_space = step->remove_extra;
    while (s.len > 0) {
        Str piece = normalize_spm_next(step, s, &n);
        while (after_space && str_starts_with(piece, " ")) piece = str_slice(piece, 1, piece.len);
        for (size_t i = 0; i < piece.len; i++) {
            if (piece.ptr[i] == ' ')
                buf_append_text(out, space);
            else
                buf_append_byte(out, piece.ptr[i]);
        }
        if (piece.len > 0) after_space = piece.ptr[piece.len - 1] == ' ';
        if (!step->remove_extra) after_space = false;
        s = str_slice(s, n, s.len);
    }
    while (step->remove_extra && str_ends_with(buf_str(out), space)) out->len -= strlen(space);
    if (step->prefix_is_suffix) normalize_spm_prefix(step, out);
}

static bool normalize_step(const NormStep *step, Str s, Buf *out) {
    switch (step->kind) {
        case NORM_NFC:
        case NORM_NFD:
        case NORM_NFKC:
        case NORM_NFKD: return normalize_unicode(step->kind, s, out);
        case NORM_LOWERCASE: normalize_lowercase(s, out); break;
        case NORM_STRIP: normalize_strip(step, s, out); break;
        case NORM_STRIP_ACCENTS: normalize_strip_accents(s, out); break;
        case NORM_PREPEND:
            if (s.len > 0) buf_append_str(out, buf_str(&step->text));
            buf_append_str(out, s);
            break;
        case NORM_REPLACE: normalize_replace(step, s, out); break;
        case NORM_PRECOMPILED: normalize_precompiled(step->charsmap, s, out); break;
        case NORM_NMT: normalize_nmt(s, out); break;
        case NORM_BYTE_LEVEL: byte_level_append(out, s); break;
        case NORM_SPM: normalize_spm(step, s, out); break;
    }
    return !out->failed;
}

bool normalize_run(const Normalizer *normalizer, Buf *text) {
    for (int32_t i = 0; i < normalizer->n_steps; i++) {
        Buf out = {0};
        if (!normalize_step(&normalizer->step[i], buf_str(text), &out)) {
            buf_free(&out);
            return false;
        }
        buf_free(text);
        *text = out;
    }
    return !text->failed;
}
