/* cpu_detect: CPUID leaves 1, 7 and 0x80000001, and XCR0.
 *
 * source: Intel SDM volume 1, 14.3 (AVX) and 15.2 (AVX-512); x86-64 psABI, micro-architecture
 * levels. */
#include "ops/cpu/cpu_detect.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    XCR0_YMM = 0x6,  /* SSE and AVX state */
    XCR0_ZMM = 0xe6, /* also opmask, upper ZMM, ZMM16-31 */
    XCR0_TILES = 0x60000,
    DETECT_REQ_XCOMP_PERM = 0x1023, /* ARCH_REQ_XCOMP_PERM of asm/prctl.h */
    DETECT_XTILEDATA = 18,
    /* CPUID leaf 7, EDX; clang 14's cpuid.h has no names for them. */
    DETECT_AMX_BF16 = 1 << 22,
    DETECT_AMX_TILE = 1 << 24
};

static uint64_t cpu_detect_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool cpu_detect_all(uint32_t word, uint32_t wanted) {
    return (word & wanted) == wanted;
}

/* The system saves tiles only for processes that asked; asking again is no harm.
 * source: Linux, Documentation/arch/x86/xstate.rst */
static bool cpu_detect_amx(uint64_t xcr0) {
    uint32_t a, b, c, d;
    if ((xcr0 & XCR0_TILES) != XCR0_TILES || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    return cpu_detect_all(d, DETECT_AMX_TILE | DETECT_AMX_BF16) &&
           syscall(SYS_arch_prctl, DETECT_REQ_XCOMP_PERM, DETECT_XTILEDATA) == 0;
}

CpuFeatures cpu_detect(void) {
    CpuFeatures features = {0};
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
    if (!cpu_detect_all(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C | bit_MOVBE)) return features;
    uint64_t xcr0 = cpu_detect_xcr0();
    if ((xcr0 & XCR0_YMM) != XCR0_YMM) return features;
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !cpu_detect_all(c, bit_LZCNT)) return features;

    uint32_t leaf7_subleaves;
    if (!__get_cpuid_count(7, 0, &leaf7_subleaves, &b, &c, &d)) return features;
    features.avx2 = cpu_detect_all(b, bit_AVX2 | bit_BMI | bit_BMI2);

    uint32_t v4 = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
    bool zmm = features.avx2 && (xcr0 & XCR0_ZMM) == XCR0_ZMM && cpu_detect_all(b, v4) &&
               cpu_detect_all(c, bit_AVX512VNNI);
    if (!zmm || leaf7_subleaves < 1) return features;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return features;
    features.avx512 = cpu_detect_all(a, bit_AVX512BF16);
    features.amx = features.avx512 && cpu_detect_amx(xcr0);
    return features;
}
