/* test_kv_disk: the file of a prefix cache, record by record, and its folder.
 *
 * Records are written with known contents, by the caller or by the thread, and read back after
 * reopening. Faults: a limit on the size of files makes writes fail or come out short; bytes are
 * changed and cut away by hand. */
#include "../testing.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "kv/kv_cache.h"
#include "kv/kv_disk_dir.h"

enum { TOKENS = 4, PAYLOAD = 100, RECORDS = 8, HEADER = 4096 };

static KvDiskOptions options(const char *dir) {
    return (KvDiskOptions){.dir = dir,
                           .dir_bytes_max = 1 << 20,
                           .identity = {11, 22},
                           .salt_seed = 5,
                           .block_tokens = TOKENS,
                           .payload_bytes = PAYLOAD,
                           .n_records = RECORDS};
}

static int64_t record_bytes(void) {
    const KvDiskOptions o = options("");
    return kv_disk_file_bytes(&o, 1) - kv_disk_file_bytes(&o, 0);
}

static KvDisk *open_disk(const KvDiskOptions *o) {
    KvDisk *disk;
    Err err = {0};
    if (kv_disk_open(&disk, o, &err) != OK) fail_msg("%s", err.text);
    return disk;
}

static KvNode node_of(uint64_t prefix, int32_t number) {
    return (KvNode){.prefix = prefix, .disk = number};
}

/* Hands in a record whose tokens and payload follow from its prefix; returns its number. */
static int32_t put(KvDisk *disk, uint64_t prefix) {
    const KvDiskEntry entry = {
        .prefix = prefix, .parent = prefix - 2, .depth = (int32_t)prefix, .groups = 1};
    int32_t token[TOKENS], number;
    for (int32_t i = 0; i < TOKENS; i++) token[i] = (int32_t)prefix * 10 + i;
    int32_t buffer = -1;
    while (buffer < 0) { /* the thread has them all */
        kv_disk_settle(disk);
        buffer = kv_disk_take(disk);
    }
    memset(kv_disk_fill(disk, buffer, &entry, token, &number), (int)prefix, PAYLOAD);
    kv_disk_submit(disk, true);
    return number;
}

/* Reads the file anew: a bit for each prefix that is there, whose contents are right. */
static uint64_t reread(const KvDiskOptions *o, int64_t n_damaged) {
    KvDisk *disk = open_disk(o);
    KvDiskFound *found;
    int32_t n;
    uint64_t set = 0;
    assert_int_equal(kv_disk_scan(disk, &found, &n, NULL), OK);
    assert_int_equal(kv_disk_counts(disk)->n_damaged, n_damaged);
    for (int32_t i = 0; i < n; i++) {
        const uint64_t prefix = found[i].entry.prefix;
        void *payload;
        const int32_t *token = kv_disk_read(disk, found[i].number, i % KV_DISK_BUFFERS, &payload);
        assert_non_null(token);
        assert_true(i == 0 || found[i].entry.depth >= found[i - 1].entry.depth);
        for (int32_t t = 0; t < TOKENS; t++) assert_int_equal(token[t], (int32_t)prefix * 10 + t);
        for (int32_t k = 0; k < PAYLOAD; k++) {
            assert_int_equal(((unsigned char *)payload)[k], prefix);
        }
        set |= UINT64_C(1) << prefix;
    }
    mem_free(found);
    kv_disk_close(disk);
    return set;
}

/* The only file in the folder. */
static char *only_file(const char *dir) {
    char *path = NULL;
    DIR *folder = opendir(dir);
    assert_non_null(folder);
    for (const struct dirent *d; (d = readdir(folder)) != NULL;) {
        if (d->d_name[0] == '.') continue;
        assert_null(path);
        path = file_join(dir, d->d_name);
    }
    closedir(folder);
    assert_non_null(path);
    return path;
}

static void limit_files(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* ---- records ----------------------------------------------------------------------------- */

/* With the thread and without: the newest are there, the seed of the old file counts. */
static void a_ring_of_records(void **state) {
    KvDiskOptions o = options(*state);
    KvDisk *disk = open_disk(&o);
    for (uint64_t p = 1; p < 6; p += 2) put(disk, p);
    kv_disk_settle(disk);
    assert_int_equal(kv_disk_counts(disk)->n_written, 3);
    kv_disk_close(disk);
    assert_int_equal(reread(&o, 0), 0x2a);
    o.salt_seed = 6;
    disk = open_disk(&o);
    assert_int_equal(kv_disk_salt_seed(disk), 5);
    KvDiskFound *found;
    int32_t n;
    assert_int_equal(kv_disk_scan(disk, &found, &n, NULL), OK);
    mem_free(found);
    assert_int_equal(kv_disk_start(disk, NULL), OK);
    assert_int_equal(put(disk, 7), 3); /* it goes on after the newest */
    for (uint64_t p = 9; p < 40; p += 2) put(disk, p);
    kv_disk_close(disk);
    uint64_t want = 0;
    for (uint64_t p = 25; p < 40; p += 2) want |= UINT64_C(1) << p;
    assert_int_equal(reread(&o, 0), want);
    o.n_records = 3; /* the file is cut */
    assert_int_equal(__builtin_popcountll(reread(&o, 0)), 3);
    o.n_records = 2 * RECORDS;
    assert_int_equal(__builtin_popcountll(reread(&o, 0)), 3);
}

/* A write that fails, or of which only a part arrives, is not there, and works when done again. */
static void failed_writes_are_not_there(void **state) {
    const KvDiskOptions o = options(*state);
    KvDisk *disk = open_disk(&o);
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    const int32_t one = put(disk, 1);
    for (int32_t part = 0; part < 2; part++) {
        limit_files((rlim_t)(HEADER + (1 + part) * record_bytes() + 60 * part));
        const int32_t three = put(disk, 3);
        KvNode node = node_of(3, three);
        limit_files(RLIM_INFINITY);
        kv_disk_settle(disk);
        assert_int_equal(kv_disk_counts(disk)->n_failed, 1 + part);
        assert_false(kv_disk_has(disk, &node));
        node = node_of(1, one);
        assert_true(kv_disk_has(disk, &node));
    }
    const int32_t again = put(disk, 3);
    const KvNode node = node_of(3, again);
    kv_disk_settle(disk);
    assert_true(kv_disk_has(disk, &node));
    assert_int_equal(kv_disk_counts(disk)->n_written, 2);
    kv_disk_close(disk);
    assert_int_equal(reread(&o, 1), 0xa); /* the part that arrived is no record */
}

/* Erased records do not come back, whether written, written twice or only queued. */
static void erased_records_are_gone(void **state) {
    const KvDiskOptions o = options(*state);
    for (int32_t threaded = 0; threaded < 2; threaded++) {
        KvDisk *disk = open_disk(&o);
        if (threaded) assert_int_equal(kv_disk_start(disk, NULL), OK);
        for (uint64_t p = 1; p < 8; p += 2) put(disk, p);
        const int32_t again = put(disk, 5);
        kv_disk_erase(disk, 5);
        kv_disk_erase(disk, 7);
        kv_disk_erase(disk, 31); /* never there */
        const KvNode node = node_of(5, again);
        assert_false(kv_disk_has(disk, &node));
        kv_disk_close(disk);
        assert_int_equal(reread(&o, 0), 0xa);
    }
}

static void a_cleared_file_is_empty(void **state) {
    const KvDiskOptions o = options(*state);
    for (int32_t threaded = 0; threaded < 2; threaded++) {
        KvDisk *disk = open_disk(&o);
        if (threaded) assert_int_equal(kv_disk_start(disk, NULL), OK);
        for (uint64_t p = 1; p < 30; p += 2) put(disk, p);
        assert_int_equal(kv_disk_clear(disk, NULL), OK);
        char *path = only_file(*state);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, HEADER);
        mem_free(path);
        const int32_t number = put(disk, 9);
        assert_int_equal(number, 0);
        kv_disk_close(disk);
        assert_int_equal(reread(&o, 0), 0x200);
    }
}

/* Every byte of a record counts; what is damaged is told. */
static void damage_is_counted(void **state) {
    const KvDiskOptions o = options(*state);
    KvDisk *disk = open_disk(&o);
    for (uint64_t p = 1; p < 6; p += 2) put(disk, p);
    kv_disk_close(disk);
    char *path = only_file(*state);
    const int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    for (int64_t at = 0; at < record_bytes(); at++) {
        unsigned char byte;
        const off_t offset = HEADER + record_bytes() + at;
        assert_int_equal(pread(fd, &byte, 1, offset), 1);
        byte ^= 0x20;
        assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
        assert_int_equal(reread(&o, 1), 0x22);
        byte ^= 0x20;
        assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    }
    assert_int_equal(ftruncate(fd, HEADER + 2 * record_bytes() + 9), 0);
    assert_int_equal(reread(&o, 1), 0xa);
    assert_int_equal(pwrite(fd, "x", 1, 20), 1); /* the header: all is lost, and told */
    assert_int_equal(reread(&o, 1), 0);
    assert_int_equal(reread(&o, 0), 0);
    close(fd);
    mem_free(path);
}

/* ---- under a prefix cache ---------------------------------------------------------------- */

/* Computes the sequence's tokens and has them written. */
static void run_seq(KvCache *cache, KvSeq *seq, const int32_t *token, int32_t n, KvMoves *moves) {
    KvMatch match;
    kv_cache_match(cache, (KvSalt){{1, 2}}, token, n, &match);
    kv_cache_begin(cache, seq, (KvSalt){{1, 2}}, &match, moves);
    assert_true(kv_cache_append(cache, seq, n - match.n_tokens, moves));
    kv_cache_commit(cache, seq, token, n);
    moves->n = 0;
    kv_cache_export(cache, moves);
    for (int32_t i = 0; i < moves->n; i++) {
        assert_int_equal(moves->move[i].kind, KV_MOVE_READ);
        memset(moves->move[i].bytes, moves->move[i].src, PAYLOAD);
    }
    kv_cache_exported(cache, true);
}

/* Blocks that are not to be trusted leave the file too, those that others hold stay. */
static void forgotten_blocks_leave_the_file(void **state) {
    const KvDiskOptions o = options(*state);
    const KvCacheConfig config = {
        .n_groups = 1, .block_tokens = TOKENS, .n_blocks = {8}, .prefix = true};
    const int32_t one[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
                  two[] = {1, 2, 3, 4, 25, 26, 27, 28};
    KvCache cache;
    KvSeq seq[2];
    int32_t memory[2][8], n;
    KvMove move[64];
    KvMoves moves = {.move = move, .n_max = 64};
    KvDisk *disk = open_disk(&o);
    assert_int_equal(kv_cache_init(&cache, &config, NULL), OK);
    kv_cache_set_disk(&cache, disk, (const int64_t[]){PAYLOAD, 0});
    for (int32_t i = 0; i < 2; i++) kv_cache_seq_init(&cache, &seq[i], memory[i], 32);
    run_seq(&cache, &seq[0], one, 12, &moves);
    run_seq(&cache, &seq[1], two, 8, &moves);
    kv_disk_settle(disk);
    assert_int_equal(kv_disk_counts(disk)->n_written, 4);
    kv_cache_forget(&cache, &seq[0]);
    for (int32_t i = 0; i < 2; i++) kv_cache_end(&cache, &seq[i]);
    kv_cache_free(&cache);
    kv_disk_close(disk);
    disk = open_disk(&o);
    KvDiskFound *found;
    assert_int_equal(kv_disk_scan(disk, &found, &n, NULL), OK);
    assert_int_equal(n, 2);
    for (int32_t i = 0; i < 2; i++) {
        void *payload;
        const int32_t *token = kv_disk_read(disk, found[i].number, 0, &payload);
        assert_non_null(token);
        assert_memory_equal(token, two + (ptrdiff_t)i * TOKENS, TOKENS * sizeof *token);
    }
    mem_free(found);
    kv_disk_close(disk);
}

/* ---- the folder -------------------------------------------------------------------------- */

/* Dates the file that was changed last. */
static void date_newest(const char *dir, int32_t age_s) {
    char newest[300] = "";
    struct timespec time = {0};
    DIR *folder = opendir(dir);
    assert_non_null(folder);
    for (const struct dirent *d; (d = readdir(folder)) != NULL;) {
        struct stat st;
        assert_int_equal(fstatat(dirfd(folder), d->d_name, &st, 0), 0);
        const bool newer = st.st_mtim.tv_sec > time.tv_sec ||
                           (st.st_mtim.tv_sec == time.tv_sec && st.st_mtim.tv_nsec > time.tv_nsec);
        if (d->d_name[0] == '.' || !newer) continue;
        snprintf(newest, sizeof newest, "%s", d->d_name);
        time = st.st_mtim;
    }
    const struct timespec then[2] = {{.tv_sec = time.tv_sec - age_s},
                                     {.tv_sec = time.tv_sec - age_s}};
    assert_int_equal(utimensat(dirfd(folder), newest, then, 0), 0);
    closedir(folder);
}

/* Opens a file of `identity`, fills it, and dates it. */
static void fill_file(KvDiskOptions *o, uint64_t identity, int32_t age_s) {
    o->identity[0] = identity;
    KvDisk *disk = open_disk(o);
    for (uint64_t p = 1; p < 2 * RECORDS; p += 2) put(disk, p);
    kv_disk_close(disk);
    date_newest(o->dir, age_s);
}

/* Each configuration has a file; the least recently used leave when there is no room. */
static void configurations_share_a_folder(void **state) {
    KvDiskOptions o = options(*state);
    o.dir_bytes_max = 3 * kv_disk_file_bytes(&o, RECORDS);
    fill_file(&o, 1, 1000);
    fill_file(&o, 2, 3000);
    fill_file(&o, 3, 2000);
    const uint64_t all = 0xaaaa;
    o.identity[0] = 2;
    KvDisk *used = open_disk(&o); /* the oldest, but it is in use */
    date_newest(*state, 3000);
    o.identity[0] = 4;
    kv_disk_close(open_disk(&o));
    kv_disk_close(used);
    o.dir_bytes_max *= 4;
    for (uint64_t identity = 1; identity < 5; identity++) {
        o.identity[0] = identity;
        assert_int_equal(reread(&o, 0), identity == 4 || identity == 3 ? 0 : all);
    }
    o.identity[0] = 1;
    o.block_tokens = 2 * TOKENS; /* so it is with another shape */
    kv_disk_close(open_disk(&o));
    o.block_tokens = TOKENS;
    assert_int_equal(reread(&o, 0), all);
    KvDisk *disk = open_disk(&o), *other;
    assert_int_equal(kv_disk_open(&other, &o, NULL), ERR_IO); /* one process at a time */
    kv_disk_close(disk);
}

static void folders_are_checked(void **state) {
    char *absent = file_join(*state, "new/"), *deep = file_join(*state, "no/new");
    char *file = file_join(*state, "file");
    testing_write(file, "x", 1);
    Err is_deep = {0}, is_file = {0};
    assert_int_equal(kv_disk_dir_check(*state, NULL), OK);
    assert_int_equal(kv_disk_dir_check(absent, NULL), OK);
    assert_false(file_exists(absent));
    assert_int_equal(kv_disk_dir_check("new", NULL), OK);
    assert_int_equal(kv_disk_dir_check(deep, &is_deep), ERR_IO);
    assert_non_null(strstr(is_deep.text, "cannot be made"));
    assert_int_equal(kv_disk_dir_check(file, &is_file), ERR_IO);
    assert_non_null(strstr(is_file.text, "not a folder"));
    mem_free(absent);
    mem_free(deep);
    mem_free(file);
}

static int set_up(void **state) {
    *state = testing_temp_dir();
    return 0;
}

static int tear_down(void **state) {
    limit_files(RLIM_INFINITY);
    testing_temp_remove(*state);
    return 0;
}

#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        DISK_TEST(a_ring_of_records),
        DISK_TEST(failed_writes_are_not_there),
        DISK_TEST(erased_records_are_gone),
        DISK_TEST(a_cleared_file_is_empty),
        DISK_TEST(damage_is_counted),
        DISK_TEST(forgotten_blocks_leave_the_file),
        DISK_TEST(configurations_share_a_folder),
        DISK_TEST(folders_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
