#include "ops/cpu/cpu_pack.h"

#include <string.h>

#include "base/mem.h"
#include "ops/ops_priv.h"

/* Words in the order in which the subgroups are read: one run of memory, which a processor asks for
 * by itself. In the file Q3_K has 8 of high bits, 8 and 8 of low bits, 3 of scales; Q6_K 16 and 16
 * of low bits, 8 and 8 of high bits, 4 of scales. */
static const uint8_t PACK_ORDER_Q3_K[27] = {24, 25, 26, /* scales */
                                            0,  8,  1,  9,  2,  10, 3,  11,
                                            4,  12, 5,  13, 6,  14, 7,  15,  /* high, low */
                                            16, 17, 18, 19, 20, 21, 22, 23}; /* low */
static const uint8_t PACK_ORDER_Q6_K[52] = {
    48, 49, 50, 51,                                                 /* scales */
    32, 0,  33, 1,  34, 2,  35, 3,  36, 4,  37, 5,  38, 6,  39, 7,  /* high, low */
    8,  9,  10, 11, 12, 13, 14, 15,                                 /* low */
    40, 16, 41, 17, 42, 18, 43, 19, 44, 20, 45, 21, 46, 22, 47, 23, /* high, low */
    24, 25, 26, 27, 28, 29, 30, 31};                                /* low */

static const PackFormat PACK_FORMAT[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = {.word_at = 2, .n_words = 4, .half_at = 0, .n_halves = 1},
    [DTYPE_Q4_1] = {.word_at = 4, .n_words = 4, .half_at = 0, .n_halves = 2},
    [DTYPE_Q5_0] = {.word_at = 2, .n_words = 5, .half_at = 0, .n_halves = 1, .spread_word_0 = true},
    [DTYPE_Q5_1] = {.word_at = 4, .n_words = 5, .half_at = 0, .n_halves = 2, .spread_word_0 = true},
    [DTYPE_Q8_0] = {.word_at = 2, .n_words = 8, .half_at = 0, .n_halves = 1, .flip = 0x80808080u},
    [DTYPE_Q2_K] = {.word_at = 0, .n_words = 20, .half_at = 80, .n_halves = 2},
    [DTYPE_Q3_K] =
        {.word_at = 0, .n_words = 27, .half_at = 108, .n_halves = 1, .order = PACK_ORDER_Q3_K},
    [DTYPE_Q4_K] = {.word_at = 4, .n_words = 35, .half_at = 0, .n_halves = 2},
    [DTYPE_Q5_K] = {.word_at = 4, .n_words = 43, .half_at = 0, .n_halves = 2},
    [DTYPE_Q6_K] =
        {.word_at = 0, .n_words = 52, .half_at = 208, .n_halves = 1, .order = PACK_ORDER_Q6_K},
    [DTYPE_IQ4_NL] = {.word_at = 2, .n_words = 4, .half_at = 0, .n_halves = 1},
    [DTYPE_IQ4_XS] = {.word_at = 4, .n_words = 33, .half_at = 0, .n_halves = 2},
    [DTYPE_MXFP4] = {.word_at = 1, .n_words = 4, .byte_at = 0, .n_bytes = 1},
};

const PackFormat *cpu_pack_format(DType dtype) {
    return PACK_FORMAT[dtype].n_words > 0 ? &PACK_FORMAT[dtype] : NULL;
}

int64_t cpu_pack_panel_bytes(DType dtype, int64_t k) {
    const DTypeInfo *info = dtype_info(dtype);
    return k / info->group_len * info->group_bytes * PACK_ROWS;
}

/* Exchanges the bits at mask with those `shift` above them. */
static uint32_t cpu_pack_swap(uint32_t word, uint32_t mask, int shift) {
    uint32_t differ = (word >> shift ^ word) & mask;
    return word ^ differ ^ differ << shift;
}

/* Bit 4 i + b to bit 8 b + i: the five bits of a place, i2 i1 i0 b1 b0, become b1 b0 i2 i1 i0 by
 * exchanging 4 with 1, 3 with 0, 2 with 1, 1 with 0. */
static uint32_t cpu_pack_spread(uint32_t word) {
    word = cpu_pack_swap(word, 0x0000cccc, 14);
    word = cpu_pack_swap(word, 0x00aa00aa, 7);
    word = cpu_pack_swap(word, 0x0c0c0c0c, 2);
    return cpu_pack_swap(word, 0x22222222, 1);
}

/* One group of 16 rows; row r's bytes are at src + r * stride, for r < n_rows. */
static void cpu_pack_group(const PackFormat *format, const uint8_t *src, int64_t stride,
                           int64_t n_rows, uint8_t *dst) {
    for (int64_t r = 0; r < n_rows; r++) {
        const uint8_t *group = src + r * stride;
        for (int32_t i = 0; i < format->n_words; i++) {
            int32_t from = format->order != NULL ? format->order[i] : i;
            uint32_t word;
            memcpy(&word, group + format->word_at + 4 * from, 4);
            if (i == 0 && format->spread_word_0) word = cpu_pack_spread(word);
            word ^= format->flip;
            memcpy(dst + (i * PACK_ROWS + r) * 4, &word, 4);
        }
        uint8_t *halves = dst + format->n_words * PACK_ROWS * 4;
        for (int32_t i = 0; i < format->n_halves; i++)
            memcpy(halves + (i * PACK_ROWS + r) * 2, group + format->half_at + 2 * i, 2);
        if (format->n_bytes > 0)
            halves[format->n_halves * PACK_ROWS * 2 + r] = group[format->byte_at];
    }
}

typedef struct PackJob {
    const PackFormat *format;
    const Tensor *file;
    uint8_t *dst;
    int64_t panel_bytes;
} PackJob;

static void cpu_pack_panel(void *context, int64_t panel, int32_t thread) {
    (void)thread;
    const PackJob *job = context;
    const Tensor *file = job->file;
    const DTypeInfo *info = dtype_info(file->dtype);
    int64_t row = panel * PACK_ROWS, n_rows = MIN(file->shape[0] - row, (int64_t)PACK_ROWS);
    int64_t stride = file->stride[0] / info->group_len * info->group_bytes;
    const uint8_t *src = ops_weight_row(file, row);
    uint8_t *dst = job->dst + panel * job->panel_bytes;
    for (int64_t g = 0; g < file->shape[1] / info->group_len; g++) {
        cpu_pack_group(job->format, src, stride, n_rows, dst);
        src += info->group_bytes;
        dst += info->group_bytes * PACK_ROWS;
    }
}

static bool cpu_pack_is_plain(DType dtype) {
    return dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16;
}

Status cpu_pack_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err) {
    char text[TENSOR_TEXT_BYTES];
    const PackFormat *format = cpu_pack_format(file->dtype);
    if (format == NULL && !cpu_pack_is_plain(file->dtype))
        FAIL(err, ERR_UNSUPPORTED, "weight %s: this format cannot be multiplied",
             tensor_text(file, text));
    Weight weight = {.t = *file, .layout = CPU_LAYOUT_FILE};
    /* Vectors and scalars (norms, biases) are not matrices: whoever reads them wants the file's. */
    if (format != NULL && file->n_dims == 2) {
        CHECK(file->shape[1] % dtype_info(file->dtype)->group_len == 0);
        PackJob job = {.format = format, .file = file};
        job.panel_bytes = cpu_pack_panel_bytes(file->dtype, file->shape[1]);
        int64_t n_panels = DIV_UP(file->shape[0], PACK_ROWS);
        weight.layout = CPU_LAYOUT_PANEL;
        weight.owned_bytes = (size_t)(n_panels * job.panel_bytes);
        if (ctx->weights == NULL)
            weight.t.data = weight.owned = mem_try_alloc_large(weight.owned_bytes);
        else
            weight.t.data = arena_large_alloc(ctx->weights, weight.owned_bytes);
        if (weight.t.data == NULL)
            FAIL(err, ERR_NOMEM, "weight %s: no memory for %zu bytes of packed rows",
                 tensor_text(file, text), weight.owned_bytes);
        job.dst = weight.t.data;
        weight.t.stride[0] = file->shape[1];
        pool_run(ctx->pool, n_panels, cpu_pack_panel, &job);
    }
    *out = weight;
    return OK;
}

void cpu_pack_weight_release(OpCtx *ctx, Weight *weight) {
    (void)ctx;
    mem_free_large(weight->owned, weight->owned_bytes);
    *weight = (Weight){0};
}
