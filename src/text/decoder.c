#include "text/decoder.h"

#include "text/byte_level.h"
#include "text/utf8.h"

DecodeStep *decoder_add(Decoder *decoder, DecodeKind kind) {
    if (decoder->n_steps == DECODE_STEPS_MAX) return NULL;
    DecodeStep *step = &decoder->step[decoder->n_steps++];
    *step = (DecodeStep){.kind = kind};
    return step;
}

void decoder_free(Decoder *decoder) {
    for (int32_t i = 0; i < decoder->n_steps; i++) {
        buf_free(&decoder->step[i].what);
        buf_free(&decoder->step[i].with);
    }
    buf_free(&decoder->strip);
    *decoder = (Decoder){0};
}

static int32_t decoder_hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int32_t decoder_fallback_byte(Str text) {
    if (text.len != 6 || memcmp(text.ptr, "<0x", 3) != 0 || text.ptr[5] != '>') return -1;
    int32_t high = decoder_hex(text.ptr[3]), low = decoder_hex(text.ptr[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static void decoder_replace(Str text, Str what, Str with, Buf *out) {
    size_t at = 0, hit;
    while (what.len > 0 && (hit = str_find(text, what, at)) != SIZE_MAX) {
        buf_append(out, text.ptr + at, hit - at);
        buf_append_str(out, with);
        at = hit + what.len;
    }
    buf_append(out, text.ptr + at, text.len - at);
}

static void decoder_strip(const DecodeStep *step, Str text, Buf *out) {
    Str what = buf_str(&step->what);
    for (int64_t i = 0; i < step->n_left && what.len > 0; i++) {
        if (text.len < what.len || memcmp(text.ptr, what.ptr, what.len) != 0) break;
        text = str_slice(text, what.len, text.len);
    }
    for (int64_t i = 0; i < step->n_right && what.len > 0; i++) {
        if (text.len < what.len || memcmp(text.ptr + text.len - what.len, what.ptr, what.len) != 0)
            break;
        text.len -= what.len;
    }
    buf_append_str(out, text);
}

static void decoder_step(const DecodeStep *step, Str text, bool is_first, Buf *out, bool *is_byte) {
    Str what = buf_str(&step->what);
    int32_t byte;
    switch (step->kind) {
        case DECODE_BYTE_LEVEL:
            if (utf8_valid_bytes(text) != text.len || !byte_level_append_bytes(out, text))
                buf_append_str(out, text);
            break;
        case DECODE_METASPACE:
            decoder_replace(text, what, is_first && step->strip_first ? STR_LIT("") : STR_LIT(" "),
                            out);
            break;
        case DECODE_BYTE_FALLBACK:
            byte = decoder_fallback_byte(text);
            if (byte >= 0) {
                buf_append_byte(out, (char)byte);
                *is_byte = true;
            } else {
                buf_append_str(out, text);
            }
            break;
        case DECODE_REPLACE: decoder_replace(text, what, buf_str(&step->with), out); break;
        case DECODE_STRIP: decoder_strip(step, text, out); break;
    }
}

void decoder_token(const Decoder *decoder, Str text, bool is_first, Buf *out, bool *is_byte) {
    Buf now = {0}, next = {0};
    bool byte = false;
    if (decoder->n_steps == 1 && !decoder->join_with_space) {
        /* Byte-level BPE: straight to out, without a call of the heap. */
        decoder_step(&decoder->step[0], text, is_first, out, &byte);
        if (is_byte != NULL) *is_byte = byte;
        return;
    }
    buf_append_str(&now, text);
    for (int32_t i = 0; i < decoder->n_steps && !byte; i++) {
        buf_clear(&next);
        decoder_step(&decoder->step[i], buf_str(&now), is_first, &next, &byte);
        Buf swapped = now;
        now = next;
        next = swapped;
    }
    if (decoder->join_with_space && !is_first) buf_append_byte(out, ' ');
    buf_append_str(out, buf_str(&now));
    if (now.failed) out->failed = true;
    buf_free(&now);
    buf_free(&next);
    if (is_byte != NULL) *is_byte = byte;
}

size_t decoder_strip_bytes(const Decoder *decoder, Str text) {
    Str strip = buf_str(&decoder->strip);
    size_t at = 0;
    for (int64_t i = 0; i < decoder->strip_left && strip.len > 0; i++) {
        if (text.len - at < strip.len || memcmp(text.ptr + at, strip.ptr, strip.len) != 0) break;
        at += strip.len;
    }
    return at;
}
