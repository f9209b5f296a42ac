/* test_tiles_golden_bits: tests/golden/test_golden_bits at the level amx. */
#include "tiles/tile_testing.h"

#include "golden/test_golden_bits.c"

TILE_TESTING_ONLY("*_amx")
