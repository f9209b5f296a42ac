/* api_openai: the replies of chat and text completions in OpenAI's shapes. */
#pragma once

#include "server/api_call.h"

extern const ApiFormat API_OPENAI_CHAT;
extern const ApiFormat API_OPENAI_TEXT;
