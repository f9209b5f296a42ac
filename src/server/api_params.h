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
    API_STOP_IDS_MAX = 64
};

/* What a request asks beside its prompt. */
typedef struct ApiParams {
    sluice_request request; /* prompt, tenant and user are not filled in */
    bool stream, include_usage, echo, return_token_ids;
    bool base64; /* of embeddings */
    bool logprobs;
    bool seed_given;
    const char *cache_salt;
} ApiParams;

/* A field that a request may not have: named in `param` of the error reply. */
typedef struct ApiFault {
    char param[64];
    Err err;
} ApiFault;

/* Writes the fault and returns ERR_ARG. */
Status api_params_fault(ApiFault *fault, const char *param, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Reads every common field of the body. Memory of lists comes from the arena. defaults: the
 * sampling that absent fields get. */
MUST_USE Status api_params_read(ApiParams *params, const json_t *body,
                                const sluice_sampling *defaults, Arena *arena, ApiFault *fault);

/* Reads one integer or boolean field with its range; absent or null leaves *out. */
MUST_USE Status api_params_int(const json_t *body, const char *key, int64_t min, int64_t max,
                               int64_t *out, ApiFault *fault);
MUST_USE Status api_params_bool(const json_t *body, const char *key, bool *out, ApiFault *fault);
/* A "stop"-like field: a string, or a list of them. */
MUST_USE Status api_params_stop(const json_t *body, const char *key, sluice_request *request,
                                Arena *arena, ApiFault *fault);
