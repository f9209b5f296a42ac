/* tokenizer: bytes <-> tokens. Immutable once open; any thread may encode.
 *
 * Byte-level BPE (tokenizer.json, vocab.json + merges.txt, tiktoken rank files, GGUF "gpt2"),
 * SentencePiece BPE and unigram (tokenizer.model, tokenizer.json, GGUF "llama"). */
#pragma once

#include "base/buf.h"
#include "format/model_file.h"

typedef struct Tokenizer Tokenizer;

/* Opens from a directory, a tokenizer.json, a tokenizer.model, a rank file or a GGUF file (with or
 * without weights), whichever path is. */
MUST_USE Status tokenizer_open(Tokenizer **out, const char *path, Err *err);
/* The tokenizer of an opened model file. */
MUST_USE Status tokenizer_open_model(Tokenizer **out, const ModelFile *file, Err *err);
void tokenizer_close(Tokenizer *tokenizer);

typedef struct EncodeOptions {
    bool add_special;   /* what the file adds around a text: BOS, EOS */
    bool parse_special; /* special tokens written in the text become those tokens: for rendered chat
                           templates only, never for a user's text */
} EncodeOptions;

/* Appends the ids of text (any bytes; not UTF-8 is handled as the format does) to out. Fails only
 * for lack of memory. Time is near linear in text. */
MUST_USE Status tokenizer_encode(const Tokenizer *tokenizer, Str text, EncodeOptions options,
                                 Ints *out, Err *err);

int32_t tokenizer_vocab(const Tokenizer *tokenizer);
/* As it stands in the vocabulary; empty for an unused id. Borrowed. */
Str tokenizer_text(const Tokenizer *tokenizer, int32_t id);
/* The bytes that the token stands for when it is not first in a text; empty for specials unless
 * with_special. Appends to out. */
void tokenizer_piece(const Tokenizer *tokenizer, int32_t id, bool with_special, Buf *out);
/* As tokenizer_piece; is_first: of a text's first token, which loses what its format put before the
 * text. In tokenizer.c. */
void tokenizer_piece_at(const Tokenizer *t, int32_t id, bool with_special, bool is_first, Buf *out);
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id);
/* -1: none */
int32_t tokenizer_find(const Tokenizer *tokenizer, Str text);
int32_t tokenizer_bos(const Tokenizer *tokenizer);
int32_t tokenizer_eos(const Tokenizer *tokenizer);
bool tokenizer_adds_bos(const Tokenizer *tokenizer);
/* "bpe", "spm-bpe", "unigram" */
const char *tokenizer_kind(const Tokenizer *tokenizer);

/* Appends the text of ids to out: the inverse of encode where there is one. */
void tokenizer_decode(const Tokenizer *tokenizer, const int32_t *id, size_t n, bool with_special,
                      Buf *out);
