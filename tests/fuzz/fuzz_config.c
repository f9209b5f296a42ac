/* fuzz_config: any JSON is read as a model's configuration or refused with a sentence; from what is
 * accepted, sizes and rope tables can be computed without overflow or nonsense. */
#include "base/json.h"

#include <math.h>

#include "base/mem.h"
#include "model/kv_store.h"
#include "model/rope_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_POSITIONS = 3 };

static void fuzz_config_rope(const RopeConfig *rope, int32_t head_dim) {
    if (rope->style == ROPE_NONE) return;
    CHECK(rope->dim >= 2 && rope->dim % 2 == 0 && rope->dim <= head_dim);
    float *table = mem_alloc((size_t)rope_table_bytes(rope, FUZZ_POSITIONS));
    rope_table_fill(rope, FUZZ_POSITIONS, table);
    for (int32_t i = 0; i < FUZZ_POSITIONS * rope->dim; i++) CHECK(isfinite(table[i]));
    mem_free(table);
}

static void fuzz_config_check(const ModelConfig *c) {
    CHECK(c->n_layers >= 1 && c->n_layers <= MODEL_LAYERS_MAX && c->dim >= 1 && c->vocab >= 1);
    CHECK(c->n_kv_heads >= 1 && c->n_heads % c->n_kv_heads == 0 && c->head_dim >= 1);
    CHECK(c->n_experts_used <= c->n_experts && c->n_eos <= MODEL_EOS_MAX);
    CHECK(isfinite(c->attn_scale) && c->attn_scale > 0);
    CHECK(isfinite(c->embed_scale) && c->embed_scale > 0);
    for (int32_t g = 0; g < kv_store_groups(c); g++)
        CHECK(kv_store_block_bytes(c, g, 256, DTYPE_F32) > 0);
    for (int32_t i = 0; i < c->n_layers; i++)
        CHECK(c->layer_kind[i] == LAYER_FULL || c->window > 0);
    fuzz_config_rope(&c->rope, c->head_dim);
    fuzz_config_rope(&c->rope_local, c->head_dim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *json = NULL;
    Err err = {0};
    ModelConfig config;
    Str text = {(const char *)data, size};
    if (json_parse(&json, text, &JSON_LIMITS_FILE, "config.json", &err) != OK) return 0;
    if (model_config_from_json(&config, json, &err) == OK)
        fuzz_config_check(&config);
    else
        CHECK(err.text[0] != '\0' && config.rope.long_factor == NULL);
    model_config_free(&config);
    json_decref(json);
    return 0;
}
