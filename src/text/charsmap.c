#include "text/charsmap.h"

#include "base/mem.h"

static uint32_t charsmap_u32(const Charsmap *map, size_t at) {
    const uint8_t *b = (const uint8_t *)map->blob.data + at;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

Status charsmap_open(Charsmap **out, Str blob, Err *err) {
    Charsmap *map = mem_alloc(sizeof *map);
    buf_append_str(&map->blob, blob);
    if (map->blob.failed) {
        charsmap_close(map);
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for the normalization table");
    }
    uint32_t trie_bytes = blob.len >= 4 ? charsmap_u32(map, 0) : 0;
    if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > blob.len - 4) {
        charsmap_close(map);
        FAIL(err, ERR_FORMAT,
             "tokenizer: the normalization table of %zu bytes says its trie has %u bytes", blob.len,
             (unsigned)trie_bytes);
    }
    map->n_units = trie_bytes / 4;
    map->results = str_slice(buf_str(&map->blob), 4 + (size_t)trie_bytes, blob.len);
    *out = map;
    return OK;
}

void charsmap_close(Charsmap *map) {
    if (map == NULL) return;
    buf_free(&map->blob);
    mem_free(map);
}

static bool charsmap_unit(const Charsmap *map, size_t i, uint32_t *unit) {
    if (i >= map->n_units) return false;
    *unit = charsmap_u32(map, 4 + 4 * i);
    return true;
}

static size_t charsmap_offset(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* The result at an offset: up to its NUL. */
static Str charsmap_result(const Charsmap *map, size_t at) {
    Str rest = str_slice(map->results, at, map->results.len);
    const char *end = rest.len == 0 ? NULL : memchr(rest.ptr, '\0', rest.len);
    return end == NULL ? rest : str_slice(rest, 0, (size_t)(end - rest.ptr));
}

size_t charsmap_find(const Charsmap *map, Str s, bool shortest, Str *result) {
    uint32_t unit = 0;
    size_t found = 0;
    if (!charsmap_unit(map, 0, &unit)) return 0;
    size_t node = charsmap_offset(unit);
    for (size_t i = 0; i < s.len; i++) {
        uint8_t byte = (uint8_t)s.ptr[i];
        node ^= byte;
        if (byte == 0 || !charsmap_unit(map, node, &unit)) break;
        if ((unit & (1u << 31 | 0xff)) != byte) break;
        node ^= charsmap_offset(unit);
        if ((unit >> 8 & 1) == 0) continue;
        uint32_t leaf;
        if (!charsmap_unit(map, node, &leaf)) break;
        found = i + 1;
        *result = charsmap_result(map, leaf & 0x7fffffff);
        if (shortest) break;
    }
    return found;
}
