/* cpu_attn_tmpl: tiled attention with an online softmax over a split of the keys.
 *
 * A tile is up to 96 rows (queries x heads of a KV head) by 64 keys, at multiples of 64 positions.
 * Its keys are turned into [head_dim][64] f32 and its values copied to f32 once for all rows; both
 * products run through one kernel of 6 rows by 4 vectors (AVX-512) or 2 (AVX2) of accumulators.
 *
 * Same bits: a score is one chain of FMAs over head_dim; a row's sums run over its own visible keys
 * in ascending order, tile by tile; the bounds of tiles and splits are absolute positions. A masked
 * key is left out of the value sum, not multiplied by zero, so that whatever stands there (a later
 * token's NaN) cannot be seen.
 *
 * bounds  prefill: FMA; AVX-512 45 % of the f32 peak for 512 tokens, 55-65 % for a chunk of 256
 *         behind 1,792 tokens (Sapphire Rapids), 70-82 % for 1,024 (Zen 4), the rest is mostly the
 *         exponentials. decode: memory and arithmetic together, docs/kernels.md has the shares.
 * lost    tiles of 48 rows (-6 points; 192 gave +1 for twice the memory); blocks of rows across the
 *         diagonal (no gain); two tiles ahead (no gain); quarters merged by masked loads in
 *         assembly (no gain over what gcc makes of the intrinsics); values of a tile fetched with
 *         its keys (-35 %).
 *
 * source: FlashAttention 2205.14135 (online softmax), Flash-Decoding (split keys). */
#include <math.h>

#include "ops/cpu/cpu_attn_soft_tmpl.h"
#include "ops/cpu/cpu_attn_tile_tmpl.h"
#include "ops/cpu/cpu_ops.h"

CPU_ATTN_INLINE void cpu_attn_copy_values(DType dtype, const KvView *kv, CpuAttnTile *tile,
                                          float *values, int64_t stride) {
    const int64_t dim = kv->head_dim;
    for (int64_t j = 0; j < CPU_ATTN_KEYS; j++) {
        cpu_attn_ask_value(dtype, kv, tile, j);
        if (tile->offset[j] < 0) continue;
        for (int64_t i = 0; i < dim; i += VEC_LANES) {
            int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
            vec_store(values + j * stride + i, vec_load_kv_n(dtype, kv->v, tile->offset[j] + i, n));
        }
    }
}

static void cpu_attn_load_values(const KvView *kv, CpuAttnTile *tile, float *values,
                                 int64_t stride) {
    if (kv->dtype == DTYPE_F16)
        cpu_attn_copy_values(DTYPE_F16, kv, tile, values, stride);
    else if (kv->dtype == DTYPE_BF16)
        cpu_attn_copy_values(DTYPE_BF16, kv, tile, values, stride);
    else if (kv->dtype == DTYPE_I8)
        cpu_attn_copy_values(DTYPE_I8, kv, tile, values, stride);
    else
        cpu_attn_copy_values(DTYPE_F32, kv, tile, values, stride);
}

/* scores = q . keys for vectors v0 .. v1 - 1 of the tile's keys. */
static void cpu_attn_scores(const CpuAttnTask *task, const CpuAttnWork *work, int64_t v0,
                            int64_t v1) {
    int64_t dim = task->args->kv.head_dim;
    for (int32_t r = 0; r < task->n_rows; r += CPU_ATTN_BLOCK_ROWS) {
        int32_t n = MIN(task->n_rows - r, (int32_t)CPU_ATTN_BLOCK_ROWS);
        bool any = false;
        for (int32_t i = r; i < r + n; i++) any |= cpu_attn_sees(work, i);
        if (!any) continue;
        CpuAttnProduct p = {.a = work->q + r * dim,
                            .a_stride = dim,
                            .b = work->keys + v0 * VEC_LANES,
                            .b_stride = CPU_ATTN_KEYS,
                            .c = work->scores + r * CPU_ATTN_KEYS + v0 * VEC_LANES,
                            .c_stride = CPU_ATTN_KEYS,
                            .k = dim};
        cpu_attn_multiply(&p, n, v1 - v0);
    }
}

/* scores = e^(scores - m), times the scale of the value; returns the sum without scales. Masked
 * lanes add 0. */
static float cpu_attn_exp_row(float *scores, const float *value_scale, int64_t lo, int64_t hi,
                              float m) {
    Vec sum = vec_zero(), base = vec_set1(m);
    for (int64_t i = lo / VEC_LANES * VEC_LANES; i < hi; i += VEC_LANES) {
        Vec e = vec_exp(vec_sub(vec_load(scores + i), base));
        sum = vec_add(sum, e);
        if (value_scale != NULL) e = vec_mul(e, vec_load(value_scale + i));
        vec_store(scores + i, e);
    }
    return vec_sum(sum);
}

/* Turns the tile's scores into weights, takes their sums into l, and leaves in alpha what the rows'
 * acc is to be scaled by. */
static void cpu_attn_softmax(const CpuAttnTask *task, const CpuAttnWork *work,
                             const CpuAttnPart *part) {
    float base[CPU_ATTN_ROWS];
    cpu_attn_softmax_begin(task, work, part, base);
    for (int32_t r = 0; r < task->n_rows; r++) {
        if (!cpu_attn_sees(work, r)) continue;
        float *scores = work->scores + r * CPU_ATTN_KEYS;
        float sum = cpu_attn_exp_row(scores, work->value_scale, work->lo[r], work->hi[r], base[r]);
        part->l[r] = part->l[r] * work->alpha[r] + sum;
    }
}

/* acc = alpha * acc + weights . values, for runs of rows that see the same keys. Values that one
 * block of rows reads come straight from the cache, others from their copy in f32. */
static void cpu_attn_sum_values(const CpuAttnTask *task, const CpuAttnWork *work, CpuAttnTile *tile,
                                const CpuAttnPart *part) {
    const KvView *kv = &task->args->kv;
    bool direct = task->n_rows <= CPU_ATTN_DIRECT_ROWS && kv->head_dim % VEC_LANES == 0;
    if (!direct) cpu_attn_load_values(kv, tile, work->values, work->stride);
    const int32_t most = direct ? CPU_ATTN_DIRECT_ROWS : CPU_ATTN_BLOCK_ROWS;
    for (int32_t r = 0, n; r < task->n_rows; r += n) {
        n = 1;
        if (!cpu_attn_sees(work, r)) continue;
        int32_t lo = work->lo[r], hi = work->hi[r];
        while (n < most && r + n < task->n_rows && work->lo[r + n] == lo && work->hi[r + n] == hi)
            n++;
        CpuAttnProduct p = {.a = work->scores + r * CPU_ATTN_KEYS + lo,
                            .a_stride = CPU_ATTN_KEYS,
                            .b = direct ? kv->v : (const void *)(work->values + lo * work->stride),
                            .b_stride = work->stride,
                            .b_dtype = kv->dtype,
                            .offset = direct ? tile->offset + lo : NULL,
                            .kv = kv,
                            .tile = tile,
                            .scale = work->alpha + r,
                            .c = part->acc + r * work->stride,
                            .c_stride = work->stride,
                            .k = hi - lo};
        cpu_attn_multiply(&p, n, DIV_UP(kv->head_dim, (int32_t)VEC_LANES));
    }
}

static void cpu_attn_tile(const CpuAttnTask *task, const CpuAttnWork *work, int32_t first,
                          const CpuAttnPart *part) {
    CpuAttnTile tile;
    cpu_attn_tile_places(task, first, &tile);
    int32_t lo = MAX(task->need.lo - first, 0);
    int32_t hi = MIN(task->need.hi - first, (int32_t)CPU_ATTN_KEYS);
    int64_t v0 = lo / (2 * VEC_LANES) * 2, v1 = DIV_UP(hi, 2 * VEC_LANES) * 2;
    cpu_attn_ranges(task, work, first);
    cpu_attn_scales(task, first, work);
    if (task->n_rows <= CPU_ATTN_DIRECT_ROWS) {
        cpu_attn_direct_scores(task, work, &tile, v0, v1);
    } else {
        cpu_attn_load_keys(task, work, &tile, v0, v1);
        cpu_attn_scores(task, work, v0, v1);
    }
    cpu_attn_softmax(task, work, part);
    cpu_attn_sum_values(task, work, &tile, part);
}

static void cpu_attn_split(const CpuAttnTask *task, const CpuAttnWork *work, int32_t split,
                           const CpuAttnPart *part) {
    cpu_attn_clear(task, work, part);
    OpsRange tiles = cpu_attn_split_tiles(task, split);
    for (int32_t first = tiles.lo; first < tiles.hi; first += CPU_ATTN_KEYS)
        cpu_attn_tile(task, work, first, part);
}

static void cpu_attn_load_queries(const CpuAttnTask *task, const CpuAttnWork *work) {
    int64_t dim = task->args->kv.head_dim;
    Vec scale = vec_set1(task->args->scale);
    for (int32_t r = 0; r < task->n_rows; r++) {
        const float *q = ops_row(&task->args->q, task->token + r / task->n_heads) +
                         (task->head + r % task->n_heads) * dim;
        if (task->n_rows <= CPU_ATTN_DIRECT_ROWS) {
            for (int64_t i = 0; i < dim; i++)
                work->q[i * CPU_ATTN_DIRECT_ROWS + r] = q[i] * task->args->scale;
            continue;
        }
        for (int64_t i = 0; i < dim; i += VEC_LANES) {
            int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
            vec_store_n(work->q + r * dim + i, vec_mul(vec_load_n(q + i, n), scale), n);
        }
    }
}

static const CpuAttnLevel CPU_ATTN_LEVEL = {cpu_attn_load_queries, cpu_attn_split, cpu_attn_merge,
                                            cpu_attn_finish};
