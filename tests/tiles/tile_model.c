/* AMX's instructions in C, and a cpu_detect that finds tiles wherever there is avx512.
 *
 * A shape that the processor would refuse fails a CHECK; what lies beyond a tile's shape is zero.
 *
 * source: Intel SDM volume 2, LDTILECFG, TILELOADD, TDPBF16PS, TDPBSSD. */
#include "tiles/tile_model.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "ops/cpu/cpu_detect.h"

enum { TILES = 8, TILE_ROWS = 16, TILE_ROW_BYTES = 64 };

typedef uint8_t Tile[TILE_ROWS][TILE_ROW_BYTES];

static _Thread_local TileConfig tile_config;
static _Thread_local Tile tile_data[TILES];

/* src/ops/cpu/cpu_detect.c, whose function the Makefile gives this name. */
CpuFeatures cpu_detect_host(void);

CpuFeatures cpu_detect(void) {
    CpuFeatures features = cpu_detect_host();
    features.amx = features.avx512;
    return features;
}

void tile_model_configure(const TileConfig *config) {
    CHECK(config->palette == 1 && config->start_row == 0);
    for (int i = 0; i < TILES; i++) {
        CHECK(config->rows[i] <= TILE_ROWS && config->row_bytes[i] <= TILE_ROW_BYTES);
        CHECK((config->rows[i] == 0) == (config->row_bytes[i] == 0));
    }
    tile_config = *config;
    memset(tile_data, 0, sizeof tile_data);
}

void tile_model_release(void) {
    tile_config = (TileConfig){0};
}

static int tile_rows(int tile) {
    CHECK(tile_config.palette == 1 && tile_config.rows[tile] > 0);
    return tile_config.rows[tile];
}

void tile_model_load(int tile, const void *from, int64_t stride) {
    for (int r = 0; r < tile_rows(tile); r++)
        memcpy(tile_data[tile][r], (const char *)from + r * stride, tile_config.row_bytes[tile]);
}

void tile_model_store(int tile, void *to, int64_t stride) {
    for (int r = 0; r < tile_rows(tile); r++)
        memcpy((char *)to + r * stride, tile_data[tile][r], tile_config.row_bytes[tile]);
}

void tile_model_zero(int tile) {
    CHECK(tile_rows(tile) > 0);
    memset(tile_data[tile], 0, sizeof tile_data[tile]);
}

/* C [m x n] += A [m x k fours of bytes] * B [k x n fours of bytes]. */
static void tile_check(int c, int a, int b) {
    CHECK(tile_rows(c) == tile_rows(a) && 4 * tile_rows(b) == tile_config.row_bytes[a]);
    CHECK(tile_config.row_bytes[c] == tile_config.row_bytes[b] && c != a && c != b && a != b);
}

/* Subnormal numbers count as zero, as operands and as results. */
static float tile_flush(float x) {
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

static float tile_bf16(const uint8_t *from) {
    float x;
    const uint8_t bytes[4] = {0, 0, from[0], from[1]};
    memcpy(&x, bytes, sizeof x);
    return tile_flush(x);
}

__attribute__((target("fma"))) void tile_model_dot_bf16(int c, int a, int b) {
    tile_check(c, a, b);
    for (int m = 0; m < tile_rows(c); m++) {
        for (int n = 0; n < tile_config.row_bytes[c] / 4; n++) {
            float even = 0, odd = 0, sum;
            for (int k = 0; k < tile_rows(b); k++) {
                const uint8_t *x = &tile_data[a][m][4 * k], *y = &tile_data[b][k][4 * n];
                even = tile_flush(fmaf(tile_bf16(x), tile_bf16(y), even));
                odd = tile_flush(fmaf(tile_bf16(x + 2), tile_bf16(y + 2), odd));
            }
            memcpy(&sum, &tile_data[c][m][4 * n], sizeof sum);
            sum = tile_flush(tile_flush(sum) + tile_flush(even + odd));
            memcpy(&tile_data[c][m][4 * n], &sum, sizeof sum);
        }
    }
}

void tile_model_dot_s8(int c, int a, int b) {
    tile_check(c, a, b);
    for (int m = 0; m < tile_rows(c); m++) {
        for (int n = 0; n < tile_config.row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &tile_data[c][m][4 * n], sizeof sum);
            for (int k = 0; k < tile_rows(b); k++)
                for (int i = 0; i < 4; i++)
                    sum += (int8_t)tile_data[a][m][4 * k + i] * (int8_t)tile_data[b][k][4 * n + i];
            memcpy(&tile_data[c][m][4 * n], &sum, sizeof sum);
        }
    }
}
