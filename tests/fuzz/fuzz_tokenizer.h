/* fuzz_tokenizer: opens a tokenizer from the input and, if that works, encodes and decodes. */
#pragma once

#include "text/detok.h"
#include "text/tokenizer_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef Status (*FuzzTokenizerOpen)(Tokenizer **out, Str data, Err *err);

/* Every id that comes out is one of the vocabulary, and streaming takes all of them. */
static void fuzz_tokenizer_use(const Tokenizer *t, Str text, EncodeOptions options) {
    Ints ids = {0};
    Buf out = {0};
    Detok detok;
    CHECK(tokenizer_encode(t, text, options, &ids, NULL) == OK);
    detok_init(&detok, t, true);
    for (size_t i = 0; i < ids.len; i++) {
        CHECK(ids.data[i] >= 0 && ids.data[i] < tokenizer_vocab(t));
        CHECK(detok_feed(&detok, ids.data[i], &out) == -1);
    }
    detok_finish(&detok, &out);
    detok_free(&detok);
    buf_clear(&out);
    tokenizer_decode(t, ids.data, ids.len, true, &out);
    buf_free(&out);
    ints_free(&ids);
}

static void fuzz_tokenizer(FuzzTokenizerOpen open, const uint8_t *data, size_t size) {
    static const char text[] =
        "The law, the  \n\tdog's <s> 1234 \xc3\xa9\xe4\xb8\xad\xff aaaaaaaaaaaa";
    Tokenizer *t = NULL;
    Err err = {0};
    Status status = open(&t, (Str){(const char *)data, size}, &err);
    if (status == OK) {
        status = tokenizer_build_finish(t, &err);
        if (status == OK) {
            Str tail = {(const char *)data + size - MIN(size, (size_t)64), MIN(size, (size_t)64)};
            fuzz_tokenizer_use(t, STR_LIT(text), (EncodeOptions){true, true});
            fuzz_tokenizer_use(t, tail, (EncodeOptions){0});
        }
        tokenizer_close(t);
    }
    CHECK(status == OK || err.text[0] != '\0');
}
