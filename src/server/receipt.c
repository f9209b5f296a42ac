#include "server/receipt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

enum { RECEIPT_FORMAT = 1 };

typedef enum ReceiptType { RECEIPT_INT, RECEIPT_FLOAT, RECEIPT_BOOL } ReceiptType;

/* Fields of a request that are numbers. */
typedef struct ReceiptField {
    const char *key;
    ReceiptType type;
    size_t offset;
} ReceiptField;

static const ReceiptField RECEIPT_FIELDS[] = {
    {"max_tokens", RECEIPT_INT, offsetof(sluice_request, max_tokens)},
    {"min_tokens", RECEIPT_INT, offsetof(sluice_request, min_tokens)},
    {"n", RECEIPT_INT, offsetof(sluice_request, n)},
    {"beam_width", RECEIPT_INT, offsetof(sluice_request, beam_width)},
    {"length_penalty", RECEIPT_FLOAT, offsetof(sluice_request, length_penalty)},
    {"include_stop", RECEIPT_BOOL, offsetof(sluice_request, include_stop)},
    {"ignore_eos", RECEIPT_BOOL, offsetof(sluice_request, ignore_eos)},
    {"with_special", RECEIPT_BOOL, offsetof(sluice_request, with_special)},
    {"temperature", RECEIPT_FLOAT, offsetof(sluice_request, sampling.temperature)},
    {"top_k", RECEIPT_INT, offsetof(sluice_request, sampling.top_k)},
    {"top_p", RECEIPT_FLOAT, offsetof(sluice_request, sampling.top_p)},
    {"min_p", RECEIPT_FLOAT, offsetof(sluice_request, sampling.min_p)},
    {"repetition_penalty", RECEIPT_FLOAT, offsetof(sluice_request, sampling.repetition_penalty)},
    {"presence_penalty", RECEIPT_FLOAT, offsetof(sluice_request, sampling.presence_penalty)},
    {"frequency_penalty", RECEIPT_FLOAT, offsetof(sluice_request, sampling.frequency_penalty)},
};

static const char *const RECEIPT_FINISHES[] = {"none",      "stop",     "length",
                                               "cancelled", "deadline", "error"};

const char *receipt_finish_text(sluice_finish finish) {
    return RECEIPT_FINISHES[finish];
}

/* ---- writing ---- */

static void receipt_write_ids(const int32_t *ids, size_t n, Buf *out) {
    buf_append_byte(out, '[');
    for (size_t i = 0; i < n; i++) buf_append_format(out, "%s%d", i > 0 ? "," : "", ids[i]);
    buf_append_byte(out, ']');
}

static void receipt_write_fields(const sluice_request *request, Buf *out) {
    for (size_t i = 0; i < ARRAY_LEN(RECEIPT_FIELDS); i++) {
        const ReceiptField *row = &RECEIPT_FIELDS[i];
        const char *at = (const char *)request + row->offset;
        buf_append_format(out, "\"%s\": ", row->key);
        switch (row->type) {
            case RECEIPT_INT: buf_append_format(out, "%d, ", *(const int32_t *)at); break;
            /* Nine digits are a float exactly. */
            case RECEIPT_FLOAT: buf_append_format(out, "%.9g, ", (double)*(const float *)at); break;
            case RECEIPT_BOOL:
                buf_append_text(out, *(const bool *)at ? "true, " : "false, ");
                break;
        }
    }
}

static void receipt_write_lists(const sluice_request *request, Buf *out) {
    buf_append_text(out, "\"stop\": [");
    for (int32_t i = 0; i < request->n_stop; i++) {
        if (i > 0) buf_append_byte(out, ',');
        json_write_str(out, str_from(request->stop[i]));
    }
    buf_append_text(out, "], \"stop_ids\": ");
    receipt_write_ids(request->stop_ids, (size_t)request->n_stop_ids, out);
    buf_append_text(out, ", \"bias\": [");
    for (int32_t i = 0; i < request->sampling.n_bias; i++)
        buf_append_format(out, "%s[%d,%.9g]", i > 0 ? "," : "", request->sampling.bias[i].token,
                          (double)request->sampling.bias[i].bias);
    buf_append_text(out, "], \"allowed\": ");
    receipt_write_ids(request->allowed, (size_t)request->n_allowed, out);
    buf_append_text(out, ", \"bad\": [");
    for (int32_t i = 0; i < request->n_bad; i++) {
        if (i > 0) buf_append_byte(out, ',');
        receipt_write_ids(request->bad[i].ids, (size_t)request->bad[i].n, out);
    }
    buf_append_byte(out, ']');
}

void receipt_write(const Receipt *r, Buf *out) {
    const ReceiptBuild *build = &r->build;
    buf_append_format(out, "{\"receipt\": %d,\n \"id\": \"%s\", \"created\": %lld,\n \"model\": ",
                      RECEIPT_FORMAT, r->id, (long long)r->created);
    buf_append_text(out, "{\"path\": ");
    json_write_str(out, str_from(r->model_path));
    buf_append_format(out,
                      ", \"hash\": \"%016llx\"},\n \"build\": {\"version\": \"%s\", \"binary\": "
                      "\"%016llx\", \"level\": \"%s\", \"kv_dtype\": \"%s\", \"max_context\": %d},"
                      "\n \"request\": {\"seed\": \"%llu\", ",
                      (unsigned long long)build->model_hash, build->version,
                      (unsigned long long)build->binary_hash, build->level, build->kv_dtype,
                      build->max_context, (unsigned long long)r->request.sampling.seed);
    receipt_write_fields(&r->request, out);
    receipt_write_lists(&r->request, out);
    buf_append_text(out, "},\n \"prompts\": [");
    for (int32_t i = 0; i < r->n_prompts; i++) {
        if (i > 0) buf_append_text(out, ",\n  ");
        receipt_write_ids(r->prompt[i].ids, r->prompt[i].n, out);
    }
    buf_append_text(out, "],\n \"outputs\": [");
    for (int32_t i = 0; i < r->n_outputs; i++) {
        if (i > 0) buf_append_text(out, ",\n  ");
        buf_append_format(
            out, "{\"finish\": \"%s\", \"tokens\": ", receipt_finish_text(r->output[i].finish));
        receipt_write_ids(r->output[i].ids, r->output[i].n, out);
        buf_append_byte(out, '}');
    }
    buf_append_text(out, "]}\n");
}

/* ---- reading ---- */

static Status receipt_ids(Receipt *r, const json_t *list, const char *what, const int32_t **out,
                          size_t *n, Err *err) {
    if (!json_is_array(list)) FAIL(err, ERR_FORMAT, "receipt: '%s' is not a list of tokens", what);
    *n = json_array_size(list);
    int32_t *ids = arena_alloc(&r->arena, (*n + 1) * sizeof *ids);
    if (ids == NULL) FAIL(err, ERR_NOMEM, "receipt: no memory for %zu tokens", *n);
    for (size_t i = 0; i < *n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            FAIL(err, ERR_FORMAT, "receipt: '%s' holds something that is no token", what);
        ids[i] = (int32_t)json_integer_value(id);
    }
    *out = ids;
    return OK;
}

/* A text of an object into a fixed room; absent: ERR_FORMAT. */
static Status receipt_text(const json_t *object, const char *key, char *out, Err *err) {
    const json_t *text = json_object_get(object, key);
    if (!json_is_string(text) || json_string_length(text) >= RECEIPT_TEXT_BYTES)
        FAIL(err, ERR_FORMAT, "receipt: '%s' is not a text of less than %d bytes", key,
             RECEIPT_TEXT_BYTES);
    snprintf(out, RECEIPT_TEXT_BYTES, "%s", json_string_value(text));
    return OK;
}

/* A number written as a text, in base 10 or 16. */
static Status receipt_number(const json_t *object, const char *key, int base, uint64_t *out,
                             Err *err) {
    const char *text = json_string_value(json_object_get(object, key));
    char *end = NULL;
    if (text != NULL) *out = strtoull(text, &end, base);
    if (text == NULL || end == text || *end != '\0')
        FAIL(err, ERR_FORMAT, "receipt: '%s' is not a number in base %d", key, base);
    return OK;
}

static Status receipt_field(sluice_request *request, const json_t *from, const ReceiptField *row,
                            Err *err) {
    const json_t *value = json_object_get(from, row->key);
    char *at = (char *)request + row->offset;
    int64_t number = json_integer_value(value);
    bool right = false;
    switch (row->type) {
        case RECEIPT_INT:
            right = json_is_integer(value) && number >= INT32_MIN && number <= INT32_MAX;
            if (right) *(int32_t *)at = (int32_t)number;
            break;
        case RECEIPT_FLOAT:
            right = json_is_number(value) && fabs(json_number_value(value)) < 1e30;
            if (right) *(float *)at = (float)json_number_value(value);
            break;
        case RECEIPT_BOOL:
            right = json_is_boolean(value);
            if (right) *(bool *)at = json_is_true(value);
            break;
    }
    if (!right) FAIL(err, ERR_FORMAT, "receipt: '%s' is absent or of a wrong type", row->key);
    return OK;
}

static Status receipt_stops(Receipt *r, const json_t *list, Err *err) {
    size_t n = json_array_size(list);
    const char **stop = arena_alloc(&r->arena, (n + 1) * sizeof *stop);
    if (!json_is_array(list) || stop == NULL)
        FAIL(err, ERR_FORMAT, "receipt: 'stop' is not a list of texts");
    for (size_t i = 0; i < n; i++) {
        const json_t *text = json_array_get(list, i);
        stop[i] = json_is_string(text)
                      ? arena_strndup(&r->arena, json_string_value(text), json_string_length(text))
                      : NULL;
        if (stop[i] == NULL) FAIL(err, ERR_FORMAT, "receipt: 'stop' is not a list of texts");
    }
    r->request.stop = stop;
    r->request.n_stop = (int32_t)n;
    return OK;
}

static Status receipt_bias(Receipt *r, const json_t *list, Err *err) {
    size_t n = json_array_size(list);
    sluice_bias *bias = arena_alloc(&r->arena, (n + 1) * sizeof *bias);
    if (!json_is_array(list) || bias == NULL)
        FAIL(err, ERR_FORMAT, "receipt: 'bias' is not a list of pairs");
    for (size_t i = 0; i < n; i++) {
        const json_t *token = json_array_get(json_array_get(list, i), 0),
                     *value = json_array_get(json_array_get(list, i), 1);
        if (!json_is_integer(token) || !json_is_number(value) || json_integer_value(token) < 0 ||
            json_integer_value(token) > INT32_MAX)
            FAIL(err, ERR_FORMAT, "receipt: 'bias' is not a list of pairs of token and number");
        bias[i] =
            (sluice_bias){(int32_t)json_integer_value(token), (float)json_number_value(value)};
    }
    r->request.sampling.bias = bias;
    r->request.sampling.n_bias = (int32_t)n;
    return OK;
}

static Status receipt_bad(Receipt *r, const json_t *list, Err *err) {
    size_t n = json_array_size(list);
    sluice_tokens *bad = arena_alloc(&r->arena, (n + 1) * sizeof *bad);
    if (!json_is_array(list) || bad == NULL)
        FAIL(err, ERR_FORMAT, "receipt: 'bad' is not a list of lists of tokens");
    for (size_t i = 0; i < n; i++) {
        size_t len = 0;
        TRY(receipt_ids(r, json_array_get(list, i), "bad", &bad[i].ids, &len, err));
        bad[i].n = (int32_t)len;
    }
    r->request.bad = bad;
    r->request.n_bad = (int32_t)n;
    return OK;
}

static Status receipt_request(Receipt *r, const json_t *from, Err *err) {
    size_t n = 0;
    r->request = (sluice_request)SLUICE_REQUEST_INIT;
    TRY(receipt_number(from, "seed", 10, &r->request.sampling.seed, err));
    for (size_t i = 0; i < ARRAY_LEN(RECEIPT_FIELDS); i++)
        TRY(receipt_field(&r->request, from, &RECEIPT_FIELDS[i], err));
    TRY(receipt_stops(r, json_object_get(from, "stop"), err));
    TRY(receipt_bias(r, json_object_get(from, "bias"), err));
    TRY(receipt_ids(r, json_object_get(from, "stop_ids"), "stop_ids", &r->request.stop_ids, &n,
                    err));
    r->request.n_stop_ids = (int32_t)n;
    TRY(receipt_ids(r, json_object_get(from, "allowed"), "allowed", &r->request.allowed, &n, err));
    r->request.n_allowed = (int32_t)n;
    return receipt_bad(r, json_object_get(from, "bad"), err);
}

static Status receipt_tokens(Receipt *r, const json_t *root, Err *err) {
    const json_t *prompts = json_object_get(root, "prompts"),
                 *outputs = json_object_get(root, "outputs");
    size_t n_prompts = json_array_size(prompts), n_outputs = json_array_size(outputs);
    if (n_prompts == 0 || n_prompts > RECEIPT_LISTS_MAX || n_outputs > RECEIPT_LISTS_MAX ||
        r->request.n < 1 || n_outputs != n_prompts * (size_t)r->request.n)
        FAIL(err, ERR_FORMAT, "receipt: %zu prompts, %d of each and %zu outputs do not go together",
             n_prompts, r->request.n, n_outputs);
    r->n_prompts = (int32_t)n_prompts;
    r->n_outputs = (int32_t)n_outputs;
    for (size_t i = 0; i < n_prompts; i++)
        TRY(receipt_ids(r, json_array_get(prompts, i), "prompts", &r->prompt[i].ids,
                        &r->prompt[i].n, err));
    for (size_t i = 0; i < n_outputs; i++) {
        const json_t *output = json_array_get(outputs, i);
        const char *finish = json_string_value(json_object_get(output, "finish"));
        TRY(receipt_ids(r, json_object_get(output, "tokens"), "tokens", &r->output[i].ids,
                        &r->output[i].n, err));
        for (size_t k = 0; k < ARRAY_LEN(RECEIPT_FINISHES) && finish != NULL; k++)
            if (strcmp(finish, RECEIPT_FINISHES[k]) == 0) r->output[i].finish = (sluice_finish)k;
    }
    return OK;
}

static Status receipt_from_json(Receipt *r, const json_t *root, Err *err) {
    const json_t *model = json_object_get(root, "model"), *build = json_object_get(root, "build");
    const json_t *path = json_object_get(model, "path");
    int64_t format = 0, context = 0;
    TRY(json_get_int(root, "receipt", 0, INT64_MAX, &format, err));
    if (format != RECEIPT_FORMAT)
        FAIL(err, ERR_FORMAT, "this is no receipt of format %d", RECEIPT_FORMAT);
    TRY(receipt_text(root, "id", r->id, err));
    TRY(json_get_int(root, "created", 0, INT64_MAX, &r->created, err));
    if (!json_is_string(path)) FAIL(err, ERR_FORMAT, "receipt: the model has no path");
    r->model_path = arena_strndup(&r->arena, json_string_value(path), json_string_length(path));
    if (r->model_path == NULL) FAIL(err, ERR_NOMEM, "receipt: no memory");
    TRY(receipt_number(model, "hash", 16, &r->build.model_hash, err));
    TRY(receipt_text(build, "version", r->build.version, err));
    TRY(receipt_number(build, "binary", 16, &r->build.binary_hash, err));
    TRY(receipt_text(build, "level", r->build.level, err));
    TRY(receipt_text(build, "kv_dtype", r->build.kv_dtype, err));
    TRY(json_get_int(build, "max_context", 1, INT32_MAX, &context, err));
    r->build.max_context = (int32_t)context;
    TRY(receipt_request(r, json_object_get(root, "request"), err));
    return receipt_tokens(r, root, err);
}

Status receipt_read(Receipt *out, const char *path, Err *err) {
    static const JsonLimits limits = {
        .bytes_max = RECEIPT_BYTES_MAX, .depth_max = 8, .values_max = 64 << 20};
    *out = (Receipt){0};
    Buf text = {0};
    json_t *root = NULL;
    Status status = file_read(&text, path, RECEIPT_BYTES_MAX, err);
    if (status == OK) status = json_parse(&root, buf_str(&text), &limits, path, err);
    buf_free(&text);
    if (status == OK) status = receipt_from_json(out, root, err);
    json_decref(root);
    return status;
}

void receipt_free(Receipt *receipt) {
    arena_free(&receipt->arena);
    *receipt = (Receipt){0};
}
