/* chat: the chat template of a model: messages (and tools) -> the prompt. */
#pragma once

#include "text/jinja.h"
#include "text/tokenizer.h"

typedef struct Chat Chat;

/* Finds the template: chat_template.jinja, then tokenizer_config.json's chat_template (a string or
 * a list of named ones), then GGUF's tokenizer.chat_template. ERR_NOT_FOUND when there is none. */
MUST_USE Status chat_open(Chat **out, const ModelFile *file, const Tokenizer *tokenizer, Err *err);
void chat_close(Chat *chat);
/* The source, NUL-terminated. with_tools: of the template that renders requests with tools. */
Str chat_source(const Chat *chat, bool with_tools);

/* Renders. request: an object with "messages" and any of tools, add_generation_prompt (default
 * true) and other variables; bos_token, eos_token and the like are filled in where absent. */
MUST_USE Status chat_render(const Chat *chat, const json_t *request, int64_t now, Buf *out,
                            Err *err);
/* As chat_render, then to tokens: text that came out of the request's own strings is never parsed
 * as special tokens; what the template itself writes is. */
MUST_USE Status chat_encode(const Chat *chat, const json_t *request, int64_t now, Ints *out,
                            Err *err);
