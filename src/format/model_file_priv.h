/* model_file_priv: what the readers of the formats fill in. */
#pragma once

#include "base/file.h"
#include "base/map.h"
#include "base/mem.h"
#include "format/model_file.h"

enum {
    MODEL_TENSORS_MAX = 1048576,
    MODEL_VALUES_MAX = 65536,
    MODEL_STRING_BYTES_MAX = 16 << 20,
    MODEL_ARRAY_LEN_MAX = 16 << 20,
    MODEL_PARTS_MAX = 1024, /* files that one model is split into */
};

typedef struct ModelEntry {
    Str name; /* borrows the mapped file or the arena */
    Tensor tensor;
} ModelEntry;

struct ModelFile {
    ModelFormat format;
    char *path, *dir; /* dir: NULL for GGUF */
    FileMap maps[MODEL_PARTS_MAX];
    int32_t n_maps;
    bool maps_borrowed; /* the bytes are the caller's, see model_file_open_memory */
    ModelEntry *entries;
    int64_t n_entries, entries_cap;
    int64_t bytes;
    Map by_name; /* index into entries */
    GgufValue *values;
    int64_t n_values;
    Map by_key; /* index into values */
    json_t *config, *generation_config, *tokenizer_config;
    int64_t made_bytes; /* of the one map of a made file that its tensors have taken */
    Arena arena;        /* names, string_at, copies of tensors that lay unaligned */
};

/* Opens one file of the format that the caller holds in memory; `data` must outlive the ModelFile.
 * No other file is touched: a split GGUF is refused. */
MUST_USE Status model_file_open_memory(ModelFile **out, ModelFormat format, const uint8_t *data,
                                       size_t size, Err *err);

/* Maps `path` and keeps the map with the file. */
MUST_USE Status model_file_map(ModelFile *file, const char *path, FileMap *out, Err *err);
/* Room for n more tensors. */
MUST_USE Status model_file_reserve(ModelFile *file, int64_t n, Err *err);
/* Adds a tensor whose name borrows from the map or the arena; refuses a second one of that name.
 * `path` is the file it came from, for the sentence. */
MUST_USE Status model_file_add(ModelFile *file, Str name, const Tensor *tensor, const char *path,
                               Err *err);

/* A tensor's bytes [begin, end) in the data part of its file. */
typedef struct ModelExtent {
    uint64_t begin, end;
    int64_t index; /* which tensor */
} ModelExtent;

/* Sorts by place and refuses overlaps. */
MUST_USE Status model_file_sort_extents(ModelExtent *extents, int64_t n, const char *path,
                                        Err *err);

/* A contiguous tensor of that shape; false when its size overflows or its rows do not divide into
 * groups. n_dims may be 0: one element. */
MUST_USE bool model_file_shape(Tensor *out, DType dtype, int32_t n_dims, const int64_t *shape,
                               int64_t *bytes);

/* A scalar value; its type has been checked. */
size_t gguf_type_bytes(GgufType type); /* of a scalar; 0 for strings and arrays */
bool gguf_value_is_int(const GgufValue *value);
/* False when it does not fit (a u64 from 2^63). */
MUST_USE bool gguf_value_int(const GgufValue *value, int64_t *out);
double gguf_value_number(const GgufValue *value);
Str gguf_value_str(const GgufValue *value);

/* The readers: fill `file` from one mapped file of which `path` is the name. */
MUST_USE Status safetensors_read(ModelFile *file, const FileMap *map, const char *path, Err *err);
MUST_USE Status gguf_read(ModelFile *file, const FileMap *map, const char *path, Err *err);
/* Opens file->path as a GGUF file with all its parts. */
MUST_USE Status gguf_open(ModelFile *file, Err *err);
/* Reads the JSON documents of file->dir and, unless metadata_only, the weights. */
MUST_USE Status hf_dir_open(ModelFile *file, bool metadata_only, Err *err);
/* Only the JSON documents. */
MUST_USE Status hf_dir_documents(ModelFile *file, Err *err);
