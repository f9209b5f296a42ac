/* cpu_embed_avx512: cpu_embed_tmpl.h at the avx512 level. */
#include "ops/cpu/cpu_vec_avx512.h"

#include "ops/cpu/cpu_embed_tmpl.h"
