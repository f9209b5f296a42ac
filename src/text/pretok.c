#include "text/pretok.h"

#include <stdlib.h>

#include "text/byte_level.h"
#include "text/unicode.h"
#include "text/utf8.h"

PretokStep *pretok_add(Pretok *pretok, PretokKind kind) {
    if (pretok->n_steps == PRETOK_STEPS_MAX) return NULL;
    PretokStep *step = &pretok->step[pretok->n_steps++];
    *step = (PretokStep){.kind = kind, .behavior = PRETOK_ISOLATED};
    return step;
}

void pretok_free(Pretok *pretok) {
    for (int32_t i = 0; i < pretok->n_steps; i++) {
        pattern_close(pretok->step[i].pattern);
        buf_free(&pretok->step[i].text);
    }
    *pretok = (Pretok){0};
}

void pretok_pieces_free(Pieces *pieces) {
    buf_free(&pieces->text);
    free(pieces->span);
    *pieces = (Pieces){0};
}

static void pretok_push(Pieces *pieces, size_t from, size_t to) {
    if (pieces->failed || from == to) return;
    if (pieces->n == pieces->cap) {
        size_t cap = MAX(pieces->cap * 2, (size_t)16);
        PieceSpan *span = realloc(pieces->span, cap * sizeof *span);
        if (span == NULL) {
            pieces->failed = true;
            return;
        }
        pieces->span = span;
        pieces->cap = cap;
    }
    pieces->span[pieces->n++] = (PieceSpan){(uint32_t)from, (uint32_t)to};
}

/* Joins the elements of one piece (its matches and what is between them, in order, all of it) as
 * the behavior says, and pushes the outcome. */
typedef struct PretokJoin {
    Pieces *out;
    PretokBehavior behavior;
    bool invert;
    size_t from, to; /* the element that is still open */
    bool open, open_is_match;
} PretokJoin;

static void pretok_join_flush(PretokJoin *join) {
    bool dropped = join->behavior == PRETOK_REMOVED && join->open_is_match;
    if (join->open && !dropped) pretok_push(join->out, join->from, join->to);
    join->open = false;
}

static void pretok_join_add(PretokJoin *join, size_t from, size_t to, bool is_match) {
    is_match ^= join->invert;
    bool merge = false;
    if (join->behavior == PRETOK_CONTIGUOUS)
        merge = join->open && join->open_is_match == is_match;
    else if (join->behavior == PRETOK_MERGED_WITH_PREVIOUS)
        merge = join->open && is_match && !join->open_is_match;
    else if (join->behavior == PRETOK_MERGED_WITH_NEXT)
        merge = join->open && join->open_is_match && !is_match;
    if (merge) {
        join->to = to;
    } else {
        pretok_join_flush(join);
        join->from = from;
        join->to = to;
        join->open = true;
    }
    join->open_is_match = is_match;
}

static void pretok_split(const PretokStep *step, PatternScan *scan, Str text, PieceSpan span,
                         Pieces *out) {
    PretokJoin join = {.out = out, .behavior = step->behavior, .invert = step->invert};
    Str piece = str_slice(text, span.from, span.to);
    size_t at = 0, from, to;
    if (!pattern_scan_text(scan, piece)) out->failed = true;
    while (!out->failed && pattern_scan_next(scan, &from, &to)) {
        if (from > at) pretok_join_add(&join, span.from + at, span.from + from, false);
        pretok_join_add(&join, span.from + from, span.from + to, true);
        at = to;
    }
    if (at < piece.len) pretok_join_add(&join, span.from + at, span.to, false);
    pretok_join_flush(&join);
}

static void pretok_split_all(const PretokStep *step, const Pieces *pieces, Pieces *out) {
    PatternScan scan;
    if (!pattern_scan_begin(&scan, step->pattern)) out->failed = true;
    for (size_t i = 0; i < pieces->n && !out->failed; i++)
        pretok_split(step, &scan, buf_str(&pieces->text), pieces->span[i], out);
    pattern_scan_end(&scan);
}

static bool pretok_is_match(const PretokStep *step, uint32_t c) {
    switch (step->kind) {
        case PRETOK_DIGITS: return unicode_is_number(c);
        case PRETOK_PUNCTUATION: return unicode_is_punctuation(c);
        default: return unicode_is_space(c);
    }
}

/* Each character that the step is about is a match of its own. */
static void pretok_split_chars(const PretokStep *step, Str text, PieceSpan span, Pieces *out) {
    PretokJoin join = {.out = out, .behavior = step->behavior};
    size_t rest = span.from;
    for (size_t at = span.from; at < span.to;) {
        uint32_t c;
        size_t next = at + (size_t)utf8_decode(text.ptr + at, &c);
        if (pretok_is_match(step, c)) {
            if (rest < at) pretok_join_add(&join, rest, at, false);
            pretok_join_add(&join, at, next, true);
            rest = next;
        }
        at = next;
    }
    if (rest < span.to) pretok_join_add(&join, rest, span.to, false);
    pretok_join_flush(&join);
}

/* Cuts what was written from `from` on before every mark. */
static void pretok_cut_marks(Str mark, size_t from, Pieces *out) {
    Str text = buf_str(&out->text);
    size_t start = from, hit;
    for (size_t look = from; (hit = str_find(text, mark, look)) != SIZE_MAX;
         look = hit + mark.len) {
        pretok_push(out, start, hit);
        start = hit;
    }
    pretok_push(out, start, text.len);
}

static void pretok_metaspace(const PretokStep *step, Str piece, bool is_first, Pieces *out) {
    Str mark = buf_str(&step->text);
    size_t start = out->text.len;
    bool prepend = step->prepend == PRETOK_PREPEND_ALWAYS ||
                   (step->prepend == PRETOK_PREPEND_FIRST && is_first);
    bool has = piece.ptr[0] == ' ' ||
               (piece.len >= mark.len && memcmp(piece.ptr, mark.ptr, mark.len) == 0);
    if (prepend && !has) buf_append_str(&out->text, mark);
    for (size_t i = 0; i < piece.len; i++) {
        if (piece.ptr[i] == ' ')
            buf_append_str(&out->text, mark);
        else
            buf_append_byte(&out->text, piece.ptr[i]);
    }
    if (step->cut && mark.len > 0)
        pretok_cut_marks(mark, start, out);
    else
        pretok_push(out, start, out->text.len);
}

/* A step that changes the text: writes it anew. */
static void pretok_rewrite(const PretokStep *step, Str piece, bool is_first, Pieces *out) {
    size_t start = out->text.len;
    if (step->kind == PRETOK_METASPACE) {
        pretok_metaspace(step, piece, is_first, out);
        return;
    }
    if (step->kind == PRETOK_BYTE_LEVEL) {
        byte_level_append(&out->text, piece);
    } else {
        Str prefix = buf_str(&step->text);
        bool has = piece.len >= prefix.len && memcmp(piece.ptr, prefix.ptr, prefix.len) == 0;
        if (!has) buf_append_str(&out->text, prefix);
        buf_append_str(&out->text, piece);
    }
    pretok_push(out, start, out->text.len);
}

static bool pretok_rewrites(PretokKind kind) {
    return kind == PRETOK_BYTE_LEVEL || kind == PRETOK_PREFIX || kind == PRETOK_METASPACE;
}

static bool pretok_step(const PretokStep *step, bool is_first, Pieces *pieces) {
    Pieces out = {0};
    Str text = buf_str(&pieces->text);
    bool rewrites = pretok_rewrites(step->kind);
    if (step->kind == PRETOK_SPLIT) pretok_split_all(step, pieces, &out);
    for (size_t i = 0; step->kind != PRETOK_SPLIT && i < pieces->n && !out.failed; i++) {
        PieceSpan span = pieces->span[i];
        if (rewrites)
            pretok_rewrite(step, str_slice(text, span.from, span.to), is_first && i == 0, &out);
        else
            pretok_split_chars(step, text, span, &out);
    }
    if (rewrites)
        buf_free(&pieces->text);
    else
        out.text = pieces->text;
    pieces->text = (Buf){0};
    free(pieces->span);
    *pieces = out;
    return !out.failed && !out.text.failed && out.text.len < INT32_MAX;
}

bool pretok_run(const Pretok *pretok, int32_t n_steps, bool is_first, Buf *text, Pieces *pieces) {
    *pieces = (Pieces){.text = *text};
    *text = (Buf){0};
    pretok_push(pieces, 0, pieces->text.len);
    for (int32_t i = 0; i < n_steps && !pieces->failed; i++)
        if (!pretok_step(&pretok->step[i], is_first, pieces)) pieces->failed = true;
    return !pieces->failed;
}
