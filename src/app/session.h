/* session: a model and an engine behind a terminal; streams one answer at a time.
 *
 * Ctrl-C during an answer stops the answer, not the program: SIGINT is blocked and read from a
 * descriptor beside the engine's events. */
#pragma once

#include "app/config.h"
#include "base/buf.h"
#include "sluice.h"

typedef struct Session {
    sluice_model *model;
    sluice_model_info info;
    sluice_engine *engine;
    int signal_fd;
    /* What the options, and /set in a chat, make of the request. */
    sluice_sampling sampling;
    int32_t max_tokens;
    bool ignore_eos, verbose, special;
    int32_t n_stops;
    const char *stop[CONFIG_LIST_MAX]; /* borrowed from the Config */
} Session;

/* Copies the library's failure into err and returns it as a Status. */
Status session_error(const sluice_error *from, Err *err);

/* Model and engine options of a command. */
void session_options(const Config *config, sluice_model_options *model,
                     sluice_engine_options *engine);

/* --policy. */
MUST_USE Status session_policy(const Config *config, sluice_policy *out, Err *err);

/* Prints what model and engine would allocate. */
MUST_USE Status session_dry_run(const char *path, const sluice_model_options *model,
                                const sluice_engine_options *engine, Err *err);

/* Opens model and engine. On failure session may be closed. */
MUST_USE Status session_open(Session *session, const Config *config, const char *path, Err *err);
void session_close(Session *session);

/* Generates from the prompt's ids, printing as it comes; appends the text to answer (may be NULL).
 * *interrupted: Ctrl-C stopped it. */
MUST_USE Status session_answer(Session *session, const int32_t *ids, size_t n, Buf *answer,
                               bool *interrupted, Err *err);
