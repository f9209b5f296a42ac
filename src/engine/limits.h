/* limits: every limit of the engine and how they relate. */
#pragma once

#include "base/base.h"
#include "kv/kv_cache.h"
#include "model/model_config.h"
#include "sample/sampler.h"
#include "text/detok.h"

enum {
    ENGINE_SEQS_MAX = 4096, /* of one request: ENGINE_N_MAX */
    ENGINE_N_MAX = 8,
    ENGINE_STEP_TOKENS_MAX = 65536,
    ENGINE_QUEUE_MAX = 1 << 20,
    ENGINE_CONTEXT_MAX = 1 << 24,
    ENGINE_STOP_IDS_MAX = 256,
    ENGINE_TEXT_PENDING_MAX = 1 << 20,  /* bytes of text waiting to be fetched, per sequence */
    ENGINE_REQUEST_BYTES_MAX = 1 << 28, /* of one request's tokens and logprobs */
    ENGINE_TENANT_BYTES_MAX = 1024,
    ENGINE_KV_EVENTS_MAX = 1 << 20
};

_Static_assert((int)KV_GROUPS_MAX == (int)MODEL_KV_GROUPS_MAX, "one KV pool per KV group");
_Static_assert(ENGINE_N_MAX * 2 <= SAMPLER_LOGPROBS_MAX, "a beam needs twice its width");
_Static_assert((int64_t)ENGINE_STEP_TOKENS_MAX < INT32_MAX, "tokens of a step are int32");

/* What the engine is built for, all set and checked (see engine_limits_check). */
typedef struct EngineLimits {
    int32_t vocab, dim;
    int32_t max_context;     /* tokens of one sequence */
    int32_t max_seqs;        /* running at once */
    int32_t max_step_tokens; /* of one step */
    int32_t max_queue;       /* requests that wait */
    int32_t max_logits;      /* rows of logits of one step; 1 to max_step_tokens */
    KvCacheConfig kv;
    int64_t block_bytes[KV_GROUPS_MAX]; /* of one KV block */
} EngineLimits;
