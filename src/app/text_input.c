#include "app/text_input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Everything that comes out of a descriptor, which may be a pipe. */
static Status text_input_stream(int fd, const char *name, Buf *out, Err *err) {
    for (;;) {
        if (out->len > TEXT_INPUT_BYTES_MAX)
            FAIL(err, ERR_LIMIT, "%s has more than %d bytes", name, TEXT_INPUT_BYTES_MAX);
        if (!buf_reserve(out, 65536)) FAIL(err, ERR_NOMEM, "no memory for %s", name);
        ssize_t n = read(fd, out->data + out->len, 65536);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) FAIL(err, ERR_IO, "cannot read %s: %s", name, strerror(errno));
        if (n == 0) return OK;
        out->len += (size_t)n;
        out->data[out->len] = '\0';
    }
}

Status text_input_read(const char *text, const char *file, Buf *out, Err *err) {
    if (text != NULL) {
        buf_append_text(out, text);
        if (out->failed) FAIL(err, ERR_NOMEM, "no memory for the text");
        return OK;
    }
    if (file == NULL || strcmp(file, "-") == 0)
        return text_input_stream(STDIN_FILENO, "standard input", out, err);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        FAIL(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open '%s': %s", file,
             strerror(errno));
    Status status = text_input_stream(fd, file, out, err);
    close(fd);
    return status;
}
