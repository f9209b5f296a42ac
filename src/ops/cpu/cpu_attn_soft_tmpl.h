/* cpu_attn_soft_tmpl: what attention does with scores, whatever makes them: masks, the online
 * softmax, merging of parts, the end; include after a cpu_vec_*.h. */
#pragma once

#include <math.h>

#include "ops/cpu/cpu_attn_priv.h"
#include "ops/cpu/cpu_math_tmpl.h"

/* Which keys of the tile at `first` each row sees. */
static void cpu_attn_ranges(const CpuAttnTask *task, const CpuAttnWork *work, int32_t first) {
    for (int32_t r = 0; r < task->n_rows; r++) {
        if (r % task->n_heads != 0) {
            work->lo[r] = work->lo[r - 1], work->hi[r] = work->hi[r - 1];
            continue;
        }
        OpsRange range = ops_attn_range(task->args, task->pos + r / task->n_heads, task->kv_len);
        work->lo[r] = MAX(range.lo - first, 0);
        work->hi[r] = MIN(range.hi - first, (int32_t)CPU_ATTN_KEYS);
    }
}

static bool cpu_attn_sees(const CpuAttnWork *work, int32_t r) {
    return work->lo[r] < work->hi[r];
}

/* Scales, caps and masks a row's scores in place; returns the largest. */
static float cpu_attn_mask_row(const AttnArgs *args, const float *key_scale, float *scores,
                               int64_t lo, int64_t hi) {
    Vec largest = vec_set1(-INFINITY), cap = vec_set1(args->softcap);
    Vec inverse = vec_set1(args->softcap > 0 ? 1.0f / args->softcap : 0);
    for (int64_t i = lo / VEC_LANES * VEC_LANES; i < hi; i += VEC_LANES) {
        Vec s = vec_load(scores + i);
        if (key_scale != NULL) s = vec_mul(s, vec_load(key_scale + i));
        if (args->softcap > 0) s = vec_softcap(s, cap, inverse);
        if (i < lo || i + VEC_LANES > hi)
            s = vec_keep_range(s, MAX(lo - i, (int64_t)0), MIN(hi - i, (int64_t)VEC_LANES),
                               vec_set1(-INFINITY));
        vec_store(scores + i, s);
        largest = vec_max(largest, s);
    }
    return vec_largest(largest);
}

/* -inf means that nothing was seen; as the base of exponents it would give NaN. */
static float cpu_attn_base(float m) {
    return m == -INFINITY ? 0 : m;
}

/* The tile's scores scaled, capped and masked; the rows' largest so far in m and as `base` of the
 * exponents; in alpha what the rows' acc is to be scaled by (1 where a row sees nothing). */
static void cpu_attn_softmax_begin(const CpuAttnTask *task, const CpuAttnWork *work,
                                   const CpuAttnPart *part, float base[CPU_ATTN_ROWS]) {
    for (int32_t r = 0; r < task->n_rows; r++) {
        work->alpha[r] = 0;
        base[r] = 0;
        if (!cpu_attn_sees(work, r)) continue;
        float *scores = work->scores + r * CPU_ATTN_KEYS;
        float largest =
            cpu_attn_mask_row(task->args, work->key_scale, scores, work->lo[r], work->hi[r]);
        float m = part->m[r] > largest ? part->m[r] : largest;
        base[r] = cpu_attn_base(m);
        work->alpha[r] = part->m[r] - base[r];
        part->m[r] = m;
    }
    for (int32_t r = 0; r < task->n_rows; r += VEC_LANES) {
        int64_t n = MIN(task->n_rows - r, (int32_t)VEC_LANES);
        vec_store_n(work->alpha + r, vec_exp(vec_load_n(work->alpha + r, n)), n);
    }
}

/* Nothing seen yet. */
static void cpu_attn_clear(const CpuAttnTask *task, const CpuAttnWork *work,
                           const CpuAttnPart *part) {
    for (int32_t r = 0; r < task->n_rows; r++) {
        part->m[r] = -INFINITY;
        part->l[r] = 0;
        for (int64_t i = 0; i < work->stride; i += VEC_LANES)
            vec_store(part->acc + r * work->stride + i, vec_zero());
    }
}

/* The keys of the split that some row sees: the first of each tile of them, from lo to below hi. */
static OpsRange cpu_attn_split_tiles(const CpuAttnTask *task, int32_t split) {
    int32_t lo = MAX(task->need.lo, split * ATTN_SPLIT_TOKENS);
    int32_t hi = MIN(task->need.hi, (split + 1) * ATTN_SPLIT_TOKENS);
    return (OpsRange){lo / CPU_ATTN_KEYS * CPU_ATTN_KEYS, hi};
}

/* e^x of one number, by the same polynomial. */
static float cpu_attn_exp(float x) {
    float out;
    vec_store_n(&out, vec_exp(vec_set1(x)), 1);
    return out;
}

static void cpu_attn_merge(const CpuAttnTask *task, int64_t stride, const CpuAttnPart *total,
                           const CpuAttnPart *part) {
    for (int32_t r = 0; r < task->n_rows; r++) {
        float *to = total->acc + r * stride;
        const float *from = part->acc + r * stride;
        if (part->l[r] == 0) continue; /* nothing seen */
        float old = 0, new = 1, m = part->m[r];
        if (total->l[r] != 0) {
            m = MAX(total->m[r], part->m[r]);
            old = cpu_attn_exp(total->m[r] - m);
            new = cpu_attn_exp(part->m[r] - m);
            total->l[r] = total->l[r] * old + part->l[r] * new;
        } else {
            total->l[r] = part->l[r];
        }
        bool first = old == 0 && new == 1;
        for (int64_t i = 0; i < stride; i += VEC_LANES) {
            Vec v = vec_load(from + i);
            if (!first) {
                v = vec_mul(v, vec_set1(new));
                v = vec_fma(vec_load(to + i), vec_set1(old), v);
            }
            vec_store(to + i, v);
        }
        total->m[r] = m;
    }
}

static void cpu_attn_finish(const CpuAttnTask *task, int64_t stride, const CpuAttnPart *total) {
    int64_t dim = task->args->kv.head_dim;
    for (int32_t r = 0; r < task->n_rows; r++) {
        int64_t head = task->head + r % task->n_heads;
        float *out = ops_row(&task->args->out, task->token + r / task->n_heads) + head * dim;
        float factor = 1, l = total->l[r];
        if (task->args->sinks != NULL) {
            float sink = task->args->sinks[head], m = MAX(total->m[r], sink);
            factor = cpu_attn_exp(total->m[r] - m);
            l = l * factor + cpu_attn_exp(sink - m);
        }
        Vec inverse = vec_set1(factor / l);
        for (int64_t i = 0; i < dim; i += VEC_LANES) {
            int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
            Vec v = vec_mul(vec_load(total->acc + r * stride + i), inverse);
            /* Adding 0 makes a zero positive: its sign depends on what was merged. */
            vec_store_n(out + i, vec_add(v, vec_zero()), n);
        }
    }
}
