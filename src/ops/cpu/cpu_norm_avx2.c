/* cpu_norm_avx2: cpu_norm_tmpl.h at the avx2 level. */
#include "ops/cpu/cpu_vec_avx2.h"

#include "ops/cpu/cpu_norm_tmpl.h"
