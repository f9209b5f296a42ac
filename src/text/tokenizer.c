/* Opening, asking, decoding. Encoding is in tokenizer_encode.c. */
#include "text/tokenizer.h"

#include <stdlib.h>

#include "base/file.h"
#include "text/tokenizer_priv.h"
#include "text/utf8.h"

enum { TOKENIZER_FILE_BYTES_MAX = 256 << 20 };

void tokenizer_close(Tokenizer *t) {
    if (t == NULL) return;
    mem_free(t->text);
    mem_free(t->flags);
    map_free(&t->vocab);
    map_free(&t->added_ids);
    map_free(&t->raw);
    map_free(&t->stand_in);
    free(t->added);
    free(t->stand_in_text);
    mem_free(t->cut_pairs);
    trie_close(&t->added_raw.trie);
    trie_close(&t->added_normalized.trie);
    trie_close(&t->symbols);
    normalize_free(&t->normalizer);
    pretok_free(&t->pretok);
    bpe_free(&t->bpe);
    unigram_free(&t->unigram);
    decoder_free(&t->decoder);
    ints_free(&t->before);
    ints_free(&t->after);
    arena_free(&t->arena);
    mem_free(t);
}

/* --- opening --- */

/* A SentencePiece model begins with the tag of its first piece; a rank file with base64. */
static Status tokenizer_open_model_file(Tokenizer **out, const char *path, Err *err) {
    Buf data = {0};
    Status status = file_read(&data, path, TOKENIZER_FILE_BYTES_MAX, err);
    if (status == OK && data.len > 0 && data.data[0] == '\n')
        status = tokenizer_spm_open(out, buf_str(&data), err);
    else if (status == OK)
        status = tokenizer_tiktoken_open(out, buf_str(&data), err);
    buf_free(&data);
    return status;
}

typedef enum TokenizerSource {
    SOURCE_NONE,
    SOURCE_JSON,
    SOURCE_MODEL,
    SOURCE_PAIR
} TokenizerSource;

/* Opens what the directory has, the most complete first. */
static Status tokenizer_open_parts(Tokenizer **out, const char *dir, const json_t *config,
                                   TokenizerSource *source, Err *err) {
    static const struct {
        TokenizerSource source;
        const char *name, *second;
    } places[] = {
        {SOURCE_JSON, "tokenizer.json", NULL},     {SOURCE_MODEL, "tokenizer.model", NULL},
        {SOURCE_PAIR, "vocab.json", "merges.txt"}, {SOURCE_PAIR, "encoder.json", "vocab.bpe"},
        {SOURCE_MODEL, "spiece.model", NULL},      {SOURCE_MODEL, "sentencepiece.bpe.model", NULL},
        {SOURCE_MODEL, "qwen.tiktoken", NULL},     {SOURCE_MODEL, "tiktoken.model", NULL}};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        char *path = file_join(dir, places[i].name);
        char *second = places[i].second == NULL ? NULL : file_join(dir, places[i].second);
        bool there = file_exists(path) && (second == NULL || file_exists(second));
        Status status = OK;
        if (there) {
            *source = places[i].source;
            if (*source == SOURCE_JSON)
                status = tokenizer_json_open(out, path, err);
            else if (*source == SOURCE_MODEL)
                status = tokenizer_open_model_file(out, path, err);
            else
                status = tokenizer_pair_open(out, path, second, config, err);
        }
        mem_free(path);
        mem_free(second);
        if (there) return status;
    }
    FAIL(err, ERR_NOT_FOUND,
         "'%s' has no tokenizer.json, tokenizer.model, or vocab.json with merges.txt", dir);
}

static Status tokenizer_open_dir(Tokenizer **out, const char *dir, const json_t *config, Err *err) {
    Tokenizer *t = NULL;
    TokenizerSource source = SOURCE_NONE;
    TRY(tokenizer_open_parts(&t, dir, config, &source, err));
    Status status =
        config == NULL ? OK : tokenizer_config_apply(t, config, source != SOURCE_JSON, err);
    if (status == OK) status = tokenizer_build_finish(t, err);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}

static Status tokenizer_open_path_dir(Tokenizer **out, const char *dir, Err *err) {
    json_t *config = NULL;
    char *path = file_join(dir, "tokenizer_config.json");
    Status status = file_exists(path) ? json_parse_file(&config, path, err) : OK;
    mem_free(path);
    if (status == OK && config != NULL && !json_is_object(config))
        status = err_set(err, ERR_FORMAT, "'%s': tokenizer_config.json holds no object", dir);
    if (status == OK) status = tokenizer_open_dir(out, dir, config, err);
    json_decref(config);
    return status;
}

/* A single file that is no model file: JSON, protobuf or ranks. */
static Status tokenizer_open_file(Tokenizer **out, const char *path, Err *err) {
    Tokenizer *t = NULL;
    FileMap map;
    TRY(file_map(&map, path, err));
    bool is_json = map.size > 0 && map.data[0] == '{';
    file_unmap(&map);
    TRY(is_json ? tokenizer_json_open(&t, path, err) : tokenizer_open_model_file(&t, path, err));
    Status status = tokenizer_build_finish(t, err);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}

static bool tokenizer_is_gguf(const char *path) {
    FileMap map;
    if (file_map(&map, path, NULL) != OK) return false;
    bool is_gguf = map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    file_unmap(&map);
    return is_gguf;
}

Status tokenizer_open(Tokenizer **out, const char *path, Err *err) {
    if (file_is_dir(path)) return tokenizer_open_path_dir(out, path, err);
    if (!file_exists(path)) FAIL(err, ERR_NOT_FOUND, "'%s': no such file", path);
    if (!tokenizer_is_gguf(path)) return tokenizer_open_file(out, path, err);
    ModelFile *file;
    TRY(model_file_open_metadata(&file, path, err));
    Status status = tokenizer_open_model(out, file, err);
    model_file_close(file);
    return status;
}

Status tokenizer_open_model(Tokenizer **out, const ModelFile *file, Err *err) {
    const char *dir = model_file_dir(file);
    if (dir != NULL) return tokenizer_open_dir(out, dir, model_file_tokenizer_config(file), err);
    Tokenizer *t = NULL;
    TRY(tokenizer_gguf_open(&t, file, err));
    Status status = tokenizer_build_finish(t, err);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}

/* --- asking --- */

static bool tokenizer_has(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && (t->flags[id] & TOKEN_USED) != 0;
}

int32_t tokenizer_vocab(const Tokenizer *t) {
    return t->n_vocab;
}

Str tokenizer_text(const Tokenizer *t, int32_t id) {
    return tokenizer_has(t, id) ? t->text[id] : (Str){"", 0};
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    return tokenizer_has(t, id) && (t->flags[id] & TOKEN_SPECIAL) != 0;
}

int32_t tokenizer_find(const Tokenizer *t, Str text) {
    return tokenizer_build_find(t, text);
}

int32_t tokenizer_bos(const Tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_eos(const Tokenizer *t) {
    return t->eos;
}

bool tokenizer_adds_bos(const Tokenizer *t) {
    return t->adds_bos;
}

const char *tokenizer_kind(const Tokenizer *t) {
    return t->kind == TOKENIZER_BPE ? "bpe" : t->kind == TOKENIZER_SPM_BPE ? "spm-bpe" : "unigram";
}

/* --- decoding --- */

static bool tokenizer_is_silent(const Tokenizer *t, int32_t id, bool with_special) {
    return !tokenizer_has(t, id) || (!with_special && (t->flags[id] & TOKEN_SPECIAL) != 0);
}

static void tokenizer_append(const Tokenizer *t, int32_t id, bool is_first, Buf *out,
                             bool *is_byte) {
    *is_byte = false;
    /* An added token stands for its text, in which a byte-level decoder would see bytes. */
    if ((t->flags[id] & (TOKEN_ADDED | TOKEN_SPECIAL)) != 0 && t->raw_bytes)
        buf_append_str(out, t->text[id]);
    else
        decoder_token(&t->decoder, t->text[id], is_first, out, is_byte);
}

void tokenizer_piece(const Tokenizer *t, int32_t id, bool with_special, Buf *out) {
    bool ignored;
    if (!tokenizer_is_silent(t, id, with_special)) tokenizer_append(t, id, false, out, &ignored);
}

void tokenizer_piece_at(const Tokenizer *t, int32_t id, bool with_special, bool is_first,
                        Buf *out) {
    bool ignored;
    if (tokenizer_is_silent(t, id, with_special)) return;
    if (!is_first) {
        tokenizer_append(t, id, false, out, &ignored);
        return;
    }
    Buf piece = {0};
    tokenizer_append(t, id, is_first, &piece, &ignored);
    Str text = buf_str(&piece);
    buf_append_str(
        out, str_slice(text, is_first ? decoder_strip_bytes(&t->decoder, text) : 0, text.len));
    out->failed |= piece.failed;
    buf_free(&piece);
}

/* A run of byte tokens: its text, or, as the reference has it, one U+FFFD for each byte of a run
 * that is not all valid. */
static void tokenizer_append_bytes(Buf *text, Buf *run) {
    if (utf8_valid_bytes(buf_str(run)) == run->len) {
        buf_append_str(text, buf_str(run));
    } else {
        for (size_t i = 0; i < run->len; i++) buf_append(text, "\xef\xbf\xbd", 3);
    }
    text->failed |= run->failed;
    buf_clear(run);
}

void tokenizer_decode(const Tokenizer *t, const int32_t *id, size_t n, bool with_special,
                      Buf *out) {
    Buf text = {0}, piece = {0}, run = {0};
    bool is_first = true;
    for (size_t i = 0; i < n; i++) {
        bool is_byte;
        if (tokenizer_is_silent(t, id[i], with_special)) continue;
        buf_clear(&piece);
        tokenizer_append(t, id[i], is_first, &piece, &is_byte);
        is_first = false;
        if (is_byte) {
            buf_append_str(&run, buf_str(&piece));
            continue;
        }
        tokenizer_append_bytes(&text, &run);
        buf_append_str(&text, buf_str(&piece));
        text.failed |= piece.failed;
    }
    tokenizer_append_bytes(&text, &run);
    Str all = buf_str(&text);
    utf8_append_mended(out, str_slice(all, decoder_strip_bytes(&t->decoder, all), all.len));
    out->failed |= text.failed;
    buf_free(&text);
    buf_free(&piece);
    buf_free(&run);
}
