/* batch: what one forward pass takes, as flat arrays without pointers into sequences.
 *
 * A step is ragged: each sequence brings 1..n query tokens, be they a prompt chunk, one decode
 * token or draft tokens to verify. There is no second path. */
#pragma once

#include "model/model_config.h"

/* The block tables of one KV group. Layers with the same window share a group: group 0 is that of
 * the full layers (or of all), group 1 that of the windowed ones when both kinds are present. */
typedef struct BatchKv {
    int32_t *kv_slot;     /* [n_tokens]  block * block_tokens + offset: where K and V go */
    int32_t *table_start; /* [n_seqs+1]  prefix sums into block_id */
    int32_t *block_id;    /* [table_start[n_seqs]]; -1: freed behind the window */
} BatchKv;

typedef struct Batch {
    int32_t n_seqs, n_tokens, n_logits;
    int32_t *token, *pos; /* [n_tokens] */
    int32_t *query_start; /* [n_seqs+1]  prefix sums into the token arrays */
    int32_t *kv_len;      /* [n_seqs]    length after this step */
    int32_t *logits_row;  /* [n_logits]  tokens whose logits are wanted */
    BatchKv kv[MODEL_KV_GROUPS_MAX];
} Batch;
