/* cpu_attn_avx512: cpu_attn_tmpl.h at the avx512 level; int8 by cpu_attn_i8_avx512. */
#include "ops/cpu/cpu_vec_avx512.h"

#include "ops/cpu/cpu_attn_tmpl.h"

void cpu_attn_avx512(OpCtx *ctx, const AttnArgs *args) {
    bool bytes = args->kv.dtype == DTYPE_I8 && args->kv.head_dim <= CPU_ATTN_I8_DIM_MAX;
    cpu_attn_run(ctx, args, bytes ? &CPU_ATTN_I8_AVX512 : &CPU_ATTN_LEVEL);
}
