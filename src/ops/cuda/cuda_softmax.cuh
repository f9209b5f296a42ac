/* cuda_softmax: the online softmax of attention, in powers of two.
 *
 * Every rounding is an explicit intrinsic, so that all kernels that use these functions round alike.
 * A row's numbers depend on that row alone: four threads hold it (see cuda_mma.cuh), each with the
 * same columns in every kernel.
 * source: FlashAttention-2 2307.08691, section 3.1. */
#pragma once

#include <math.h>
#include <stdint.h>

static __device__ __forceinline__ float cuda_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* tanh by the exponential; the error is 2^-22 of 1. */
static __device__ __forceinline__ float cuda_tanh(float x) {
    float e = cuda_exp2(__fmul_rn(x, 2.885390082f));
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(__fadd_rn(e, 1.0f)));
    return __fmaf_rn(-2.0f, y, 1.0f);
}

/* Sums so far: m the largest exponent, l the sum of 2^(exponent - m). */
typedef struct SoftmaxState {
    float m, l;
} SoftmaxState;

static __device__ __forceinline__ SoftmaxState cuda_softmax_empty(void) {
    SoftmaxState state = {-INFINITY, 0.0f};
    return state;
}

/* Replaces the logits of a tile by their weights 2^(s * scale - m), with the new m. l holds the sum of
 * this thread's columns. decay: by what the sums over values so far are to be multiplied. Of the
 * thread's two rows the first n_rows are done, the same for all threads of the warp. */
template <int n>
static __device__ __forceinline__ void cuda_softmax_tile(float (&s)[n], float scale,
                                                         SoftmaxState (&row)[2], float (&decay)[2],
                                                         int32_t n_rows) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (h >= n_rows) break;
        float a = fmaxf(s[2 * h], s[2 * h + 1]), b = fmaxf(s[2 * h + 4], s[2 * h + 5]);
#pragma unroll
        for (int j = 8; j < n; j += 8) {
            a = fmaxf(a, fmaxf(s[j + 2 * h], s[j + 2 * h + 1]));
            b = fmaxf(b, fmaxf(s[j + 2 * h + 4], s[j + 2 * h + 5]));
        }
        a = fmaxf(a, b);
        a = fmaxf(a, __shfl_xor_sync(0xffffffff, a, 1));
        a = fmaxf(a, __shfl_xor_sync(0xffffffff, a, 2));
        float m = fmaxf(row[h].m, __fmul_rn(a, scale));
        float base = m == -INFINITY ? 0.0f : m; /* nothing seen yet: all weights are 0 */
        decay[h] = cuda_exp2(__fsub_rn(row[h].m, base));
        row[h].m = m;
        float even = 0, odd = 0;
#pragma unroll
        for (int j = 0; j < n; j += 4) {
            float p = cuda_exp2(__fmaf_rn(s[j + 2 * h], scale, -base));
            float r = cuda_exp2(__fmaf_rn(s[j + 2 * h + 1], scale, -base));
            s[j + 2 * h] = p;
            s[j + 2 * h + 1] = r;
            even = __fadd_rn(even, p);
            odd = __fadd_rn(odd, r);
        }
        row[h].l = __fmaf_rn(row[h].l, decay[h], __fadd_rn(even, odd));
    }
}

/* The sum over a row of what its four threads hold. */
static __device__ __forceinline__ float cuda_softmax_row_sum(float l) {
    l = __fadd_rn(l, __shfl_xor_sync(0xffffffff, l, 1));
    return __fadd_rn(l, __shfl_xor_sync(0xffffffff, l, 2));
}

/* Factors for the sums over values of two segments. */
typedef struct SoftmaxMerge {
    float total, part;
} SoftmaxMerge;

/* Adds a segment to a row's total. A segment without keys, whose sums are +0, leaves all bits as they
 * are: its factor is -0. */
static __device__ __forceinline__ SoftmaxMerge cuda_softmax_merge(SoftmaxState *total,
                                                                  SoftmaxState part) {
    bool is_empty = part.l == 0;
    float m = fmaxf(total->m, part.m);
    float a = cuda_exp2(__fsub_rn(total->m, m)), b = cuda_exp2(__fsub_rn(part.m, m));
    SoftmaxMerge by = {is_empty ? 1.0f : a, is_empty ? -0.0f : b};
    total->l = is_empty ? total->l : __fmaf_rn(total->l, a, __fmul_rn(part.l, b));
    total->m = m;
    return by;
}

static __device__ __forceinline__ float cuda_softmax_add(float total, float part, SoftmaxMerge by) {
    return __fmaf_rn(part, by.part, __fmul_rn(total, by.total));
}

/* The factor that makes the output of a row's sum over values. sink: one more logit, or NULL. */
static __device__ __forceinline__ float cuda_softmax_factor(SoftmaxState total, const float *sink) {
    float factor = 1.0f, l = total.l;
    if (sink != NULL) {
        float s = __fmul_rn(*sink, 1.4426950409f), m = fmaxf(total.m, s);
        factor = cuda_exp2(__fsub_rn(total.m, m));
        l = __fmaf_rn(l, factor, cuda_exp2(__fsub_rn(s, m)));
    }
    return l == 0 ? 0.0f : __fdiv_rn(factor, l);
}
