#include "format/model_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "format/model_file_priv.h"

Status model_file_map(ModelFile *file, const char *path, FileMap *out, Err *err) {
    if (file->n_maps == MODEL_PARTS_MAX)
        FAIL(err, ERR_LIMIT, "'%s': more than %d files", file->path, MODEL_PARTS_MAX);
    TRY(file_map(out, path, err));
    file->maps[file->n_maps++] = *out;
    return OK;
}

Status model_file_reserve(ModelFile *file, int64_t n, Err *err) {
    if (n > MODEL_TENSORS_MAX - file->n_entries)
        FAIL(err, ERR_LIMIT, "'%s': %" PRId64 " tensors, the limit is %d", file->path,
             file->n_entries + n, MODEL_TENSORS_MAX);
    int64_t wanted = file->n_entries + n;
    if (wanted > file->entries_cap) {
        wanted = MAX(wanted, file->entries_cap * 2);
        ModelEntry *entries = mem_try_alloc((size_t)wanted, sizeof *entries);
        if (entries == NULL)
            FAIL(err, ERR_NOMEM, "'%s': no memory for %" PRId64 " tensors", file->path, wanted);
        if (file->n_entries > 0)
            memcpy(entries, file->entries, (size_t)file->n_entries * sizeof *entries);
        mem_free(file->entries);
        file->entries = entries;
        file->entries_cap = wanted;
    }
    if (!map_reserve(&file->by_name, (size_t)wanted))
        FAIL(err, ERR_NOMEM, "'%s': no memory for %" PRId64 " tensors", file->path, wanted);
    return OK;
}

Status model_file_add(ModelFile *file, Str name, const Tensor *tensor, const char *path, Err *err) {
    uint32_t known;
    CHECK(file->n_entries < file->entries_cap);
    if (map_find(&file->by_name, name, &known))
        FAIL(err, ERR_FORMAT, "'%s': a second tensor named '%.*s'", path, STR_ARG(name));
    if (!map_put(&file->by_name, name, (uint32_t)file->n_entries))
        FAIL(err, ERR_NOMEM, "'%s': no memory for the tensor names", path);
    file->entries[file->n_entries++] = (ModelEntry){name, *tensor};
    /* No overflow: the tensors of a file do not overlap, and there are at most 1,024 files. */
    file->bytes += tensor_bytes(tensor);
    return OK;
}

static int model_file_compare_extents(const void *a, const void *b) {
    const ModelExtent *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

Status model_file_sort_extents(ModelExtent *extents, int64_t n, const char *path, Err *err) {
    if (n > 1) qsort(extents, (size_t)n, sizeof *extents, model_file_compare_extents);
    for (int64_t i = 1; i < n; i++)
        if (extents[i].begin < extents[i - 1].end)
            FAIL(err, ERR_FORMAT,
                 "'%s': tensors %" PRId64 " and %" PRId64 " overlap at byte %" PRIu64
                 " of the data",
                 path, extents[i - 1].index, extents[i].index, extents[i].begin);
    return OK;
}

bool model_file_shape(Tensor *out, DType dtype, int32_t n_dims, const int64_t *shape,
                      int64_t *bytes) {
    Tensor t = {.dtype = dtype, .device = DEVICE_HOST, .n_dims = n_dims};
    int64_t n = 1;
    for (int32_t i = n_dims - 1; i >= 0; i--) {
        t.shape[i] = shape[i];
        t.stride[i] = n;
        if (__builtin_mul_overflow(n, shape[i], &n)) return false;
    }
    int64_t row_bytes;
    *out = t;
    return dtype_bytes(dtype, n_dims > 0 ? shape[n_dims - 1] : 1, &row_bytes) &&
           dtype_bytes(dtype, n, bytes);
}

static Status model_file_open_safetensors(ModelFile *file, Err *err) {
    const char *slash = strrchr(file->path, '/');
    file->dir = slash == NULL         ? mem_strdup(".")
                : slash == file->path ? mem_strdup("/")
                                      : mem_strndup(file->path, (size_t)(slash - file->path));
    TRY(hf_dir_documents(file, err));
    FileMap map;
    TRY(model_file_map(file, file->path, &map, err));
    return safetensors_read(file, &map, file->path, err);
}

static Status model_file_read(ModelFile *file, bool metadata_only, Err *err) {
    if (file_is_dir(file->path)) {
        file->format = MODEL_HF_DIR;
        file->dir = mem_strdup(file->path);
        return hf_dir_open(file, metadata_only, err);
    }
    if (str_ends_with(str_from(file->path), ".safetensors")) {
        file->format = MODEL_SAFETENSORS;
        return model_file_open_safetensors(file, err);
    }
    file->format = MODEL_GGUF;
    return gguf_open(file, err);
}

static Status model_file_finish(ModelFile *file, Status status, ModelFile **out) {
    if (status == OK)
        *out = file;
    else
        model_file_close(file);
    return status;
}

static Status model_file_open_path(ModelFile **out, const char *path, bool metadata_only,
                                   Err *err) {
    ModelFile *file = mem_alloc(sizeof *file);
    file->path = mem_strdup(path);
    return model_file_finish(file, model_file_read(file, metadata_only, err), out);
}

Status model_file_open(ModelFile **out, const char *path, Err *err) {
    return model_file_open_path(out, path, false, err);
}

Status model_file_open_metadata(ModelFile **out, const char *path, Err *err) {
    return model_file_open_path(out, path, true, err);
}

Status model_file_open_memory(ModelFile **out, ModelFormat format, const uint8_t *data, size_t size,
                              Err *err) {
    CHECK(format != MODEL_HF_DIR);
    ModelFile *file = mem_alloc(sizeof *file);
    file->format = format;
    file->path = mem_strdup("memory");
    file->maps_borrowed = true;
    FileMap map = {data, size};
    Status status = format == MODEL_GGUF ? gguf_read(file, &map, file->path, err)
                                         : safetensors_read(file, &map, file->path, err);
    return model_file_finish(file, status, out);
}

void model_file_close(ModelFile *file) {
    if (file == NULL) return;
    for (int32_t i = 0; i < file->n_maps && !file->maps_borrowed; i++) file_unmap(&file->maps[i]);
    json_decref(file->config);
    json_decref(file->generation_config);
    json_decref(file->tokenizer_config);
    map_free(&file->by_name);
    map_free(&file->by_key);
    mem_free(file->entries);
    mem_free(file->values);
    arena_free(&file->arena);
    mem_free(file->path);
    mem_free(file->dir);
    mem_free(file);
}

ModelFormat model_file_format(const ModelFile *file) {
    return file->format;
}

const char *model_file_path(const ModelFile *file) {
    return file->path;
}

int64_t model_file_n_tensors(const ModelFile *file) {
    return file->n_entries;
}

void model_file_tensor(const ModelFile *file, int64_t i, Str *name, Tensor *out) {
    CHECK(i >= 0 && i < file->n_entries);
    *name = file->entries[i].name;
    *out = file->entries[i].tensor;
}

bool model_file_find(const ModelFile *file, const char *name, Tensor *out) {
    uint32_t i;
    if (!map_find(&file->by_name, str_from(name), &i)) return false;
    *out = file->entries[i].tensor;
    return true;
}

int64_t model_file_bytes(const ModelFile *file) {
    return file->bytes;
}

const json_t *model_file_config(const ModelFile *file) {
    return file->config;
}

const json_t *model_file_generation_config(const ModelFile *file) {
    return file->generation_config;
}

const json_t *model_file_tokenizer_config(const ModelFile *file) {
    return file->tokenizer_config;
}

const char *model_file_dir(const ModelFile *file) {
    return file->dir;
}

int64_t model_file_n_values(const ModelFile *file) {
    return file->n_values;
}

const GgufValue *model_file_value_at(const ModelFile *file, int64_t i) {
    CHECK(i >= 0 && i < file->n_values);
    return &file->values[i];
}

const GgufValue *model_file_value(const ModelFile *file, const char *key) {
    uint32_t i;
    return map_find(&file->by_key, str_from(key), &i) ? &file->values[i] : NULL;
}

static Status model_file_wrong_type(const ModelFile *file, const GgufValue *value,
                                    const char *wanted, Err *err) {
    FAIL(err, ERR_FORMAT, "'%s': metadata '%.*s' is of type %s, wanted %s", file->path,
         STR_ARG(value->key), gguf_type_name(value->type), wanted);
}

Status model_file_get_int(const ModelFile *file, const char *key, int64_t min, int64_t max,
                          int64_t *out, Err *err) {
    const GgufValue *value = model_file_value(file, key);
    if (value == NULL) return OK;
    int64_t number;
    if (!gguf_value_is_int(value)) return model_file_wrong_type(file, value, "an integer", err);
    if (!gguf_value_int(value, &number) || number < min || number > max)
        FAIL(err, ERR_FORMAT, "'%s': metadata '%s' is out of range, wanted %" PRId64 " to %" PRId64,
             file->path, key, min, max);
    *out = number;
    return OK;
}

Status model_file_get_number(const ModelFile *file, const char *key, double *out, Err *err) {
    const GgufValue *value = model_file_value(file, key);
    if (value == NULL) return OK;
    if (!gguf_value_is_int(value) && value->type != GGUF_F32 && value->type != GGUF_F64)
        return model_file_wrong_type(file, value, "a number", err);
    double number = gguf_value_number(value);
    if (!isfinite(number))
        FAIL(err, ERR_FORMAT, "'%s': metadata '%s' is not finite", file->path, key);
    *out = number;
    return OK;
}

Status model_file_get_bool(const ModelFile *file, const char *key, bool *out, Err *err) {
    const GgufValue *value = model_file_value(file, key);
    if (value == NULL) return OK;
    if (value->type != GGUF_BOOL) return model_file_wrong_type(file, value, "a bool", err);
    *out = value->data[0] != 0;
    return OK;
}

Status model_file_get_str(const ModelFile *file, const char *key, Str *out, Err *err) {
    const GgufValue *value = model_file_value(file, key);
    if (value == NULL) return OK;
    if (value->type != GGUF_STRING) return model_file_wrong_type(file, value, "a string", err);
    *out = gguf_value_str(value);
    return OK;
}
