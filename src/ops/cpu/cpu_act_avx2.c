/* cpu_act_avx2: cpu_act_tmpl.h at the avx2 level. */
#include "ops/cpu/cpu_vec_avx2.h"

#include "ops/cpu/cpu_act_tmpl.h"
