/* bench_batch: several sequences that decode together, each with a table of blocks of its own. */
#pragma once

#include "app/compute.h"

typedef struct BenchBatch BenchBatch;

/* n_seqs sequences of up to `context` tokens, beside what the compute has. */
MUST_USE Status bench_batch_open(BenchBatch **out, const Compute *compute, int32_t n_seqs,
                                 int32_t context, int32_t block_tokens, Err *err);
void bench_batch_close(BenchBatch *batch);
/* The step at position `pos` with any tokens, whose logits are made; an accelerator also picks the
 * largest. The cache of positions that were skipped holds anything. */
MUST_USE Status bench_batch_step(BenchBatch *batch, int32_t pos, Err *err);
/* Of all steps so far: the time from when an accelerator had the work until it was done. */
int64_t bench_batch_device_us(const BenchBatch *batch);
