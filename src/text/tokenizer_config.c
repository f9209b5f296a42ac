/* tokenizer_config.json: names of the special tokens, and what older files leave to it. */
#include "base/json.h"
#include "text/tokenizer_priv.h"

/* "bos_token": a text, or an object that holds one; null and absent leave *out empty. */
static Status tokenizer_config_text(const json_t *config, const char *key, Str *out, Err *err) {
    const json_t *value = json_object_get(config, key);
    *out = (Str){0};
    if (json_is_object(value)) return json_get_str(value, "content", out, err);
    return json_get_str(config, key, out, err);
}

static Status tokenizer_config_named(Tokenizer *t, const json_t *config, const char *key,
                                     bool is_legacy, int32_t *out, Err *err) {
    Str text;
    TRY(tokenizer_config_text(config, key, &text, err));
    if (text.len == 0) return OK;
    int32_t id = tokenizer_build_find(t, text);
    if (id >= 0 && is_legacy && (t->flags[id] & TOKEN_ADDED) == 0)
        TRY(tokenizer_build_added(t, &(AddedToken){.text = text, .id = id, .special = true}, err));
    if (id >= 0) *out = id;
    return OK;
}

static Status tokenizer_config_added(Tokenizer *t, const json_t *config, Err *err) {
    json_t *all = json_object_get(config, "added_tokens_decoder");
    if (!json_is_object(all)) return OK;
    for (void *at = json_object_iter(all); at != NULL; at = json_object_iter_next(all, at)) {
        const json_t *item = json_object_iter_value(at);
        int64_t id;
        Str key = {json_object_iter_key(at), json_object_iter_key_len(at)};
        if (!json_is_object(item) || !str_to_i64(key, &id) || id < 0 || id >= TOKEN_IDS_MAX)
            FAIL(err, ERR_FORMAT, "tokenizer_config.json: added token '%.*s' is not one",
                 STR_ARG(key));
        AddedToken token = {.id = (int32_t)id};
        TRY(json_get_str(item, "content", &token.text, err));
        TRY(json_get_bool(item, "special", &token.special, err));
        TRY(json_get_bool(item, "lstrip", &token.lstrip, err));
        TRY(json_get_bool(item, "rstrip", &token.rstrip, err));
        TRY(json_get_bool(item, "single_word", &token.single_word, err));
        TRY(json_get_bool(item, "normalized", &token.normalized, err));
        TRY(tokenizer_build_added(t, &token, err));
    }
    return OK;
}

Status tokenizer_config_apply(Tokenizer *t, const json_t *config, bool is_legacy, Err *err) {
    if (is_legacy) TRY(tokenizer_config_added(t, config, err));
    TRY(tokenizer_config_named(t, config, "bos_token", is_legacy, &t->bos, err));
    TRY(tokenizer_config_named(t, config, "eos_token", is_legacy, &t->eos, err));
    bool had = t->before.len > 0, add_bos = had, add_eos = false;
    TRY(json_get_bool(config, "add_bos_token", &add_bos, err));
    TRY(json_get_bool(config, "add_eos_token", &add_eos, err));
    /* A tokenizer.json that says what to add is not overruled. */
    if (!is_legacy && (had || t->after.len > 0)) return OK;
    tokenizer_build_bos(t, add_bos);
    if (add_eos && t->eos >= 0) ints_push(&t->after, t->eos);
    return OK;
}
