/* fuzz_json: any bytes are parsed or refused with a sentence, within the limits; what is accepted
 * is written and read back to the same. */
#include "base/json.h"

#include <stdlib.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *value = NULL;
    Err err = {0};
    Str text = {(const char *)data, size};
    if (json_parse(&value, text, &JSON_LIMITS_REQUEST, "input", &err) != OK) {
        CHECK(err.text[0] != '\0' && value == NULL);
    } else {
        char *again = json_dumps(value, JSON_ENCODE_ANY);
        json_t *back = NULL;
        CHECK(again != NULL);
        /* Numbers may grow in writing (1e0 becomes 1.0), so the text's own limit does not hold. */
        CHECK(json_parse(&back, str_from(again), &JSON_LIMITS_FILE, "again", &err) == OK);
        CHECK(json_equal(value, back));
        json_decref(back);
        free(again);
        json_decref(value);
    }
    /* The bytes as a string are always valid JSON. */
    Buf buf = {0};
    json_write_str(&buf, text);
    CHECK(json_parse(&value, buf_str(&buf), &JSON_LIMITS_FILE, "string", &err) == OK);
    json_decref(value);
    buf_free(&buf);
    return 0;
}
