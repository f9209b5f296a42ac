/* api_logprobs: log-probabilities in a reply, in the shapes of OpenAI and vLLM.
 *
 * What a reply holds of them is bounded in advance by api_logprobs_check; the writers are the event
 * thread's. source: openai-openapi 2.3.0, vLLM's prompt_logprobs. */
#pragma once

#include "server/api_call.h"

/* A figure is one token with its log-probability: the token itself and each of its likeliest, of
 * the prompts and of all that may be generated. More than --max-logprobs of them are refused; where
 * the request leaves its length open, it becomes as long as they allow. */
MUST_USE Status api_logprobs_check(ApiCall *call, ApiFault *fault);

/* Appends the entries of choices[].logprobs.content for an event's tokens. */
void api_logprobs_chat(const ApiCall *call, const sluice_event *event, Buf *out);
/* Appends vLLM's prompt_logprobs: the prompt's tokens and the likeliest in their places. */
void api_logprobs_prompt(const ApiCall *call, const sluice_event *event, Buf *out);

/* Appends an event's tokens. */
void api_logprobs_lists(const ApiCall *call, const sluice_event *event, ApiLists *lists);
/* Appends the tokens of the event's prompt; the first has no probability. */
void api_logprobs_lists_prompt(const ApiCall *call, const sluice_event *event, ApiLists *lists);
/* to, which is empty, becomes a copy. */
void api_logprobs_lists_copy(ApiLists *to, const ApiLists *from);
void api_logprobs_lists_write(const ApiLists *lists, Buf *out);
/* Empties the lists; the places of later tokens go on. */
void api_logprobs_lists_clear(ApiLists *lists);
void api_logprobs_lists_free(ApiLists *lists);
