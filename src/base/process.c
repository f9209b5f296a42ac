#include "base/process.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* source: proc(5), fields 22 (starttime), 23 (vsize) and 24 (rss) of /proc/PID/stat. */
static void process_stat_line(ProcessStats *p) {
    char line[1024];
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL) return;
    const bool read = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    /* The program's name, in brackets, may hold anything. */
    const char *rest = read ? strrchr(line, ')') : NULL;
    unsigned long long start = 0, bytes = 0;
    long long pages = 0;
    if (rest == NULL || sscanf(rest + 1,
                               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                               "%*d %*d %*d %llu %llu %lld",
                               &start, &bytes, &pages) != 3)
        return;
    struct timespec now, up;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &up);
    const double boot_s =
        (double)(now.tv_sec - up.tv_sec) + 1e-9 * (double)(now.tv_nsec - up.tv_nsec);
    p->start_s = boot_s + (double)start / (double)sysconf(_SC_CLK_TCK);
    p->virtual_bytes = (int64_t)bytes;
    p->resident_bytes = (int64_t)pages * sysconf(_SC_PAGESIZE);
}

static int32_t process_files(void) {
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL) return 0;
    int32_t n = -3; /* ".", ".." and the folder itself */
    while (readdir(dir) != NULL) n++;
    closedir(dir);
    return n;
}

ProcessStats process_stats(void) {
    ProcessStats p = {0};
    struct rusage usage;
    struct rlimit files;
    process_stat_line(&p);
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        p.cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                  1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    p.n_files = process_files();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) p.n_files_max = (int64_t)files.rlim_cur;
    return p;
}
