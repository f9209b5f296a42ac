/* sluice.h: libsluice, an inference engine for large language models.
 *
 * The whole public interface. Open a model, start an engine on it, submit requests from any thread,
 * receive tokens as events. A request's tokens are a function of the request alone: neither the
 * load nor the schedule changes a bit of them.
 *
 * Structs that a caller fills begin with `size`: set it to sizeof the struct (the *_INIT macros
 * do), so that later versions may add fields at the end. Handles are opaque. Strings are UTF-8 and
 * NUL-terminated unless a length is given. There are no globals.
 *
 * Threads: every function may be called from any thread unless its comment says otherwise; a handle
 * must not be used during or after its close. */
#ifndef SLUICE_H
#define SLUICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SLUICE_API __attribute__((visibility("default")))
#else
#define SLUICE_API
#endif

#define SLUICE_VERSION_MAJOR 0
#define SLUICE_VERSION_MINOR 1
#define SLUICE_VERSION_PATCH 0

typedef enum sluice_status {
    SLUICE_OK,
    SLUICE_ERR_ARG, /* the call's arguments are off */
    SLUICE_ERR_IO,
    SLUICE_ERR_NOT_FOUND,
    SLUICE_ERR_FORMAT, /* a malformed file */
    SLUICE_ERR_UNSUPPORTED,
    SLUICE_ERR_LIMIT, /* too much now: later, or smaller */
    SLUICE_ERR_NOMEM,
    SLUICE_ERR_CANCELLED,
    SLUICE_ERR_DEVICE,
    SLUICE_ERR_TEMPLATE /* raised by the chat template */
} sluice_status;

/* A sentence about a failure; zero it before use. Every `err` argument may be NULL. */
typedef struct sluice_error {
    sluice_status status;
    char text[512];
} sluice_error;

SLUICE_API const char *sluice_version(void);
SLUICE_API const char *sluice_strerror(sluice_status status);

/* ---- model ------------------------------------------------------------------------------- */

typedef struct sluice_model sluice_model;

typedef struct sluice_model_options {
    size_t size;
    int32_t n_threads;  /* 0: the cores this process may use */
    const char *level;  /* "ref", "avx2", "avx512", "avx512bf16", "amx"; NULL: the CPU's fastest */
    const char *device; /* "cpu", "cuda", "cuda:1"; NULL: "cpu" */
    bool quiet;         /* no progress bar on stderr */
} sluice_model_options;
#define SLUICE_MODEL_OPTIONS_INIT \
    { .size = sizeof(sluice_model_options) }

/* Opens a Hugging Face directory, a .safetensors or a GGUF file with its tokenizer and chat
 * template. */
SLUICE_API sluice_status sluice_model_open(sluice_model **out, const char *path,
                                           const sluice_model_options *options, sluice_error *err);
/* Every engine on it must be closed before. */
SLUICE_API void sluice_model_close(sluice_model *model);

typedef struct sluice_model_info {
    size_t size;
    const char *arch; /* borrowed from the model */
    const char *path, *format, *weight_dtype, *level, *tokenizer;
    int64_t n_params, n_params_active;
    int64_t weight_bytes, weight_bytes_per_token;
    int32_t vocab, context, n_layers, dim, n_heads, n_kv_heads, head_dim;
    int32_t n_experts, n_experts_used, window;
    int32_t n_threads;
    bool has_chat_template;
    int32_t bos_id, eos_id; /* -1: none */
    /* The model's own sampling defaults (generation_config.json, general.sampling.*); negative:
     * not given. */
    double temperature, top_p;
    int32_t top_k;
    /* The chat template's source, borrowed; NULL: none. The second renders requests with tools and
     * is the first where the model has only one. */
    const char *chat_template, *tool_template;
} sluice_model_info;
SLUICE_API void sluice_model_get_info(const sluice_model *model, sluice_model_info *info);

/* A hash of what decides the model's logits: its configuration and every weight. Reads the whole
 * file. */
SLUICE_API uint64_t sluice_model_hash(const sluice_model *model);

/* Text -> ids into ids[0..capacity); *n is set to the number needed, which may be larger (then
 * SLUICE_ERR_LIMIT). parse_special: special tokens written in the text become those tokens. */
SLUICE_API sluice_status sluice_tokenize(const sluice_model *model, const char *text, size_t len,
                                         bool add_special, bool parse_special, int32_t *ids,
                                         size_t capacity, size_t *n, sluice_error *err);
/* Ids -> text; *text is malloc'ed and NUL-terminated, free it with sluice_free. */
SLUICE_API sluice_status sluice_detokenize(const sluice_model *model, const int32_t *ids, size_t n,
                                           bool with_special, char **text, size_t *len,
                                           sluice_error *err);
/* The bytes that one token stands for, which need not be UTF-8; is_first: of a text's first token,
 * which some tokenizers begin without its blank. As sluice_detokenize otherwise. */
SLUICE_API sluice_status sluice_token_bytes(const sluice_model *model, int32_t id, bool is_first,
                                            bool with_special, char **bytes, size_t *len,
                                            sluice_error *err);
/* The prompt of a chat: request is a JSON object with "messages" and any of tools,
 * add_generation_prompt and other variables of the template. Text -> free with sluice_free. */
SLUICE_API sluice_status sluice_chat_render(const sluice_model *model, const char *request_json,
                                            char **text, size_t *len, sluice_error *err);
/* The same as ids (free with sluice_free): what users wrote is never parsed as special tokens. */
SLUICE_API sluice_status sluice_chat_tokenize(const sluice_model *model, const char *request_json,
                                              int32_t **ids, size_t *n, sluice_error *err);
SLUICE_API void sluice_free(void *p);

/* ---- engine ------------------------------------------------------------------------------ */

typedef struct sluice_engine sluice_engine;

typedef enum sluice_policy {
    SLUICE_POLICY_FCFS,            /* first come, first served */
    SLUICE_POLICY_PRIORITY,        /* higher request priority first, then first come */
    SLUICE_POLICY_SHORTEST_PROMPT, /* shortest remaining prompt first */
    SLUICE_POLICY_CACHE_AWARE,     /* warm prefixes first, without starving others */
    SLUICE_POLICY_FAIR             /* tenants get equal service: virtual token counter */
} sluice_policy;

typedef enum sluice_preempt {
    SLUICE_PREEMPT_AUTO,      /* whichever the cost model says */
    SLUICE_PREEMPT_RECOMPUTE, /* drop the blocks, compute them again */
    SLUICE_PREEMPT_SWAP       /* move the blocks to host memory */
} sluice_preempt;

typedef struct sluice_engine_options {
    size_t size;
    int32_t max_context;     /* tokens of one sequence; 0: the model's */
    int32_t max_seqs;        /* running at once; 0: 64, on an accelerator 256 */
    int32_t max_step_tokens; /* token budget of a step; 0: 512, on an accelerator 2048 */
    int32_t max_queue;       /* waiting requests; 0: 4 * max_seqs, at least 64 */
    int64_t kv_bytes;        /* memory for KV blocks; 0: enough for max_seqs short sequences or one
                                of max_context, whichever is more */
    int32_t block_tokens;    /* 1..256, a power of two; 0: 16 */
    const char *kv_dtype;    /* "f32", "f16", "bf16", on the CPU "int8" (a scale for each token and
                                head); NULL: f32 for f32 models, else bf16 */
    bool no_prefix_cache;
    int64_t host_kv_bytes; /* host-memory tier for swapped and cached blocks; 0: none */
    const char *kv_dir;    /* keeps the prefix cache across restarts; NULL: not */
    sluice_policy policy;
    sluice_preempt preempt;
    double chunk_slack; /* a prompt chunk may lengthen a step of decodes by this share, so that
                           their pace is kept, and by more as more requests wait than run; 0: 0.4;
                           negative: without bound */
    bool populate;      /* take all memory from the system now: a server starts a little later and
                           cannot be out of memory afterwards */
    int32_t max_kv_events; /* events of the prefix cache that are kept for readers; 0: none */
    int64_t kv_dir_bytes;  /* of kv_dir, which has a file for each model, number format and build;
                              the least recently used leave; 0: four times this one's */
    double gpu_memory;     /* of an accelerator's memory, with the weights and whatever is there: a
                              share up to 1, or bytes. KV gets the rest, where kv_bytes is 0; 0: no
                              such bound */
    bool fast;             /* on an accelerator: large steps of prompts sum in an order that is
                              faster, so that the same request may give other bits beside other
                              load */
} sluice_engine_options;
#define SLUICE_ENGINE_OPTIONS_INIT \
    { .size = sizeof(sluice_engine_options) }

/* What the options come to, before anything is allocated; also whether kv_dir could be used. */
typedef struct sluice_engine_plan {
    size_t size;
    /* other: tables of the engine, samplers, and an estimate of the tokenizer and the program. */
    int64_t weight_bytes, kv_bytes, activation_bytes, other_bytes, total_bytes;
    int64_t kv_tokens; /* that fit */
    int32_t block_tokens, n_blocks;
    int32_t max_seqs, max_step_tokens, max_context, max_queue;
    const char *kv_dtype;
    int64_t host_kv_bytes; /* of the host-memory tier */
    int64_t kv_dir_bytes;  /* that this engine's file in kv_dir takes at most; 0: none */

    /* Of an accelerator's memory in use when the engine is open, the model's, the engine's and
     * what others have; and all of it. 0: there is none. */
    int64_t device_bytes, device_bytes_all;
    bool fast; /* as the option */
} sluice_engine_plan;
SLUICE_API sluice_status sluice_engine_dry_run(const sluice_model *model,
                                               const sluice_engine_options *options,
                                               sluice_engine_plan *plan, sluice_error *err);

/* Allocates everything and starts the engine's thread. The model is borrowed; on a GPU it has one
 * engine at a time. */
SLUICE_API sluice_status sluice_engine_open(sluice_engine **out, const sluice_model *model,
                                            const sluice_engine_options *options,
                                            sluice_error *err);
/* Cancels what runs (each request still gets its final event) and frees. */
SLUICE_API void sluice_engine_close(sluice_engine *engine);

typedef struct sluice_bias {
    int32_t token;
    float bias;
} sluice_bias;

typedef struct sluice_sampling {
    float temperature;                         /* 0: greedy */
    int32_t top_k;                             /* 0: off */
    float top_p;                               /* 1: off */
    float min_p;                               /* 0: off */
    float repetition_penalty;                  /* 1: off */
    float presence_penalty, frequency_penalty; /* 0: off */
    uint64_t seed;
    int32_t n_logprobs; /* -1: none; 0: the chosen token's; k <= 20: and the k likeliest */
    int32_t n_bias;
    const sluice_bias *bias;
} sluice_sampling;

/* A run of tokens; ids are borrowed. */
typedef struct sluice_tokens {
    const int32_t *ids;
    int32_t n;
} sluice_tokens;

typedef enum sluice_pooling {
    SLUICE_POOL_NONE,
    SLUICE_POOL_MEAN,
    SLUICE_POOL_LAST,
    SLUICE_POOL_CLS
} sluice_pooling;

struct sluice_event;

typedef struct sluice_request {
    size_t size;
    const int32_t *prompt; /* ids; copied */
    size_t n_prompt;
    int32_t max_tokens; /* to generate; 0: as many as the context leaves */
    int32_t min_tokens; /* no stop of any kind before that many */
    sluice_sampling sampling;
    int32_t n;               /* sequences from one prompt, 1..8; 0: 1 */
    int32_t beam_width;      /* > 1: beam search with that many beams, n of them returned */
    float length_penalty;    /* of beam search: score = logprob / length ^ penalty */
    const char *const *stop; /* stop strings; copied */
    int32_t n_stop;          /* <= 16, each of 1..256 bytes */
    bool include_stop;       /* the stop string is part of the text */
    const int32_t *stop_ids; /* tokens that end the generation beside the model's own */
    int32_t n_stop_ids;
    bool ignore_eos;
    bool with_special;       /* special tokens appear in the text */
    int32_t prompt_logprobs; /* as n_logprobs, for the prompt's tokens; -1: none */
    sluice_pooling pooling;  /* not NONE: an embedding request, nothing is generated */
    const char *tenant;      /* whose request: for fairness and as salt of the prefix cache */
    const char *cache_salt;  /* separates cached prefixes further */
    int32_t priority;        /* higher first */
    int64_t deadline_us;     /* from submission until the final event; 0: none */
    int64_t queue_us_max;    /* from submission until a step begins with it; 0: none */
    void *user;              /* given back with each event */
    /* Called on the engine's thread for each event; must be quick and must not call the engine
     * except sluice_cancel. NULL: events are fetched with sluice_poll. */
    void (*on_event)(void *user, const struct sluice_event *event);
    int32_t n_allowed; /* > 0: no other token is picked */
    const int32_t *allowed;
    int32_t n_bad; /* <= 512, of 65,536 tokens together: runs that the output will not hold */
    const sluice_tokens *bad;
} sluice_request;
/* Greedy, one sequence, no logprobs. */
#define SLUICE_REQUEST_INIT                                                                       \
    {                                                                                             \
        .size = sizeof(sluice_request),                                                           \
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}, .length_penalty = 1, \
        .prompt_logprobs = -1                                                                     \
    }

typedef enum sluice_finish {
    SLUICE_FINISH_NONE,   /* not yet */
    SLUICE_FINISH_STOP,   /* end-of-text, a stop token or a stop string */
    SLUICE_FINISH_LENGTH, /* max_tokens or the context is reached */
    SLUICE_FINISH_CANCELLED,
    SLUICE_FINISH_DEADLINE, /* one of its times is up: see status and text */
    SLUICE_FINISH_ERROR     /* see status and text */
} sluice_finish;

/* Why fewer prompt tokens came from the cache than could have. */
typedef enum sluice_miss {
    SLUICE_MISS_NONE,      /* everything that could be cached was */
    SLUICE_MISS_NEW,       /* nothing with this beginning was seen */
    SLUICE_MISS_DIFFERENT, /* a cached prompt differs at token miss_at */
    SLUICE_MISS_EVICTED,   /* it was cached and had to leave */
    SLUICE_MISS_SHORT,     /* the rest is below one block */
    SLUICE_MISS_SALT,      /* cached for another tenant or salt */
    SLUICE_MISS_WINDOW,    /* the blocks behind the sliding window are gone */
    SLUICE_MISS_OFF        /* the prefix cache is off */
} sluice_miss;

typedef struct sluice_usage {
    int32_t n_prompt, n_cached, n_output;
    sluice_miss miss;
    int32_t miss_at;                            /* first prompt token that was not cached */
    int64_t queue_us, first_token_us, total_us; /* since submission */
    int32_t n_preempted;
} sluice_usage;

typedef struct sluice_logprob {
    int32_t token;
    float logprob;
} sluice_logprob;

/* One step's news of one sequence of a request. Pointers are valid during the callback, or until
 * the next sluice_poll. */
typedef struct sluice_event {
    size_t size;
    uint64_t request; /* the id that sluice_submit gave */
    void *user;
    int32_t index;         /* which of the n sequences */
    const int32_t *tokens; /* new tokens */
    int32_t n_tokens;
    const char *text; /* new text, whole characters, NUL-terminated */
    size_t text_len;
    const sluice_logprob *chosen; /* [n_tokens], or NULL */
    const sluice_logprob *top;    /* [n_tokens][n_top], likeliest first */
    int32_t n_top;
    const float *embedding; /* of an embedding request's final event */
    int32_t n_embedding;
    const sluice_logprob
        *prompt_chosen;               /* [n_prompt] (first: no logprob, 0), with the first event */
    sluice_finish finish;             /* of this sequence */
    int32_t stop_index;               /* which stop string, -1: none */
    int32_t stop_id;                  /* which stop token, -1: none */
    bool last;                        /* the request's final event: exactly one per request */
    sluice_status status;             /* with FINISH_ERROR or _DEADLINE */
    const char *error;                /* its sentence, or NULL */
    const sluice_usage *usage;        /* with the final event of a sequence */
    const sluice_logprob *prompt_top; /* [n_prompt][n_prompt_top], with prompt_chosen */
    int32_t n_prompt_top;
} sluice_event;

/* Queues a request. *id is never reused. SLUICE_ERR_LIMIT: the queue is full, try later.
 * SLUICE_ERR_ARG: the request is wrong, or can never fit (the text gives the numbers). */
SLUICE_API sluice_status sluice_submit(sluice_engine *engine, const sluice_request *request,
                                       uint64_t *id, sluice_error *err);
/* Takes effect before the next step; unknown or finished ids are ignored. */
SLUICE_API void sluice_cancel(sluice_engine *engine, uint64_t id);

/* For requests without on_event. Takes the next event, waiting up to timeout_us (0: not, -1:
 * without end); false when none came. One thread at a time. */
SLUICE_API bool sluice_poll(sluice_engine *engine, int64_t timeout_us, sluice_event *event);
/* Readable while events wait: for poll and epoll. Owned by the engine. */
SLUICE_API int sluice_event_fd(const sluice_engine *engine);

enum { SLUICE_STEP_SIZES = 14 };

typedef struct sluice_stats {
    size_t size;
    int64_t n_steps, step_us_total; /* the loop's own heartbeat */
    int64_t last_step_us;           /* monotonic time of the last turn of the loop */
    int32_t n_running, n_waiting, n_swapped;
    int32_t n_blocks, n_blocks_free, n_blocks_cached, n_blocks_used;
    int64_t kv_slots_wasted; /* slots of used blocks that hold no token: fragmentation */
    int64_t n_requests, n_finished, n_cancelled, n_failed, n_preempted;
    int64_t n_prompt_tokens, n_output_tokens;
    int64_t prefix_query_tokens, prefix_hit_tokens;
    int64_t n_evicted_blocks, n_checksum_errors, n_nonfinite;
    int64_t host_kv_bytes_used;
    /* Steps of at most 1, 8, 16, 32, ... 16384 tokens, the larger ones last; all their tokens. */
    int64_t n_steps_by_tokens[SLUICE_STEP_SIZES], n_step_tokens;
    int64_t n_kv_events, n_kv_events_lost; /* lost: overwritten before anybody read them */
    /* Of step_us_total: from when the accelerator had a step's work until it was done. The rest is
     * the host's, and the device's waiting. */
    int64_t device_us_total;
    /* Records of the file in kv_dir: blocks taken in at the start and written since, writes that
     * failed, and records that were not whole. */
    int64_t n_disk_restored, n_disk_written, n_disk_failed, n_disk_damaged;
    int64_t device_bytes; /* of the accelerator's memory, in use when the engine was ready */
    bool device_lost;     /* the accelerator failed and answers no more: every request will fail */
} sluice_stats;
/* Never waits for the engine. */
SLUICE_API void sluice_engine_get_stats(const sluice_engine *engine, sluice_stats *stats);
/* Checks every invariant of the block pool, tables and prefix tree at the next step boundary. */
SLUICE_API sluice_status sluice_engine_audit(sluice_engine *engine, sluice_error *err);

/* ---- the KV cache, from outside ---------------------------------------------------------- */

typedef enum sluice_block_state {
    SLUICE_BLOCK_FREE,
    SLUICE_BLOCK_CACHED, /* no request holds it; the prefix cache does */
    SLUICE_BLOCK_USED,   /* one sequence holds it */
    SLUICE_BLOCK_SHARED  /* several sequences hold it */
} sluice_block_state;

/* This struct never grows. */
typedef struct sluice_kv_block {
    uint64_t request; /* one that holds it; 0: none */
    int32_t group;    /* 0; 1 too where full and windowed layers have blocks of their own */
    sluice_block_state state;
} sluice_kv_block;

/* What every KV block stood for between two steps, into blocks[0..capacity), group after group; *n
 * is set to how many there are, which may be more. The engine is not stopped: the caller waits for
 * the end of the step, up to timeout_us (-1: without end), then SLUICE_ERR_LIMIT. */
SLUICE_API sluice_status sluice_engine_get_blocks(sluice_engine *engine, int64_t timeout_us,
                                                  sluice_kv_block *blocks, size_t capacity,
                                                  size_t *n, sluice_error *err);

/* Forgets every cached block that no running request holds, between two steps, and empties the file
 * in kv_dir. SLUICE_ERR_IO: the file could not be emptied. */
SLUICE_API sluice_status sluice_engine_clear_cache(sluice_engine *engine, sluice_error *err);

enum { SLUICE_BLOCK_TOKENS_MAX = 256 };

typedef enum sluice_kv_event_kind {
    SLUICE_KV_STORED,  /* a block of tokens can be hit from now on */
    SLUICE_KV_REMOVED, /* it cannot any more */
    SLUICE_KV_CLEARED  /* nothing is cached any more */
} sluice_kv_event_kind;

typedef enum sluice_kv_medium { SLUICE_KV_DEVICE, SLUICE_KV_HOST } sluice_kv_medium;

/* A change of the prefix cache. Who applies all of them in order has the cache's map: the set of
 * (block_hash, group, medium) that are stored. */
typedef struct sluice_kv_event {
    size_t size;
    uint64_t number; /* counts from 0, without a gap */
    sluice_kv_event_kind kind;
    sluice_kv_medium medium; /* of a block that was stored or removed */
    int32_t group;           /* see sluice_kv_block */
    uint64_t block_hash;     /* of tenant, salt and all tokens up to the block's end; never 0 */
    uint64_t parent_hash;    /* of the block before it; 0: it is the first */
    int32_t block_tokens;
    int32_t tokens[SLUICE_BLOCK_TOKENS_MAX]; /* of a stored block, block_tokens of them */
} sluice_kv_event;

/* Copies event number `from`, or the oldest after it that is still kept, waiting up to timeout_us
 * (-1: without end) for it; false when there is none. Set event->size. The last max_kv_events are
 * kept: any number of readers may read them, and read them again. */
SLUICE_API bool sluice_engine_read_kv_event(sluice_engine *engine, uint64_t from,
                                            int64_t timeout_us, sluice_kv_event *event);

#ifdef __cplusplus
}
#endif
#endif
