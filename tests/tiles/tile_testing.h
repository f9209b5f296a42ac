/* tile_testing: what the tests of this folder share. Each is another test's source, linked with the
 * kernels of the level amx on tiles of software, and runs the cases of that level alone. */
#pragma once

#include "testing.h"

/* Picks the test program's cases by name, before main. */
#define TILE_TESTING_ONLY(pattern)                             \
    static __attribute__((constructor)) void tile_only(void) { \
        cmocka_set_test_filter(pattern);                       \
    }
