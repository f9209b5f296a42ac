#include <immintrin.h>

#include "ops/cpu/cpu_probe.h"

/* Enough chains to hide the latency of either instruction. */
enum { CPU_PROBE_CHAINS = 16 };

double cpu_probe_fma_avx512(int64_t n_loops) {
    __m512 sum[CPU_PROBE_CHAINS];
    for (int i = 0; i < CPU_PROBE_CHAINS; i++) sum[i] = _mm512_set1_ps((float)i);
    __m512 scale = _mm512_set1_ps(0.999f), add = _mm512_set1_ps(0.5f);
    for (int64_t n = 0; n < n_loops; n++) {
#pragma GCC unroll 16
        for (int i = 0; i < CPU_PROBE_CHAINS; i++) {
            sum[i] = _mm512_fmadd_ps(sum[i], scale, add);
            __asm__ volatile("" : "+v"(sum[i])); /* keeps the chain a chain */
        }
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 16 * 2;
}

double cpu_probe_dot_avx512(int64_t n_loops) {
    __m512i sum[CPU_PROBE_CHAINS];
    for (int i = 0; i < CPU_PROBE_CHAINS; i++) sum[i] = _mm512_set1_epi32(i);
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    for (int64_t n = 0; n < n_loops; n++) {
#pragma GCC unroll 16
        for (int i = 0; i < CPU_PROBE_CHAINS; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
            __asm__ volatile("" : "+v"(sum[i]));
        }
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 64 * 2;
}
