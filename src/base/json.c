#include "base/json.h"

#include <string.h>

#include "base/file.h"

const JsonLimits JSON_LIMITS_FILE = {
    .bytes_max = (size_t)256 << 20, .depth_max = 256, .values_max = 32 << 20};
const JsonLimits JSON_LIMITS_REQUEST = {
    .bytes_max = (size_t)16 << 20, .depth_max = 64, .values_max = 1000000};

typedef struct JsonScan {
    int32_t line, column; /* of the byte being looked at, from 1; columns count bytes */
    int32_t depth;
    int64_t n_values;
} JsonScan;

/* Bounds depth and number of values before jansson, which recurses and allocates, sees the text. On
 * text that is not JSON the counts are still an upper bound of what jansson would build. */
static Status json_scan(Str text, const JsonLimits *limits, const char *what, Err *err) {
    JsonScan scan = {.line = 1, .n_values = 1};
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        scan.column++;
        if (in_string) {
            if (c == '\\') {
                i++;
                scan.column++;
            }
            in_string = c != '"' && c != '\n';
            if (c == '\n') scan = (JsonScan){scan.line + 1, 0, scan.depth, scan.n_values};
            continue;
        }
        switch (c) {
            case '"': in_string = true; break;
            case '\n':
                scan.line++;
                scan.column = 0;
                break;
            case '[':
            case '{':
                scan.n_values++;
                if (++scan.depth > limits->depth_max)
                    FAIL(err, ERR_LIMIT, "%s: line %d, column %d: nested deeper than %d levels",
                         what, scan.line, scan.column, limits->depth_max);
                break;
            case ']':
            case '}': scan.depth--; break;
            case ',': scan.n_values++; break;
            default: break;
        }
        if (scan.n_values > limits->values_max)
            FAIL(err, ERR_LIMIT, "%s: line %d, column %d: more than %lld values", what, scan.line,
                 scan.column, (long long)limits->values_max);
    }
    return OK;
}

static int32_t json_line_of_nul(Str text) {
    int32_t line = 1;
    for (size_t i = 0; i < text.len && text.ptr[i] != '\0'; i++) line += text.ptr[i] == '\n';
    return line;
}

/* The sentence of a jansson error, free of control characters that it may quote from the text. */
static Status json_fail(const json_error_t *error, const char *what, Err *err) {
    char text[sizeof error->text];
    size_t n = 0;
    for (const char *p = error->text; *p != '\0' && n + 1 < sizeof text; p++)
        text[n++] = (unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f ? '?' : *p;
    text[n] = '\0';
    FAIL(err, json_error_code(error) == json_error_out_of_memory ? ERR_NOMEM : ERR_FORMAT,
         "%s: line %d, column %d: %s", what, error->line, error->column, text);
}

Status json_parse(json_t **out, Str text, const JsonLimits *limits, const char *what, Err *err) {
    if (text.len > limits->bytes_max)
        FAIL(err, ERR_LIMIT, "%s: %zu bytes of JSON, the limit is %zu", what, text.len,
             limits->bytes_max);
    /* To jansson a NUL byte is the end of the text. */
    if (text.len > 0 && memchr(text.ptr, '\0', text.len) != NULL)
        FAIL(err, ERR_FORMAT, "%s: line %d: a NUL byte", what, json_line_of_nul(text));
    TRY(json_scan(text, limits, what, err));
    json_error_t error;
    json_t *value = json_loadb(text.len > 0 ? text.ptr : "", text.len,
                               JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (value == NULL) return json_fail(&error, what, err);
    *out = value;
    return OK;
}

Status json_parse_file(json_t **out, const char *path, Err *err) {
    FileMap map;
    TRY(file_map(&map, path, err));
    Status status =
        json_parse(out, (Str){(const char *)map.data, map.size}, &JSON_LIMITS_FILE, path, err);
    file_unmap(&map);
    return status;
}

/* The field, or NULL when it is absent or null. */
static const json_t *json_field(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static const char *json_type_name(const json_t *value) {
    switch (json_typeof(value)) {
        case JSON_OBJECT: return "an object";
        case JSON_ARRAY: return "an array";
        case JSON_STRING: return "a string";
        case JSON_INTEGER: return "an integer";
        case JSON_REAL: return "a number with a fraction";
        case JSON_TRUE: return "true";
        case JSON_FALSE: return "false";
        default: return "null";
    }
}

Status json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                    Err *err) {
    const json_t *value = json_field(object, key);
    if (value == NULL) return OK;
    if (!json_is_integer(value))
        FAIL(err, ERR_FORMAT, "'%s' is %s, wanted an integer", key, json_type_name(value));
    int64_t number = json_integer_value(value);
    if (number < min || number > max)
        FAIL(err, ERR_FORMAT, "'%s' is %lld, wanted %lld to %lld", key, (long long)number,
             (long long)min, (long long)max);
    *out = number;
    return OK;
}

Status json_get_number(const json_t *object, const char *key, double min, double max, double *out,
                       Err *err) {
    const json_t *value = json_field(object, key);
    if (value == NULL) return OK;
    if (!json_is_number(value))
        FAIL(err, ERR_FORMAT, "'%s' is %s, wanted a number", key, json_type_name(value));
    double number = json_number_value(value);
    if (number < min || number > max)
        FAIL(err, ERR_FORMAT, "'%s' is %g, wanted %g to %g", key, number, min, max);
    *out = number;
    return OK;
}

Status json_get_bool(const json_t *object, const char *key, bool *out, Err *err) {
    const json_t *value = json_field(object, key);
    if (value == NULL) return OK;
    if (!json_is_boolean(value))
        FAIL(err, ERR_FORMAT, "'%s' is %s, wanted true or false", key, json_type_name(value));
    *out = json_is_true(value);
    return OK;
}

Status json_get_str(const json_t *object, const char *key, Str *out, Err *err) {
    const json_t *value = json_field(object, key);
    if (value == NULL) return OK;
    if (!json_is_string(value))
        FAIL(err, ERR_FORMAT, "'%s' is %s, wanted a string", key, json_type_name(value));
    *out = (Str){json_string_value(value), json_string_length(value)};
    return OK;
}

static void json_write_char(Buf *buf, char c) {
    static const char *const short_escapes[128] = {
        ['"'] = "\\\"", ['\\'] = "\\\\", ['\b'] = "\\b", ['\f'] = "\\f",
        ['\n'] = "\\n", ['\r'] = "\\r",  ['\t'] = "\\t"};
    if (short_escapes[(int)c] != NULL) {
        buf_append_text(buf, short_escapes[(int)c]);
    } else if ((unsigned char)c < 0x20 || c == 0x7f) {
        buf_append_format(buf, "\\u%04x", (unsigned)c);
    } else {
        buf_append_byte(buf, c);
    }
}

void json_write_str(Buf *buf, Str s) {
    buf_append_byte(buf, '"');
    for (size_t i = 0; i < s.len;) {
        size_t len = str_utf8_len(str_slice(s, i, s.len));
        if (len == 1) {
            json_write_char(buf, s.ptr[i]);
        } else if (len == 0) {
            buf_append_text(buf, "\xEF\xBF\xBD");
        } else {
            buf_append(buf, s.ptr + i, len);
        }
        i += MAX(len, (size_t)1);
    }
    buf_append_byte(buf, '"');
}
