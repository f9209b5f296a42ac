/* api_params: the fields of a request that shape its generation: one table with type, range and
 * default, so that nothing out of range reaches the engine. */
#pragma once

#include "base/json.h"
#include "base/mem.h"
#include "sluice.h"

enum {
    API_N_MAX = 8,
    API_STOPS_MAX = 16,
    API_STOP_BYTES_MAX = 256,
    API_BIAS_MAX = 1024,
    API_LOGPROBS_MAX = 20,
    API_STOP_IDS_MAX = 64,
    API_ALLOWED_MAX = 65536,
    API_BAD_WORDS_MAX = 256,
    API_BAD_WORD_BYTES_MAX = 256,
    API_SALT_BYTES_MAX = 1024
};

/* What a request asks beside its prompt. */
typedef struct ApiParams {
    sluice_request request; /* prompt, tenant and user are not filled in */
    bool stream, include_usage, echo, return_token_ids;
    bool echo_only;         /* the prompt and its figures; the one token behind it is not told */
    bool token_ids_as_text; /* tokens of logprobs are told as "token_id:ID" */
    bool base64;            /* of embeddings */
    bool logprobs;
    bool tell_prompt; /* "prompt_logprobs" are part of the reply */
    bool seed_given;
    bool add_special;  /* the tokenizer's own around a prompt that is text */
    int64_t truncate;  /* tokens of the prompt that are kept; 0: all; -1: as many as fit */
    bool truncate_end; /* the end leaves, not the beginning */
    const char *cache_salt;
} ApiParams;

/* What a request's fields are read against. */
typedef struct ApiParamsRules {
    const sluice_model *model;
    int32_t vocab;
    const sluice_sampling *defaults; /* of absent fields */
} ApiParamsRules;

/* A field that a request may not have: named in `param` of the error reply. */
typedef struct ApiFault {
    char param[64];
    const char *code; /* API_CODE_* of api_error.h, or NULL */
    Err err;
} ApiFault;

/* Writes the fault and returns ERR_ARG. */
Status api_params_fault(ApiFault *fault, const char *param, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Reads every common field of the body. Memory of lists comes from the arena. */
MUST_USE Status api_params_read(ApiParams *params, const json_t *body, const ApiParamsRules *rules,
                                Arena *arena, ApiFault *fault);

/* Reads one integer or boolean field with its range; absent or null leaves *out. */
MUST_USE Status api_params_int(const json_t *body, const char *key, int64_t min, int64_t max,
                               int64_t *out, ApiFault *fault);
MUST_USE Status api_params_bool(const json_t *body, const char *key, bool *out, ApiFault *fault);
/* The fields `keys` of other APIs, which would change the answer and of which this one has no part:
 * absent, null, false, [] or an n of 1. */
MUST_USE Status api_params_elsewhere(const json_t *body, const char *const *keys, size_t n,
                                     ApiFault *fault);
/* A "stop"-like field: a string, or a list of them. */
MUST_USE Status api_params_stop(const json_t *body, const char *key, sluice_request *request,
                                Arena *arena, ApiFault *fault);
