/* test_tiles_moe: tests/ops/test_moe at the level amx. */
#include "tiles/tile_testing.h"

#include "ops/test_moe.c"

TILE_TESTING_ONLY("* AMX")
