#include "text/detok.h"

#include "text/decoder.h"
#include "text/tokenizer_priv.h"
#include "text/utf8.h"

void detok_init(Detok *detok, const Tokenizer *tokenizer, bool first) {
    *detok = (Detok){.tokenizer = tokenizer, .first = first};
}

void detok_free(Detok *detok) {
    buf_free(&detok->held);
    *detok = (Detok){0};
}

/* The stop string that is complete first; of two that end together the one that begins first. So
 * the outcome does not depend on how the text is cut in tokens. */
static int32_t detok_find_stop(const Detok *detok, size_t *at) {
    int32_t found = -1;
    size_t found_end = SIZE_MAX;
    Str held = buf_str(&detok->held);
    for (int32_t i = 0; i < detok->n_stops; i++) {
        size_t hit = str_find(held, detok->stop[i], 0);
        if (hit == SIZE_MAX) continue;
        size_t end = hit + detok->stop[i].len;
        if (end < found_end || (end == found_end && hit < *at)) {
            found_end = end;
            *at = hit;
            found = i;
        }
    }
    return found;
}

/* Bytes at the end of `text` that may be the beginning of a stop string. */
static size_t detok_stop_tail(const Detok *detok, Str text) {
    size_t longest = 0;
    for (int32_t i = 0; i < detok->n_stops; i++) {
        Str stop = detok->stop[i];
        for (size_t n = MIN(stop.len - 1, text.len); n > longest; n--)
            if (memcmp(text.ptr + text.len - n, stop.ptr, n) == 0) longest = n;
    }
    return longest;
}

/* Bytes at the end that are a character without its last bytes. */
static size_t detok_cut_tail(Str text) {
    for (size_t n = 1; n <= 3 && n <= text.len; n++) {
        uint8_t byte = (uint8_t)text.ptr[text.len - n];
        if ((byte & 0xc0) == 0x80) continue;
        return utf8_is_cut(text.ptr + text.len - n, n) ? n : 0;
    }
    return 0;
}

/* Gives out the first n held bytes. */
static void detok_give(Detok *detok, size_t n, Buf *out) {
    utf8_append_mended(out, str_slice(buf_str(&detok->held), 0, n));
    out->failed |= detok->held.failed;
    detok->held.len -= MIN(n, detok->held.len);
    if (detok->held.len > 0) memmove(detok->held.data, detok->held.data + n, detok->held.len);
}

int32_t detok_feed(Detok *detok, int32_t id, Buf *out) {
    size_t at = 0, before = detok->held.len;
    tokenizer_piece_at(detok->tokenizer, id, detok->with_special, detok->first, &detok->held);
    /* The first token of a text may be one space only: it goes, and the next is first no more. */
    if (detok->held.len > before ||
        !(tokenizer_is_special(detok->tokenizer, id) && !detok->with_special))
        detok->first = false;
    int32_t stop = detok_find_stop(detok, &at);
    if (stop >= 0) {
        detok_give(detok, detok->include_stop ? at + detok->stop[stop].len : at, out);
        buf_clear(&detok->held); /* what follows the stop string is not part of the text */
        return stop;
    }
    Str held = buf_str(&detok->held);
    size_t cut = detok_cut_tail(held), tail = detok_stop_tail(detok, held);
    detok_give(detok, held.len - MAX(cut, tail), out);
    return -1;
}

void detok_finish(Detok *detok, Buf *out) {
    detok_give(detok, detok->held.len, out);
}
