/* cpu_detect: which instruction sets this processor has and the system lets programs use. */
#pragma once

#include "base/base.h"

typedef struct CpuFeatures {
    bool avx2;   /* x86-64-v3: AVX2, FMA, F16C, BMI1, BMI2, LZCNT, MOVBE, and YMM state saved */
    bool avx512; /* x86-64-v4 with VNNI and BF16, and ZMM and mask state saved */
    bool amx;    /* avx512, and AMX tiles of bf16 that the system lets this process use */
} CpuFeatures;

/* Asks CPUID and XGETBV; cheap enough to be asked each time. */
CpuFeatures cpu_detect(void);

/* AMD's Zen 5 or later, the first of AMD's with VP2INTERSECT. Costs nothing. */
static inline bool cpu_is_zen5(void) {
    return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512vp2intersect");
}
