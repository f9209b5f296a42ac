/* fuzz_tokenizer_model: any bytes as a SentencePiece model or a rank file, refused or used. */
#include "fuzz_tokenizer.h"

static Status fuzz_open_model(Tokenizer **out, Str data, Err *err) {
    bool is_spm = data.len > 0 && data.ptr[0] == '\n';
    return is_spm ? tokenizer_spm_open(out, data, err) : tokenizer_tiktoken_open(out, data, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_tokenizer(fuzz_open_model, data, size);
    return 0;
}
