/* Reads GGUF, versions 2 and 3 (which differ in nothing that matters on little-endian machines).
 *
 * "GGUF", u32 version, u64 number of tensors, u64 number of values; the values (key, type, value);
 * the tensors (name, dimensions innermost first, type, offset); padding; the data part.
 * Source: docs/gguf.md of ggml. The limits are in model_file_priv.h. */
#include <inttypes.h>

#include "format/model_file_priv.h"

enum {
    GGUF_KEY_BYTES_MAX = 65535,
    GGUF_NAME_BYTES_MAX = 64,
    GGUF_ALIGN_DEFAULT = 32,
    GGUF_ALIGN_MIN = 8, /* the largest plain element */
    GGUF_ALIGN_MAX = 1 << 20,
    GGUF_VALUE_BYTES_MIN = 14,  /* key of one byte, type, one byte */
    GGUF_TENSOR_BYTES_MIN = 25, /* name of one byte, no dimension, type, offset */
};

/* Where the reader stands in a file; every step checks what is left. */
typedef struct GgufReader {
    ModelFile *file;
    const char *path;
    const uint8_t *data;
    uint64_t size, at;
    uint64_t align;
    GgufValue *values; /* of this part */
    int64_t n_values;
    Map by_key;
} GgufReader;

static Status gguf_take(GgufReader *r, uint64_t bytes, const char *what, const uint8_t **out,
                        Err *err) {
    if (bytes > r->size - r->at)
        FAIL(err, ERR_FORMAT,
             "'%s': %s at byte %" PRIu64 " wants %" PRIu64 " bytes, the file has %" PRIu64 " left",
             r->path, what, r->at, bytes, r->size - r->at);
    *out = r->data + r->at;
    r->at += bytes;
    return OK;
}

static Status gguf_take_int(GgufReader *r, int bytes, const char *what, uint64_t *out, Err *err) {
    const uint8_t *p = NULL;
    TRY(gguf_take(r, (uint64_t)bytes, what, &p, err));
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)p[i] << (8 * i);
    *out = value;
    return OK;
}

static Status gguf_take_str(GgufReader *r, uint64_t bytes_max, const char *what, Str *out,
                            Err *err) {
    uint64_t len;
    const uint8_t *p = NULL;
    TRY(gguf_take_int(r, 8, what, &len, err));
    if (len > bytes_max && len <= r->size - r->at)
        FAIL(err, ERR_LIMIT, "'%s': %s has %" PRIu64 " bytes, the limit is %" PRIu64, r->path, what,
             len, bytes_max);
    TRY(gguf_take(r, len, what, &p, err));
    *out = (Str){(const char *)p, (size_t)len};
    return OK;
}

/* Keys and tensor names end up in sentences and on terminals. */
static bool gguf_name_is_clean(Str name) {
    for (size_t i = 0; i < name.len; i++)
        if (name.ptr[i] < 0x20 || name.ptr[i] == 0x7f) return false;
    return name.len > 0;
}

static Status gguf_take_type(GgufReader *r, Str key, const char *what, GgufType *out, Err *err) {
    uint64_t type;
    TRY(gguf_take_int(r, 4, what, &type, err));
    if (type > GGUF_F64)
        FAIL(err, ERR_FORMAT, "'%s': metadata '%.*s' has %s %" PRIu64 ", which does not exist",
             r->path, STR_ARG(key), what, type);
    *out = (GgufType)type;
    return OK;
}

static Status gguf_take_bools(GgufReader *r, Str key, uint64_t n, const uint8_t **out, Err *err) {
    TRY(gguf_take(r, n, "a bool", out, err));
    for (uint64_t i = 0; i < n; i++)
        if ((*out)[i] > 1)
            FAIL(err, ERR_FORMAT, "'%s': metadata '%.*s' has a bool of value %d", r->path,
                 STR_ARG(key), (*out)[i]);
    return OK;
}

static Status gguf_take_strings(GgufReader *r, GgufValue *value, Err *err) {
    /* Eight bytes of index for at least eight bytes of file. */
    if (value->array_len > (r->size - r->at) / 8)
        FAIL(err, ERR_FORMAT,
             "'%s': metadata '%.*s': an array of %" PRIu64 " strings ends past the file", r->path,
             STR_ARG(value->key), value->array_len);
    uint64_t *string_at =
        arena_alloc(&r->file->arena, (size_t)value->array_len * sizeof *string_at);
    if (string_at == NULL)
        FAIL(err, ERR_NOMEM, "'%s': no memory for an array of %" PRIu64 " strings", r->path,
             value->array_len);
    uint64_t start = r->at;
    for (uint64_t i = 0; i < value->array_len; i++) {
        Str s;
        string_at[i] = r->at - start;
        TRY(gguf_take_str(r, MODEL_STRING_BYTES_MAX, "a string of an array", &s, err));
    }
    value->data = r->data + start;
    value->string_at = string_at;
    return OK;
}

static Status gguf_take_array(GgufReader *r, GgufValue *value, Err *err) {
    TRY(gguf_take_type(r, value->key, "element type", &value->array_type, err));
    TRY(gguf_take_int(r, 8, "an array's length", &value->array_len, err));
    if (value->array_type == GGUF_ARRAY)
        FAIL(err, ERR_UNSUPPORTED, "'%s': metadata '%.*s' is an array of arrays", r->path,
             STR_ARG(value->key));
    if (value->array_len > MODEL_ARRAY_LEN_MAX)
        FAIL(err, ERR_LIMIT, "'%s': metadata '%.*s' has %" PRIu64 " elements, the limit is %d",
             r->path, STR_ARG(value->key), value->array_len, MODEL_ARRAY_LEN_MAX);
    if (value->array_type == GGUF_STRING) return gguf_take_strings(r, value, err);
    if (value->array_type == GGUF_BOOL)
        return gguf_take_bools(r, value->key, value->array_len, &value->data, err);
    uint64_t bytes = value->array_len * gguf_type_bytes(value->array_type);
    return gguf_take(r, bytes, "an array", &value->data, err);
}

static Status gguf_take_value(GgufReader *r, GgufValue *value, Err *err) {
    TRY(gguf_take_str(r, GGUF_KEY_BYTES_MAX, "a metadata key", &value->key, err));
    if (!gguf_name_is_clean(value->key))
        FAIL(err, ERR_FORMAT, "'%s': metadata key %" PRId64 " is empty or not printable ASCII",
             r->path, r->n_values);
    TRY(gguf_take_type(r, value->key, "type", &value->type, err));
    if (value->type == GGUF_ARRAY) return gguf_take_array(r, value, err);
    if (value->type == GGUF_BOOL) return gguf_take_bools(r, value->key, 1, &value->data, err);
    if (value->type == GGUF_STRING) {
        Str s;
        value->data = r->data + r->at;
        return gguf_take_str(r, MODEL_STRING_BYTES_MAX, "a string", &s, err);
    }
    return gguf_take(r, gguf_type_bytes(value->type), "a value", &value->data, err);
}

static Status gguf_take_values(GgufReader *r, uint64_t n, Err *err) {
    if (n > MODEL_VALUES_MAX)
        FAIL(err, ERR_LIMIT, "'%s': %" PRIu64 " metadata values, the limit is %d", r->path, n,
             MODEL_VALUES_MAX);
    if (n > (r->size - r->at) / GGUF_VALUE_BYTES_MIN)
        FAIL(err, ERR_FORMAT, "'%s': %" PRIu64 " metadata values do not fit in the file", r->path,
             n);
    r->values = mem_try_alloc((size_t)n, sizeof *r->values);
    if (r->values == NULL || !map_reserve(&r->by_key, (size_t)n))
        FAIL(err, ERR_NOMEM, "'%s': no memory for %" PRIu64 " metadata values", r->path, n);
    for (uint64_t i = 0; i < n; i++) {
        GgufValue *value = &r->values[i];
        uint32_t known;
        TRY(gguf_take_value(r, value, err));
        if (map_find(&r->by_key, value->key, &known))
            FAIL(err, ERR_FORMAT, "'%s': a second metadata value '%.*s'", r->path,
                 STR_ARG(value->key));
        if (!map_put(&r->by_key, value->key, (uint32_t)i))
            FAIL(err, ERR_NOMEM, "'%s': no memory for the metadata keys", r->path);
        r->n_values++;
    }
    return OK;
}

/* An unsigned integer value of this part; absent leaves *out. */
static Status gguf_part_int(const GgufReader *r, const char *key, int64_t min, int64_t max,
                            int64_t *out, Err *err) {
    uint32_t i;
    if (!map_find(&r->by_key, str_from(key), &i)) return OK;
    if (!gguf_value_is_int(&r->values[i]) || !gguf_value_int(&r->values[i], out) || *out < min ||
        *out > max)
        FAIL(err, ERR_FORMAT, "'%s': metadata '%s' is not an integer from %" PRId64 " to %" PRId64,
             r->path, key, min, max);
    return OK;
}

static Status gguf_read_align(GgufReader *r, Err *err) {
    int64_t align = GGUF_ALIGN_DEFAULT;
    TRY(gguf_part_int(r, "general.alignment", GGUF_ALIGN_MIN, GGUF_ALIGN_MAX, &align, err));
    if ((align & (align - 1)) != 0)
        FAIL(err, ERR_FORMAT, "'%s': general.alignment is %" PRId64 ", wanted a power of two",
             r->path, align);
    r->align = (uint64_t)align;
    return OK;
}

static Status gguf_check_type(const GgufReader *r, Str name, uint64_t type, DType *out, Err *err) {
    if (type <= UINT32_MAX && dtype_from_gguf((uint32_t)type, out)) return OK;
    bool retired =
        type == 4 || type == 5 || (type >= 31 && type <= 33) || (type >= 36 && type <= 38);
    if (retired)
        FAIL(err, ERR_FORMAT, "'%s': tensor '%.*s' has type %" PRIu64 ", which was retired",
             r->path, STR_ARG(name), type);
    FAIL(err, ERR_UNSUPPORTED, "'%s': tensor '%.*s' has type %" PRIu64 ", which is not supported",
         r->path, STR_ARG(name), type);
}

static Status gguf_take_shape(GgufReader *r, Str name, int64_t *shape, int32_t *n_dims, Err *err) {
    uint64_t n, dim;
    TRY(gguf_take_int(r, 4, "a number of dimensions", &n, err));
    if (n > TENSOR_DIMS_MAX)
        FAIL(err, ERR_LIMIT, "'%s': tensor '%.*s' has %" PRIu64 " dimensions, the limit is %d",
             r->path, STR_ARG(name), n, TENSOR_DIMS_MAX);
    for (uint64_t i = 0; i < n; i++) {
        TRY(gguf_take_int(r, 8, "a dimension", &dim, err));
        if (dim == 0 || dim > INT64_MAX)
            FAIL(err, ERR_FORMAT, "'%s': tensor '%.*s' has a dimension of %" PRIu64, r->path,
                 STR_ARG(name), dim);
        shape[n - 1 - i] = (int64_t)dim; /* the file has the innermost first */
    }
    *n_dims = (int32_t)n;
    return OK;
}

static Status gguf_take_tensor(GgufReader *r, ModelEntry *entry, ModelExtent *extent, Err *err) {
    TRY(gguf_take_str(r, GGUF_NAME_BYTES_MAX, "a tensor's name", &entry->name, err));
    if (!gguf_name_is_clean(entry->name))
        FAIL(err, ERR_FORMAT,
             "'%s': the name of tensor %" PRId64 " is empty or not printable ASCII", r->path,
             extent->index);
    int64_t shape[TENSOR_DIMS_MAX], bytes;
    int32_t n_dims = 0;
    TRY(gguf_take_shape(r, entry->name, shape, &n_dims, err));
    uint64_t type;
    DType dtype;
    TRY(gguf_take_int(r, 4, "a tensor's type", &type, err));
    TRY(gguf_check_type(r, entry->name, type, &dtype, err));
    TRY(gguf_take_int(r, 8, "a tensor's offset", &extent->begin, err));
    if (!model_file_shape(&entry->tensor, dtype, n_dims, shape, &bytes))
        FAIL(err, ERR_FORMAT,
             "'%s': tensor '%.*s': its rows do not divide into %s groups of %d, or "
             "its size overflows",
             r->path, STR_ARG(entry->name), dtype_info(dtype)->name, dtype_info(dtype)->group_len);
    if (extent->begin % r->align != 0)
        FAIL(err, ERR_FORMAT, "'%s': tensor '%.*s' lies at %" PRIu64 ", not a multiple of %" PRIu64,
             r->path, STR_ARG(entry->name), extent->begin, r->align);
    if (__builtin_add_overflow(extent->begin, (uint64_t)bytes, &extent->end))
        FAIL(err, ERR_FORMAT, "'%s': the end of tensor '%.*s' overflows", r->path,
             STR_ARG(entry->name));
    return OK;
}

/* Checks that every tensor lies in the data part, then hands them to the file in header order. */
static Status gguf_place(GgufReader *r, ModelEntry *entries, ModelExtent *extents, int64_t n,
                         Err *err) {
    uint64_t pad = (r->align - r->at % r->align) % r->align;
    uint64_t data_bytes = r->size - r->at > pad ? r->size - r->at - pad : 0;
    const uint8_t *data = r->data + r->at + (data_bytes > 0 ? pad : 0);
    for (int64_t i = 0; i < n; i++) {
        if (extents[i].end > data_bytes)
            FAIL(err, ERR_FORMAT,
                 "'%s': tensor '%.*s' ends at byte %" PRIu64 " of %" PRIu64 " bytes of data",
                 r->path, STR_ARG(entries[i].name), extents[i].end, data_bytes);
        entries[i].tensor.data = (void *)(uintptr_t)(data + extents[i].begin);
        TRY(model_file_add(r->file, entries[i].name, &entries[i].tensor, r->path, err));
    }
    return model_file_sort_extents(extents, n, r->path, err);
}

static Status gguf_take_tensors(GgufReader *r, uint64_t n, Err *err) {
    if (n > MODEL_TENSORS_MAX)
        FAIL(err, ERR_LIMIT, "'%s': %" PRIu64 " tensors, the limit is %d", r->path, n,
             MODEL_TENSORS_MAX);
    if (n > (r->size - r->at) / GGUF_TENSOR_BYTES_MIN)
        FAIL(err, ERR_FORMAT, "'%s': %" PRIu64 " tensors do not fit in the file", r->path, n);
    TRY(model_file_reserve(r->file, (int64_t)n, err));
    ModelEntry *entries = mem_try_alloc((size_t)n, sizeof *entries);
    ModelExtent *extents = mem_try_alloc((size_t)n, sizeof *extents);
    Status status = OK;
    if (entries == NULL || extents == NULL)
        status = err_set(err, ERR_NOMEM, "'%s': no memory for %" PRIu64 " tensors", r->path, n);
    for (uint64_t i = 0; i < n && status == OK; i++) {
        extents[i].index = (int64_t)i;
        status = gguf_take_tensor(r, &entries[i], &extents[i], err);
    }
    if (status == OK) status = gguf_place(r, entries, extents, (int64_t)n, err);
    mem_free(entries);
    mem_free(extents);
    return status;
}

static Status gguf_take_head(GgufReader *r, uint64_t *n_tensors, uint64_t *n_values, Err *err) {
    const uint8_t *magic;
    uint64_t version;
    if (r->size < 4 || memcmp(r->data, "GGUF", 4) != 0)
        FAIL(err, ERR_FORMAT, "'%s' is neither a GGUF file nor a safetensors file nor a directory",
             r->path);
    TRY(gguf_take(r, 4, "the magic", &magic, err));
    TRY(gguf_take_int(r, 4, "the version", &version, err));
    if ((version & 0xffff) == 0 && version != 0)
        FAIL(err, ERR_UNSUPPORTED, "'%s' is a big-endian GGUF file", r->path);
    if (version != 2 && version != 3)
        FAIL(err, ERR_UNSUPPORTED, "'%s' is GGUF version %" PRIu64 ", wanted 2 or 3", r->path,
             version);
    TRY(gguf_take_int(r, 8, "the number of tensors", n_tensors, err));
    return gguf_take_int(r, 8, "the number of metadata values", n_values, err);
}

/* What a part says of itself: number `part` (from 0) of n_parts, tensors in all parts together. */
typedef struct GgufSplit {
    int64_t part, n_parts, n_tensors;
} GgufSplit;

/* Reads one part; the metadata of the first becomes the file's. */
static Status gguf_read_part(ModelFile *file, const FileMap *map, const char *path,
                             GgufSplit *split, Err *err) {
    GgufReader r = {.file = file, .path = path, .data = map->data, .size = map->size};
    uint64_t n_tensors = 0, n_values = 0;
    Status status = gguf_take_head(&r, &n_tensors, &n_values, err);
    if (status == OK) status = gguf_take_values(&r, n_values, err);
    if (status == OK) status = gguf_read_align(&r, err);
    *split = (GgufSplit){0, 1, -1};
    if (status == OK)
        status = gguf_part_int(&r, "split.no", 0, MODEL_PARTS_MAX - 1, &split->part, err);
    if (status == OK)
        status = gguf_part_int(&r, "split.count", 0, MODEL_PARTS_MAX, &split->n_parts, err);
    if (status == OK)
        status =
            gguf_part_int(&r, "split.tensors.count", 0, MODEL_TENSORS_MAX, &split->n_tensors, err);
    if (status == OK) status = gguf_take_tensors(&r, n_tensors, err);
    if (file->values == NULL) {
        file->values = r.values;
        file->n_values = r.n_values;
        file->by_key = r.by_key;
    } else {
        mem_free(r.values);
        map_free(&r.by_key);
    }
    return status;
}

Status gguf_read(ModelFile *file, const FileMap *map, const char *path, Err *err) {
    GgufSplit split;
    TRY(gguf_read_part(file, map, path, &split, err));
    if (split.n_parts > 1)
        FAIL(err, ERR_UNSUPPORTED, "'%s' is one of %" PRId64 " parts of a model", path,
             split.n_parts);
    return OK;
}

enum { GGUF_SUFFIX_BYTES = 20 }; /* "-00001-of-00002.gguf" */

static Status gguf_open_rest(ModelFile *file, int64_t n_parts, Err *err) {
    size_t len = strlen(file->path), stem = len - GGUF_SUFFIX_BYTES;
    Buf path = {0};
    Status status = OK;
    for (int64_t part = 1; part < n_parts && status == OK; part++) {
        buf_clear(&path);
        buf_append(&path, file->path, stem);
        buf_append_format(&path, "-%05d-of-%05d.gguf", (int)part + 1, (int)n_parts);
        CHECK(!path.failed);
        FileMap map;
        GgufSplit split;
        status = model_file_map(file, path.data, &map, err);
        if (status == OK) status = gguf_read_part(file, &map, path.data, &split, err);
        if (status == OK && (split.part != part || split.n_parts != n_parts))
            status = err_set(err, ERR_FORMAT, "'%s' says it is part %" PRId64 " of %" PRId64,
                             path.data, split.part + 1, split.n_parts);
    }
    buf_free(&path);
    return status;
}

Status gguf_open(ModelFile *file, Err *err) {
    FileMap map;
    GgufSplit split;
    TRY(model_file_map(file, file->path, &map, err));
    TRY(gguf_read_part(file, &map, file->path, &split, err));
    if (split.n_parts <= 1) return OK;
    char suffix[GGUF_SUFFIX_BYTES + 32];
    snprintf(suffix, sizeof suffix, "-00001-of-%05d.gguf", (int)split.n_parts);
    if (split.part != 0 || !str_ends_with(str_from(file->path), suffix))
        FAIL(err, ERR_ARG, "'%s' is part %" PRId64 " of %" PRId64 ": open the first, NAME%s",
             file->path, split.part + 1, split.n_parts, suffix);
    TRY(gguf_open_rest(file, split.n_parts, err));
    if (split.n_tensors >= 0 && split.n_tensors != file->n_entries)
        FAIL(err, ERR_FORMAT, "'%s': the parts have %" PRId64 " tensors, wanted %" PRId64,
             file->path, file->n_entries, split.n_tensors);
    return OK;
}
