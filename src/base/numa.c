#include "base/numa.h"

#include <linux/mempolicy.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* "0-3,8" to a set; CPUs beyond what the set holds are left out. */
static void numa_parse_cpus(FILE *stream, cpu_set_t *out) {
    int first, last;
    CPU_ZERO(out);
    while (fscanf(stream, "%d", &first) == 1) {
        last = first;
        int c = fgetc(stream);
        if (c == '-') {
            if (fscanf(stream, "%d", &last) != 1) return;
            c = fgetc(stream);
        }
        for (int cpu = MAX(first, 0); cpu <= last && cpu < CPU_SETSIZE; cpu++) CPU_SET(cpu, out);
        if (c != ',') return;
    }
}

void numa_read(NumaNodes *out, const char *folder, const cpu_set_t *allowed) {
    *out = (NumaNodes){0};
    for (int32_t node = 0; node < NUMA_NODES_MAX; node++) {
        char path[256];
        if (snprintf(path, sizeof path, "%s/node%d/cpulist", folder, node) >= (int)sizeof path)
            return;
        FILE *stream = fopen(path, "re");
        if (stream == NULL) continue; /* numbers may have gaps */
        cpu_set_t *cpus = &out->cpus[out->n];
        numa_parse_cpus(stream, cpus);
        fclose(stream);
        CPU_AND(cpus, cpus, allowed);
        if (CPU_COUNT(cpus) > 0) out->n++;
    }
}

int32_t numa_node_of(const NumaNodes *nodes, int32_t i, int32_t n_threads) {
    return (int32_t)((int64_t)i * nodes->n / n_threads);
}

enum { NUMA_MASK_BITS = 1024, NUMA_WORD_BITS = 8 * sizeof(unsigned long) };

void numa_interleave(void *p, size_t bytes) {
    unsigned long mask[NUMA_MASK_BITS / NUMA_WORD_BITS] = {0};
    if (syscall(SYS_get_mempolicy, NULL, mask, (unsigned long)NUMA_MASK_BITS, NULL,
                (unsigned long)MPOL_F_MEMS_ALLOWED) != 0)
        return;
    int n_nodes = 0;
    for (size_t i = 0; i < ARRAY_LEN(mask); i++) n_nodes += __builtin_popcountl(mask[i]);
    if (n_nodes < 2) return;
    /* Advice only: memory from one node works all the same. */
    (void)syscall(SYS_mbind, p, bytes, (unsigned long)MPOL_INTERLEAVE, mask,
                  (unsigned long)NUMA_MASK_BITS, 0ul);
}
