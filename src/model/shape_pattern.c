#include "model/shape_pattern.h"

#include <math.h>
#include <stddef.h>

#include "base/mem.h"
#include "base/rng.h"
#include "tensor/half.h"
#include "tensor/quant.h"

enum {
    SHAPE_PATTERN_ELEMENTS = 65537, /* of plain formats; a prime */
    SHAPE_PATTERN_GROUPS = 1021,    /* of block formats; a prime */
    SHAPE_PATTERN_CHUNK_BYTES = 1 << 20,
};
static const double SHAPE_PATTERN_RMS = 0.02; /* Llama's and GPT-2's initial weights */

/* Where a group of the format holds its f16 scale and minimum (-1: none), and how many scales the
 * minimum has to be for values around zero when all other bits are random. */
static const struct {
    DType dtype;
    int32_t scale_at, min_at;
    double zero;
} shape_formats[] = {
    {DTYPE_Q4_0, 0, -1, 0},
    {DTYPE_Q4_1, 0, 2, -7.5},
    {DTYPE_Q5_0, 0, -1, 0},
    {DTYPE_Q5_1, 0, 2, -15.5},
    {DTYPE_Q8_0, 0, -1, 0},
    {DTYPE_Q2_K, offsetof(GroupQ2_K, d), offsetof(GroupQ2_K, dmin), 1.5},
    {DTYPE_Q3_K, offsetof(GroupQ3_K, d), -1, 0},
    {DTYPE_Q4_K, 0, 2, 7.5},
    {DTYPE_Q5_K, 0, 2, 15.5},
    {DTYPE_Q6_K, offsetof(GroupQ6_K, d), -1, 0},
    {DTYPE_IQ4_NL, 0, -1, 0},
    {DTYPE_IQ4_XS, 0, -1, 0},
};

static void shape_pattern_random(uint8_t *data, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t bits = rng_bits(1, 0, (uint64_t)i / 8);
        memcpy(data + i, &bits, (size_t)MIN(n - i, (int64_t)8));
    }
}

static void shape_pattern_plain(const ShapePattern *p) {
    float *values = mem_alloc(SHAPE_PATTERN_ELEMENTS * sizeof *values);
    for (int64_t i = 0; i < SHAPE_PATTERN_ELEMENTS; i++)
        values[i] = (float)((2 * rng_uniform(1, 0, (uint64_t)i) - 1) * SHAPE_PATTERN_RMS * sqrt(3));
    CHECK(dtype_from_f32(p->dtype, values, p->data, SHAPE_PATTERN_ELEMENTS));
    mem_free(values);
}

static void shape_pattern_scales(const ShapePattern *p, size_t format, double scale) {
    int32_t group_bytes = dtype_info(p->dtype)->group_bytes;
    uint16_t d = f16_from_f32((float)scale);
    uint16_t m = f16_from_f32((float)(scale * shape_formats[format].zero));
    for (uint8_t *group = p->data; group < p->data + p->bytes; group += group_bytes) {
        memcpy(group + shape_formats[format].scale_at, &d, sizeof d);
        if (shape_formats[format].min_at < 0) continue;
        memcpy(group + shape_formats[format].min_at, &m, sizeof m);
    }
}

/* The pattern's root mean square with scales of one. */
static double shape_pattern_rms(const ShapePattern *p) {
    int64_t n = SHAPE_PATTERN_GROUPS * (int64_t)dtype_info(p->dtype)->group_len;
    float *values = mem_alloc((size_t)n * sizeof *values);
    dtype_to_f32(p->dtype, p->data, values, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)values[i] * (double)values[i];
    mem_free(values);
    return sqrt(sum / (double)n);
}

static void shape_pattern_block(const ShapePattern *p) {
    shape_pattern_random(p->data, p->bytes);
    if (p->dtype == DTYPE_MXFP4) {
        /* A power of two: fp4's values of random bits are about 2.7, so 2^-7 of it. */
        for (GroupMXFP4 *g = (GroupMXFP4 *)p->data; (uint8_t *)g < p->data + p->bytes; g++)
            g->e = 127 - 7;
        return;
    }
    size_t format = 0;
    while (shape_formats[format].dtype != p->dtype) CHECK(++format < ARRAY_LEN(shape_formats));
    shape_pattern_scales(p, format, 1);
    shape_pattern_scales(p, format, SHAPE_PATTERN_RMS / shape_pattern_rms(p));
}

ShapePattern *shape_pattern_open(DType dtype) {
    bool grouped = dtype_is_grouped(dtype);
    ShapePattern *p = mem_alloc(sizeof *p);
    p->dtype = dtype;
    p->bytes = (int64_t)dtype_info(dtype)->group_bytes *
               (grouped ? SHAPE_PATTERN_GROUPS : SHAPE_PATTERN_ELEMENTS);
    p->data = mem_alloc((size_t)p->bytes);
    if (grouped)
        shape_pattern_block(p);
    else
        shape_pattern_plain(p);
    return p;
}

void shape_pattern_close(ShapePattern *p) {
    if (p == NULL) return;
    mem_free(p->data);
    mem_free(p);
}

typedef struct ShapeFill {
    const ShapePattern *pattern;
    uint8_t *data;
    int64_t bytes;
} ShapeFill;

static void shape_pattern_fill_chunk(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ShapeFill *fill = context;
    int64_t at = task * SHAPE_PATTERN_CHUNK_BYTES;
    int64_t end = MIN(at + SHAPE_PATTERN_CHUNK_BYTES, fill->bytes);
    while (at < end) {
        int64_t from = at % fill->pattern->bytes;
        int64_t n = MIN(end - at, fill->pattern->bytes - from);
        memcpy(fill->data + at, fill->pattern->data + from, (size_t)n);
        at += n;
    }
}

void shape_pattern_fill(const ShapePattern *pattern, const Tensor *t, ThreadPool *pool) {
    ShapeFill fill = {pattern, t->data, tensor_bytes(t)};
    pool_run(pool, DIV_UP(fill.bytes, (int64_t)SHAPE_PATTERN_CHUNK_BYTES), shape_pattern_fill_chunk,
             &fill);
}
