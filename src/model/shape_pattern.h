/* shape_pattern: made-up weights of any format: a short run of values, repeated. */
#pragma once

#include "base/thread.h"
#include "tensor/tensor.h"

/* Read-only once open. Its length is prime in groups: rows differ from each other. */
typedef struct ShapePattern {
    DType dtype;
    int64_t bytes;
    uint8_t *data;
} ShapePattern;

/* Values around zero with a root mean square near 0.02, of f32, f16, bf16 or a
 * block format. */
ShapePattern *shape_pattern_open(DType dtype);
void shape_pattern_close(ShapePattern *pattern);
/* Fills a contiguous tensor of that dtype, on all threads of the pool (or NULL). */
void shape_pattern_fill(const ShapePattern *pattern, const Tensor *t, ThreadPool *pool);
