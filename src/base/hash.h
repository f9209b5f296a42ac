/* hash: a 64-bit hash of bytes, keyed; not cryptographic. */
#pragma once

#include "base/base.h"

uint64_t hash_bytes(const void *data, size_t len, uint64_t seed);
/* Mixes a 64-bit value well. */
uint64_t hash_mix(uint64_t x);
