/* block_map: who holds which KV block, for the dashboard: asked of the engine at most twice a
 * second, however many look. */
#pragma once

#include <pthread.h>

#include "base/json.h"
#include "sluice.h"

typedef struct BlockMap {
    pthread_mutex_t lock; /* guards the rest */
    sluice_kv_block *block;
    size_t n, capacity;
    int64_t at_us; /* when they were asked for; 0: never */
} BlockMap;

/* In the runs of "map"; from 1 on: the engine's request that holds the block alone. */
enum { BLOCK_MAP_FREE = -1, BLOCK_MAP_CACHED = -2, BLOCK_MAP_SHARED = -3 };

void block_map_init(BlockMap *map);
void block_map_free(BlockMap *map);
/* {"all", "free", "cached", "used", "shared": how many, "map": [code, count, code, count, ...]};
 * used counts the shared ones too. The caller drops it. */
json_t *block_map_json(BlockMap *map, sluice_engine *engine, int64_t now_us);
