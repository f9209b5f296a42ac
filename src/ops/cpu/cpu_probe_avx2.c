#include <immintrin.h>

#include "ops/cpu/cpu_probe.h"

/* Enough chains to hide the latency of either instruction. */
enum { CPU_PROBE_CHAINS = 12 };

double cpu_probe_fma_avx2(int64_t n_loops) {
    __m256 sum[CPU_PROBE_CHAINS];
    for (int i = 0; i < CPU_PROBE_CHAINS; i++) sum[i] = _mm256_set1_ps((float)i);
    __m256 scale = _mm256_set1_ps(0.999f), add = _mm256_set1_ps(0.5f);
    for (int64_t n = 0; n < n_loops; n++) {
#pragma GCC unroll 16
        for (int i = 0; i < CPU_PROBE_CHAINS; i++) {
            sum[i] = _mm256_fmadd_ps(sum[i], scale, add);
            __asm__ volatile("" : "+x"(sum[i])); /* keeps the chain a chain */
        }
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 8 * 2;
}

/* vpmaddubsw, vpmaddwd, vpaddd: the three instructions of an int8 dot product without VNNI. */
double cpu_probe_dot_avx2(int64_t n_loops) {
    __m256i sum[CPU_PROBE_CHAINS];
    for (int i = 0; i < CPU_PROBE_CHAINS; i++) sum[i] = _mm256_set1_epi32(i);
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
    for (int64_t n = 0; n < n_loops; n++) {
#pragma GCC unroll 16
        for (int i = 0; i < CPU_PROBE_CHAINS; i++) {
            __asm__ volatile("" : "+x"(a), "+x"(b)); /* the product is made anew each time */
            __m256i products = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
            sum[i] = _mm256_add_epi32(sum[i], products);
            __asm__ volatile("" : "+x"(sum[i]));
        }
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 32 * 2;
}
