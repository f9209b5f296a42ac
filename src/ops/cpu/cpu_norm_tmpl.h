/* cpu_norm_tmpl: RMS-norm and layer norm, two passes over a row that stays in L1.
 *
 * moves   2 * n_rows * dim * 4 bytes, half as much again with the residual add
 * bounds  memory bandwidth; error about 2 ulp (f32 sums in 4 * VEC_LANES chains) */
#include "ops/cpu/cpu_math_tmpl.h"
#include "ops/cpu/cpu_ops.h"

static void cpu_norm_add(float *x, const float *add, int64_t dim) {
    for (int64_t i = 0; i < dim; i += VEC_LANES) {
        int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
        vec_store_n(x + i, vec_add(vec_load_n(x + i, n), vec_load_n(add + i, n)), n);
    }
}

static float cpu_norm_sum(const float *x, int64_t dim) {
    Vec s0 = vec_zero(), s1 = vec_zero();
    int64_t i = 0;
    for (; i + 2 * VEC_LANES <= dim; i += 2 * VEC_LANES) {
        s0 = vec_add(s0, vec_load(x + i));
        s1 = vec_add(s1, vec_load(x + i + VEC_LANES));
    }
    for (; i < dim; i += VEC_LANES)
        s0 = vec_add(s0, vec_load_n(x + i, MIN(dim - i, (int64_t)VEC_LANES)));
    return vec_sum(vec_add(s0, s1));
}

static float cpu_norm_square_deviation(const float *x, float mean, int64_t dim) {
    Vec s0 = vec_zero(), s1 = vec_zero(), center = vec_set1(mean);
    int64_t i = 0;
    for (; i + 2 * VEC_LANES <= dim; i += 2 * VEC_LANES) {
        Vec d0 = vec_sub(vec_load(x + i), center);
        Vec d1 = vec_sub(vec_load(x + i + VEC_LANES), center);
        s0 = vec_fma(d0, d0, s0);
        s1 = vec_fma(d1, d1, s1);
    }
    for (; i < dim; i += VEC_LANES) {
        int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
        Vec d = vec_keep_n(vec_sub(vec_load_n(x + i, n), center), n);
        s0 = vec_fma(d, d, s0);
    }
    return vec_sum(vec_add(s0, s1));
}

/* out = (x - mean) * scale * w + bias */
static void cpu_norm_apply(const NormArgs *args, const float *x, float mean, float scale,
                           float *out, int64_t dim) {
    Vec center = vec_set1(mean), factor = vec_set1(scale);
    for (int64_t i = 0; i < dim; i += VEC_LANES) {
        int64_t n = MIN(dim - i, (int64_t)VEC_LANES);
        Vec v = vec_mul(vec_sub(vec_load_n(x + i, n), center), factor);
        Vec bias = args->bias ? vec_load_n(args->bias + i, n) : vec_zero();
        vec_store_n(out + i, vec_fma(v, vec_load_n(args->w + i, n), bias), n);
    }
}

static void cpu_norm_row(void *context, int64_t t, int32_t thread) {
    (void)thread;
    const NormArgs *args = context;
    int64_t dim = args->x.shape[1];
    float *x = ops_row(&args->x, t);
    if (args->add != NULL) cpu_norm_add(x, ops_row(args->add, t), dim);
    float mean = 0, scale;
    if (args->kind == NORM_RMS) {
        scale = vec_rms_scale(x, dim, args->eps);
    } else {
        mean = cpu_norm_sum(x, dim) / (float)dim;
        scale = 1.0f / sqrtf(cpu_norm_square_deviation(x, mean, dim) / (float)dim + args->eps);
    }
    cpu_norm_apply(args, x, mean, scale, ops_row(&args->out, t), dim);
}

void CPU_LEVEL(cpu_norm)(OpCtx *ctx, const NormArgs *args) {
    ops_check_norm(args);
    int64_t row_bytes = args->x.shape[1] * (int64_t)sizeof(float) * (args->add ? 4 : 2);
    NormArgs copy = *args;
    cpu_rows_run(ctx, args->x.shape[0], row_bytes, cpu_norm_row, &copy);
}
