/* api_call: one HTTP request while the engine works on it.
 *
 * A worker fills it in and submits its prompts; from then on only the event thread touches it
 * (format functions of the API it belongs to turn events into the reply), except `cancelled`. It is
 * counted: one reference while a worker submits, one per open engine request. */
#pragma once

#include <stdatomic.h>

#include "server/api_params.h"
#include "server/http.h"
#include "sluice.h"
#include "text/chat_parse.h"

enum { API_PROMPTS_MAX = 64, API_ID_BYTES = 48 };

typedef struct ApiCall ApiCall;

/* How an API writes its replies. */
typedef struct ApiFormat {
    /* A sequence's news: appends to the stream, or keeps it for the whole reply. */
    void (*event)(ApiCall *call, const sluice_event *event);
    /* All sequences have ended: the end of the stream, or the whole reply. */
    void (*finish)(ApiCall *call);
} ApiFormat;

/* Of chats: what an answer may hold beside text. */
typedef struct ApiTools {
    ChatStyle style;       /* of calls; CHAT_PLAIN: none are looked for */
    bool thinks;           /* reasoning is looked for */
    bool thinking;         /* the prompt has begun it */
    bool hide_reasoning;   /* it is found, but not told */
    bool one_call;         /* later calls are not told */
    Buf forced;            /* the beginning of the call that must be made; part of the prompt */
    const char *id_prefix; /* of calls */
} ApiTools;

/* A text, reasoning or a call of an answer. */
typedef struct ApiItem {
    ChatPartKind kind; /* never CHAT_ARGUMENTS */
    char id[API_ID_BYTES];
    Buf name, text; /* text of a call: its arguments */
    bool begun;     /* the stream has its beginning */
    size_t n_told;  /* bytes of text that the stream has */
} ApiItem;

/* Log-probabilities of text completions: JSON of four parallel lists without their brackets. */
typedef struct ApiLists {
    Buf tokens, logprobs, tops, offsets;
    int32_t n_chars; /* of the text of all tokens so far, also of those told already */
    char held[4];    /* behind them: the beginning of a character */
    int32_t n_held;
} ApiLists;

/* One sequence of the reply. */
typedef struct ApiChoice {
    ChatParse parse; /* chats: its items */
    ApiItem *item;
    int32_t n_items, items_max;
    int32_t n_told; /* items that the stream has to their end */
    bool skip_call;
    Buf text;              /* text completions: all of it */
    Buf logprobs;          /* JSON of chats, without the enclosing list */
    Buf token_ids;         /* JSON numbers with commas */
    Buf prompt_logprobs;   /* JSON, of a prompt's first sequence */
    Buf hidden;            /* reasoning that is only counted */
    Buf said;              /* all text so far, if the log shall have it */
    ApiLists lists;        /* logprobs of text completions */
    ApiLists prompt_lists; /* of a prompt that is told again: its first sequence's */
    Ints tokens;           /* all of them, where a receipt is written */
    sluice_finish ended;   /* how the engine ended it */
    bool started;
    sluice_finish finish;
    int32_t stop_index, stop_id;
    int64_t last_us; /* when the last tokens came */
} ApiChoice;

typedef struct ApiPrompt {
    int32_t *ids; /* malloc'ed by the library */
    size_t n;
    uint64_t request;     /* the engine's id, once submitted */
    int32_t n_output_max; /* of its sequences that have ended */
} ApiPrompt;

struct ApiCall {
    atomic_int n_refs;
    struct Server *server;
    HttpExchange *exchange; /* referenced */
    const ApiFormat *format;
    Arena arena; /* what params borrows */
    ApiParams params;
    char id[API_ID_BYTES]; /* chatcmpl-..., cmpl-... */
    int64_t created;       /* seconds since the epoch */
    const char *asked;     /* what the reply repeats of the request (Responses), or NULL */
    ApiTools tools;

    int32_t n_prompts;
    ApiPrompt *prompt;
    int32_t n_choices; /* n_prompts * n */
    ApiChoice *choice;

    ApiCall *next, *prev; /* in the server's list; under its lock */
    bool listed;

    atomic_bool cancelled;
    atomic_int n_submitted; /* prompts whose request id is valid */
    /* for whoever looks: tokens so far, and when the first came (0: not yet) */
    atomic_int n_seen;
    atomic_int_fast64_t first_us;
    /* the event thread's */
    int32_t n_open; /* engine requests without their last event */
    bool stream_begun;
    int64_t n_sent;        /* frames of the stream */
    int64_t sent_us;       /* when the last of them was written; 0: none */
    sluice_error *failure; /* of the first sequence that failed, or NULL */
    int64_t n_prompt_tokens, n_cached_tokens, n_output_tokens, n_reasoning_tokens;
    int64_t queue_us; /* the longest of its requests */
    sluice_miss miss;
    int32_t miss_at;
};

/* A call with one reference, for the exchange. prefix: of its id. */
ApiCall *api_call_open(struct Server *server, HttpExchange *exchange, const ApiFormat *format,
                       const char *prefix);
void api_call_unref(ApiCall *call);
/* Room for that many prompts; once for each call, before the first of them. */
void api_call_make_prompts(ApiCall *call, int32_t n);

/* Submits every prompt; takes over the worker's part of the reply. When the first is refused, an
 * error reply is given; the call's events do the rest otherwise. */
void api_call_submit(ApiCall *call);

/* The event thread's: an event of one of the call's requests. */
void api_call_event(ApiCall *call, const sluice_event *event);

/* Begins the event stream if it has not begun, and writes "data: ...\n\n". */
void api_call_send(ApiCall *call, Str json);
/* The same with an event's name (Anthropic, Responses). */
void api_call_send_named(ApiCall *call, const char *name, Str json);

/* The event thread's: a stream that has been silent for the server's ping_us gets a comment, which
 * clients skip, so that nobody between takes the connection for dead. */
void api_call_ping(ApiCall *call, int64_t now_us);

/* Why the cache gave fewer tokens, in a word. */
const char *api_call_miss_text(sluice_miss miss);
/* "stop", "length", ...: OpenAI's finish reasons. */
const char *api_call_finish_text(sluice_finish finish);
