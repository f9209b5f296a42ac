/* cuda_attn_out: what comes of a walk over tiles: merged segments, partial results, output rows. */
#pragma once

#include "ops/cuda/cuda_attn_work.cuh"
#include "ops/cuda/cuda_mask.cuh"
#include "ops/cuda/cuda_softmax.cuh"

#include <cuda_bf16.h>

enum { ATTN_BAR_ROWS = 1, ATTN_BAR_TURN = 3 }; /* named barriers of the first warpgroup */

/* A thread's place: two rows, eight apart, and a quarter of the columns. */
typedef struct AttnLane {
    int32_t wg, thread; /* of the warpgroup */
    int32_t row[2];     /* of the item */
    int32_t column;
    MaskRange seen[2];
    MaskRange all;  /* keys that every row of the warpgroup sees */
    int32_t n_rows; /* how many of a thread's two rows any thread of the warp has */
} AttnLane;

/* Whose row `row` of the item is. */
typedef struct AttnRowOf {
    int32_t token, head;
} AttnRowOf;

template <typename Shape>
static __device__ __forceinline__ AttnRowOf attn_row_of(const AttnParams *p, const AttnItem *item,
                                                        int32_t row) {
    int32_t r = item->row + row, token = Shape::ROPE ? 0 : r / p->group;
    return AttnRowOf{item->query + token, item->kv_head * p->group + r - token * p->group};
}

/* Where a row starts in q (or, with its stride, in out). */
static __device__ __forceinline__ int64_t attn_row_offset(const AttnParams *p, AttnRowOf row,
                                                          int64_t stride) {
    return row.token * stride + (int64_t)row.head * p->head_dim;
}

/* The total of a thread's columns 8 i and on of its two rows. In the split form it is of
 * CUDA_ATTN_FEW_ROWS, those of the first warp, and stands in rows of the queries' tile that no
 * query has. */
template <typename Shape>
static __device__ __forceinline__ float4 *attn_total(const AttnSmem *smem, const AttnLane *lane,
                                                     int32_t i) {
    if constexpr (!Shape::SPLIT)
        return smem->total + (lane->wg * (Shape::DIMS / 8) + i) * 128 + lane->thread;
    uint32_t block = smem->q + i / 8 * (CUDA_ATTN_ROWS * 128);
    return (float4 *)__cvta_shared_to_generic(block + 48 * 128 + i % 8 * 256 + lane->thread * 8);
}

/* Adds the segment in o to the total in shared memory, or, at the end, to o. */
template <typename Shape>
static __device__ __forceinline__ void attn_merge(const AttnSmem *smem, const AttnLane *lane,
                                                  const SoftmaxState (&part)[2],
                                                  SoftmaxState (&total)[2], bool first, bool end,
                                                  float (&o)[Shape::DIMS / 2]) {
    if (Shape::SPLIT && !(first && end) && lane->thread >= 32) return;
    SoftmaxMerge by[2];
#pragma unroll
    for (int h = 0; h < Shape::HALVES; h++) {
        SoftmaxState row = {part[h].m, cuda_softmax_row_sum(part[h].l)};
        by[h] = cuda_softmax_merge(&total[h], row);
    }
#pragma unroll
    for (int i = 0; i < Shape::DIMS / 8; i++) {
        float4 *at = attn_total<Shape>(smem, lane, i), t = make_float4(0, 0, 0, 0);
        if (!first && Shape::SPLIT) t.x = ((float2 *)at)->x, t.y = ((float2 *)at)->y;
        if (!first && !Shape::SPLIT) t = *at;
        t.x = cuda_softmax_add(t.x, o[4 * i], by[0]);
        t.y = cuda_softmax_add(t.y, o[4 * i + 1], by[0]);
        if (Shape::HALVES == 2) {
            t.z = cuda_softmax_add(t.z, o[4 * i + 2], by[1]);
            t.w = cuda_softmax_add(t.w, o[4 * i + 3], by[1]);
        }
        if (!end && Shape::SPLIT)
            *(float2 *)at = make_float2(t.x, t.y);
        else if (!end)
            *at = t;
        else
            o[4 * i] = t.x, o[4 * i + 1] = t.y, o[4 * i + 2] = t.z, o[4 * i + 3] = t.w;
    }
}

static __device__ __forceinline__ void attn_store2(const AttnParams *p, int64_t at, float x,
                                                   float y) {
    if (p->out_f32)
        *(float2 *)((float *)p->out + at) = make_float2(x, y);
    else
        *(__nv_bfloat162 *)((__nv_bfloat16 *)p->out + at) = __floats2bfloat162_rn(x, y);
}

/* Four values of each of a quad's threads, value j meant for thread j: their exchange. */
static __device__ __forceinline__ void attn_exchange(uint32_t (&u)[4]) {
    bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        uint32_t got = __shfl_xor_sync(0xffffffff, odd ? u[j] : u[j + 1], 1);
        if (odd)
            u[j] = got;
        else
            u[j + 1] = got;
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint32_t got = __shfl_xor_sync(0xffffffff, high ? u[j] : u[j + 2], 2);
        if (high)
            u[j] = got;
        else
            u[j + 2] = got;
    }
}

template <typename Shape>
static __device__ __forceinline__ void attn_write(const AttnParams *p, const AttnItem *item,
                                                  const AttnLane *lane,
                                                  const SoftmaxState (&total)[2],
                                                  const float (&o)[Shape::DIMS / 2]) {
#pragma unroll
    for (int h = 0; h < Shape::HALVES; h++) {
        if (h >= lane->n_rows) break;
        int32_t row = min(lane->row[h], item->n_rows - 1); /* all threads take part in exchanges */
        bool is_there = row == lane->row[h];
        AttnRowOf of = attn_row_of<Shape>(p, item, row);
        int64_t at = attn_row_offset(p, of, p->out_stride);
        float by = cuda_softmax_factor(total[h], p->sinks == NULL ? NULL : p->sinks + of.head);
        if (__builtin_expect(p->out_f32, 0)) {
#pragma unroll
            for (int i = 0; i < Shape::DIMS / 8; i++) {
                int32_t column = i * 8 + lane->column;
                if (is_there && column < p->head_dim)
                    attn_store2(p, at + column, __fmul_rn(o[4 * i + 2 * h], by),
                                __fmul_rn(o[4 * i + 2 * h + 1], by));
            }
            continue;
        }
#pragma unroll
        for (int i = 0; i < Shape::DIMS / 8; i += 4) {
            uint32_t u[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float *pair = o + 4 * (i + j) + 2 * h;
                __nv_bfloat162 b =
                    __floats2bfloat162_rn(__fmul_rn(pair[0], by), __fmul_rn(pair[1], by));
                u[j] = *(uint32_t *)&b;
            }
            attn_exchange(u);
            int32_t column = i * 8 + lane->column * 4; /* now eight of them */
            if (is_there && column < p->head_dim)
                *(uint4 *)((__nv_bfloat16 *)p->out + at + column) =
                    make_uint4(u[0], u[1], u[2], u[3]);
        }
    }
}

/* Leaves the segment of a tile of the item, which is in o, as a partial result. */
template <typename Shape>
static __device__ __forceinline__ void attn_write_partial(const AttnParams *p, const AttnItem *item,
                                                          const AttnLane *lane, int32_t tile,
                                                          const SoftmaxState (&part)[2],
                                                          const float (&o)[Shape::DIMS / 2]) {
    constexpr AttnCuts cuts = attn_cuts(Shape::DIMS);
    int32_t segment =
        item->segment + attn_segment_of(tile, cuts) - attn_segment_of(item->tile_lo, cuts);
    int64_t first =
        item->partial + (int64_t)(segment * p->n_kv_heads + item->kv_head) * item->n_rows;
#pragma unroll
    for (int h = 0; h < Shape::HALVES; h++) {
        float l = cuda_softmax_row_sum(part[h].l);
        if (lane->row[h] >= item->n_rows) continue;
        int64_t row = first + lane->row[h];
        if (lane->column == 0) __stcg(p->partial_ml + row, make_float2(part[h].m, l));
        float *to = p->partial_o + row * Shape::DIMS + lane->column;
#pragma unroll
        for (int i = 0; i < Shape::DIMS / 8; i++)
            __stcg((float2 *)(to + i * 8), make_float2(o[4 * i + 2 * h], o[4 * i + 2 * h + 1]));
    }
}

/* Whether this CTA finished the row tile's last segment; then all partial results can be read. */
static __device__ __forceinline__ bool attn_is_last(const AttnParams *p, const AttnItem *item,
                                                    const AttnLane *lane, uint32_t *last) {
    cuda_bar_sync(ATTN_BAR_ROWS, 128);
    if (lane->thread == 0) { /* releases what all threads wrote, and acquires */
        uint32_t *count = p->partial_count + item->partial + item->kv_head, before;
        asm volatile("atom.inc.acq_rel.gpu.global.u32 %0, [%1], %2;"
                     : "=r"(before)
                     : "l"(count), "r"(item->n_items - 1)
                     : "memory");
        *last = before == (uint32_t)item->n_items - 1;
    }
    cuda_bar_sync(ATTN_BAR_ROWS, 128);
    return *last != 0;
}

/* A thread's columns of some segments' partial results. */
typedef struct AttnParts {
    float2 ml[8];
    float4 o[8];
} AttnParts;

/* Fetches those from segment s on; behind the last come segments without keys. */
template <typename Shape>
static __device__ __forceinline__ AttnParts attn_parts(const AttnParams *p, const AttnItem *item,
                                                       uint32_t row, int32_t s, int32_t column) {
    AttnParts parts;
    uint32_t step = p->n_kv_heads * item->n_rows;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t at = row + (s + i) * step;
        parts.ml[i] = make_float2(-INFINITY, 0);
        parts.o[i] = make_float4(0, 0, 0, 0);
        if (s + i >= item->n_segments) continue;
        parts.ml[i] = __ldcg(p->partial_ml + at);
        parts.o[i] = __ldcg((const float4 *)(p->partial_o + (at * Shape::DIMS + column)));
    }
    return parts;
}

/* Merges the partial results of a row tile, four columns a thread; the next eight are on their way. */
template <typename Shape>
static __device__ __forceinline__ void attn_combine(const AttnParams *p, const AttnItem *item,
                                                    const AttnLane *lane) {
    constexpr int THREADS = Shape::DIMS / 4;
    int32_t column = lane->thread % THREADS * 4;
    for (int32_t r = lane->thread / THREADS; r < item->n_rows; r += 128 / THREADS) {
        uint32_t row = item->partial + item->kv_head * item->n_rows + r;
        SoftmaxState total = cuda_softmax_empty();
        float4 t = make_float4(0, 0, 0, 0);
        AttnParts next = attn_parts<Shape>(p, item, row, 0, column);
        for (int32_t s = 0; s < item->n_segments; s += 8) {
            const AttnParts now = next;
            if (s + 8 < item->n_segments) next = attn_parts<Shape>(p, item, row, s + 8, column);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (i == 4 && s + i >= item->n_segments) break;
                SoftmaxState part = {now.ml[i].x, now.ml[i].y};
                SoftmaxMerge by = cuda_softmax_merge(&total, part);
                t.x = cuda_softmax_add(t.x, now.o[i].x, by);
                t.y = cuda_softmax_add(t.y, now.o[i].y, by);
                t.z = cuda_softmax_add(t.z, now.o[i].z, by);
                t.w = cuda_softmax_add(t.w, now.o[i].w, by);
            }
        }
        if (column >= p->head_dim) continue;
        AttnRowOf of = attn_row_of<Shape>(p, item, r);
        float by = cuda_softmax_factor(total, p->sinks == NULL ? NULL : p->sinks + of.head);
        int64_t at = attn_row_offset(p, of, p->out_stride) + column;
        attn_store2(p, at, __fmul_rn(t.x, by), __fmul_rn(t.y, by));
        attn_store2(p, at + 2, __fmul_rn(t.z, by), __fmul_rn(t.w, by));
    }
}
