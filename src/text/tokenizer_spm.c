/* tokenizer.model: a SentencePiece model, which is a protobuf message (sentencepiece_model.proto).
 *
 *   ModelProto      1: SentencePiece pieces (repeated), 2: TrainerSpec, 3: NormalizerSpec
 *   SentencePiece   1: piece (string), 2: score (float), 3: type
 *   TrainerSpec     3: model_type (1 unigram, 2 BPE), 24: treat_whitespace_as_suffix,
 *                   35: byte_fallback, 40..42: unk_id bos_id eos_id
 *   NormalizerSpec  2: precompiled_charsmap, 3: add_dummy_prefix, 4: remove_extra_whitespaces,
 *                   5: escape_whitespaces */
#include <math.h>

#include "text/tokenizer_priv.h"
#include "text/utf8.h"

typedef struct SpmField {
    uint32_t number, wire; /* wire: 0 varint, 1 fixed64, 2 bytes, 5 fixed32 */
    uint64_t value;        /* of wire types 0, 1 and 5 */
    Str bytes;             /* of wire type 2 */
} SpmField;

static bool tokenizer_spm_varint(Str *s, uint64_t *out) {
    *out = 0;
    for (uint32_t shift = 0; shift < 64 && s->len > 0; shift += 7) {
        uint8_t byte = (uint8_t)s->ptr[0];
        *s = str_slice(*s, 1, s->len);
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool tokenizer_spm_fixed(Str *s, size_t n, uint64_t *out) {
    if (s->len < n) return false;
    *out = 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)(uint8_t)s->ptr[i] << (8 * i);
    *s = str_slice(*s, n, s->len);
    return true;
}

/* Reads a field off the front of s. */
static bool tokenizer_spm_field(Str *s, SpmField *out) {
    uint64_t tag;
    if (!tokenizer_spm_varint(s, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX) return false;
    *out = (SpmField){.number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7)};
    switch (out->wire) {
        case 0: return tokenizer_spm_varint(s, &out->value);
        case 1: return tokenizer_spm_fixed(s, 8, &out->value);
        case 5: return tokenizer_spm_fixed(s, 4, &out->value);
        case 2:
            if (!tokenizer_spm_varint(s, &out->value) || out->value > s->len) return false;
            out->bytes = str_slice(*s, 0, (size_t)out->value);
            *s = str_slice(*s, (size_t)out->value, s->len);
            return true;
        default: return false;
    }
}

typedef struct SpmModel {
    uint64_t model_type; /* 1 unigram, 2 BPE */
    bool byte_fallback, whitespace_suffix, add_prefix, remove_extra, escape;
    int64_t unknown, bos, eos;
    Str charsmap;
    int64_t n_pieces;
    float *score; /* owned */
    size_t score_cap;
} SpmModel;

static Status tokenizer_spm_bad(const char *where, Err *err) {
    FAIL(err, ERR_FORMAT, "tokenizer.model: %s is cut off or no protobuf", where);
}

static Status tokenizer_spm_trainer(SpmModel *model, Str s, Err *err) {
    SpmField f;
    while (s.len > 0) {
        if (!tokenizer_spm_field(&s, &f)) return tokenizer_spm_bad("the trainer's part", err);
        if (f.wire != 0) continue;
        switch (f.number) {
            case 3: model->model_type = f.value; break;
            case 24: model->whitespace_suffix = f.value != 0; break;
            case 35: model->byte_fallback = f.value != 0; break;
            case 40: model->unknown = (int32_t)(uint32_t)f.value; break;
            case 41: model->bos = (int32_t)(uint32_t)f.value; break;
            case 42: model->eos = (int32_t)(uint32_t)f.value; break;
            default: break;
        }
    }
    return OK;
}

static Status tokenizer_spm_normalizer(SpmModel *model, Str s, Err *err) {
    SpmField f;
    while (s.len > 0) {
        if (!tokenizer_spm_field(&s, &f)) return tokenizer_spm_bad("the normalizer's part", err);
        if (f.number == 2 && f.wire == 2) model->charsmap = f.bytes;
        if (f.wire != 0) continue;
        if (f.number == 3) model->add_prefix = f.value != 0;
        if (f.number == 4) model->remove_extra = f.value != 0;
        if (f.number == 5) model->escape = f.value != 0;
    }
    return OK;
}

/* Types of pieces: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. */
static uint8_t tokenizer_spm_flags(uint64_t type) {
    switch (type) {
        case 2: return TOKEN_HIDDEN | TOKEN_SPECIAL;
        case 3: return TOKEN_HIDDEN | TOKEN_SPECIAL;
        case 4: return TOKEN_ADDED;
        case 5: return TOKEN_HIDDEN;
        case 6: return TOKEN_BYTE;
        default: return 0;
    }
}

static Status tokenizer_spm_piece(Tokenizer *t, SpmModel *model, Str s, Err *err) {
    SpmField f;
    Str text = {0};
    float score = 0;
    uint64_t type = 1;
    int64_t id = model->n_pieces++;
    while (s.len > 0) {
        if (!tokenizer_spm_field(&s, &f)) return tokenizer_spm_bad("a piece", err);
        if (f.number == 1 && f.wire == 2) text = f.bytes;
        if (f.number == 3 && f.wire == 0) type = f.value;
        if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        }
    }
    if (text.len == 0 || utf8_valid_bytes(text) != text.len)
        FAIL(err, ERR_FORMAT, "tokenizer.model: piece %lld is empty or no UTF-8", (long long)id);
    if (isnan(score) || isinf(score))
        FAIL(err, ERR_FORMAT, "tokenizer.model: the score of piece %lld is not a number",
             (long long)id);
    TRY(tokenizer_build_token(t, id, text, tokenizer_spm_flags(type), err));
    if ((size_t)id >= model->score_cap) {
        size_t cap = MAX(model->score_cap * 2, (size_t)1024);
        float *grown = mem_try_alloc(cap, sizeof *grown);
        if (grown == NULL) FAIL(err, ERR_NOMEM, "tokenizer.model: no memory for its pieces");
        if (id > 0) memcpy(grown, model->score, (size_t)id * sizeof *grown);
        mem_free(model->score);
        model->score = grown;
        model->score_cap = cap;
    }
    model->score[id] = score;
    if (type == 2) model->unknown = id;
    return OK;
}

/* Control pieces are special tokens for who asks for them; user-defined ones are kept whole. */
static Status tokenizer_spm_symbols(Tokenizer *t, Err *err) {
    size_t n = 0;
    TrieEntry *entries = mem_try_alloc((size_t)t->n_vocab, sizeof *entries);
    if (entries == NULL) FAIL(err, ERR_NOMEM, "tokenizer.model: no memory for its symbols");
    Status status = OK;
    for (int32_t id = 0; id < t->n_vocab && status == OK; id++) {
        if ((t->flags[id] & TOKEN_ADDED) != 0) entries[n++] = (TrieEntry){t->text[id], id};
        if ((t->flags[id] & TOKEN_SPECIAL) != 0)
            status = tokenizer_build_added(
                t, &(AddedToken){.text = t->text[id], .id = id, .special = true}, err);
    }
    /* The normalizer leaves user-defined symbols alone, and the model does not part them. */
    for (int32_t i = 0; i < t->normalizer.n_steps && status == OK; i++)
        status = trie_open(&t->normalizer.step[i].symbols, entries, n, err);
    if (status == OK && t->kind == TOKENIZER_SPM_BPE)
        status = trie_open(&t->symbols, entries, n, err);
    mem_free(entries);
    return status;
}

static Status tokenizer_spm_unigram(Tokenizer *t, const SpmModel *model, Err *err) {
    size_t n = (size_t)t->n_vocab;
    t->unigram.score = mem_try_alloc(n, sizeof *t->unigram.score);
    t->unigram.bonus = mem_try_alloc(n, sizeof *t->unigram.bonus);
    if (t->unigram.score == NULL || t->unigram.bonus == NULL)
        FAIL(err, ERR_NOMEM, "tokenizer.model: no memory for its scores");
    for (size_t id = 0; id < n; id++) {
        if ((int64_t)id < model->n_pieces) t->unigram.score[id] = (double)model->score[id];
        t->unigram.bonus[id] = (t->flags[id] & (TOKEN_ADDED | TOKEN_SPECIAL)) == TOKEN_ADDED;
    }
    t->unigram.n_vocab = t->n_vocab;
    t->unigram.in_float = true;
    return tokenizer_build_unigram(t, err);
}

static Status tokenizer_spm_make(Tokenizer *t, const SpmModel *model, Err *err) {
    if (model->model_type != 1 && model->model_type != 2)
        FAIL(err, ERR_UNSUPPORTED, "tokenizer.model: a model of type %llu (wanted unigram or BPE)",
             (unsigned long long)model->model_type);
    t->kind = model->model_type == 1 ? TOKENIZER_UNIGRAM : TOKENIZER_SPM_BPE;
    t->byte_fallback = model->byte_fallback;
    TRY(tokenizer_build_ids(t, model->n_pieces, err));
    if (model->unknown >= 0 && model->unknown < model->n_pieces)
        t->unknown = (int32_t)model->unknown;
    if (model->bos >= 0 && model->bos < model->n_pieces) t->bos = (int32_t)model->bos;
    if (model->eos >= 0 && model->eos < model->n_pieces) t->eos = (int32_t)model->eos;
    NormStep *step = normalize_add(&t->normalizer, NORM_SPM);
    CHECK(step != NULL);
    step->add_prefix = model->add_prefix;
    step->remove_extra = model->remove_extra;
    step->escape = model->escape;
    step->prefix_is_suffix = model->whitespace_suffix;
    if (model->charsmap.len > 0) TRY(charsmap_open(&step->charsmap, model->charsmap, err));
    TRY(tokenizer_spm_symbols(t, err));
    TRY(t->kind == TOKENIZER_UNIGRAM ? tokenizer_spm_unigram(t, model, err)
                                     : tokenizer_build_merges(t, model->score, err));
    tokenizer_build_bos(t, true);
    return tokenizer_build_spm_decoder(t, model->add_prefix, err);
}

static Status tokenizer_spm_read(Tokenizer *t, SpmModel *model, Str s, Err *err) {
    SpmField f;
    while (s.len > 0) {
        if (!tokenizer_spm_field(&s, &f)) return tokenizer_spm_bad("the file", err);
        if (f.wire != 2) continue;
        if (f.number == 1) TRY(tokenizer_spm_piece(t, model, f.bytes, err));
        if (f.number == 2) TRY(tokenizer_spm_trainer(model, f.bytes, err));
        if (f.number == 3) TRY(tokenizer_spm_normalizer(model, f.bytes, err));
    }
    if (model->n_pieces == 0) FAIL(err, ERR_FORMAT, "tokenizer.model: holds no pieces");
    return tokenizer_spm_make(t, model, err);
}

Status tokenizer_spm_open(Tokenizer **out, Str data, Err *err) {
    SpmModel model = {.model_type = 1,
                      .add_prefix = true,
                      .remove_extra = true,
                      .escape = true,
                      .bos = 1,
                      .eos = 2};
    Tokenizer *t = tokenizer_build(TOKENIZER_UNIGRAM);
    t->spm = true;
    Status status = tokenizer_spm_read(t, &model, data, err);
    mem_free(model.score);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}
