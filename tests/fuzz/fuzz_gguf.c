/* fuzz_gguf: any bytes as a GGUF file: refused with a sentence, or all it promises is there. */
#include "fuzz_touch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_touch(MODEL_GGUF, data, size);
    return 0;
}
