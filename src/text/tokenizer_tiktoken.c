/* Rank files of tiktoken: lines of "base64 rank". The rank is the id; merges are whatever gives a
 * token of lower rank first. Special tokens are not in the file: the number of ranks tells. */
#include "text/tokenizer_priv.h"

static int32_t tokenizer_tiktoken_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static bool tokenizer_tiktoken_base64(Str s, Buf *out) {
    if (s.len == 0 || s.len % 4 != 0) return false;
    for (size_t i = 0; i < s.len; i += 4) {
        uint32_t bits = 0, n = 3;
        for (size_t k = 0; k < 4; k++) {
            int32_t digit = tokenizer_tiktoken_digit(s.ptr[i + k]);
            if (digit < 0) { /* padding: the last one or two of all */
                bool last = i + 4 == s.len && k >= 2 && s.ptr[i + k] == '=' && s.ptr[i + 3] == '=';
                if (!last) return false;
                n = MIN(n, (uint32_t)k - 1);
                digit = 0;
            }
            bits = bits << 6 | (uint32_t)digit;
        }
        for (uint32_t k = 0; k < n; k++) buf_append_byte(out, (char)(bits >> (16 - 8 * k)));
    }
    return true;
}

static Status tokenizer_tiktoken_line(Tokenizer *t, Str line, int64_t number, Err *err) {
    size_t space = str_find(line, STR_LIT(" "), 0);
    int64_t rank;
    Buf bytes = {0};
    if (space == SIZE_MAX || !str_to_i64(str_slice(line, space + 1, line.len), &rank) || rank < 0 ||
        !tokenizer_tiktoken_base64(str_slice(line, 0, space), &bytes)) {
        buf_free(&bytes);
        FAIL(err, ERR_FORMAT, "rank file: line %lld is not base64 and a rank", (long long)number);
    }
    Status status = bytes.failed ? err_set(err, ERR_NOMEM, "rank file: no memory")
                                 : tokenizer_build_token(t, rank, buf_str(&bytes), 0, err);
    buf_free(&bytes);
    return status;
}

static Status tokenizer_tiktoken_special(Tokenizer *t, const char *text, int32_t id, Err *err) {
    return tokenizer_build_added(
        t, &(AddedToken){.text = str_from(text), .id = id, .special = true}, err);
}

/* Llama 3: eight that have a name and 248 that are kept for later. */
static Status tokenizer_tiktoken_llama3(Tokenizer *t, int32_t base, Err *err) {
    static const char *const names[] = {"<|begin_of_text|>",
                                        "<|end_of_text|>",
                                        "<|reserved_special_token_0|>",
                                        "<|reserved_special_token_1|>",
                                        "<|finetune_right_pad_id|>",
                                        "<|step_id|>",
                                        "<|start_header_id|>",
                                        "<|end_header_id|>",
                                        "<|eom_id|>",
                                        "<|eot_id|>",
                                        "<|python_tag|>"};
    for (int32_t i = 0; i < 256; i++) {
        char name[48];
        Buf text = {0};
        if (i < (int32_t)ARRAY_LEN(names))
            buf_append_text(&text, names[i]);
        else
            buf_append_format(&text, "<|reserved_special_token_%d|>",
                              i - (int32_t)ARRAY_LEN(names) + 2);
        size_t n = MIN(text.len, sizeof name - 1);
        memcpy(name, buf_str(&text).ptr, n);
        name[n] = '\0';
        buf_free(&text);
        TRY(tokenizer_tiktoken_special(t, name, base + i, err));
    }
    t->bos = base;
    t->eos = base + 1;
    tokenizer_build_bos(t, true);
    return OK;
}

static Status tokenizer_tiktoken_qwen(Tokenizer *t, int32_t base, Err *err) {
    static const char *const names[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    for (int32_t i = 0; i < (int32_t)ARRAY_LEN(names); i++)
        TRY(tokenizer_tiktoken_special(t, names[i], base + i, err));
    t->eos = base;
    return OK;
}

static Status tokenizer_tiktoken_openai(Tokenizer *t, int32_t n_ranks, Err *err) {
    static const char *const fim[] = {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"};
    bool cl100k = n_ranks == 100256, o200k = n_ranks == 199998;
    int32_t base = cl100k ? 100257 : o200k ? 199999 : 50256;
    TRY(tokenizer_tiktoken_special(t, "<|endoftext|>", base, err));
    for (int32_t i = 0; cl100k && i < 3; i++)
        TRY(tokenizer_tiktoken_special(t, fim[i], base + 1 + i, err));
    if (cl100k) TRY(tokenizer_tiktoken_special(t, "<|endofprompt|>", 100276, err));
    if (o200k) TRY(tokenizer_tiktoken_special(t, "<|endofprompt|>", 200018, err));
    t->eos = base;
    return OK;
}

/* What the number of ranks says: patterns and special tokens. */
static Status tokenizer_tiktoken_family(Tokenizer *t, int32_t n_ranks, Err *err) {
    const char *name = "cl100k";
    if (n_ranks == 50256 || n_ranks == 50257) name = "gpt-2";
    if (n_ranks == 128000) name = "llama3";
    if (n_ranks == 199998) name = "o200k";
    if (n_ranks == 151643) name = "cl100k-qwen";
    bool nfc = false, ignored = false, qwen = n_ranks == 151643;
    size_t n;
    const char *const *patterns =
        tokenizer_patterns(str_from(qwen ? "qwen2" : name), &n, &nfc, &ignored);
    CHECK(patterns != NULL && n == 1);
    PretokStep *step = pretok_add(&t->pretok, PRETOK_SPLIT);
    CHECK(step != NULL);
    TRY(pattern_open(&step->pattern, str_from(patterns[0]), err));
    if (qwen) {
        CHECK(normalize_add(&t->normalizer, NORM_NFC) != NULL);
        return tokenizer_tiktoken_qwen(t, n_ranks, err);
    }
    if (n_ranks == 128000) return tokenizer_tiktoken_llama3(t, n_ranks, err);
    if (n_ranks == 50256 || n_ranks == 100256 || n_ranks == 199998)
        return tokenizer_tiktoken_openai(t, n_ranks, err);
    return OK;
}

static Status tokenizer_tiktoken_read(Tokenizer *t, Str data, Err *err) {
    int64_t number = 0, n_ranks = 0;
    while (data.len > 0) {
        size_t end = MIN(str_find(data, STR_LIT("\n"), 0), data.len);
        Str line = str_trim(str_slice(data, 0, end));
        number++;
        if (line.len > 0) {
            TRY(tokenizer_tiktoken_line(t, line, number, err));
            n_ranks++;
        }
        data = str_slice(data, end + 1, data.len);
    }
    if (n_ranks == 0) FAIL(err, ERR_FORMAT, "rank file: holds no ranks");
    t->raw_bytes = t->ignore_merges = true;
    for (int32_t byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        uint32_t id;
        if (!map_find(&t->vocab, (Str){&c, 1}, &id))
            FAIL(err, ERR_FORMAT, "rank file: the byte 0x%02x has no rank", (unsigned)byte);
        t->byte_id[byte] = (int32_t)id;
    }
    float *score = mem_try_alloc((size_t)t->n_vocab, sizeof *score);
    if (score == NULL) FAIL(err, ERR_NOMEM, "rank file: no memory for %d tokens", t->n_vocab);
    /* Exact in float: ids are below 2^22. */
    for (int32_t id = 0; id < t->n_vocab; id++) score[id] = (float)-id;
    Status status = tokenizer_build_merges(t, score, err);
    mem_free(score);
    TRY(status);
    return tokenizer_tiktoken_family(t, (int32_t)n_ranks, err);
}

Status tokenizer_tiktoken_open(Tokenizer **out, Str data, Err *err) {
    Tokenizer *t = tokenizer_build(TOKENIZER_BPE);
    Status status = tokenizer_tiktoken_read(t, data, err);
    if (status != OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OK;
}
