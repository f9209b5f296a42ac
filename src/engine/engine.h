/* engine: the loop that turns requests into steps and steps into events. Read engine_step first.
 *
 * One thread (or one caller of engine_step) owns the scheduler, the KV cache and every sequence;
 * others reach it through the mailbox only. After engine_open it allocates nothing. */
#pragma once

#include "engine/runner.h"
#include "engine/sched.h"

typedef struct Engine Engine;

/* A loop with nothing to do turns this often: who watches it sees that it lives. */
enum { ENGINE_HEARTBEAT_US = 1000000 };

typedef struct EngineConfig {
    EngineLimits limits;
    sluice_policy policy;
    double chunk_slack; /* as in SchedConfig */
    sluice_preempt preempt;
    Runner runner;              /* taken: closed with the engine, also when opening fails */
    KvDisk *disk;               /* keeps the prefix cache; taken likewise; NULL: none */
    const Tokenizer *tokenizer; /* borrowed; NULL: events carry no text */
    int32_t n_eos;
    int32_t eos_id[MODEL_EOS_MAX];
    uint64_t salt_seed;
    int64_t (*now_us)(void *clock); /* NULL: the monotonic clock */
    void *clock;
} EngineConfig;

/* Bytes that engine_open allocates, the runner's not included. */
int64_t engine_bytes(const EngineConfig *config);
MUST_USE Status engine_open(Engine **out, const EngineConfig *config, Err *err);
/* Cancels what is there, with its final events, and frees. */
void engine_close(Engine *engine);
/* Starts the thread that runs the loop. Without it the caller drives engine_step. */
MUST_USE Status engine_start(Engine *engine, Err *err);
/* One turn of the loop. False: there was nothing to compute. */
bool engine_step(Engine *engine);

/* What sluice.h says of sluice_submit and the others; any thread. */
MUST_USE Status engine_submit(Engine *engine, const sluice_request *request, uint64_t *id,
                              Err *err);
void engine_cancel(Engine *engine, uint64_t id);
bool engine_poll(Engine *engine, int64_t timeout_us, sluice_event *event);
int engine_event_fd(const Engine *engine);
void engine_get_stats(const Engine *engine, sluice_stats *stats);
/* At the next step boundary; with no thread running: now. */
MUST_USE Status engine_audit(Engine *engine, Err *err);
MUST_USE Status engine_clear_cache(Engine *engine, Err *err);
/* As sluice_engine_get_blocks. */
MUST_USE Status engine_get_blocks(Engine *engine, int64_t timeout_us, sluice_kv_block *blocks,
                                  int32_t capacity, int32_t *n, Err *err);
/* As kv_event_read, in sluice.h's terms. */
bool engine_read_kv_event(Engine *engine, uint64_t from, int64_t timeout_us,
                          sluice_kv_event *event);
