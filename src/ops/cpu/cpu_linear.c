#include "ops/cpu/cpu_linear.h"

#include "ops/cpu/cpu_detect.h"
#include "ops/cpu/cpu_linear_priv.h"

const LinearKernels CPU_LINEAR_AVX2 = {.quantize = cpu_linear_block_avx2_quantize,
                                       .block = cpu_linear_block_avx2,
                                       .many_rows = PACK_ROWS * LINEAR_PANELS,
                                       .plain = cpu_linear_plain_avx2};
const LinearKernels CPU_LINEAR_AVX512 = {.quantize = cpu_linear_block_avx512_quantize,
                                         .block = cpu_linear_block_avx512,
                                         .many_rows = PACK_ROWS * LINEAR_PANELS,
                                         .plain = cpu_linear_plain_avx512};
const LinearKernels CPU_LINEAR_AVX512BF16 = {.quantize = cpu_linear_block_avx512_quantize,
                                             .block = cpu_linear_block_avx512,
                                             .many_rows = PACK_ROWS * LINEAR_PANELS,
                                             .plain = cpu_linear_plain_avx512,
                                             .half = &CPU_LINEAR_HALF_AVX512};
const LinearKernels CPU_LINEAR_AMX = {.quantize = cpu_linear_block_avx512_quantize,
                                      .block = cpu_linear_block_amx,
                                      .many_rows = LINEAR_TILES_ROWS,
                                      .plain = cpu_linear_plain_avx512,
                                      .half = &CPU_LINEAR_HALF_AMX};

enum {
    LINEAR_ALONE_BYTES = 48 << 10, /* weights, times tiles, below which waking threads costs more */
    LINEAR_TASKS_PER_THREAD = 4,
    LINEAR_CHUNK_TOKENS = 48,     /* the least, and a whole number of tiles of 12 and of 6 */
    LINEAR_AHEAD_BYTES = 8 << 10, /* of one stream, docs/kernels.md */
    LINEAR_MANY_TOKENS = 64       /* more take units of many_rows rows */
};

const LinearFormat *cpu_linear_format(const Weight *w) {
    const LinearFormat *format = &LINEAR_FORMAT[w->t.dtype];
    CHECK(w->layout == (format->bits > 0 ? CPU_LAYOUT_PANEL : CPU_LAYOUT_FILE));
    return format->bits > 0 ? format : NULL;
}

bool cpu_linear_same_quant(const LinearFormat *a, const LinearFormat *b) {
    return a->offset == b->offset && a->has_min == b->has_min && a->has_scale_16 == b->has_scale_16;
}

bool cpu_linear_is_half(const LinearKernels *kernels, const Weight *w) {
    return kernels->half != NULL &&
           (w->t.dtype == DTYPE_BF16 ||
            (w->t.dtype == DTYPE_F16 && kernels->half->token_bytes_f16 > 0));
}

size_t cpu_linear_half_bytes(int64_t n_tokens, int64_t k) {
    return ops_scratch_round((size_t)(n_tokens * DIV_UP(k, 32)) * LINEAR_HALF_BYTES_MAX);
}

int64_t cpu_linear_half_offset(const LinearKernels *kernels, bool f16, int64_t t, int64_t k) {
    return t * DIV_UP(k, 32) * (f16 ? kernels->half->token_bytes_f16 : kernels->half->token_bytes);
}

size_t cpu_linear_quant_bytes(int64_t n_tokens, int64_t k) {
    return ops_scratch_round((size_t)(n_tokens * (k / 32)) * sizeof(LinearQuant));
}

int64_t cpu_linear_tiles(int64_t first, int64_t n_tokens, int32_t (*tile)(int64_t tokens_left),
                         LinearTile *tiles) {
    int64_t n = 0;
    for (int64_t t = 0; t < n_tokens; t += tiles[n++].n_tokens)
        tiles[n] = (LinearTile){first + t, tile(n_tokens - t)};
    return n;
}

/* Enough expanded weights to reuse an activation tile from L2, and never more than L2 holds. */
static int64_t cpu_linear_unit_rows(const LinearKernels *kernels, const LinearUnit *unit) {
    const LinearFormat *f = &LINEAR_FORMAT[unit->dtype];
    if (f->bits > 0) {
        bool many = unit->n_tokens > LINEAR_MANY_TOKENS && !f->has_scale_16;
        int64_t most = many ? kernels->many_rows : PACK_ROWS * LINEAR_PANELS;
        if (most > PACK_ROWS * LINEAR_PANELS) return most;
        int64_t panel_bytes = unit->k / 32 * cpu_linear_expanded_bytes(f);
        int64_t n = unit->n_tokens == 1 ? LINEAR_PANELS : LINEAR_UNIT_BYTES / panel_bytes;
        return MIN(PACK_ROWS * MAX(n, (int64_t)1), most);
    }
    if (unit->half != NULL) {
        const LinearHalf *half = kernels->half;
        int64_t rows = half->unit_bytes / (2 * ALIGN_UP(unit->k, (int64_t)32)) / 16 * 16;
        int64_t many = half->unit_rows / (unit->dtype == DTYPE_F16 ? 2 : 1);
        int64_t most = unit->n_tokens > half->few_tokens ? many : LINEAR_PLAIN_ROWS;
        return MIN(MAX(rows, (int64_t)16), most);
    }
    int64_t rows = LINEAR_PLAIN_BYTES / unit->w_stride / 8 * 8;
    bool few = unit->n_tokens <= LINEAR_PLAIN_FEW_TOKENS;
    int64_t most = few ? LINEAR_PLAIN_ROWS : LINEAR_PLAIN_MANY_ROWS;
    return MIN(MAX(rows, (int64_t)LINEAR_PLAIN_LEAST_ROWS), most);
}

size_t cpu_linear_thread_bytes(int64_t k) {
    int64_t panel_bytes = DIV_UP(k, 32) * LINEAR_EXPANDED_BYTES_MAX; /* a unit of the fewest rows */
    return ops_scratch_round((size_t)MAX(panel_bytes, (int64_t)LINEAR_UNIT_BYTES_AMX));
}

/* AMD's cores ask for memory by themselves as long as it is one run. Farther requests keep Zen 4
 * from it; Zen 5 has room for both. */
static void cpu_linear_reads(LinearUnit *unit) {
    bool one = __builtin_cpu_is("amd");
    unit->n_side = one ? 1 : LINEAR_PANELS;
    unit->ahead = cpu_is_zen5() ? LINEAR_AHEAD_BYTES : 0;
}

LinearUnit cpu_linear_unit(const Weight *w) {
    const Tensor *t = &w->t;
    const DTypeInfo *info = dtype_info(t->dtype);
    LinearUnit unit = {.dtype = t->dtype, .k = t->shape[1], .n_rows = t->shape[0], .w = t->data};
    unit.w_stride = w->layout == CPU_LAYOUT_PANEL ? cpu_pack_panel_bytes(t->dtype, unit.k)
                                                  : t->stride[0] * info->group_bytes;
    cpu_linear_reads(&unit);
    return unit;
}

typedef struct LinearRun {
    const LinearKernels *kernels;
    const LinearPlan *plan;
    int64_t n_plans;
    char *thread_scratch;
    size_t thread_bytes;
} LinearRun;

static void cpu_linear_task(void *context, int64_t task, int32_t thread) {
    const LinearRun *run = context;
    int64_t lo = 0, hi = run->n_plans - 1;
    while (lo < hi) {
        int64_t middle = (lo + hi + 1) / 2;
        if (run->plan[middle].first_task <= task)
            lo = middle;
        else
            hi = middle - 1;
    }
    const LinearPlan *plan = &run->plan[lo];
    /* Neighbours in the list read the same activations and the next weights. */
    int64_t chunk = (task - plan->first_task) / plan->n_units;
    int64_t row = (task - plan->first_task) % plan->n_units * plan->unit_rows;
    int64_t token = chunk * plan->chunk_tokens;
    bool panels = LINEAR_FORMAT[plan->unit.dtype].bits > 0;
    LinearUnit unit = plan->unit;
    unit.w += (panels ? row / PACK_ROWS : row) * unit.w_stride;
    unit.n_rows = MIN(unit.n_rows - row, plan->unit_rows);
    unit.n_tokens = chunk + 1 < plan->n_chunks ? plan->chunk_tokens : unit.n_tokens - token;
    if (unit.bias != NULL) unit.bias += row;
    unit.out += token * unit.out_stride + row;
    unit.scratch = run->thread_scratch + (size_t)thread * run->thread_bytes;
    if (panels) {
        unit.q += token * (unit.k / 32);
        run->kernels->block(&unit);
    } else if (unit.half != NULL) {
        unit.half += cpu_linear_half_offset(run->kernels, unit.dtype == DTYPE_F16, token, unit.k);
        run->kernels->half->unit(&unit);
    } else {
        unit.x += token * unit.x_stride;
        run->kernels->plain(&unit);
    }
}

/* Splits tokens too when there are too few units of rows for the threads. A unit has the rows that
 * suit many tokens, so the last chunk takes a short rest as well. */
static void cpu_linear_chunk(LinearPlan *plan, int64_t n_units_all, int32_t n_threads) {
    int64_t n_tokens = plan->unit.n_tokens;
    int64_t wanted = n_threads > 1 ? DIV_UP(LINEAR_TASKS_PER_THREAD * n_threads, n_units_all) : 1;
    int64_t n_chunks = MIN(wanted, MAX(n_tokens / LINEAR_CHUNK_TOKENS, (int64_t)1));
    plan->chunk_tokens = n_tokens;
    if (n_chunks > 1) {
        int64_t least = DIV_UP(n_tokens, n_chunks);
        plan->chunk_tokens = DIV_UP(least, LINEAR_CHUNK_TOKENS) * LINEAR_CHUNK_TOKENS;
    }
    plan->n_chunks = MAX(n_tokens / plan->chunk_tokens, (int64_t)1);
    if (n_tokens - plan->n_chunks * plan->chunk_tokens > LINEAR_CHUNK_TOKENS) plan->n_chunks++;
}

void cpu_linear_run(OpCtx *ctx, const LinearKernels *kernels, LinearPlan *plan, int64_t n_plans,
                    void *thread_scratch, size_t thread_bytes) {
    int64_t n_units = 0, n_tasks = 0, work_bytes = 0;
    for (int64_t i = 0; i < n_plans; i++) {
        LinearUnit *unit = &plan[i].unit;
        plan[i].unit_rows = cpu_linear_unit_rows(kernels, unit);
        plan[i].n_units = DIV_UP(unit->n_rows, plan[i].unit_rows);
        n_units += plan[i].n_units;
        int64_t row_bytes =
            LINEAR_FORMAT[unit->dtype].bits > 0 ? unit->w_stride / PACK_ROWS : unit->w_stride;
        work_bytes += unit->n_rows * row_bytes * DIV_UP(unit->n_tokens, LINEAR_TILE_TOKENS);
    }
    for (int64_t i = 0; i < n_plans; i++) {
        cpu_linear_chunk(&plan[i], MAX(n_units, (int64_t)1), ops_threads(ctx));
        plan[i].first_task = n_tasks;
        n_tasks += plan[i].n_units * plan[i].n_chunks;
    }
    LinearRun run = {kernels, plan, n_plans, thread_scratch, thread_bytes};
    pool_run(work_bytes < LINEAR_ALONE_BYTES ? NULL : ctx->pool, n_tasks, cpu_linear_task, &run);
}

/* The activations of a linear, to be quantized once per kind that its parts read, and rounded if
 * one reads that. */
typedef struct LinearInput {
    const LinearKernels *kernels;
    const Tensor *x;
    const LinearTile *tiles;
    const LinearFormat *format[LINEAR_PARTS_MAX];
    LinearQuant *quant[LINEAR_PARTS_MAX];
    int32_t n_formats;
    const LinearTile *half_tiles;
    uint8_t *half[2]; /* for BF16 and for F16, or NULL */
} LinearInput;

static void cpu_linear_quantize_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const LinearInput *input = context;
    const LinearTile *tile = &input->tiles[task];
    int64_t k = input->x->shape[1];
    const float *x[LINEAR_TILE_TOKENS];
    for (int32_t t = 0; t < tile->n_tokens; t++) x[t] = ops_row(input->x, tile->first + t);
    for (int32_t i = 0; i < input->n_formats; i++)
        input->kernels->quantize(input->format[i], x, tile->n_tokens, k,
                                 input->quant[i] + tile->first * (k / 32));
}

static void cpu_linear_round_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const LinearInput *input = context;
    const LinearTile *tile = &input->half_tiles[task];
    int64_t k = input->x->shape[1];
    const float *x[LINEAR_HALF_TOKENS_MAX];
    for (int32_t t = 0; t < tile->n_tokens; t++) x[t] = ops_row(input->x, tile->first + t);
    for (int32_t f16 = 0; f16 < 2; f16++)
        if (input->half[f16] != NULL)
            input->kernels->half->round(
                x, tile->n_tokens, k, f16,
                input->half[f16] + cpu_linear_half_offset(input->kernels, f16, tile->first, k));
}

/* The input's quantized activations for a format, added when they are not there yet. */
static const LinearQuant *cpu_linear_quant_of(LinearInput *input, const LinearFormat *format,
                                              OpsScratch *scratch) {
    for (int32_t i = 0; i < input->n_formats; i++)
        if (cpu_linear_same_quant(input->format[i], format)) return input->quant[i];
    int32_t i = input->n_formats++;
    input->format[i] = format;
    input->quant[i] =
        ops_scratch_take(scratch, cpu_linear_quant_bytes(input->x->shape[0], input->x->shape[1]));
    return input->quant[i];
}

/* The input's rounded activations, added when they are not there yet. */
static const uint8_t *cpu_linear_half_of(LinearInput *input, bool f16, OpsScratch *scratch) {
    if (input->half[f16] == NULL)
        input->half[f16] = ops_scratch_take(
            scratch, cpu_linear_half_bytes(input->x->shape[0], input->x->shape[1]));
    return input->half[f16];
}

static size_t cpu_linear_tiles_bytes(int64_t n_tokens) {
    return ops_scratch_round((size_t)(n_tokens / LINEAR_TILE_TOKENS + 4) * sizeof(LinearTile));
}

static void cpu_linear(const LinearKernels *kernels, OpCtx *ctx, const LinearArgs *args) {
    ops_check_linear(args);
    int64_t n_tokens = args->x.shape[0], k = args->x.shape[1];
    if (n_tokens == 0) return;
    OpsScratch scratch = ops_scratch_begin(ctx);
    LinearTile *tiles = ops_scratch_take(&scratch, cpu_linear_tiles_bytes(n_tokens));
    LinearTile *half_tiles = ops_scratch_take(&scratch, cpu_linear_tiles_bytes(n_tokens));
    LinearInput input = {
        .kernels = kernels, .x = &args->x, .tiles = tiles, .half_tiles = half_tiles};
    LinearPlan plan[LINEAR_PARTS_MAX];
    for (int32_t i = 0; i < args->n_parts; i++) {
        const LinearPart *part = &args->part[i];
        const LinearFormat *format = cpu_linear_format(part->w);
        LinearUnit *unit = &plan[i].unit;
        *unit = cpu_linear_unit(part->w);
        unit->n_tokens = n_tokens;
        unit->x = args->x.data;
        unit->x_stride = args->x.stride[0];
        if (format != NULL) unit->q = cpu_linear_quant_of(&input, format, &scratch);
        if (cpu_linear_is_half(kernels, part->w))
            unit->half = cpu_linear_half_of(&input, unit->dtype == DTYPE_F16, &scratch);
        unit->bias = part->bias;
        unit->out = part->out.data;
        unit->out_stride = part->out.stride[0];
        unit->accumulate = args->accumulate;
    }
    ThreadPool *pool = n_tokens * k < LINEAR_ALONE_QUANT ? NULL : ctx->pool;
    if (input.n_formats > 0) {
        int64_t n_tiles = cpu_linear_tiles(0, n_tokens, cpu_linear_tile, tiles);
        pool_run(pool, n_tiles, cpu_linear_quantize_task, &input);
    }
    if (input.half[0] != NULL || input.half[1] != NULL) {
        int64_t n_tiles = cpu_linear_tiles(0, n_tokens, kernels->half->tile, half_tiles);
        pool_run(pool, n_tiles, cpu_linear_round_task, &input);
    }
    size_t thread_bytes = cpu_linear_thread_bytes(k);
    void *thread_scratch = ops_scratch_take(&scratch, thread_bytes * (size_t)ops_threads(ctx));
    cpu_linear_run(ctx, kernels, plan, args->n_parts, thread_scratch, thread_bytes);
}

void cpu_linear_avx2(OpCtx *ctx, const LinearArgs *args) {
    cpu_linear(&CPU_LINEAR_AVX2, ctx, args);
}

void cpu_linear_avx512(OpCtx *ctx, const LinearArgs *args) {
    cpu_linear(&CPU_LINEAR_AVX512, ctx, args);
}

void cpu_linear_avx512bf16(OpCtx *ctx, const LinearArgs *args) {
    cpu_linear(&CPU_LINEAR_AVX512BF16, ctx, args);
}

void cpu_linear_amx(OpCtx *ctx, const LinearArgs *args) {
    cpu_linear(&CPU_LINEAR_AMX, ctx, args);
}

size_t cpu_linear_scratch_bytes(const OpsLimits *limits, int32_t n_threads) {
    int64_t k = ALIGN_UP(MAX(limits->k_max, (int64_t)1), (int64_t)32);
    return 2 * cpu_linear_tiles_bytes(limits->n_tokens_max) +
           LINEAR_PARTS_MAX * cpu_linear_quant_bytes(limits->n_tokens_max, k) +
           2 * cpu_linear_half_bytes(limits->n_tokens_max, k) +
           cpu_linear_thread_bytes(k) * (size_t)n_threads;
}
