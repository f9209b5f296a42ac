/* fuzz_pieces: any bytes as the tokenizer.model that convert reads: refused, or every piece lies in
 * the bytes. */
#include <stdlib.h>

#include "compress/convert_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *copy = malloc(size);
    if (copy == NULL && size > 0) return 0;
    if (size > 0) memcpy(copy, data, size);
    ConvertPieces pieces;
    Err err = {0};
    Status status = convert_pieces_read(&pieces, (Str){copy, size}, "tokenizer.model", &err);
    if (status != OK) CHECK(err.text[0] != '\0');
    for (int64_t i = 0; status == OK && i < pieces.n; i++) {
        Str text = pieces.text[i];
        CHECK(text.len > 0 && text.ptr >= copy && text.ptr + text.len <= copy + size);
        CHECK(pieces.type[i] >= 1 && pieces.type[i] <= 6);
    }
    convert_pieces_free(&pieces);
    free(copy);
    return 0;
}
