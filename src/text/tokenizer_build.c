/* Puts a tokenizer together from what a reader found, and makes the tables that encoding needs. */
#include <math.h>
#include <stdlib.h>

#include "base/hash.h"
#include "text/byte_level.h"
#include "text/tokenizer_priv.h"
#include "text/unicode.h"
#include "text/utf8.h"

Tokenizer *tokenizer_build(TokenizerKind kind) {
    Tokenizer *t = mem_alloc(sizeof *t);
    t->kind = kind;
    t->bos = t->eos = t->unknown = -1;
    for (int32_t i = 0; i < 256; i++) t->byte_id[i] = -1;
    return t;
}

Status tokenizer_build_ids(Tokenizer *t, int64_t n, Err *err) {
    if (n > TOKEN_IDS_MAX)
        FAIL(err, ERR_LIMIT, "tokenizer: token id %lld, the limit is %d", (long long)n - 1,
             TOKEN_IDS_MAX - 1);
    if (n <= t->n_vocab) return OK;
    Str *text = mem_try_alloc((size_t)n, sizeof *text);
    uint8_t *flags = mem_try_alloc((size_t)n, 1);
    if (text == NULL || flags == NULL) {
        mem_free(text);
        mem_free(flags);
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for %lld tokens", (long long)n);
    }
    if (t->n_vocab > 0) {
        memcpy(text, t->text, (size_t)t->n_vocab * sizeof *text);
        memcpy(flags, t->flags, (size_t)t->n_vocab);
    }
    mem_free(t->text);
    mem_free(t->flags);
    t->text = text;
    t->flags = flags;
    t->n_vocab = (int32_t)n;
    return OK;
}

/* A copy of a text that lives as long as the tokenizer. */
static Status tokenizer_build_copy(Tokenizer *t, Str text, Str *out, Err *err) {
    if (text.len > TOKEN_BYTES_MAX)
        FAIL(err, ERR_LIMIT, "tokenizer: a token of %zu bytes, the limit is %d", text.len,
             TOKEN_BYTES_MAX);
    char *copy = arena_strndup(&t->arena, text.len == 0 ? "" : text.ptr, text.len);
    if (copy == NULL) FAIL(err, ERR_NOMEM, "tokenizer: no memory for its tokens");
    *out = (Str){copy, text.len};
    return OK;
}

Status tokenizer_build_token(Tokenizer *t, int64_t id, Str text, uint8_t flags, Err *err) {
    if (id < 0) FAIL(err, ERR_FORMAT, "tokenizer: token id %lld", (long long)id);
    if (id >= t->n_vocab) {
        int64_t room = MIN(MAX(id + 1, (int64_t)t->n_vocab * 2), (int64_t)TOKEN_IDS_MAX);
        TRY(tokenizer_build_ids(t, MAX(room, id + 1), err));
    }
    Str copy;
    TRY(tokenizer_build_copy(t, text, &copy, err));
    t->text[id] = copy;
    t->flags[id] = flags | TOKEN_USED | TOKEN_MODEL;
    if (!map_put(&t->vocab, copy, (uint32_t)id))
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for its tokens");
    return OK;
}

int32_t tokenizer_build_find(const Tokenizer *t, Str text) {
    uint32_t id;
    if (map_find(&t->added_ids, text, &id) || map_find(&t->vocab, text, &id)) return (int32_t)id;
    return -1;
}

/* Ids that are in use, counted from the end of those that are. */
static int32_t tokenizer_build_end(const Tokenizer *t) {
    int32_t n = t->n_vocab;
    while (n > 0 && (t->flags[n - 1] & TOKEN_USED) == 0) n--;
    return n;
}

Status tokenizer_build_added(Tokenizer *t, const AddedToken *token, Err *err) {
    AddedToken added = *token;
    if (added.text.len == 0) return OK; /* as the reference: an empty one is ignored */
    if (added.id < 0) added.id = tokenizer_build_find(t, added.text);
    if (added.id < 0) added.id = tokenizer_build_end(t);
    TRY(tokenizer_build_copy(t, token->text, &added.text, err));
    TRY(tokenizer_build_ids(t, (int64_t)added.id + 1, err));
    if (t->n_added == t->added_cap) {
        size_t cap = MAX(t->added_cap * 2, (size_t)16);
        AddedToken *grown = realloc(t->added, cap * sizeof *grown);
        if (grown == NULL) FAIL(err, ERR_NOMEM, "tokenizer: no memory for its added tokens");
        t->added = grown;
        t->added_cap = cap;
    }
    t->added[t->n_added++] = added;
    t->flags[added.id] |= TOKEN_USED | TOKEN_ADDED | (added.special ? TOKEN_SPECIAL : 0);
    t->text[added.id] = added.text;
    if (!map_put(&t->added_ids, added.text, (uint32_t)added.id))
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for its added tokens");
    return OK;
}

Status tokenizer_build_merge(Tokenizer *t, Str left, Str right, uint32_t rank, Err *err) {
    uint32_t a, b, merged;
    if (!map_find(&t->vocab, left, &a) || !map_find(&t->vocab, right, &b))
        FAIL(err, ERR_FORMAT,
             "tokenizer: merge %u ('%.*s' '%.*s') is of a token that is not in the "
             "vocabulary",
             (unsigned)rank, STR_ARG(left), STR_ARG(right));
    if (t->word_prefix.len > 0 && right.len >= t->word_prefix.len)
        right = str_slice(right, t->word_prefix.len, right.len);
    Buf joined = {0};
    buf_append_str(&joined, left);
    buf_append_str(&joined, right);
    bool found = !joined.failed && map_find(&t->vocab, buf_str(&joined), &merged);
    buf_free(&joined);
    if (!found)
        FAIL(err, ERR_FORMAT,
             "tokenizer: merge %u makes '%.*s%.*s', which is not in the vocabulary", (unsigned)rank,
             STR_ARG(left), STR_ARG(right));
    if ((t->flags[merged] & TOKEN_SPECIAL) == 0 &&
        !bpe_add(&t->bpe, (int32_t)a, (int32_t)b, rank, (int32_t)merged))
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for its merges");
    return OK;
}

Status tokenizer_build_byte_level(Tokenizer *t, const char *const *patterns, size_t n, Err *err) {
    for (size_t i = 0; i < n; i++) {
        PretokStep *step = pretok_add(&t->pretok, PRETOK_SPLIT);
        CHECK(step != NULL);
        TRY(pattern_open(&step->pattern, str_from(patterns[i]), err));
    }
    PretokStep *bytes = pretok_add(&t->pretok, PRETOK_BYTE_LEVEL);
    DecodeStep *decode = decoder_add(&t->decoder, DECODE_BYTE_LEVEL);
    CHECK(bytes != NULL && decode != NULL);
    return OK;
}

void tokenizer_build_bos(Tokenizer *t, bool adds_bos) {
    bool had = t->before.len > 0 && t->before.data[0] == t->bos;
    if (t->bos < 0 || adds_bos == had) return;
    if (adds_bos) {
        ints_push(&t->before, t->bos);
        for (size_t i = t->before.len - 1; i > 0; i--) t->before.data[i] = t->before.data[i - 1];
        t->before.data[0] = t->bos;
    } else {
        t->before.len--;
        memmove(t->before.data, t->before.data + 1, t->before.len * sizeof *t->before.data);
    }
}

Status tokenizer_build_spm_decoder(Tokenizer *t, bool strip, Err *err) {
    DecodeStep *space = decoder_add(&t->decoder, DECODE_REPLACE);
    DecodeStep *bytes = decoder_add(&t->decoder, DECODE_BYTE_FALLBACK);
    CHECK(space != NULL && bytes != NULL);
    buf_append_text(&space->what, "\xe2\x96\x81");
    buf_append_text(&space->with, " ");
    buf_append_text(&t->decoder.strip, " ");
    t->decoder.strip_left = strip;
    if (space->what.failed || space->with.failed || t->decoder.strip.failed)
        FAIL(err, ERR_NOMEM, "tokenizer: no memory");
    return OK;
}

Status tokenizer_build_unigram(Tokenizer *t, Err *err) {
    Unigram *u = &t->unigram;
    TrieEntry *entries = mem_try_alloc((size_t)u->n_vocab, sizeof *entries);
    if (entries == NULL) FAIL(err, ERR_NOMEM, "tokenizer: no memory for %d pieces", u->n_vocab);
    size_t n = 0;
    double low = INFINITY, high = -INFINITY;
    for (int32_t id = 0; id < u->n_vocab; id++) {
        bool hidden = (t->flags[id] & (TOKEN_HIDDEN | TOKEN_SPECIAL)) != 0;
        if (!t->spm || (t->flags[id] & (TOKEN_HIDDEN | TOKEN_BYTE | TOKEN_ADDED)) == 0) {
            low = MIN(low, u->score[id]);
            high = MAX(high, u->score[id]);
        }
        bool barred = hidden || (t->spm && (t->flags[id] & TOKEN_BYTE) != 0);
        if (!barred && t->text[id].len > 0) entries[n++] = (TrieEntry){t->text[id], id};
    }
    u->unknown = t->unknown;
    u->max_score = high;
    u->unknown_score = (isinf(low) ? 0 : low) - 10; /* kUnkPenalty of both references */
    if (u->in_float) u->unknown_score = (double)(float)u->unknown_score;
    Status status = trie_open(&u->trie, entries, n, err);
    mem_free(entries);
    return status;
}

/* --- merges that follow from scores --- */

typedef struct BuildPiece {
    float score;
    int32_t id;
} BuildPiece;

static int tokenizer_build_compare(const void *a, const void *b) {
    const BuildPiece *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Whether pairs may merge into the token. */
static bool tokenizer_build_is_piece(const Tokenizer *t, int32_t id) {
    const uint8_t barred = TOKEN_SPECIAL | TOKEN_HIDDEN | TOKEN_ADDED | TOKEN_BYTE;
    return (t->flags[id] & TOKEN_MODEL) != 0 && (t->flags[id] & barred) == 0;
}

/* The symbol of one side of a split: a piece, or a stand-in when it is one character that is none.
 * -1: not a symbol. Bytes (rank files) are always pieces or nothing. */
static int32_t tokenizer_build_side(Tokenizer *t, Str side, bool of_bytes, Err *err) {
    uint32_t id;
    if (map_find(&t->vocab, side, &id))
        return of_bytes || tokenizer_build_is_piece(t, (int32_t)id) ? (int32_t)id : -1;
    if (of_bytes || (size_t)utf8_lead_bytes(side.ptr[0]) != side.len) return -1;
    if (map_find(&t->stand_in, side, &id)) return (int32_t)id;
    if ((t->n_stand_ins & (t->n_stand_ins - 1)) == 0) { /* full: 0, 1, 2, 4, ... */
        size_t cap = (size_t)MAX(t->n_stand_ins * 2, 1);
        Str *grown = realloc(t->stand_in_text, cap * sizeof *grown);
        if (grown == NULL) {
            (void)err_set(err, ERR_NOMEM, "tokenizer: no memory for its characters");
            return -1;
        }
        t->stand_in_text = grown;
    }
    id = (uint32_t)(TOKEN_IDS_MAX + t->n_stand_ins);
    if (!map_put(&t->stand_in, side, id)) {
        (void)err_set(err, ERR_NOMEM, "tokenizer: no memory for its characters");
        return -1;
    }
    t->stand_in_text[t->n_stand_ins++] = side;
    return (int32_t)id;
}

/* All ways to part a piece in two symbols. */
static void tokenizer_build_splits(Tokenizer *t, int32_t id, uint32_t rank, Err *err) {
    Str text = t->text[id];
    bool of_bytes = t->raw_bytes;
    for (size_t at = 1; at < text.len; at++) {
        if (!of_bytes && ((uint8_t)text.ptr[at] & 0xc0) == 0x80) continue;
        Str side[2] = {str_slice(text, 0, at), str_slice(text, at, text.len)};
        int32_t symbol[2] = {-1, -1};
        bool lone[2], known = true;
        /* What must be a piece first: most splits are not of two symbols, and only those that are
         * make stand-ins. */
        for (int32_t k = 0; k < 2; k++) {
            lone[k] = !of_bytes && (size_t)utf8_lead_bytes(side[k].ptr[0]) == side[k].len;
            if (!lone[k] && known) symbol[k] = tokenizer_build_side(t, side[k], of_bytes, err);
            known = known && (lone[k] || symbol[k] >= 0);
        }
        for (int32_t k = 0; k < 2 && known; k++)
            if (lone[k]) symbol[k] = tokenizer_build_side(t, side[k], of_bytes, err);
        if (known && symbol[0] >= 0 && symbol[1] >= 0 &&
            !bpe_add(&t->bpe, symbol[0], symbol[1], rank, id))
            (void)err_set(err, ERR_NOMEM, "tokenizer: no memory for its merges");
    }
}

static Status tokenizer_build_merge_pieces(Tokenizer *t, const BuildPiece *piece, size_t n,
                                           Err *err) {
    for (size_t i = 0; i < n; i++) {
        /* Each split looks both halves up: the square of the length bounds the work. */
        size_t len = t->text[piece[i].id].len;
        if (len > 2048)
            FAIL(err, ERR_LIMIT, "tokenizer: piece %d has %zu bytes, the limit is 2048",
                 piece[i].id, len);
    }
    if (!bpe_reserve(&t->bpe, n)) FAIL(err, ERR_NOMEM, "tokenizer: no memory for %zu merges", n);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && piece[i].score != piece[i - 1].score) rank++;
        tokenizer_build_splits(t, piece[i].id, rank, err);
    }
    return err != NULL ? err->status : OK;
}

Status tokenizer_build_merges(Tokenizer *t, const float *score, Err *err) {
    Err local = {0}; /* the splits report through it */
    t->n_vocab = tokenizer_build_end(t);
    BuildPiece *piece = mem_try_alloc((size_t)t->n_vocab, sizeof *piece);
    if (piece == NULL) FAIL(err, ERR_NOMEM, "tokenizer: no memory for %d tokens", t->n_vocab);
    size_t n = 0;
    for (int32_t id = 0; id < t->n_vocab; id++)
        if (tokenizer_build_is_piece(t, id) && t->text[id].len > 1)
            piece[n++] = (BuildPiece){score[id], id};
    qsort(piece, n, sizeof *piece, tokenizer_build_compare);
    Status status = tokenizer_build_merge_pieces(t, piece, n, &local);
    mem_free(piece);
    return status == OK ? OK : err_set(err, status, "%s", local.text);
}

/* --- the last tables --- */

/* What the text of an added token looks like where it is searched for. */
static Status tokenizer_build_needle(Tokenizer *t, const AddedToken *added, Str *out, Err *err) {
    *out = added->text;
    if (!added->normalized || t->normalizer.n_steps == 0) return OK;
    Buf text = {0};
    if (utf8_valid_bytes(added->text) != added->text.len) return OK;
    buf_append_str(&text, added->text);
    Status status = OK;
    if (text.failed || !normalize_run(&t->normalizer, &text))
        status = err_set(err, ERR_NOMEM, "tokenizer: no memory for its added tokens");
    else
        status = tokenizer_build_copy(t, buf_str(&text), out, err);
    buf_free(&text);
    return status;
}

static Status tokenizer_build_added_set(Tokenizer *t, bool normalized, AddedSet *set, Err *err) {
    TrieEntry *entries = mem_try_alloc(MAX(t->n_added, (size_t)1), sizeof *entries);
    if (entries == NULL) FAIL(err, ERR_NOMEM, "tokenizer: no memory for its added tokens");
    size_t n = 0;
    Status status = OK;
    for (size_t i = 0; i < t->n_added && status == OK; i++) {
        if (t->added[i].normalized != normalized) continue;
        Str needle;
        status = tokenizer_build_needle(t, &t->added[i], &needle, err);
        if (status == OK && needle.len > 0) entries[n++] = (TrieEntry){needle, (int32_t)i};
    }
    if (status == OK) status = trie_open(&set->trie, entries, n, err);
    mem_free(entries);
    return status;
}

/* Byte-level BPE works on bytes: each byte's token, and no detour over characters. */
static Status tokenizer_build_raw(Tokenizer *t, Err *err) {
    for (int32_t byte = 0; byte < 256; byte++) {
        Buf text = {0};
        utf8_append(&text, byte_level_char((uint8_t)byte));
        uint32_t id;
        if (!text.failed && map_find(&t->vocab, buf_str(&text), &id))
            t->byte_id[byte] = (int32_t)id;
        buf_free(&text);
    }
    for (int32_t id = 0; id < t->n_vocab && t->ignore_merges; id++) {
        if ((t->flags[id] & TOKEN_MODEL) == 0 || (t->flags[id] & TOKEN_SPECIAL) != 0) continue;
        Buf bytes = {0};
        Str copy;
        Status status = OK;
        if (utf8_valid_bytes(t->text[id]) == t->text[id].len &&
            byte_level_append_bytes(&bytes, t->text[id]) && bytes.len > 0) {
            status = tokenizer_build_copy(t, buf_str(&bytes), &copy, err);
            if (status == OK && !map_put(&t->raw, copy, (uint32_t)id))
                status = err_set(err, ERR_NOMEM, "tokenizer: no memory for its tokens");
        }
        buf_free(&bytes);
        TRY(status);
    }
    return OK;
}

static void tokenizer_build_fallback(Tokenizer *t) {
    bool all = true;
    for (int32_t byte = 0; byte < 256; byte++) {
        char name[8];
        static const char digits[] = "0123456789ABCDEF";
        memcpy(name, "<0x00>", 7);
        name[3] = digits[byte >> 4];
        name[4] = digits[byte & 15];
        uint32_t id;
        if (map_find(&t->vocab, str_from(name), &id)) {
            t->byte_id[byte] = (int32_t)id;
            t->flags[id] |= TOKEN_BYTE;
        } else {
            all = false;
        }
    }
    /* SentencePiece falls back whole or not at all; Hugging Face character by character. */
    if (t->spm) t->byte_fallback = t->byte_fallback && all;
}

/* The slot of a pair, or the empty one where it belongs. Bit 63 marks a slot as full. */
uint64_t *tokenizer_build_pair_slot(const Tokenizer *t, uint32_t a, uint32_t b) {
    uint64_t key = (uint64_t)a << 32 | b | UINT64_C(1) << 63;
    size_t mask = t->cut_slots - 1, i = (size_t)hash_mix(key) & mask;
    while (t->cut_pairs[i] != 0 && t->cut_pairs[i] != key) i = (i + 1) & mask;
    return &t->cut_pairs[i];
}

static bool tokenizer_build_pair_put(Tokenizer *t, uint32_t a, uint32_t b) {
    if ((t->n_cut_pairs + 1) * 2 > t->cut_slots) {
        size_t n_slots = MAX(t->cut_slots * 2, (size_t)1024);
        uint64_t *slots = mem_try_alloc(n_slots, sizeof *slots), *old = t->cut_pairs;
        size_t n_old = t->cut_slots;
        if (slots == NULL) return false;
        t->cut_pairs = slots;
        t->cut_slots = n_slots;
        t->n_cut_pairs = 0;
        for (size_t i = 0; i < n_old; i++)
            if (old[i] != 0)
                (void)tokenizer_build_pair_put(t, (uint32_t)(old[i] >> 32) & INT32_MAX,
                                               (uint32_t)old[i]);
        mem_free(old);
    }
    uint64_t *slot = tokenizer_build_pair_slot(t, a, b);
    t->n_cut_pairs += *slot == 0;
    *slot = (uint64_t)a << 32 | b | UINT64_C(1) << 63;
    return true;
}

/* A word may be cut between two characters that no token has side by side: no merge crosses there,
 * so the ids are those of the whole. */
static Status tokenizer_build_cuts(Tokenizer *t, Err *err) {
    bool *seen = mem_try_alloc((size_t)t->n_vocab + 1, 1);
    if (seen == NULL) FAIL(err, ERR_NOMEM, "tokenizer: no memory for %d tokens", t->n_vocab);
    t->cuts = t->word_prefix.len == 0 && t->word_suffix.len == 0 && !t->ignore_merges;
    bool fits = true;
    for (size_t i = 0; i < t->bpe.n_slots && t->cuts && fits; i++) {
        const BpeMerge *merge = &t->bpe.slots[i];
        if (merge->pair == UINT64_MAX) continue;
        int32_t part[2] = {(int32_t)(merge->pair >> 32), (int32_t)(uint32_t)merge->pair};
        for (int32_t k = 0; k < 2; k++)
            if (part[k] < t->n_vocab &&
                (part[k] == t->unknown || (t->flags[part[k]] & TOKEN_BYTE) != 0))
                t->cuts = false; /* merges of what is not a character of the text */
        if (seen[merge->id]) continue;
        seen[merge->id] = true;
        Str text = t->text[merge->id];
        uint32_t last, next;
        for (size_t at = (size_t)utf8_decode(text.ptr, &last); at < text.len && fits; last = next) {
            at += (size_t)utf8_decode(text.ptr + at, &next);
            fits = tokenizer_build_pair_put(t, last, next);
        }
    }
    mem_free(seen);
    if (!fits) FAIL(err, ERR_NOMEM, "tokenizer: no memory for its pairs");
    if (t->cut_slots == 0 && !tokenizer_build_pair_put(t, UNICODE_MAX, UNICODE_MAX))
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for its pairs");
    return OK;
}

Status tokenizer_build_finish(Tokenizer *t, Err *err) {
    t->n_vocab = tokenizer_build_end(t);
    if (t->n_vocab == 0) FAIL(err, ERR_FORMAT, "tokenizer: its vocabulary is empty");
    t->n_pretok = t->pretok.n_steps;
    bool byte_level = t->n_pretok > 0 && t->pretok.step[t->n_pretok - 1].kind == PRETOK_BYTE_LEVEL;
    if (t->kind == TOKENIZER_BPE && byte_level && !t->raw_bytes && t->word_prefix.len == 0 &&
        t->word_suffix.len == 0) {
        t->raw_bytes = true;
        t->n_pretok--;
        TRY(tokenizer_build_raw(t, err));
    } else if (!t->raw_bytes) {
        tokenizer_build_fallback(t);
        if (t->kind != TOKENIZER_UNIGRAM) TRY(tokenizer_build_cuts(t, err));
    }
    TRY(tokenizer_build_added_set(t, false, &t->added_raw, err));
    TRY(tokenizer_build_added_set(t, true, &t->added_normalized, err));
    t->adds_bos = t->before.len > 0 && (t->bos < 0 || t->before.data[0] == t->bos);
    for (size_t i = 0; i < t->before.len + t->after.len; i++) {
        int32_t id = i < t->before.len ? t->before.data[i] : t->after.data[i - t->before.len];
        if (id >= t->n_vocab)
            FAIL(err, ERR_FORMAT, "tokenizer: adds token %d to every text, which is not there", id);
    }
    if (t->before.failed || t->after.failed) FAIL(err, ERR_NOMEM, "tokenizer: no memory");
    return OK;
}
