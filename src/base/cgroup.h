/* cgroup: this process's control group, whose folder and those above it hold its limits. */
#pragma once

#include "base/base.h"

enum { CGROUP_PATH_BYTES = 4096 };

/* The group's path below its hierarchy's folder, "/a/b". key: what stands before it in
 * /proc/self/cgroup, its own '/' included: "0::/" of v2. root: "", or a folder with proc in it.
 * Where it is not told, false and "". */
bool cgroup_path(const char *root, const char *key, char path[CGROUP_PATH_BYTES]);

/* Makes a path that of the group above, "" at last; false: there is none. */
bool cgroup_up(char *path);
