/* file: reading files whole or mapped, listing folders, writing a file so that it is old or new. */
#pragma once

#include <stdio.h>

#include "base/buf.h"
#include "base/status.h"

/* A whole file in memory, read-only. */
typedef struct FileMap {
    const uint8_t *data; /* NULL when the file is empty */
    size_t size;
} FileMap;

/* Maps the file. A page that a later truncation takes away raises SIGBUS. */
MUST_USE Status file_map(FileMap *out, const char *path, Err *err);
void file_unmap(FileMap *map);
/* Takes the whole pages of bytes [data, data + size) of a map out of this process's memory, for
 * bytes that will hardly be read again; reading them brings them back from the file. */
void file_map_forget(const void *data, size_t size);

/* Reads the whole file into buf (appends); ERR_LIMIT when it is larger than bytes_max. */
MUST_USE Status file_read(Buf *buf, const char *path, size_t bytes_max, Err *err);

bool file_exists(const char *path);
bool file_is_dir(const char *path);

/* dir + "/" + name; the caller frees with mem_free. */
char *file_join(const char *dir, const char *name);

/* A file that appears under its name only when it is whole: written to a temporary beside it,
 * synced, renamed. */
typedef struct FileWriter {
    FILE *stream; /* write here */
    char *path, *temp_path;
} FileWriter;

MUST_USE Status file_writer_open(FileWriter *out, const char *path, Err *err);
/* Syncs and renames; on failure the temporary is removed and the old file, if any, is untouched. */
MUST_USE Status file_writer_commit(FileWriter *writer, Err *err);
/* Removes the temporary; harmless after a commit. */
void file_writer_abort(FileWriter *writer);
