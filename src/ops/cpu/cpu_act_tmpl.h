/* cpu_act_tmpl: activation functions with the gated product, and the soft cap.
 *
 * moves   3 * n_tokens * n * 4 bytes (2 without up)
 * bounds  arithmetic in cache (about 25 operations a vector), bandwidth beyond */
#include "ops/cpu/cpu_math_tmpl.h"
#include "ops/cpu/cpu_ops.h"

static inline Vec cpu_act_vec(ActKind kind, Vec x) {
    switch (kind) {
        case ACT_SILU: return vec_silu(x);
        case ACT_GELU: return vec_gelu(x);
        case ACT_GELU_TANH: return vec_gelu_tanh(x);
        case ACT_RELU: break;
    }
    return vec_relu(x);
}

/* kind is a constant at each call, so that the loop has no switch. */
static inline __attribute__((always_inline)) void cpu_act_run(ActKind kind, const float *gate,
                                                              const float *up, float *out,
                                                              int64_t n) {
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        Vec v = cpu_act_vec(kind, vec_load(gate + i));
        vec_store(out + i, up ? vec_mul(v, vec_load(up + i)) : v);
    }
    if (i == n) return;
    Vec v = cpu_act_vec(kind, vec_load_n(gate + i, n - i));
    vec_store_n(out + i, up ? vec_mul(v, vec_load_n(up + i, n - i)) : v, n - i);
}

static void cpu_act_row(void *context, int64_t t, int32_t thread) {
    (void)thread;
    const ActArgs *args = context;
    const float *gate = ops_row(&args->gate, t);
    const float *up = args->up ? ops_row(args->up, t) : NULL;
    float *out = ops_row(&args->out, t);
    int64_t n = args->gate.shape[1];
    switch (args->kind) {
        case ACT_SILU: cpu_act_run(ACT_SILU, gate, up, out, n); break;
        case ACT_GELU: cpu_act_run(ACT_GELU, gate, up, out, n); break;
        case ACT_GELU_TANH: cpu_act_run(ACT_GELU_TANH, gate, up, out, n); break;
        case ACT_RELU: cpu_act_run(ACT_RELU, gate, up, out, n); break;
    }
}

void CPU_LEVEL(cpu_act)(OpCtx *ctx, const ActArgs *args) {
    ops_check_act(args);
    int64_t row_bytes = args->gate.shape[1] * (int64_t)sizeof(float) * (args->up ? 3 : 2);
    ActArgs copy = *args;
    cpu_rows_run(ctx, args->gate.shape[0], row_bytes, cpu_act_row, &copy);
}

typedef struct CpuActSoftcap {
    Tensor x;
    float cap;
} CpuActSoftcap;

static void cpu_act_softcap_row(void *context, int64_t t, int32_t thread) {
    (void)thread;
    const CpuActSoftcap *args = context;
    float *x = ops_row(&args->x, t);
    Vec cap = vec_set1(args->cap), inverse = vec_set1(1.0f / args->cap);
    for (int64_t i = 0; i < args->x.shape[1]; i += VEC_LANES) {
        int64_t n = MIN(args->x.shape[1] - i, (int64_t)VEC_LANES);
        vec_store_n(x + i, vec_softcap(vec_load_n(x + i, n), cap, inverse), n);
    }
}

void CPU_LEVEL(cpu_act_softcap)(OpCtx *ctx, Tensor x, float cap) {
    ops_check_softcap(&x, cap);
    CpuActSoftcap args = {x, cap};
    int64_t row_bytes = x.shape[1] * (int64_t)sizeof(float) * 2;
    cpu_rows_run(ctx, x.shape[0], row_bytes, cpu_act_softcap_row, &args);
}
