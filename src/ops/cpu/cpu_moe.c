/* cpu_moe: the experts' gated feed-forward, tokens grouped by expert.
 *
 * A (token, expert) choice is a pair. Pairs are sorted by expert, stably; the rows of a touched
 * expert are one product with its matrices. gate and up of all touched experts are one run of
 * units, down another. Pairs are added up per token in the order of `expert`, so that the bits do
 * not depend on the grouping. Memory-bound by the touched experts' bytes when few tokens run. */
#include "ops/cpu/cpu_linear.h"
#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_ops.h"

/* Pairs of one pass; more tokens are cut into several. */
enum { MOE_PAIRS_MAX = 2048 };

typedef void MoeAct(OpCtx *ctx, const ActArgs *args);

/* One pass over some tokens. */
typedef struct MoePass {
    const LinearKernels *kernels;
    const MoeArgs *args;
    int64_t token_first, n_tokens, n_pairs, dim, ff;
    int64_t n_touched;
    int32_t *touched;    /* [n_touched] expert */
    int64_t *start;      /* [n_touched + 1] first pair */
    int32_t *pair_token; /* [n_pairs] sorted by expert */
    int32_t *pair_of;    /* [n_tokens * n_used] choice -> pair */
    LinearTile *tiles;   /* of all pairs, none across experts */
    int32_t *tile_expert;
    int64_t n_tiles;
    LinearTile *half_tiles; /* the same for rounded rows, on levels that have them */
    int32_t *half_tile_expert;
    int64_t n_half_tiles;
    float *x, *gate, *up, *down;              /* [n_pairs][dim | ff | ff | dim] */
    LinearQuant *q_gate, *q_up, *q_down;      /* quantized inputs */
    uint8_t *half_gate, *half_up, *half_down; /* rounded inputs */
    LinearPlan *plan;
    void *thread_scratch;
    size_t thread_bytes;
} MoePass;

static int64_t cpu_moe_pass_tokens(int64_t n_tokens, int32_t n_used) {
    return MIN(n_tokens, MAX((int64_t)MOE_PAIRS_MAX / n_used, (int64_t)1));
}

/* Everything that a pass takes from the scratch. */
static void cpu_moe_take(MoePass *p, OpsScratch *scratch, int64_t n_tokens, int32_t n_used,
                         int64_t n_experts, int32_t n_threads) {
    int64_t n_pairs = n_tokens * n_used, n_touched = MIN(n_pairs, n_experts);
    int64_t n_tiles = n_pairs / LINEAR_TILE_TOKENS + 4 * n_touched;
    p->touched = ops_scratch_take(scratch, (size_t)n_experts * sizeof *p->touched);
    p->start = ops_scratch_take(scratch, (size_t)(n_experts + 1) * sizeof *p->start);
    p->pair_token = ops_scratch_take(scratch, (size_t)n_pairs * sizeof *p->pair_token);
    p->pair_of = ops_scratch_take(scratch, (size_t)n_pairs * sizeof *p->pair_of);
    p->tiles = ops_scratch_take(scratch, (size_t)n_tiles * sizeof *p->tiles);
    p->tile_expert = ops_scratch_take(scratch, (size_t)n_tiles * sizeof *p->tile_expert);
    p->half_tiles = ops_scratch_take(scratch, (size_t)n_tiles * sizeof *p->half_tiles);
    p->half_tile_expert = ops_scratch_take(scratch, (size_t)n_tiles * sizeof *p->half_tile_expert);
    p->x = ops_scratch_take(scratch, (size_t)(n_pairs * p->dim) * sizeof *p->x);
    p->gate = ops_scratch_take(scratch, (size_t)(n_pairs * p->ff) * sizeof *p->gate);
    p->up = ops_scratch_take(scratch, (size_t)(n_pairs * p->ff) * sizeof *p->up);
    p->down = ops_scratch_take(scratch, (size_t)(n_pairs * p->dim) * sizeof *p->down);
    p->q_gate = ops_scratch_take(scratch, cpu_linear_quant_bytes(n_pairs, p->dim));
    p->q_up = ops_scratch_take(scratch, cpu_linear_quant_bytes(n_pairs, p->dim));
    p->q_down = ops_scratch_take(scratch, cpu_linear_quant_bytes(n_pairs, p->ff));
    p->half_gate = ops_scratch_take(scratch, cpu_linear_half_bytes(n_pairs, p->dim));
    p->half_up = ops_scratch_take(scratch, cpu_linear_half_bytes(n_pairs, p->dim));
    p->half_down = ops_scratch_take(scratch, cpu_linear_half_bytes(n_pairs, p->ff));
    p->plan = ops_scratch_take(scratch, (size_t)(2 * n_touched) * sizeof *p->plan);
    p->thread_bytes = cpu_linear_thread_bytes(MAX(p->dim, p->ff));
    p->thread_scratch = ops_scratch_take(scratch, p->thread_bytes * (size_t)n_threads);
}

size_t cpu_moe_scratch_bytes(const OpsLimits *limits, int32_t n_threads) {
    if (limits->n_experts == 0) return 0;
    MoePass pass = {.dim = MAX(limits->k_max, limits->n_max), .ff = limits->expert_ff};
    OpsScratch count = {(char *)(uintptr_t)CACHE_LINE, SIZE_MAX / 2};
    int32_t n_used = limits->n_experts_used;
    cpu_moe_take(&pass, &count, cpu_moe_pass_tokens(limits->n_tokens_max, n_used), n_used,
                 limits->n_experts, n_threads);
    return SIZE_MAX / 2 - count.left_bytes;
}

/* Sorts the pass's choices by expert: touched, start, pair_token, pair_of. */
static void cpu_moe_sort(MoePass *p) {
    const int32_t *expert = p->args->expert + p->token_first * p->args->n_used;
    int64_t n_experts = p->args->n_experts, n_used = p->args->n_used;
    int64_t *count = p->start; /* first as counts, then as places */
    memset(count, 0, (size_t)(n_experts + 1) * sizeof *count);
    for (int64_t i = 0; i < p->n_pairs; i++) count[expert[i] + 1]++;
    for (int64_t e = 0; e < n_experts; e++) count[e + 1] += count[e];
    for (int64_t i = 0; i < p->n_pairs; i++) {
        int64_t pair = count[expert[i]]++;
        p->pair_token[pair] = (int32_t)(p->token_first + i / n_used);
        p->pair_of[i] = (int32_t)pair;
    }
    /* Now count[e] is where expert e ends; keep the touched ones. */
    int64_t from = 0;
    p->n_touched = 0;
    for (int64_t e = 0; e < n_experts; e++) {
        int64_t to = count[e];
        if (to == from) continue;
        p->touched[p->n_touched] = (int32_t)e;
        p->start[p->n_touched++] = from;
        from = to;
    }
    p->start[p->n_touched] = from;
    p->n_tiles = p->n_half_tiles = 0;
    for (int64_t i = 0; i < p->n_touched; i++) {
        int64_t first = p->start[i], n_rows = p->start[i + 1] - first;
        int64_t n = cpu_linear_tiles(first, n_rows, cpu_linear_tile, p->tiles + p->n_tiles);
        for (int64_t j = 0; j < n; j++) p->tile_expert[p->n_tiles++] = p->touched[i];
        if (p->kernels->half == NULL) continue;
        n = cpu_linear_tiles(first, n_rows, p->kernels->half->tile,
                             p->half_tiles + p->n_half_tiles);
        for (int64_t j = 0; j < n; j++) p->half_tile_expert[p->n_half_tiles++] = p->touched[i];
    }
}

/* A tile's rows of x, quantized for the expert's gate and up, or gathered for plain weights. */
static void cpu_moe_input_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const MoePass *p = context;
    const LinearTile *tile = &p->tiles[task];
    const Weight *w_gate = &p->args->gate[p->tile_expert[task]];
    const Weight *w_up = &p->args->up[p->tile_expert[task]];
    const LinearFormat *gate = cpu_linear_format(w_gate), *up = cpu_linear_format(w_up);
    bool half_gate = cpu_linear_is_half(p->kernels, w_gate);
    bool half_up = cpu_linear_is_half(p->kernels, w_up);
    int64_t n_groups = p->dim / 32;
    const float *x[LINEAR_TILE_TOKENS];
    for (int32_t t = 0; t < tile->n_tokens; t++)
        x[t] = ops_row(&p->args->x, p->pair_token[tile->first + t]);
    if (gate != NULL)
        p->kernels->quantize(gate, x, tile->n_tokens, p->dim, p->q_gate + tile->first * n_groups);
    if (up != NULL && (gate == NULL || !cpu_linear_same_quant(gate, up)))
        p->kernels->quantize(up, x, tile->n_tokens, p->dim, p->q_up + tile->first * n_groups);
    if ((gate != NULL || half_gate) && (up != NULL || half_up)) return;
    for (int32_t t = 0; t < tile->n_tokens; t++)
        memcpy(p->x + (tile->first + t) * p->dim, x[t], (size_t)p->dim * sizeof *p->x);
}

/* A tile's rows of the hidden vector, quantized for the expert's down. */
static void cpu_moe_hidden_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const MoePass *p = context;
    const LinearTile *tile = &p->tiles[task];
    const LinearFormat *down = cpu_linear_format(&p->args->down[p->tile_expert[task]]);
    if (down == NULL) return;
    const float *x[LINEAR_TILE_TOKENS];
    for (int32_t t = 0; t < tile->n_tokens; t++) x[t] = p->gate + (tile->first + t) * p->ff;
    p->kernels->quantize(down, x, tile->n_tokens, p->ff, p->q_down + tile->first * (p->ff / 32));
}

/* Whether up reads the rows that were rounded for gate. */
static bool cpu_moe_same_half(const Weight *gate, const Weight *up) {
    return gate->t.dtype == up->t.dtype;
}

/* A tile's rows x, rounded for a matrix to their place in out. */
static void cpu_moe_round(const MoePass *p, const Weight *w, const float *const *x,
                          const LinearTile *tile, uint8_t *out) {
    const bool f16 = w->t.dtype == DTYPE_F16;
    const int64_t k = w->t.shape[1];
    out += cpu_linear_half_offset(p->kernels, f16, tile->first, k);
    p->kernels->half->round(x, tile->n_tokens, k, f16, out);
}

/* A tile's rows of x, rounded for the expert's gate and up. */
static void cpu_moe_round_input_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const MoePass *p = context;
    const LinearTile *tile = &p->half_tiles[task];
    int32_t expert = p->half_tile_expert[task];
    const Weight *gate = &p->args->gate[expert], *up = &p->args->up[expert];
    bool half_gate = cpu_linear_is_half(p->kernels, gate);
    bool half_up = cpu_linear_is_half(p->kernels, up) && !cpu_moe_same_half(gate, up);
    if (!half_gate && !half_up) return;
    const float *x[LINEAR_HALF_TOKENS_MAX];
    for (int32_t t = 0; t < tile->n_tokens; t++)
        x[t] = ops_row(&p->args->x, p->pair_token[tile->first + t]);
    if (half_gate) cpu_moe_round(p, gate, x, tile, p->half_gate);
    if (half_up) cpu_moe_round(p, up, x, tile, p->half_up);
}

/* A tile's rows of the hidden vector, rounded for the expert's down. */
static void cpu_moe_round_hidden_task(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const MoePass *p = context;
    const LinearTile *tile = &p->half_tiles[task];
    const Weight *down = &p->args->down[p->half_tile_expert[task]];
    if (!cpu_linear_is_half(p->kernels, down)) return;
    const float *x[LINEAR_HALF_TOKENS_MAX];
    for (int32_t t = 0; t < tile->n_tokens; t++) x[t] = p->gate + (tile->first + t) * p->ff;
    cpu_moe_round(p, down, x, tile, p->half_down);
}

/* The product of touched expert i's rows with one of its matrices. */
static LinearPlan cpu_moe_plan(const MoePass *p, int64_t i, const Weight *w, const float *x,
                               const LinearQuant *q, const uint8_t *half, float *out) {
    LinearPlan plan = {.unit = cpu_linear_unit(w)};
    LinearUnit *unit = &plan.unit;
    unit->n_tokens = p->start[i + 1] - p->start[i];
    unit->x = x + p->start[i] * unit->k;
    unit->x_stride = unit->k;
    unit->q = q + p->start[i] * (unit->k / 32);
    if (cpu_linear_is_half(p->kernels, w))
        unit->half = half + cpu_linear_half_offset(p->kernels, unit->dtype == DTYPE_F16,
                                                   p->start[i], unit->k);
    unit->out = out + p->start[i] * unit->n_rows;
    unit->out_stride = unit->n_rows;
    return plan;
}

static void cpu_moe_gate_up(OpCtx *ctx, MoePass *p) {
    const MoeArgs *args = p->args;
    for (int64_t i = 0; i < p->n_touched; i++) {
        const Weight *gate = &args->gate[p->touched[i]], *up = &args->up[p->touched[i]];
        const LinearFormat *gate_format = cpu_linear_format(gate);
        const LinearFormat *up_format = cpu_linear_format(up);
        bool same = gate_format != NULL && up_format != NULL &&
                    cpu_linear_same_quant(gate_format, up_format);
        p->plan[2 * i] = cpu_moe_plan(p, i, gate, p->x, p->q_gate, p->half_gate, p->gate);
        p->plan[2 * i + 1] =
            cpu_moe_plan(p, i, up, p->x, same ? p->q_gate : p->q_up,
                         cpu_moe_same_half(gate, up) ? p->half_gate : p->half_up, p->up);
    }
    cpu_linear_run(ctx, p->kernels, p->plan, 2 * p->n_touched, p->thread_scratch, p->thread_bytes);
}

/* out[t] (+)= the token's pairs, weighted, in the order of its choices. */
static void cpu_moe_combine_task(void *context, int64_t t, int32_t thread) {
    (void)thread;
    const MoePass *p = context;
    int32_t n_used = p->args->n_used;
    const float *weight = p->args->weight + (p->token_first + t) * n_used;
    float *out = ops_row(&p->args->out, p->token_first + t);
    for (int64_t i = 0; i < p->dim; i++) {
        float sum = 0;
        for (int32_t u = 0; u < n_used; u++)
            sum += weight[u] * p->down[p->pair_of[t * n_used + u] * p->dim + i];
        out[i] = p->args->accumulate ? out[i] + sum : sum;
    }
}

static void cpu_moe_pass(OpCtx *ctx, MoePass *p, MoeAct *act) {
    const MoeArgs *args = p->args;
    /* Small steps: the caller is done before another thread has woken up. */
    ThreadPool *pool = p->n_pairs * MAX(p->dim, p->ff) < LINEAR_ALONE_QUANT ? NULL : ctx->pool;
    cpu_moe_sort(p);
    pool_run(pool, p->n_tiles, cpu_moe_input_task, p);
    pool_run(pool, p->n_half_tiles, cpu_moe_round_input_task, p);
    cpu_moe_gate_up(ctx, p);
    Tensor gate = tensor_2d(p->gate, DTYPE_F32, p->n_pairs, p->ff);
    Tensor up = tensor_2d(p->up, DTYPE_F32, p->n_pairs, p->ff);
    act(ctx, &(ActArgs){.kind = args->act, .gate = gate, .up = &up, .out = gate});
    pool_run(pool, p->n_tiles, cpu_moe_hidden_task, p);
    pool_run(pool, p->n_half_tiles, cpu_moe_round_hidden_task, p);
    for (int64_t i = 0; i < p->n_touched; i++)
        p->plan[i] = cpu_moe_plan(p, i, &args->down[p->touched[i]], p->gate, p->q_down,
                                  p->half_down, p->down);
    cpu_linear_run(ctx, p->kernels, p->plan, p->n_touched, p->thread_scratch, p->thread_bytes);
    pool_run(pool, p->n_tokens, cpu_moe_combine_task, p);
}

static void cpu_moe(const LinearKernels *kernels, MoeAct *act, OpCtx *ctx, const MoeArgs *args) {
    ops_check_moe(args);
    int64_t n_tokens = args->x.shape[0], step = cpu_moe_pass_tokens(n_tokens, args->n_used);
    for (int64_t t = 0; t < n_tokens; t += step) {
        MoePass pass = {.kernels = kernels, .args = args, .token_first = t};
        pass.n_tokens = MIN(step, n_tokens - t);
        pass.n_pairs = pass.n_tokens * args->n_used;
        pass.dim = args->x.shape[1];
        pass.ff = args->gate->t.shape[0];
        OpsScratch scratch = ops_scratch_begin(ctx);
        cpu_moe_take(&pass, &scratch, pass.n_tokens, args->n_used, args->n_experts,
                     ops_threads(ctx));
        cpu_moe_pass(ctx, &pass, act);
    }
}

void cpu_moe_avx2(OpCtx *ctx, const MoeArgs *args) {
    cpu_moe(&CPU_LINEAR_AVX2, cpu_act_avx2, ctx, args);
}

void cpu_moe_avx512(OpCtx *ctx, const MoeArgs *args) {
    cpu_moe(&CPU_LINEAR_AVX512, cpu_act_avx512, ctx, args);
}

void cpu_moe_avx512bf16(OpCtx *ctx, const MoeArgs *args) {
    cpu_moe(&CPU_LINEAR_AVX512BF16, cpu_act_avx512, ctx, args);
}

void cpu_moe_amx(OpCtx *ctx, const MoeArgs *args) {
    cpu_moe(&CPU_LINEAR_AMX, cpu_act_avx512, ctx, args);
}
