/* test_tiles_linear: tests/ops/test_linear at the level amx. */
#include "tiles/tile_testing.h"

#include "ops/test_linear.c"

TILE_TESTING_ONLY("* AMX")
