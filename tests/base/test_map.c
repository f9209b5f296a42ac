/* test_map: the map against a plain table of what was put in, over growth, overwriting and keys
 * with any bytes; and the hash that it stands on: no collisions, every bit moves about half the
 * others. */
#include "base/map.h"

#include "base/hash.h"
#include "testing.h"

enum { N_KEYS = 50000 };

static void map_holds_what_was_put(void **state) {
    (void)state;
    static char keys[N_KEYS][12];
    Map map = {0};
    uint32_t value = 7;
    assert_false(map_find(&map, STR_LIT("x"), &value));
    for (uint32_t i = 0; i < N_KEYS; i++) {
        int n = snprintf(keys[i], sizeof keys[i], "k%u", i);
        assert_true(map_put(&map, (Str){keys[i], (size_t)n}, i));
        assert_true(map.n_used * 2 <= map.n_slots);
    }
    for (uint32_t i = 0; i < N_KEYS; i += 3)
        assert_true(map_put(&map, str_from(keys[i]), i + N_KEYS));
    assert_int_equal(map.n_used, N_KEYS);
    for (uint32_t i = 0; i < N_KEYS; i++) {
        assert_true(map_find(&map, str_from(keys[i]), &value));
        assert_int_equal(value, i % 3 == 0 ? i + N_KEYS : i);
        /* A prefix is another key. */
        keys[i][0] = 'j';
    }
    assert_false(map_find(&map, STR_LIT("k"), &value));
    map_free(&map);
    assert_false(map_find(&map, STR_LIT("k1"), &value));
}

static void map_takes_any_bytes(void **state) {
    (void)state;
    Map map = {0};
    const Str keys[] = {{"", 0}, {"\0", 1}, {"\0\0", 2}, {"a\0b", 3}, {"a\0c", 3}, {"\xff\xfe", 2}};
    for (uint32_t i = 0; i < ARRAY_LEN(keys); i++) assert_true(map_put(&map, keys[i], i));
    for (uint32_t i = 0; i < ARRAY_LEN(keys); i++) {
        uint32_t value = 99;
        assert_true(map_find(&map, keys[i], &value));
        assert_int_equal(value, i);
    }
    uint32_t value = 99;
    assert_true(map_find(&map, (Str){NULL, 0}, &value));
    assert_int_equal(value, 0);
    assert_int_equal(map.n_used, ARRAY_LEN(keys));
    map_free(&map);
}

static void map_reserve_saves_rehashing(void **state) {
    (void)state;
    Map map = {0};
    assert_true(map_reserve(&map, 1000));
    const MapSlot *slots = map.slots;
    static char keys[1000][8];
    for (uint32_t i = 0; i < 1000; i++) {
        snprintf(keys[i], sizeof keys[i], "%u", i);
        assert_true(map_put(&map, str_from(keys[i]), i));
    }
    assert_ptr_equal(map.slots, slots);
    assert_false(map_reserve(&map, SIZE_MAX / 8));
    assert_false(map_reserve(&map, SIZE_MAX));
    assert_int_equal(map.n_used, 1000);
    map_free(&map);
}

static int map_compare_u64(const void *a, const void *b) {
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void hash_has_no_collisions(void **state) {
    (void)state;
    enum { N = 200000 };
    uint64_t *hashes = mem_alloc(N * sizeof *hashes);
    size_t n = 0;
    /* Every length up to 100 of zeros and of ones, then counters. */
    char zeros[100] = {0}, ones[100];
    memset(ones, 1, sizeof ones);
    for (size_t len = 0; len < 100; len++) hashes[n++] = hash_bytes(zeros, len, 1);
    for (size_t len = 1; len < 100; len++) hashes[n++] = hash_bytes(ones, len, 1);
    for (uint64_t i = 1000; n < N; i++) hashes[n++] = hash_bytes(&i, sizeof i, 1);
    qsort(hashes, N, sizeof *hashes, map_compare_u64);
    for (size_t i = 1; i < N; i++) assert_true(hashes[i] != hashes[i - 1]);
    mem_free(hashes);
    assert_true(hash_bytes("abc", 3, 1) != hash_bytes("abc", 3, 2));
    assert_true(hash_bytes("abc", 3, 1) == hash_bytes("abcd", 3, 1));
}

/* Flips each bit of inputs of several lengths and counts which bits of the hash follow. */
static void hash_avalanches(void **state) {
    (void)state;
    const size_t lens[] = {1, 7, 8, 9, 16, 17, 40};
    for (size_t l = 0; l < ARRAY_LEN(lens); l++) {
        size_t n_flips = lens[l] * 8, n_rounds = 200;
        double n_changed = 0;
        for (uint64_t round = 0; round < n_rounds; round++) {
            uint8_t text[40];
            for (size_t i = 0; i < sizeof text; i++) text[i] = (uint8_t)hash_mix(round * 40 + i);
            uint64_t before = hash_bytes(text, lens[l], round);
            for (size_t bit = 0; bit < n_flips; bit++) {
                text[bit / 8] ^= (uint8_t)(1 << bit % 8);
                uint64_t change = before ^ hash_bytes(text, lens[l], round);
                text[bit / 8] ^= (uint8_t)(1 << bit % 8);
                assert_true(change != 0);
                n_changed += __builtin_popcountll(change);
            }
        }
        double mean = n_changed / (double)(n_rounds * n_flips);
        assert_true(mean > 31 && mean < 33);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_holds_what_was_put), cmocka_unit_test(map_takes_any_bytes),
        cmocka_unit_test(map_reserve_saves_rehashing), cmocka_unit_test(hash_has_no_collisions),
        cmocka_unit_test(hash_avalanches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
