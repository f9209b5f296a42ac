/* engine_priv: the engine's inside, between engine.c, engine_commit.c and engine_say.c. */
#pragma once

#include "engine/engine.h"
#include "engine/mailbox.h"

/* What a step brought for a sequence. */
typedef struct EngineNews {
    int32_t n_tokens;            /* new ones, at the end of seq->token */
    const SamplerResult *sample; /* of the new token; NULL: nothing is known of it */
    Str text;
    sluice_finish finish;
    int32_t stop_index, stop_id; /* -1: none */
    Status status;
    const char *error;
} EngineNews;

/* News that are ready and were not given out yet. */
typedef struct EngineSaid {
    Seq *seq;
    EngineNews news;   /* its text is a part of Engine.text */
    bool done, polled; /* the request's last; who asked polls for it */
} EngineSaid;

struct Engine {
    EngineConfig config;
    int32_t n_requests_max;
    int32_t piece_bytes_max;
    KvCache cache;
    Sched sched;
    StepPlan plan;
    StepResult result;
    Mailbox mail;
    Buf text;         /* of said's news */
    EngineSaid *said; /* [max_seqs] */
    int32_t n_said;
    KvSeq **kv_seqs;           /* [max_seqs] scratch */
    sluice_stats stats;        /* the engine's own copy */
    int32_t n_ended_unstarted; /* requests that ended in the queue, since the last publish */
    int64_t n_started_published;
    int64_t next_deadline_us; /* the earliest; INT64_MAX: none */
    Request **live;           /* [n_requests_max] all unfinished requests */
    int32_t n_live;
    bool stopping;
    bool has_thread;
    pthread_t thread;
};

/* Carries a step's outcome over to its sequences: tokens, text, stops, events. */
void engine_commit_step(Engine *engine, const StepPlan *plan, const StepResult *result);
/* The step as a whole failed: so do its sequences. */
void engine_commit_failure(Engine *engine, const StepPlan *plan, const Err *err);
/* Ends every sequence of the request that has not ended; it may be gone afterwards. error: the
 * sentence, or NULL. */
void engine_commit_end(Engine *engine, Request *request, sluice_finish finish, Status status,
                       const char *error);
/* The sequence ends with this news; with the last one of a request the request may be gone. */
void engine_commit_end_seq(Engine *engine, Seq *seq, const EngineNews *news);
int64_t engine_now(const Engine *engine);

/* Puts the news of a sequence aside; of each sequence once before engine_say_all. Where there is
 * text: engine_say_begin, append it to Engine.text, then engine_say_text from what that gave. */
size_t engine_say_begin(Engine *engine);
Str engine_say_text(const Engine *engine, size_t from);
void engine_say(Engine *engine, Seq *seq, const EngineNews *news);
/* Gives all news out, by callback or to whoever polls. After the last of a request it is gone. */
void engine_say_all(Engine *engine);
/* The most text that the news of one sequence have. */
size_t engine_say_text_bytes(const Engine *engine);
