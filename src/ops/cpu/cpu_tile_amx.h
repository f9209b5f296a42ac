/* cpu_tile_amx: AMX's instructions, as the tile kernels use them.
 *
 * Inline assembly, because the compiler does not see that LDTILECFG reads all 64 bytes and that
 * tile loads read memory. Tiles are named by their number, a literal.
 *
 * source: Intel SDM volume 2, LDTILECFG, TILELOADD, TILELOADDT1, TDPBF16PS, TDPBSSD. */
#pragma once

#include <stdint.h>

/* The operand of LDTILECFG. */
typedef struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;
_Static_assert(sizeof(TileConfig) == 64, "TileConfig");

static inline void tile_shape(TileConfig *config, int tile, int64_t rows, int64_t row_bytes) {
    config->rows[tile] = (uint8_t)rows;
    config->row_bytes[tile] = (uint16_t)row_bytes;
}

static inline void tile_configure(const TileConfig *config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*config) : "memory");
}

static inline void tile_release(void) {
    __asm__ volatile("tilerelease" : :);
}

#define TILE_LOAD(tile, p, stride)                                    \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile               \
                     :                                                \
                     : "r"((const void *)(p)), "r"((int64_t)(stride)) \
                     : "memory")
/* Of what passes by: the lines in L1 that are read again stay there. */
#define TILE_LOAD_PASSING(tile, p, stride)                            \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile             \
                     :                                                \
                     : "r"((const void *)(p)), "r"((int64_t)(stride)) \
                     : "memory")
#define TILE_STORE(tile, p, stride)                             \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)"     \
                     :                                          \
                     : "r"((void *)(p)), "r"((int64_t)(stride)) \
                     : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
/* c += a * b: pairs of bf16 in f32, fours of signed bytes in i32. */
#define TILE_DOT_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define TILE_DOT_S8(c, a, b)   __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
