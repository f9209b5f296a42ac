#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

/* Opens for reading and returns the size of what must be a regular file. */
static Status file_open_read(const char *path, int *fd, size_t *size, Err *err) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        FAIL(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open '%s': %s", path,
             strerror(errno));
    struct stat st;
    if (fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(*fd);
        FAIL(err, ERR_IO, "'%s' is not a regular file", path);
    }
    *size = (size_t)st.st_size;
    return OK;
}

Status file_map(FileMap *out, const char *path, Err *err) {
    int fd;
    size_t size;
    TRY(file_open_read(path, &fd, &size, err));
    *out = (FileMap){0};
    if (size > 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        int error = errno;
        close(fd);
        if (data == MAP_FAILED) FAIL(err, ERR_IO, "cannot map '%s': %s", path, strerror(error));
        *out = (FileMap){data, size};
    } else {
        close(fd);
    }
    return OK;
}

void file_unmap(FileMap *map) {
    if (map->data != NULL) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (FileMap){0};
}

void file_map_forget(const void *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)data;
    uintptr_t first = ALIGN_UP(from, page), end = (from + size) & ~(page - 1);
    /* Advice only: where it fails the pages stay. */
    if (first < end) (void)madvise((void *)first, end - first, MADV_DONTNEED);
}

Status file_read(Buf *buf, const char *path, size_t bytes_max, Err *err) {
    int fd;
    size_t size;
    TRY(file_open_read(path, &fd, &size, err));
    if (size > bytes_max) {
        close(fd);
        FAIL(err, ERR_LIMIT, "'%s' has %zu bytes, the limit is %zu", path, size, bytes_max);
    }
    if (!buf_reserve(buf, size)) {
        close(fd);
        FAIL(err, ERR_NOMEM, "no memory for the %zu bytes of '%s'", size, path);
    }
    size_t done = 0;
    while (done < size) {
        ssize_t n = read(fd, buf->data + buf->len, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        buf->len += (size_t)n;
        done += (size_t)n;
    }
    close(fd);
    buf->data[buf->len] = '\0';
    if (done < size) FAIL(err, ERR_IO, "'%s' ended at byte %zu of %zu", path, done, size);
    return OK;
}

bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *file_join(const char *dir, const char *name) {
    size_t dir_len = strlen(dir), name_len = strlen(name);
    char *path = mem_alloc(dir_len + name_len + 2);
    memcpy(path, dir, dir_len);
    if (dir_len > 0 && dir[dir_len - 1] != '/') path[dir_len++] = '/';
    memcpy(path + dir_len, name, name_len);
    return path;
}

Status file_writer_open(FileWriter *out, const char *path, Err *err) {
    Buf temp = {0};
    buf_append_format(&temp, "%s.%d.tmp", path, (int)getpid());
    CHECK(!temp.failed);
    FILE *stream = fopen(temp.data, "wbe");
    if (stream == NULL) {
        Status status = err_set(err, ERR_IO, "cannot write '%s': %s", temp.data, strerror(errno));
        buf_free(&temp);
        return status;
    }
    *out = (FileWriter){stream, mem_strdup(path), mem_strdup(temp.data)};
    buf_free(&temp);
    return OK;
}

void file_writer_abort(FileWriter *writer) {
    if (writer->stream != NULL) {
        fclose(writer->stream);
        unlink(writer->temp_path);
    }
    mem_free(writer->path);
    mem_free(writer->temp_path);
    *writer = (FileWriter){0};
}

Status file_writer_commit(FileWriter *writer, Err *err) {
    bool good = fflush(writer->stream) == 0 && !ferror(writer->stream) &&
                fsync(fileno(writer->stream)) == 0;
    int error = errno;
    good = fclose(writer->stream) == 0 && good;
    writer->stream = NULL;
    if (good && rename(writer->temp_path, writer->path) != 0) {
        error = errno;
        good = false;
    }
    Status status = OK;
    if (!good) {
        unlink(writer->temp_path);
        status = err_set(err, ERR_IO, "cannot write '%s': %s", writer->path, strerror(error));
    }
    file_writer_abort(writer);
    return status;
}
