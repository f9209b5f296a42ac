/* api: the endpoints. Each runs on a worker with a whole request and sees to the reply. */
#pragma once

#include "server/api_call.h"

void api_chat_handle(struct Server *server, HttpExchange *exchange);
void api_completion_handle(struct Server *server, HttpExchange *exchange);
/* Anthropic's API: POST /v1/messages and /v1/messages/count_tokens. */
void api_message_handle(struct Server *server, HttpExchange *exchange);
void api_message_count(struct Server *server, HttpExchange *exchange);
/* OpenAI's newer API: POST /v1/responses and /v1/responses/input_tokens. */
void api_response_handle(struct Server *server, HttpExchange *exchange);
void api_response_count(struct Server *server, HttpExchange *exchange);
void api_embedding_handle(struct Server *server, HttpExchange *exchange);
void api_admin_models(struct Server *server, HttpExchange *exchange);
void api_token_tokenize(struct Server *server, HttpExchange *exchange);
void api_token_detokenize(struct Server *server, HttpExchange *exchange);
void api_admin_version(struct Server *server, HttpExchange *exchange);
void api_admin_metrics(struct Server *server, HttpExchange *exchange);
void api_admin_health(struct Server *server, HttpExchange *exchange);
void api_admin_ready(struct Server *server, HttpExchange *exchange);
/* What /dashboard shows, as JSON. */
void api_dashboard_data(struct Server *server, HttpExchange *exchange);
/* The web pages and what they load; they ask for the key themselves. */
void api_admin_page(struct Server *server, HttpExchange *exchange);

/* The body as a JSON object that names this server's model (or none); NULL when it is not, and the
 * error reply is given. The caller drops it. */
json_t *api_body(struct Server *server, HttpExchange *exchange);
/* Replies with a JSON value; takes the reference. */
void api_reply_json(HttpExchange *exchange, json_t *value);
/* The error reply of a fault. */
void api_reply_fault(HttpExchange *exchange, const ApiFault *fault);
/* Reads the fields of a body that every API has, into call->params. */
MUST_USE Status api_read_params(ApiCall *call, const json_t *body, ApiFault *fault);
/* The call was read: cuts prompts that shall be cut and submits it, or replies with the fault and
 * drops it. */
void api_go(ApiCall *call, Status status, ApiFault *fault);
/* Tokens of a text, malloc'ed (sluice_free), as sluice_tokenize. parse_special: never for a
 * client's text. */
MUST_USE Status api_encode(const struct Server *server, Str text, bool add_special,
                           bool parse_special, int32_t **ids, size_t *n, Err *err);
/* A list of token ids, which may be empty, as one more prompt of the call. */
MUST_USE Status api_prompt_ids(ApiCall *call, const json_t *list, const char *key, ApiFault *fault);
/* A "prompt"-like field: a string, a list of ids, or a list of either. */
MUST_USE Status api_prompts(ApiCall *call, const json_t *value, const char *key, int32_t n_max,
                            ApiFault *fault);

/* ---- chats, whichever API they come through ---- */

/* A call for a model with a chat template, and the request's body; NULL when the error reply is
 * given. The caller drops the body. */
ApiCall *api_chat_open(struct Server *server, HttpExchange *exchange, const ApiFormat *format,
                       const char *prefix, json_t **body);
/* A message's content, text or text parts, as one text; the caller drops *out. param, message: what
 * holds it and at which place, for the fault. */
MUST_USE Status api_chat_content(const json_t *content, const char *param, size_t message,
                                 json_t **out, ApiFault *fault);
/* The call's prompt from "messages", "tools", "add_generation_prompt", "continue_final_message"
 * and "chat_template_kwargs" of the body. */
MUST_USE Status api_chat_prompt(ApiCall *call, const json_t *body, ApiFault *fault);
