/* cpu_attn_priv: how an attention call is cut into tasks, and a thread's memory; the same at every
 * level.
 *
 * A task is a tile of up to CPU_ATTN_ROWS rows that read the same keys: a row is one query of one
 * head, and a tile holds the heads of one KV head for a run of queries of one sequence, so each key
 * and value is read once for all of them. */
#pragma once

#include "ops/ops_priv.h"

#define CPU_ATTN_INLINE static inline __attribute__((always_inline))

enum {
    CPU_ATTN_ROWS = 96,     /* rows of a tile: 16 blocks of the 6-row kernel */
    CPU_ATTN_KEYS = 64,     /* keys of a tile, at multiples of it; divides ATTN_SPLIT_TOKENS */
    CPU_ATTN_DIM_STEP = 64, /* elements of a vector that some level takes at a time */
};

typedef struct CpuAttnTask {
    const AttnArgs *args;
    const int32_t *block_id; /* of the sequence */
    int32_t kv_len, kv_head;
    int32_t token, pos;    /* of the first query */
    int32_t head, n_heads; /* heads of a query's rows: row r is query r / n_heads */
    int32_t n_rows;
    OpsRange need; /* the keys that some row sees */
} CpuAttnTask;

/* An unfinished softmax of a tile's rows: acc is the sum of e^(score - m) * v, l that of
 * e^(score - m). A row that saw no key has l = 0 and m = -inf. */
typedef struct CpuAttnPart {
    float *acc;   /* [CPU_ATTN_ROWS, stride] */
    float *m, *l; /* [CPU_ATTN_ROWS] */
} CpuAttnPart;

/* One thread's memory. stride is head_dim rounded up to CPU_ATTN_DIM_STEP. */
typedef struct CpuAttnWork {
    int64_t stride;
    float *q;      /* [CPU_ATTN_ROWS, head_dim], scaled; few rows, int8: in another order */
    float *keys;   /* [head_dim, CPU_ATTN_KEYS]: a tile of K, turned */
    float *values; /* [CPU_ATTN_KEYS, stride]: a tile of V */
    float *scores; /* [CPU_ATTN_ROWS, CPU_ATTN_KEYS] */
    float *alpha;  /* [CPU_ATTN_ROWS] */
    /* [CPU_ATTN_KEYS] of the present tile's vectors; NULL where they have no scales */
    float *key_scale, *value_scale;
    int32_t *lo, *hi; /* [CPU_ATTN_ROWS]: keys of the present tile that the row sees */
    CpuAttnPart total, part;
} CpuAttnWork;

/* The whole call: tasks are numbered sequence by sequence. */
typedef struct CpuAttnPlan {
    const AttnArgs *args;
    int32_t group; /* heads of a KV head */
    int32_t heads_per_tile, head_tiles, queries_per_tile;
    int64_t *task_start; /* [n_seqs + 1] */
    char *work;          /* [n_threads] of work_bytes */
    size_t work_bytes;
} CpuAttnPlan;

size_t cpu_attn_scratch_bytes(const OpsLimits *limits, int32_t n_threads);

/* Lays the plan out in the scratch. */
void cpu_attn_plan(const OpCtx *ctx, const AttnArgs *args, CpuAttnPlan *plan, OpsScratch *scratch);
CpuAttnTask cpu_attn_task(const CpuAttnPlan *plan, int64_t index);
CpuAttnWork cpu_attn_work(const CpuAttnPlan *plan, int32_t thread);
/* The part of slot `slot` in memory of cpu_attn_part_bytes each. */
CpuAttnPart cpu_attn_part(char *memory, int64_t slot, int64_t stride);
size_t cpu_attn_part_bytes(int64_t stride);

/* The elements of the tile's keys in kv.k and kv.v (-1: not needed), and those to prefetch: of the
 * next tile, behind the last of the next KV head's first. */
typedef struct CpuAttnTile {
    int64_t offset[CPU_ATTN_KEYS], next[CPU_ATTN_KEYS];
    int32_t asked; /* of next */
} CpuAttnTile;

/* Of an element. */
CPU_ATTN_INLINE int64_t cpu_attn_bytes(DType dtype) {
    if (dtype == DTYPE_F32) return 4;
    return dtype == DTYPE_I8 ? 1 : 2;
}

/* The lines of n elements. To L2: of a tile and the next, not both fit L1 everywhere. */
CPU_ATTN_INLINE void cpu_attn_prefetch(DType dtype, const void *data, int64_t at, int64_t n) {
    const int64_t bytes = cpu_attn_bytes(dtype);
    for (int64_t i = 0; i < n * bytes; i += CACHE_LINE)
        __builtin_prefetch((const char *)data + at * bytes + i, 0, 2);
}

/* Asks for the next tile's keys and values up to row `to`. */
CPU_ATTN_INLINE void cpu_attn_ask(DType dtype, const KvView *kv, CpuAttnTile *tile, int64_t to) {
    for (; tile->asked < to; tile->asked++) {
        cpu_attn_prefetch(dtype, kv->k, tile->next[tile->asked], kv->head_dim);
        cpu_attn_prefetch(dtype, kv->v, tile->next[tile->asked], kv->head_dim);
    }
}

/* Of keys first .. first + CPU_ATTN_KEYS - 1. */
void cpu_attn_tile_places(const CpuAttnTask *task, int32_t first, CpuAttnTile *tile);

/* The scales of the keys from first on and of their values (0: not needed), where there are any. */
void cpu_attn_scales(const CpuAttnTask *task, int32_t first, const CpuAttnWork *work);

/* What a level brings: one partial softmax over the keys of `split` into part (after `load`), the
 * merge of the next part into total, and the end: sinks, division, the write to args->out. */
typedef struct CpuAttnLevel {
    void (*load)(const CpuAttnTask *task, const CpuAttnWork *work);
    void (*split)(const CpuAttnTask *task, const CpuAttnWork *work, int32_t split,
                  const CpuAttnPart *part);
    void (*merge)(const CpuAttnTask *task, int64_t stride, const CpuAttnPart *total,
                  const CpuAttnPart *part);
    void (*finish)(const CpuAttnTask *task, int64_t stride, const CpuAttnPart *total);
} CpuAttnLevel;

/* Integer products, for int8 keys and values of up to so many elements. */
enum { CPU_ATTN_I8_DIM_MAX = 512 };
extern const CpuAttnLevel CPU_ATTN_I8_AVX512;

/* Runs the call over the pool. */
void cpu_attn_run(OpCtx *ctx, const AttnArgs *args, const CpuAttnLevel *level);
