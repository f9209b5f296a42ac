#include "server/api_params.h"

#include <stdarg.h>
#include <stdio.h>

Status api_params_fault(ApiFault *fault, const char *param, const char *format, ...) {
    char text[ERR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(fault->param, sizeof fault->param, "%s", param);
    return err_set(&fault->err, ERR_ARG, "%s", text);
}

/* The field, or NULL when it is absent or null. */
static const json_t *api_params_field(const json_t *body, const char *key) {
    const json_t *value = json_object_get(body, key);
    return json_is_null(value) ? NULL : value;
}

Status api_params_int(const json_t *body, const char *key, int64_t min, int64_t max, int64_t *out,
                      ApiFault *fault) {
    const json_t *value = api_params_field(body, key);
    if (value == NULL) return OK;
    if (!json_is_integer(value))
        return api_params_fault(fault, key, "'%s' must be an integer", key);
    int64_t number = json_integer_value(value);
    if (number < min || number > max)
        return api_params_fault(fault, key, "'%s' is %lld, wanted %lld to %lld", key,
                                (long long)number, (long long)min, (long long)max);
    *out = number;
    return OK;
}

Status api_params_bool(const json_t *body, const char *key, bool *out, ApiFault *fault) {
    const json_t *value = api_params_field(body, key);
    if (value == NULL) return OK;
    if (!json_is_boolean(value))
        return api_params_fault(fault, key, "'%s' must be true or false", key);
    *out = json_is_true(value);
    return OK;
}

/* ---- numbers ---- */

typedef struct ApiNumber {
    const char *key;
    double min, max;
    size_t offset; /* of a float in sluice_sampling */
} ApiNumber;

static const ApiNumber API_NUMBERS[] = {
    {"temperature", 0, 2, offsetof(sluice_sampling, temperature)},
    {"top_p", 1e-6, 1, offsetof(sluice_sampling, top_p)},
    {"min_p", 0, 1, offsetof(sluice_sampling, min_p)},
    {"repetition_penalty", 1e-3, 100, offsetof(sluice_sampling, repetition_penalty)},
    {"presence_penalty", -2, 2, offsetof(sluice_sampling, presence_penalty)},
    {"frequency_penalty", -2, 2, offsetof(sluice_sampling, frequency_penalty)},
};

static Status api_params_numbers(sluice_sampling *sampling, const json_t *body, ApiFault *fault) {
    for (size_t i = 0; i < ARRAY_LEN(API_NUMBERS); i++) {
        const ApiNumber *row = &API_NUMBERS[i];
        const json_t *value = api_params_field(body, row->key);
        if (value == NULL) continue;
        if (!json_is_number(value))
            return api_params_fault(fault, row->key, "'%s' must be a number", row->key);
        double number = json_number_value(value);
        if (!(number >= row->min && number <= row->max))
            return api_params_fault(fault, row->key, "'%s' is %g, wanted %g to %g", row->key,
                                    number, row->min, row->max);
        *(float *)((char *)sampling + row->offset) = (float)number;
    }
    return OK;
}

/* ---- fields that would change the answer and are not supported ---- */

typedef struct ApiUnsupported {
    const char *key;
    const char *neutral; /* a text that changes nothing, or NULL */
} ApiUnsupported;

static const ApiUnsupported API_UNSUPPORTED[] = {
    {"audio", NULL},
    {"web_search_options", NULL},
    {"functions", NULL},
    {"function_call", NULL},
    {"guided_json", NULL},
    {"guided_regex", NULL},
    {"guided_choice", NULL},
    {"guided_grammar", NULL},
    {"guided_decoding_backend", NULL},
    {"structured_outputs", NULL},
    {"grammar", NULL},
    {"json_schema", NULL},
    {"logits_processors", NULL},
    {"suffix", ""},
    {"thinking_token_budget", NULL},
    {"chat_template", NULL},
    {"documents", NULL},
    {"kv_transfer_params", NULL},
    {"logprob_token_ids", NULL},
    {"repetition_detection", NULL},
    {"return_prompt_text", NULL},
    {"vllm_xargs", NULL},
    {"moderation", NULL},
    {"modalities", "text"},
    {"verbosity", "medium"},
    {"prompt_embeds", NULL},
    {"lora_request", NULL},
};

/* null, false, empty, and the default everywhere change nothing. */
static bool api_params_is_neutral(const ApiUnsupported *row, const json_t *value) {
    if (json_is_null(value) || json_is_false(value)) return true;
    if (json_is_array(value) && json_array_size(value) == 0) return true;
    if (json_is_object(value) && json_object_size(value) == 0) return true;
    if (json_is_array(value) && json_array_size(value) == 1) value = json_array_get(value, 0);
    return row->neutral != NULL && json_is_string(value) &&
           strcmp(json_string_value(value), row->neutral) == 0;
}

Status api_params_elsewhere(const json_t *body, const char *const *keys, size_t n,
                            ApiFault *fault) {
    for (size_t i = 0; i < n; i++) {
        const json_t *value = api_params_field(body, keys[i]);
        const bool one = strcmp(keys[i], "n") == 0 && json_integer_value(value) == 1;
        const bool empty = json_is_array(value) && json_array_size(value) == 0;
        if (value != NULL && !json_is_false(value) && !empty && !one)
            return api_params_fault(fault, keys[i], "'%s' is no field of this API", keys[i]);
    }
    return OK;
}

static Status api_params_unsupported(const json_t *body, ApiFault *fault) {
    for (size_t i = 0; i < ARRAY_LEN(API_UNSUPPORTED); i++) {
        const ApiUnsupported *row = &API_UNSUPPORTED[i];
        const json_t *value = json_object_get(body, row->key);
        if (value != NULL && !api_params_is_neutral(row, value))
            return api_params_fault(fault, row->key, "'%s' is not supported", row->key);
    }
    const json_t *format = api_params_field(body, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format != NULL && (type == NULL || strcmp(type, "text") != 0))
        return api_params_fault(
            fault, "response_format",
            "'response_format' other than {\"type\": \"text\"} is not supported");
    return OK;
}

/* ---- fields that change nothing here: their type is looked at all the same ---- */

typedef struct ApiIgnored {
    const char *key;
    json_type type, other; /* of the value */
} ApiIgnored;

static const ApiIgnored API_IGNORED[] = {
    {"user", JSON_STRING, JSON_STRING},
    {"safety_identifier", JSON_STRING, JSON_STRING},
    {"service_tier", JSON_STRING, JSON_STRING},
    {"prompt_cache_retention", JSON_STRING, JSON_STRING},
    {"prompt_cache_options", JSON_OBJECT, JSON_OBJECT},
    {"metadata", JSON_OBJECT, JSON_OBJECT},
    {"store", JSON_TRUE, JSON_FALSE},
    {"prediction", JSON_OBJECT, JSON_OBJECT},
    {"request_id", JSON_STRING, JSON_STRING},
    {"session_id", JSON_STRING, JSON_STRING},
    {"stream_interval", JSON_INTEGER, JSON_INTEGER},
    {"spaces_between_special_tokens", JSON_TRUE, JSON_FALSE},
};

static Status api_params_ignored(const json_t *body, ApiFault *fault) {
    static const char *const names[] = {"an object", "a list",        "a string",     "an integer",
                                        "a number",  "true or false", "true or false"};
    for (size_t i = 0; i < ARRAY_LEN(API_IGNORED); i++) {
        const ApiIgnored *row = &API_IGNORED[i];
        const json_t *value = api_params_field(body, row->key);
        if (value != NULL && json_typeof(value) != row->type && json_typeof(value) != row->other)
            return api_params_fault(fault, row->key, "'%s' must be %s", row->key, names[row->type]);
    }
    return OK;
}

/* ---- lists ---- */

static const char *api_params_copy(Arena *arena, const json_t *text) {
    return arena_strndup(arena, json_string_value(text), json_string_length(text));
}

static Status api_params_one_stop(const json_t *text, const char *key, const char **out,
                                  Arena *arena, ApiFault *fault) {
    size_t len = json_is_string(text) ? json_string_length(text) : 0;
    if (len == 0 || len > API_STOP_BYTES_MAX || strlen(json_string_value(text)) != len)
        return api_params_fault(fault, key, "'%s' must hold strings of 1 to %d bytes", key,
                                API_STOP_BYTES_MAX);
    *out = api_params_copy(arena, text);
    return *out != NULL ? OK : err_set(&fault->err, ERR_NOMEM, "no memory for the request");
}

Status api_params_stop(const json_t *body, const char *key, sluice_request *request, Arena *arena,
                       ApiFault *fault) {
    const json_t *value = api_params_field(body, key);
    if (value == NULL) return OK;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    if (n > API_STOPS_MAX)
        return api_params_fault(fault, key, "'%s' has %zu strings, at most %d are allowed", key, n,
                                API_STOPS_MAX);
    const char **stop = arena_alloc(arena, n * sizeof *stop);
    if (stop == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for the request");
    for (size_t i = 0; i < n; i++)
        TRY(api_params_one_stop(json_is_array(value) ? json_array_get(value, i) : value, key,
                                &stop[i], arena, fault));
    request->stop = stop;
    request->n_stop = (int32_t)n;
    return OK;
}

/* A list of token ids; *n stays when the field is absent. */
static Status api_params_ids(const json_t *body, const char *key, int32_t n_max, int32_t vocab,
                             const int32_t **out, int32_t *n_out, Arena *arena, ApiFault *fault) {
    const json_t *value = api_params_field(body, key);
    if (value == NULL) return OK;
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n > (size_t)n_max)
        return api_params_fault(fault, key, "'%s' must be a list of at most %d token ids", key,
                                n_max);
    int32_t *ids = arena_alloc(arena, n * sizeof *ids);
    if (ids == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for the request");
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(value, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return api_params_fault(
                fault, key, "'%s' holds something that is not a token id below %d", key, vocab);
        ids[i] = (int32_t)json_integer_value(id);
    }
    *out = ids;
    *n_out = (int32_t)n;
    return OK;
}

static Status api_params_id_lists(sluice_request *request, const json_t *body,
                                  const ApiParamsRules *rules, Arena *arena, ApiFault *fault) {
    TRY(api_params_ids(body, "stop_token_ids", API_STOP_IDS_MAX, rules->vocab, &request->stop_ids,
                       &request->n_stop_ids, arena, fault));
    const char *key = "allowed_token_ids";
    TRY(api_params_ids(body, key, API_ALLOWED_MAX, rules->vocab, &request->allowed,
                       &request->n_allowed, arena, fault));
    if (api_params_field(body, key) != NULL && request->n_allowed == 0)
        return api_params_fault(fault, key, "'%s' is empty: nothing could be answered", key);
    return OK;
}

/* The tokens of a word that may not come, as it is and behind a blank, which many tokenizers make
 * one token with it. */
static Status api_params_bad_word(const char *word, const ApiParamsRules *rules,
                                  sluice_request *request, sluice_tokens *bad, Arena *arena,
                                  ApiFault *fault) {
    char text[API_BAD_WORD_BYTES_MAX + 2];
    size_t len = strlen(word);
    text[0] = ' ';
    memcpy(text + 1, word, len + 1);
    for (int32_t blank = 0; blank < 2; blank++) {
        const char *from = blank == 1 ? text : word;
        size_t n = 0;
        int32_t *ids = arena_alloc(arena, (len + 8) * sizeof *ids);
        sluice_error failure = {0};
        if (ids == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for the request");
        if (sluice_tokenize(rules->model, from, strlen(from), false, false, ids, len + 8, &n,
                            &failure) != SLUICE_OK)
            return api_params_fault(fault, "bad_words", "'bad_words' holds a word without tokens");
        if (n > 0) bad[request->n_bad++] = (sluice_tokens){ids, (int32_t)n};
    }
    return OK;
}

static Status api_params_bad_words(sluice_request *request, const json_t *body,
                                   const ApiParamsRules *rules, Arena *arena, ApiFault *fault) {
    const char *key = "bad_words";
    const json_t *value = api_params_field(body, key);
    if (value == NULL) return OK;
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n > API_BAD_WORDS_MAX)
        return api_params_fault(fault, key, "'%s' must be a list of at most %d strings", key,
                                API_BAD_WORDS_MAX);
    sluice_tokens *bad = arena_alloc(arena, 2 * n * sizeof *bad);
    if (bad == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for the request");
    request->bad = bad;
    for (size_t i = 0; i < n; i++) {
        const char *word;
        TRY(api_params_one_stop(json_array_get(value, i), key, &word, arena, fault));
        TRY(api_params_bad_word(word, rules, request, bad, arena, fault));
    }
    return OK;
}

/* {"token id": bias}: OpenAI writes ids as strings. */
static Status api_params_bias(const json_t *body, sluice_sampling *sampling, int32_t vocab,
                              Arena *arena, ApiFault *fault) {
    const char *key = "logit_bias", *name;
    json_t *map = (json_t *)(uintptr_t)api_params_field(body, key), *value;
    if (map == NULL) return OK;
    size_t n = json_object_size(map);
    if (!json_is_object(map) || n > API_BIAS_MAX)
        return api_params_fault(fault, key, "'%s' must be an object of at most %d entries", key,
                                API_BIAS_MAX);
    sluice_bias *bias = arena_alloc(arena, n * sizeof *bias);
    if (bias == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for the request");
    int32_t at = 0;
    json_object_foreach(map, name, value) {
        int64_t id;
        double number = json_number_value(value);
        if (!str_to_i64(str_from(name), &id) || id < 0 || id >= vocab || !json_is_number(value) ||
            !(number >= -100 && number <= 100))
            return api_params_fault(fault, key,
                                    "'%s' must map token ids below %d to numbers from -100 to 100",
                                    key, vocab);
        bias[at++] = (sluice_bias){(int32_t)id, (float)number};
    }
    sampling->bias = bias;
    sampling->n_bias = at;
    return OK;
}

/* ---- all of it ---- */

/* Integers and flags of ApiParams. */
typedef struct ApiInt {
    const char *key;
    int64_t min, max;
    size_t offset; /* of an int32_t */
} ApiInt;

static const ApiInt API_INTS[] = {
    {"n", 1, API_N_MAX, offsetof(ApiParams, request.n)},
    {"min_tokens", 0, 1 << 30, offsetof(ApiParams, request.min_tokens)},
    {"priority", -(1 << 30), 1 << 30, offsetof(ApiParams, request.priority)},
    {"max_tokens", 1, 1 << 30, offsetof(ApiParams, request.max_tokens)},
    {"max_completion_tokens", 1, 1 << 30, offsetof(ApiParams, request.max_tokens)},
    {"prompt_logprobs", 0, API_LOGPROBS_MAX, offsetof(ApiParams, request.prompt_logprobs)},
};

typedef struct ApiFlag {
    const char *key;
    size_t offset; /* of a bool */
} ApiFlag;

static const ApiFlag API_FLAGS[] = {
    {"stream", offsetof(ApiParams, stream)},
    {"echo", offsetof(ApiParams, echo)},
    {"ignore_eos", offsetof(ApiParams, request.ignore_eos)},
    {"include_stop_str_in_output", offsetof(ApiParams, request.include_stop)},
    {"return_token_ids", offsetof(ApiParams, return_token_ids)},
    {"return_tokens_as_token_ids", offsetof(ApiParams, token_ids_as_text)},
    {"add_special_tokens", offsetof(ApiParams, add_special)},
};

static Status api_params_table(ApiParams *params, const json_t *body, ApiFault *fault) {
    for (size_t i = 0; i < ARRAY_LEN(API_INTS); i++) {
        const ApiInt *row = &API_INTS[i];
        int32_t *out = (int32_t *)((char *)params + row->offset);
        int64_t value = *out;
        TRY(api_params_int(body, row->key, row->min, row->max, &value, fault));
        *out = (int32_t)value;
    }
    for (size_t i = 0; i < ARRAY_LEN(API_FLAGS); i++)
        TRY(api_params_bool(body, API_FLAGS[i].key, (bool *)((char *)params + API_FLAGS[i].offset),
                            fault));
    return OK;
}

/* Numbers that are not stored as they are written. */
static Status api_params_counts(ApiParams *params, const json_t *body, ApiFault *fault) {
    sluice_request *request = &params->request;
    int64_t top_k = request->sampling.top_k, seed = INT64_MIN, best_of = request->n;
    bool skip_special = true;
    TRY(api_params_int(body, "top_k", -1, 1 << 30, &top_k, fault));
    TRY(api_params_int(body, "seed", INT64_MIN + 1, INT64_MAX, &seed, fault));
    TRY(api_params_int(body, "best_of", 1, API_N_MAX, &best_of, fault));
    TRY(api_params_bool(body, "skip_special_tokens", &skip_special, fault));
    request->sampling.top_k = (int32_t)MAX(top_k, 0);
    request->with_special = !skip_special;
    request->priority = -request->priority; /* vLLM: the lower runs first */
    params->seed_given = seed != INT64_MIN;
    if (params->seed_given) request->sampling.seed = (uint64_t)seed;
    if (best_of != request->n)
        return api_params_fault(fault, "best_of", "'best_of' other than 'n' is not supported");
    return OK;
}

static Status api_params_stream(ApiParams *params, const json_t *body, ApiFault *fault) {
    const json_t *options = api_params_field(body, "stream_options");
    bool obfuscation = false;
    if (options != NULL && !json_is_object(options))
        return api_params_fault(fault, "stream_options", "'stream_options' must be an object");
    if (options != NULL && !params->stream)
        return api_params_fault(fault, "stream_options",
                                "'stream_options' is only for 'stream': true");
    if (params->stream && params->request.prompt_logprobs >= 0)
        return api_params_fault(fault, "prompt_logprobs",
                                "'prompt_logprobs' is not for 'stream': true");
    TRY(api_params_bool(options, "include_obfuscation", &obfuscation, fault));
    return api_params_bool(options, "include_usage", &params->include_usage, fault);
}

static Status api_params_truncate(ApiParams *params, const json_t *body, ApiFault *fault) {
    TRY(api_params_int(body, "truncate_prompt_tokens", -1, 1 << 30, &params->truncate, fault));
    const json_t *side = api_params_field(body, "truncation_side");
    if (side == NULL) return OK;
    Str word = str_from(json_string_value(side));
    params->truncate_end = str_is(word, "right");
    if (!params->truncate_end && !str_is(word, "left"))
        return api_params_fault(fault, "truncation_side",
                                "'truncation_side' must be 'left' or 'right'");
    return OK;
}

/* A beam search of n beams, all of which are told: vLLM's. */
static Status api_params_beam(ApiParams *params, const json_t *body, ApiFault *fault) {
    const char *key = "use_beam_search";
    sluice_request *request = &params->request;
    const json_t *penalty = api_params_field(body, "length_penalty");
    bool beam = false;
    if (penalty != NULL && !(json_is_number(penalty) && json_number_value(penalty) >= -100 &&
                             json_number_value(penalty) <= 100))
        return api_params_fault(fault, "length_penalty",
                                "'length_penalty' must be a number from -100 to 100");
    if (penalty != NULL) request->length_penalty = (float)json_number_value(penalty);
    TRY(api_params_bool(body, key, &beam, fault));
    if (!beam) return OK;
    request->beam_width = request->n;
    if (api_params_field(body, "temperature") == NULL) request->sampling.temperature = 0;
    if (request->sampling.temperature > 0 || request->n_stop > 0 || request->n_bad > 0 ||
        request->prompt_logprobs >= 0 || api_params_field(body, "logprobs") != NULL)
        return api_params_fault(fault, key,
                                "'%s' goes with temperature 0 and without 'stop', 'bad_words' and "
                                "logprobs",
                                key);
    return OK;
}

static Status api_params_salt(ApiParams *params, const json_t *body, Arena *arena,
                              ApiFault *fault) {
    static const char *const keys[] = {"cache_salt", "prompt_cache_key"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const json_t *value = api_params_field(body, keys[i]);
        if (value == NULL) continue;
        if (!json_is_string(value) || json_string_length(value) == 0 ||
            json_string_length(value) > API_SALT_BYTES_MAX)
            return api_params_fault(fault, keys[i], "'%s' must be a string of 1 to %d bytes",
                                    keys[i], API_SALT_BYTES_MAX);
        params->cache_salt = api_params_copy(arena, value);
    }
    params->request.cache_salt = params->cache_salt;
    return OK;
}

Status api_params_read(ApiParams *params, const json_t *body, const ApiParamsRules *rules,
                       Arena *arena, ApiFault *fault) {
    *params = (ApiParams){.request = SLUICE_REQUEST_INIT, .add_special = true};
    sluice_request *request = &params->request;
    request->sampling = *rules->defaults;
    request->n = 1;
    TRY(api_params_unsupported(body, fault));
    TRY(api_params_ignored(body, fault));
    TRY(api_params_numbers(&request->sampling, body, fault));
    TRY(api_params_table(params, body, fault));
    TRY(api_params_counts(params, body, fault));
    TRY(api_params_stream(params, body, fault));
    TRY(api_params_truncate(params, body, fault));
    TRY(api_params_stop(body, "stop", request, arena, fault));
    TRY(api_params_id_lists(request, body, rules, arena, fault));
    TRY(api_params_bad_words(request, body, rules, arena, fault));
    TRY(api_params_bias(body, &request->sampling, rules->vocab, arena, fault));
    TRY(api_params_beam(params, body, fault));
    return api_params_salt(params, body, arena, fault);
}
