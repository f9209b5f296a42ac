/* fuzz_tokenizer_json: any bytes as a tokenizer.json, refused with a sentence or used. */
#include "fuzz_tokenizer.h"

#include "text/tokenizer_priv.h"

static Status fuzz_open_json(Tokenizer **out, Str data, Err *err) {
    json_t *root = NULL;
    TRY(json_parse(&root, data, &JSON_LIMITS_REQUEST, "input", err));
    Status status = tokenizer_json_open_tree(out, root, err);
    json_decref(root);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_tokenizer(fuzz_open_json, data, size);
    return 0;
}
