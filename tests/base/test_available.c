/* test_available: folders like the system's, of machines and containers that are not here, against
 * what they leave, computed by hand; and this machine leaves something. */
#include "base/available.h"

#include <sys/stat.h>

#include "testing.h"

#define MEMINFO "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 5000 kB\nSwapFree: 1000 kB\n"

typedef struct AvailableFile {
    const char *path, *text;
} AvailableFile;

/* Writes the files and the folders that they need, and asks. */
static int64_t available_fake(const AvailableFile *files) {
    char *root = testing_temp_dir(), path[512];
    for (; files->path != NULL; files++) {
        snprintf(path, sizeof path, "%s/%s", root, files->path);
        for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
            *slash = '\0';
            (void)mkdir(path, 0700);
            *slash = '/';
        }
        testing_write(path, files->text, strlen(files->text));
    }
    const int64_t left = available_memory(root);
    testing_temp_remove(root);
    return left;
}

static void available_of_machine(void **state) {
    (void)state;
    assert_int_equal(available_fake((AvailableFile[]){{NULL, NULL}}), INT64_MAX);
    assert_int_equal(available_fake((AvailableFile[]){{"proc/meminfo", MEMINFO}, {NULL, NULL}}),
                     6000 * 1024);
    assert_int_equal(
        available_fake((AvailableFile[]){
            {"proc/meminfo", "nonsense\n"}, {"proc/self/cgroup", "more\n0::"}, {NULL, NULL}}),
        INT64_MAX);
    const int64_t here = available_memory("");
    assert_true(here > 0);
}

/* The group has no limit, the one above it leaves less than the machine, the next one more. */
static void available_of_groups(void **state) {
    (void)state;
    AvailableFile files[] = {
        {"proc/meminfo", MEMINFO},
        {"proc/self/cgroup", "1:name=x:/other\n0::/a/b/c\n"},
        {"sys/fs/cgroup/a/b/c/memory.max", "max\n"},
        {"sys/fs/cgroup/a/b/c/memory.current", "77\n"},
        {"sys/fs/cgroup/a/b/memory.max", "4000000\n"},
        {"sys/fs/cgroup/a/b/memory.current", "3000000\n"},
        {"sys/fs/cgroup/a/b/memory.stat", "anon 5\nactive_file 200000\ninactive_file 50000\n"},
        {"sys/fs/cgroup/a/memory.max", "5000000\n"},
        {"sys/fs/cgroup/a/memory.current", "3500000\n"},
        {NULL, NULL}};
    assert_int_equal(available_fake(files), 4000000 - (3000000 - 250000));
    files[5].text = "9000000\n"; /* more than the limit, as after it was lowered */
    assert_int_equal(available_fake(files), 0);
    /* As a container sees its own group, and all of it is files. */
    files[1].text = "0::/\n";
    files[4] = (AvailableFile){"sys/fs/cgroup/memory.max", "4000000\n"};
    files[5] = (AvailableFile){"sys/fs/cgroup/memory.current", "30\n"};
    files[6] = (AvailableFile){"sys/fs/cgroup/memory.stat", "inactive_file 50\n"};
    assert_int_equal(available_fake(files), 4000000);
}

static void available_of_groups_v1(void **state) {
    (void)state;
    AvailableFile files[] = {{"proc/meminfo", MEMINFO},
                             {"proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/1\n"},
                             /* Outside: the container's own group is mounted as the root. */
                             {"sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"},
                             {"sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"},
                             {"sys/fs/cgroup/memory/memory.stat",
                              "inactive_file 1\ntotal_inactive_file 1000\ntotal_active_file 24\n"},
                             {NULL, NULL}};
    assert_int_equal(available_fake(files), 2000000 - (1500000 - 1024));
    files[2].text = "9223372036854771712\n"; /* no limit */
    assert_int_equal(available_fake(files), 6000 * 1024);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(available_of_machine),
        cmocka_unit_test(available_of_groups),
        cmocka_unit_test(available_of_groups_v1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
