#include "base/map.h"

#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"

enum { MAP_SLOTS_MIN = 16 };

/* The slot that holds the key, or the empty one where it belongs. There is always an empty slot. */
static MapSlot *map_slot(const Map *map, Str key, uint64_t hash) {
    size_t mask = map->n_slots - 1;
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        MapSlot *slot = &map->slots[i];
        if (slot->key == NULL) return slot;
        if (slot->hash == hash && slot->len == key.len && memcmp(slot->key, key.ptr, key.len) == 0)
            return slot;
    }
}

static uint64_t map_seed(const Map *map) {
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed) return seed;
    return hash_mix((uint64_t)clock_us() ^ (uintptr_t)map);
}

/* Moves every entry to a fresh table. */
static bool map_resize(Map *map, size_t n_slots) {
    MapSlot *slots = mem_try_alloc(n_slots, sizeof *slots);
    if (slots == NULL) return false;
    Map next = {slots, n_slots, map->n_used, map->slots == NULL ? map_seed(map) : map->seed};
    for (size_t i = 0; i < map->n_slots; i++) {
        const MapSlot *slot = &map->slots[i];
        if (slot->key != NULL) *map_slot(&next, (Str){slot->key, slot->len}, slot->hash) = *slot;
    }
    mem_free(map->slots);
    *map = next;
    return true;
}

bool map_reserve(Map *map, size_t n) {
    if (n > SIZE_MAX / 4) return false;
    size_t n_slots = MAX(map->n_slots, (size_t)MAP_SLOTS_MIN);
    while (n_slots / 2 < n) n_slots *= 2;
    return n_slots == map->n_slots || map_resize(map, n_slots);
}

bool map_put(Map *map, Str key, uint32_t value) {
    if (key.len > UINT32_MAX || !map_reserve(map, map->n_used + 1)) return false;
    if (key.ptr == NULL) key.ptr = ""; /* NULL marks an empty slot */
    uint64_t hash = hash_bytes(key.ptr, key.len, map->seed);
    MapSlot *slot = map_slot(map, key, hash);
    if (slot->key == NULL) {
        map->n_used++;
        *slot = (MapSlot){key.ptr, (uint32_t)key.len, value, hash};
    } else {
        slot->value = value;
    }
    return true;
}

bool map_find(const Map *map, Str key, uint32_t *out) {
    if (map->n_used == 0) return false;
    if (key.ptr == NULL) key.ptr = "";
    const MapSlot *slot = map_slot(map, key, hash_bytes(key.ptr, key.len, map->seed));
    if (slot->key == NULL) return false;
    *out = slot->value;
    return true;
}

void map_free(Map *map) {
    mem_free(map->slots);
    *map = (Map){0};
}
