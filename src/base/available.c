#include "base/available.h"

#include <stdio.h>
#include <string.h>

#include "base/cgroup.h"

/* cgroups v1 write the largest number of pages where there is no limit. */
static const int64_t AVAILABLE_NO_LIMIT = INT64_MAX / 2;

/* How a version of cgroups tells a group's memory. */
typedef struct AvailableGroups {
    const char *key; /* stands before the group's path in /proc/self/cgroup */
    const char *folder, *limit, *usage;
    const char *cached[2]; /* of memory.stat: pages that can be dropped */
} AvailableGroups;

static const AvailableGroups AVAILABLE_GROUPS[] = {
    {"0::/", "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file", "active_file"}},
    {":memory:/",
     "/sys/fs/cgroup/memory",
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     {"total_inactive_file", "total_active_file"}},
};

/* The number behind a name at the beginning of a line, without a name the file's own; -1: none. */
static int64_t available_read(const char *folder, const char *file, const char *name) {
    char path[2 * CGROUP_PATH_BYTES], line[256], word[64];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *stream = fopen(path, "re");
    if (stream == NULL) return -1;
    long long number = -1, found = -1;
    while (found < 0 && fgets(line, sizeof line, stream) != NULL) {
        const bool fits =
            name == NULL ? sscanf(line, "%lld", &number) == 1
                         : sscanf(line, "%63s %lld", word, &number) == 2 && strcmp(word, name) == 0;
        if (fits) found = number;
    }
    fclose(stream);
    return found;
}

/* What the limit of a group leaves. Nothing else is asked of one without: adding up what all groups
 * of a machine hold takes milliseconds. */
static int64_t available_in_group(const char *folder, const AvailableGroups *groups) {
    const int64_t limit = available_read(folder, groups->limit, NULL);
    if (limit < 0 || limit >= AVAILABLE_NO_LIMIT) return INT64_MAX;
    int64_t usage = available_read(folder, groups->usage, NULL);
    if (usage < 0) return INT64_MAX;
    for (size_t i = 0; i < ARRAY_LEN(groups->cached); i++)
        usage -= MAX(available_read(folder, "memory.stat", groups->cached[i]), (int64_t)0);
    return limit - MAX(usage, (int64_t)0);
}

/* What the limits of this process's group and of all above it leave. A container sees its own as
 * the root. */
static int64_t available_in_groups(const char *root, const AvailableGroups *groups) {
    char path[CGROUP_PATH_BYTES], folder[2 * CGROUP_PATH_BYTES];
    (void)cgroup_path(root, groups->key, path); /* not told: the root's */
    int64_t left = INT64_MAX;
    do {
        snprintf(folder, sizeof folder, "%s%s%s", root, groups->folder, path);
        left = MIN(left, available_in_group(folder, groups));
    } while (cgroup_up(path));
    return left;
}

int64_t available_memory(const char *root) {
    char proc[CGROUP_PATH_BYTES];
    snprintf(proc, sizeof proc, "%s/proc", root);
    const int64_t kib = available_read(proc, "meminfo", "MemAvailable:");
    const int64_t swap_kib = available_read(proc, "meminfo", "SwapFree:");
    int64_t left = kib < 0 ? INT64_MAX : (kib + MAX(swap_kib, (int64_t)0)) * 1024;
    for (size_t i = 0; i < ARRAY_LEN(AVAILABLE_GROUPS); i++)
        left = MIN(left, available_in_groups(root, &AVAILABLE_GROUPS[i]));
    return MAX(left, (int64_t)0);
}
