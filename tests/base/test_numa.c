/* test_numa: folders like the system's, of machines that are not here, against the nodes written
 * out by hand; threads shared out evenly; memory that was dealt out works, and on a machine of one
 * node keeps its policy. */
#include "base/numa.h"

#include <linux/mempolicy.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "testing.h"

/* A folder with node<number>/cpulist for each list; the path is the caller's. */
static char *numa_fake(const int *numbers, const char *const *lists, int n) {
    char *folder = testing_temp_dir();
    for (int i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/node%d", folder, numbers[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(path, sizeof path, "%s/node%d/cpulist", folder, numbers[i]);
        testing_write(path, lists[i], strlen(lists[i]));
    }
    return folder;
}

static void numa_read_fake(NumaNodes *out, const int *numbers, const char *const *lists, int n,
                           const cpu_set_t *allowed) {
    char *folder = numa_fake(numbers, lists, n);
    numa_read(out, folder, allowed);
    testing_temp_remove(folder);
}

static cpu_set_t numa_cpus(const int *cpus, int n) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < n; i++) CPU_SET(cpus[i], &set);
    return set;
}

static void numa_reads(void **state) {
    (void)state;
    static NumaNodes nodes;
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);

    /* A gap in the numbers, a node of memory alone, two runs of processors. */
    const int numbers[] = {0, 1, 4};
    const char *const lists[] = {"0-2,8-9\n", "\n", "3,5\n"};
    numa_read_fake(&nodes, numbers, lists, 3, &all);
    assert_int_equal(nodes.n, 2);
    cpu_set_t first = numa_cpus((int[]){0, 1, 2, 8, 9}, 5), second = numa_cpus((int[]){3, 5}, 2);
    assert_true(CPU_EQUAL(&nodes.cpus[0], &first) && CPU_EQUAL(&nodes.cpus[1], &second));

    /* A process that may not use one of the nodes does not see it. */
    cpu_set_t some = numa_cpus((int[]){3, 5, 7}, 3);
    numa_read_fake(&nodes, numbers, lists, 3, &some);
    assert_int_equal(nodes.n, 1);
    assert_true(CPU_EQUAL(&nodes.cpus[0], &second));

    /* What is no list of processors gives none; nor does a folder that is not there. */
    const char *const bad[] = {"all", "-1--5", "99999-100000"};
    numa_read_fake(&nodes, numbers, bad, 3, &all);
    assert_int_equal(nodes.n, 0);
    numa_read(&nodes, "/nowhere/at/all", &all);
    assert_int_equal(nodes.n, 0);
}

static void numa_shares_threads_out(void **state) {
    (void)state;
    NumaNodes *nodes = mem_alloc(sizeof *nodes);
    for (nodes->n = 1; nodes->n <= 5; nodes->n++) {
        for (int32_t n_threads = 1; n_threads <= 33; n_threads++) {
            int32_t count[NUMA_NODES_MAX] = {0}, before = 0;
            for (int32_t i = 0; i < n_threads; i++) {
                int32_t node = numa_node_of(nodes, i, n_threads);
                assert_true(node >= before && node < nodes->n);
                count[before = node]++;
            }
            for (int32_t i = 0; i < nodes->n; i++) {
                assert_true(count[i] >= n_threads / nodes->n);
                assert_true(count[i] <= DIV_UP(n_threads, nodes->n));
            }
        }
    }
    mem_free(nodes);
}

static void numa_memory_works(void **state) {
    (void)state;
    const size_t bytes = 9 << 20;
    char *p = mem_try_alloc_large(bytes);
    assert_non_null(p);
    for (size_t i = 0; i < bytes; i += 4096) p[i] = (char)(i >> 12);
    for (size_t i = 0; i < bytes; i += 4096) assert_int_equal(p[i], (char)(i >> 12));

    static NumaNodes nodes;
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    numa_read(&nodes, NUMA_FOLDER, &all);
    int policy = -1;
    bool told = syscall(SYS_get_mempolicy, &policy, NULL, 0ul, p, (unsigned long)MPOL_F_ADDR) == 0;
    mem_free_large(p, bytes);
    if (!told || nodes.n != 1) skip();
    assert_int_equal(policy, MPOL_DEFAULT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(numa_reads),
                                       cmocka_unit_test(numa_shares_threads_out),
                                       cmocka_unit_test(numa_memory_works)};
    return cmocka_run_group_tests_name("numa", tests, NULL, NULL);
}
