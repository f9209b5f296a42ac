/* test_convert: every family of tests/golden, converted to GGUF and opened again, still computes
 * what Hugging Face computes; and what becomes of tokenizers. */
#include "compress/convert.h"

#include "compress/convert_priv.h"
#include "golden/golden.h"

static void convert_put(const char *dir, const char *name, const void *data, size_t len) {
    char *path = file_join(dir, name);
    testing_write(path, data, len);
    mem_free(path);
}

static void convert_copy(const char *from, const char *to, const char *name) {
    char *path = file_join(from, name);
    Buf buf = {0};
    Err err = {0};
    ASSERT_OK(file_read(&buf, path, 64 << 20, &err), err);
    convert_put(to, name, buf.data, buf.len);
    buf_free(&buf);
    mem_free(path);
}

/* A byte-level tokenizer of n - 2 tokens; `extra` is more JSON members. */
static void convert_put_tokenizer(const char *dir, int32_t n, const char *extra) {
    Buf json = {0};
    buf_append_text(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int32_t i = 0; i < n - 2; i++)
        buf_append_format(&json, "%s\"t%d\":%d", i > 0 ? "," : "", i, i);
    buf_append_format(&json, "},\"merges\":[\"t 1\",[\"t\",\"2\"]]},%s}", extra);
    assert_false(json.failed);
    convert_put(dir, "tokenizer.json", json.data, json.len);
    buf_free(&json);
}

static const char *const convert_gpt2_split =
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":true}";

static ModelFile *convert_and_open(const char *dir, DType type, Err *err) {
    char *out = file_join(dir, "out.gguf");
    ConvertReport report;
    ModelFile *file = NULL;
    ConvertOptions options = {.type = type, .quiet = true};
    Status status = convert_to_gguf(dir, out, &options, &report, err);
    if (status == OK) ASSERT_OK(model_file_open(&file, out, err), *err);
    mem_free(out);
    return file;
}

/* Largest error of the logits that are kept. With `greedy` all greedy tokens must come out. */
static double convert_logits_error(const Golden *g, const char *path, bool greedy) {
    GoldenModel m;
    Err err = {0};
    golden_open_model(&m, path, OPS_REF, 1);
    int32_t n = (int32_t)g->prompt.len;
    Single *single =
        golden_single(&m, &(SingleOptions){.context_max = GOLDEN_CONTEXT, .n_logits_max = n});
    const float *logits = NULL;
    double worst = 0;
    ASSERT_OK(single_feed(single, g->prompt.data, n, n, &logits, &err), err);
    for (size_t i = 0; i < g->rows.len; i++)
        worst = fmax(worst, testing_error(logits + (int64_t)g->rows.data[i] * g->vocab,
                                          g->logits + i * (size_t)g->vocab, (size_t)g->vocab));
    logits += (int64_t)(n - 1) * g->vocab;
    for (size_t i = 0; greedy && i < g->greedy.len; i++) {
        int32_t token = golden_argmax(logits, g->vocab);
        assert_int_equal(token, g->greedy.data[i]);
        ASSERT_OK(single_feed(single, &token, 1, 1, &logits, &err), err);
    }
    single_close(single);
    golden_close_model(&m);
    return worst;
}

/* Every type of file. Where the type holds the golden weights exactly the bound is that of
 * test_golden_hf and the greedy tokens are equal: F32 always; BF16 and F16 where the golden weights
 * are bf16 (f16 has more digits, and their range fits). The others round the weights, by up to
 * 2^-11 (F16), 2^-8 (BF16, Q8_0) or 1/16 of a group's largest (Q4_0), in models of random weights,
 * which forgive nothing: their bounds are three times what was measured. Rows that do not divide
 * into groups stay F16. */
static const struct {
    DType type;
    double bound, bound_rounded;
} convert_checks[] = {
    {DTYPE_F32, 2e-4, 2e-4}, {DTYPE_F16, 2e-4, 1e-2}, {DTYPE_BF16, 2e-4, 8e-2},
    {DTYPE_Q8_0, 0.45, 0.1}, {DTYPE_Q4_0, 4, 0.4},
};

static double convert_bound(const char *family, size_t i) {
    bool is_f32 = strcmp(family, "llama") == 0 || strcmp(family, "gpt2") == 0;
    /* A router that sees rounded weights picks other experts: the answer is only finite. */
    bool is_routed = strcmp(family, "qwen3_moe") == 0 && dtype_is_grouped(convert_checks[i].type);
    return is_routed ? 4 : is_f32 ? convert_checks[i].bound_rounded : convert_checks[i].bound;
}

static void convert_family_as(const Golden *g, const char *family, const char *dir, size_t i) {
    Err err = {0};
    ModelFile *file = convert_and_open(dir, convert_checks[i].type, &err);
    if (strcmp(family, "llama_yarn_raw") == 0) {
        assert_null(file);
        assert_non_null(strstr(err.text, "without truncation"));
        return;
    }
    if (file == NULL) fail_msg("%s: %s", family, err.text);
    char *out = file_join(dir, "out.gguf");
    double bound = convert_bound(family, i);
    double error = convert_logits_error(g, out, bound == 2e-4);
    print_message("%s, %s: largest error %.2e of the largest logit\n", family,
                  dtype_info(convert_checks[i].type)->name, error);
    ASSERT_ERROR_BELOW(error, bound);
    model_file_close(file);
    mem_free(out);
}

static void convert_family(const char *family) {
    Golden g;
    golden_load(&g, family);
    char *dir = testing_temp_dir();
    convert_copy(g.folder, dir, "config.json");
    convert_copy(g.folder, dir, "model.safetensors");
    convert_put_tokenizer(dir, g.vocab, convert_gpt2_split);
    for (size_t i = 0; i < ARRAY_LEN(convert_checks); i++) convert_family_as(&g, family, dir, i);
    testing_temp_remove(dir);
    golden_free(&g);
}

static void convert_families(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(golden_families); i++) convert_family(golden_families[i]);
}

static void convert_prepare(char **dir, int32_t *vocab) {
    Golden g;
    golden_load(&g, "llama");
    *dir = testing_temp_dir();
    *vocab = g.vocab;
    convert_copy(g.folder, *dir, "config.json");
    convert_copy(g.folder, *dir, "model.safetensors");
    golden_free(&g);
}

/* Norms and what does not divide stay wide; the rest takes the type. */
static void convert_types(void **state) {
    (void)state;
    static const DType types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    char *dir;
    int32_t vocab;
    convert_prepare(&dir, &vocab);
    convert_put_tokenizer(dir, vocab, convert_gpt2_split);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        Err err = {0};
        ModelFile *file = convert_and_open(dir, types[i], &err);
        if (file == NULL) fail_msg("%s", err.text);
        Tensor t;
        assert_true(model_file_find(file, "blk.0.attn_norm.weight", &t));
        assert_int_equal(t.dtype, DTYPE_F32);
        assert_true(model_file_find(file, "blk.0.attn_q.weight", &t));
        bool divides = t.shape[1] % dtype_info(types[i])->group_len == 0;
        assert_int_equal(t.dtype, divides ? types[i] : DTYPE_F16);
        model_file_close(file);
    }
    Err err = {0};
    ConvertReport report;
    ConvertOptions options = {.type = DTYPE_Q6_K, .quiet = true};
    assert_int_equal(convert_to_gguf(dir, "/tmp/x.gguf", &options, &report, &err), ERR_ARG);
    testing_temp_remove(dir);
}

static Str convert_get_str(const ModelFile *file, const char *key) {
    Str s = {0};
    Err err = {0};
    ASSERT_OK(model_file_get_str(file, key, &s, &err), err);
    return s;
}

static int64_t convert_get_int(const ModelFile *file, const char *key) {
    int64_t value = -1;
    Err err = {0};
    ASSERT_OK(model_file_get_int(file, key, 0, UINT32_MAX, &value, &err), err);
    return value;
}

static void convert_tokenizer_bpe(void **state) {
    (void)state;
    char *dir;
    int32_t vocab;
    convert_prepare(&dir, &vocab);
    Buf extra = {0};
    buf_append_format(&extra,
                      "%s,\"added_tokens\":[{\"id\":%d,\"content\":\"<end>\",\"special\":true},"
                      "{\"id\":3,\"content\":\"t3\",\"special\":false}],\"post_processor\":"
                      "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{}},"
                      "{\"Sequence\":{}}]}",
                      convert_gpt2_split, vocab - 2);
    convert_put_tokenizer(dir, vocab, extra.data);
    buf_free(&extra);
    const char *config =
        "{\"eos_token\":{\"content\":\"<end>\"},\"bos_token\":\"t1\",\"pad_token\":null,"
        "\"chat_template\":[{\"name\":\"default\",\"template\":\"A\"},"
        "{\"name\":\"tool\",\"template\":\"B\"}]}";
    convert_put(dir, "tokenizer_config.json", config, strlen(config));
    Err err = {0};
    ModelFile *file = convert_and_open(dir, DTYPE_F16, &err);
    if (file == NULL) fail_msg("%s", err.text);
    assert_true(str_is(convert_get_str(file, "tokenizer.ggml.model"), "gpt2"));
    assert_true(str_is(convert_get_str(file, "tokenizer.ggml.pre"), "gpt-2"));
    assert_true(str_is(convert_get_str(file, "tokenizer.chat_template"), "A"));
    assert_true(str_is(convert_get_str(file, "tokenizer.chat_template.tool"), "B"));
    const GgufValue *tokens = model_file_value(file, "tokenizer.ggml.tokens");
    const GgufValue *types = model_file_value(file, "tokenizer.ggml.token_type");
    const GgufValue *merges = model_file_value(file, "tokenizer.ggml.merges");
    assert_int_equal(tokens->array_len, vocab);
    assert_true(str_is(gguf_array_str(tokens, (uint64_t)vocab - 2), "<end>"));
    assert_true(str_starts_with(gguf_array_str(tokens, (uint64_t)vocab - 1), "[PAD"));
    assert_int_equal(gguf_array_int(types, 0), 1);
    assert_int_equal(gguf_array_int(types, 3), 4);
    assert_int_equal(gguf_array_int(types, (uint64_t)vocab - 2), 3);
    assert_int_equal(gguf_array_int(types, (uint64_t)vocab - 1), 5);
    assert_true(str_is(gguf_array_str(merges, 0), "t 1"));
    assert_true(str_is(gguf_array_str(merges, 1), "t 2"));
    assert_int_equal(convert_get_int(file, "tokenizer.ggml.bos_token_id"), 1);
    assert_int_equal(convert_get_int(file, "tokenizer.ggml.eos_token_id"), vocab - 2);
    assert_int_equal(convert_get_int(file, "tokenizer.ggml.padding_token_id"), -1);
    bool adds = false;
    ASSERT_OK(model_file_get_bool(file, "tokenizer.ggml.add_bos_token", &adds, &err), err);
    assert_true(adds);
    ASSERT_OK(model_file_get_bool(file, "tokenizer.ggml.add_eos_token", &adds, &err), err);
    assert_false(adds);
    model_file_close(file);
    testing_temp_remove(dir);
}

static void convert_refused(const char *dir, const char *part) {
    Err err = {0};
    ModelFile *file = convert_and_open(dir, DTYPE_Q8_0, &err);
    assert_null(file);
    if (strstr(err.text, part) == NULL) fail_msg("no '%s' in: %s", part, err.text);
}

static void convert_refusals(void **state) {
    (void)state;
    char *dir;
    int32_t vocab;
    convert_prepare(&dir, &vocab);
    convert_refused(dir, "neither tokenizer.json nor tokenizer.model");
    convert_put_tokenizer(dir, vocab,
                          "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":"
                          "{\"Regex\":\"x+\"}}");
    convert_refused(dir, "'x+'");
    convert_put_tokenizer(dir, vocab + 3, convert_gpt2_split);
    convert_refused(dir, "embeddings for");
    const char *unigram = "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}";
    convert_put(dir, "tokenizer.json", unigram, strlen(unigram));
    convert_refused(dir, "type BPE");
    char *out = file_join(dir, "out.gguf");
    assert_false(file_exists(out));
    mem_free(out);
    testing_temp_remove(dir);
}

/* The name under which GGUF knows how a text is split. */
static void convert_pre(void **state) {
    (void)state;
#define SPLIT_QWEN                                                                               \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"                 \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|" \
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}"
    static const char *const bytes = "{\"type\":\"ByteLevel\",\"use_regex\":true}";
    static const struct {
        const char *parts, *normalizer, *pre;
    } rows[] = {
        {SPLIT_QWEN ",{\"type\":\"ByteLevel\",\"use_regex\":false}", "null", "stablelm2"},
        {SPLIT_QWEN, "{\"type\":\"NFC\"}", "qwen2"},
        {SPLIT_QWEN, "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}", "qwen2"},
        {NULL, "null", "gpt-2"},
        {"{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\"}", "null",
         "smollm"},
    };
#undef SPLIT_QWEN
    char *dir;
    int32_t vocab;
    convert_prepare(&dir, &vocab);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Buf extra = {0};
        Err err = {0};
        buf_append_format(&extra,
                          "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[%s]},"
                          "\"normalizer\":%s",
                          rows[i].parts != NULL ? rows[i].parts : bytes, rows[i].normalizer);
        convert_put_tokenizer(dir, vocab, extra.data);
        ModelFile *file = convert_and_open(dir, DTYPE_F16, &err);
        if (file == NULL) fail_msg("%s: %s", rows[i].pre, err.text);
        assert_true(str_is(convert_get_str(file, "tokenizer.ggml.pre"), rows[i].pre));
        model_file_close(file);
        buf_free(&extra);
    }
    testing_temp_remove(dir);
}

/* Weights of NaN fit f16, but no scale; nothing is left behind. */
static void convert_not_finite(void **state) {
    (void)state;
    Golden g;
    golden_load(&g, "phi3"); /* rows of 64, which divide into groups */
    char *dir = testing_temp_dir(), *path = file_join(g.folder, "model.safetensors");
    Buf buf = {0};
    Err err = {0};
    ASSERT_OK(file_read(&buf, path, 64 << 20, &err), err);
    uint64_t header_bytes;
    memcpy(&header_bytes, buf.data, 8);
    memset(buf.data + 8 + header_bytes, 0xff, buf.len - 8 - (size_t)header_bytes);
    convert_put(dir, "model.safetensors", buf.data, buf.len);
    convert_copy(g.folder, dir, "config.json");
    convert_put_tokenizer(dir, g.vocab, convert_gpt2_split);
    convert_refused(dir, "row 0 of 'token_embd.weight' has an element that is not finite");
    ModelFile *file = convert_and_open(dir, DTYPE_F16, &err);
    assert_non_null(file);
    model_file_close(file);
    buf_free(&buf);
    mem_free(path);
    testing_temp_remove(dir);
    golden_free(&g);
}

/* Pieces "<unk>", "<0x41>" and "ab" with a trainer_spec (BPE) and a normalizer_spec. */
static const char convert_spm[] =
    "\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02"
    "\x0a\x0a\x0a\x06<0x41>\x18\x06"
    "\x0a\x09\x0a\x02"
    "ab\x15\0\0\x80\xbf"
    "\x12\x02\x18\x02"
    "\x1a\x04\x18\0\x20\0";

static void convert_pieces(void **state) {
    (void)state;
    ConvertPieces pieces;
    Err err = {0};
    Str bytes = {convert_spm, sizeof convert_spm - 1};
    ASSERT_OK(convert_pieces_read(&pieces, bytes, "x", &err), err);
    assert_int_equal(pieces.n, 3);
    assert_true(str_is(pieces.text[0], "<unk>") && pieces.type[0] == 2);
    assert_true(str_is(pieces.text[1], "<0x41>") && pieces.type[1] == 6);
    assert_true(str_is(pieces.text[2], "ab") && pieces.type[2] == 1 && pieces.score[2] == -1);
    assert_false(pieces.unigram || pieces.add_dummy_prefix || pieces.remove_extra_spaces);
    convert_pieces_free(&pieces);
    for (size_t len = 0; len < bytes.len; len++) {
        char *copy = malloc(len + 1);
        memcpy(copy, bytes.ptr, len);
        Status status = convert_pieces_read(&pieces, (Str){copy, len}, "x", NULL);
        assert_true(status == OK || status == ERR_FORMAT);
        convert_pieces_free(&pieces);
        free(copy);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convert_families),      cmocka_unit_test(convert_types),
        cmocka_unit_test(convert_tokenizer_bpe), cmocka_unit_test(convert_pre),
        cmocka_unit_test(convert_refusals),      cmocka_unit_test(convert_not_finite),
        cmocka_unit_test(convert_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
