#include "server/block_map.h"

#include "base/mem.h"

enum { BLOCK_MAP_AGE_US = 500000, BLOCK_MAP_WAIT_US = 200000 };

void block_map_init(BlockMap *map) {
    *map = (BlockMap){0};
    pthread_mutex_init(&map->lock, NULL);
}

void block_map_free(BlockMap *map) {
    pthread_mutex_destroy(&map->lock);
    mem_free(map->block);
}

/* In the middle of a long step the last answer has to do. */
static void block_map_ask(BlockMap *map, sluice_engine *engine) {
    size_t n = 0;
    if (sluice_engine_get_blocks(engine, BLOCK_MAP_WAIT_US, map->block, map->capacity, &n, NULL) !=
        SLUICE_OK)
        return;
    if (n > map->capacity) {
        mem_free(map->block);
        map->n = map->capacity = 0;
        map->block = mem_try_alloc(n, sizeof *map->block);
        if (map->block == NULL) return;
        map->capacity = n;
        block_map_ask(map, engine); /* once: their number never changes */
    } else {
        map->n = n;
    }
}

static json_int_t block_map_code(const sluice_kv_block *block) {
    switch (block->state) {
        case SLUICE_BLOCK_FREE: return BLOCK_MAP_FREE;
        case SLUICE_BLOCK_CACHED: return BLOCK_MAP_CACHED;
        case SLUICE_BLOCK_SHARED: return BLOCK_MAP_SHARED;
        case SLUICE_BLOCK_USED: break;
    }
    return (json_int_t)block->request;
}

static json_t *block_map_runs(const BlockMap *map) {
    json_t *runs = json_array();
    for (size_t i = 0; i < map->n;) {
        const json_int_t code = block_map_code(&map->block[i]);
        size_t end = i + 1;
        while (end < map->n && block_map_code(&map->block[end]) == code) end++;
        json_array_append_new(runs, json_integer(code));
        json_array_append_new(runs, json_integer((json_int_t)(end - i)));
        i = end;
    }
    return runs;
}

json_t *block_map_json(BlockMap *map, sluice_engine *engine, int64_t now_us) {
    int count[SLUICE_BLOCK_SHARED + 1] = {0};
    pthread_mutex_lock(&map->lock);
    if (map->at_us == 0 || now_us - map->at_us > BLOCK_MAP_AGE_US) {
        map->at_us = now_us;
        block_map_ask(map, engine);
    }
    for (size_t i = 0; i < map->n; i++) count[map->block[i].state]++;
    json_t *value = json_pack("{s:i,s:i,s:i,s:i,s:i,s:o}", "all", (int)map->n, "free",
                              count[SLUICE_BLOCK_FREE], "cached", count[SLUICE_BLOCK_CACHED],
                              "used", count[SLUICE_BLOCK_USED] + count[SLUICE_BLOCK_SHARED],
                              "shared", count[SLUICE_BLOCK_SHARED], "map", block_map_runs(map));
    pthread_mutex_unlock(&map->lock);
    return value;
}
