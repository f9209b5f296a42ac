/* detok: tokens -> text, one at a time.
 *
 * Holds back the bytes of a character that is not whole yet and text that may be the beginning of a
 * stop string, so what it gives out is always valid UTF-8 and never contains a stop string. Bytes
 * that can never become valid are given out as U+FFFD. */
#pragma once

#include "text/tokenizer.h"

enum { DETOK_STOPS_MAX = 16, DETOK_STOP_BYTES_MAX = 256 };

typedef struct Detok {
    const Tokenizer *tokenizer; /* borrowed */
    Buf held;                   /* bytes not given out yet */
    bool first;                 /* nothing was fed yet: a leading space may belong to the format */
    bool with_special;
    bool include_stop; /* give out the stop string as well */
    int32_t n_stops;
    Str stop[DETOK_STOPS_MAX]; /* borrowed, not empty */
} Detok;

/* first: the text starts here (SentencePiece drops the leading space); else it continues one. */
void detok_init(Detok *detok, const Tokenizer *tokenizer, bool first);
void detok_free(Detok *detok);
/* Feeds a token; appends what can be given out to out. Returns the index of the stop string that
 * was completed, or -1. */
int32_t detok_feed(Detok *detok, int32_t id, Buf *out);
/* The end of the text: appends what is still held. */
void detok_finish(Detok *detok, Buf *out);
