#include "base/hash.h"

#include <string.h>

/* Odd constants without structure: the fractional parts of sqrt(2), sqrt(3) and sqrt(5). */
#define HASH_K0 UINT64_C(0x6A09E667F3BCC909)
#define HASH_K1 UINT64_C(0xBB67AE8584CAA73B)
#define HASH_K2 UINT64_C(0x3C6EF372FE94F82B)

/* Both halves of the 128-bit product, folded: every input bit reaches every output bit. */
static uint64_t hash_fold(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_load(const uint8_t *p, size_t n) {
    uint64_t word = 0;
    memcpy(&word, p, n);
    return word;
}

uint64_t hash_mix(uint64_t x) {
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    return x ^ (x >> 32);
}

uint64_t hash_bytes(const void *data, size_t len, uint64_t seed) {
    const uint8_t *p = data;
    uint64_t h = hash_mix(seed ^ HASH_K0) ^ len;
    for (; len >= 16; len -= 16, p += 16) {
        /* The rotated old state is kept beside the product, so that a factor of zero forgets
         * nothing. */
        h = (h << 29 | h >> 35) ^
            hash_fold(hash_load(p, 8) ^ HASH_K1 ^ h, hash_load(p + 8, 8) ^ HASH_K2);
    }
    uint64_t a = 0, b = 0;
    if (len > 8) {
        a = hash_load(p, 8);
        b = hash_load(p + 8, len - 8);
    } else if (len > 0) {
        a = hash_load(p, len);
    }
    return hash_mix(h ^ hash_fold(a ^ HASH_K1 ^ h, b ^ HASH_K2));
}
