/* The tokenizer of a GGUF file: tokenizer.ggml.*. */
#include <math.h>

#include "text/tokenizer_priv.h"
#include "text/utf8.h"

static Status tokenizer_gguf_array(const ModelFile *file, const char *key, bool needed,
                                   const GgufValue **out, Err *err) {
    *out = model_file_value(file, key);
    if (*out == NULL && needed) FAIL(err, ERR_FORMAT, "GGUF: has no %s", key);
    if (*out != NULL && (*out)->type != GGUF_ARRAY)
        FAIL(err, ERR_FORMAT, "GGUF: %s is no list", key);
    return OK;
}

static bool tokenizer_gguf_is_int(GgufType type) {
    return type != GGUF_F32 && type != GGUF_F64 && type != GGUF_STRING && type != GGUF_BOOL &&
           type != GGUF_ARRAY;
}

/* Types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. */
static uint8_t tokenizer_gguf_flags(int64_t type) {
    switch (type) {
        case 2: return TOKEN_HIDDEN | TOKEN_SPECIAL;
        case 3: return TOKEN_HIDDEN | TOKEN_SPECIAL;
        case 5: return TOKEN_HIDDEN;
        case 6: return TOKEN_BYTE;
        default: return 0;
    }
}

static Status tokenizer_gguf_tokens(Tokenizer *t, const ModelFile *file, Err *err) {
    const GgufValue *tokens, *types;
    TRY(tokenizer_gguf_array(file, "tokenizer.ggml.tokens", true, &tokens, err));
    TRY(tokenizer_gguf_array(file, "tokenizer.ggml.token_type", false, &types, err));
    if (tokens->array_type != GGUF_STRING)
        FAIL(err, ERR_FORMAT, "GGUF: tokenizer.ggml.tokens is no list of texts");
    if (types != NULL &&
        (!tokenizer_gguf_is_int(types->array_type) || types->array_len != tokens->array_len))
        FAIL(err, ERR_FORMAT, "GGUF: tokenizer.ggml.token_type does not fit the tokens");
    if (tokens->array_len == 0 || tokens->array_len > TOKEN_IDS_MAX)
        FAIL(err, ERR_LIMIT, "GGUF: %llu tokens, the limit is %d",
             (unsigned long long)tokens->array_len, TOKEN_IDS_MAX);
    TRY(tokenizer_build_ids(t, (int64_t)tokens->array_len, err));
    if (!map_reserve(&t->vocab, (size_t)tokens->array_len))
        FAIL(err, ERR_NOMEM, "GGUF: no memory for the vocabulary");
    for (uint64_t i = 0; i < tokens->array_len; i++) {
        Str text = gguf_array_str(tokens, i);
        int64_t type = types == NULL ? 1 : gguf_array_int(types, i);
        uint8_t flags = tokenizer_gguf_flags(type);
        if (utf8_valid_bytes(text) != text.len && t->kind != TOKENIZER_BPE) flags |= TOKEN_HIDDEN;
        TRY(tokenizer_build_token(t, (int64_t)i, text, flags, err));
        if (type == 2) t->unknown = (int32_t)i;
        if (type == 2 || type == 3 || type == 4) {
            AddedToken added = {.text = text, .id = (int32_t)i, .special = type != 4};
            TRY(tokenizer_build_added(t, &added, err));
        }
    }
    return OK;
}

static Status tokenizer_gguf_id(const Tokenizer *t, const ModelFile *file, const char *key,
                                int32_t *out, Err *err) {
    int64_t id = *out;
    if (model_file_value(file, key) == NULL) return OK;
    /* Some files say -1 (as 2^32 - 1) for none. */
    TRY(model_file_get_int(file, key, -1, UINT32_MAX, &id, err));
    *out = id >= 0 && id < t->n_vocab ? (int32_t)id : -1;
    return OK;
}

static Status tokenizer_gguf_merges(Tokenizer *t, const ModelFile *file, Err *err) {
    const GgufValue *merges;
    TRY(tokenizer_gguf_array(file, "tokenizer.ggml.merges", true, &merges, err));
    if (merges->array_len > 0 && merges->array_type != GGUF_STRING)
        FAIL(err, ERR_FORMAT, "GGUF: tokenizer.ggml.merges is no list of texts");
    if (!bpe_reserve(&t->bpe, (size_t)merges->array_len))
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for its merges");
    for (uint64_t i = 0; i < merges->array_len; i++) {
        Str merge = gguf_array_str(merges, i);
        size_t space = str_find(merge, STR_LIT(" "), 1);
        if (space == SIZE_MAX)
            FAIL(err, ERR_FORMAT, "GGUF: merge %llu is not a pair of tokens",
                 (unsigned long long)i);
        TRY(tokenizer_build_merge(t, str_slice(merge, 0, space),
                                  str_slice(merge, space + 1, merge.len), (uint32_t)i, err));
    }
    return OK;
}

static Status tokenizer_gguf_bpe(Tokenizer *t, const ModelFile *file, Err *err) {
    Str name = STR_LIT("default");
    size_t n;
    bool nfc;
    TRY(model_file_get_str(file, "tokenizer.ggml.pre", &name, err));
    const char *const *patterns = tokenizer_patterns(name, &n, &nfc, &t->ignore_merges);
    if (patterns == NULL)
        FAIL(err, ERR_UNSUPPORTED,
             "GGUF: the pre-tokenizer '%.*s' (tokenizer.ggml.pre) is not known", STR_ARG(name));
    if (nfc) CHECK(normalize_add(&t->normalizer, NORM_NFC) != NULL);
    TRY(tokenizer_gguf_merges(t, file, err));
    TRY(tokenizer_build_byte_level(t, patterns, n, err));
    tokenizer_build_bos(t, t->ignore_merges && str_starts_with(name, "llama"));
    return OK;
}

/* SentencePiece's models: the scores are in the file, the merges follow from them. */
static Status tokenizer_gguf_spm(Tokenizer *t, const ModelFile *file, Err *err) {
    const GgufValue *scores, *charsmap;
    TRY(tokenizer_gguf_array(file, "tokenizer.ggml.scores", true, &scores, err));
    TRY(tokenizer_gguf_array(file, "tokenizer.ggml.precompiled_charsmap", false, &charsmap, err));
    if ((scores->array_type != GGUF_F32 && scores->array_type != GGUF_F64) ||
        scores->array_len != (uint64_t)t->n_vocab)
        FAIL(err, ERR_FORMAT, "GGUF: tokenizer.ggml.scores does not fit the tokens");
    NormStep *step = normalize_add(&t->normalizer, NORM_SPM);
    CHECK(step != NULL);
    step->escape = step->add_prefix = true;
    TRY(model_file_get_bool(file, "tokenizer.ggml.add_space_prefix", &step->add_prefix, err));
    TRY(model_file_get_bool(file, "tokenizer.ggml.remove_extra_whitespaces", &step->remove_extra,
                            err));
    if (charsmap != NULL && charsmap->array_len > 0) {
        if (charsmap->array_type != GGUF_U8 && charsmap->array_type != GGUF_I8)
            FAIL(err, ERR_FORMAT, "GGUF: tokenizer.ggml.precompiled_charsmap is no list of bytes");
        TRY(charsmap_open(&step->charsmap,
                          (Str){(const char *)charsmap->data, (size_t)charsmap->array_len}, err));
    }
    t->spm = true;
    t->byte_fallback = true; /* where all bytes are there */
    float *score = mem_try_alloc((size_t)t->n_vocab, sizeof *score);
    t->unigram.score = mem_try_alloc((size_t)t->n_vocab, sizeof *t->unigram.score);
    if (score == NULL || t->unigram.score == NULL) {
        mem_free(score);
        FAIL(err, ERR_NOMEM, "GGUF: no memory for %d scores", t->n_vocab);
    }
    t->unigram.n_vocab = t->n_vocab;
    t->unigram.in_float = true;
    bool finite = true;
    for (int32_t i = 0; i < t->n_vocab; i++) {
        t->unigram.score[i] = gguf_array_number(scores, (uint64_t)i);
        score[i] = (float)t->unigram.score[i];
        finite = finite && isfinite(score[i]);
    }
    Status status = !finite ? err_set(err, ERR_FORMAT, "GGUF: a token's score is not a number")
                    : t->kind == TOKENIZER_UNIGRAM ? tokenizer_build_unigram(t, err)
                                                   : tokenizer_build_merges(t, score, err);
    mem_free(score);
    TRY(status);
    tokenizer_build_bos(t, t->kind == TOKENIZER_SPM_BPE);
    return tokenizer_build_spm_decoder(t, step->add_prefix, err);
}

static Status tokenizer_gguf_read(Tokenizer *t, const ModelFile *file, Err *err) {
    Str model = {0};
    TRY(model_file_get_str(file, "tokenizer.ggml.model", &model, err));
    if (model.len == 0) FAIL(err, ERR_NOT_FOUND, "GGUF: holds no tokenizer");
    if (str_is(model, "gpt2"))
        t->kind = TOKENIZER_BPE;
    else if (str_is(model, "llama"))
        t->kind = TOKENIZER_SPM_BPE;
    else if (str_is(model, "t5"))
        t->kind = TOKENIZER_UNIGRAM;
    else
        FAIL(err, ERR_UNSUPPORTED, "GGUF: tokenizers of type '%.*s' are not supported",
             STR_ARG(model));
    TRY(tokenizer_gguf_tokens(t, file, err));
    if (t->kind != TOKENIZER_BPE) {
        t->bos = 1;
        t->eos = 2;
    }
    TRY(tokenizer_gguf_id(t, file, "tokenizer.ggml.bos_token_id", &t->bos, err));
    TRY(tokenizer_gguf_id(t, file, "tokenizer.ggml.eos_token_id", &t->eos, err));
    if (t->kind != TOKENIZER_BPE)
        TRY(tokenizer_gguf_id(t, file, "tokenizer.ggml.unknown_token_id", &t->unknown, err));
    TRY(t->kind == TOKENIZER_BPE ? tokenizer_gguf_bpe(t, file, err)
                                 : tokenizer_gguf_spm(t, file, err));
    bool add_bos = t->before.len > 0, add_eos = t->kind == TOKENIZER_UNIGRAM;
    TRY(model_file_get_bool(file, "tokenizer.ggml.add_bos_token", &add_bos, err));
    TRY(model_file_get_bool(file, "tokenizer.ggml.add_eos_token", &add_eos, err));
    tokenizer_build_bos(t, add_bos);
    if (add_eos && t->eos >= 0) ints_push(&t->after, t->eos);
    return OK;
}

Status tokenizer_gguf_open(Tokenizer **out, const ModelFile *file, Err *err) {
    Tokenizer *t = tokenizer_build(TOKENIZER_BPE);
    Status status = tokenizer_gguf_read(t, file, err);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}
