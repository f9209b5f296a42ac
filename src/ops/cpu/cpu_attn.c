/* cpu_attn: cuts an attention call into tasks and runs them.
 *
 * Usually a task walks all its keys, split by split. When there are too few tasks for the
 * threads (a long decode with few KV heads) every split of every task is a unit of its own;
 * their parts are merged in the order of the splits, so both ways give the same bits. */
#include "ops/cpu/cpu_attn_priv.h"

#include <math.h>
#include <string.h>

#include "ops/cpu/cpu_ops.h"

enum {
    CPU_ATTN_TASKS_PER_THREAD = 4, /* fewer, and the splits are shared out */
    CPU_ATTN_SLOTS_PER_THREAD = 4, /* parts computed between two merges */
};

static int64_t cpu_attn_stride(int64_t head_dim) {
    return ALIGN_UP(head_dim, (int64_t)CPU_ATTN_DIM_STEP);
}

size_t cpu_attn_part_bytes(int64_t stride) {
    return (size_t)(CPU_ATTN_ROWS * (stride + 2)) * sizeof(float);
}

CpuAttnPart cpu_attn_part(char *memory, int64_t slot, int64_t stride) {
    float *m = (float *)(void *)(memory + (size_t)slot * cpu_attn_part_bytes(stride));
    return (CpuAttnPart){m + 2 * CPU_ATTN_ROWS, m, m + CPU_ATTN_ROWS};
}

/* Lengths in floats of a thread's pieces, in the order of CpuAttnWork. */
static int64_t cpu_attn_work_floats(int64_t stride) {
    int64_t rows = CPU_ATTN_ROWS, keys = CPU_ATTN_KEYS;
    return rows * stride + 2 * keys * stride + rows * keys + 2 * keys + 3 * rows;
}

static size_t cpu_attn_work_bytes(int64_t stride) {
    return ops_scratch_round((size_t)cpu_attn_work_floats(stride) * sizeof(float) +
                             2 * cpu_attn_part_bytes(stride));
}

CpuAttnWork cpu_attn_work(const CpuAttnPlan *plan, int32_t thread) {
    int64_t stride = cpu_attn_stride(plan->args->kv.head_dim);
    float *p = (float *)(void *)(plan->work + (size_t)thread * plan->work_bytes);
    CpuAttnWork work = {.stride = stride, .q = p};
    work.keys = work.q + CPU_ATTN_ROWS * stride;
    work.values = work.keys + CPU_ATTN_KEYS * stride;
    work.scores = work.values + CPU_ATTN_KEYS * stride;
    work.alpha = work.scores + CPU_ATTN_ROWS * CPU_ATTN_KEYS;
    float *scales = work.alpha + CPU_ATTN_ROWS;
    if (plan->args->kv.dtype == DTYPE_I8)
        work.key_scale = scales, work.value_scale = scales + CPU_ATTN_KEYS;
    work.lo = (int32_t *)(void *)(scales + 2 * CPU_ATTN_KEYS);
    work.hi = work.lo + CPU_ATTN_ROWS;
    char *parts = (char *)(work.hi + CPU_ATTN_ROWS);
    work.total = cpu_attn_part(parts, 0, stride);
    work.part = cpu_attn_part(parts, 1, stride);
    return work;
}

size_t cpu_attn_scratch_bytes(const OpsLimits *limits, int32_t n_threads) {
    int64_t stride = cpu_attn_stride(MAX(limits->head_dim, 1));
    size_t slots = (size_t)n_threads * CPU_ATTN_SLOTS_PER_THREAD;
    size_t units = (size_t)n_threads * CPU_ATTN_TASKS_PER_THREAD + 1;
    return ops_scratch_round(((size_t)limits->n_seqs_max + 1) * sizeof(int64_t)) +
           ops_scratch_round(units * sizeof(int64_t)) +
           (size_t)n_threads * cpu_attn_work_bytes(stride) +
           ops_scratch_round(slots * cpu_attn_part_bytes(stride));
}

void cpu_attn_plan(const OpCtx *ctx, const AttnArgs *args, CpuAttnPlan *plan, OpsScratch *scratch) {
    int32_t group = (int32_t)(args->q.shape[1] / args->kv.n_kv_heads);
    *plan = (CpuAttnPlan){.args = args, .group = group};
    plan->heads_per_tile = MIN(group, (int32_t)CPU_ATTN_ROWS);
    plan->head_tiles = DIV_UP(group, plan->heads_per_tile);
    plan->queries_per_tile = CPU_ATTN_ROWS / plan->heads_per_tile;
    plan->task_start =
        ops_scratch_take(scratch, ((size_t)args->n_seqs + 1) * sizeof *plan->task_start);
    plan->task_start[0] = 0;
    for (int32_t s = 0; s < args->n_seqs; s++) {
        int64_t n_queries = args->query_start[s + 1] - args->query_start[s];
        int64_t n_tasks = DIV_UP(n_queries, (int64_t)plan->queries_per_tile) * plan->head_tiles *
                          args->kv.n_kv_heads;
        plan->task_start[s + 1] = plan->task_start[s] + n_tasks;
    }
    plan->work_bytes = cpu_attn_work_bytes(cpu_attn_stride(args->kv.head_dim));
    plan->work = ops_scratch_take(scratch, (size_t)ops_threads(ctx) * plan->work_bytes);
}

/* The sequence whose tasks include index. */
static int32_t cpu_attn_find_seq(const CpuAttnPlan *plan, int64_t index) {
    int32_t lo = 0, hi = plan->args->n_seqs - 1;
    while (lo < hi) {
        int32_t middle = lo + (hi - lo) / 2;
        if (index < plan->task_start[middle + 1])
            hi = middle;
        else
            lo = middle + 1;
    }
    return lo;
}

/* Within a sequence the last queries, which see most, come first: no thread begins the longest task
 * when the others are done. */
CpuAttnTask cpu_attn_task(const CpuAttnPlan *plan, int64_t index) {
    const AttnArgs *args = plan->args;
    int32_t s = cpu_attn_find_seq(plan, index);
    int64_t per_tile = (int64_t)plan->head_tiles * args->kv.n_kv_heads;
    int64_t n_tiles = (plan->task_start[s + 1] - plan->task_start[s]) / per_tile;
    int64_t local = index - plan->task_start[s];
    int32_t tile = (int32_t)(n_tiles - 1 - local / per_tile);
    int32_t kv_head = (int32_t)(local % per_tile) / plan->head_tiles;
    int32_t head_tile = (int32_t)(local % per_tile) % plan->head_tiles;

    int32_t end = args->query_start[s + 1];
    int32_t first = args->query_start[s] + tile * plan->queries_per_tile;
    int32_t n_queries = MIN(plan->queries_per_tile, end - first);
    int32_t head_in_group = head_tile * plan->heads_per_tile;
    CpuAttnTask task = {.args = args,
                        .block_id = args->block_id + args->table_start[s],
                        .kv_len = args->kv_len[s],
                        .kv_head = kv_head,
                        .token = first,
                        .pos = args->kv_len[s] - (end - first),
                        .head = kv_head * plan->group + head_in_group,
                        .n_heads = MIN(plan->heads_per_tile, plan->group - head_in_group)};
    task.n_rows = n_queries * task.n_heads;
    task.need.lo = ops_attn_range(args, task.pos, task.kv_len).lo;
    task.need.hi = ops_attn_range(args, task.pos + n_queries - 1, task.kv_len).hi;
    return task;
}

/* The slot of key first + i, and in n_keys how many from there on lie in a row, at most to the end
 * of the tile; -1 and one key that is not needed. */
static int64_t cpu_attn_run_of(const CpuAttnTask *task, int32_t first, int32_t i, int32_t *n_keys) {
    const KvView *kv = &task->args->kv;
    int32_t key = first + i;
    *n_keys = 1;
    if (key < task->need.lo || key >= task->need.hi) return -1;
    int32_t block = key / kv->block_tokens, inside = key % kv->block_tokens;
    *n_keys = MIN(kv->block_tokens - inside, MIN(CPU_ATTN_KEYS - i, task->need.hi - key));
    return (int64_t)task->block_id[block] * kv->block_tokens + inside;
}

static void cpu_attn_offsets(const CpuAttnTask *task, int32_t first,
                             int64_t offset[CPU_ATTN_KEYS]) {
    const KvView *kv = &task->args->kv;
    for (int32_t i = 0, n; i < CPU_ATTN_KEYS; i += n) {
        int64_t slot = cpu_attn_run_of(task, first, i, &n);
        int64_t at = slot < 0 ? -1 : ops_kv_offset(kv, slot, task->kv_head);
        for (int32_t j = i; j < i + n; j++, at += kv->head_dim) offset[j] = at;
    }
}

void cpu_attn_tile_places(const CpuAttnTask *task, int32_t first, CpuAttnTile *tile) {
    tile->asked = 0;
    cpu_attn_offsets(task, first, tile->offset);
    CpuAttnTask after = *task;
    int32_t next = first + CPU_ATTN_KEYS;
    if (next >= task->need.hi) { /* the task of the next KV head */
        after.kv_head = MIN(task->kv_head + 1, task->args->kv.n_kv_heads - 1);
        next = task->need.lo / CPU_ATTN_KEYS * CPU_ATTN_KEYS;
    }
    cpu_attn_offsets(&after, next, tile->next);
    for (int32_t j = 0; j < CPU_ATTN_KEYS; j++)
        if (tile->next[j] < 0) tile->next[j] = MAX(tile->offset[j], (int64_t)0);
}

void cpu_attn_scales(const CpuAttnTask *task, int32_t first, const CpuAttnWork *work) {
    const KvView *kv = &task->args->kv;
    if (work->key_scale == NULL) return;
    for (int32_t i = 0, n; i < CPU_ATTN_KEYS; i += n) {
        int64_t slot = cpu_attn_run_of(task, first, i, &n);
        work->key_scale[i] = work->value_scale[i] = 0;
        if (slot < 0) continue;
        int64_t at = ops_kv_scale_offset(kv, slot, task->kv_head);
        memcpy(work->key_scale + i, (const char *)kv->k + at, (size_t)n * sizeof(float));
        memcpy(work->value_scale + i, (const char *)kv->v + at, (size_t)n * sizeof(float));
    }
}

static int32_t cpu_attn_split_first(const CpuAttnTask *task) {
    return task->need.lo / ATTN_SPLIT_TOKENS;
}

static int32_t cpu_attn_split_count(const CpuAttnTask *task) {
    return DIV_UP(task->need.hi, (int32_t)ATTN_SPLIT_TOKENS) - cpu_attn_split_first(task);
}

typedef struct CpuAttnRun {
    CpuAttnPlan plan;
    const CpuAttnLevel *level;
    int64_t *unit_start; /* [n_tasks + 1] when splits are shared out */
    int64_t n_tasks, unit_first;
    char *slots;
} CpuAttnRun;

static void cpu_attn_run_task(void *context, int64_t index, int32_t thread) {
    const CpuAttnRun *run = context;
    CpuAttnTask task = cpu_attn_task(&run->plan, index);
    CpuAttnWork work = cpu_attn_work(&run->plan, thread);
    int32_t first = cpu_attn_split_first(&task), count = cpu_attn_split_count(&task);
    run->level->load(&task, &work);
    run->level->split(&task, &work, first, &work.total);
    for (int32_t i = 1; i < count; i++) {
        run->level->split(&task, &work, first + i, &work.part);
        run->level->merge(&task, work.stride, &work.total, &work.part);
    }
    run->level->finish(&task, work.stride, &work.total);
}

/* The task of a unit; few, so a walk will do. */
static int64_t cpu_attn_unit_task(const CpuAttnRun *run, int64_t unit) {
    int64_t task = 0;
    while (unit >= run->unit_start[task + 1]) task++;
    return task;
}

static void cpu_attn_run_unit(void *context, int64_t index, int32_t thread) {
    const CpuAttnRun *run = context;
    int64_t unit = run->unit_first + index, at = cpu_attn_unit_task(run, unit);
    CpuAttnTask task = cpu_attn_task(&run->plan, at);
    CpuAttnWork work = cpu_attn_work(&run->plan, thread);
    CpuAttnPart part = cpu_attn_part(run->slots, index, work.stride);
    int32_t split = cpu_attn_split_first(&task) + (int32_t)(unit - run->unit_start[at]);
    run->level->load(&task, &work);
    run->level->split(&task, &work, split, &part);
}

static void cpu_attn_part_clear(const CpuAttnPart *part, int32_t n_rows, int64_t stride) {
    memset(part->acc, 0, (size_t)(n_rows * stride) * sizeof *part->acc);
    for (int32_t r = 0; r < n_rows; r++) {
        part->m[r] = -INFINITY;
        part->l[r] = 0;
    }
}

/* Merges the parts of units unit_first .. end - 1 in order; the total of a task that the wave cuts
 * stays in thread 0's memory for the next. */
static void cpu_attn_merge_units(const CpuAttnRun *run, int64_t end) {
    CpuAttnWork work = cpu_attn_work(&run->plan, 0);
    for (int64_t unit = run->unit_first; unit < end; unit++) {
        int64_t at = cpu_attn_unit_task(run, unit);
        CpuAttnTask task = cpu_attn_task(&run->plan, at);
        CpuAttnPart part = cpu_attn_part(run->slots, unit - run->unit_first, work.stride);
        if (unit == run->unit_start[at]) cpu_attn_part_clear(&work.total, task.n_rows, work.stride);
        run->level->merge(&task, work.stride, &work.total, &part);
        if (unit + 1 == run->unit_start[at + 1])
            run->level->finish(&task, work.stride, &work.total);
    }
}

static void cpu_attn_run_units(OpCtx *ctx, CpuAttnRun *run, OpsScratch *scratch) {
    int64_t n_slots = (int64_t)ops_threads(ctx) * CPU_ATTN_SLOTS_PER_THREAD;
    size_t part_bytes = cpu_attn_part_bytes(cpu_attn_stride(run->plan.args->kv.head_dim));
    run->slots = ops_scratch_take(scratch, (size_t)n_slots * part_bytes);
    int64_t n_units = run->unit_start[run->n_tasks];
    for (run->unit_first = 0; run->unit_first < n_units; run->unit_first += n_slots) {
        int64_t n = MIN(n_slots, n_units - run->unit_first);
        pool_run(ctx->pool, n, cpu_attn_run_unit, run);
        cpu_attn_merge_units(run, run->unit_first + n);
    }
}

/* Whether the whole call reads so little that a second thread would not pay. */
static bool cpu_attn_is_small(const CpuAttnRun *run) {
    const KvView *kv = &run->plan.args->kv;
    int64_t bytes = 0;
    for (int64_t i = 0; i < run->n_tasks && bytes < CPU_ROWS_BYTES_MIN; i++) {
        CpuAttnTask task = cpu_attn_task(&run->plan, i);
        int64_t keys = task.need.hi - task.need.lo;
        bytes += 2 * keys * kv->head_dim * (int64_t)sizeof(float) * MAX(1, task.n_rows / 4);
    }
    return bytes < CPU_ROWS_BYTES_MIN;
}

void cpu_attn_run(OpCtx *ctx, const AttnArgs *args, const CpuAttnLevel *level) {
    ops_check_attn(args);
    if (args->n_seqs == 0) return;
    OpsScratch scratch = ops_scratch_begin(ctx);
    CpuAttnRun run = {.level = level};
    cpu_attn_plan(ctx, args, &run.plan, &scratch);
    run.n_tasks = run.plan.task_start[args->n_seqs];
    if (ctx->pool == NULL || cpu_attn_is_small(&run)) {
        pool_run(NULL, run.n_tasks, cpu_attn_run_task, &run);
        return;
    }
    int64_t enough = (int64_t)ops_threads(ctx) * CPU_ATTN_TASKS_PER_THREAD;
    if (run.n_tasks >= enough) {
        pool_run(ctx->pool, run.n_tasks, cpu_attn_run_task, &run);
        return;
    }
    run.unit_start = ops_scratch_take(&scratch, ((size_t)enough + 1) * sizeof *run.unit_start);
    run.unit_start[0] = 0;
    for (int64_t i = 0; i < run.n_tasks; i++) {
        CpuAttnTask task = cpu_attn_task(&run.plan, i);
        run.unit_start[i + 1] = run.unit_start[i] + cpu_attn_split_count(&task);
    }
    cpu_attn_run_units(ctx, &run, &scratch);
}
