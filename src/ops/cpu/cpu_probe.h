/* cpu_probe: loops of independent multiply-adds in registers (or fed from L2), for probe.c.
 *
 * Each returns the operations that n_loops turns did (a multiply-add counts two). */
#pragma once

#include "base/base.h"

double cpu_probe_fma_avx2(int64_t n_loops);
double cpu_probe_dot_avx2(int64_t n_loops);
double cpu_probe_fma_avx512(int64_t n_loops);
double cpu_probe_dot_avx512(int64_t n_loops);
/* bf16 times bf16; on AMX tiles, of bf16 and of int8. */
double cpu_probe_half_avx512(int64_t n_loops);
double cpu_probe_half_amx(int64_t n_loops);
double cpu_probe_dot_amx(int64_t n_loops);
/* The same with all operands loaded from 1 MB, each used twice. */
double cpu_probe_half_fed_amx(int64_t n_loops);
double cpu_probe_dot_fed_amx(int64_t n_loops);
