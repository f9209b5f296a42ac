#include <immintrin.h>

#include "ops/cpu/cpu_probe.h"

/* Chains enough to hide the latency of either instruction (4 cycles on two ports, and some to
 * spare). Named one by one: an array would live in memory. */
#define CPU_PROBE_EACH(X) X(c0) X(c1) X(c2) X(c3) X(c4) X(c5) X(c6) X(c7) X(c8) X(c9)
enum { CPU_PROBE_CHAINS = 10 };

/* Keeps a chain a chain: the compiler must have the value in a register here. */
#define CPU_PROBE_PIN(v) __asm__ volatile("" : "+x"(v))

double cpu_probe_fma_avx2(int64_t n_loops) {
    __m256 scale = _mm256_set1_ps(0.999f), add = _mm256_set1_ps(0.5f);
#define CHAIN(c) __m256 c = _mm256_setzero_ps();
    CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    for (int64_t n = 0; n < n_loops; n++) {
#define CHAIN(c)                        \
    c = _mm256_fmadd_ps(c, scale, add); \
    CPU_PROBE_PIN(c);
        CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 8 * 2;
}

/* vpmaddubsw, vpmaddwd, vpaddd: the three instructions of an int8 dot product without VNNI. */
double cpu_probe_dot_avx2(int64_t n_loops) {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
#define CHAIN(c) __m256i c = _mm256_setzero_si256();
    CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    for (int64_t n = 0; n < n_loops; n++) {
#define CHAIN(c)                                                                  \
    CPU_PROBE_PIN(a); /* the product is made anew each time */                    \
    c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones)); \
    CPU_PROBE_PIN(c);
        CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 32 * 2;
}
