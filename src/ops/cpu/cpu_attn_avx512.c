/* cpu_attn_avx512: cpu_attn_tmpl.h at the avx512 level. */
#include "ops/cpu/cpu_vec_avx512.h"

#include "ops/cpu/cpu_attn_tmpl.h"
