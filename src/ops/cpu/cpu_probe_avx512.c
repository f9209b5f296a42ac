#include <immintrin.h>

#include "ops/cpu/cpu_probe.h"

/* Chains enough to hide the latency of any of these: 6 cycles of vdpbf16ps on Zen 5's two ports,
 * and some to spare. Named one by one: an array would live in memory. */
#define CPU_PROBE_EACH(X) \
    X(c0) X(c1) X(c2) X(c3) X(c4) X(c5) X(c6) X(c7) X(c8) X(c9) X(c10) X(c11) X(c12) X(c13)
enum { CPU_PROBE_CHAINS = 14 };

/* Keeps a chain a chain: the compiler must have the value in a register here. */
#define CPU_PROBE_PIN(v) __asm__ volatile("" : "+v"(v))

double cpu_probe_fma_avx512(int64_t n_loops) {
    __m512 scale = _mm512_set1_ps(0.999f), add = _mm512_set1_ps(0.5f);
#define CHAIN(c) __m512 c = _mm512_setzero_ps();
    CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    for (int64_t n = 0; n < n_loops; n++) {
#define CHAIN(c)                        \
    c = _mm512_fmadd_ps(c, scale, add); \
    CPU_PROBE_PIN(c);
        CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 16 * 2;
}

double cpu_probe_dot_avx512(int64_t n_loops) {
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
#define CHAIN(c) __m512i c = _mm512_setzero_si512();
    CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    for (int64_t n = 0; n < n_loops; n++) {
#define CHAIN(c)                      \
    c = _mm512_dpbusd_epi32(c, a, b); \
    CPU_PROBE_PIN(c);
        CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 64 * 2;
}

double cpu_probe_half_avx512(int64_t n_loops) {
    __m512i a = _mm512_set1_epi16(0x3f00), b = _mm512_set1_epi16(0x3e00);
#define CHAIN(c) __m512 c = _mm512_setzero_ps();
    CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    for (int64_t n = 0; n < n_loops; n++) {
#define CHAIN(c)                                       \
    c = _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); \
    CPU_PROBE_PIN(c);
        CPU_PROBE_EACH(CHAIN)
#undef CHAIN
    }
    return (double)n_loops * CPU_PROBE_CHAINS * 32 * 2;
}
