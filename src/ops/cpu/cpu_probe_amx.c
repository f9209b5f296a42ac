#include "ops/cpu/cpu_probe.h"

/* Four products of full tiles that do not wait for each other, a turn; one turn in
 * CPU_PROBE_TURNS_SAVED is run, since a tile has so many more operations than a vector. */
enum { CPU_PROBE_TILES = 4, CPU_PROBE_TURNS_SAVED = 16 };

/* 16 rows of 64 bytes in all eight tiles. */
static void cpu_probe_configure(void) {
    _Alignas(CACHE_LINE) uint8_t config[64] = {1};
    for (int i = 0; i < 8; i++) {
        config[16 + 2 * i] = 64;
        config[48 + i] = 16;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
    __asm__ volatile("tilezero %tmm4; tilezero %tmm5; tilezero %tmm6; tilezero %tmm7");
}

double cpu_probe_half_amx(int64_t n_loops) {
    cpu_probe_configure();
    for (int64_t n = 0; n < n_loops; n += CPU_PROBE_TURNS_SAVED)
        __asm__ volatile(
            "tdpbf16ps %tmm6, %tmm4, %tmm0; tdpbf16ps %tmm7, %tmm4, %tmm1;"
            "tdpbf16ps %tmm6, %tmm5, %tmm2; tdpbf16ps %tmm7, %tmm5, %tmm3");
    __asm__ volatile("tilerelease");
    return (double)n_loops / CPU_PROBE_TURNS_SAVED * CPU_PROBE_TILES * 16 * 16 * 32 * 2;
}

double cpu_probe_dot_amx(int64_t n_loops) {
    cpu_probe_configure();
    for (int64_t n = 0; n < n_loops; n += CPU_PROBE_TURNS_SAVED)
        __asm__ volatile(
            "tdpbusd %tmm6, %tmm4, %tmm0; tdpbusd %tmm7, %tmm4, %tmm1;"
            "tdpbusd %tmm6, %tmm5, %tmm2; tdpbusd %tmm7, %tmm5, %tmm3");
    __asm__ volatile("tilerelease");
    return (double)n_loops / CPU_PROBE_TURNS_SAVED * CPU_PROBE_TILES * 16 * 16 * 64 * 2;
}
