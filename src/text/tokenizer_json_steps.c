/* normalizer, pre_tokenizer and post_processor of a tokenizer.json. */
#include "text/tokenizer_json_priv.h"
#include "text/utf8.h"

enum { JSON_STEPS_MAX = 32 };

/* The steps of a field, Sequences inside of Sequences laid out flat. */
typedef struct JsonSteps {
    const json_t *step[JSON_STEPS_MAX];
    size_t n;
} JsonSteps;

static Status tokenizer_json_flatten(const json_t *field, const char *key, JsonSteps *out,
                                     Err *err) {
    const json_t *stack[JSON_STEPS_MAX];
    size_t n = 0;
    out->n = 0;
    if (field != NULL && !json_is_null(field)) stack[n++] = field;
    while (n > 0) {
        const json_t *step = stack[--n];
        if (!json_is_object(step))
            FAIL(err, ERR_FORMAT, "tokenizer.json: an item of %s is no object", key);
        Str type = {0};
        TRY(json_get_str(step, "type", &type, err));
        const json_t *list = json_object_get(step, key);
        if (str_is(type, "Sequence")) {
            size_t size = json_array_size(list);
            if (!json_is_array(list) || n + size > JSON_STEPS_MAX)
                FAIL(err, ERR_LIMIT, "tokenizer.json: %s holds %zu steps, the limit is %d", key,
                     size, JSON_STEPS_MAX);
            for (size_t i = size; i > 0; i--) stack[n++] = json_array_get(list, i - 1);
            continue;
        }
        if (out->n == JSON_STEPS_MAX)
            FAIL(err, ERR_LIMIT, "tokenizer.json: %s has more than %d steps", key, JSON_STEPS_MAX);
        out->step[out->n++] = step;
    }
    return OK;
}

static Status tokenizer_json_pattern(const json_t *step, Pattern **pattern, Buf *literal,
                                     Err *err) {
    const json_t *field = json_object_get(step, "pattern");
    Str text = {0};
    if (json_is_string(field)) {
        text = (Str){json_string_value(field), json_string_length(field)};
    } else {
        if (!json_is_object(field)) FAIL(err, ERR_FORMAT, "tokenizer.json: a step has no pattern");
        TRY(json_get_str(field, "Regex", &text, err));
        if (text.ptr != NULL) return pattern_open(pattern, text, err);
        TRY(json_get_str(field, "String", &text, err));
    }
    if (text.ptr == NULL)
        FAIL(err, ERR_FORMAT, "tokenizer.json: a pattern is neither Regex nor String");
    if (literal == NULL) return pattern_open_literal(pattern, text, err);
    buf_append_str(literal, text);
    return OK;
}

/* --- normalizer --- */

static Status tokenizer_json_base64(Str s, Buf *out, Err *err) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0, n_bits = 0;
    for (size_t i = 0; i < s.len && s.ptr[i] != '='; i++) {
        const char *at = memchr(digits, s.ptr[i], 64);
        if (at == NULL) FAIL(err, ERR_FORMAT, "tokenizer.json: precompiled_charsmap is no base64");
        bits = bits << 6 | (uint32_t)(at - digits);
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            buf_append_byte(out, (char)(bits >> n_bits));
        }
    }
    return OK;
}

static Status tokenizer_json_charsmap(const json_t *item, NormStep *step, Err *err) {
    Str text = {0};
    Buf blob = {0};
    TRY(json_get_str(item, "precompiled_charsmap", &text, err));
    Status status = tokenizer_json_base64(text, &blob, err);
    if (status == OK) status = charsmap_open(&step->charsmap, buf_str(&blob), err);
    buf_free(&blob);
    return status;
}

static Status tokenizer_json_norm_fields(const json_t *item, NormStep *step, Err *err) {
    Str text = {0};
    switch (step->kind) {
        case NORM_STRIP:
            TRY(json_get_bool(item, "strip_left", &step->left, err));
            return json_get_bool(item, "strip_right", &step->right, err);
        case NORM_PREPEND:
            TRY(json_get_str(item, "prepend", &text, err));
            buf_append_str(&step->text, text);
            return OK;
        case NORM_REPLACE:
            TRY(json_get_str(item, "content", &text, err));
            buf_append_str(&step->text, text);
            return tokenizer_json_pattern(item, &step->pattern, &step->what, err);
        case NORM_PRECOMPILED: return tokenizer_json_charsmap(item, step, err);
        default: return OK;
    }
}

Status tokenizer_json_steps_normalizer(Tokenizer *t, const json_t *field, Err *err) {
    static const struct {
        const char *type;
        NormKind kind;
    } kinds[] = {{"NFC", NORM_NFC},
                 {"NFD", NORM_NFD},
                 {"NFKC", NORM_NFKC},
                 {"NFKD", NORM_NFKD},
                 {"Lowercase", NORM_LOWERCASE},
                 {"Strip", NORM_STRIP},
                 {"StripAccents", NORM_STRIP_ACCENTS},
                 {"Prepend", NORM_PREPEND},
                 {"Replace", NORM_REPLACE},
                 {"Precompiled", NORM_PRECOMPILED},
                 {"Nmt", NORM_NMT},
                 {"ByteLevel", NORM_BYTE_LEVEL}};
    JsonSteps steps;
    TRY(tokenizer_json_flatten(field, "normalizers", &steps, err));
    for (size_t i = 0; i < steps.n; i++) {
        Str type = {0};
        TRY(json_get_str(steps.step[i], "type", &type, err));
        size_t k = 0;
        while (k < ARRAY_LEN(kinds) && !str_is(type, kinds[k].type)) k++;
        if (k == ARRAY_LEN(kinds))
            FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: the normalizer '%.*s' is not supported",
                 STR_ARG(type));
        NormStep *step = normalize_add(&t->normalizer, kinds[k].kind);
        CHECK(step != NULL);
        TRY(tokenizer_json_norm_fields(steps.step[i], step, err));
        if (step->text.failed || step->what.failed)
            FAIL(err, ERR_NOMEM, "tokenizer.json: no memory");
    }
    return OK;
}

/* --- pre_tokenizer --- */

static Status tokenizer_json_behavior(const json_t *item, PretokBehavior *out, Err *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    Str name = {0};
    TRY(json_get_str(item, "behavior", &name, err));
    if (name.len == 0) return OK;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_is(name, names[i])) {
            *out = (PretokBehavior)i;
            return OK;
        }
    FAIL(err, ERR_FORMAT, "tokenizer.json: the behavior '%.*s' is not known", STR_ARG(name));
}

static Status tokenizer_json_full(Err *err) {
    FAIL(err, ERR_LIMIT, "tokenizer.json: the pre_tokenizer has more than %d steps",
         PRETOK_STEPS_MAX);
}

static Status tokenizer_json_pretok_bytes(Tokenizer *t, const json_t *item, Err *err) {
    bool prefix = true, use_regex = true;
    TRY(json_get_bool(item, "add_prefix_space", &prefix, err));
    TRY(json_get_bool(item, "use_regex", &use_regex, err));
    if (prefix) {
        PretokStep *step = pretok_add(&t->pretok, PRETOK_PREFIX);
        if (step == NULL) return tokenizer_json_full(err);
        buf_append_text(&step->text, " ");
    }
    if (use_regex) {
        size_t n;
        bool ignored;
        const char *const *patterns = tokenizer_patterns(STR_LIT("gpt-2"), &n, &ignored, &ignored);
        PretokStep *step = pretok_add(&t->pretok, PRETOK_SPLIT);
        if (step == NULL) return tokenizer_json_full(err);
        TRY(pattern_open(&step->pattern, str_from(patterns[0]), err));
    }
    return pretok_add(&t->pretok, PRETOK_BYTE_LEVEL) == NULL ? tokenizer_json_full(err) : OK;
}

static Status tokenizer_json_pretok_metaspace(const json_t *item, PretokStep *step, Err *err) {
    Str mark = STR_LIT("\xe2\x96\x81"), scheme = {0};
    bool add_prefix = true;
    step->cut = true;
    TRY(json_get_str(item, "replacement", &mark, err));
    TRY(json_get_str(item, "prepend_scheme", &scheme, err));
    TRY(json_get_bool(item, "add_prefix_space", &add_prefix, err));
    TRY(json_get_bool(item, "split", &step->cut, err));
    if (mark.len == 0 || (size_t)utf8_char_bytes(mark.ptr, mark.len) != mark.len)
        FAIL(err, ERR_FORMAT, "tokenizer.json: Metaspace's replacement is not one character");
    step->prepend = str_is(scheme, "first")                  ? PRETOK_PREPEND_FIRST
                    : str_is(scheme, "never") || !add_prefix ? PRETOK_PREPEND_NEVER
                                                             : PRETOK_PREPEND_ALWAYS;
    buf_append_str(&step->text, mark);
    return OK;
}

static Status tokenizer_json_pretok_fields(const json_t *item, Str type, PretokStep *step,
                                           Err *err) {
    Str delimiter = {0};
    if (str_is(type, "Split")) {
        TRY(json_get_bool(item, "invert", &step->invert, err));
        TRY(tokenizer_json_behavior(item, &step->behavior, err));
        return tokenizer_json_pattern(item, &step->pattern, NULL, err);
    }
    if (str_is(type, "Whitespace")) {
        step->invert = true;
        step->behavior = PRETOK_REMOVED;
        return pattern_open(&step->pattern,
                            STR_LIT("[\\w\\u200c\\u200d]+|[^\\w\\u200c\\u200d\\s]+"), err);
    }
    if (str_is(type, "CharDelimiterSplit")) {
        TRY(json_get_str(item, "delimiter", &delimiter, err));
        step->behavior = PRETOK_REMOVED;
        return pattern_open_literal(&step->pattern, delimiter, err);
    }
    if (step->kind == PRETOK_METASPACE) return tokenizer_json_pretok_metaspace(item, step, err);
    if (step->kind == PRETOK_PUNCTUATION)
        return tokenizer_json_behavior(item, &step->behavior, err);
    if (step->kind == PRETOK_WHITESPACE) step->behavior = PRETOK_REMOVED;
    if (step->kind == PRETOK_DIGITS) {
        TRY(json_get_bool(item, "individual_digits", &step->individual, err));
        step->behavior = step->individual ? PRETOK_ISOLATED : PRETOK_CONTIGUOUS;
    }
    return OK;
}

Status tokenizer_json_steps_pretok(Tokenizer *t, const json_t *field, Err *err) {
    static const struct {
        const char *type;
        PretokKind kind;
    } kinds[] = {{"Split", PRETOK_SPLIT},
                 {"Whitespace", PRETOK_SPLIT},
                 {"CharDelimiterSplit", PRETOK_SPLIT},
                 {"ByteLevel", PRETOK_BYTE_LEVEL},
                 {"Metaspace", PRETOK_METASPACE},
                 {"Digits", PRETOK_DIGITS},
                 {"Punctuation", PRETOK_PUNCTUATION},
                 {"WhitespaceSplit", PRETOK_WHITESPACE}};
    JsonSteps steps;
    TRY(tokenizer_json_flatten(field, "pretokenizers", &steps, err));
    for (size_t i = 0; i < steps.n; i++) {
        Str type = {0};
        TRY(json_get_str(steps.step[i], "type", &type, err));
        size_t k = 0;
        while (k < ARRAY_LEN(kinds) && !str_is(type, kinds[k].type)) k++;
        if (k == ARRAY_LEN(kinds))
            FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: the pre-tokenizer '%.*s' is not supported",
                 STR_ARG(type));
        if (kinds[k].kind == PRETOK_BYTE_LEVEL) {
            TRY(tokenizer_json_pretok_bytes(t, steps.step[i], err));
            continue;
        }
        PretokStep *step = pretok_add(&t->pretok, kinds[k].kind);
        if (step == NULL) return tokenizer_json_full(err);
        TRY(tokenizer_json_pretok_fields(steps.step[i], type, step, err));
    }
    return OK;
}

/* --- post_processor --- */

/* The ids of a special token of a template: it may stand for several. */
static Status tokenizer_json_template_ids(const json_t *step, Str name, Ints *out, Err *err) {
    const json_t *all = json_object_get(step, "special_tokens");
    const json_t *token = json_is_object(all) ? json_object_getn(all, name.ptr, name.len) : NULL;
    const json_t *ids = json_is_object(token) ? json_object_get(token, "ids") : NULL, *id;
    size_t i;
    if (!json_is_array(ids))
        FAIL(err, ERR_FORMAT, "tokenizer.json: the template's token '%.*s' has no ids",
             STR_ARG(name));
    json_array_foreach(ids, i, id) {
        int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= TOKEN_IDS_MAX)
            FAIL(err, ERR_FORMAT, "tokenizer.json: the template's token '%.*s' has a wrong id",
                 STR_ARG(name));
        ints_push(out, (int32_t)value);
    }
    return OK;
}

static Status tokenizer_json_template(Tokenizer *t, const json_t *step, Err *err) {
    const json_t *single = json_object_get(step, "single"), *item;
    size_t i;
    Ints *out = &t->before;
    if (!json_is_array(single))
        FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: the template 'single' is not a list");
    json_array_foreach(single, i, item) {
        if (json_is_object(json_object_get(item, "Sequence"))) {
            out = &t->after;
            continue;
        }
        const json_t *special = json_object_get(item, "SpecialToken");
        Str name = {0};
        if (!json_is_object(special))
            FAIL(err, ERR_FORMAT, "tokenizer.json: item %zu of the template is not known", i);
        TRY(json_get_str(special, "id", &name, err));
        TRY(tokenizer_json_template_ids(step, name, out, err));
    }
    return OK;
}

/* BertProcessing and RobertaProcessing: [text, id] pairs around the text. */
static Status tokenizer_json_pair(const json_t *step, const char *key, Ints *out, Err *err) {
    const json_t *pair = json_object_get(step, key), *id = json_array_get(pair, 1);
    int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    if (value < 0 || value >= TOKEN_IDS_MAX)
        FAIL(err, ERR_FORMAT, "tokenizer.json: the post-processor's %s has no id", key);
    ints_push(out, (int32_t)value);
    return OK;
}

Status tokenizer_json_steps_post(Tokenizer *t, const json_t *field, Err *err) {
    JsonSteps steps;
    TRY(tokenizer_json_flatten(field, "processors", &steps, err));
    for (size_t i = 0; i < steps.n; i++) {
        const json_t *step = steps.step[i];
        Str type = {0};
        TRY(json_get_str(step, "type", &type, err));
        if (str_is(type, "TemplateProcessing")) {
            TRY(tokenizer_json_template(t, step, err));
        } else if (str_is(type, "RobertaProcessing") || str_is(type, "BertProcessing")) {
            TRY(tokenizer_json_pair(step, "cls", &t->before, err));
            TRY(tokenizer_json_pair(step, "sep", &t->after, err));
        } else if (!str_is(type, "ByteLevel")) {
            FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: the post-processor '%.*s' is not supported",
                 STR_ARG(type));
        }
    }
    if (t->before.len > 0) t->bos = t->before.data[0];
    return OK;
}

/* --- decoder --- */

static Status tokenizer_json_decode_fields(const json_t *item, DecodeStep *step, Err *err) {
    Str text = {0}, scheme = {0};
    switch (step->kind) {
        case DECODE_METASPACE: {
            bool add_prefix = true;
            text = STR_LIT("\xe2\x96\x81");
            TRY(json_get_str(item, "replacement", &text, err));
            TRY(json_get_str(item, "prepend_scheme", &scheme, err));
            TRY(json_get_bool(item, "add_prefix_space", &add_prefix, err));
            step->strip_first = !str_is(scheme, "never") && (scheme.len > 0 || add_prefix);
            break;
        }
        case DECODE_REPLACE: {
            Pattern *pattern = NULL;
            TRY(json_get_str(item, "content", &text, err));
            buf_append_str(&step->with, text);
            TRY(tokenizer_json_pattern(item, &pattern, &step->what, err));
            if (pattern == NULL) return OK;
            pattern_close(pattern);
            FAIL(err, ERR_UNSUPPORTED,
                 "tokenizer.json: a decoder that replaces a regular expression");
        }
        case DECODE_STRIP:
            TRY(json_get_str(item, "content", &text, err));
            TRY(json_get_int(item, "start", 0, INT32_MAX, &step->n_left, err));
            TRY(json_get_int(item, "stop", 0, INT32_MAX, &step->n_right, err));
            break;
        default: return OK;
    }
    buf_append_str(&step->what, text);
    return OK;
}

/* What follows Fuse works on the whole text: only stripping its beginning makes sense there. */
static Status tokenizer_json_decode_whole(Tokenizer *t, const json_t *item, Str type, Err *err) {
    Str text = {0};
    int64_t right = 0;
    if (!str_is(type, "Strip"))
        FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: the decoder '%.*s' after Fuse is not supported",
             STR_ARG(type));
    TRY(json_get_str(item, "content", &text, err));
    TRY(json_get_int(item, "start", 0, INT32_MAX, &t->decoder.strip_left, err));
    TRY(json_get_int(item, "stop", 0, INT32_MAX, &right, err));
    if (right > 0)
        FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: a decoder that strips the end of the text");
    buf_clear(&t->decoder.strip);
    buf_append_str(&t->decoder.strip, text);
    return OK;
}

Status tokenizer_json_steps_decoder(Tokenizer *t, const json_t *field, Err *err) {
    static const struct {
        const char *type;
        DecodeKind kind;
    } kinds[] = {{"ByteLevel", DECODE_BYTE_LEVEL},
                 {"Metaspace", DECODE_METASPACE},
                 {"ByteFallback", DECODE_BYTE_FALLBACK},
                 {"Replace", DECODE_REPLACE},
                 {"Strip", DECODE_STRIP}};
    JsonSteps steps;
    bool fused = false;
    TRY(tokenizer_json_flatten(field, "decoders", &steps, err));
    t->decoder.join_with_space = steps.n == 0;
    for (size_t i = 0; i < steps.n; i++) {
        Str type = {0};
        TRY(json_get_str(steps.step[i], "type", &type, err));
        if (str_is(type, "Fuse")) {
            fused = true;
            continue;
        }
        if (fused) {
            TRY(tokenizer_json_decode_whole(t, steps.step[i], type, err));
            continue;
        }
        size_t k = 0;
        while (k < ARRAY_LEN(kinds) && !str_is(type, kinds[k].type)) k++;
        if (k == ARRAY_LEN(kinds))
            FAIL(err, ERR_UNSUPPORTED, "tokenizer.json: the decoder '%.*s' is not supported",
                 STR_ARG(type));
        DecodeStep *step = decoder_add(&t->decoder, kinds[k].kind);
        if (step == NULL)
            FAIL(err, ERR_LIMIT, "tokenizer.json: more than %d decoders", DECODE_STEPS_MAX);
        TRY(tokenizer_json_decode_fields(steps.step[i], step, err));
    }
    return OK;
}
