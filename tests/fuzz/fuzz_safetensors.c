/* fuzz_safetensors: any bytes as a safetensors file, as they are and with a length field that fits,
 * since a mutated one almost never does. */
#include "fuzz_touch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_touch(MODEL_SAFETENSORS, data, size);
    if (size < 10) return 0;
    /* The same bytes with a header that ends at the last '}'. */
    uint8_t *fitted = malloc(size);
    if (fitted == NULL) return 0;
    memcpy(fitted, data, size);
    uint64_t end = size;
    while (end > 9 && data[end - 1] != '}') end--;
    uint64_t header_bytes = end - 8;
    memcpy(fitted, &header_bytes, 8);
    fuzz_touch(MODEL_SAFETENSORS, fitted, size);
    free(fitted);
    return 0;
}
