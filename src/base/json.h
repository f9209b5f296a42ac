/* json: strict JSON over jansson, with limits and sentences.
 *
 * A parsed document is a jansson json_t tree; the caller drops it with json_decref. Bad UTF-8, lone
 * surrogates, duplicate keys, NaN, numbers out of range and anything after the value are
 * refused. */
#pragma once

#include <jansson.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct JsonLimits {
    size_t bytes_max;  /* of the text */
    int32_t depth_max; /* of nesting, at most 1,024 */
    int64_t values_max;
} JsonLimits;

/* For files of a model (config, tokenizer). */
extern const JsonLimits JSON_LIMITS_FILE;
/* For request bodies: 16 MB, depth 64, a million values. */
extern const JsonLimits JSON_LIMITS_REQUEST;

/* Parses text. `what` names it in the sentence ("config.json"). */
MUST_USE Status json_parse(json_t **out, Str text, const JsonLimits *limits, const char *what,
                           Err *err);
MUST_USE Status json_parse_file(json_t **out, const char *path, Err *err);

/* Fields of an object with a wanted type. An absent or null field leaves *out as it was and is OK;
 * a field of another type or out of [min, max] is ERR_FORMAT with a sentence that names it. */
MUST_USE Status json_get_int(const json_t *object, const char *key, int64_t min, int64_t max,
                             int64_t *out, Err *err);
/* Integers are taken as numbers too. NaN cannot occur. */
MUST_USE Status json_get_number(const json_t *object, const char *key, double min, double max,
                                double *out, Err *err);
MUST_USE Status json_get_bool(const json_t *object, const char *key, bool *out, Err *err);
/* *out borrows from the tree. */
MUST_USE Status json_get_str(const json_t *object, const char *key, Str *out, Err *err);

/* Appends s as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD. */
void json_write_str(Buf *buf, Str s);
