/* process: what the kernel tells of this process. */
#pragma once

#include "base/base.h"

typedef struct ProcessStats {
    int64_t resident_bytes, virtual_bytes;
    double cpu_s;   /* user and system time */
    double start_s; /* since the epoch */
    int32_t n_files;
    int64_t n_files_max;
} ProcessStats;

/* What cannot be read is 0. */
ProcessStats process_stats(void);
