/* Reads safetensors: u64 header length, a JSON object, the data.
 *
 * Source: the format's description in huggingface/safetensors: header at most 100 MB and beginning
 * with '{', offsets relative to the data part, which they cover without holes or overlaps. */
#include <inttypes.h>

#include "format/model_file_priv.h"

enum { SAFETENSORS_HEADER_BYTES_MAX = 100000000, SAFETENSORS_LENGTH_BYTES = 8 };

static const JsonLimits SAFETENSORS_LIMITS = {
    .bytes_max = SAFETENSORS_HEADER_BYTES_MAX,
    .depth_max = 8,
    /* Name, dtype, up to four dimensions, two offsets and their containers. */
    .values_max = 12LL * MODEL_TENSORS_MAX,
};

typedef struct SafetensorsReader {
    ModelFile *file;
    const char *path;
    const uint8_t *data;
    uint64_t data_bytes;
    ModelExtent *extents; /* [n], index counts the header's order */
    ModelEntry *entries;  /* [n], in the header's order */
    int64_t n;
} SafetensorsReader;

static uint64_t safetensors_u64(const uint8_t *p) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static Status safetensors_metadata(const json_t *metadata, const char *path, Err *err) {
    if (!json_is_object(metadata))
        FAIL(err, ERR_FORMAT, "'%s': __metadata__ is not an object", path);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value) {
        if (!json_is_string(value))
            FAIL(err, ERR_FORMAT, "'%s': __metadata__ may hold strings only", path);
    }
    return OK;
}

static Status safetensors_shape(const json_t *shape, Str name, const char *path, int64_t *dims,
                                int32_t *n_dims, Err *err) {
    if (!json_is_array(shape))
        FAIL(err, ERR_FORMAT, "'%s': tensor '%.*s' has no array 'shape'", path, STR_ARG(name));
    size_t n = json_array_size(shape);
    if (n > TENSOR_DIMS_MAX)
        FAIL(err, ERR_UNSUPPORTED, "'%s': tensor '%.*s' has %zu dimensions, the limit is %d", path,
             STR_ARG(name), n, TENSOR_DIMS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            FAIL(err, ERR_FORMAT, "'%s': tensor '%.*s': a dimension is not a natural number", path,
                 STR_ARG(name));
        dims[i] = json_integer_value(dim);
    }
    *n_dims = (int32_t)n;
    return OK;
}

static Status safetensors_offsets(const json_t *offsets, Str name, const SafetensorsReader *r,
                                  ModelExtent *out, Err *err) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        FAIL(err, ERR_FORMAT, "'%s': tensor '%.*s': data_offsets is not [begin, end]", r->path,
             STR_ARG(name));
    out->begin = (uint64_t)json_integer_value(begin);
    out->end = (uint64_t)json_integer_value(end);
    if (out->end > r->data_bytes)
        FAIL(err, ERR_FORMAT,
             "'%s': tensor '%.*s' ends at byte %" PRIu64 " of %" PRIu64 " bytes of data", r->path,
             STR_ARG(name), out->end, r->data_bytes);
    return OK;
}

static bool safetensors_name_is_clean(Str name) {
    for (size_t i = 0; i < name.len; i++)
        if ((unsigned char)name.ptr[i] < 0x20 || name.ptr[i] == 0x7f) return false;
    return name.len > 0;
}

static Status safetensors_tensor(SafetensorsReader *r, const char *key, const json_t *info,
                                 Err *err) {
    Str name = str_from(key);
    if (!safetensors_name_is_clean(name))
        FAIL(err, ERR_FORMAT, "'%s': a tensor's name is empty or has control characters", r->path);
    if (!json_is_object(info))
        FAIL(err, ERR_FORMAT, "'%s': tensor '%s' is not an object", r->path, key);
    Str dtype_name = {0};
    TRY(json_get_str(info, "dtype", &dtype_name, err));
    DType dtype;
    if (!dtype_from_name(dtype_name, &dtype) || dtype_is_grouped(dtype))
        FAIL(err, ERR_UNSUPPORTED, "'%s': tensor '%s' has dtype '%.*s', which is unknown", r->path,
             key, STR_ARG(dtype_name));
    int64_t dims[TENSOR_DIMS_MAX], bytes;
    int32_t n_dims = 0;
    TRY(safetensors_shape(json_object_get(info, "shape"), name, r->path, dims, &n_dims, err));
    ModelExtent *extent = &r->extents[r->n];
    TRY(safetensors_offsets(json_object_get(info, "data_offsets"), name, r, extent, err));
    Tensor tensor;
    if (!model_file_shape(&tensor, dtype, n_dims, dims, &bytes))
        FAIL(err, ERR_FORMAT, "'%s': the size of tensor '%s' overflows", r->path, key);
    if ((uint64_t)bytes != extent->end - extent->begin)
        FAIL(err, ERR_FORMAT,
             "'%s': tensor '%s' has %" PRIu64 " bytes, its shape and dtype want %" PRId64, r->path,
             key, extent->end - extent->begin, bytes);
    char *copy = arena_strndup(&r->file->arena, name.ptr, name.len);
    if (copy == NULL) FAIL(err, ERR_NOMEM, "'%s': no memory for the names", r->path);
    extent->index = r->n;
    r->entries[r->n++] = (ModelEntry){{copy, name.len}, tensor};
    return OK;
}

/* The header may have any length, so data may lie unaligned; such a tensor is copied once. */
static Status safetensors_place(SafetensorsReader *r, Tensor *tensor, const ModelExtent *extent,
                                Err *err) {
    const uint8_t *data = r->data + extent->begin;
    size_t align = (size_t)dtype_info(tensor->dtype)->group_bytes;
    size_t bytes = (size_t)(extent->end - extent->begin);
    if ((uintptr_t)data % align != 0) {
        uint8_t *copy = arena_alloc(&r->file->arena, bytes);
        if (copy == NULL)
            FAIL(err, ERR_NOMEM, "'%s': no memory for a copy of %zu bytes", r->path, bytes);
        memcpy(copy, data, bytes);
        data = copy;
    }
    tensor->data = (void *)(uintptr_t)data;
    return OK;
}

static Status safetensors_tensors(SafetensorsReader *r, const json_t *header, Err *err) {
    const char *key;
    json_t *info;
    json_object_foreach((json_t *)(uintptr_t)header, key, info) {
        if (strcmp(key, "__metadata__") == 0)
            TRY(safetensors_metadata(info, r->path, err));
        else
            TRY(safetensors_tensor(r, key, info, err));
    }
    TRY(model_file_sort_extents(r->extents, r->n, r->path, err));
    uint64_t at = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const ModelExtent *extent = &r->extents[i];
        ModelEntry *entry = &r->entries[extent->index];
        if (extent->begin != at)
            FAIL(err, ERR_FORMAT, "'%s': a hole of %" PRIu64 " bytes lies before tensor '%.*s'",
                 r->path, extent->begin - at, STR_ARG(entry->name));
        at = extent->end;
        TRY(safetensors_place(r, &entry->tensor, extent, err));
        TRY(model_file_add(r->file, entry->name, &entry->tensor, r->path, err));
    }
    if (at != r->data_bytes)
        FAIL(err, ERR_FORMAT, "'%s': %" PRIu64 " bytes after the last tensor", r->path,
             r->data_bytes - at);
    return OK;
}

Status safetensors_read(ModelFile *file, const FileMap *map, const char *path, Err *err) {
    if (map->size < SAFETENSORS_LENGTH_BYTES)
        FAIL(err, ERR_FORMAT, "'%s' has %zu bytes, too few for a safetensors file", path,
             map->size);
    uint64_t header_bytes = safetensors_u64(map->data), left = map->size - SAFETENSORS_LENGTH_BYTES;
    if (header_bytes > SAFETENSORS_HEADER_BYTES_MAX)
        FAIL(err, ERR_FORMAT, "'%s': the header has %" PRIu64 " bytes, the limit is %d", path,
             header_bytes, SAFETENSORS_HEADER_BYTES_MAX);
    if (header_bytes > left)
        FAIL(err, ERR_FORMAT, "'%s': the header of %" PRIu64 " bytes ends past the file", path,
             header_bytes);
    Str text = {(const char *)map->data + SAFETENSORS_LENGTH_BYTES, (size_t)header_bytes};
    if (header_bytes == 0 || text.ptr[0] != '{')
        FAIL(err, ERR_FORMAT, "'%s': the header does not begin with '{'", path);
    json_t *header = NULL;
    TRY(json_parse(&header, text, &SAFETENSORS_LIMITS, path, err));
    SafetensorsReader r = {.file = file,
                           .path = path,
                           .data = map->data + SAFETENSORS_LENGTH_BYTES + header_bytes,
                           .data_bytes = left - header_bytes};
    Status status = OK;
    size_t n = json_object_size(header);
    if (!json_is_object(header)) {
        status = err_set(err, ERR_FORMAT, "'%s': the header is not an object", path);
    } else {
        r.extents = mem_try_alloc(n, sizeof *r.extents);
        r.entries = mem_try_alloc(n, sizeof *r.entries);
        if (r.extents == NULL || r.entries == NULL)
            status = err_set(err, ERR_NOMEM, "'%s': no memory for %zu tensors", path, n);
    }
    if (status == OK) status = model_file_reserve(file, (int64_t)n, err);
    if (status == OK) status = safetensors_tensors(&r, header, err);
    mem_free(r.extents);
    mem_free(r.entries);
    json_decref(header);
    return status;
}
