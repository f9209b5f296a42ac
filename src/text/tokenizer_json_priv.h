/* tokenizer_json_priv: the pipeline of a tokenizer.json, one function for each of its fields. */
#pragma once

#include "base/json.h"
#include "text/tokenizer_priv.h"

MUST_USE Status tokenizer_json_steps_normalizer(Tokenizer *t, const json_t *field, Err *err);
MUST_USE Status tokenizer_json_steps_pretok(Tokenizer *t, const json_t *field, Err *err);
MUST_USE Status tokenizer_json_steps_post(Tokenizer *t, const json_t *field, Err *err);
MUST_USE Status tokenizer_json_steps_decoder(Tokenizer *t, const json_t *field, Err *err);
