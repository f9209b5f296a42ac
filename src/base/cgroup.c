#include "base/cgroup.h"

#include <stdio.h>
#include <string.h>

bool cgroup_path(const char *root, const char *key, char path[CGROUP_PATH_BYTES]) {
    char line[CGROUP_PATH_BYTES];
    snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
    path[0] = '\0';
    FILE *stream = fopen(line, "re");
    if (stream == NULL) return false;
    const char *found = NULL;
    while (found == NULL && fgets(line, sizeof line, stream) != NULL) found = strstr(line, key);
    fclose(stream);
    if (found == NULL) return false;
    snprintf(path, CGROUP_PATH_BYTES, "%s", found + strlen(key) - 1);
    path[strcspn(path, "\n")] = '\0';
    return true;
}

bool cgroup_up(char *path) {
    char *slash = strrchr(path, '/');
    if (slash == NULL) return false;
    *slash = '\0';
    return true;
}
