/* cpu_attn_avx2: cpu_attn_tmpl.h at the avx2 level. */
#include "ops/cpu/cpu_vec_avx2.h"

#include "ops/cpu/cpu_attn_tmpl.h"

void cpu_attn_avx2(OpCtx *ctx, const AttnArgs *args) {
    cpu_attn_run(ctx, args, &CPU_ATTN_LEVEL);
}
