/* request: what a client asked, and the sequences that answer it.
 *
 * A Request is one piece of memory, made by the submitting thread with room for everything it will
 * ever hold, so that the engine's thread never allocates. From submission to its final event the
 * engine's thread owns it; only `out` of its sequences is shared with the polling thread, under the
 * mailbox's lock. */
#pragma once

#include "engine/limits.h"
#include "sluice.h"

typedef enum SeqState {
    SEQ_SIBLING, /* waits for sequence 0 to finish the prompt they share */
    SEQ_WAITING, /* in the queue */
    SEQ_RUNNING, /* holds KV blocks */
    SEQ_DONE     /* its final event is out or on its way */
} SeqState;

/* What a sequence has to say and has not said yet. */
typedef struct SeqOutput {
    Buf text;                 /* not taken yet */
    sluice_logprob *chosen;   /* [n_output_max] or NULL */
    sluice_logprob *top;      /* [n_output_max][n_top] or NULL */
    int32_t n_ready, n_taken; /* output tokens */
    sluice_finish finish;
    int32_t stop_index, stop_id; /* -1: none */
    sluice_status status;
    const char *error; /* of the request, or static; NULL: none */
    sluice_usage usage;
    bool overflowed; /* text was lost: the client was too slow */
    bool final_taken, listed;
    struct Seq *next; /* in the mailbox's list of news */
} SeqOutput;

typedef struct Seq {
    struct Request *request;
    int32_t index;
    SeqState state;
    int32_t *token;         /* [n_prompt + n_output_max] prompt and output */
    int32_t n_tokens;       /* known */
    int32_t n_computed;     /* whose KV is there; the rest is the query of the next steps */
    KvSeq *kv;              /* one of the scheduler's; NULL unless it has a place */
    bool planned;           /* is in the step being planned */
    bool loading;           /* runs, but waits for blocks from the host */
    bool swapped;           /* waits, and left blocks in the host's memory */
    int32_t n_hit_loading;  /* cached tokens to report when they have arrived */
    SamplerParams sampling; /* from the moment min_tokens is reached */
    Detok detok;
    double score; /* of a beam: sum of logprobs */
    SeqOutput out;
} Seq;

/* A finished candidate of a beam search. */
typedef struct Hypothesis {
    int32_t *token; /* [n_output_max] */
    int32_t n_tokens;
    double score; /* normalised */
    sluice_finish finish;
    int32_t stop_id;
} Hypothesis;

typedef struct Request {
    uint64_t id;
    int32_t slot; /* in the mailbox's table */
    size_t bytes;
    /* what was asked */
    void *user;
    void (*on_event)(void *user, const sluice_event *event);
    const int32_t *prompt;
    int32_t n_prompt, n_output_max, n_output_min;
    int32_t n_seqs;   /* sequences that run: n, or the beam width */
    int32_t n_return; /* sequences that are reported */
    bool beam;
    float length_penalty;
    int32_t n_stops;
    bool include_stop, with_special;
    int32_t n_stop_ids;
    int32_t *stop_id; /* the model's own too, unless they are to be ignored */
    LogitBias *bias;  /* [n_bias + n_stop_ids] the asked ones, then the stop tokens at -inf */
    int32_t n_bias;
    int32_t vocab;
    uint64_t *allowed;   /* a bit for each token of the vocabulary, or NULL: all are */
    const TokenRun *bad; /* the banned runs */
    int32_t n_top;       /* likeliest tokens to report per token */
    bool want_logprobs, want_prompt_logprobs;
    sluice_pooling pooling;
    int32_t priority;
    KvSalt salt;
    uint64_t tenant; /* hash of its name */
    /* From submission when made, points in time once the engine has it; INT64_MAX: none. */
    int64_t submit_us, deadline_us, queue_deadline_us;
    /* how it stands */
    bool started; /* was admitted once: the usage's queue time and cache hit are known */
    bool forked;  /* the siblings run on their own */
    bool cancelled, cancel_listed; /* under the mailbox's lock */
    bool finished;
    bool failing; /* is part of a step that failed */
    int32_t n_done, n_final_taken;
    int32_t tenant_idx; /* of the scheduler's table */
    int32_t n_preempted;
    sluice_usage usage;             /* what all sequences share */
    sluice_logprob *prompt_logprob; /* [n_prompt] or NULL */
    sluice_logprob *prompt_top;     /* [n_prompt][n_prompt_top] or NULL */
    int32_t n_prompt_top;
    int32_t n_prompt_logprobs; /* known so far */
    int32_t n_embedding;       /* 0, or dim */
    float *embedding;          /* [n_embedding] */
    double *pool_sum;          /* [n_embedding] */
    Hypothesis *hypothesis;    /* [n_seqs] of a beam search, best first */
    int32_t n_hypotheses;
    char error[256];      /* the sentence of FINISH_ERROR */
    struct Request *next; /* in one of the mailbox's lists */
    struct Request *next_cancel;
    Seq *seq; /* [n_seqs] */
} Request;

/* What requests are checked against. */
typedef struct RequestRules {
    const EngineLimits *limits;
    const Tokenizer *tokenizer; /* NULL: no text comes out, stop strings are refused */
    int32_t piece_bytes_max;    /* longest text of one token */
    int32_t n_eos;
    const int32_t *eos_id;
    uint64_t salt_seed; /* of this process, so that nobody can aim at a collision */
} RequestRules;

/* Checks and copies. ERR_ARG: a field is off, or it could never run here, with the numbers;
 * ERR_NOMEM. Free with request_free. */
MUST_USE Status request_make(Request **out, const sluice_request *asked, const RequestRules *rules,
                             Err *err);
void request_free(Request *request);
/* Output tokens of the sequence so far. */
int32_t request_n_output(const Seq *seq);
/* Whether the token ends a generation of this request. */
bool request_is_stop_id(const Request *request, int32_t token);
/* Fills the event with everything the sequence has not said yet. The pointers lead into the request
 * and stay valid until it is freed, except text, which is out.text. */
void request_take_event(Seq *seq, sluice_event *event);
