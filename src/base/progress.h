/* progress: one line that shows how far long work has come.
 *
 * On a terminal the line is redrawn (bar, done/total, rate, time left); elsewhere a plain line is
 * printed every 5 s; a summary line at the end. Goes to stderr. NULL is a silent progress. */
#pragma once

#include "base/base.h"

typedef struct Progress Progress;

/* phase: what is being done, e.g. "loading"; total in `unit` ("B" is shown as MB, GB). */
Progress *progress_open(const char *phase, int64_t total, const char *unit);
/* Any thread. */
void progress_add(Progress *progress, int64_t done);
void progress_close(Progress *progress);
