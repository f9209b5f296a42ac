/* cpu_act_avx512: cpu_act_tmpl.h at the avx512 level. */
#include "ops/cpu/cpu_vec_avx512.h"

#include "ops/cpu/cpu_act_tmpl.h"
