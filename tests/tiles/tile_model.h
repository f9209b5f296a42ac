/* tile_model: AMX's tiles in software. Included before a kernel of the level amx it puts calls in
 * the place of the instructions, for tests on processors that have no tiles. */
#pragma once

#include "ops/cpu/cpu_tile_amx.h"

void tile_model_configure(const TileConfig *config);
void tile_model_release(void);
void tile_model_load(int tile, const void *from, int64_t stride);
void tile_model_store(int tile, void *to, int64_t stride);
void tile_model_zero(int tile);
void tile_model_dot_bf16(int c, int a, int b);
void tile_model_dot_s8(int c, int a, int b);

#undef TILE_LOAD
#undef TILE_LOAD_PASSING
#undef TILE_STORE
#undef TILE_ZERO
#undef TILE_DOT_BF16
#undef TILE_DOT_S8
#define tile_configure                     tile_model_configure
#define tile_release                       tile_model_release
#define TILE_LOAD(tile, p, stride)         tile_model_load(tile, p, stride)
#define TILE_LOAD_PASSING(tile, p, stride) tile_model_load(tile, p, stride)
#define TILE_STORE(tile, p, stride)        tile_model_store(tile, p, stride)
#define TILE_ZERO(tile)                    tile_model_zero(tile)
#define TILE_DOT_BF16(c, a, b)             tile_model_dot_bf16(c, a, b)
#define TILE_DOT_S8(c, a, b)               tile_model_dot_s8(c, a, b)
