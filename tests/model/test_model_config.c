/* test_model_config: both generations of config.json read alike, families' defaults and traps, and
 * every kind of nonsense refused with a sentence. */
#include "testing.h"

#include "model/model_config.h"

static Status config_parse(ModelConfig *out, const char *text, Err *err) {
    json_t *json = NULL;
    memset(out, 0, sizeof *out);
    Status status = json_parse(&json, str_from(text), &JSON_LIMITS_FILE, "config.json", err);
    if (status != OK) return status;
    status = model_config_from_json(out, json, err);
    json_decref(json);
    return status;
}

static void config_good(ModelConfig *out, const char *text) {
    Err err = {0};
    ASSERT_OK(config_parse(out, text, &err), err);
}

#define LLAMA_DIMS                                                         \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2," \
    "\"num_attention_heads\":4,\"vocab_size\":100,\"intermediate_size\":96"

static void config_llama_defaults(void **state) {
    (void)state;
    ModelConfig c;
    config_good(&c, "{" LLAMA_DIMS "}");
    assert_string_equal(c.arch, "llama");
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.context, 2048);
    assert_int_equal(c.window, 0);
    assert_false(c.tied_embeddings);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.rope.style, ROPE_NEOX);
    assert_int_equal(c.rope.dim, 16);
    assert_true(c.rope.theta == 10000);
    assert_true(c.attn_scale == 0.25f);
    assert_int_equal(c.act, ACT_SILU);
    model_config_free(&c);
}

static void config_rope_generations(void **state) {
    (void)state;
    ModelConfig old, new;
    config_good(&old, "{" LLAMA_DIMS
                      ",\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\","
                      "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
                      "\"original_max_position_embeddings\":512}}");
    config_good(&new, "{" LLAMA_DIMS
                      ",\"rope_parameters\":{\"rope_type\":\"llama3\","
                      "\"rope_theta\":5e5,\"factor\":8.0,\"low_freq_factor\":1.0,"
                      "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":512}}");
    assert_int_equal(old.rope.scaling, ROPE_SCALING_LLAMA3);
    assert_memory_equal(&old, &new, sizeof old);
    config_good(&old, "{" LLAMA_DIMS ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}");
    config_good(&new, "{" LLAMA_DIMS
                      ",\"rope_parameters\":{\"rope_type\":\"linear\","
                      "\"rope_theta\":10000,\"factor\":2.5}}");
    assert_int_equal(old.rope.scaling, ROPE_SCALING_LINEAR);
    assert_true(old.rope.factor == 2.5);
    assert_memory_equal(&old, &new, sizeof old);
    /* YaRN without a factor takes the ratio of the contexts. */
    config_good(&new, "{" LLAMA_DIMS
                      ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":null,"
                      "\"original_max_position_embeddings\":512}}");
    assert_true(new.rope.factor == 4 && new.rope.truncate &&new.rope.attn_factor == 0);
}

#define GEMMA3_DIMS                                                         \
    "\"hidden_size\":64,\"num_hidden_layers\":7,\"num_attention_heads\":4," \
    "\"vocab_size\":100,\"intermediate_size\":96,\"sliding_window\":8"

static void config_gemma3_local_rope(void **state) {
    (void)state;
    ModelConfig old, new;
    config_good(&old, "{\"model_type\":\"gemma3\",\"text_config\":{" GEMMA3_DIMS
                      ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}},"
                      "\"eos_token_id\":[1,17]}");
    config_good(&new, "{\"model_type\":\"gemma3_text\"," GEMMA3_DIMS
                      ",\"rope_parameters\":{"
                      "\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8,"
                      "\"rope_theta\":1000000},\"sliding_attention\":{\"rope_type\":\"default\","
                      "\"rope_theta\":10000}},\"eos_token_id\":[1,17]}");
    assert_memory_equal(&old, &new, sizeof old);
    assert_true(new.rope.theta == 1e6 && new.rope.scaling == ROPE_SCALING_LINEAR);
    assert_true(new.rope_local.theta == 1e4 && new.rope_local.scaling == ROPE_SCALING_NONE);
    assert_int_equal(new.n_eos, 2);
    assert_int_equal(new.eos_id[1], 17);
    for (int32_t i = 0; i < 7; i++)
        assert_int_equal(new.layer_kind[i], i == 5 ? LAYER_FULL : LAYER_WINDOW);
    assert_true(new.tied_embeddings &&new.norm_plus_one &&new.qk_norm &&new.post_norms);
    assert_true(new.head_dim == 256 && new.embed_scale == 8 && new.attn_scale == 1.0f / 16);
    assert_true(new.attn_softcap == 0 && new.logit_softcap == 0);
}

/* Gemma 3's published configs hold little more than this. */
static void config_gemma3_sparse(void **state) {
    (void)state;
    ModelConfig c;
    config_good(&c,
                "{\"model_type\":\"gemma3\",\"eos_token_id\":[1,106],\"text_config\":{"
                "\"hidden_size\":2560,\"intermediate_size\":10240,"
                "\"model_type\":\"gemma3_text\",\"num_hidden_layers\":34,"
                "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},"
                "\"sliding_window\":1024}}");
    assert_true(c.n_heads == 8 && c.n_kv_heads == 4 && c.head_dim == 256 && c.vocab == 262208);
    assert_true(c.context == 131072 && c.window == 1024 && c.n_eos == 2);
}

static void config_gemma2_softcaps(void **state) {
    (void)state;
    ModelConfig c;
    config_good(&c, "{\"model_type\":\"gemma2\"," GEMMA3_DIMS ",\"final_logit_softcapping\":null}");
    assert_true(c.attn_softcap == 50 && c.logit_softcap == 0);
    for (int32_t i = 0; i < 7; i++)
        assert_int_equal(c.layer_kind[i], i % 2 == 1 ? LAYER_FULL : LAYER_WINDOW);
}

#define QWEN_DIMS                                                           \
    "\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4," \
    "\"vocab_size\":100,\"intermediate_size\":96,\"num_key_value_heads\":2"

static void config_windows(void **state) {
    (void)state;
    ModelConfig c;
    /* Qwen carries a window that is off by default, Mistral one that null switches off. */
    config_good(&c, "{\"model_type\":\"qwen2\"," QWEN_DIMS ",\"sliding_window\":32}");
    assert_true(c.window == 0 && c.qkv_bias && !c.out_bias);
    config_good(&c, "{\"model_type\":\"qwen2\"," QWEN_DIMS
                    ",\"sliding_window\":32,"
                    "\"use_sliding_window\":true,\"max_window_layers\":3}");
    assert_true(c.window == 32 && c.layer_kind[2] == LAYER_FULL && c.layer_kind[3] == LAYER_WINDOW);
    config_good(&c, "{\"model_type\":\"mistral\"," QWEN_DIMS ",\"sliding_window\":null}");
    assert_int_equal(c.window, 0);
    config_good(&c, "{\"model_type\":\"mistral\"," QWEN_DIMS "}");
    assert_true(c.window == 4096 && c.layer_kind[0] == LAYER_WINDOW);
}

static void config_experts(void **state) {
    (void)state;
    ModelConfig c;
    config_good(&c, "{\"model_type\":\"qwen3_moe\"," QWEN_DIMS
                    ",\"num_local_experts\":8,"
                    "\"num_experts_per_tok\":2,\"moe_intermediate_size\":24,"
                    "\"mlp_only_layers\":[1],\"decoder_sparse_step\":2}");
    assert_true(c.n_experts == 8 && c.n_experts_used == 2 && c.expert_ff_dim == 24);
    const uint8_t moe[4] = {0, 0, 0, 1};
    assert_memory_equal(c.layer_moe, moe, 4);
    assert_false(c.moe_normalize);
    config_good(&c, "{\"model_type\":\"mixtral\"," QWEN_DIMS
                    ",\"num_local_experts\":8,"
                    "\"num_experts_per_tok\":2}");
    assert_true(c.moe_normalize && c.expert_ff_dim == 96 && c.layer_moe[0] && c.layer_moe[3]);
}

static void config_gpt2_names(void **state) {
    (void)state;
    ModelConfig c;
    config_good(&c,
                "{\"model_type\":\"gpt2\",\"n_embd\":48,\"n_layer\":2,\"n_head\":4,"
                "\"n_positions\":64,\"n_inner\":null,\"vocab_size\":100,"
                "\"activation_function\":\"gelu_new\"}");
    assert_true(c.ff_dim == 192 && c.learned_pos && !c.ffn_gated && c.tied_embeddings);
    assert_true(c.norm == NORM_LAYER && c.act == ACT_GELU_TANH && c.rope.style == ROPE_NONE);
    assert_true(c.context == 64 && c.ffn_bias && c.out_bias && c.qkv_bias);
}

/* Replaces one field of a good config; the sentence must hold `wanted`. */
typedef struct BadConfig {
    const char *text;
    const char *wanted;
    Status status;
} BadConfig;

#define BAD_LLAMA(fields) "{\"model_type\":\"llama\"," fields "}"
#define BAD_ROPE(fields)  "{" LLAMA_DIMS ",\"rope_scaling\":{" fields "}}"

static const BadConfig config_bad[] = {
    {"[]", "not an object", ERR_FORMAT},
    {"{}", "model_type", ERR_FORMAT},
    {"{\"model_type\":7}", "model_type", ERR_FORMAT},
    {"{\"model_type\":\"falcon\"}", "'falcon' is not known; known are llama", ERR_UNSUPPORTED},
    {"{\"model_type\":\"gemma3\"}", "text_config", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"quantization_config\":{\"quant_method\":\"gptq\"}}", "quantization_config",
     ERR_UNSUPPORTED},
    {BAD_LLAMA("\"num_hidden_layers\":2"), "'hidden_size' is missing", ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":0"), "hidden_size", ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":-64"), "hidden_size", ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":64.5"), "hidden_size", ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":\"64\""), "hidden_size", ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":9223372036854775807"), "hidden_size", ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":64,\"num_hidden_layers\":1000000000"), "num_hidden_layers",
     ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":0"),
     "num_attention_heads", ERR_FORMAT},
    {BAD_LLAMA("\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":3,"
               "\"vocab_size\":9,\"intermediate_size\":9"),
     "does not divide into 3 heads", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"num_key_value_heads\":3}", "do not divide over 3", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"num_key_value_heads\":8}", "do not divide over 8", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"num_key_value_heads\":0}", "num_key_value_heads", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"head_dim\":15}", "even", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"head_dim\":100000}", "head_dim", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"max_position_embeddings\":0}", "max_position_embeddings", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"rms_norm_eps\":-1}", "rms_norm_eps", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"rms_norm_eps\":\"x\"}", "rms_norm_eps", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"rope_theta\":0}", "rope_theta", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"rope_theta\":1}", "rope base", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"hidden_act\":\"mish\"}", "'mish'", ERR_UNSUPPORTED},
    {"{" LLAMA_DIMS ",\"eos_token_id\":100}", "eos_token_id", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"eos_token_id\":[1,\"a\"]}", "eos_token_id", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"eos_token_id\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", "more than 16",
     ERR_LIMIT},
    {"{" LLAMA_DIMS ",\"tie_word_embeddings\":1}", "tie_word_embeddings", ERR_FORMAT},
    {BAD_ROPE("\"type\":\"dynamic\",\"factor\":2"), "'dynamic'", ERR_UNSUPPORTED},
    {BAD_ROPE("\"type\":\"linear\",\"factor\":0"), "factor", ERR_FORMAT},
    {BAD_ROPE("\"type\":\"linear\",\"factor\":-3"), "factor", ERR_FORMAT},
    {BAD_ROPE("\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
              "\"high_freq_factor\":4"),
     "high_freq_factor", ERR_FORMAT},
    {BAD_ROPE("\"rope_type\":\"longrope\",\"short_factor\":[1,1],\"long_factor\":[1,1]"),
     "list of 8", ERR_FORMAT},
    {BAD_ROPE("\"rope_type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,0],"
              "\"long_factor\":[1,1,1,1,1,1,1,1]"),
     "element 7", ERR_FORMAT},
    {"{" LLAMA_DIMS ",\"partial_rotary_factor\":0.01}", "rotate", ERR_FORMAT},
    {"{\"model_type\":\"mistral\"," QWEN_DIMS ",\"sliding_window\":0}", "sliding_window",
     ERR_FORMAT},
    {"{\"model_type\":\"gemma2\"," GEMMA3_DIMS ",\"layer_types\":[\"full_attention\"]}",
     "list of 7", ERR_FORMAT},
    {"{\"model_type\":\"gemma2\"," GEMMA3_DIMS ",\"layer_types\":[1,2,3,4,5,6,7]}",
     "layer 0 has the type", ERR_UNSUPPORTED},
    {"{\"model_type\":\"mixtral\"," QWEN_DIMS ",\"num_experts_per_tok\":2}", "num_experts",
     ERR_FORMAT},
    {"{\"model_type\":\"mixtral\"," QWEN_DIMS ",\"num_local_experts\":4,"
     "\"num_experts_per_tok\":5}",
     "5 of 4 experts", ERR_FORMAT},
    {"{\"model_type\":\"qwen3_moe\"," QWEN_DIMS ",\"num_experts\":4,\"num_experts_per_tok\":2,"
     "\"mlp_only_layers\":[4]}",
     "mlp_only_layers", ERR_FORMAT},
    {"{\"model_type\":\"gpt2\",\"n_embd\":48,\"n_layer\":2,\"n_head\":4,\"vocab_size\":9,"
     "\"scale_attn_by_inverse_layer_idx\":true}",
     "scale_attn_by_inverse", ERR_UNSUPPORTED},
};

static void config_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(config_bad); i++) {
        Err err = {0};
        ModelConfig c;
        Status status = config_parse(&c, config_bad[i].text, &err);
        if (status != config_bad[i].status || strstr(err.text, config_bad[i].wanted) == NULL)
            fail_msg("%s\n gave %s: %s", config_bad[i].text, status_text(status), err.text);
        assert_null(c.rope.long_factor);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_llama_defaults),    cmocka_unit_test(config_rope_generations),
        cmocka_unit_test(config_gemma3_local_rope), cmocka_unit_test(config_gemma2_softcaps),
        cmocka_unit_test(config_windows),           cmocka_unit_test(config_experts),
        cmocka_unit_test(config_gpt2_names),        cmocka_unit_test(config_gemma3_sparse),
        cmocka_unit_test(config_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
