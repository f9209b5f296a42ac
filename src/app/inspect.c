#include "app/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"

static const char *inspect_scaled(char buf[INSPECT_TEXT_BYTES], double x, const char *const *unit) {
    int i = 0;
    while (x >= 999.5 && unit[i + 1] != NULL) {
        x /= 1000;
        i++;
    }
    const char *space = unit[i][0] != '\0' ? " " : "";
    snprintf(buf, INSPECT_TEXT_BYTES, "%.*f%s%s", i > 0 && x < 99.95 ? 1 : 0, x, space, unit[i]);
    return buf;
}

const char *inspect_bytes(char buf[INSPECT_TEXT_BYTES], int64_t bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", NULL};
    return inspect_scaled(buf, (double)bytes, units);
}

const char *inspect_count(char buf[INSPECT_TEXT_BYTES], int64_t n) {
    static const char *const units[] = {"", "k", "M", "B", "T", NULL};
    return inspect_scaled(buf, (double)n, units);
}

static void inspect_count_tensors(Inspect *in) {
    for (int64_t i = 0; i < model_file_n_tensors(in->file); i++) {
        Str name;
        Tensor t;
        model_file_tensor(in->file, i, &name, &t);
        in->type[t.dtype].n_tensors++;
        in->type[t.dtype].n_params += tensor_len(&t);
        in->type[t.dtype].bytes += tensor_bytes(&t);
        in->n_params += tensor_len(&t);
    }
}

/* The kind of an HF directory's tokenizer, from the files that are there. */
static Status inspect_hf_tokenizer(Inspect *in, Err *err) {
    char *json = file_join(model_file_dir(in->file), "tokenizer.json");
    char *pieces = file_join(model_file_dir(in->file), "tokenizer.model");
    json_t *document = NULL;
    Status status = OK;
    if (file_exists(json)) {
        status = json_parse_file(&document, json, err);
        const char *kind =
            json_string_value(json_object_get(json_object_get(document, "model"), "type"));
        snprintf(in->tokenizer, sizeof in->tokenizer, "%.40s (tokenizer.json)",
                 kind != NULL ? kind : "of no type");
    } else {
        snprintf(in->tokenizer, sizeof in->tokenizer, "%s",
                 file_exists(pieces) ? "SentencePiece (tokenizer.model)" : "none");
    }
    json_decref(document);
    mem_free(json);
    mem_free(pieces);
    return status;
}

/* chat_template.jinja, else tokenizer_config.json, whose list of templates names a default. */
static Status inspect_hf_chat(Inspect *in, Err *err) {
    enum { TEMPLATE_BYTES_MAX = 16 << 20 };
    char *path = file_join(model_file_dir(in->file), "chat_template.jinja");
    Status status = OK;
    const json_t *given = json_object_get(model_file_tokenizer_config(in->file), "chat_template");
    if (file_exists(path)) {
        status = file_read(&in->chat_file, path, TEMPLATE_BYTES_MAX, err);
        in->chat = buf_str(&in->chat_file);
    } else if (json_is_string(given)) {
        in->chat = (Str){json_string_value(given), json_string_length(given)};
    }
    for (size_t i = 0; i < json_array_size(given) && status == OK; i++) {
        const json_t *item = json_array_get(given, i);
        Str name = {0};
        status = json_get_str(item, "name", &name, err);
        if (status == OK && str_is(name, "default"))
            status = json_get_str(item, "template", &in->chat, err);
    }
    mem_free(path);
    return status;
}

static Status inspect_gguf_text(Inspect *in, Err *err) {
    Str model = STR_LIT("none"), pre = {0};
    TRY(model_file_get_str(in->file, "tokenizer.ggml.model", &model, err));
    TRY(model_file_get_str(in->file, "tokenizer.ggml.pre", &pre, err));
    snprintf(in->tokenizer, sizeof in->tokenizer, "%.*s%s%.*s", (int)MIN(model.len, (size_t)40),
             model.ptr, pre.len > 0 ? ", splits as " : "", (int)MIN(pre.len, (size_t)40), pre.ptr);
    return model_file_get_str(in->file, "tokenizer.chat_template", &in->chat, err);
}

Status inspect_open(Inspect *out, const char *path, Err *err) {
    *out = (Inspect){0};
    TRY(model_file_open(&out->file, path, err));
    inspect_count_tensors(out);
    out->has_config = model_config_read(&out->config, out->file, &out->config_err) == OK;
    if (model_file_format(out->file) == MODEL_GGUF) return inspect_gguf_text(out, err);
    TRY(inspect_hf_tokenizer(out, err));
    return inspect_hf_chat(out, err);
}

void inspect_close(Inspect *in) {
    if (in->has_config) model_config_free(&in->config);
    buf_free(&in->chat_file);
    model_file_close(in->file);
    *in = (Inspect){0};
}

/* Control characters would reach the terminal. */
static void inspect_put_text(Str s, size_t bytes_max) {
    putchar('"');
    for (size_t i = 0; i < MIN(s.len, bytes_max); i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c < 0x20 || c == 0x7f)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    fputs(s.len > bytes_max ? "\"..." : "\"", stdout);
}

/* The bytes of one element: a scalar value, or element i of an array. */
static void inspect_put_scalar(const ModelFile *file, const GgufValue *value) {
    char key[256];
    int64_t i = 0;
    double x = 0;
    bool yes = false;
    Str s = {0};
    snprintf(key, sizeof key, "%.*s", STR_ARG(value->key));
    if (model_file_get_str(file, key, &s, NULL) == OK)
        inspect_put_text(s, 60);
    else if (model_file_get_bool(file, key, &yes, NULL) == OK)
        fputs(yes ? "true" : "false", stdout);
    else if (model_file_get_int(file, key, INT64_MIN, INT64_MAX, &i, NULL) == OK)
        printf("%" PRId64, i);
    else if (model_file_get_number(file, key, &x, NULL) == OK)
        printf("%g", x);
    else
        fputs("not a finite number", stdout);
}

static void inspect_put_array(const GgufValue *value) {
    enum { SHOWN = 6 };
    printf("[");
    for (uint64_t i = 0; i < MIN(value->array_len, SHOWN); i++) {
        if (i > 0) fputs(", ", stdout);
        if (value->array_type == GGUF_STRING)
            inspect_put_text(gguf_array_str(value, i), 20);
        else
            printf("%g", gguf_array_number(value, i));
    }
    if (value->array_len > SHOWN) printf(", ... %" PRIu64 " in all", value->array_len);
    printf("]");
}

static void inspect_print_document(const json_t *json, const char *name) {
    if (json == NULL) return;
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    CHECK(text != NULL);
    printf("\n%s\n%s\n", name, text);
    free(text);
}

void inspect_print_metadata(const Inspect *in) {
    inspect_print_document(model_file_config(in->file), "config.json");
    inspect_print_document(model_file_generation_config(in->file), "generation_config.json");
    int32_t width = 3;
    int64_t n = model_file_n_values(in->file);
    if (n == 0) return;
    for (int64_t i = 0; i < n; i++)
        width = MAX(width, (int32_t)MIN(model_file_value_at(in->file, i)->key.len, (size_t)60));
    printf("\n%-*s  %-12s %s\n", width, "key", "type", "value");
    for (int64_t i = 0; i < n; i++) {
        const GgufValue *value = model_file_value_at(in->file, i);
        char type[32];
        snprintf(type, sizeof type, "%s%s",
                 gguf_type_name(value->type == GGUF_ARRAY ? value->array_type : value->type),
                 value->type == GGUF_ARRAY ? "[]" : "");
        printf("%-*.*s  %-12s ", width, STR_ARG(value->key), type);
        if (value->type == GGUF_ARRAY)
            inspect_put_array(value);
        else
            inspect_put_scalar(in->file, value);
        putchar('\n');
    }
}

/* One value of GGUF metadata; of arrays only the length. */
static json_t *inspect_json_value(const ModelFile *file, const GgufValue *value) {
    char key[256];
    int64_t i = 0;
    double x = 0;
    bool yes = false;
    Str s = {0};
    if (value->type == GGUF_ARRAY)
        return json_pack("{s:s, s:I}", "array_of", gguf_type_name(value->array_type), "length",
                         (json_int_t)value->array_len);
    snprintf(key, sizeof key, "%.*s", STR_ARG(value->key));
    if (model_file_get_str(file, key, &s, NULL) == OK) {
        json_t *text = json_stringn(s.ptr, s.len);
        return text != NULL ? text : json_string("(not UTF-8)");
    }
    if (model_file_get_bool(file, key, &yes, NULL) == OK) return json_boolean(yes);
    if (model_file_get_int(file, key, INT64_MIN, INT64_MAX, &i, NULL) == OK) return json_integer(i);
    if (model_file_get_number(file, key, &x, NULL) == OK) return json_real(x);
    return json_null();
}

static json_t *inspect_json_metadata(const ModelFile *file) {
    if (model_file_format(file) != MODEL_GGUF) return json_deep_copy(model_file_config(file));
    json_t *object = json_object();
    for (int64_t i = 0; i < model_file_n_values(file); i++) {
        const GgufValue *value = model_file_value_at(file, i);
        json_object_setn_new(object, value->key.ptr, value->key.len,
                             inspect_json_value(file, value));
    }
    return object;
}

static json_t *inspect_json_tensors(const ModelFile *file) {
    json_t *list = json_array();
    for (int64_t i = 0; i < model_file_n_tensors(file); i++) {
        Str name;
        Tensor t;
        model_file_tensor(file, i, &name, &t);
        json_t *shape = json_array();
        for (int32_t d = 0; d < t.n_dims; d++)
            json_array_append_new(shape, json_integer(t.shape[d]));
        json_array_append_new(list, json_pack("{s:s%, s:s, s:o, s:I}", "name", name.ptr, name.len,
                                              "type", dtype_info(t.dtype)->name, "shape", shape,
                                              "bytes", (json_int_t)tensor_bytes(&t)));
    }
    return list;
}

static json_t *inspect_json_config(const ModelConfig *c) {
    json_t *eos = json_array();
    for (int32_t i = 0; i < c->n_eos; i++) json_array_append_new(eos, json_integer(c->eos_id[i]));
    return json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:f, s:i, s:o}",
        "family", c->arch, "context", c->context, "layers", c->n_layers, "dim", c->dim, "heads",
        c->n_heads, "kv_heads", c->n_kv_heads, "head_dim", c->head_dim, "ff_dim", c->ff_dim,
        "vocab", c->vocab, "window", c->window, "experts", c->n_experts, "experts_used",
        c->n_experts_used, "expert_ff_dim", c->expert_ff_dim, "tied_embeddings", c->tied_embeddings,
        "rope_theta", c->rope.theta, "bos_id", c->bos_id, "eos_ids", eos);
}

static json_t *inspect_json_types(const Inspect *in) {
    json_t *object = json_object();
    for (int32_t d = 0; d < DTYPE_COUNT; d++) {
        const InspectType *type = &in->type[d];
        if (type->n_tensors == 0) continue;
        json_object_set_new(
            object, dtype_info((DType)d)->name,
            json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)type->n_tensors, "parameters",
                      (json_int_t)type->n_params, "bytes", (json_int_t)type->bytes));
    }
    return object;
}

static json_t *inspect_json_plan(const sluice_engine_plan *plan) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:s}", "weight_bytes",
                     (json_int_t)plan->weight_bytes, "kv_bytes", (json_int_t)plan->kv_bytes,
                     "activation_bytes", (json_int_t)plan->activation_bytes, "other_bytes",
                     (json_int_t)plan->other_bytes, "total_bytes", (json_int_t)plan->total_bytes,
                     "kv_tokens", (json_int_t)plan->kv_tokens, "block_tokens", plan->block_tokens,
                     "n_blocks", plan->n_blocks, "max_seqs", plan->max_seqs, "max_step_tokens",
                     plan->max_step_tokens, "max_context", plan->max_context, "kv_dtype",
                     plan->kv_dtype);
}

Status inspect_print_json(const Inspect *in, const sluice_engine_plan *plan, bool tensors,
                          bool metadata, Err *err) {
    static const char *const formats[] = {
        [MODEL_HF_DIR] = "hf", [MODEL_SAFETENSORS] = "safetensors", [MODEL_GGUF] = "gguf"};
    json_t *json = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:o, s:s, s:b}", "path", model_file_path(in->file), "format",
        formats[model_file_format(in->file)], "parameters", (json_int_t)in->n_params, "bytes",
        (json_int_t)model_file_bytes(in->file), "tensors",
        (json_int_t)model_file_n_tensors(in->file), "types", inspect_json_types(in), "tokenizer",
        in->tokenizer, "has_chat_template", in->chat.len > 0);
    if (json == NULL) FAIL(err, ERR_FORMAT, "the path of the model is not UTF-8");
    if (in->has_config)
        json_object_set_new(json, "config", inspect_json_config(&in->config));
    else
        json_object_set_new(json, "config_error", json_string(in->config_err.text));
    if (plan != NULL) json_object_set_new(json, "plan", inspect_json_plan(plan));
    if (tensors) json_object_set_new(json, "tensor_list", inspect_json_tensors(in->file));
    if (metadata) json_object_set_new(json, "metadata", inspect_json_metadata(in->file));
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    json_decref(json);
    if (text == NULL) FAIL(err, ERR_NOMEM, "no memory for the JSON text");
    puts(text);
    free(text);
    return OK;
}
