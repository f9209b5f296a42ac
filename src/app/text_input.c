#include "app/text_input.h"

#include <errno.h>
#include <unistd.h>

#include "base/file.h"

static Status text_input_stdin(Buf *out, Err *err) {
    for (;;) {
        if (out->len > TEXT_INPUT_BYTES_MAX)
            FAIL(err, ERR_LIMIT, "standard input has more than %d bytes", TEXT_INPUT_BYTES_MAX);
        if (!buf_reserve(out, 65536)) FAIL(err, ERR_NOMEM, "no memory for standard input");
        ssize_t n = read(STDIN_FILENO, out->data + out->len, 65536);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) FAIL(err, ERR_IO, "cannot read standard input: %s", strerror(errno));
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
    if (file != NULL && strcmp(file, "-") != 0)
        return file_read(out, file, TEXT_INPUT_BYTES_MAX, err);
    return text_input_stdin(out, err);
}
