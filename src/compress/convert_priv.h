/* convert_priv: the parts of the conversion. */
#pragma once

#include "base/mem.h"
#include "base/thread.h"
#include "compress/convert.h"
#include "format/gguf_write.h"
#include "model/arch.h"

/* One tensor of the output and how its rows come from the source: from n_parts matrices of equal
 * shape, one below the other. A tensor of one dimension is one row. */
typedef struct ConvertTensor {
    char name[ARCH_NAME_BYTES];
    Tensor tensor; /* dtype and shape of the output */
    Tensor *parts; /* 2-dimensional views of the source, of plain floats, in the arena */
    int32_t n_parts;
    int32_t heads;   /* > 0: the rows of each head are interleaved, see convert_source_row */
    bool transposed; /* the source has columns for rows */
    float add;       /* to every element of a vector */
} ConvertTensor;

typedef struct Convert {
    const ModelFile *file;
    ModelConfig config;
    const Arch *arch;
    ConvertOptions options;
    ConvertTensor *tensors;
    int64_t n_tensors, tensors_cap;
    int64_t n_used; /* tensors of the source */
    ThreadPool *pool;
    Arena arena;
} Convert;

/* Fills tensors from the source and the config. */
MUST_USE Status convert_plan(Convert *c, Err *err);
/* Adds a tensor of numbers that come from the config. */
MUST_USE Status convert_plan_add_numbers(Convert *c, const char *name, const double *number,
                                         int32_t n, Err *err);
/* Adds the tensors that hold rope's divisors, where the family has some. */
MUST_USE Status convert_config_add_rope(Convert *c, Err *err);

/* Metadata: what the model is, and its architecture's keys. */
void convert_config_write(const Convert *c, GgufWriter *writer);
/* tokenizer.ggml.* and the chat template. */
MUST_USE Status convert_tokens_write(const Convert *c, GgufWriter *writer, Err *err);

/* A SentencePiece model (tokenizer.model), what GGUF needs of it. */
typedef struct ConvertPieces {
    Str *text; /* [n] borrow from the file's bytes */
    float *score;
    int32_t *type; /* SentencePiece's numbers, which are GGUF's too */
    int64_t n;
    bool unigram;
    bool add_dummy_prefix, remove_extra_spaces;
} ConvertPieces;

/* bytes: the file. On failure pieces may be freed. */
MUST_USE Status convert_pieces_read(ConvertPieces *out, Str bytes, const char *path, Err *err);
void convert_pieces_free(ConvertPieces *pieces);
