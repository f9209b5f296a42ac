/* Encoding: added tokens are found, the text between them is normalized, cut, and given to the
 * model. The order and the corner cases are those of Hugging Face tokenizers. */
#include <stdlib.h>

#include "base/hash.h"
#include "text/tokenizer_priv.h"
#include "text/unicode.h"
#include "text/utf8.h"

/* Words seen before in the same stretch of text: most words of a long text are. Direct-mapped; the
 * ids are read from the output itself. */
enum { ENCODE_CACHE_SLOTS = 1 << 13, ENCODE_CACHE_WORD = 64, ENCODE_CACHE_FROM = 512 };

typedef struct EncodeSlot {
    const char *word; /* in the stretch's text; NULL: empty */
    size_t at;        /* in the output */
    uint32_t len, n;
} EncodeSlot;

typedef struct Encode {
    const Tokenizer *t;
    EncodeOptions options;
    Ints *out;
    Ints symbols;
    BpeScratch bpe;
    UnigramScratch unigram;
    EncodeSlot *cache; /* NULL: not worth it */
    size_t stretch_at; /* where in out the ids of this stretch begin */
    bool failed;
} Encode;

/* --- the models --- */

static void tokenizer_encode_unknown(Encode *e) {
    const Tokenizer *t = e->t;
    if (t->unknown < 0) return;
    bool again = e->out->len > e->stretch_at && e->out->data[e->out->len - 1] == t->unknown;
    if (!(t->spm && again)) ints_push(e->out, t->unknown);
}

/* The bytes of a character as tokens of byte fallback; false when one is missing. */
static bool tokenizer_encode_bytes(const Tokenizer *t, Str s, Ints *out) {
    if (!t->byte_fallback) return false;
    for (size_t i = 0; i < s.len; i++)
        if (t->byte_id[(uint8_t)s.ptr[i]] < 0) return false;
    for (size_t i = 0; i < s.len; i++) ints_push(out, t->byte_id[(uint8_t)s.ptr[i]]);
    return true;
}

static void tokenizer_encode_raw_symbols(Encode *e, Str word) {
    const Tokenizer *t = e->t;
    for (size_t i = 0; i < word.len; i++) {
        int32_t id = t->byte_id[(uint8_t)word.ptr[i]];
        if (id >= 0)
            ints_push(&e->symbols, id);
        else if (t->unknown >= 0 && !(t->fuse_unknown && e->symbols.len > 0 &&
                                      e->symbols.data[e->symbols.len - 1] == t->unknown))
            ints_push(&e->symbols, t->unknown);
    }
}

/* The model's id of one character, with the prefix or suffix that its place asks for. */
static bool tokenizer_encode_char(const Tokenizer *t, Str one, bool is_first, bool is_last,
                                  uint32_t *id) {
    bool prefixed = !is_first && t->word_prefix.len > 0;
    bool suffixed = is_last && t->word_suffix.len > 0;
    if (!prefixed && !suffixed) return map_find(&t->vocab, one, id);
    Buf text = {0};
    if (prefixed) buf_append_str(&text, t->word_prefix);
    buf_append_str(&text, one);
    if (suffixed) buf_append_str(&text, t->word_suffix);
    bool found = !text.failed && map_find(&t->vocab, buf_str(&text), id);
    buf_free(&text);
    return found;
}

/* Characters to symbols as Hugging Face's BPE does it, down to where a pending unknown one is put
 * behind the bytes of the next. */
static void tokenizer_encode_symbols(Encode *e, Str word) {
    const Tokenizer *t = e->t;
    bool pending = false;
    for (size_t at = 0; at < word.len;) {
        Str one = {word.ptr + at, (size_t)utf8_lead_bytes(word.ptr[at])};
        bool is_first = at == 0;
        uint32_t id;
        at += one.len;
        if (tokenizer_encode_char(t, one, is_first, at == word.len, &id)) {
            if (pending) ints_push(&e->symbols, t->unknown);
            pending = false;
            ints_push(&e->symbols, (int32_t)id);
        } else if (!tokenizer_encode_bytes(t, one, &e->symbols) && t->unknown >= 0) {
            if (pending && !t->fuse_unknown) ints_push(&e->symbols, t->unknown);
            pending = true;
        }
    }
    if (pending) ints_push(&e->symbols, t->unknown);
}

/* Characters to symbols as SentencePiece does it. */
static void tokenizer_encode_spm_symbols(Encode *e, Str word) {
    const Tokenizer *t = e->t;
    while (word.len > 0) {
        int32_t symbol;
        uint32_t id;
        size_t n = trie_longest(&t->symbols, word, &symbol);
        Str one = str_slice(word, 0, n > 0 ? n : (size_t)utf8_lead_bytes(word.ptr[0]));
        if (n > 0)
            ints_push(&e->symbols, symbol);
        else if (map_find(&t->vocab, one, &id) && (t->flags[id] & TOKEN_HIDDEN) == 0)
            ints_push(&e->symbols, (int32_t)id);
        else if (map_find(&t->stand_in, one, &id))
            ints_push(&e->symbols, (int32_t)id);
        else if (!tokenizer_encode_bytes(t, one, &e->symbols) && t->unknown >= 0)
            ints_push(&e->symbols, t->unknown);
        word = str_slice(word, one.len, word.len);
    }
}

static void tokenizer_encode_merged(Encode *e) {
    const Tokenizer *t = e->t;
    for (size_t i = 0; i < e->symbols.len; i++) {
        int32_t id = e->symbols.data[i];
        if (id >= TOKEN_IDS_MAX) {
            if (!tokenizer_encode_bytes(t, t->stand_in_text[id - TOKEN_IDS_MAX], e->out))
                tokenizer_encode_unknown(e);
        } else if (id == t->unknown && t->spm) {
            tokenizer_encode_unknown(e);
        } else {
            ints_push(e->out, id);
        }
    }
}

static void tokenizer_encode_bpe_word(Encode *e, Str word) {
    const Tokenizer *t = e->t;
    uint32_t id;
    if (t->ignore_merges && map_find(t->raw.n_used > 0 ? &t->raw : &t->vocab, word, &id) &&
        (t->flags[id] & TOKEN_SPECIAL) == 0) {
        ints_push(e->out, (int32_t)id);
        return;
    }
    ints_clear(&e->symbols);
    if (t->raw_bytes)
        tokenizer_encode_raw_symbols(e, word);
    else if (t->spm)
        tokenizer_encode_spm_symbols(e, word);
    else
        tokenizer_encode_symbols(e, word);
    size_t n = e->symbols.len;
    if (e->symbols.failed || !bpe_merge(&t->bpe, &e->bpe, e->symbols.data, &n)) {
        e->failed = true;
        return;
    }
    e->symbols.len = n;
    tokenizer_encode_merged(e);
}

static void tokenizer_encode_unigram_word(Encode *e, Str word) {
    const Tokenizer *t = e->t;
    size_t n;
    if (!unigram_run(&t->unigram, &e->unigram, word, &n)) {
        e->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const UnigramPiece *piece = &e->unigram.pieces[i];
        if (piece->id != t->unigram.unknown) {
            ints_push(e->out, piece->id);
        } else if (!tokenizer_encode_bytes(t, str_slice(word, piece->from, piece->to), e->out)) {
            /* A run of unknown characters is one token. */
            bool again = i > 0 && e->unigram.pieces[i - 1].id == t->unigram.unknown;
            if (!again || t->byte_fallback) tokenizer_encode_unknown(e);
        }
    }
}

static void tokenizer_encode_word(Encode *e, Str word) {
    EncodeSlot *slot = NULL;
    if (e->cache != NULL && word.len <= ENCODE_CACHE_WORD) {
        slot = &e->cache[hash_bytes(word.ptr, word.len, 0) & (ENCODE_CACHE_SLOTS - 1)];
        if (slot->word != NULL && slot->len == word.len &&
            memcmp(slot->word, word.ptr, word.len) == 0) {
            for (uint32_t i = 0; i < slot->n; i++) {
                int32_t id = e->out->data[slot->at + i];
                if (id == e->t->unknown && e->t->spm)
                    tokenizer_encode_unknown(e);
                else
                    ints_push(e->out, id);
            }
            return;
        }
    }
    size_t at = e->out->len;
    if (e->t->kind == TOKENIZER_UNIGRAM)
        tokenizer_encode_unigram_word(e, word);
    else
        tokenizer_encode_bpe_word(e, word);
    if (slot != NULL && !e->out->failed)
        *slot = (EncodeSlot){word.ptr, at, (uint32_t)word.len, (uint32_t)(e->out->len - at)};
}

/* Whether every character becomes a symbol by itself, whatever stands beside it. */
static bool tokenizer_encode_is_plain(const Tokenizer *t, Str one) {
    uint32_t id;
    return t->byte_fallback || t->spm || map_find(&t->vocab, one, &id);
}

/* Cuts a piece further where no token can reach across. */
static void tokenizer_encode_piece(Encode *e, Str piece) {
    const Tokenizer *t = e->t;
    if (!t->cuts || t->symbols.nodes != NULL) {
        tokenizer_encode_word(e, piece);
        return;
    }
    uint32_t last, next;
    size_t start = 0, last_at = 0;
    for (size_t at = (size_t)utf8_decode(piece.ptr, &last); at < piece.len && !e->failed;) {
        int32_t n = utf8_decode(piece.ptr + at, &next);
        if (*tokenizer_build_pair_slot(t, last, next) == 0 &&
            tokenizer_encode_is_plain(t, str_slice(piece, last_at, at)) &&
            tokenizer_encode_is_plain(t, str_slice(piece, at, at + (size_t)n))) {
            tokenizer_encode_word(e, str_slice(piece, start, at));
            start = at;
        }
        last = next;
        last_at = at;
        at += (size_t)n;
    }
    tokenizer_encode_word(e, str_slice(piece, start, piece.len));
}

/* --- added tokens --- */

/* Runs on the text between added tokens. is_first: from the beginning of the whole. */
typedef void (*EncodeStretch)(Encode *e, Str text, bool is_first);

static bool tokenizer_encode_word_before(Str s, size_t at) {
    uint32_t c;
    if (at == 0) return false;
    size_t last = at - 1;
    while (last > 0 && ((uint8_t)s.ptr[last] & 0xc0) == 0x80) last--;
    utf8_decode(s.ptr + last, &c);
    return unicode_is_word(c);
}

static bool tokenizer_encode_word_after(Str s, size_t at) {
    uint32_t c;
    if (at >= s.len) return false;
    utf8_decode(s.ptr + at, &c);
    return unicode_is_word(c);
}

static size_t tokenizer_encode_spaces_before(Str s, size_t at, size_t floor) {
    while (at > floor) {
        uint32_t c;
        size_t last = at - 1;
        while (last > floor && ((uint8_t)s.ptr[last] & 0xc0) == 0x80) last--;
        utf8_decode(s.ptr + last, &c);
        if (!unicode_is_space(c)) break;
        at = last;
    }
    return at;
}

static size_t tokenizer_encode_spaces_after(Str s, size_t at) {
    while (at < s.len) {
        uint32_t c;
        int32_t n = utf8_decode(s.ptr + at, &c);
        if (!unicode_is_space(c)) break;
        at += (size_t)n;
    }
    return at;
}

/* Whether a match counts; widens it by the spaces that the token takes along. */
static bool tokenizer_encode_accept(const Encode *e, const AddedToken *added, Str s, size_t floor,
                                    size_t *from, size_t *to) {
    if (added->special && !e->options.parse_special) return false;
    if (added->single_word &&
        (tokenizer_encode_word_before(s, *from) || tokenizer_encode_word_after(s, *to)))
        return false;
    if (added->lstrip) *from = tokenizer_encode_spaces_before(s, *from, floor);
    if (added->rstrip) *to = tokenizer_encode_spaces_after(s, *to);
    return true;
}

/* Finds the added tokens of a set, the leftmost and of these the longest, and hands on the rest. */
static void tokenizer_encode_added(Encode *e, const AddedSet *set, Str s, bool is_first,
                                   EncodeStretch stretch) {
    size_t done = 0;
    for (size_t at = 0; at < s.len && set->trie.nodes != NULL && !e->failed;) {
        int32_t index;
        if (set->trie.root[(uint8_t)s.ptr[at]] == 0) {
            at++;
            continue;
        }
        size_t n = trie_longest(&set->trie, str_slice(s, at, s.len), &index);
        if (n == 0) {
            at++;
            continue;
        }
        size_t from = at, to = at + n;
        at = to;
        const AddedToken *added = &e->t->added[index];
        if (!tokenizer_encode_accept(e, added, s, done, &from, &to)) continue;
        if (from > done) stretch(e, str_slice(s, done, from), is_first && done == 0);
        ints_push(e->out, added->id);
        done = to;
    }
    if (done < s.len) stretch(e, str_slice(s, done, s.len), is_first && done == 0);
}

/* Normalized text without added tokens. */
static void tokenizer_encode_plain(Encode *e, Str s, bool is_first) {
    const Tokenizer *t = e->t;
    Buf text = {0};
    Pieces pieces = {0};
    buf_append_str(&text, s);
    if (text.failed || !pretok_run(&t->pretok, t->n_pretok, is_first, &text, &pieces))
        e->failed = true;
    if (e->cache != NULL) memset(e->cache, 0, ENCODE_CACHE_SLOTS * sizeof *e->cache);
    e->stretch_at = e->out->len;
    for (size_t i = 0; i < pieces.n && !e->failed; i++)
        tokenizer_encode_piece(
            e, str_slice(buf_str(&pieces.text), pieces.span[i].from, pieces.span[i].to));
    buf_free(&text);
    pretok_pieces_free(&pieces);
}

static void tokenizer_encode_stretch(Encode *e, Str s, bool is_first) {
    const Tokenizer *t = e->t;
    if (t->normalizer.n_steps == 0) {
        tokenizer_encode_added(e, &t->added_normalized, s, is_first, tokenizer_encode_plain);
        return;
    }
    Buf text = {0};
    buf_append_str(&text, s);
    if (text.failed || !normalize_run(&t->normalizer, &text))
        e->failed = true;
    else
        tokenizer_encode_added(e, &t->added_normalized, buf_str(&text), is_first,
                               tokenizer_encode_plain);
    buf_free(&text);
}

Status tokenizer_encode(const Tokenizer *t, Str text, EncodeOptions options, Ints *out, Err *err) {
    if (text.len > TEXT_BYTES_MAX)
        FAIL(err, ERR_LIMIT, "tokenizer: a text of %zu bytes, the limit is %d", text.len,
             TEXT_BYTES_MAX);
    Encode e = {.t = t, .options = options, .out = out};
    Buf mended = {0};
    if (utf8_valid_bytes(text) != text.len) {
        utf8_append_mended(&mended, text);
        e.failed = mended.failed;
        text = buf_str(&mended);
    }
    if (text.len >= ENCODE_CACHE_FROM) e.cache = malloc(ENCODE_CACHE_SLOTS * sizeof *e.cache);
    if (options.add_special) ints_append(out, t->before.data, t->before.len);
    if (!e.failed) tokenizer_encode_added(&e, &t->added_raw, text, true, tokenizer_encode_stretch);
    if (options.add_special) ints_append(out, t->after.data, t->after.len);
    free(e.cache);
    buf_free(&mended);
    ints_free(&e.symbols);
    bpe_scratch_free(&e.bpe);
    unigram_scratch_free(&e.unigram);
    if (e.failed || out->failed)
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for a text of %zu bytes", text.len);
    return OK;
}
