/* map: a hash map from byte strings to uint32, with borrowed keys. */
#pragma once

#include "base/str.h"

typedef struct MapSlot {
    const char *key; /* borrowed; NULL: empty */
    uint32_t len, value;
    uint64_t hash;
} MapSlot;

/* Zero-initialised is an empty map. Open addressing, at most half full. */
typedef struct Map {
    MapSlot *slots;
    size_t n_slots; /* a power of two, or 0 */
    size_t n_used;
    uint64_t seed; /* of the hash; random, so that no file can choose its collisions */
} Map;

/* Room for n entries without rehashing; false when memory is short. */
MUST_USE bool map_reserve(Map *map, size_t n);
/* Inserts or overwrites; the key's bytes must outlive the map. False when memory is short. */
MUST_USE bool map_put(Map *map, Str key, uint32_t value);
bool map_find(const Map *map, Str key, uint32_t *out);
void map_free(Map *map);
