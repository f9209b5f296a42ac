/* inspect: the facts that the inspect command prints. */
#pragma once

#include "format/model_file.h"
#include "model/model_config.h"
#include "sluice.h"

/* The tensors of one dtype together. */
typedef struct InspectType {
    int64_t n_tensors, n_params, bytes;
} InspectType;

typedef struct Inspect {
    ModelFile *file;
    bool has_config;
    ModelConfig config; /* when has_config */
    Err config_err;     /* else why not: the family is unknown, a value is off */
    InspectType type[DTYPE_COUNT];
    int64_t n_params;
    char tokenizer[128];
    Str chat; /* the template; empty: none */
    Buf chat_file;
} Inspect;

/* On failure *out may be closed. */
MUST_USE Status inspect_open(Inspect *out, const char *path, Err *err);
void inspect_close(Inspect *in);

enum { INSPECT_TEXT_BYTES = 32 };
/* "29.6 MB", "27.8 M", into buf; returns buf. */
const char *inspect_bytes(char buf[INSPECT_TEXT_BYTES], int64_t bytes);
const char *inspect_count(char buf[INSPECT_TEXT_BYTES], int64_t n);

/* GGUF's values, or config.json and its like. */
void inspect_print_metadata(const Inspect *in);
/* Everything as one JSON object, with the lists that are asked for. plan may be NULL. */
MUST_USE Status inspect_print_json(const Inspect *in, const sluice_engine_plan *plan, bool tensors,
                                   bool metadata, Err *err);
