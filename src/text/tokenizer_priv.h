/* tokenizer_priv: what a tokenizer is made of, and how the readers of each format fill it in. */
#pragma once

#include "base/map.h"
#include "base/mem.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalize.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include "text/unigram.h"

/* TOKEN_IDS_MAX: ids are below; a larger one is refused, for holes cost memory. */
enum { TOKEN_IDS_MAX = 1 << 22, TOKEN_BYTES_MAX = 1 << 16, TEXT_BYTES_MAX = 1 << 27 };

typedef enum TokenFlags {
    TOKEN_USED = 1,
    TOKEN_MODEL = 2,   /* in the model's own vocabulary, not only added */
    TOKEN_ADDED = 4,   /* found in the text before anything else is done */
    TOKEN_SPECIAL = 8, /* never made of a user's text */
    TOKEN_BYTE = 16,   /* "<0xNN>" of byte fallback */
    TOKEN_HIDDEN = 32  /* never made of text at all (SentencePiece: control, unknown) */
} TokenFlags;

typedef struct AddedToken {
    Str text; /* in the tokenizer's arena */
    int32_t id;
    bool special, lstrip, rstrip, single_word, normalized;
} AddedToken;

/* One of the two passes that look for added tokens. */
typedef struct AddedSet {
    Trie trie; /* values index Tokenizer.added */
} AddedSet;

typedef enum TokenizerKind { TOKENIZER_BPE, TOKENIZER_SPM_BPE, TOKENIZER_UNIGRAM } TokenizerKind;

struct Tokenizer {
    TokenizerKind kind;
    Arena arena;
    int32_t n_vocab;
    Str *text;      /* owned; by id */
    uint8_t *flags; /* owned; by id; TokenFlags */
    Map vocab;      /* the model's: text -> id */
    Map added_ids;  /* the added ones */

    AddedToken *added; /* owned */
    size_t n_added, added_cap;
    AddedSet added_raw, added_normalized;
    Normalizer normalizer;
    Pretok pretok;
    int32_t n_pretok; /* steps to run: without a last one that raw_bytes makes needless */

    BpeTable bpe;
    bool raw_bytes;       /* byte-level BPE: words are bytes, without the detour over characters */
    int32_t byte_id[256]; /* raw_bytes: the bytes' own tokens; else those of byte fallback; or -1 */
    Map raw;              /* raw_bytes and ignore_merges: bytes of a token -> id; empty when
                             vocab has bytes anyway (rank files) */
    bool byte_fallback;   /* and all 256 are there */
    bool fuse_unknown, ignore_merges;
    bool spm; /* SentencePiece's own rules for unknown characters */
    Str word_prefix, word_suffix;
    int32_t unknown;    /* -1: none; what is unknown is left out */
    Map stand_in;       /* characters that occur in merges only -> symbols from
                            TOKEN_IDS_MAX on */
    Str *stand_in_text; /* owned */
    int32_t n_stand_ins;
    Trie symbols;        /* SentencePiece: user-defined symbols, kept whole */
    uint64_t *cut_pairs; /* owned; hash set of the pairs of characters that occur inside tokens */
    size_t cut_slots, n_cut_pairs;
    bool cuts; /* a word may be cut between characters of no such pair */

    Unigram unigram;
    Decoder decoder;
    Ints before, after; /* what add_special puts around a text */
    int32_t bos, eos;
    bool adds_bos;
};

/* --- tokenizer_build.c: for the readers --- */

Tokenizer *tokenizer_build(TokenizerKind kind);
/* Makes room for the ids below n. */
MUST_USE Status tokenizer_build_ids(Tokenizer *t, int64_t n, Err *err);
/* A token of the model; of two texts for an id or two ids for a text, the later counts. */
MUST_USE Status tokenizer_build_token(Tokenizer *t, int64_t id, Str text, uint8_t flags, Err *err);
/* An added token; token->text is copied. id < 0: the model's id of that text, else a new one. */
MUST_USE Status tokenizer_build_added(Tokenizer *t, const AddedToken *token, Err *err);
/* Merges that a list gives: "left right" as two texts, the best first. */
MUST_USE Status tokenizer_build_merge(Tokenizer *t, Str left, Str right, uint32_t rank, Err *err);
/* Merges that follow from the pieces' scores (or, for rank files, ranks): score by id. */
MUST_USE Status tokenizer_build_merges(Tokenizer *t, const float *score, Err *err);
/* The trie and the scores' bounds of a unigram model whose scores, tokens and unknown are set. */
MUST_USE Status tokenizer_build_unigram(Tokenizer *t, Err *err);
/* Byte-level BPE with one pattern, as GPT-2 and its heirs have it. */
MUST_USE Status tokenizer_build_byte_level(Tokenizer *t, const char *const *patterns, size_t n,
                                           Err *err);
/* The tables that follow from the rest. Last. */
MUST_USE Status tokenizer_build_finish(Tokenizer *t, Err *err);
/* The slot of a pair of characters in cut_pairs: 0 when it is in no token. */
uint64_t *tokenizer_build_pair_slot(const Tokenizer *t, uint32_t a, uint32_t b);
/* id of a text in the model or among the added; -1: none. */
int32_t tokenizer_build_find(const Tokenizer *t, Str text);
/* What add_special puts before a text: BOS or nothing. */
void tokenizer_build_bos(Tokenizer *t, bool adds_bos);
/* The decoder of SentencePiece: U+2581 to space, byte tokens to bytes, perhaps less the first
 * space. */
MUST_USE Status tokenizer_build_spm_decoder(Tokenizer *t, bool strip, Err *err);

/* --- the readers --- */

/* A parsed tokenizer.json, or the file. */
MUST_USE Status tokenizer_json_open_tree(Tokenizer **out, const json_t *root, Err *err);
MUST_USE Status tokenizer_json_open(Tokenizer **out, const char *path, Err *err);
/* A SentencePiece model (protobuf). */
MUST_USE Status tokenizer_spm_open(Tokenizer **out, Str data, Err *err);
/* A rank file of tiktoken: lines of base64 and rank. */
MUST_USE Status tokenizer_tiktoken_open(Tokenizer **out, Str data, Err *err);
/* vocab.json and merges.txt; config: tokenizer_config.json or NULL. */
MUST_USE Status tokenizer_pair_open(Tokenizer **out, const char *vocab_path,
                                    const char *merges_path, const json_t *config, Err *err);
MUST_USE Status tokenizer_gguf_open(Tokenizer **out, const ModelFile *file, Err *err);
/* What tokenizer_config.json adds: names of BOS and EOS, added tokens, add_bos_token. */
MUST_USE Status tokenizer_config_apply(Tokenizer *t, const json_t *config, bool is_legacy,
                                       Err *err);

/* --- patterns that files name or imply --- */

/* The cuts of a tokenizer.ggml.pre; NULL when the name is not known. *nfc: texts are normalized. */
const char *const *tokenizer_patterns(Str name, size_t *n, bool *nfc, bool *ignore_merges);
