/* test_tiles_golden_hf: tests/golden/test_golden_hf at the level amx. */
#include "tiles/tile_testing.h"

#include "golden/test_golden_hf.c"

TILE_TESTING_ONLY("*_amx")
