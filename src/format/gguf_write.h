/* gguf_write: writes a GGUF v3 file, its tensors streamed, so that the target is old or new.
 *
 * Order: open; metadata values and tensor declarations in any order; begin; the bytes of each
 * declared tensor in order of declaration; commit. */
#pragma once

#include "format/model_file.h"

typedef struct GgufWriter GgufWriter;

MUST_USE Status gguf_write_open(GgufWriter **out, const char *path, Err *err);

/* Metadata. A failure to store them shows in gguf_write_begin. Keys are not copied twice: a key
 * written twice is the caller's error and makes a file that no reader takes. */
void gguf_write_u32(GgufWriter *writer, const char *key, uint32_t value);
void gguf_write_i32(GgufWriter *writer, const char *key, int32_t value);
void gguf_write_f32(GgufWriter *writer, const char *key, float value);
void gguf_write_bool(GgufWriter *writer, const char *key, bool value);
void gguf_write_str(GgufWriter *writer, const char *key, Str value);
void gguf_write_strs(GgufWriter *writer, const char *key, const Str *value, uint64_t n);
void gguf_write_i32s(GgufWriter *writer, const char *key, const int32_t *value, uint64_t n);
void gguf_write_f32s(GgufWriter *writer, const char *key, const float *value, uint64_t n);
void gguf_write_bools(GgufWriter *writer, const char *key, const bool *value, uint64_t n);

/* Declares a tensor of this dtype and shape (its data pointer is not looked at). The dtype must be
 * one of GGUF's and the name at most 64 bytes (CHECKed). */
void gguf_write_tensor(GgufWriter *writer, const char *name, const Tensor *tensor);

/* Writes everything before the data. */
MUST_USE Status gguf_write_begin(GgufWriter *writer, Err *err);
/* The next bytes of the data; any cut, but never across the end of a tensor. */
MUST_USE Status gguf_write_data(GgufWriter *writer, const void *data, int64_t bytes, Err *err);
/* Fails (CHECK) unless the data is complete. Frees the writer, whatever the outcome. */
MUST_USE Status gguf_write_commit(GgufWriter *writer, Err *err);
/* Frees the writer and removes what was written; NULL is fine. */
void gguf_write_abort(GgufWriter *writer);
