/* chat_repl: a conversation at the terminal. */
#pragma once

#include "app/session.h"

/* Reads messages and commands until /bye or the end of input. A failing answer is reported and the
 * chat goes on; what comes back is a failure that ends it. */
MUST_USE Status chat_repl(Session *session, const Config *config, Err *err);
