#include "kv/kv_disk_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

enum { KV_DISK_DIR_NAME_BYTES = sizeof "prefix-0123456789abcdef.kv" };

static void kv_disk_dir_name(uint64_t hash, char name[KV_DISK_DIR_NAME_BYTES]) {
    snprintf(name, KV_DISK_DIR_NAME_BYTES, "prefix-%016llx.kv", (unsigned long long)hash);
}

/* Whether it is the name of some configuration's file. */
static bool kv_disk_dir_match(const char *name) {
    char again[KV_DISK_DIR_NAME_BYTES];
    if (strncmp(name, "prefix-", 7) != 0) return false;
    kv_disk_dir_name(strtoull(name + 7, NULL, 16), again);
    return strcmp(name, again) == 0;
}

static bool kv_disk_dir_can_make(const char *dir) {
    size_t len = strlen(dir);
    while (len > 1 && dir[len - 1] == '/') len--;
    while (len > 0 && dir[len - 1] != '/') len--;
    if (len == 0) return access(".", W_OK | X_OK) == 0;
    char *parent = mem_alloc(len + 1);
    memcpy(parent, dir, len);
    const bool can = access(parent, W_OK | X_OK) == 0;
    const int error = errno;
    mem_free(parent);
    errno = error;
    return can;
}

Status kv_disk_dir_check(const char *dir, Err *err) {
    struct stat st;
    if (stat(dir, &st) == 0) {
        if (!S_ISDIR(st.st_mode)) FAIL(err, ERR_IO, "'%s' is not a folder", dir);
        if (access(dir, R_OK | W_OK | X_OK) == 0) return OK;
        FAIL(err, ERR_IO, "the folder '%s' cannot be written: %s", dir, strerror(errno));
    }
    const bool can = errno == ENOENT && kv_disk_dir_can_make(dir);
    if (can) return OK;
    FAIL(err, ERR_IO, "the folder '%s' cannot be made: %s", dir, strerror(errno));
}

Status kv_disk_dir_open(KvDiskFile *out, const char *dir, uint64_t hash, Err *err) {
    *out = (KvDiskFile){.fd = -1};
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        FAIL(err, ERR_IO, "the folder '%s' cannot be made: %s", dir, strerror(errno));
    }
    char name[KV_DISK_DIR_NAME_BYTES];
    kv_disk_dir_name(hash, name);
    out->path = file_join(dir, name);
    struct stat st = {0};
    /* Whoever makes room in the folder may have removed it before it was locked. */
    while (st.st_nlink == 0) {
        if (out->fd >= 0) close(out->fd);
        out->fd = open(out->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (out->fd < 0) {
            FAIL(err, ERR_IO, "'%s' cannot be opened: %s", out->path, strerror(errno));
        }
        if (flock(out->fd, LOCK_EX | LOCK_NB) != 0) {
            FAIL(err, ERR_IO, "'%s' is in use by another process", out->path);
        }
        if (fstat(out->fd, &st) != 0) FAIL(err, ERR_IO, "'%s': %s", out->path, strerror(errno));
    }
    (void)futimens(out->fd, NULL); /* used now */
    return OK;
}

/* ---- room -------------------------------------------------------------------------------- */

typedef struct KvDiskDirOther {
    char name[KV_DISK_DIR_NAME_BYTES];
    int64_t bytes;
    struct timespec used;
} KvDiskDirOther;

static int kv_disk_dir_compare(const void *a, const void *b) {
    const KvDiskDirOther *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec) return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    if (x->used.tv_nsec != y->used.tv_nsec) return x->used.tv_nsec < y->used.tv_nsec ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Appends the other configurations' files to *others; returns their bytes. */
static int64_t kv_disk_dir_list(DIR *dir, const char *own, Buf *others) {
    int64_t bytes = 0;
    for (const struct dirent *d; (d = readdir(dir)) != NULL;) {
        struct stat st;
        if (!kv_disk_dir_match(d->d_name) || strcmp(d->d_name, own) == 0 ||
            fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            continue;
        }
        KvDiskDirOther other = {.bytes = st.st_size, .used = st.st_mtim};
        memcpy(other.name, d->d_name, sizeof other.name);
        buf_append(others, (const char *)&other, sizeof other);
        bytes += other.bytes;
    }
    return bytes;
}

/* Removes the file unless a process has it. */
static bool kv_disk_dir_remove(DIR *dir, const char *name) {
    const int fd = openat(dirfd(dir), name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
    const bool removed = flock(fd, LOCK_EX | LOCK_NB) == 0 && unlinkat(dirfd(dir), name, 0) == 0;
    close(fd);
    return removed;
}

void kv_disk_dir_trim(const char *path, uint64_t hash, int64_t bytes, int64_t bytes_max) {
    char own[KV_DISK_DIR_NAME_BYTES];
    kv_disk_dir_name(hash, own);
    DIR *dir = opendir(path);
    if (dir == NULL) return;
    Buf others = {0};
    int64_t sum = bytes + kv_disk_dir_list(dir, own, &others);
    KvDiskDirOther *other = (KvDiskDirOther *)others.data;
    const size_t n = others.failed ? 0 : others.len / sizeof *other;
    if (n > 0) qsort(other, n, sizeof *other, kv_disk_dir_compare);
    for (size_t i = 0; i < n && sum > bytes_max; i++) {
        if (!kv_disk_dir_remove(dir, other[i].name)) continue;
        log_line(LOG_INFO, "kv", "'%s/%s' is removed: the folder may have %lld bytes", path,
                 other[i].name, (long long)bytes_max);
        sum -= other[i].bytes;
    }
    if (sum > bytes_max) {
        log_line(LOG_WARN, "kv", "files in use in '%s' may grow to %lld bytes, wanted at most %lld",
                 path, (long long)sum, (long long)bytes_max);
    }
    buf_free(&others);
    closedir(dir);
}
