/* decoder: from the texts of tokens to text. */
#pragma once

#include "base/buf.h"

typedef enum DecodeKind {
    DECODE_BYTE_LEVEL,
    DECODE_METASPACE,     /* what -> space; in the first token, when strip_first, -> nothing */
    DECODE_BYTE_FALLBACK, /* "<0xNN>" -> the byte */
    DECODE_REPLACE,       /* what -> with */
    DECODE_STRIP          /* up to n_left of what at a token's beginning, n_right at its end */
} DecodeKind;

typedef struct DecodeStep {
    DecodeKind kind;
    Buf what, with; /* owned */
    bool strip_first;
    int64_t n_left, n_right;
} DecodeStep;

enum { DECODE_STEPS_MAX = 16 };

/* The steps work on each token; what follows a "Fuse" works on the whole text: up to strip_left of
 * the character strip at its beginning go. */
typedef struct Decoder {
    DecodeStep step[DECODE_STEPS_MAX];
    int32_t n_steps;
    bool join_with_space; /* no decoder: tokens are set apart by spaces */
    int64_t strip_left;
    Buf strip; /* owned */
} Decoder;

/* A new last step; NULL when there are DECODE_STEPS_MAX already. */
DecodeStep *decoder_add(Decoder *decoder, DecodeKind kind);
void decoder_free(Decoder *decoder);
/* Appends what the token's text becomes. is_byte (may be NULL): whether it is one byte of byte
 * fallback. */
void decoder_token(const Decoder *decoder, Str text, bool is_first, Buf *out, bool *is_byte);
/* Bytes that go at the beginning of a whole text. */
size_t decoder_strip_bytes(const Decoder *decoder, Str text);
/* The byte of a text such as "<0x0A>", or -1. */
int32_t decoder_fallback_byte(Str text);
