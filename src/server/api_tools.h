/* api_tools: tools of a chat: what a request offers and demands, and calls in its messages. */
#pragma once

#include "server/api_call.h"

enum { API_TOOLS_MAX = 128 };

/* Reads "tools", "tool_choice" and "parallel_tool_calls" in the shape of OpenAI's chats, sets
 * call->tools, and gives the template its "tools". */
MUST_USE Status api_tools_read(ApiCall *call, const json_t *body, json_t *variables,
                               ApiFault *fault);
/* The calls of an assistant's message as templates want them: arguments as objects. message: a copy
 * that is changed; i: its place. */
MUST_USE Status api_tools_message(json_t *message, size_t i, ApiFault *fault);
