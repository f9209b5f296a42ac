/* numa: memory and threads on machines whose memory has several nodes. On one node, and where the
 * system does not tell, nothing happens.
 *
 * Which thread takes which part of a matrix changes from run to run, so large memory is dealt out
 * to the nodes page by page: every thread reads as much from near as any other, and all memories
 * are read at once. Threads are spread over the nodes and stay there. */
#pragma once

#include <sched.h>

#include "base/base.h"

enum { NUMA_NODES_MAX = 64 };

/* The nodes that have processors. */
typedef struct NumaNodes {
    int32_t n;
    cpu_set_t cpus[NUMA_NODES_MAX];
} NumaNodes;

/* The folder that the system describes its nodes in. */
#define NUMA_FOLDER "/sys/devices/system/node"

/* Reads such a folder, leaving out the processors that are not in `allowed`; 0 nodes where it
 * cannot be read. */
void numa_read(NumaNodes *out, const char *folder, const cpu_set_t *allowed);
/* The node of thread i of n_threads: neighbours together, as many threads on each as on any. */
int32_t numa_node_of(const NumaNodes *nodes, int32_t i, int32_t n_threads);

/* Deals the pages of memory that nobody touched yet out to all nodes that this process may use. p
 * begins a page. */
void numa_interleave(void *p, size_t bytes);
