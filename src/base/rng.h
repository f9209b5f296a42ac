/* rng: a counter-based generator, so that the same seed gives the same tokens on every machine.
 *
 * Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11). There is no
 * state: a draw is a function of seed, stream and counter. */
#pragma once

#include "base/base.h"

/* 64 random bits. stream: which use (a sequence, a purpose); counter: which draw of it. */
uint64_t rng_bits(uint64_t seed, uint64_t stream, uint64_t counter);

/* Uniform in [0, 1), 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);
