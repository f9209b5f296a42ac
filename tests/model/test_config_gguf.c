/* test_config_gguf: GGUF metadata becomes the config that it means, and nonsense is refused with a
 * sentence. The files are written here: the values of a case and a few tensors. */
#include "testing.h"

#include "format/gguf_write.h"
#include "model/model_config.h"

/* Values as text "key=kind:value ...": u (u32), f (f32), s (string), b (bool), U (list of u32 for
 * each of 4 layers). */
static void gguf_put(GgufWriter *w, const char *item) {
    char key[128];
    const char *equals = strchr(item, '=');
    assert_true(equals != NULL && (size_t)(equals - item) < sizeof key);
    memcpy(key, item, (size_t)(equals - item));
    key[equals - item] = 0;
    const char *value = equals + 3;
    int64_t number = 0;
    double real = 0;
    if (strchr("uUDb", equals[1]) != NULL) assert_true(str_to_i64(str_from(value), &number));
    if (equals[1] == 'f') real = strtod(value, NULL); /* NaN too */
    int32_t list[4] = {(int32_t)number, (int32_t)number, (int32_t)number, (int32_t)number};
    switch (equals[1]) {
        case 'u': gguf_write_u32(w, key, (uint32_t)number); break;
        case 'f': gguf_write_f32(w, key, (float)real); break;
        case 's': gguf_write_str(w, key, str_from(value)); break;
        case 'b': gguf_write_bool(w, key, number != 0); break;
        case 'U': gguf_write_i32s(w, key, list, 4); break;
        case 'D':
            list[3]++;
            gguf_write_i32s(w, key, list, 4);
            break; /* the last differs */
        default: fail_msg("kind of %s", item);
    }
}

enum { GGUF_ITEMS_MAX = 24, GGUF_VOCAB = 32, GGUF_DIM = 64 };

typedef const char *GgufItems[GGUF_ITEMS_MAX];

static const GgufItems gguf_llama = {"general.architecture=s:llama",
                                     "llama.embedding_length=u:64",
                                     "llama.block_count=u:4",
                                     "llama.attention.head_count=u:4",
                                     "llama.context_length=u:512",
                                     "llama.feed_forward_length=u:96",
                                     "llama.attention.layer_norm_rms_epsilon=f:1e-5"};

/* Writes base with `more` added or replacing values of the same key ("key=" alone removes it), the
 * embedding and, when factor is not 0, rope_freqs of eight of it. */
static Status gguf_read(const GgufItems base, const char *const *more, float factor,
                        ModelConfig *out, Err *err) {
    char *dir = testing_temp_dir(), *path = file_join(dir, "m.gguf");
    GgufWriter *w = NULL;
    ModelFile *file = NULL;
    Tensor embed = tensor_2d(NULL, DTYPE_F32, GGUF_VOCAB, GGUF_DIM);
    Tensor freqs = tensor_1d(NULL, DTYPE_F32, 8);
    float *zeros = mem_alloc(GGUF_VOCAB * GGUF_DIM * sizeof *zeros);
    float factors[8] = {factor, factor, factor, factor, factor, factor, factor, factor};
    ASSERT_OK(gguf_write_open(&w, path, err), *err);
    for (int32_t i = 0; i < GGUF_ITEMS_MAX && base[i] != NULL; i++) {
        bool replaced = false;
        size_t key = (size_t)(strchr(base[i], '=') - base[i]) + 1;
        for (const char *const *m = more; *m != NULL; m++)
            replaced = replaced || strncmp(*m, base[i], key) == 0;
        if (!replaced) gguf_put(w, base[i]);
    }
    for (const char *const *m = more; *m != NULL; m++)
        if (strchr(*m, '=')[1] != 0) gguf_put(w, *m);
    gguf_write_tensor(w, "token_embd.weight", &embed);
    if (factor != 0) gguf_write_tensor(w, "rope_freqs.weight", &freqs);
    ASSERT_OK(gguf_write_begin(w, err), *err);
    ASSERT_OK(gguf_write_data(w, zeros, GGUF_VOCAB * GGUF_DIM * 4, err), *err);
    if (factor != 0) ASSERT_OK(gguf_write_data(w, factors, sizeof factors, err), *err);
    ASSERT_OK(gguf_write_commit(w, err), *err);
    ASSERT_OK(model_file_open(&file, path, err), *err);
    Status status = model_config_read(out, file, err);
    model_file_close(file);
    mem_free(path);
    mem_free(zeros);
    testing_temp_remove(dir);
    return status;
}

static void gguf_good(ModelConfig *out, const char *const *more, float factor) {
    Err err = {0};
    ASSERT_OK(gguf_read(gguf_llama, more, factor, out, &err), err);
}

#define MORE(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_MORE   ((const char *const[]){NULL})

static void config_gguf_llama(void **state) {
    (void)state;
    ModelConfig c;
    gguf_good(&c, NO_MORE, 0);
    assert_string_equal(c.arch, "llama");
    assert_true(c.dim == 64 && c.n_layers == 4 && c.n_kv_heads == 4 && c.head_dim == 16);
    assert_true(c.vocab == GGUF_VOCAB && c.context == 512 && c.ff_dim == 96);
    assert_int_equal(c.rope.style, ROPE_INTERLEAVED); /* the converter permutes q and k */
    assert_true(c.rope.theta == 10000 && c.tied_embeddings && c.n_eos == 0);
    gguf_good(&c,
              MORE("llama.attention.head_count_kv=U:2", "llama.feed_forward_length=U:80",
                   "tokenizer.ggml.eos_token_id=u:2", "tokenizer.ggml.eot_token_id=u:7",
                   "tokenizer.ggml.eom_token_id=u:2", "tokenizer.ggml.bos_token_id=u:1"),
              0);
    assert_true(c.n_kv_heads == 2 && c.ff_dim == 80 && c.bos_id == 1);
    assert_true(c.n_eos == 2 && c.eos_id[0] == 2 && c.eos_id[1] == 7);
}

static void config_gguf_rope(void **state) {
    (void)state;
    ModelConfig c;
    gguf_good(&c, MORE("llama.rope.scaling.type=s:linear", "llama.rope.scaling.factor=f:4"), 0);
    assert_true(c.rope.scaling == ROPE_SCALING_LINEAR && c.rope.factor == 4);
    gguf_good(&c, MORE("llama.rope.freq_base=f:500000"), 8);
    assert_true(c.rope.scaling == ROPE_SCALING_FACTORS && c.rope.long_factor[7] == 8);
    assert_true(c.rope.theta == 500000);
    model_config_free(&c);
    gguf_good(&c,
              MORE("llama.rope.scaling.type=s:yarn", "llama.rope.scaling.factor=f:4",
                   "llama.rope.scaling.original_context_length=u:128"),
              0);
    assert_true(c.rope.scaling == ROPE_SCALING_YARN && c.rope.original_context == 128);
    assert_true(fabs(c.rope.attn_factor - (0.1 * log(4) + 1)) < 1e-12);
}

static void config_gguf_mixture(void **state) {
    (void)state;
    ModelConfig c;
    gguf_good(&c, MORE("llama.expert_count=u:8", "llama.expert_used_count=u:2"), 0);
    assert_string_equal(c.arch, "mixtral");
    assert_true(c.n_experts == 8 && c.expert_ff_dim == 96 && c.moe_normalize);
    assert_false(c.layer_moe[0]); /* without a router's tensor */
}

/* Gemma: scale of the 2B and 9B sizes, windows in turns. */
static void config_gguf_gemma2(void **state) {
    (void)state;
    static const GgufItems gemma = {"general.architecture=s:gemma2",
                                    "gemma2.embedding_length=u:64",
                                    "gemma2.block_count=u:4",
                                    "gemma2.attention.head_count=u:2",
                                    "gemma2.attention.key_length=u:64",
                                    "gemma2.attention.value_length=u:64",
                                    "gemma2.context_length=u:512",
                                    "gemma2.feed_forward_length=u:96",
                                    "gemma2.attention.sliding_window=u:128"};
    ModelConfig c;
    Err err = {0};
    ASSERT_OK(gguf_read(gemma, NO_MORE, 0, &c, &err), err);
    assert_true(c.head_dim == 64 && c.attn_scale == 0.125f && c.embed_scale == 8);
    assert_true(c.attn_softcap == 50 && c.logit_softcap == 30 && !c.norm_plus_one && c.post_norms);
    for (int32_t i = 0; i < 4; i++)
        assert_int_equal(c.layer_kind[i], i % 2 == 1 ? LAYER_FULL : LAYER_WINDOW);
    /* 27B is told by its 46 layers: 1 / sqrt(dim / heads). */
    ASSERT_OK(gguf_read(gemma, MORE("gemma2.block_count=u:46"), 0, &c, &err), err);
    assert_true(fabsf(c.attn_scale - 1 / sqrtf(32)) < 1e-7f);
}

typedef struct BadGguf {
    const char *more[4];
    float factor;
    const char *wanted;
    Status status;
} BadGguf;

static const BadGguf gguf_bad[] = {
    {{"general.architecture=", NULL}, 0, "general.architecture is missing", ERR_FORMAT},
    {{"general.architecture=s:mamba", NULL}, 0, "'mamba' is not known", ERR_UNSUPPORTED},
    {{"general.architecture=u:5", NULL}, 0, "general.architecture", ERR_FORMAT},
    {{"llama.embedding_length=", NULL}, 0, "llama.embedding_length is missing", ERR_FORMAT},
    {{"llama.embedding_length=u:0", NULL}, 0, "embedding_length is missing or 0", ERR_FORMAT},
    {{"llama.block_count=u:4294967295", NULL}, 0, "llama.block_count", ERR_FORMAT},
    {{"llama.block_count=s:four", NULL}, 0, "llama.block_count", ERR_FORMAT},
    {{"llama.attention.head_count=u:3", NULL}, 0, "does not divide into 3", ERR_FORMAT},
    {{"llama.attention.head_count=D:4", NULL}, 0, "differs between layers", ERR_UNSUPPORTED},
    {{"llama.attention.head_count=U:-4", NULL}, 0, "llama.attention.head_count is -4", ERR_FORMAT},
    {{"llama.attention.head_count_kv=u:3", NULL}, 0, "do not divide over 3", ERR_FORMAT},
    {{"llama.attention.head_count_kv=u:0", NULL}, 0, "head_count_kv is missing or 0", ERR_FORMAT},
    {{"llama.attention.key_length=u:16", "llama.attention.value_length=u:32", NULL},
     0,
     "keys of 16 and values of 32",
     ERR_UNSUPPORTED},
    {{"llama.attention.layer_norm_rms_epsilon=f:nan", NULL}, 0, "is not finite", ERR_FORMAT},
    {{"llama.attention.layer_norm_rms_epsilon=f:-1", NULL},
     0,
     "layer_norm_rms_epsilon is -1",
     ERR_FORMAT},
    {{"llama.rope.dimension_count=u:17", NULL}, 0, "17 elements of a head rotate", ERR_FORMAT},
    {{"llama.rope.dimension_count=u:32", NULL}, 0, "32 elements of a head rotate", ERR_FORMAT},
    {{"llama.rope.freq_base=f:0", NULL}, 0, "freq_base", ERR_FORMAT},
    {{"llama.rope.scaling.type=s:magic", NULL}, 0, "'magic' is not supported", ERR_UNSUPPORTED},
    {{"llama.rope.dimension_count=u:8", NULL}, 2, "rope_freqs.weight does not hold 4", ERR_FORMAT},
    {{"llama.rope.freq_base=f:9", NULL}, NAN, "element 0 of rope_freqs", ERR_FORMAT},
    {{"llama.rope.freq_base=f:9", NULL}, -1, "element 0 of rope_freqs", ERR_FORMAT},
    {{"llama.expert_count=u:4", "llama.expert_used_count=u:5", NULL},
     0,
     "5 of 4 experts",
     ERR_FORMAT},
    {{"llama.expert_count=u:100000", NULL}, 0, "llama.expert_count", ERR_FORMAT},
    {{"tokenizer.ggml.eos_token_id=s:x", NULL}, 0, "eos_token_id", ERR_FORMAT},
};

static void config_gguf_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(gguf_bad); i++) {
        ModelConfig c;
        Err err = {0};
        Status status = gguf_read(gguf_llama, gguf_bad[i].more, gguf_bad[i].factor, &c, &err);
        if (status != gguf_bad[i].status || strstr(err.text, gguf_bad[i].wanted) == NULL)
            fail_msg("%s gave %s: %s", gguf_bad[i].more[0], status_text(status), err.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_gguf_llama),   cmocka_unit_test(config_gguf_rope),
        cmocka_unit_test(config_gguf_mixture), cmocka_unit_test(config_gguf_gemma2),
        cmocka_unit_test(config_gguf_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
