/* convert: a Hugging Face directory -> one GGUF file, as llama.cpp and Sluice read it.
 *
 * What changes on the way: names; q and k rows of the families whose GGUF form rotates pairs;
 * Gemma's norms (+1); experts are stacked; matrices take the wanted type, while norms, biases,
 * routers and learned positions stay f32. */
#pragma once

#include "tensor/tensor.h"

typedef struct ConvertOptions {
    DType
        type; /* of the matrices: F32, F16, BF16, Q8_0 or Q4_0 (which leaves embeddings in Q8_0) */
    bool quiet; /* no progress line */
} ConvertOptions;

/* What came out. */
typedef struct ConvertReport {
    int64_t n_tensors, n_unused; /* unused: tensors of the source that have no place in GGUF */
    int64_t bytes, n_weights;    /* of all tensors */
} ConvertReport;

/* out is replaced only by a complete file. */
MUST_USE Status convert_to_gguf(const char *model, const char *out, const ConvertOptions *options,
                                ConvertReport *report, Err *err);
