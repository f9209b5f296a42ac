/* test_memory: buffers, arenas, files and allocation at their limits: what does not fit is refused
 * and leaves things as they were. */
#include "base/clock.h"
#include "testing.h"

static void buf_grows_to_its_limit(void **state) {
    (void)state;
    Buf buf = {.bytes_max = 10};
    buf_append_text(&buf, "hello");
    buf_append_format(&buf, " %d", 42);
    buf_append_byte(&buf, '!');
    assert_string_equal(buf.data, "hello 42!");
    buf_append_text(&buf, "xy");
    assert_true(buf.failed);
    assert_string_equal(buf.data, "hello 42!");
    /* Once failed nothing is taken, even if it fitted. */
    buf_append_byte(&buf, 'z');
    assert_int_equal(buf.len, 9);
    buf_clear(&buf);
    assert_false(buf.failed);
    buf_append(&buf, "\0\0", 2);
    assert_int_equal(buf_str(&buf).len, 2);
    assert_false(buf_reserve(&buf, SIZE_MAX));
    buf_free(&buf);
    assert_int_equal(buf_str(&buf).len, 0);
}

static void ints_keep_order(void **state) {
    (void)state;
    Ints ints = {0};
    for (int32_t i = 0; i < 1000; i++) ints_push(&ints, i);
    ints_append(&ints, (const int32_t[]){-1, -2}, 2);
    assert_int_equal(ints.len, 1002);
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(ints.data[i], i);
    assert_int_equal(ints.data[1001], -2);
    ints_clear(&ints);
    assert_int_equal(ints.len, 0);
    ints_free(&ints);
}

static void mem_is_aligned_and_zero(void **state) {
    (void)state;
    for (size_t bytes = 0; bytes < 300; bytes += 7) {
        uint8_t *p = mem_alloc(bytes);
        assert_int_equal((uintptr_t)p % CACHE_LINE, 0);
        for (size_t i = 0; i < bytes; i++) assert_int_equal(p[i], 0);
        mem_free(p);
    }
    assert_null(mem_try_alloc(SIZE_MAX / 2, 3));
    assert_null(mem_try_alloc(SIZE_MAX, 1));
    size_t large = 3 << 20;
    uint8_t *p = mem_try_alloc_large(large);
    assert_non_null(p);
    p[large - 1] = 1;
    mem_free_large(p, large);
    mem_free(NULL);
}

static void arena_stays_in_its_limit(void **state) {
    (void)state;
    Arena arena = {.bytes_max = 200000};
    char *copy = arena_strndup(&arena, "hello", 3);
    assert_string_equal(copy, "hel");
    uint8_t *large = arena_alloc(&arena, 150000);
    assert_non_null(large);
    assert_int_equal((uintptr_t)large % 16, 0);
    for (size_t i = 0; i < 150000; i++) assert_int_equal(large[i], 0);
    assert_null(arena_alloc(&arena, 60000));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_non_null(arena_alloc(&arena, 40000));
    assert_string_equal(copy, "hel");
    arena_free(&arena);
    assert_int_equal(arena.used_bytes, 0);
}

static void file_reads_what_was_written(void **state) {
    (void)state;
    char *dir = testing_temp_dir();
    char *path = file_join(dir, "a.bin");
    Err err = {0};
    FileWriter writer;
    ASSERT_OK(file_writer_open(&writer, path, &err), err);
    fputs("first", writer.stream);
    assert_false(file_exists(path));
    ASSERT_OK(file_writer_commit(&writer, &err), err);
    file_writer_abort(&writer);
    /* A writer that gives up leaves the old file. */
    ASSERT_OK(file_writer_open(&writer, path, &err), err);
    fputs("second", writer.stream);
    file_writer_abort(&writer);

    Buf buf = {0};
    ASSERT_OK(file_read(&buf, path, 5, &err), err);
    assert_string_equal(buf.data, "first");
    assert_int_equal(file_read(&buf, path, 4, &err), ERR_LIMIT);
    FileMap map;
    ASSERT_OK(file_map(&map, path, &(Err){0}), err);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "first", 5);
    file_unmap(&map);
    buf_free(&buf);
    mem_free(path);
    testing_temp_remove(dir);
}

/* Forgotten pages come back from the file with their content; odd ends stay as they are. */
static void file_map_forgets(void **state) {
    (void)state;
    enum { BYTES = 50000 };
    char *dir = testing_temp_dir(), *path = file_join(dir, "pages"), *bytes = mem_alloc(BYTES);
    for (int i = 0; i < BYTES; i++) bytes[i] = (char)(i * 7 + i / 251);
    testing_write(path, bytes, BYTES);
    FileMap map;
    assert_int_equal(file_map(&map, path, NULL), OK);
    assert_memory_equal(map.data, bytes, BYTES);
    file_map_forget(map.data, map.size);
    assert_memory_equal(map.data, bytes, BYTES);
    file_map_forget(map.data + 1000, 30001);
    file_map_forget(map.data + 5, 10);
    file_map_forget(map.data, 0);
    assert_memory_equal(map.data, bytes, BYTES);
    file_unmap(&map);
    mem_free(bytes);
    mem_free(path);
    testing_temp_remove(dir);
}

static void file_refuses_what_is_no_file(void **state) {
    (void)state;
    char *dir = testing_temp_dir();
    char *path = file_join(dir, "absent");
    Buf buf = {0};
    FileMap map;
    FileWriter writer;
    Err err = {0};
    assert_int_equal(file_map(&map, path, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "absent"));
    assert_int_equal(file_map(&map, dir, NULL), ERR_IO);
    assert_int_equal(file_read(&buf, dir, 100, NULL), ERR_IO);
    assert_int_equal(file_read(&buf, "/dev/zero", 100, NULL), ERR_IO);
    testing_write(path, "", 0);
    assert_int_equal(file_map(&map, path, NULL), OK);
    assert_int_equal(map.size, 0);
    file_unmap(&map);
    mem_free(path);
    path = file_join(dir, "no/such/folder");
    assert_int_equal(file_writer_open(&writer, path, NULL), ERR_IO);
    mem_free(path);
    assert_true(file_is_dir(dir));
    testing_temp_remove(dir);
}

static void err_keeps_the_first_sentence(void **state) {
    (void)state;
    Err err = {0};
    assert_int_equal(err_set(&err, ERR_FORMAT, "first %d", 1), ERR_FORMAT);
    assert_int_equal(err_set(&err, ERR_IO, "second"), ERR_IO);
    assert_string_equal(err.text, "first 1");
    assert_int_equal(err.status, ERR_FORMAT);
    assert_int_equal(err_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
    for (int status = 0; status < STATUS_COUNT; status++)
        assert_true(strlen(status_text((Status)status)) > 1);
    assert_string_equal(status_text((Status)99), "unknown status");
}

static void clock_never_goes_back(void **state) {
    (void)state;
    int64_t last = clock_us(), start = last;
    while (last < start + 1000) {
        int64_t now = clock_us();
        assert_true(now >= last);
        last = now;
    }
}

/* Pieces small and larger than a chunk: zeroed, aligned, apart from each other. */
static void large_pieces_lie_apart(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 64, 1000, 3 << 20, 70 << 20, 40 << 20, 40 << 20, 5};
    LargeArena arena = {0};
    char *piece[ARRAY_LEN(sizes)];
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        piece[i] = arena_large_alloc(&arena, sizes[i]);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % CACHE_LINE, 0);
        assert_true(piece[i][0] == 0 && piece[i][sizes[i] - 1] == 0);
        piece[i][0] = piece[i][sizes[i] - 1] = (char)(i + 1);
        for (size_t j = 0; j < i; j++)
            assert_true(piece[j] + sizes[j] <= piece[i] || piece[i] + sizes[i] <= piece[j]);
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        assert_true(piece[i][0] == (char)(i + 1) && piece[i][sizes[i] - 1] == (char)(i + 1));
    assert_null(arena_large_alloc(&arena, SIZE_MAX - 1));
    arena_large_free(&arena);
    assert_null(arena.chunk);
    arena_large_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(buf_grows_to_its_limit),
                                       cmocka_unit_test(ints_keep_order),
                                       cmocka_unit_test(mem_is_aligned_and_zero),
                                       cmocka_unit_test(arena_stays_in_its_limit),
                                       cmocka_unit_test(large_pieces_lie_apart),
                                       cmocka_unit_test(file_reads_what_was_written),
                                       cmocka_unit_test(file_map_forgets),
                                       cmocka_unit_test(file_refuses_what_is_no_file),
                                       cmocka_unit_test(err_keeps_the_first_sentence),
                                       cmocka_unit_test(clock_never_goes_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
