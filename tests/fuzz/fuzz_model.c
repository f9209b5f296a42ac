/* fuzz_model: any bytes as a GGUF file: refused with a sentence, or a model that computes. */
#include <stdlib.h>

#include "format/model_file_priv.h"
#include "model/single.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_CONTEXT = 8, FUZZ_TOKENS = 3 };

static void fuzz_model_run(const Model *model, const OpCtx *ctx) {
    const int32_t tokens[FUZZ_TOKENS] = {0, 0, 0};
    const float *logits = NULL;
    Single *single = NULL;
    Err err = {0};
    SingleOptions options = {.context_max = MIN(FUZZ_CONTEXT, model_config(model)->context),
                             .chunk = 2,
                             .block_tokens = 2};
    if (single_open(&single, model, ctx, &options, &err) != OK) {
        CHECK(err.text[0] != '\0');
        return;
    }
    Status status = single_feed(single, tokens, FUZZ_TOKENS, 1, &logits, &err);
    if (status != OK) CHECK(status == ERR_LIMIT && options.context_max < FUZZ_TOKENS);
    /* Every logit is read, so that a sanitizer sees what lies outside. */
    float sum = 0;
    for (int32_t i = 0; status == OK && i < model_config(model)->vocab; i++) sum += logits[i];
    __asm__ volatile("" : : "x"(sum));
    single_close(single);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size);
    ModelFile *file = NULL;
    Model *model = NULL;
    Err err = {0};
    OpCtx ctx = {.device = device_host()};
    ModelOptions options = {.ctx = &ctx, .quiet = true};
    CHECK(ops_cpu(&options.ops, "ref", &err) == OK);
    if (copy != NULL && size > 0) memcpy(copy, data, size);
    if (copy != NULL && model_file_open_memory(&file, MODEL_GGUF, copy, size, &err) == OK) {
        if (model_open(&model, file, &options, &err) == OK)
            fuzz_model_run(model, &ctx);
        else
            CHECK(err.text[0] != '\0');
        model_close(model);
    }
    free(copy);
    return 0;
}
