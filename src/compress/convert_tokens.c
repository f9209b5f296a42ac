/* The tokenizer's metadata: from tokenizer.json, or from tokenizer.model for SentencePiece. */
#include <stdio.h>

#include "base/file.h"
#include "base/map.h"
#include "compress/convert_priv.h"

/* tokenizer.ggml.token_type, the numbers of SentencePiece */
typedef enum ConvertTokenType {
    CONVERT_TOKEN_NORMAL = 1,
    CONVERT_TOKEN_UNKNOWN = 2,
    CONVERT_TOKEN_CONTROL = 3,
    CONVERT_TOKEN_USER = 4,
    CONVERT_TOKEN_UNUSED = 5,
    CONVERT_TOKEN_BYTE = 6
} ConvertTokenType;

typedef struct ConvertVocab {
    const Convert *c;
    json_t *json;         /* tokenizer.json or NULL; texts borrow from it */
    FileMap model;        /* tokenizer.model, likewise */
    ConvertPieces pieces; /* n = 0: not used */
    const char *pre;      /* NULL for SentencePiece */
    int32_t n;            /* of the model's embeddings */
    Str *text;            /* [n] */
    int32_t *type;        /* [n]; 0 until the id is known */
    float *score;         /* [n] */
    Map by_text;
    Arena arena;
} ConvertVocab;

static bool convert_vocab_is_pieces(const ConvertVocab *v) {
    return v->pre == NULL;
}

#define CONVERT_GPT2_SPLIT \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CONVERT_WORDS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define CONVERT_TAIL  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CONVERT_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define CONVERT_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CONVERT_LEAD  "[^\\r\\n\\p{L}\\p{N}]?"

/* How a text is treated before the merges. */
typedef struct ConvertSplit {
    const char *pattern;
    bool digits;        /* each digit alone, before the pattern */
    bool nfc;           /* composed first */
    bool ignore_merges; /* a piece that is a token needs no merges */
} ConvertSplit;

/* llama.cpp's names for them; a name stands for all four fields. */
static const struct {
    const char *pre;
    ConvertSplit split;
} CONVERT_PRE[] = {
    {"gpt-2", {CONVERT_GPT2_SPLIT, false, false, false}},
    {"smollm", {CONVERT_GPT2_SPLIT, true, false, false}},
    {"qwen2", {CONVERT_WORDS "\\p{N}" CONVERT_TAIL, false, true, false}},
    {"stablelm2", {CONVERT_WORDS "\\p{N}" CONVERT_TAIL, false, false, false}},
    {"llama-bpe", {CONVERT_WORDS "\\p{N}{1,3}" CONVERT_TAIL, false, false, true}},
    {"smaug-bpe", {CONVERT_WORDS "\\p{N}{1,3}" CONVERT_TAIL, false, false, false}},
    {"tekken",
     {CONVERT_LEAD CONVERT_UPPER "*" CONVERT_LOWER "+|" CONVERT_LEAD CONVERT_UPPER "+" CONVERT_LOWER
                                 "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|"
                                 "\\s+(?!\\S)|\\s+",
      false, false, true}},
};

/* The object itself, or the members of a Sequence, one after the other; NULL at the end. */
static const json_t *convert_member(const json_t *object, const char *list, size_t i) {
    const json_t *members = json_object_get(object, list);
    if (members == NULL) return i == 0 ? object : NULL;
    return json_array_get(members, i);
}

static bool convert_type_is(const json_t *object, const char *type) {
    const char *text = json_string_value(json_object_get(object, "type"));
    return text != NULL && strcmp(text, type) == 0;
}

static ConvertSplit convert_split(const ConvertVocab *v) {
    const json_t *whole = json_object_get(v->json, "pre_tokenizer"), *part;
    const json_t *model = json_object_get(v->json, "model");
    ConvertSplit split = {.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"))};
    for (size_t i = 0; (part = convert_member(whole, "pretokenizers", i)) != NULL; i++) {
        const json_t *given = json_object_get(part, "pattern");
        if (convert_type_is(part, "Digits"))
            split.digits = json_is_true(json_object_get(part, "individual_digits"));
        else if (convert_type_is(part, "Split"))
            split.pattern = json_string_value(json_object_get(given, "Regex"));
        else if (convert_type_is(part, "ByteLevel") && split.pattern == NULL &&
                 !json_is_false(json_object_get(part, "use_regex")))
            split.pattern = CONVERT_GPT2_SPLIT;
    }
    whole = json_object_get(v->json, "normalizer");
    for (size_t i = 0; (part = convert_member(whole, "normalizers", i)) != NULL; i++)
        split.nfc = split.nfc || convert_type_is(part, "NFC");
    return split;
}

static Status convert_find_pre(ConvertVocab *v, Err *err) {
    ConvertSplit split = convert_split(v);
    for (size_t i = 0; split.pattern != NULL && i < ARRAY_LEN(CONVERT_PRE); i++) {
        const ConvertSplit *known = &CONVERT_PRE[i].split;
        if (strcmp(split.pattern, known->pattern) == 0 && split.digits == known->digits &&
            split.nfc == known->nfc && split.ignore_merges == known->ignore_merges)
            v->pre = CONVERT_PRE[i].pre;
    }
    if (v->pre == NULL)
        FAIL(err, ERR_UNSUPPORTED,
             "tokenizer.json: GGUF has no name for the split pattern '%.200s'%s%s%s",
             split.pattern != NULL ? split.pattern : "(none)", split.digits ? ", digits alone" : "",
             split.nfc ? ", NFC" : "", split.ignore_merges ? ", ignore_merges" : "");
    return OK;
}

static Status convert_put_token(ConvertVocab *v, int64_t id, Str text, int32_t type, float score,
                                Err *err) {
    if (id < 0 || id >= v->n)
        FAIL(err, ERR_FORMAT, "the tokenizer has a token %lld, the model has embeddings for %d",
             (long long)id, v->n);
    v->text[id] = text;
    v->type[id] = type;
    v->score[id] = score;
    if (!map_put(&v->by_text, text, (uint32_t)id))
        FAIL(err, ERR_NOMEM, "no memory for the vocabulary");
    return OK;
}

static bool convert_is_byte(const char *token) {
    unsigned byte;
    char end;
    return strlen(token) == 6 && sscanf(token, "<0x%2X%c", &byte, &end) == 2 && end == '>';
}

static Status convert_put_json_tokens(ConvertVocab *v, Err *err) {
    json_t *tokens = json_object_get(json_object_get(v->json, "model"), "vocab"), *id;
    if (!json_is_object(tokens))
        FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: model.vocab is not an object of tokens");
    const char *token;
    json_object_foreach(tokens, token, id) {
        if (!json_is_integer(id))
            FAIL(err, ERR_FORMAT, "tokenizer.json: a token's id is not an integer");
        bool byte = convert_vocab_is_pieces(v) && convert_is_byte(token);
        TRY(convert_put_token(v, json_integer_value(id), str_from(token),
                              byte ? CONVERT_TOKEN_BYTE : CONVERT_TOKEN_NORMAL, 0, err));
    }
    return OK;
}

static Status convert_put_pieces(ConvertVocab *v, Err *err) {
    for (int64_t i = 0; i < v->pieces.n; i++)
        TRY(convert_put_token(v, i, v->pieces.text[i], v->pieces.type[i], v->pieces.score[i], err));
    return OK;
}

/* Tokens that are cut out of a text before anything else. */
static Status convert_put_added(ConvertVocab *v, Err *err) {
    const json_t *list = json_object_get(v->json, "added_tokens");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *token = json_array_get(list, i);
        int64_t id = -1;
        Str text = {0};
        bool special = false;
        TRY(json_get_int(token, "id", 0, INT32_MAX, &id, err));
        TRY(json_get_str(token, "content", &text, err));
        TRY(json_get_bool(token, "special", &special, err));
        if (id < 0 || text.len == 0)
            FAIL(err, ERR_FORMAT, "tokenizer.json: an added token lacks its id or content");
        bool known = id < v->n && v->type[id] != 0 && v->type[id] != CONVERT_TOKEN_NORMAL;
        if (known && str_eq(v->text[id], text)) continue; /* <unk>, <s>, bytes */
        TRY(convert_put_token(v, id, text, special ? CONVERT_TOKEN_CONTROL : CONVERT_TOKEN_USER,
                              convert_vocab_is_pieces(v) ? -1000 : 0, err));
    }
    return OK;
}

/* Rows of the embedding that no token uses. */
static Status convert_put_unused(ConvertVocab *v, Err *err) {
    for (int32_t i = 0; i < v->n; i++) {
        if (v->type[i] != 0) continue;
        char text[32];
        int len = snprintf(text, sizeof text, "[PAD%d]", i);
        char *copy = arena_strndup(&v->arena, text, (size_t)len);
        if (copy == NULL) FAIL(err, ERR_NOMEM, "no memory for the vocabulary");
        TRY(convert_put_token(v, i, (Str){copy, (size_t)len}, CONVERT_TOKEN_UNUSED, 0, err));
    }
    return OK;
}

/* "left right", whichever of the two forms the file has. */
static Status convert_merge(ConvertVocab *v, const json_t *merge, Str *out, Err *err) {
    if (json_is_string(merge)) {
        *out = (Str){json_string_value(merge), json_string_length(merge)};
        return OK;
    }
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
        FAIL(err, ERR_FORMAT, "tokenizer.json: a merge is neither a string nor a pair");
    size_t n = json_string_length(left), m = json_string_length(right);
    char *text = arena_alloc(&v->arena, n + 1 + m);
    if (text == NULL) FAIL(err, ERR_NOMEM, "no memory for the merges");
    memcpy(text, json_string_value(left), n);
    text[n] = ' ';
    memcpy(text + n + 1, json_string_value(right), m);
    *out = (Str){text, n + 1 + m};
    return OK;
}

/* SentencePiece merges what gives the piece of the highest score. Without tokenizer.model the score
 * comes from the rank of the first merge that makes the piece. */
static Status convert_score_merge(ConvertVocab *v, Str merge, size_t rank, Err *err) {
    size_t space = str_find(merge, STR_LIT(" "), 1);
    if (space == SIZE_MAX) FAIL(err, ERR_FORMAT, "tokenizer.json: a merge has no space");
    char *whole = arena_alloc(&v->arena, merge.len);
    uint32_t id;
    if (whole == NULL) FAIL(err, ERR_NOMEM, "no memory for the merges");
    memcpy(whole, merge.ptr, space);
    memcpy(whole + space, merge.ptr + space + 1, merge.len - space - 1);
    if (map_find(&v->by_text, (Str){whole, merge.len - 1}, &id) && v->score[id] == 0)
        v->score[id] = -(float)(rank + 1);
    return OK;
}

static Status convert_write_merges(ConvertVocab *v, GgufWriter *writer, Err *err) {
    const json_t *list = json_object_get(json_object_get(v->json, "model"), "merges");
    size_t n = json_array_size(list);
    Str *merges = mem_try_alloc(n, sizeof *merges);
    if (merges == NULL) FAIL(err, ERR_NOMEM, "no memory for %zu merges", n);
    Status status = OK;
    for (size_t i = 0; i < n && status == OK; i++)
        status = convert_merge(v, json_array_get(list, i), &merges[i], err);
    if (!convert_vocab_is_pieces(v)) {
        gguf_write_strs(writer, "tokenizer.ggml.merges", merges, n);
    } else {
        for (size_t i = 0; i < n && status == OK; i++)
            status = convert_score_merge(v, merges[i], i, err);
    }
    mem_free(merges);
    return status;
}

/* The id of a special token that tokenizer_config.json names, -1: none. */
static int64_t convert_named(const ConvertVocab *v, const char *key) {
    const json_t *token = json_object_get(model_file_tokenizer_config(v->c->file), key);
    if (json_is_object(token)) token = json_object_get(token, "content");
    uint32_t id;
    if (!json_is_string(token) || !map_find(&v->by_text, str_from(json_string_value(token)), &id))
        return -1;
    return id;
}

static void convert_write_id(GgufWriter *writer, const char *key, int64_t id) {
    if (id >= 0) gguf_write_u32(writer, key, (uint32_t)id);
}

/* GGUF has three keys for what ends an answer; the tokenizer's own goes first. */
static void convert_write_ends(const ConvertVocab *v, GgufWriter *writer) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    const ModelConfig *m = &v->c->config;
    int64_t first = convert_named(v, "eos_token");
    size_t n = 0;
    if (first >= 0) convert_write_id(writer, keys[n++], first);
    for (int32_t i = 0; i < m->n_eos && n < ARRAY_LEN(keys); i++)
        if (m->eos_id[i] != first) convert_write_id(writer, keys[n++], m->eos_id[i]);
}

/* Whether a special token stands at this end of what the post-processor makes of one text. */
static bool convert_template_adds(const ConvertVocab *v, bool at_end) {
    const json_t *whole = json_object_get(v->json, "post_processor"), *part;
    for (size_t i = 0; (part = convert_member(whole, "processors", i)) != NULL; i++) {
        const json_t *single = json_object_get(part, "single");
        size_t n = json_array_size(single);
        if (!convert_type_is(part, "TemplateProcessing") || n == 0) continue;
        const json_t *end = json_array_get(single, at_end ? n - 1 : 0);
        if (json_object_get(end, "SpecialToken") != NULL) return true;
    }
    return false;
}

static Status convert_write_adds(const ConvertVocab *v, GgufWriter *writer, Err *err) {
    const json_t *config = model_file_tokenizer_config(v->c->file);
    bool pieces_only = v->json == NULL;
    bool bos = pieces_only || convert_template_adds(v, false);
    bool eos = convert_template_adds(v, true);
    if (config != NULL) {
        TRY(json_get_bool(config, "add_bos_token", &bos, err));
        TRY(json_get_bool(config, "add_eos_token", &eos, err));
    }
    gguf_write_bool(writer, "tokenizer.ggml.add_bos_token", bos);
    gguf_write_bool(writer, "tokenizer.ggml.add_eos_token", eos);
    return OK;
}

/* Whether SentencePiece puts a space before a text. */
static bool convert_adds_space(const ConvertVocab *v) {
    const json_t *whole = json_object_get(v->json, "normalizer"), *part;
    if (v->pieces.n > 0) return v->pieces.add_dummy_prefix;
    for (size_t i = 0; (part = convert_member(whole, "normalizers", i)) != NULL; i++)
        if (convert_type_is(part, "Prepend")) return true;
    part = json_object_get(v->json, "pre_tokenizer");
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    return convert_type_is(part, "Metaspace") && scheme != NULL && strcmp(scheme, "never") != 0;
}

static Status convert_write_template_list(const json_t *list, GgufWriter *writer, Err *err) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        Str name = {0}, text = {0};
        char key[128];
        TRY(json_get_str(item, "name", &name, err));
        TRY(json_get_str(item, "template", &text, err));
        bool usual = str_is(name, "default");
        snprintf(key, sizeof key, "tokenizer.chat_template%s%.*s", usual ? "" : ".",
                 usual ? 0 : (int)MIN(name.len, (size_t)64), name.ptr);
        gguf_write_str(writer, key, text);
    }
    return OK;
}

static Status convert_write_template(const ConvertVocab *v, GgufWriter *writer, Err *err) {
    char *path = file_join(model_file_dir(v->c->file), "chat_template.jinja");
    Buf text = {0};
    Status status = OK;
    const json_t *given = json_object_get(model_file_tokenizer_config(v->c->file), "chat_template");
    if (file_exists(path)) {
        status = file_read(&text, path, 16 << 20, err);
        if (status == OK) gguf_write_str(writer, "tokenizer.chat_template", buf_str(&text));
    } else if (json_is_string(given)) {
        gguf_write_str(writer, "tokenizer.chat_template",
                       (Str){json_string_value(given), json_string_length(given)});
    } else if (json_is_array(given)) {
        status = convert_write_template_list(given, writer, err);
    }
    buf_free(&text);
    mem_free(path);
    return status;
}

/* tokenizer.json where there is one; tokenizer.model where that is SentencePiece, or alone. */
static Status convert_vocab_load(ConvertVocab *v, Err *err) {
    const char *dir = model_file_dir(v->c->file);
    char *json = file_join(dir, "tokenizer.json"), *model = file_join(dir, "tokenizer.model");
    Status status = OK;
    bool pieces = true;
    if (file_exists(json)) {
        status = json_parse_file(&v->json, json, err);
        const json_t *algorithm = json_object_get(v->json, "model");
        pieces = json_is_true(json_object_get(algorithm, "byte_fallback"));
        bool unigram = convert_type_is(algorithm, "Unigram");
        if (status == OK && (unigram || !json_is_object(algorithm)))
            status = err_set(err, ERR_UNSUPPORTED, "'%s': wanted a tokenizer of type BPE", json);
        if (status == OK && !pieces) status = convert_find_pre(v, err);
    } else if (!file_exists(model)) {
        status =
            err_set(err, ERR_NOT_FOUND, "'%s' has neither tokenizer.json nor tokenizer.model", dir);
    }
    if (status == OK && pieces && file_exists(model)) {
        status = file_map(&v->model, model, err);
        Str bytes = {(const char *)v->model.data, v->model.size};
        if (status == OK) status = convert_pieces_read(&v->pieces, bytes, model, err);
        if (status == OK && v->pieces.unigram)
            status = err_set(err, ERR_UNSUPPORTED, "'%s' is a unigram model, wanted BPE", model);
    }
    mem_free(json);
    mem_free(model);
    return status;
}

static Status convert_vocab_fill(ConvertVocab *v, Err *err) {
    v->n = v->c->config.vocab;
    v->text = mem_try_alloc((size_t)v->n, sizeof *v->text);
    v->type = mem_try_alloc((size_t)v->n, sizeof *v->type);
    v->score = mem_try_alloc((size_t)v->n, sizeof *v->score);
    if (v->text == NULL || v->type == NULL || v->score == NULL)
        FAIL(err, ERR_NOMEM, "no memory for a vocabulary of %d", v->n);
    TRY(v->pieces.n > 0 ? convert_put_pieces(v, err) : convert_put_json_tokens(v, err));
    TRY(convert_put_added(v, err));
    return convert_put_unused(v, err);
}

static Status convert_vocab_write(ConvertVocab *v, GgufWriter *writer, Err *err) {
    bool pieces = convert_vocab_is_pieces(v);
    uint64_t n = (uint64_t)v->n;
    if (v->pieces.n == 0) TRY(convert_write_merges(v, writer, err));
    gguf_write_str(writer, "tokenizer.ggml.model", pieces ? STR_LIT("llama") : STR_LIT("gpt2"));
    gguf_write_str(writer, "tokenizer.ggml.pre", pieces ? STR_LIT("default") : str_from(v->pre));
    gguf_write_strs(writer, "tokenizer.ggml.tokens", v->text, n);
    gguf_write_i32s(writer, "tokenizer.ggml.token_type", v->type, n);
    if (pieces) {
        gguf_write_f32s(writer, "tokenizer.ggml.scores", v->score, n);
        gguf_write_bool(writer, "tokenizer.ggml.add_space_prefix", convert_adds_space(v));
        gguf_write_bool(writer, "tokenizer.ggml.remove_extra_whitespaces",
                        v->pieces.n > 0 && v->pieces.remove_extra_spaces);
    }
    int64_t bos = convert_named(v, "bos_token"), unknown = convert_named(v, "unk_token");
    for (int32_t i = 0; i < v->n && unknown < 0; i++)
        if (v->type[i] == CONVERT_TOKEN_UNKNOWN) unknown = i;
    convert_write_id(writer, "tokenizer.ggml.bos_token_id", bos >= 0 ? bos : v->c->config.bos_id);
    convert_write_ends(v, writer);
    convert_write_id(writer, "tokenizer.ggml.unknown_token_id", unknown);
    convert_write_id(writer, "tokenizer.ggml.padding_token_id", convert_named(v, "pad_token"));
    TRY(convert_write_adds(v, writer, err));
    return convert_write_template(v, writer, err);
}

Status convert_tokens_write(const Convert *c, GgufWriter *writer, Err *err) {
    ConvertVocab v = {.c = c};
    Status status = convert_vocab_load(&v, err);
    if (status == OK) status = convert_vocab_fill(&v, err);
    if (status == OK) status = convert_vocab_write(&v, writer, err);
    mem_free(v.text);
    mem_free(v.type);
    mem_free(v.score);
    map_free(&v.by_text);
    convert_pieces_free(&v.pieces);
    file_unmap(&v.model);
    json_decref(v.json);
    arena_free(&v.arena);
    return status;
}
