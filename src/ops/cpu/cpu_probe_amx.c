#include "base/mem.h"
#include "ops/cpu/cpu_probe.h"
#include "ops/cpu/cpu_tile_amx.h"

/* Four products of full tiles that do not wait for each other, a turn; one turn in
 * CPU_PROBE_TURNS_SAVED is run, since a tile has so many more operations than a vector. */
enum { CPU_PROBE_TILES = 4, CPU_PROBE_TURNS_SAVED = 16 };

/* 16 rows of 64 bytes in all eight tiles. */
static void cpu_probe_configure(void) {
    _Alignas(CACHE_LINE) TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) tile_shape(&config, i, 16, 64);
    tile_configure(&config);
    TILE_ZERO(4);
    TILE_ZERO(5);
    TILE_ZERO(6);
    TILE_ZERO(7);
}

/* c += a * b: fours of bytes, or pairs of bf16. */
#define CPU_PROBE_DOT(c, a, b, int8) \
    do {                             \
        if (int8)                    \
            TILE_DOT_S8(c, a, b);    \
        else                         \
            TILE_DOT_BF16(c, a, b);  \
    } while (0)

/* Operations of n_turns turns. */
static double cpu_probe_operations(int64_t n_turns, bool int8) {
    return (double)n_turns * CPU_PROBE_TILES * 16 * 16 * (int8 ? 64 : 32) * 2;
}

/* int8 is a constant. */
static inline __attribute__((always_inline)) double cpu_probe_tiles(int64_t n_loops, bool int8) {
    const int64_t n_turns = n_loops / CPU_PROBE_TURNS_SAVED;
    cpu_probe_configure();
    for (int64_t n = 0; n < n_turns; n++) {
        CPU_PROBE_DOT(0, 4, 6, int8);
        CPU_PROBE_DOT(1, 4, 7, int8);
        CPU_PROBE_DOT(2, 5, 6, int8);
        CPU_PROBE_DOT(3, 5, 7, int8);
    }
    tile_release();
    return cpu_probe_operations(n_turns, int8);
}

double cpu_probe_half_amx(int64_t n_loops) {
    return cpu_probe_tiles(n_loops, false);
}

double cpu_probe_dot_amx(int64_t n_loops) {
    return cpu_probe_tiles(n_loops, true);
}

/* Two tiles of either side, loaded from L2 a turn ahead of the four products that share them. */
static inline __attribute__((always_inline)) double cpu_probe_fed(int64_t n_loops, bool int8) {
    enum { TILE_BYTES = 1024, TURN_BYTES = 4 * TILE_BYTES, BYTES = 1 << 20 };
    uint8_t *data = mem_alloc(BYTES);
    for (int64_t i = 0; i < BYTES; i += CACHE_LINE) data[i] = 1;
    cpu_probe_configure();
    const int64_t n_turns = n_loops / CPU_PROBE_TURNS_SAVED;
    int64_t at = 0;
    for (int64_t n = 0; n < n_turns; n++, at = (at + TURN_BYTES) % BYTES) {
        const uint8_t *next = data + at;
        CPU_PROBE_DOT(0, 4, 6, int8);
        CPU_PROBE_DOT(2, 5, 6, int8);
        TILE_LOAD(6, next, 64);
        CPU_PROBE_DOT(1, 4, 7, int8);
        TILE_LOAD(4, next + TILE_BYTES, 64);
        CPU_PROBE_DOT(3, 5, 7, int8);
        TILE_LOAD(5, next + 2 * TILE_BYTES, 64);
        TILE_LOAD(7, next + 3 * TILE_BYTES, 64);
    }
    tile_release();
    mem_free(data);
    return cpu_probe_operations(n_turns, int8);
}

double cpu_probe_half_fed_amx(int64_t n_loops) {
    return cpu_probe_fed(n_loops, false);
}

double cpu_probe_dot_fed_amx(int64_t n_loops) {
    return cpu_probe_fed(n_loops, true);
}
