#include "base/rng.h"

/* The constants of the paper's table 2 (multipliers) and section 3.3 (Weyl increments of the
 * key). */
enum { RNG_ROUNDS = 10 };
#define RNG_MUL_0  UINT32_C(0xD2511F53)
#define RNG_MUL_1  UINT32_C(0xCD9E8D57)
#define RNG_WEYL_0 UINT32_C(0x9E3779B9)
#define RNG_WEYL_1 UINT32_C(0xBB67AE85)

uint64_t rng_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t x0 = (uint32_t)counter, x1 = (uint32_t)(counter >> 32);
    uint32_t x2 = (uint32_t)stream, x3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int32_t round = 0; round < RNG_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)RNG_MUL_0 * x0, p1 = (uint64_t)RNG_MUL_1 * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)p1;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)p0;
        k0 += RNG_WEYL_0;
        k1 += RNG_WEYL_1;
    }
    return (uint64_t)x1 << 32 | x0;
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(rng_bits(seed, stream, counter) >> 11) * 0x1p-53;
}
