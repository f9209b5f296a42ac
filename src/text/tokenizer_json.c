/* tokenizer.json of Hugging Face: vocabulary, merges, added tokens. The pipeline around the model
 * is read in tokenizer_json_steps.c. */
#include <inttypes.h>

#include "text/tokenizer_json_priv.h"
#include "text/utf8.h"

static Status tokenizer_json_added(Tokenizer *t, const json_t *root, Err *err) {
    const json_t *list = json_object_get(root, "added_tokens");
    size_t i;
    const json_t *item;
    if (list == NULL || json_is_null(list)) return OK;
    if (!json_is_array(list)) FAIL(err, ERR_FORMAT, "tokenizer.json: added_tokens is no list");
    json_array_foreach(list, i, item) {
        if (!json_is_object(item))
            FAIL(err, ERR_FORMAT, "tokenizer.json: added token %zu is no object", i);
        AddedToken token = {0};
        int64_t id = -1;
        TRY(json_get_str(item, "content", &token.text, err));
        TRY(json_get_int(item, "id", 0, TOKEN_IDS_MAX - 1, &id, err));
        TRY(json_get_bool(item, "special", &token.special, err));
        TRY(json_get_bool(item, "lstrip", &token.lstrip, err));
        TRY(json_get_bool(item, "rstrip", &token.rstrip, err));
        TRY(json_get_bool(item, "single_word", &token.single_word, err));
        token.normalized = !token.special;
        TRY(json_get_bool(item, "normalized", &token.normalized, err));
        /* The model's own id counts where it knows the text. */
        uint32_t known;
        token.id = map_find(&t->vocab, token.text, &known) ? (int32_t)known : (int32_t)id;
        TRY(tokenizer_build_added(t, &token, err));
    }
    return OK;
}

static Status tokenizer_json_vocab(Tokenizer *t, const json_t *model, Err *err) {
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab))
        FAIL(err, ERR_FORMAT, "tokenizer.json: model.vocab is not an object");
    if (!map_reserve(&t->vocab, json_object_size(vocab)))
        FAIL(err, ERR_NOMEM, "tokenizer.json: no memory for its vocabulary");
    for (void *at = json_object_iter(vocab); at != NULL; at = json_object_iter_next(vocab, at)) {
        const json_t *id = json_object_iter_value(at);
        Str text = {json_object_iter_key(at), json_object_iter_key_len(at)};
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            FAIL(err, ERR_FORMAT, "tokenizer.json: the id of token '%.*s' is not one",
                 STR_ARG(text));
        TRY(tokenizer_build_token(t, json_integer_value(id), text, 0, err));
    }
    return OK;
}

/* The list form (["a", "b"]) or the older string form ("a b"). */
static Status tokenizer_json_merge(Tokenizer *t, const json_t *item, size_t i, Err *err) {
    if (json_is_array(item) && json_array_size(item) == 2 &&
        json_is_string(json_array_get(item, 0)) && json_is_string(json_array_get(item, 1))) {
        const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
        return tokenizer_build_merge(t, (Str){json_string_value(a), json_string_length(a)},
                                     (Str){json_string_value(b), json_string_length(b)},
                                     (uint32_t)i, err);
    }
    if (json_is_string(item)) {
        Str text = {json_string_value(item), json_string_length(item)};
        size_t space = str_find(text, STR_LIT(" "), 0);
        if (space != SIZE_MAX && str_find(text, STR_LIT(" "), space + 1) == SIZE_MAX)
            return tokenizer_build_merge(t, str_slice(text, 0, space),
                                         str_slice(text, space + 1, text.len), (uint32_t)i, err);
    }
    FAIL(err, ERR_FORMAT, "tokenizer.json: merge %zu is not a pair of tokens", i);
}

static Status tokenizer_json_affix(Tokenizer *t, const json_t *model, const char *key, Str *out,
                                   Err *err) {
    Str text = {0};
    TRY(json_get_str(model, key, &text, err));
    if (text.len == 0) return OK;
    char *copy = arena_strndup(&t->arena, text.ptr, text.len);
    if (copy == NULL) FAIL(err, ERR_NOMEM, "tokenizer.json: no memory");
    *out = (Str){copy, text.len};
    return OK;
}

static Status tokenizer_json_bpe(Tokenizer *t, const json_t *model, Err *err) {
    t->kind = TOKENIZER_BPE;
    TRY(tokenizer_json_vocab(t, model, err));
    TRY(json_get_bool(model, "byte_fallback", &t->byte_fallback, err));
    TRY(json_get_bool(model, "fuse_unk", &t->fuse_unknown, err));
    TRY(json_get_bool(model, "ignore_merges", &t->ignore_merges, err));
    TRY(tokenizer_json_affix(t, model, "continuing_subword_prefix", &t->word_prefix, err));
    TRY(tokenizer_json_affix(t, model, "end_of_word_suffix", &t->word_suffix, err));
    Str unknown = {0};
    TRY(json_get_str(model, "unk_token", &unknown, err));
    uint32_t id;
    if (unknown.len > 0 && map_find(&t->vocab, unknown, &id)) t->unknown = (int32_t)id;
    return OK;
}

static Status tokenizer_json_merges(Tokenizer *t, const json_t *model, Err *err) {
    const json_t *merges = json_object_get(model, "merges"), *item;
    size_t i;
    if (!json_is_array(merges)) FAIL(err, ERR_FORMAT, "tokenizer.json: model.merges is not a list");
    if (!bpe_reserve(&t->bpe, json_array_size(merges)))
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for its merges");
    json_array_foreach(merges, i, item) TRY(tokenizer_json_merge(t, item, i, err));
    return OK;
}

static Status tokenizer_json_piece(Tokenizer *t, const json_t *item, size_t i, Err *err) {
    const json_t *text = json_array_get(item, 0), *score = json_array_get(item, 1);
    if (!json_is_string(text) || !json_is_number(score))
        FAIL(err, ERR_FORMAT, "tokenizer.json: piece %zu is not a text and a score", i);
    t->unigram.score[i] = json_number_value(score);
    return tokenizer_build_token(t, (int64_t)i,
                                 (Str){json_string_value(text), json_string_length(text)}, 0, err);
}

static Status tokenizer_json_unigram(Tokenizer *t, const json_t *model, Err *err) {
    const json_t *vocab = json_object_get(model, "vocab"), *item;
    size_t i, n = json_array_size(vocab);
    if (!json_is_array(vocab) || n == 0)
        FAIL(err, ERR_FORMAT, "tokenizer.json: model.vocab is not a list of pieces");
    t->kind = TOKENIZER_UNIGRAM;
    TRY(tokenizer_build_ids(t, (int64_t)n, err));
    t->unigram.score = mem_try_alloc(n, sizeof *t->unigram.score);
    if (t->unigram.score == NULL || !map_reserve(&t->vocab, n))
        FAIL(err, ERR_NOMEM, "tokenizer.json: no memory for %zu pieces", n);
    json_array_foreach(vocab, i, item) TRY(tokenizer_json_piece(t, item, i, err));
    t->unigram.n_vocab = (int32_t)n;
    int64_t unknown = -1;
    TRY(json_get_int(model, "unk_id", 0, (int64_t)n - 1, &unknown, err));
    t->unknown = (int32_t)unknown;
    return json_get_bool(model, "byte_fallback", &t->byte_fallback, err);
}

static Status tokenizer_json_model(Tokenizer *t, const json_t *root, Err *err) {
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model)) FAIL(err, ERR_FORMAT, "tokenizer.json: has no model");
    Str type = {0};
    TRY(json_get_str(model, "type", &type, err));
    /* Old files name no type: merges tell BPE, a list of pieces unigram. */
    if (type.len == 0)
        type = json_object_get(model, "merges") != NULL         ? STR_LIT("BPE")
               : json_is_array(json_object_get(model, "vocab")) ? STR_LIT("Unigram")
                                                                : STR_LIT("?");
    bool unigram = str_is(type, "Unigram");
    if (!unigram && !str_is(type, "BPE"))
        FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: models of type '%.*s' are not supported",
             STR_ARG(type));
    TRY(unigram ? tokenizer_json_unigram(t, model, err) : tokenizer_json_bpe(t, model, err));
    /* Before the merges, for a merge must not make a special token. */
    TRY(tokenizer_json_added(t, root, err));
    return unigram ? tokenizer_build_unigram(t, err) : tokenizer_json_merges(t, model, err);
}

static Status tokenizer_json_read(Tokenizer *t, const json_t *root, Err *err) {
    if (!json_is_object(root)) FAIL(err, ERR_FORMAT, "tokenizer.json: holds no object");
    TRY(tokenizer_json_model(t, root, err));
    TRY(tokenizer_json_steps_normalizer(t, json_object_get(root, "normalizer"), err));
    TRY(tokenizer_json_steps_pretok(t, json_object_get(root, "pre_tokenizer"), err));
    TRY(tokenizer_json_steps_post(t, json_object_get(root, "post_processor"), err));
    return tokenizer_json_steps_decoder(t, json_object_get(root, "decoder"), err);
}

Status tokenizer_json_open_tree(Tokenizer **out, const json_t *root, Err *err) {
    Tokenizer *t = tokenizer_build(TOKENIZER_BPE);
    Status status = tokenizer_json_read(t, root, err);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}

Status tokenizer_json_open(Tokenizer **out, const char *path, Err *err) {
    json_t *root = NULL;
    TRY(json_parse_file(&root, path, err));
    Status status = tokenizer_json_open_tree(out, root, err);
    json_decref(root);
    return status;
}
