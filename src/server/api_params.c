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

static const char *const API_UNSUPPORTED[] = {"audio",
                                              "web_search_options",
                                              "modalities",
                                              "prediction",
                                              "functions",
                                              "function_call",
                                              "guided_json",
                                              "guided_regex",
                                              "guided_choice",
                                              "guided_grammar",
                                              "guided_decoding_backend",
                                              "structured_outputs",
                                              "logits_processors",
                                              "bad_words",
                                              "allowed_token_ids",
                                              "best_of",
                                              "suffix",
                                              "truncate_prompt_tokens",
                                              "thinking_token_budget",
                                              "chat_template",
                                              "documents",
                                              "kv_transfer_params",
                                              "logprob_token_ids",
                                              "repetition_detection",
                                              "verbosity"};

/* null, false, and what equals the default everywhere change nothing. */
static bool api_params_is_neutral(const char *key, const json_t *value) {
    if (json_is_null(value) || json_is_false(value)) return true;
    if (json_is_array(value) && json_array_size(value) == 0) return true;
    if (strcmp(key, "best_of") == 0)
        return json_is_integer(value) && json_integer_value(value) == 1;
    if (strcmp(key, "modalities") == 0)
        return json_array_size(value) == 1 && json_is_string(json_array_get(value, 0)) &&
               strcmp(json_string_value(json_array_get(value, 0)), "text") == 0;
    if (strcmp(key, "verbosity") == 0)
        return json_is_string(value) && strcmp(json_string_value(value), "medium") == 0;
    if (strcmp(key, "suffix") == 0) return json_is_string(value) && json_string_length(value) == 0;
    return false;
}

static Status api_params_unsupported(const json_t *body, ApiFault *fault) {
    for (size_t i = 0; i < ARRAY_LEN(API_UNSUPPORTED); i++) {
        const json_t *value = json_object_get(body, API_UNSUPPORTED[i]);
        if (value != NULL && !api_params_is_neutral(API_UNSUPPORTED[i], value))
            return api_params_fault(fault, API_UNSUPPORTED[i], "'%s' is not supported",
                                    API_UNSUPPORTED[i]);
    }
    const json_t *format = api_params_field(body, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format != NULL && (type == NULL || strcmp(type, "text") != 0))
        return api_params_fault(
            fault, "response_format",
            "'response_format' other than {\"type\": \"text\"} is not supported");
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

static Status api_params_stop_ids(const json_t *body, sluice_request *request, Arena *arena,
                                  ApiFault *fault) {
    const char *key = "stop_token_ids";
    const json_t *value = api_params_field(body, key);
    if (value == NULL) return OK;
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n > API_STOP_IDS_MAX)
        return api_params_fault(fault, key, "'%s' must be a list of at most %d ids", key,
                                API_STOP_IDS_MAX);
    int32_t *ids = arena_alloc(arena, n * sizeof *ids);
    if (ids == NULL) FAIL(&fault->err, ERR_NOMEM, "no memory for the request");
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(value, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return api_params_fault(fault, key, "'%s' must be a list of token ids", key);
        ids[i] = (int32_t)json_integer_value(id);
    }
    request->stop_ids = ids;
    request->n_stop_ids = (int32_t)n;
    return OK;
}

/* {"token id": bias}: OpenAI writes ids as strings. */
static Status api_params_bias(const json_t *body, sluice_sampling *sampling, Arena *arena,
                              ApiFault *fault) {
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
        if (!str_to_i64(str_from(name), &id) || id < 0 || id > INT32_MAX ||
            !json_is_number(value) || !(number >= -100 && number <= 100))
            return api_params_fault(fault, key,
                                    "'%s' must map token ids to numbers from -100 to 100", key);
        bias[at++] = (sluice_bias){(int32_t)id, (float)number};
    }
    sampling->bias = bias;
    sampling->n_bias = at;
    return OK;
}

/* ---- all of it ---- */

static Status api_params_counts(ApiParams *params, const json_t *body, ApiFault *fault) {
    sluice_request *request = &params->request;
    int64_t n = 1, top_k = request->sampling.top_k, min_tokens = 0, priority = 0;
    int64_t seed = INT64_MIN, max_tokens = 0;
    TRY(api_params_int(body, "n", 1, API_N_MAX, &n, fault));
    TRY(api_params_int(body, "top_k", -1, 1 << 30, &top_k, fault));
    TRY(api_params_int(body, "min_tokens", 0, 1 << 30, &min_tokens, fault));
    TRY(api_params_int(body, "priority", -(1 << 30), 1 << 30, &priority, fault));
    TRY(api_params_int(body, "seed", INT64_MIN + 1, INT64_MAX, &seed, fault));
    TRY(api_params_int(body, "max_tokens", 1, 1 << 30, &max_tokens, fault));
    TRY(api_params_int(body, "max_completion_tokens", 1, 1 << 30, &max_tokens, fault));
    request->n = (int32_t)n;
    request->sampling.top_k = (int32_t)MAX(top_k, 0);
    request->min_tokens = (int32_t)min_tokens;
    request->max_tokens = (int32_t)max_tokens;
    request->priority = (int32_t)MIN(MAX(priority, INT32_MIN), INT32_MAX);
    params->seed_given = seed != INT64_MIN;
    if (params->seed_given) request->sampling.seed = (uint64_t)seed;
    return OK;
}

static Status api_params_flags(ApiParams *params, const json_t *body, ApiFault *fault) {
    sluice_request *request = &params->request;
    bool skip_special = true;
    TRY(api_params_bool(body, "stream", &params->stream, fault));
    TRY(api_params_bool(body, "echo", &params->echo, fault));
    TRY(api_params_bool(body, "ignore_eos", &request->ignore_eos, fault));
    TRY(api_params_bool(body, "include_stop_str_in_output", &request->include_stop, fault));
    TRY(api_params_bool(body, "skip_special_tokens", &skip_special, fault));
    TRY(api_params_bool(body, "return_token_ids", &params->return_token_ids, fault));
    request->with_special = !skip_special;
    const json_t *options = api_params_field(body, "stream_options");
    if (options != NULL && !json_is_object(options))
        return api_params_fault(fault, "stream_options", "'stream_options' must be an object");
    if (options != NULL && !params->stream)
        return api_params_fault(fault, "stream_options",
                                "'stream_options' is only for 'stream': true");
    return api_params_bool(options, "include_usage", &params->include_usage, fault);
}

static Status api_params_salt(ApiParams *params, const json_t *body, Arena *arena,
                              ApiFault *fault) {
    static const char *const keys[] = {"cache_salt", "prompt_cache_key"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const json_t *value = api_params_field(body, keys[i]);
        if (value == NULL) continue;
        if (!json_is_string(value) || json_string_length(value) == 0 ||
            json_string_length(value) > 1024)
            return api_params_fault(fault, keys[i], "'%s' must be a string of 1 to 1024 bytes",
                                    keys[i]);
        params->cache_salt = api_params_copy(arena, value);
    }
    params->request.cache_salt = params->cache_salt;
    return OK;
}

Status api_params_read(ApiParams *params, const json_t *body, const sluice_sampling *defaults,
                       Arena *arena, ApiFault *fault) {
    *params = (ApiParams){.request = SLUICE_REQUEST_INIT};
    params->request.sampling = *defaults;
    TRY(api_params_unsupported(body, fault));
    TRY(api_params_numbers(&params->request.sampling, body, fault));
    TRY(api_params_counts(params, body, fault));
    TRY(api_params_flags(params, body, fault));
    TRY(api_params_stop(body, "stop", &params->request, arena, fault));
    TRY(api_params_stop_ids(body, &params->request, arena, fault));
    TRY(api_params_bias(body, &params->request.sampling, arena, fault));
    return api_params_salt(params, body, arena, fault);
}
