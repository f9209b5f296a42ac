/* vocab.json and merges.txt (GPT-2: encoder.json and vocab.bpe), and what tokenizer_config.json
 * adds to files that know nothing of special tokens. */
#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer_priv.h"

enum { PAIR_BYTES_MAX = 256 << 20 };

static Status tokenizer_pair_vocab(Tokenizer *t, const char *path, Err *err) {
    json_t *vocab = NULL;
    TRY(json_parse_file(&vocab, path, err));
    Status status = OK;
    if (!json_is_object(vocab)) status = err_set(err, ERR_FORMAT, "'%s': not an object", path);
    void *at = status == OK ? json_object_iter(vocab) : NULL;
    for (; at != NULL && status == OK; at = json_object_iter_next(vocab, at)) {
        const json_t *id = json_object_iter_value(at);
        Str text = {json_object_iter_key(at), json_object_iter_key_len(at)};
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            status = err_set(err, ERR_FORMAT, "'%s': the id of token '%.*s' is not one", path,
                             STR_ARG(text));
        else
            status = tokenizer_build_token(t, json_integer_value(id), text, 0, err);
    }
    json_decref(vocab);
    return status;
}

static Status tokenizer_pair_lines(Tokenizer *t, Str text, Err *err) {
    size_t n = 1;
    for (size_t i = 0; i < text.len; i++) n += text.ptr[i] == '\n';
    if (!bpe_reserve(&t->bpe, n)) FAIL(err, ERR_NOMEM, "tokenizer: no memory for its merges");
    uint32_t rank = 0;
    while (text.len > 0) {
        size_t end = MIN(str_find(text, STR_LIT("\n"), 0), text.len);
        Str line = str_trim(str_slice(text, 0, end));
        text = str_slice(text, end + 1, text.len);
        if (line.len == 0 || str_starts_with(line, "#version")) continue;
        size_t space = str_find(line, STR_LIT(" "), 0);
        if (space == SIZE_MAX)
            FAIL(err, ERR_FORMAT, "merges: '%.*s' is not a pair of tokens", STR_ARG(line));
        TRY(tokenizer_build_merge(t, str_slice(line, 0, space),
                                  str_slice(line, space + 1, line.len), rank++, err));
    }
    return OK;
}

static Status tokenizer_pair_read(Tokenizer *t, const char *vocab_path, const char *merges_path,
                                  const json_t *config, Err *err) {
    Str class = {0};
    Buf merges = {0};
    size_t n;
    bool nfc = false, ignored;
    if (config != NULL) TRY(json_get_str(config, "tokenizer_class", &class, err));
    TRY(tokenizer_pair_vocab(t, vocab_path, err));
    /* The one special token that every vocabulary of this kind has. */
    if (tokenizer_build_find(t, STR_LIT("<|endoftext|>")) >= 0) {
        AddedToken end = {.text = STR_LIT("<|endoftext|>"), .id = -1, .special = true};
        TRY(tokenizer_build_added(t, &end, err));
        t->eos = tokenizer_build_find(t, end.text);
        if (!str_starts_with(class, "Qwen")) t->bos = t->eos;
    }
    Status status = file_read(&merges, merges_path, PAIR_BYTES_MAX, err);
    if (status == OK) status = tokenizer_pair_lines(t, buf_str(&merges), err);
    buf_free(&merges);
    TRY(status);
    Str name = str_starts_with(class, "Qwen") ? STR_LIT("qwen2") : STR_LIT("gpt-2");
    const char *const *patterns = tokenizer_patterns(name, &n, &nfc, &ignored);
    CHECK(patterns != NULL);
    if (nfc) CHECK(normalize_add(&t->normalizer, NORM_NFC) != NULL);
    return tokenizer_build_byte_level(t, patterns, n, err);
}

Status tokenizer_pair_open(Tokenizer **out, const char *vocab_path, const char *merges_path,
                           const json_t *config, Err *err) {
    Tokenizer *t = tokenizer_build(TOKENIZER_BPE);
    Status status = tokenizer_pair_read(t, vocab_path, merges_path, config, err);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}
