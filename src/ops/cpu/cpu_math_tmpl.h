/* cpu_math_tmpl: exp, tanh and the activations on a vector; include after a cpu_vec_*.h.
 *
 * Polynomials fitted by weighted least squares to the smallest relative error (Lawson's iteration)
 * in f64, then rounded; nothing depends on the C library. NaN gives NaN. Errors measured against
 * f64 by tests/ops/test_act.c. */
#pragma once

#include <math.h>

#include "ops/ops.h"

/* e^x: 1.1 ulp; inf above 88.72, subnormal below -87.33, 0 below -104. */
static inline Vec vec_exp(Vec x) {
    x = vec_min(vec_set1(89.0f), vec_max(vec_set1(-105.0f), x));
    Vec n = vec_round(vec_mul(x, vec_set1(0x1.715476p+0f)));
    /* ln 2 in two parts, the first with room for n's bits. */
    Vec r = vec_fnma(n, vec_set1(0x1.62e4p-1f), x);
    r = vec_fnma(n, vec_set1(0x1.7f7d1cp-20f), r);
    Vec q = vec_set1(0x1.6a2430p-10f);
    q = vec_fma(q, r, vec_set1(0x1.1239e4p-7f));
    q = vec_fma(q, r, vec_set1(0x1.5558f2p-5f));
    q = vec_fma(q, r, vec_set1(0x1.555492p-3f));
    q = vec_fma(q, r, vec_set1(0x1.fffffcp-2f));
    Vec e = vec_add(vec_fma(vec_mul(r, r), q, r), vec_set1(1.0f));
    return vec_scale2(e, n);
}

/* tanh x: 2 ulp; a polynomial near 0, where 1 - 2 / (e^2x + 1) would cancel. */
static inline Vec vec_tanh(Vec x) {
    Vec a = vec_abs(x), square = vec_mul(x, x);
    Vec p = vec_set1(-0x1.76abf6p-8f);
    p = vec_fma(p, square, vec_set1(0x1.5256cep-6f));
    p = vec_fma(p, square, vec_set1(-0x1.b84448p-5f));
    p = vec_fma(p, square, vec_set1(0x1.110768p-3f));
    p = vec_fma(p, square, vec_set1(-0x1.555534p-2f));
    Vec near = vec_fma(vec_mul(square, a), p, a);
    Vec e = vec_add(vec_exp(vec_add(a, a)), vec_set1(1.0f));
    Vec far = vec_sub(vec_set1(1.0f), vec_div(vec_set1(2.0f), e));
    return vec_copysign(vec_select_less(a, vec_set1(0.625f), near, far), x);
}

/* x / (1 + e^-y) */
static inline Vec vec_times_logistic(Vec x, Vec y) {
    Vec e = vec_exp(vec_sub(vec_zero(), y));
    return vec_div(x, vec_add(vec_set1(1.0f), e));
}

static inline Vec vec_silu(Vec x) {
    return vec_times_logistic(x, x);
}

/* x/2 * (1 + tanh u) = x / (1 + e^-2u), which does not cancel for negative x. */
static inline Vec vec_gelu_tanh(Vec x) {
    Vec cube = vec_mul(vec_mul(x, x), x);
    Vec inner = vec_fma(cube, vec_set1(0.044715f), x);
    return vec_times_logistic(x, vec_mul(inner, vec_set1(1.5957691216f))); /* 2 sqrt(2/pi) */
}

/* x/2 * erfc(-x / sqrt 2), with erfc(z) = e^(-z^2) * t * P(t), t = 1 / (1 + 0.4 z), for z in
 * [0, 10.2] (beyond, e^(-z^2) is 0): relative error of P 7e-8. */
static inline Vec vec_gelu(Vec x) {
    Vec z = vec_mul(vec_abs(x), vec_set1(0.70710678f));
    Vec t = vec_div(vec_set1(1.0f), vec_fma(z, vec_set1(0.4f), vec_set1(1.0f)));
    Vec p = vec_set1(0x1.54e490p-5f);
    p = vec_fma(p, t, vec_set1(-0x1.22fbccp-3f));
    p = vec_fma(p, t, vec_set1(0x1.670b64p-4f));
    p = vec_fma(p, t, vec_set1(0x1.56f806p-4f));
    p = vec_fma(p, t, vec_set1(0x1.52c0d0p-4f));
    p = vec_fma(p, t, vec_set1(0x1.897a3cp-3f));
    p = vec_fma(p, t, vec_set1(0x1.9e225ap-3f));
    p = vec_fma(p, t, vec_set1(0x1.cfa93ep-3f));
    p = vec_fma(p, t, vec_set1(0x1.ce1ac0p-3f));
    Vec half_x = vec_mul(x, vec_set1(0.5f));
    Vec tail = vec_mul(vec_exp(vec_mul(half_x, vec_sub(vec_zero(), x))), vec_mul(t, p));
    Vec both = vec_select_less(x, vec_zero(), tail, vec_sub(vec_set1(2.0f), tail));
    return vec_mul(half_x, both);
}

static inline Vec vec_relu(Vec x) {
    return vec_max(vec_zero(), x);
}

/* cap * tanh(x / cap) */
static inline Vec vec_softcap(Vec x, Vec cap, Vec inverse) {
    return vec_mul(cap, vec_tanh(vec_mul(x, inverse)));
}

/* sum of x[i]^2 over n elements: four chains of vectors, then a fixed tree. */
static inline float vec_sum_squares(const float *x, int64_t n) {
    Vec s0 = vec_zero(), s1 = vec_zero(), s2 = vec_zero(), s3 = vec_zero();
    int64_t i = 0;
    for (; i + 4 * VEC_LANES <= n; i += 4 * VEC_LANES) {
        Vec x0 = vec_load(x + i), x1 = vec_load(x + i + VEC_LANES);
        Vec x2 = vec_load(x + i + 2 * VEC_LANES), x3 = vec_load(x + i + 3 * VEC_LANES);
        s0 = vec_fma(x0, x0, s0);
        s1 = vec_fma(x1, x1, s1);
        s2 = vec_fma(x2, x2, s2);
        s3 = vec_fma(x3, x3, s3);
    }
    for (; i < n; i += VEC_LANES) {
        Vec v = vec_load_n(x + i, MIN(n - i, (int64_t)VEC_LANES));
        s0 = vec_fma(v, v, s0);
    }
    return vec_sum(vec_add(vec_add(s0, s1), vec_add(s2, s3)));
}

/* 1 / sqrt(mean(x^2) + eps) */
static inline float vec_rms_scale(const float *x, int64_t n, float eps) {
    return 1.0f / sqrtf(vec_sum_squares(x, n) / (float)n + eps);
}
