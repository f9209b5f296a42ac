/* model_file: one view of every model file: named tensors and metadata.
 *
 * Opens a Hugging Face directory (safetensors, single or sharded), a single .safetensors file or a
 * GGUF file (split ones too). Everything in it is hostile until checked: when model_file_open
 * returns OK, every tensor lies inside its file, aligned, with a size that matches its shape. No
 * code in a model ever runs. Architectures are not known here. */
#pragma once

#include "base/json.h"
#include "tensor/tensor.h"

typedef struct ModelFile ModelFile;

typedef enum ModelFormat { MODEL_HF_DIR, MODEL_SAFETENSORS, MODEL_GGUF } ModelFormat;

MUST_USE Status model_file_open(ModelFile **out, const char *path, Err *err);
/* Only the metadata (config, tokenizer): a directory may lack weights. */
MUST_USE Status model_file_open_metadata(ModelFile **out, const char *path, Err *err);
void model_file_close(ModelFile *file);

/* A model that no file holds: a Hugging Face directory in memory. `config` stands for its
 * config.json (the reference is taken, also on failure); n_tensors and bytes (of their data, each
 * rounded up to CACHE_LINE) are the room for what model_file_make_tensor adds. */
MUST_USE Status model_file_make(ModelFile **out, const char *name, json_t *config,
                                int64_t n_tensors, int64_t bytes, Err *err);
/* Adds a tensor, *out; its data is the file's, and the caller's to fill in. The name is copied. */
MUST_USE Status model_file_make_tensor(ModelFile *file, const char *name, DType dtype,
                                       int32_t n_dims, const int64_t *shape, Tensor *out, Err *err);

ModelFormat model_file_format(const ModelFile *file);
const char *model_file_path(const ModelFile *file);

int64_t model_file_n_tensors(const ModelFile *file);
/* Tensor i in file order: *name borrows; the tensor's data is the mapped file. HF and GGUF shapes
 * alike are outermost first. */
void model_file_tensor(const ModelFile *file, int64_t i, Str *name, Tensor *out);
/* False when there is none of that name. */
bool model_file_find(const ModelFile *file, const char *name, Tensor *out);
/* Bytes of all tensors. */
int64_t model_file_bytes(const ModelFile *file);

/* The JSON documents of an HF directory, NULL when absent; borrowed. */
const json_t *model_file_config(const ModelFile *file);            /* config.json */
const json_t *model_file_generation_config(const ModelFile *file); /* generation_config.json */
const json_t *model_file_tokenizer_config(const ModelFile *file);  /* tokenizer_config.json */
/* The directory, for the tokenizer's own files (of a single .safetensors file the one it lies in);
 * NULL for GGUF. */
const char *model_file_dir(const ModelFile *file);

/* GGUF metadata. */
typedef enum GgufType {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
} GgufType;

typedef struct GgufValue {
    Str key;
    GgufType type;
    GgufType array_type; /* of the elements, when type is ARRAY (never an array) */
    uint64_t array_len;
    /* The value's bytes in the mapped file, unaligned, bounds checked. STRING: a u64 length, then
     * the bytes; ARRAY: the first element. */
    const uint8_t *data;
    /* [array_len] offset in data of each string (of its u64 length), for string arrays */
    const uint64_t *string_at;
} GgufValue;

int64_t model_file_n_values(const ModelFile *file);
const GgufValue *model_file_value_at(const ModelFile *file, int64_t i);
const GgufValue *model_file_value(const ModelFile *file, const char *key); /* NULL: absent */
const char *gguf_type_name(GgufType type);
/* Typed reading, with conversion between integer widths (get_number takes integers too); absent
 * leaves *out and is OK, another type or out of range or not finite is ERR_FORMAT. */
MUST_USE Status model_file_get_int(const ModelFile *file, const char *key, int64_t min, int64_t max,
                                   int64_t *out, Err *err);
MUST_USE Status model_file_get_number(const ModelFile *file, const char *key, double *out,
                                      Err *err);
MUST_USE Status model_file_get_bool(const ModelFile *file, const char *key, bool *out, Err *err);
MUST_USE Status model_file_get_str(const ModelFile *file, const char *key, Str *out, Err *err);
/* Element i of an array value; the caller has checked type and bounds (CHECKed). */
Str gguf_array_str(const GgufValue *value, uint64_t i);
int64_t gguf_array_int(const GgufValue *value, uint64_t i);
double gguf_array_number(const GgufValue *value, uint64_t i);
