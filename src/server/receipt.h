/* receipt: what a request asked and which tokens it got, as a JSON file that can be replayed.
 *
 * The format is described in docs/receipts.md. Reading believes nothing: a file that is not a
 * receipt, or names what no request may have, is refused with a sentence. */
#pragma once

#include "base/buf.h"
#include "base/json.h"
#include "base/mem.h"
#include "sluice.h"

enum { RECEIPT_TEXT_BYTES = 64, RECEIPT_LISTS_MAX = 512, RECEIPT_BYTES_MAX = 256 << 20 };

/* What decides the bits beside the request. */
typedef struct ReceiptBuild {
    char version[RECEIPT_TEXT_BYTES], level[RECEIPT_TEXT_BYTES], kv_dtype[RECEIPT_TEXT_BYTES];
    uint64_t binary_hash; /* of the program's file */
    uint64_t model_hash;  /* sluice_model_hash */
    int32_t max_context;
} ReceiptBuild;

typedef struct ReceiptTokens {
    const int32_t *ids;
    size_t n;
    sluice_finish finish; /* of outputs */
} ReceiptTokens;

typedef struct Receipt {
    char id[RECEIPT_TEXT_BYTES];
    int64_t created; /* seconds since the epoch */
    const char *model_path;
    ReceiptBuild build;
    sluice_request request;       /* what shapes the tokens; prompt is not filled in */
    int32_t n_prompts, n_outputs; /* outputs: n for each prompt, in order */
    ReceiptTokens prompt[RECEIPT_LISTS_MAX], output[RECEIPT_LISTS_MAX];
    Arena arena; /* of what was read */
} Receipt;

/* Appends the receipt as JSON. */
void receipt_write(const Receipt *receipt, Buf *out);
/* On failure *out may be freed. */
MUST_USE Status receipt_read(Receipt *out, const char *path, Err *err);
void receipt_free(Receipt *receipt);
/* "stop", "length", "cancelled", "deadline", "error". */
const char *receipt_finish_text(sluice_finish finish);
