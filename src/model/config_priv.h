/* config_priv: the readers of the two kinds of configuration, and what they share. */
#pragma once

#include "model/arch.h"

/* Largest values believed; sizes made of them stay far below 2^63. */
enum {
    CONFIG_DIM_MAX = 1 << 17,
    CONFIG_FF_MAX = 1 << 20,
    CONFIG_HEADS_MAX = 1024,
    CONFIG_HEAD_DIM_MAX = 1024,
    CONFIG_VOCAB_MAX = 1 << 23,
    CONFIG_CONTEXT_MAX = 1 << 28,
    CONFIG_EXPERTS_MAX = 4096
};

/* What the family's table says before a file is read. */
void config_set_arch(ModelConfig *out, const Arch *arch);

/* config.json; the values are in range, model_config.c checks that they fit each other. */
MUST_USE Status config_hf_read(ModelConfig *out, const json_t *json, Err *err);
/* eos_token_id (an integer or a list) and bos_token_id of an object; absent keeps what is there. */
MUST_USE Status config_hf_token_ids(ModelConfig *out, const json_t *json, const char *what,
                                    Err *err);
/* The rotation of full and of windowed layers. text: the object that holds the text model's keys;
 * head_dim and context are already set. */
MUST_USE Status config_rope_read(ModelConfig *out, const json_t *text, const Arch *arch, Err *err);

/* A GGUF file's metadata. */
MUST_USE Status config_gguf_read(ModelConfig *out, const ModelFile *file, Err *err);
