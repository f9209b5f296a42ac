/* api_answer: the answer of a chat as items in their order: texts, reasoning and tool calls.
 *
 * Events are noted in it; the APIs write their replies from it, whole or what is new. The event
 * thread's, as all of a call. */
#pragma once

#include "server/api_call.h"

/* What the parser of a choice has to look for is taken from the call. */
void api_answer_init(const ApiCall *call, ApiChoice *choice);
void api_answer_free(ApiChoice *choice);
/* Adds an event's text and its end. */
void api_answer_note(ApiCall *call, ApiChoice *choice, const sluice_event *event);

/* How many items are calls. */
int32_t api_answer_n_calls(const ApiChoice *choice);
/* Appends the text of all items of a kind to out; whether out has any text then. */
bool api_answer_text(const ApiChoice *choice, ChatPartKind kind, Buf *out);

/* For streams: the first item that is not told to its end, or NULL. */
ApiItem *api_answer_untold(ApiChoice *choice);
/* The text of the item that is not told yet, and marks it as told. */
Str api_answer_news(ApiItem *item);
/* Whether no more text comes to the item: marks it as told to its end. */
bool api_answer_is_over(ApiChoice *choice, const ApiItem *item);
