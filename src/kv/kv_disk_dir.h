/* kv_disk_dir: the folder of a prefix cache: one file for each configuration that ever used it,
 * together not larger than a limit. Before the engine runs. */
#pragma once

#include "base/status.h"

/* An open file of the folder, locked for this process. */
typedef struct KvDiskFile {
    int fd;     /* -1: none */
    char *path; /* free with mem_free */
} KvDiskFile;

/* Whether a file could be kept in the folder: it is there and can be written, or can be made.
 * Changes nothing. */
MUST_USE Status kv_disk_dir_check(const char *dir, Err *err);
/* Opens or makes the file of the configuration with that hash; the folder is made if it is absent.
 * ERR_IO: not possible, or another process has the file. On failure too *out is to be closed and
 * freed. */
MUST_USE Status kv_disk_dir_open(KvDiskFile *out, const char *dir, uint64_t hash, Err *err);
/* Removes files of other configurations that no process has open, the least recently used first,
 * until there is room for bytes more in a folder of bytes_max. */
void kv_disk_dir_trim(const char *dir, uint64_t hash, int64_t bytes, int64_t bytes_max);
